//! Shards that come and go: what this node leads, and the snapshots that it loads and writes for it (docs/adr/0010).
//!
//! A snapshot is written in bounded steps between the batches, one transaction each, and only what has changed since the last
//! one. It may take rows that are newer than the position it will have; see [`super::archive`].

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId, TenantId};
use tokio::time::Instant;

use super::Snapshots;
use super::archive::{Archive, ArchiveError, Part, Piece, Writer, store_error};
use super::changes::Changes;
use super::disk::DiskError;
use super::follower::{AggregatesFollower, blocking};
use super::key::{BlockKey, Step};
use super::pieces::{CODEC, Packer, PieceError, unpack};
use super::shared::Shared;
use crate::follow::FollowError;
use crate::store::Batch;

/// Packed bytes of one transaction, about; a part is never divided.
const STEP_BYTES: usize = 4 << 20;
/// A shard's snapshots take at most one part in so many of the time.
const TIME_SHARE: u32 = 20;
/// How long the last snapshots of shards that leave may take, all together. Without, their next leaders count more again.
const LAST_MAX: Duration = Duration::from_secs(5);

pub(super) struct Moves {
    settings: Option<Snapshots>,
    archive: Option<Archive>,
    led: Vec<Option<Led>>,
    jobs: VecDeque<Job>,
}

/// A leadership, and its snapshot.
struct Led {
    epoch: Epoch,
    /// The position of the snapshot, 0 for none.
    head: u64,
    no_more: Option<NoMore>,
    written: Instant,
    /// The next one not before.
    rest_until: Instant,
    /// Taken since the last one was begun.
    events: u64,
    /// What is on disk.
    synced: u64,
}

/// Why no snapshot of a shard is written any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum NoMore {
    /// There is a later leader; we shall hear of it.
    Fenced,
    TooLarge,
}

/// A snapshot under way.
struct Job {
    writer: Writer,
    tenants: Arc<[TenantId]>,
    blocks: VecDeque<(Step, u32)>,
    spent: Duration,
}

/// Packed parts of as many blocks as a step has room for.
enum Packed {
    Parts { parts: Vec<Part>, blocks: usize },
    TooLarge { step: Step, bucket: u32 },
}

impl Moves {
    pub(super) fn new(shards: u16, settings: Option<Snapshots>) -> Self {
        let archive = settings.as_ref().map(|settings| Archive::new(Arc::clone(&settings.catalog)));
        Self { settings, archive, led: (0..shards).map(|_| None).collect(), jobs: VecDeque::new() }
    }

    pub(super) async fn gain(&mut self, shards: &[(ShardId, Epoch)]) -> Result<(), FollowError> {
        let heads = match &self.archive {
            Some(archive) => archive.take(shards).await?,
            None => vec![Some(0); shards.len()],
        };
        let now = Instant::now();
        for ((shard, epoch), head) in shards.iter().zip(heads) {
            if let Some(place) = self.led.get_mut(usize::from(shard.0)) {
                *place = Some(Led {
                    epoch: *epoch,
                    head: head.unwrap_or(0),
                    no_more: head.is_none().then_some(NoMore::Fenced),
                    written: now,
                    rest_until: now,
                    events: 0,
                    synced: 0,
                });
            }
        }
        Ok(())
    }

    pub(super) fn lose(&mut self, shard: ShardId) {
        if let Some(place) = self.led.get_mut(usize::from(shard.0)) {
            *place = None;
        }
        self.jobs.retain(|job| job.writer.shard != shard);
    }

    /// Their rows are gone.
    pub(super) fn stop_jobs(&mut self) {
        self.jobs.clear();
    }

    pub(super) fn led_shards(&self) -> Vec<ShardId> {
        let led = (0u16..).zip(&self.led).filter(|(_, led)| led.is_some());
        led.map(|(number, _)| ShardId(number)).collect()
    }

    fn of(&self, shard: ShardId) -> Option<&Led> {
        self.led.get(usize::from(shard.0))?.as_ref()
    }

    fn of_mut(&mut self, shard: ShardId) -> Option<&mut Led> {
        self.led.get_mut(usize::from(shard.0))?.as_mut()
    }

