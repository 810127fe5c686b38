//! Followers: what is derived from the journal (rows, aggregates, live events), each at its own pace and with its own
//! position. The journal is trimmed behind the slowest of those that keep something.

pub mod aggregates;
mod driver;
pub mod live;
mod recent;
mod rows;
#[cfg(test)]
pub(crate) mod testing;
mod trim;

pub use driver::{FollowHandle, FollowOptions, Lag, follow};
pub use rows::{RowsFollower, RowsReader};
pub use trim::trim_behind;

use flotilla_protocol::id::ShardId;

use crate::store::{Batch, StoreError};

/// Takes the batches of every shard, each shard's in order and each once: a batch at or below [`Follower::position`] is never
/// given again. What it keeps must carry the positions with it, so that after a crash it goes on exactly where it was.
pub trait Follower: Send + 'static {
    fn name(&self) -> &'static str;

    /// The last sequence of a shard that was taken.
    fn position(&self, shard: ShardId) -> u64;

    /// Takes the whole batch, or on an error nothing of it: it is then given again, after a while.
    fn apply(&mut self, batch: &Batch) -> impl Future<Output = Result<(), FollowError>> + Send;

    /// It holds as much in memory as it may: flush before the next batch.
    fn full(&self) -> bool {
        false
    }

    /// Makes what was taken visible to queries.
    fn flush(&mut self) -> impl Future<Output = Result<(), FollowError>> + Send;

    /// Makes what was flushed survive a power cut. Until then the journal keeps it.
    fn sync(&mut self) -> impl Future<Output = Result<(), FollowError>> + Send;

    /// The journal has lost the batches up to this sequence (this follower's own data were deleted, or are older than the
    /// journal's): take them from elsewhere, or go on without. Afterwards `position` is at least `up_to`.
    fn missed(&mut self, shard: ShardId, up_to: u64) -> impl Future<Output = Result<(), FollowError>> + Send;
}

#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("{0}")]
    Own(String),
}
