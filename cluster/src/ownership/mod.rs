//! Who leads which shard, as a pure machine: no IO, no clock, no randomness.
//!
//! A node feeds it what it reads in the shared store (members, leader keys, pins) and what becomes of its own lease and
//! campaigns; it answers with what to do. Times are one node's monotonic milliseconds and are never compared between
//! nodes. What it relies on:
//!
//! - The store lets a leader key exist once, under its owner's lease, and removes it no sooner than the lease's time after
//!   the last renewal *arrived*, so no sooner than that time after it was *sent*. The machine takes a safety margin off
//!   for clocks that run at different speeds, and gives everything up at that instant, whatever the store says later.
//! - Epochs grow with every new leader key, so that a leader who does not hear of its end in time is fenced by its stores.
//!
//! How it chooses: rendezvous hashing over the members that are settled and not draining, an operator's pin first. A shard
//! without a leader is campaigned for at once by whoever should lead it, and after some patience by the next in order, so
//! that it is led while any node works. A shard that is led stays where it is until its leader hands it over: a few at once.

mod machine;
mod plan;
mod roster;
mod shard;
#[cfg(test)]
mod tests;
mod weight;

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};

use crate::{Leadership, NodeName};

pub use machine::Ownership;
pub use weight::weight;

/// A lease as the store numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The same for all nodes of a cluster.
    pub shards: u16,
    /// A tenth of the lease's time, and no less than this, is kept between this node's giving up and its lease's end.
    pub margin_min_ms: u64,
    /// Planned hand-overs that may be under way at once.
    pub moves_at_once: usize,
    /// How long a member has to be there before shards move to it. Doubles with each return of one that comes and goes.
    pub settle_ms: u64,
    pub hold_down_max_ms: u64,
    /// After so long without a disturbance a member's history is forgotten.
    pub calm_ms: u64,
    /// How long each node in a leaderless shard's order gets before the next one tries too.
    pub patience_ms: u64,
    /// A shard that has not stopped so long after it was told to is given up without its consent.
    pub drain_max_ms: u64,
    /// The pause after a failed campaign, and after a shard that stopped by itself; doubles up to the second.
    pub retry_min_ms: u64,
    pub retry_max_ms: u64,
}

impl Settings {
    pub fn new(shards: u16) -> Self {
        Self {
            shards,
            margin_min_ms: 200,
            moves_at_once: 4,
            settle_ms: 2_000,
            hold_down_max_ms: 300_000,
            calm_ms: 600_000,
            patience_ms: 1_000,
            drain_max_ms: 10_000,
            retry_min_ms: 100,
            retry_max_ms: 5_000,
        }
    }

    fn margin_ms(&self, ttl_ms: u64) -> u64 {
        self.margin_min_ms.max(ttl_ms / 10)
    }
}

/// A live member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: NodeName,
    pub draining: bool,
    /// The store's revision at which its present stay began; another one means that it was away in between.
    pub joined: u64,
}

/// A leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub node: NodeName,
    pub lease: LeaseId,
    pub epoch: Epoch,
}

/// The shared state as it was at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: u64,
    pub members: Vec<Seen>,
    /// By shard.
    pub leaders: Vec<Option<Held>>,
    pub pins: Vec<(ShardId, NodeName)>,
}

#[derive(Debug, Clone)]
pub enum Input {
    /// This node has registered under a new lease. `sent_ms`: when the request was sent, by the clock of `now_ms`.
    Granted {
        lease: LeaseId,
        sent_ms: u64,
        ttl_ms: u64,
    },
    Renewed {
        lease: LeaseId,
        sent_ms: u64,
        ttl_ms: u64,
    },
    /// The store says that the lease is over.
    Ended {
        lease: LeaseId,
    },
    /// What was read; in the order of reading.
    Read(Arc<Snapshot>),
    /// The leader key is ours, made at this revision.
    Won {
        shard: ShardId,
        lease: LeaseId,
        epoch: Epoch,
        revision: u64,
    },
    /// There is another's leader key, at this revision.
    Taken {
        shard: ShardId,
        lease: LeaseId,
        revision: u64,
    },
    /// Nobody knows whether the campaign was won.
    Unclear {
        shard: ShardId,
        lease: LeaseId,
    },
    /// The node has stopped leading the shard.
    Released {
        shard: ShardId,
    },
    /// Hand everything over and campaign no more.
    Shutdown,
    /// Only time has passed.
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// One attempt to make the leader key under this lease if there is none; answered by exactly one of
    /// [`Input::Won`], [`Input::Taken`] and [`Input::Unclear`]. A win that is no longer wanted is handed back by itself,
    /// so there is nothing to call off.
    Campaign {
        shard: ShardId,
        lease: LeaseId,
    },
    /// Remove the leader key with exactly this epoch, until it is gone or the lease is over.
    Resign {
        shard: ShardId,
        lease: LeaseId,
        epoch: Epoch,
    },
    /// The lease is not used any more: end it, and register under a new one.
    Renounce {
        lease: LeaseId,
    },
    Leadership(Leadership),
}
