//! Statistics: counters and latencies per tenant, by hour and day and by what they are about, kept in sled.
//!
//! They follow the journal exactly. Every row carries the sequence up to which it is complete, and rows are written as
//! whole values, so the replay after a crash skips what a row already holds, wherever the crash came. The position of a
//! shard is written only after its rows are durable. A folder that is damaged, deleted, or from another time is built anew
//! from the message rows, which hold every transition. In a cluster, snapshots of each shard go into the store, from which
//! its next leader continues. docs/aggregates.md has the argument in full.

mod archive;
mod changes;
mod contribution;
mod counters;
mod disk;
mod follower;
mod histogram;
mod key;
mod moves;
mod pieces;
mod query;
mod shared;
#[cfg(test)]
mod soak;
mod table;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::store::{Catalog, Journal, Rows};

pub use counters::{COUNTERS, Counter, Counts, Latency};
pub use disk::DiskError;
pub use follower::AggregatesFollower;
pub use histogram::{Histogram, LATENCY_MAX_MS};
pub use key::Dimension;
pub use query::{QueryError, ROWS_MAX, StatsAnswer, StatsQuery, StatsRow, StatsStep};

use crate::domain::event::{Event, Inbound};
use crate::domain::record::MessageRecord;
use shared::Shared;

/// Queries that run at once; others wait.
const QUERIES_MAX: usize = 4;

#[derive(Clone, Debug)]
pub struct Options {
    /// sled's page cache.
    pub cache_bytes: u64,
    /// What the rows in memory may take.
    pub memory_bytes: usize,
    /// How long a query waits for what was committed when it came.
    pub fresh_wait: Duration,
    /// Stops a rebuild; it starts over the next time.
    pub shutdown: CancellationToken,
    /// Where shards move between nodes: the journal is then kept until a snapshot in the store has what is in it. A node that
    /// is alone needs none, its own folder is enough.
    pub snapshots: Option<Snapshots>,
}

/// When and where snapshots are written: of each led shard that has changed, after a while or after many events, and when it
/// is handed over.
#[derive(Clone)]
pub struct Snapshots {
    pub catalog: Arc<dyn Catalog>,
    pub every: Duration,
    /// What a new leader counts again at most, about.
    pub events: u64,
    /// Packed bytes of all rows of a shard in one hour or day. With more, the shard has no snapshot: its next leader builds
    /// the statistics from the message rows, which takes long.
    pub part_bytes_max: usize,
}

impl Snapshots {
    pub fn in_catalog(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog, every: Duration::from_secs(300), events: 1_000_000, part_bytes_max: 64 << 20 }
    }
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { catalog: _, every, events, part_bytes_max } = self;
        let mut out = f.debug_struct("Snapshots");
        out.field("every", every)
            .field("events", events)
            .field("part_bytes_max", part_bytes_max)
            .finish_non_exhaustive()
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            memory_bytes: 64 << 20,
            fresh_wait: Duration::from_secs(2),
            shutdown: CancellationToken::new(),
            snapshots: None,
        }
    }
}

/// Answers statistics. Cheap to clone.
#[derive(Clone)]
pub struct Aggregates {
    shared: Arc<Shared>,
}

impl Aggregates {
    /// Opens or makes the folder `dir`, which holds nothing else. The follower is to be driven by [`crate::follow::follow`].
    /// Blocks for the time sled needs to open. A damaged folder is no error: it heals when the follower runs.
    pub fn open(
        dir: PathBuf,
        options: Options,
        journal: Arc<dyn Journal>,
        rows: Arc<dyn Rows>,
    ) -> Result<(Self, AggregatesFollower), DiskError> {
        let shared = Arc::new(Shared::new(dir, options, journal, rows));
        let follower = AggregatesFollower::open(Arc::clone(&shared))?;
        Ok((Self { shared }, follower))
    }
}

/// Adds an event to a sum over everything, as the follower adds it to each of its rows. For checks of the whole.
pub fn count_event(event: &Event, counts: &mut Counts) {
    contribution::Contribution::of_event(event).add_to(counts);
}

/// The same from what a message row has kept of its events.
pub fn count_record(record: &MessageRecord, counts: &mut Counts) {
    contribution::of_record(record).for_each(|it| it.add_to(counts));
}

/// The same from the row of an inbound message.
pub fn count_inbound(inbound: &Inbound, counts: &mut Counts) {
    contribution::Contribution::of_inbound(inbound).add_to(counts);
}
