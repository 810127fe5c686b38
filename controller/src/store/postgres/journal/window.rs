//! Which shards are ours, how much of each is kept, and what may be deleted. Deleting has a task and a connection of its own.

use std::sync::Arc;

use flotilla_protocol::id::ShardId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::super::engine::Pool;
use super::sql::{self, Taken};

/// Deleted with one statement: half a megabyte is some milliseconds.
const TRIM_BYTES: u64 = 512 << 10;

/// What this node knows of the shards it has taken.
pub(super) struct Window {
    retain_bytes: u64,
    shards: Mutex<Vec<Shard>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Shard {
    /// Taken by this store, and not known to be lost.
    ours: bool,
    last: u64,
    trimmed: u64,
    /// Encoded bytes that are there.
    bytes: u64,
    /// Nobody needs the batches up to here.
    allowed: u64,
}

impl Window {
    pub(super) fn new(shards: u16, retain_bytes: u64) -> Self {
        Self { retain_bytes, shards: Mutex::new(vec![Shard::default(); usize::from(shards)]) }
    }

    pub(super) fn is_ours(&self, shard: ShardId) -> bool {
        self.shards.lock()[usize::from(shard.0)].ours
    }

    pub(super) fn take(&self, taken: &[Taken]) {
        let mut shards = self.shards.lock();
        for Taken { shard, last, trimmed, bytes } in taken {
            let known = &mut shards[usize::from(shard.0)];
            *known = Shard { ours: true, last: *last, trimmed: *trimmed, bytes: *bytes, allowed: known.allowed };
        }
    }

    pub(super) fn lose(&self, shard: ShardId) {
        self.shards.lock()[usize::from(shard.0)].ours = false;
    }

    /// All others are somebody else's now.
    pub(super) fn keep_only(&self, ours: impl Iterator<Item = ShardId>) {
        let mut shards = self.shards.lock();
        let ours: Vec<usize> = ours.map(|shard| usize::from(shard.0)).collect();
        for (place, shard) in shards.iter_mut().enumerate() {
            shard.ours &= ours.contains(&place);
        }
    }

    pub(super) fn grow(&self, appended: impl Iterator<Item = (ShardId, u64, usize)>) {
        let mut shards = self.shards.lock();
        for (shard, seq, bytes) in appended {
            let shard = &mut shards[usize::from(shard.0)];
            shard.last = seq;
            shard.bytes += bytes as u64;
        }
    }

    pub(super) fn allow(&self, shard: ShardId, up_to: u64) {
        let shard = &mut self.shards.lock()[usize::from(shard.0)];
        shard.allowed = shard.allowed.max(up_to);
    }

    /// The shard to delete from, up to where, and how many bytes at most: the largest that may be trimmed gives first, while
    /// there is more than the window.
    fn next(&self) -> Option<(ShardId, u64, u64)> {
        let shards = self.shards.lock();
        let over = shards.iter().filter(|shard| shard.ours).map(|shard| shard.bytes).sum::<u64>();
        let over = over.checked_sub(self.retain_bytes).filter(|over| *over > 0)?;
        let able = |shard: &Shard| shard.ours && shard.trimmed < shard.allowed.min(shard.last);
        let (place, shard) = shards.iter().enumerate().filter(|(_, s)| able(s)).max_by_key(|(_, s)| s.bytes)?;
        Some((ShardId(place as u16), shard.allowed.min(shard.last), over.min(TRIM_BYTES)))
    }

    fn deleted(&self, shard: ShardId, up_to: u64, done: Option<(u64, u64)>) {
        let shard = &mut self.shards.lock()[usize::from(shard.0)];
        match done {
            // Counted by the database at the moment of the statement; a commit of the same moment is counted again later.
            Some((trimmed, bytes)) => (shard.trimmed, shard.bytes) = (trimmed, bytes),
            None => shard.trimmed = shard.trimmed.max(up_to),
        }
    }
}

/// Deletes until the store is gone.
pub(super) async fn trim(window: Arc<Window>, pool: Pool, woken: Arc<Notify>) {
    loop {
        woken.notified().await;
        while let Some((shard, up_to, budget)) = window.next() {
            let deleted = pool.query(async |session| sql::delete(session, shard, up_to, budget).await).await;
            match deleted {
                Ok(done) => window.deleted(shard, up_to, done),
                Err(failure) => {
                    // The next commit wakes us again.
                    tracing::warn!(%shard, %failure, "old batches cannot be deleted yet");
                    break;
                }
            }
        }
    }
}
