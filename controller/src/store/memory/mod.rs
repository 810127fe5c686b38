//! Journal and rows in memory, with faults on demand: for the tests of what stands on a store, and for simulations under
//! paused time, where an engine with threads of its own cannot be.
//!
//! What is written survives the things that use it, as a disk does; who drops every clone loses it. Queries look at every row.

mod rows;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::tail::Tail;
use super::{Batch, CommitError, Feed, Journal, StoreError};
use rows::RowSet;

/// Taken as the size of an event where sizes bound something.
const EVENT_BYTES: usize = 300;

/// What shall happen to a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is written.
    Unavailable,
    Full,
    /// The outcome is not told: written, or not.
    UnknownWritten,
    UnknownLost,
    /// Another leader takes the shard just before.
    Fenced,
}

/// Cheap to clone: all clones are the same store.
#[derive(Clone)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

struct Shared {
    journal: Mutex<Vec<ShardJournal>>,
    rows: Mutex<RowSet>,
    faults: Mutex<VecDeque<Fault>>,
    /// Nothing answers but with errors.
    down: watch::Sender<bool>,
    /// Commits wait.
    held: watch::Sender<bool>,
    tail: Arc<Tail>,
}

#[derive(Default)]
struct ShardJournal {
    epoch: Epoch,
    trimmed: u64,
    batches: VecDeque<Batch>,
}

impl ShardJournal {
    fn last(&self) -> u64 {
        self.trimmed + self.batches.len() as u64
    }
}

impl MemoryStore {
    pub fn new(shards: u16) -> Self {
        let journal = (0..shards).map(|_| ShardJournal::default()).collect();
        let shared = Shared {
            journal: Mutex::new(journal),
            rows: Mutex::new(RowSet::new(shards)),
            faults: Mutex::default(),
            down: watch::Sender::new(false),
            held: watch::Sender::new(false),
            tail: Tail::new(&vec![0; usize::from(shards)], 0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The next commit, of whatever shard, meets this fault. Several are met in their order.
    pub fn fail_next(&self, fault: Fault) {
        self.shared.faults.lock().push_back(fault);
    }

    pub fn set_down(&self, down: bool) {
        self.shared.down.send_replace(down);
    }

    /// Lets commits wait until they are let go.
    pub fn hold_commits(&self, held: bool) {
        self.shared.held.send_replace(held);
    }

    /// How many batches of a shard are durable.
    pub fn committed(&self, shard: ShardId) -> u64 {
        self.shared.journal.lock().get(usize::from(shard.0)).map_or(0, ShardJournal::last)
    }

    fn check(&self) -> Result<(), StoreError> {
        if *self.shared.down.borrow() { Err(StoreError::Unavailable("it is down".into())) } else { Ok(()) }
    }

    fn with_shard<T>(
        &self,
        shard: ShardId,
        then: impl FnOnce(&mut ShardJournal) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.check()?;
        let mut journal = self.shared.journal.lock();
        then(journal.get_mut(usize::from(shard.0)).ok_or(StoreError::NoSuchShard { shard })?)
    }

    fn append(&self, batch: Batch) -> Result<(), CommitError> {
        if self.check().is_err() {
            return Err(CommitError::Unavailable("it is down".into()));
        }
        let fault = self.shared.faults.lock().pop_front();
        let mut journal = self.shared.journal.lock();
        let shard = batch.shard;
        let Some(one) = journal.get_mut(usize::from(shard.0)) else {
            return Err(CommitError::Unavailable(format!("there is no shard {shard}")));
        };
        match fault {
            Some(Fault::Unavailable) => return Err(CommitError::Unavailable("on demand".into())),
            Some(Fault::Full) => return Err(CommitError::Full),
            Some(Fault::UnknownLost) => return Err(CommitError::Unknown("on demand".into())),
            Some(Fault::Fenced) => one.epoch = Epoch(one.epoch.0 + 1),
            Some(Fault::UnknownWritten) | None => {}
        }
        if batch.epoch != one.epoch || batch.epoch == Epoch(0) {
            return Err(CommitError::Fenced { shard, epoch: one.epoch });
        }
        let expected = one.last() + 1;
        if batch.seq != expected {
            return Err(CommitError::OutOfOrder { shard, expected });
        }
        let bytes = EVENT_BYTES * batch.events.len();
        one.batches.push_back(batch.clone());
        drop(journal);
        self.shared.tail.publish([(batch, bytes)]);
        if fault == Some(Fault::UnknownWritten) {
            return Err(CommitError::Unknown("on demand".into()));
        }
        Ok(())
    }
}

impl Journal for MemoryStore {
    fn shards(&self) -> u16 {
        self.shared.journal.lock().len() as u16
    }

    fn epochs(&self) -> BoxFuture<'_, Result<Vec<Epoch>, StoreError>> {
        let epochs = || self.shared.journal.lock().iter().map(|shard| shard.epoch).collect();
        ready(self.check().map(|()| epochs())).boxed()
    }

    fn take(&self, shard: ShardId, epoch: Epoch) -> BoxFuture<'_, Result<u64, CommitError>> {
        let taken = self.with_shard(shard, |one| {
            if one.epoch > epoch {
                return Ok(Err(CommitError::Fenced { shard, epoch: one.epoch }));
            }
            one.epoch = epoch;
            Ok(Ok(one.last()))
        });
        ready(taken.unwrap_or_else(|error| Err(CommitError::Unavailable(error.to_string())))).boxed()
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), CommitError>> {
        let store = self.clone();
        async move {
            // The sender lives in `store`, so the wait cannot fail.
            let _ = store.shared.held.subscribe().wait_for(|held| !held).await;
            store.append(batch)
        }
        .boxed()
    }

    fn read(&self, shard: ShardId, after_seq: u64, bytes_max: usize) -> BoxFuture<'_, Result<Vec<Batch>, StoreError>> {
        let read = self.with_shard(shard, |one| {
            if after_seq < one.trimmed {
                return Err(StoreError::Trimmed { shard, up_to: one.trimmed });
            }
            let mut room = bytes_max;
            let mut found: Vec<Batch> = Vec::new();
            for batch in one.batches.iter().skip((after_seq - one.trimmed) as usize) {
                let bytes = EVENT_BYTES * batch.events.len();
                if !found.is_empty() && bytes > room {
                    break;
                }
                room = room.saturating_sub(bytes);
                found.push(batch.clone());
            }
            Ok(found)
        });
        ready(read).boxed()
    }

    fn last(&self, shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>> {
        ready(self.with_shard(shard, |one| Ok(one.last()))).boxed()
    }

    fn trim(&self, shard: ShardId, up_to_seq: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let trimmed = self.with_shard(shard, |one| {
            while one.trimmed < up_to_seq && one.batches.pop_front().is_some() {
                one.trimmed += 1;
            }
            Ok(())
        });
        ready(trimmed).boxed()
    }

    fn feed(&self) -> Feed {
        self.shared.tail.feed()
    }
}