    /// The position of the snapshot of a led shard, if snapshots are kept.
    pub(super) fn head(&self, shard: ShardId) -> Option<u64> {
        self.archive.as_ref().and(self.of(shard)).map(|led| led.head)
    }

    pub(super) fn safe(&self, shard: ShardId, synced: u64) -> u64 {
        match self.of(shard) {
            Some(led) if self.archive.is_some() && led.no_more != Some(NoMore::TooLarge) => led.head,
            _ => synced,
        }
    }

    pub(super) fn count(&mut self, batch: &Batch) {
        if let Some(led) = self.of_mut(batch.shard) {
            led.events += batch.events.len() as u64;
        }
    }

    pub(super) fn synced(&mut self, shared: &Shared) {
        let state = shared.state.lock();
        for (led, content) in self.led.iter_mut().zip(&state.shards) {
            if let Some(led) = led {
                led.synced = content.position;
            }
        }
    }

    /// When a shard that could have a snapshot at once is due for one. What is not yet on disk has to get there first.
    pub(super) fn next_due(&self, shared: &Shared) -> Option<Instant> {
        let settings = self.settings.as_ref()?;
        let state = shared.state.lock();
        let shards = self.led.iter().zip(&state.shards).enumerate();
        let due = shards.filter_map(|(number, (led, content))| {
            let led = led.as_ref()?;
            let can = led.can_write(content.position) && led.synced == content.position && !content.restoring;
            (can && !self.is_writing(ShardId(number as u16))).then(|| led.due(settings))
        });
        due.min()
    }

    fn is_writing(&self, shard: ShardId) -> bool {
        self.jobs.iter().any(|job| job.writer.shard == shard)
    }
}

impl Led {
    fn can_write(&self, position: u64) -> bool {
        self.no_more.is_none() && position > self.head
    }

    fn due(&self, settings: &Snapshots) -> Instant {
        let by_age = self.written + settings.every;
        let at = if self.events >= settings.events { self.written } else { by_age };
        at.max(self.rest_until)
    }
}

impl AggregatesFollower {
    /// Begins the snapshots that are due and does one step of the first.
    pub(super) async fn write_snapshots(&mut self) -> Result<bool, FollowError> {
        let Some(settings) = self.moves.settings.clone() else { return Ok(false) };
        self.heal().await?;
        let now = Instant::now();
        for shard in self.moves.led_shards() {
            let content = self.shared.shard(shard, |content| (content.position, content.restoring));
            let (Some(led), Some((position, false))) = (self.moves.of(shard), content) else { continue };
            let is_due = led.can_write(position) && led.synced == position && led.due(&settings) <= now;
            if is_due && !self.moves.is_writing(shard) {
                self.begin_snapshot(shard).await?;
            }
        }
        self.snapshot_step().await
    }

    /// Writes everything of shards that leave, if there is time.
    pub(super) async fn write_last_snapshots(&mut self, shards: &[ShardId]) -> Result<(), FollowError> {
        if self.moves.settings.is_none() {
            return Ok(());
        }
        self.moves.synced(&self.shared);
        let until = Instant::now() + LAST_MAX;
        for &shard in shards {
            let content = self.shared.shard(shard, |content| (content.position, content.restoring));
            let (Some(led), Some((position, false))) = (self.moves.of(shard), content) else { continue };
            if !led.can_write(position) {
                continue;
            }
            self.moves.jobs.retain(|job| job.writer.shard != shard);
            self.begin_snapshot(shard).await?;
            self.moves.jobs.rotate_right(1);
            while self.moves.is_writing(shard) && Instant::now() < until {
                self.snapshot_step().await?;
            }
        }
        Ok(())
    }

    /// Everything of the shard up to here is on disk.
    async fn begin_snapshot(&mut self, shard: ShardId) -> Result<(), FollowError> {
        let Some(epoch) = self.moves.of(shard).map(|led| led.epoch) else { return Ok(()) };
        let begin = self.shared.shard(shard, |content| (content.position, content.changes.begin()));
        let Some((position, changed)) = begin else { return Ok(()) };
        let shared = Arc::clone(&self.shared);
        let listed = blocking(move || {
            let tenants = shared.tenants_of(shard)?;
            let blocks: VecDeque<(Step, u32)> = match changed {
                Some(blocks) => blocks.into_iter().collect(),
                None => {
                    let disk = shared.disk()?;
                    let all = tenants.iter().map(|tenant| disk.blocks(*tenant)).collect::<Result<Vec<_>, _>>()?;
                    let all: std::collections::BTreeSet<_> = all.into_iter().flatten().collect();
                    all.into_iter().collect()
                }
            };
            Ok((tenants, blocks))
        });
        let (tenants, blocks) = listed.await.map_err(|error| self.note(error))?;
        let writer = Writer { shard, epoch, position };
        self.moves.jobs.push_back(Job { writer, tenants: tenants.into(), blocks, spent: Duration::ZERO });
        if let Some(led) = self.moves.of_mut(shard) {
            led.events = 0;
        }
        Ok(())
    }

