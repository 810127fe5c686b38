//! What the follower and the queries share: rows in memory over rows on disk, and how far they are.
//!
//! One writer (the follower), many readers. A batch is added under one lock, so a reader sees all of it or nothing.

use std::path::PathBuf;
use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use super::contribution::{Contribution, of_record};
use super::disk::{Content, Disk, DiskError, ShardContent};
use super::key::Step;
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
    /// What is counted of each shard, in memory or on disk.
    pub(super) shards: Vec<ShardContent>,
    /// Which of them this node leads.
    pub(super) led: Vec<bool>,
    /// False while the folder cannot be used.
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
                shards: vec![ShardContent::default(); usize::from(shards)],
                led: vec![false; usize::from(shards)],
                complete: false,
            }),
            moved: watch::Sender::new(0),
            queries: Semaphore::new(QUERIES_MAX),
        }
    }

    pub(super) fn applied(&self, shard: ShardId) -> u64 {
        self.state.lock().shards.get(usize::from(shard.0)).map_or(0, |shard| shard.position)
    }

    /// Whether the counters of a shard can be believed.
    pub(super) fn is_complete(&self, shard: ShardId) -> bool {
        let state = self.state.lock();
        state.complete && state.shards.get(usize::from(shard.0)).is_some_and(|shard| !shard.restoring)
    }

    pub(super) fn is_full(&self) -> bool {
        self.state.lock().table.bytes() >= self.options.memory_bytes
    }

    /// Opens the folder and checks that it belongs to this journal. Blocks.
    pub(super) fn open_disk(&self) -> Result<(Disk, Content), DiskError> {
        let disk = Disk::open(&self.dir, self.options.cache_bytes)?;
        let mut content = disk.content(self.shards)?;
        if let (Content::Shards(shards), None) = (&mut content, &self.options.snapshots) {
            // What changes from here on is not noted, so what was noted before says too little.
            disk.forget_changes(shards)?;
        }
        if let Content::Shards(shards) = &content {
            let last = self.journal.feed().positions();
            let ahead = shards.iter().zip(last).position(|(ours, last)| ours.position > last);
            if let Some(shard) = ahead {
                return Err(DiskError::Damaged(format!("shard {shard} is ahead of the journal")));
            }
        }
        Ok((disk, content))
    }

    /// Goes on with what is in the folder.
    pub(super) fn follow(&self, disk: Disk, shards: Vec<ShardContent>) {
        let mut state = self.state.lock();
        let led = std::mem::take(&mut state.led);
        *state = State { disk: Some(Arc::new(disk)), table: Table::default(), shards, led, complete: true };
        drop(state);
        self.moved.send_modify(|n| *n += 1);
    }

    pub(super) fn set_led(&self, shard: ShardId, is_led: bool) {
        if let Some(led) = self.state.lock().led.get_mut(usize::from(shard.0)) {
            *led = is_led;
        }
        self.moved.send_modify(|n| *n += 1);
    }

    pub(super) fn is_led(&self, shard: ShardId) -> bool {
        self.state.lock().led.get(usize::from(shard.0)).is_some_and(|led| *led)
    }

    pub(super) fn shard<T>(&self, shard: ShardId, then: impl FnOnce(&mut ShardContent) -> T) -> Option<T> {
        self.state.lock().shards.get_mut(usize::from(shard.0)).map(then)
    }

    /// Counts a batch. After an error the memory is not to be used any more.
    pub(super) fn apply(&self, batch: &Batch) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        let State { disk, table, shards, .. } = &mut *state;
        let disk = disk.as_ref().ok_or(DiskError::Locked)?;
        let shard = shards.get_mut(usize::from(batch.shard.0)).ok_or(DiskError::Locked)?;
        for event in batch.events.iter() {
            let contribution = Contribution::of_event(event);
            table.add(batch.seq, &contribution, disk.as_ref())?;
            if self.options.snapshots.is_some() {
                Step::ALL.into_iter().for_each(|step| shard.changes.add(step, step.bucket(contribution.at_ms)));
            }
        }
        shard.position = batch.seq;
        drop(state);
        self.moved.send_modify(|n| *n += 1);
        Ok(())
    }

    /// Counts rows of the store, those of the wanted tenants, in a rebuild.
    pub(super) fn add_rows(
        &self,
        wanted: impl Fn(TenantId) -> bool,
        messages: &[MessageRecord],
        inbound: &[Inbound],
    ) -> Result<(), DiskError> {
        let mut state = self.state.lock();
        let State { disk, table, .. } = &mut *state;
        let disk = disk.as_ref().ok_or(DiskError::Locked)?;
        let messages = messages.iter().filter(|record| wanted(record.submission.tenant));
        let inbound = inbound.iter().filter(|inbound| wanted(inbound.tenant));
        for contribution in messages.flat_map(of_record).chain(inbound.map(Contribution::of_inbound)) {
            table.add(ALWAYS, &contribution, disk.as_ref())?;
        }
        Ok(())
    }

    /// Writes what has changed. Only the follower calls it, and adds nothing meanwhile. Blocks.
    pub(super) fn flush(&self, until: Until, passed: &mut dyn FnMut(Stage)) -> Result<(), DiskError> {
        let (disk, applied, changes, dirty) = {
            let mut state = self.state.lock();
            let disk = state.disk.clone().ok_or(DiskError::Locked)?;
            let applied: Vec<u64> = state.shards.iter().map(|shard| shard.position).collect();
            let changes = match &self.options.snapshots {
                Some(_) if until == Until::Durable => state.shards.iter().map(|shard| shard.changes.encode()).collect(),
                _ => Vec::new(),
            };
            (disk, applied, changes, state.table.take_dirty())
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
        if until == Until::Durable {
            disk.sync()?;
            passed(Stage::Synced);
            disk.set_positions(&applied, &changes)?;
            passed(Stage::Positioned);
        }
        self.state.lock().table.shrink(self.options.memory_bytes);
        Ok(())
    }

    /// The tenants of a shard that have rows. Blocks.
    pub(super) fn tenants_of(&self, shard: ShardId) -> Result<Vec<TenantId>, DiskError> {
        let disk = self.disk()?;
        let mut tenants = disk.tenants()?;
        tenants.retain(|tenant| self.shard_of(*tenant) == usize::from(shard.0));
        Ok(tenants)
    }

    pub(super) fn disk(&self) -> Result<Arc<Disk>, DiskError> {
        self.state.lock().disk.clone().ok_or(DiskError::Locked)
    }

    pub(super) fn shard_of(&self, tenant: TenantId) -> usize {
        usize::from(ShardId::of(tenant, self.shards).0)
    }
}
