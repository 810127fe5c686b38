//! The store that all simulated controllers share: the memory engine's journal and rows, called at moments that the world
//! chooses, so that latency, lost answers and outages are the world's business. Rows are written under a shard's epoch.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use flotilla_controller::domain::event::Inbound;
use flotilla_controller::domain::record::MessageRecord;
use flotilla_controller::store::memory::MemoryStore;
use flotilla_controller::store::{Batch, CommitError, Journal, Rows, StoreError};
use flotilla_protocol::id::{Epoch, ShardId};

/// Large enough for everything at once.
const READ_BYTES: usize = 1 << 30;

pub(super) struct Store {
    memory: MemoryStore,
    /// Epochs and sequences are not looked at: a deliberate bug.
    pub careless: bool,
}

/// A store in memory answers at once.
pub(super) fn ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a store in memory does not let wait"),
    }
}

impl Store {
    pub(super) fn new(shards: u16, careless: bool) -> Self {
        Self { memory: MemoryStore::new(shards), careless }
    }

    pub(super) fn rows(&self) -> Arc<dyn Rows> {
        Arc::new(self.memory.clone())
    }

    pub(super) fn shards(&self) -> u16 {
        self.memory.shards()
    }

    pub(super) fn take(&self, shard: ShardId, epoch: Epoch) -> Result<u64, CommitError> {
        ready(self.memory.take(shard, epoch))
    }

    /// The batch as it was written.
    pub(super) fn append(&self, mut batch: Batch) -> Result<Batch, CommitError> {
        if self.careless {
            batch.epoch = self.epoch(batch.shard);
            batch.seq = self.last(batch.shard) + 1;
        }
        ready(self.memory.commit(batch.clone()))?;
        Ok(batch)
    }

    /// The batch in this place of the journal.
    pub(super) fn batch(&self, shard: ShardId, seq: u64) -> Option<Batch> {
        ready(self.memory.read(shard, seq - 1, 1)).ok()?.into_iter().next()
    }

    pub(super) fn read(&self, shard: ShardId, after: u64) -> Result<Vec<Batch>, StoreError> {
        ready(self.memory.read(shard, after, READ_BYTES))
    }

    pub(super) fn last(&self, shard: ShardId) -> u64 {
        ready(self.memory.last(shard)).unwrap_or_default()
    }

    /// Every row as it is now.
    pub(super) fn scan(&self) -> (Vec<MessageRecord>, Vec<Inbound>) {
        let mut scan = ready(self.memory.scan(None)).expect("it is up");
        let messages = ready(scan.messages(usize::MAX)).expect("it is up");
        (messages, ready(scan.inbound(usize::MAX)).expect("it is up"))
    }

    pub(super) fn epoch(&self, shard: ShardId) -> Epoch {
        ready(self.memory.epochs()).map(|epochs| epochs[usize::from(shard.0)]).unwrap_or_default()
    }
}