    /// One transaction of the first snapshot under way. True while there are more.
    async fn snapshot_step(&mut self) -> Result<bool, FollowError> {
        let (Some(job), Some(archive)) = (self.moves.jobs.front(), self.moves.archive.clone()) else {
            return Ok(false);
        };
        let part_bytes_max = self.moves.settings.as_ref().map_or(usize::MAX, |settings| settings.part_bytes_max);
        let begun = Instant::now();
        let (writer, shared) = (job.writer, Arc::clone(&self.shared));
        let (tenants, blocks, left) = (Arc::clone(&job.tenants), job.blocks.clone(), job.blocks.len());
        let packed = blocking(move || pack(&shared, &tenants, &blocks, part_bytes_max));
        let (parts, blocks) = match packed.await.map_err(|error| self.note(error))? {
            Packed::Parts { parts, blocks } => (parts, blocks),
            Packed::TooLarge { step, bucket } => {
                tracing::error!(
                    shard = %writer.shard, start_ms = step.start_ms(bucket), part_bytes_max,
                    "the statistics of an hour or day are too large for a snapshot: the next leader builds them from the rows"
                );
                return self.end_snapshot(writer, archive.forget(writer.shard, writer.epoch).await, NoMore::TooLarge);
            }
        };
        let is_last = blocks == left;
        let written = archive.write(writer, parts, is_last).await;
        if written.is_err() {
            return self.end_snapshot(writer, written, NoMore::Fenced);
        }
        let Some(job) = self.moves.jobs.front_mut() else { return Ok(false) };
        job.blocks.drain(..blocks);
        job.spent += begun.elapsed();
        if is_last {
            let spent = job.spent;
            self.moves.jobs.pop_front();
            self.shared.shard(writer.shard, |content| content.changes.finish(writer.position));
            if let Some(led) = self.moves.of_mut(writer.shard) {
                let now = Instant::now();
                (led.head, led.written, led.rest_until) = (writer.position, now, now + spent * TIME_SHARE);
            }
        }
        Ok(!self.moves.jobs.is_empty())
    }

    /// The first snapshot under way does not come to its end, and there will be no other under this leadership.
    fn end_snapshot(
        &mut self,
        writer: Writer,
        done: Result<(), ArchiveError>,
        why: NoMore,
    ) -> Result<bool, FollowError> {
        let why = match done {
            Ok(()) => why,
            Err(ArchiveError::Fenced) => NoMore::Fenced,
            // The step is done again.
            Err(ArchiveError::Sql(error)) => return Err(store_error(error).into()),
        };
        self.moves.jobs.pop_front();
        self.shared.shard(writer.shard, |content| match why {
            NoMore::Fenced => content.changes.give_up(),
            NoMore::TooLarge => content.changes = Changes::unknown(),
        });
        if let Some(led) = self.moves.of_mut(writer.shard) {
            led.no_more = Some(why);
            if why == NoMore::TooLarge {
                led.head = 0;
            }
        }
        Ok(!self.moves.jobs.is_empty())
    }

    /// The snapshot of a shard counts more than its journal has, as after a restored backup: there shall be none.
    pub(super) async fn forget_snapshot(&mut self, shard: ShardId) -> Result<(), FollowError> {
        let (Some(archive), Some(led)) = (&self.moves.archive, self.moves.of(shard)) else { return Ok(()) };
        tracing::error!(%shard, head = led.head, "a snapshot of the statistics is ahead of the journal");
        let forgotten = archive.forget(shard, led.epoch).await;
        if let Err(ArchiveError::Sql(error)) = forgotten {
            return Err(store_error(error).into());
        }
        if let Some(led) = self.moves.of_mut(shard) {
            led.head = 0;
        }
        Ok(())
    }

