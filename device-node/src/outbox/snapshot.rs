//! The disk form of a device's state, and of a run of its records.

use std::collections::VecDeque;

use flotilla_protocol::id::Epoch;
use flotilla_protocol::wire::{Attempt, Report};
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};

use super::record::{Record, VERSION};
use super::state::{Awaiting, Limits, Open, Outcome, State};

/// Why stored bytes are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormError {
    #[error("written by a newer version ({0}): update this program")]
    Version(u8),
    #[error("damaged")]
    Damaged,
}

#[derive(Serialize, Deserialize)]
struct SnapshotV1 {
    epoch_seen: Epoch,
    controllers: Vec<String>,
    next_position: u64,
    arrivals: u64,
    open: Vec<Open>,
    reports: VecDeque<Report>,
    finished: Vec<(Attempt, Outcome)>,
    awaiting: VecDeque<Awaiting>,
    inbound_seen: VecDeque<u64>,
}

/// The state as bytes, its version first.
pub(super) fn encode_state(state: &State) -> Result<Vec<u8>, FormError> {
    let snapshot = SnapshotV1 {
        epoch_seen: state.epoch_seen,
        controllers: state.controllers.clone(),
        next_position: state.next_position,
        arrivals: state.arrivals,
        open: state.open_attempts().into_iter().cloned().collect(),
        reports: state.reports.clone(),
        finished: state.finished.iter().collect(),
        awaiting: state.awaiting.clone(),
        inbound_seen: state.inbound_seen.clone(),
    };
    postcard::to_extend(&snapshot, vec![VERSION]).map_err(|_| FormError::Damaged)
}

pub(super) fn decode_state(bytes: &[u8], limits: Limits) -> Result<State, FormError> {
    let snapshot: SnapshotV1 = postcard::from_bytes(versioned(bytes)?).map_err(|_| FormError::Damaged)?;
    let mut state = State::new(limits);
    state.epoch_seen = snapshot.epoch_seen;
    state.controllers = snapshot.controllers;
    state.next_position = snapshot.next_position;
    state.arrivals = snapshot.arrivals;
    state.open = snapshot.open.into_iter().map(|open| (open.job.attempt, open)).collect();
    state.reports = snapshot.reports;
    state.restore_finished(snapshot.finished);
    state.awaiting = snapshot.awaiting;
    state.inbound_seen = snapshot.inbound_seen;
    if state.reports.len() as u64 >= state.next_position {
        return Err(FormError::Damaged);
    }
    Ok(state)
}

/// Appends `device, length, records` to a log row that begins with the version.
pub(super) fn encode_records(device: u32, records: &[Record], row: &mut Vec<u8>) -> Result<(), FormError> {
    if row.is_empty() {
        row.push(VERSION);
    }
    let start = row.len();
    row.extend_from_slice(&device.to_le_bytes());
    row.extend_from_slice(&0u32.to_le_bytes());
    for record in records {
        if postcard::serialize_with_flavor(record, Tail(row)).is_err() {
            row.truncate(start);
            return Err(FormError::Damaged);
        }
    }
    let length = (row.len() - start - HEAD_BYTES) as u32;
    row[start + 4..start + HEAD_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

const HEAD_BYTES: usize = 8;

/// Calls `each` with every device's run of records in a log row.
pub(super) fn decode_row<E: From<FormError>>(
    row: &[u8],
    mut each: impl FnMut(u32, &[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut rest = versioned(row)?;
    while !rest.is_empty() {
        let (head, tail) = rest.split_first_chunk::<HEAD_BYTES>().ok_or(FormError::Damaged)?;
        let device = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let (run, next) = tail.split_at_checked(length).ok_or(FormError::Damaged)?;
        each(device, run)?;
        rest = next;
    }
    Ok(())
}

/// Applies a run of records to its device's state.
pub(super) fn apply_run(state: &mut State, mut run: &[u8]) -> Result<(), FormError> {
    while !run.is_empty() {
        let (record, rest) = postcard::take_from_bytes::<Record>(run).map_err(|_| FormError::Damaged)?;
        state.apply(&record);
        run = rest;
    }
    Ok(())
}

fn versioned(bytes: &[u8]) -> Result<&[u8], FormError> {
    match bytes.split_first() {
        Some((&VERSION, rest)) => Ok(rest),
        Some((version, _)) if *version > VERSION => Err(FormError::Version(*version)),
        _ => Err(FormError::Damaged),
    }
}

/// A vector as the sink postcard wants, so that records of a batch are written one behind the other without copies.
struct Tail<'a>(&'a mut Vec<u8>);

impl Flavor for Tail<'_> {
    type Output = ();

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.push(byte);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}
