//! The journal: what the shards decided, durable, in order. The truth that everything else follows.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::BoxFuture;

use super::{Feed, StoreError};
use crate::domain::event::Event;

/// What one commit of one shard appends.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub shard: ShardId,
    /// The leadership under which it was decided.
    pub epoch: Epoch,
    /// 1, 2, 3... for each shard, without a gap, across all epochs.
    pub seq: u64,
    pub events: Arc<[Event]>,
}

/// An encoded batch is at most this large. A shard that stops collecting at 16k events stays far below.
pub const BATCH_BYTES_MAX: usize = 64 << 20;

pub trait Journal: Send + Sync + 'static {
    /// How many shards there are. Fixed when the store is created.
    fn shards(&self) -> u16;

    /// The highest epoch that ever took each shard, shard 0 first.
    fn epochs(&self) -> BoxFuture<'_, Result<Vec<Epoch>, StoreError>>;

    /// Takes a shard: from now on every lower epoch is fenced. Answers the last committed sequence, 0 for none.
    /// Taking again with the same epoch changes nothing, so a call with an unknown outcome may be repeated. When it returns,
    /// `last`, `feed` and `read` know everything that other nodes have committed to the shard before.
    fn take(&self, shard: ShardId, epoch: Epoch) -> BoxFuture<'_, Result<u64, CommitError>>;

    /// Appends a batch; durable when it returns Ok. Calls of different shards share one transaction and one device flush.
    /// A shard has one commit at a time under way: a second one before the first returns is out of order.
    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), CommitError>>;

    /// The batches after a sequence, in order, until their encoded size passes `bytes_max`: at least one when there is one.
    /// [`StoreError::Trimmed`] when the next one is gone.
    fn read(&self, shard: ShardId, after_seq: u64, bytes_max: usize) -> BoxFuture<'_, Result<Vec<Batch>, StoreError>>;

    /// The last committed sequence, 0 for none.
    fn last(&self, shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Nobody needs the batches up to this sequence any more. The engine keeps a window of the youngest all the same, and
    /// deletes the others little by little.
    fn trim(&self, shard: ShardId, up_to_seq: u64) -> BoxFuture<'_, Result<(), StoreError>>;

    /// Wakes whoever follows, and knows how far each shard is.
    fn feed(&self) -> Feed;
}

/// Why a batch was not committed. Only [`CommitError::Unknown`] leaves open whether it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// Another leader has the shard: step down.
    #[error("shard {shard} is taken by epoch {epoch}")]
    Fenced { shard: ShardId, epoch: Epoch },
    #[error("shard {shard} expects sequence {expected} next")]
    OutOfOrder { shard: ShardId, expected: u64 },
    /// The engine failed at the point of no return. Ask [`Journal::read`] until it answers, and [`outcome_of`] what that says.
    /// Nothing may be released before.
    #[error("it is not known whether the batch was committed: {0}")]
    Unknown(String),
    /// Nothing was written. Commits work again as soon as there is space.
    #[error("the disk of the data folder is full; free some space")]
    Full,
    /// Nothing was written.
    #[error("the journal is not available: {0}")]
    Unavailable(String),
    /// Nothing was written, and never will be.
    #[error("a batch of {bytes} bytes is over the limit of {BATCH_BYTES_MAX}")]
    TooLarge { bytes: usize },
}

/// How a batch of unknown outcome ended, by what the journal has in its place: it is durable exactly when that is this batch.
/// Its epoch and sequence are not enough: the shard may have started again under the same epoch after an earlier batch whose
/// outcome was unknown, and that one may have arrived late.
pub fn outcome_of(asked: &Batch, found: Option<&Batch>, why: String) -> Result<(), CommitError> {
    let shard = asked.shard;
    match found {
        Some(found) if found == asked => Ok(()),
        Some(found) if found.seq != asked.seq => Err(CommitError::Unknown(why)),
        Some(found) if found.epoch > asked.epoch => Err(CommitError::Fenced { shard, epoch: found.epoch }),
        Some(_) => Err(CommitError::OutOfOrder { shard, expected: asked.seq + 1 }),
        // It may be on its way still, so nobody is told that it will not come.
        None => Err(CommitError::Unknown(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::{Change, Changed, EventKind, Facts};
    use crate::domain::message::Priority;
    use flotilla_protocol::id::{MessageId, TenantId};

    fn batch(epoch: u64, seq: u64, at_ms: u64) -> Batch {
        let (priority, campaign) = (Priority::Normal, "".into());
        let facts = Facts { accepted_ms: 1, segments: 1, priority, region: None, campaign, callback: 0 };
        let (message, tenant) = (MessageId::from_bytes([1; 16]), TenantId::from_bytes([1; 16]));
        let kind = EventKind::Changed(Changed { message, tenant, facts, change: Change::Cancelled, charge: None });
        Batch { shard: ShardId(1), epoch: Epoch(epoch), seq, events: [Event { at_ms, kind }].into() }
    }

    #[test]
    fn only_the_batch_itself_counts() {
        let asked = batch(7, 3, 100);
        let judge = |found: Option<Batch>| outcome_of(&asked, found.as_ref(), "x".into());
        assert_eq!(judge(Some(batch(7, 3, 100))), Ok(()));
        assert_eq!(judge(None), Err(CommitError::Unknown("x".into())));
        assert_eq!(judge(Some(batch(7, 5, 100))), Err(CommitError::Unknown("x".into())), "its place is trimmed");
        assert_eq!(judge(Some(batch(9, 3, 100))), Err(CommitError::Fenced { shard: ShardId(1), epoch: Epoch(9) }));
        let late = judge(Some(batch(7, 3, 99)));
        assert_eq!(late, Err(CommitError::OutOfOrder { shard: ShardId(1), expected: 4 }), "of an earlier run");
    }
}
