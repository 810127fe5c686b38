//! Which controller leads which shard.
//!
//! A coordinator turns membership into a stream of [`Leadership`] changes; the controller starts and stops its shards by
//! them and asks nothing else. Two coordinators stand behind the one trait: [`Embedded`] leads everything on one node;
//! the one over etcd shares the shards out between nodes.

mod embedded;
pub mod etcd;
pub mod ownership;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod view;

pub use embedded::Embedded;
pub use view::{Control, ControlError, Leader, Member, NodeName, NodeNameError, View, Views};

use flotilla_protocol::id::{Epoch, ShardId};

/// What this node has to do about a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leadership {
    /// Lead it under this epoch, which is above all earlier ones of this shard.
    Gained { shard: ShardId, epoch: Epoch },
    /// Finish what is committed, stop, then call [`Coordinator::released`].
    Drain { shard: ShardId },
    /// Stop at once: another node may lead already.
    Lost { shard: ShardId },
}

#[derive(Debug, thiserror::Error)]
pub enum CoordinationError {
    #[error("the highest epoch of shard {shard} is used up")]
    EpochsUsedUp { shard: ShardId },
    #[error("the coordinator has stopped")]
    Stopped,
}

/// The seam between the cluster and the shards of one node.
pub trait Coordinator: Send + 'static {
    /// The next change; pends while there is none. Cancel safe.
    fn next(&mut self) -> impl Future<Output = Result<Leadership, CoordinationError>> + Send;

    /// The node has stopped leading a shard that it was told to drain.
    fn released(&mut self, shard: ShardId) -> impl Future<Output = Result<(), CoordinationError>> + Send;
}
