//! Followers: what is derived from the journal (rows, aggregates, ledgers, live events), each at its own pace and with its own
//! position, for the shards that this node leads. The journal is trimmed behind the slowest of those that keep something.
//!
//! Shards come and go (docs/adr/0010). [`Followers`] tells all followers of it: a shard is followed from the moment that its
//! journal is taken, from where the stored data are, which another node may have written; it is given up at once when it
//! is lost, and after a last flush when it is handed over.

pub mod aggregates;
mod driver;
mod group;
mod handle;
mod ledger;
pub mod live;
mod recent;
mod rows;
#[cfg(test)]
pub(crate) mod testing;
mod trim;

pub use driver::{FollowOptions, follow};
pub use group::{Followers, Leads};
pub use handle::{FollowHandle, Lag};
pub use ledger::{LedgerFollower, LedgerReader};
pub use rows::{RowsFollower, RowsReader};
pub use trim::trim_behind;

use flotilla_protocol::id::{Epoch, ShardId};
use tokio::time::Instant;

use crate::store::{Batch, StoreError};

/// Takes the batches of the led shards, each shard's in order and each once: a batch at or below [`Follower::position`] is
/// never given again. What it keeps must carry the positions with it, so that after a crash it goes on exactly where it was.
pub trait Follower: Send + 'static {
    fn name(&self) -> &'static str;

    /// The last sequence of a led shard that was taken.
    fn position(&self, shard: ShardId) -> u64;

    /// This node leads these shards now, under these epochs; nobody else commits to them any more. Afterwards `position` is
    /// where the stored data are. After an error it is called again, for these and perhaps others.
    fn gained(&mut self, shards: &[(ShardId, Epoch)]) -> impl Future<Output = Result<(), FollowError>> + Send;

    /// This node does not lead the shard any more: what is in memory of it and not written is another node's to write.
    fn lost(&mut self, shard: ShardId);

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

    /// Up to where a shard's data survive the loss of this node, when everything up to `synced` is flushed and synced. The
    /// journal is trimmed behind it.
    fn safe(&self, _shard: ShardId, synced: u64) -> u64 {
        synced
    }

    /// Work of its own, a bounded piece of it. True while there is more.
    fn step(&mut self) -> impl Future<Output = Result<bool, FollowError>> + Send {
        async { std::future::ready(Ok(false)).await }
    }

    /// When `step` has something to do again, if that is only a matter of time.
    fn step_at(&self) -> Option<Instant> {
        None
    }

    /// The last act before other nodes lead these shards: everything of them is taken, flushed and synced.
    fn hand_over(&mut self, _shards: &[ShardId]) -> impl Future<Output = Result<(), FollowError>> + Send {
        async { std::future::ready(Ok(())).await }
    }

    /// The program ends: everything is taken, flushed and synced.
    fn end(&mut self) -> impl Future<Output = Result<(), FollowError>> + Send {
        async { std::future::ready(Ok(())).await }
    }

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
