//! What the follower and the queries share: rows in memory over rows on disk, and how far they are.
//!
//! One writer (the follower), many readers. A batch is added under one lock, so a reader sees all of it or nothing.

use std::path::PathBuf;
use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::contribution::{Contribution, of_record};
use super::disk::{Content, Disk, DiskError};
use super::table::{ALWAYS, Table};
use super::{Options, QUERIES_MAX};
use crate::domain::event::Inbound;
use crate::domain::record::MessageRecord;
use crate::store::{Batch, Journal, Rows};

pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) options: Options,
    pub(super) shards: u16,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) rows: Arc<dyn Rows>,
    pub(super) state: Mutex<State>,
    /// Moves with every batch.
    pub(super) moved: watch::Sender<u64>,
    pub(super) queries: Semaphore,
}

pub(super) struct State {
    /// None while it can not be opened.
    pub(super) disk: Option<Arc<Disk>>,
    pub(super) table: Table,
    /// The last sequence of each shard that is counted.
    pub(super) applied: Vec<u64>,
    /// False while a rebuild is under way.
    pub(super) complete: bool,
}

/// Steps of a flush, for tests that stop between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Written,
    Synced,
    Positioned,
}

/// What a flush ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// The rows are with sled. After a crash they may be there or not.
    Written,
    /// Rows and positions survive a power cut.
    Durable,
    /// The same, and the folder is marked as whole: the end of a rebuild.
    Complete,
}

impl Shared {
    pub(super) fn new(dir: PathBuf, options: Options, journal: Arc<dyn Journal>, rows: Arc<dyn Rows>) -> Self {
        let shards = journal.shards();
        Self {
            dir,
            options,
            shards,
            journal,
            rows,
            state: Mutex::new(State {
                disk: None,
                table: Table::default(),
                applied: vec![0; usize::from(shards)],
                complete: false,
            }),
            moved: watch::Sender::new(0),
            queries: Semaphore::new(QUERIES_MAX),
        }
    }

    pub(super) fn applied(&self, shard: ShardId) -> u64 {
        self.state.lock().applied.get(usize::from(shard.0)).copied().unwrap_or(0)
    }

    pub(super) fn is_full(&self) -> bool {
        self.state.lock().table.bytes() >= self.options.memory_bytes
    }

    /// Opens the folder and checks that it belongs to this journal. Blocks.
    pub(super) fn open_disk(&self) -> Result<(Disk, Content), DiskError> {
        let disk = Disk::open(&self.dir, self.options.cache_bytes)?;
        let content = disk.content(self.shards)?;
        if let Content::Complete(positions) = &content {
            let ahead = positions.iter().zip(self.journal.feed().positions()).position(|(ours, last)| *ours > last);
            if let Some(shard) = ahead {
                return Err(DiskError::Damaged(format!("shard {shard} is ahead of the journal")));
            }
        }
        Ok((disk, content))
    }

    /// Goes on with a folder that is complete up to these positions.
    pub(super) fn follow(&self, disk: Disk, positions: Vec<u64>) {
        let mut state = self.state.lock();
        *state = State { disk: Some(Arc::new(disk)), table: Table::default(), applied: positions, complete: true };
        drop(state);
        self.moved.send_modify(|n| *n += 1);
    }

    /// Counts a batch. After an error the memory is not to be used any more.
    pub(super) fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        let State { disk, table, applied, .. } = &mut *state;
        let disk = disk.as_ref().ok_or(DiskError::Locked)?;
        for event in batch.events.iter() {
            table.add(batch.seq, &Contribution::of_event(event), disk.as_ref())?;
        }
        if let Some(applied) = applied.get_mut(usize::from(batch.shard.0)) {
            *applied = batch.seq;
        }
        drop(state);
        self.moved.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Counts rows of the store, in a rebuild.
    pub(super) fn add_rows(&self, messages: &[MessageRecord], inbound: &[Inbound]) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        let State { disk, table, .. } = &mut *state;
        let disk = disk.as_ref().ok_or(DiskError::Locked)?;
        for contribution in messages.iter().flat_map(of_record).chain(inbound.iter().map(Contribution::of_inbound)) {
            table.add(ALWAYS, &contribution, disk.as_ref())?;
        }
        Ok(())
    }

    /// Writes what has changed. Only the follower calls it, and adds nothing meanwhile. Blocks.
    pub(super) fn flush(&self, until: Until, passed: &mut dyn FnMut(Stage)) -> Result<(), DiskError> {
        let (disk, applied, dirty) = {
            let mut state = self.state.lock();
            let disk = state.disk.clone().ok_or(DiskError::Locked)?;
            (disk, state.applied.clone(), state.table.take_dirty())
        };
        for part in dirty.chunks(256) {
            let rows = {
                let mut state = self.state.lock();
                let row = |(key, block, place): &(Vec<u8>, _, _)| {
                    let mut bytes = Vec::with_capacity(128);
                    state.table.encode(block, place, applied[self.shard_of(block.tenant)], &mut bytes);
                    (key.clone(), bytes)
                };
                part.iter().map(row).collect::<Vec<_>>()
            };
            disk.write(rows)?;
            passed(Stage::Written);
        }
        if until != Until::Written {
            disk.sync()?;
            passed(Stage::Synced);
            match until {
                Until::Complete => disk.set_complete(&applied)?,
                _ => disk.set_positions(&applied)?,
            }
            passed(Stage::Positioned);
        }
        self.state.lock().table.shrink(self.options.memory_bytes);
        Ok(())
    }

    pub(super) fn shard_of(&self, tenant: TenantId) -> usize {
        usize::from(ShardId::of(tenant, self.shards).0)
    }
}