    /// Takes what is newer in the snapshot than the rows here, or all of it when these are not to be used. The inner error: it
    /// cannot be read.
    pub(super) async fn load(
        &mut self,
        shard: ShardId,
        head: u64,
        have: Option<u64>,
    ) -> Result<Result<(), PieceError>, FollowError> {
        let Some(archive) = self.moves.archive.clone() else { return Ok(Err(PieceError)) };
        self.begin_replacing(&[shard], have.is_none()).await?;
        let shared = Arc::clone(&self.shared);
        let tenants = blocking(move || shared.tenants_of(shard)).await.map_err(|error| self.note(error))?;
        let tenants: Arc<[TenantId]> = tenants.into();
        let mut after = None;
        let mut pieces = 0;
        loop {
            if self.shared.options.shutdown.is_cancelled() {
                return Err(FollowError::Own("stopped in the middle of loading a snapshot".into()));
            }
            let some = archive.pieces(shard, have, after).await?;
            let Some(last) = some.last() else { break };
            after = Some(last.place);
            pieces += some.len();
            let (shared, tenants) = (Arc::clone(&self.shared), Arc::clone(&tenants));
            let taken = blocking(move || {
                for piece in &some {
                    if let Err(error) = take_piece(&shared, shard, &tenants, piece)? {
                        return Ok(Err(error));
                    }
                }
                Ok(Ok(()))
            });
            if let Err(error) = taken.await.map_err(|error| self.note(error))? {
                return Ok(Err(error));
            }
        }
        self.end_replacing(shard, head, Changes::none(head)).await?;
        tracing::debug!(%shard, ?have, head, pieces, "the statistics go on from the snapshot");
        Ok(Ok(()))
    }
}

/// Blocks.
fn pack(
    shared: &Shared,
    tenants: &[TenantId],
    blocks: &VecDeque<(Step, u32)>,
    part_bytes_max: usize,
) -> Result<Packed, DiskError> {
    let disk = shared.disk()?;
    let (mut parts, mut bytes) = (Vec::new(), 0);
    for &(step, bucket) in blocks {
        let mut packer = Packer::default();
        for &tenant in tenants {
            for row in disk.block_rows(BlockKey { tenant, step, bucket }) {
                let (key, row) = row?;
                packer.add(&key, &row).map_err(|_| DiskError::Row)?;
                if packer.bytes() > part_bytes_max {
                    return Ok(Packed::TooLarge { step, bucket });
                }
            }
        }
        let pieces = packer.finish();
        let part_bytes = pieces.iter().map(Vec::len).sum::<usize>();
        if part_bytes > part_bytes_max {
            return Ok(Packed::TooLarge { step, bucket });
        }
        bytes += part_bytes;
        parts.push(Part { step, bucket, pieces });
        if bytes >= STEP_BYTES {
            break;
        }
    }
    let blocks = parts.len();
    Ok(Packed::Parts { parts, blocks })
}

/// Puts the rows of a piece in the place of those that are here. Blocks.
fn take_piece(
    shared: &Shared,
    shard: ShardId,
    tenants: &[TenantId],
    piece: &Piece,
) -> Result<Result<(), PieceError>, DiskError> {
    let step = Step::ALL.into_iter().find(|step| *step as u8 == piece.place.step);
    let (Some(step), CODEC) = (step, piece.codec) else { return Ok(Err(PieceError)) };
    let Ok(rows) = unpack(&piece.data) else { return Ok(Err(PieceError)) };
    let is_ours = |key: &[u8]| {
        let tenant = key.first_chunk::<16>().map(|id| TenantId::from_bytes(*id));
        tenant.is_some_and(|tenant| shared.shard_of(tenant) == usize::from(shard.0))
    };
    if !rows.iter().all(|(key, _)| is_ours(key)) {
        return Ok(Err(PieceError));
    }
    let disk = shared.disk()?;
    if piece.place.piece == 0 {
        for &tenant in tenants {
            disk.delete_block(BlockKey { tenant, step, bucket: piece.place.bucket })?;
        }
    }
    disk.write(rows)?;
    Ok(Ok(()))
}

#[cfg(test)]
mod tests;
