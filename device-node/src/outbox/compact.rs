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
        let (runs, rows) = read_runs(&store, upto)?;
        let mut written = 0;
        let mut slice = Vec::new();
        let mut slice_bytes = 0;
        for (device, runs) in runs {
            let bytes = self.fold(&store, device, &runs)?;
            slice_bytes += bytes.len();
            slice.push(Snapshot { device, upto, bytes });
            if slice_bytes >= SLICE_BYTES {
                written += slice_bytes as u64;
                slice_bytes = 0;
                let full = std::mem::take(&mut slice);
                if !self.submit(|queue| queue.snapshots.extend(full)) {
                    return Ok(None);
                }
            }
        }
        written += slice_bytes as u64;
        if !self.submit(|queue| queue.snapshots.extend(slice)) {
            return Ok(None);
        }
        for trim in slices(&rows) {
            if !self.submit(|queue| queue.trim = Some(trim)) {
                return Ok(None);
            }
        }
        Ok(Some(written))
    }

    fn fold(&self, store: &Store, device: u32, runs: &[(u64, Vec<u8>)]) -> Result<Vec<u8>, StoreError> {
        let (upto, mut state) = match store.snapshot(device)? {
            Some((upto, bytes)) => (upto, decode_state(&bytes, self.limits)?),
            None => (0, State::new(self.limits)),
        };
        for (_, run) in runs.iter().filter(|(seq, _)| *seq > upto) {
            apply_run(&mut state, run)?;
        }
        Ok(encode_state(&state)?)
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
