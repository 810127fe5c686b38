//! Statistics: counters and latencies per tenant, by hour and day and by what they are about, kept in sled.
//!
//! They follow the journal exactly. Every row carries the sequence up to which it is complete, and rows are written as
//! whole values, so the replay after a crash skips what a row already holds, wherever the crash came. The position of a
//! shard is written only after its rows are durable. A folder that is damaged, deleted, or from another time is built anew
//! from the message rows, which hold every transition. docs/aggregates.md has the argument in full.

mod contribution;
mod counters;
mod disk;
mod follower;
mod histogram;
mod key;
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

use crate::store::{Journal, Rows};

pub use counters::{COUNTERS, Counter, Counts, Latency};
pub use disk::DiskError;
pub use follower::AggregatesFollower;
pub use histogram::{Histogram, LATENCY_MAX_MS};
pub use key::Dimension;
pub use query::{QueryError, ROWS_MAX, StatsAnswer, StatsQuery, StatsRow, StatsStep};

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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            cache_bytes: 16 << 20,
            memory_bytes: 64 << 20,
            fresh_wait: Duration::from_secs(2),
            shutdown: CancellationToken::new(),
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
