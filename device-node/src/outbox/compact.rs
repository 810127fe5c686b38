//! The thread that folds the log's beginning into snapshots, slice by slice, so that commits never wait for it.
//!
//! A crash anywhere leaves a state that loads: a snapshot says up to which row it holds, and rows are dropped only when
//! every device in them has a snapshot that includes them.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;

use rustc_hash::FxHashMap;
use tokio::sync::oneshot;

use super::snapshot::{apply_run, decode_row, decode_state, encode_state};
use super::state::{Limits, State};
use super::store::{Snapshot, Store, StoreError};
use super::writer::{Queue, Shared};

/// Bytes of snapshots, or of dropped rows, that one transaction takes in.
const SLICE_BYTES: usize = 1 << 20;

pub(super) struct Compactor {
    pub path: PathBuf,
    pub shared: Arc<Shared>,
    pub limits: Limits,
    pub log_bytes_max: Arc<AtomicU64>,
    pub log_bytes_floor: u64,
    pub asked: mpsc::Receiver<u64>,
}

impl Compactor {
    pub(super) fn run(self) {
        while let Ok(upto) = self.asked.recv() {
            match self.compact(upto) {
                Ok(Some(bytes)) => {
                    // The log may grow to twice what a compaction rewrites: each byte is then rewritten at most half a time.
                    self.log_bytes_max.store(self.log_bytes_floor.max(2 * bytes), Ordering::Relaxed);
                }
                Ok(None) => return,
                Err(error) => tracing::warn!(%error, "compaction failed; the log grows until the next one"),
            }
        }
    }

    /// The bytes written, or `None` when the outbox has ended.
    fn compact(&self, upto: u64) -> Result<Option<u64>, StoreError> {
        let store = Store::open_reader(&self.path)?;
        compact(&store, upto, self.limits, |step| {
            Ok(self.submit(|queue| match step {
                Step::Snapshots(snapshots) => queue.snapshots.extend(snapshots),
                Step::Trim(seq) => queue.trim = Some(seq),
            }))
        })
    }

    /// Waits until the writer has made it durable.
    fn submit(&self, fill: impl FnOnce(&mut Queue)) -> bool {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.shared.queue.lock();
        if queue.failed.is_some() || queue.closing {
            return false;
        }
        fill(&mut queue);
        queue.waiters.push(sender);
        drop(queue);
        self.shared.wake.notify_one();
        matches!(receiver.blocking_recv(), Ok(Ok(())))
    }
}

/// One transaction of a compaction.
pub(super) enum Step {
    Snapshots(Vec<Snapshot>),
    Trim(u64),
}

/// Folds all rows up to `upto` into snapshots and drops them. Each step is durable when `submit` says true; false ends it.
pub(super) fn compact(
    store: &Store,
    upto: u64,
    limits: Limits,
    mut submit: impl FnMut(Step) -> Result<bool, StoreError>,
) -> Result<Option<u64>, StoreError> {
    let (runs, rows) = read_runs(store, upto)?;
    let (mut written, mut slice, mut slice_bytes) = (0, Vec::new(), 0);
    let last = runs.len().saturating_sub(1);
    for (index, (device, runs)) in runs.into_iter().enumerate() {
        let bytes = fold(store, device, &runs, limits)?;
        slice_bytes += bytes.len();
        written += bytes.len() as u64;
        slice.push(Snapshot { device, upto, bytes });
        if slice_bytes >= SLICE_BYTES || index == last {
            slice_bytes = 0;
            if !submit(Step::Snapshots(std::mem::take(&mut slice)))? {
                return Ok(None);
            }
        }
    }
    for seq in slices(&rows) {
        if !submit(Step::Trim(seq))? {
            return Ok(None);
        }
    }
    Ok(Some(written))
}

fn fold(store: &Store, device: u32, runs: &[(u64, Vec<u8>)], limits: Limits) -> Result<Vec<u8>, StoreError> {
    let (upto, mut state) = match store.snapshot(device)? {
        Some((upto, bytes)) => (upto, decode_state(&bytes, limits)?),
        None => (0, State::new(limits)),
    };
    for (_, run) in runs.iter().filter(|(seq, _)| *seq > upto) {
        apply_run(&mut state, run)?;
    }
    Ok(encode_state(&state)?)
}

type Runs = FxHashMap<u32, Vec<(u64, Vec<u8>)>>;

/// What the log says of each device, and the rows with their sizes.
fn read_runs(store: &Store, upto: u64) -> Result<(Runs, Vec<(u64, usize)>), StoreError> {
    let mut runs = Runs::default();
    let mut rows = Vec::new();
    store.each_row(upto, |seq, bytes| {
        rows.push((seq, bytes.len()));
        decode_row(bytes, |device, run| {
            runs.entry(device).or_default().push((seq, run.to_vec()));
            Ok::<_, StoreError>(())
        })
    })?;
    Ok((runs, rows))
}

/// Sequences up to which rows are dropped, about a slice at a time.
fn slices(rows: &[(u64, usize)]) -> Vec<u64> {
    let mut ends = Vec::new();
    let mut bytes = 0;
    for (index, (seq, size)) in rows.iter().enumerate() {
        bytes += size;
        if bytes >= SLICE_BYTES || index + 1 == rows.len() {
            ends.push(*seq);
            bytes = 0;
        }
    }
    ends
}
