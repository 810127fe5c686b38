//! The one thread that writes: while a commit is on its way to the disk, the next one collects.
//!
//! A full disk is waited out: nothing is answered, nothing is lost, and new work is refused meanwhile. Any other
//! failure ends the outbox, and with it the process: what the disk holds is then no longer known.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use flotilla_protocol::id::DeviceId;
use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use super::store::{Snapshot, Store, Transaction};

const FULL_RETRY: Duration = Duration::from_millis(500);
const SPACE_CHECK: Duration = Duration::from_secs(1);

/// What the outbox's threads and handles share.
pub(super) struct Shared {
    pub queue: Mutex<Queue>,
    pub wake: Condvar,
    /// Too little space for new work; results still have room.
    pub full: AtomicBool,
    pub free_bytes: AtomicU64,
    pub commits: AtomicU64,
}

#[derive(Default)]
pub(super) struct Queue {
    pub devices: Vec<(u32, DeviceId)>,
    pub row: Vec<u8>,
    pub snapshots: Vec<Snapshot>,
    pub trim: Option<u64>,
    pub waiters: Vec<oneshot::Sender<Result<(), OutboxDown>>>,
    pub closing: bool,
    pub failed: Option<OutboxDown>,
}

/// The outbox has ended. Nothing that was not confirmed may be relied on.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the outbox has stopped: {0}")]
pub struct OutboxDown(pub Arc<str>);

impl Queue {
    fn is_empty(&self) -> bool {
        self.waiters.is_empty() && self.row.is_empty() && self.devices.is_empty()
    }
}

pub(super) struct Writer {
    pub store: Store,
    pub shared: Arc<Shared>,
    pub folder: PathBuf,
    pub reserve_bytes: u64,
    pub seq: u64,
    pub log_bytes: u64,
    /// Asks for a compaction up to a sequence; dropped at the end, which ends the compactor.
    pub compact: mpsc::SyncSender<u64>,
    pub log_bytes_max: Arc<AtomicU64>,
}

impl Writer {
    pub(super) fn run(mut self) {
        let mut checked = None;
        loop {
            if checked.is_none_or(|at: Instant| at.elapsed() >= SPACE_CHECK) {
                self.check_space();
                checked = Some(Instant::now());
            }
            let Some(batch) = self.next_batch() else { return };
            let waiters = batch.waiters;
            let trimmed = batch.trim.is_some();
            let transaction = Transaction {
                devices: batch.devices,
                row: (!batch.row.is_empty()).then(|| (self.seq + 1, batch.row)),
                snapshots: batch.snapshots,
                trim: batch.trim,
            };
            let done = self.commit(&transaction);
            if done.is_ok() {
                self.account(transaction.row.as_ref(), trimmed);
            }
            for waiter in waiters {
                drop(waiter.send(done.clone()));
            }
            if done.is_err() {
                return;
            }
        }
    }

    fn next_batch(&self) -> Option<Queue> {
        let mut queue = self.shared.queue.lock();
        while queue.is_empty() && !queue.closing {
            self.shared.wake.wait(&mut queue);
        }
        if queue.is_empty() {
            return None;
        }
        let closing = queue.closing;
        Some(std::mem::replace(&mut *queue, Queue { closing, ..Queue::default() }))
    }

    /// Tries until it is durable, or until it can not be.
    fn commit(&mut self, transaction: &Transaction) -> Result<(), OutboxDown> {
        loop {
            let error = match self.store.commit(transaction) {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            let mut queue = self.shared.queue.lock();
            if error.is_full() && !queue.closing {
                if !self.shared.full.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "disk full: waiting for space, refusing new work");
                }
                self.shared.wake.wait_for(&mut queue, FULL_RETRY);
                continue;
            }
            tracing::error!(%error, "the outbox can not be written");
            let down = OutboxDown(error.to_string().into());
            queue.failed = Some(down.clone());
            for waiter in queue.waiters.drain(..) {
                drop(waiter.send(Err(down.clone())));
            }
            return Err(down);
        }
    }

    fn account(&mut self, row: Option<&(u64, Vec<u8>)>, trimmed: bool) {
        self.shared.commits.fetch_add(1, Ordering::Relaxed);
        if let Some((seq, bytes)) = row {
            self.seq = *seq;
            self.log_bytes += bytes.len() as u64;
        }
        // A compaction in progress has the channel's only place taken, so this asks once.
        if !trimmed
            && self.log_bytes > self.log_bytes_max.load(Ordering::Relaxed)
            && self.compact.try_send(self.seq).is_ok()
        {
            self.log_bytes = 0;
        }
    }

    fn check_space(&self) {
        let Ok(stat) = rustix::fs::statvfs(&self.folder) else { return };
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        self.shared.free_bytes.store(free, Ordering::Relaxed);
        let full = free < self.reserve_bytes;
        if self.shared.full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::error!(free_bytes = free, "little disk space left: refusing new work");
            } else {
                tracing::info!(free_bytes = free, "disk space is back");
            }
        }
    }
}
