//! The follower: counts batches, writes rows and positions, and heals itself. A folder that can not be trusted is moved
//! aside; shards whose counters are not here, or not right, are taken from their snapshot or counted again from the message
//! rows, while queries are answered with what is there so far.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId, TenantId};
use tokio::time::Instant;

use super::changes::Changes;
use super::disk::{Content, Disk, DiskError, ShardContent, move_aside};
use super::moves::Moves;
use super::shared::{Shared, Until};
use super::table::Table;
use crate::follow::{FollowError, Follower};
use crate::store::{Batch, StoreError};

/// Rows of the store taken at once in a rebuild.
const SCAN_ROWS: usize = 1_000;
/// Bytes of the journal taken at once to get back to where we were.
const READ_BYTES: usize = 1 << 20;

pub struct AggregatesFollower {
    pub(super) shared: Arc<Shared>,
    trouble: Option<Trouble>,
    pub(super) moves: Moves,
}

/// What has to be done before anything else can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// The memory is lost, the folder is fine as far as we know.
    Reopen,
    /// The folder is not to be trusted.
    Distrusted(String),
}

impl AggregatesFollower {
    /// Blocks. Anything but `Locked` heals, which happens as soon as there is something to follow: a full disk by opening
    /// again, with the pauses of the driver, everything else with a new folder.
    pub(super) fn open(shared: Arc<Shared>) -> Result<Self, DiskError> {
        let opened = shared.open_disk().and_then(|(disk, content)| match content {
            Content::Shards(shards) => Ok((disk, shards)),
            Content::Empty => begin(&shared, disk),
        });
        let trouble = match opened {
            Ok((disk, shards)) => {
                shared.follow(disk, shards);
                None
            }
            Err(DiskError::Locked) => return Err(DiskError::Locked),
            Err(DiskError::Full) => {
                tracing::error!("the disk is full: the statistics are opened when there is space again");
                Some(Trouble::Reopen)
            }
            Err(error) => Some(Trouble::Distrusted(error.to_string())),
        };
        let moves = Moves::new(shared.shards, shared.options.snapshots.clone());
        Ok(Self { shared, trouble, moves })
    }

    #[cfg(test)]
    pub(super) fn is_well(&self) -> bool {
        self.trouble.is_none() && self.shared.state.lock().shards.iter().all(|shard| !shard.restoring)
    }

    /// Notes what an error means for the folder, and makes it an error of following.
    pub(super) fn note(&mut self, error: DiskError) -> FollowError {
        let (text, full) = (error.to_string(), error == DiskError::Full);
        self.trouble = Some(match error {
            DiskError::Full | DiskError::Locked => Trouble::Reopen,
            DiskError::Row | DiskError::Damaged(_) | DiskError::Io(_) => Trouble::Distrusted(text.clone()),
        });
        if full { StoreError::Full.into() } else { FollowError::Own(text) }
    }

    /// Does what is left to do after trouble. For others positions never go back by it: until it is done they stay.
    pub(super) async fn heal(&mut self) -> Result<(), FollowError> {
        let Some(trouble) = self.trouble.clone() else { return Ok(()) };
        let reached: Vec<u64> = self.shared.state.lock().shards.iter().map(|shard| shard.position).collect();
        let healed = self.restore_up_to(trouble, &reached).await;
        let mut state = self.shared.state.lock();
        match healed {
            Ok(()) => self.trouble = None,
            Err(_) => {
                state.complete = false;
                for (shard, reached) in state.shards.iter_mut().zip(reached) {
                    shard.position = reached.max(shard.position);
                }
            }
        }
        healed
    }

    async fn restore_up_to(&mut self, trouble: Trouble, reached: &[u64]) -> Result<(), FollowError> {
        self.moves.stop_jobs();
        self.close().await?;
        self.restore(trouble).await?;
        // From here on the folder is good; only the way back can fail.
        self.trouble = Some(Trouble::Reopen);
        let led = self.moves.led_shards();
        self.settle(&led).await?;
        for shard in led {
            let target = reached.get(usize::from(shard.0)).copied().unwrap_or(0);
            match self.catch_up(shard, target).await {
                Err(FollowError::Store(StoreError::Trimmed { .. })) => {
                    // What is missing is gone from the journal as well: only the rows have it.
                    self.rebuild(&[shard]).await?;
                    self.catch_up(shard, target).await?;
                }
                done => done?,
            }
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), FollowError> {
        let disk = {
            let mut state = self.shared.state.lock();
            state.complete = false;
            state.table = Table::default();
            state.disk.take()
        };
        // Closing flushes and waits for sled's threads.
        blocking(move || {
            drop(disk);
            Ok(())
        })
        .await
        .map_err(own)
    }

    /// Opens the folder, or a new one in its place.
    async fn restore(&mut self, trouble: Trouble) -> Result<(), FollowError> {
        let why = match trouble {
            Trouble::Reopen => {
                let shared = Arc::clone(&self.shared);
                let opened = blocking(move || match shared.open_disk()? {
                    (disk, Content::Shards(shards)) => Ok((disk, shards)),
                    (disk, Content::Empty) => begin(&shared, disk),
                });
                match opened.await {
                    Ok((disk, shards)) => {
                        self.shared.follow(disk, shards);
                        return Ok(());
                    }
                    Err(error @ (DiskError::Locked | DiskError::Full)) => return Err(own(error)),
                    Err(error) => error.to_string(),
                }
            }
            Trouble::Distrusted(why) => why,
        };
        tracing::warn!(%why, "the aggregates begin anew, from snapshots or from the message rows");
        self.trouble = Some(Trouble::Distrusted(why));
        let shared = Arc::clone(&self.shared);
        let opened = blocking(move || {
            move_aside(&shared.dir)?;
            begin(&shared, Disk::open(&shared.dir, shared.options.cache_bytes)?)
        });
        let (disk, shards) = opened.await.map_err(own)?;
        self.shared.follow(disk, shards);
        Ok(())
    }

    /// Makes the counters of led shards right where they are not, as far as that is known without the journal: from their
    /// snapshots, or else from the rows, those of all shards in one go.
    pub(super) async fn settle(&mut self, shards: &[ShardId]) -> Result<(), FollowError> {
        let mut rebuild = Vec::new();
        for &shard in shards {
            let Some(content) = self.shared.shard(shard, |content| content.clone()) else { continue };
            let last = self.shared.journal.last(shard).await?;
            // As after a restored backup.
            let ahead = content.position > last;
            let usable = !content.restoring && !ahead;
            if self.moves.head(shard).is_some_and(|head| head > last) {
                self.forget_snapshot(shard).await?;
            }
            match self.moves.head(shard).filter(|head| *head > 0) {
                Some(head) if !usable || content.position < head => {
                    if let Err(why) = self.load(shard, head, usable.then_some(content.position)).await? {
                        tracing::error!(%shard, %why, "a snapshot of the statistics can not be used");
                        rebuild.push(shard);
                    }
                }
                _ if !usable => rebuild.push(shard),
                head => {
                    if !content.changes.holds_for(head.unwrap_or(0)) {
                        self.shared.shard(shard, |content| content.changes = Changes::unknown());
                    }
                }
            }
        }
        if rebuild.is_empty() { Ok(()) } else { self.rebuild(&rebuild).await }
    }

    /// Counts shards anew from the message rows.
    async fn rebuild(&mut self, shards: &[ShardId]) -> Result<(), FollowError> {
        tracing::warn!(shards = shards.len(), "statistics are counted anew from the message rows");
        self.begin_replacing(shards, true).await?;
        let counted = self.count_rows(shards).await;
        if counted.is_err() {
            // Nothing may be trimmed for it.
            for shard in shards {
                self.shared.shard(*shard, |content| content.position = 0);
            }
        }
        counted
    }

    async fn count_rows(&mut self, shards: &[ShardId]) -> Result<(), FollowError> {
        let one = if let [shard] = shards { Some(*shard) } else { None };
        let mut scan = self.shared.rows.scan(one).await?;
        let mut wanted = vec![false; usize::from(self.shared.shards)];
        for shard in shards {
            let number = usize::from(shard.0);
            wanted[number] = true;
            let position = scan.positions().get(number).copied().unwrap_or(0);
            self.shared.shard(*shard, |content| content.position = position);
        }
        let shared = Arc::clone(&self.shared);
        let is_wanted = |tenant| wanted[shared.shard_of(tenant)];
        loop {
            let messages = scan.messages(SCAN_ROWS).await?;
            if messages.is_empty() {
                break;
            }
            shared.add_rows(is_wanted, &messages, &[]).map_err(|error| self.note(error))?;
            self.counted_some().await?;
        }
        loop {
            let inbound = scan.inbound(SCAN_ROWS).await?;
            if inbound.is_empty() {
                break;
            }
            shared.add_rows(is_wanted, &[], &inbound).map_err(|error| self.note(error))?;
            self.counted_some().await?;
        }
        drop(scan);
        self.write(Until::Durable).await.map_err(|error| self.note(error))?;
        for shard in shards {
            self.end_replacing(*shard, self.shared.applied(*shard), Changes::unknown()).await?;
        }
        Ok(())
    }

    async fn counted_some(&mut self) -> Result<(), FollowError> {
        if self.shared.options.shutdown.is_cancelled() {
            return Err(FollowError::Own("stopped in the middle of a rebuild".into()));
        }
        if self.shared.is_full() {
            self.write(Until::Written).await.map_err(|error| self.note(error))?;
        }
        tokio::task::yield_now().await;
        Ok(())
    }

    /// From here to `end_replacing` the rows of these shards are not whole, and the folder says so.
    pub(super) async fn begin_replacing(&mut self, shards: &[ShardId], empty: bool) -> Result<(), FollowError> {
        self.write(Until::Durable).await.map_err(|error| self.note(error))?;
        let of_them = {
            let (shared, shards) = (Arc::clone(&self.shared), shards.to_vec());
            move |tenant: TenantId| shards.iter().any(|shard| usize::from(shard.0) == shared.shard_of(tenant))
        };
        self.shared.state.lock().table.forget(&of_them);
        for shard in shards {
            self.shared.shard(*shard, |content| content.restoring = true);
        }
        let (shared, shards) = (Arc::clone(&self.shared), shards.to_vec());
        let marked = blocking(move || {
            let disk = shared.disk()?;
            disk.restoring(&shards)?;
            if empty {
                let tenants = disk.tenants()?;
                tenants
                    .into_iter()
                    .filter(|tenant| of_them(*tenant))
                    .try_for_each(|tenant| disk.delete_tenant(tenant))?;
            }
            Ok(())
        });
        marked.await.map_err(|error| self.note(error))
    }

    /// The rows of the shard are complete up to a position again.
    pub(super) async fn end_replacing(
        &mut self,
        shard: ShardId,
        position: u64,
        changes: Changes,
    ) -> Result<(), FollowError> {
        let content = ShardContent { position, restoring: false, changes };
        let (shared, marked) = (Arc::clone(&self.shared), content.clone());
        let done = blocking(move || {
            let disk = shared.disk()?;
            disk.sync()?;
            disk.restored(shard, marked.position, &marked.changes)
        });
        done.await.map_err(|error| self.note(error))?;
        self.shared.shard(shard, |known| *known = content);
        self.shared.moved.send_modify(|n| *n += 1);
        Ok(())
    }

    async fn catch_up(&mut self, shard: ShardId, target: u64) -> Result<(), FollowError> {
        loop {
            let applied = self.shared.applied(shard);
            if applied >= target {
                return Ok(());
            }
            let batches = self.shared.journal.read(shard, applied, READ_BYTES).await?;
            if batches.is_empty() {
                return Err(FollowError::Own(format!("the journal of shard {shard} ends before {target}")));
            }
            for batch in batches.iter().filter(|batch| batch.seq <= target) {
                if self.shared.is_full() {
                    self.write(Until::Written).await.map_err(own)?;
                }
                self.shared.apply(batch).map_err(own)?;
            }
        }
    }

    async fn write(&self, until: Until) -> Result<(), DiskError> {
        let shared = Arc::clone(&self.shared);
        blocking(move || shared.flush(until, &mut |_| {})).await
    }
}

/// A new folder. What the journal has had before is in the snapshots, where there are any, and else only in the rows.
fn begin(shared: &Shared, disk: Disk) -> Result<(Disk, Vec<ShardContent>), DiskError> {
    let is_old = shared.journal.feed().positions().iter().any(|last| *last > 0);
    let restoring = is_old && shared.options.snapshots.is_none();
    disk.begin(shared.shards, restoring)?;
    let content = ShardContent { position: 0, restoring, changes: Changes::none(0) };
    Ok((disk, vec![content; usize::from(shared.shards)]))
}

impl Follower for AggregatesFollower {
    fn name(&self) -> &'static str {
        "aggregates"
    }

    fn position(&self, shard: ShardId) -> u64 {
        self.shared.applied(shard)
    }

    async fn gained(&mut self, shards: &[(ShardId, Epoch)]) -> Result<(), FollowError> {
        self.heal().await?;
        self.moves.gain(shards).await?;
        shards.iter().for_each(|(shard, _)| self.shared.set_led(*shard, true));
        let shards: Vec<ShardId> = shards.iter().map(|(shard, _)| *shard).collect();
        self.settle(&shards).await
    }

    /// What is counted stays: it is a count of committed batches, whoever led.
    fn lost(&mut self, shard: ShardId) {
        self.shared.set_led(shard, false);
        self.moves.lose(shard);
        self.shared.shard(shard, |content| content.changes.give_up());
    }

    fn full(&self) -> bool {
        self.shared.is_full()
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), FollowError> {
        self.heal().await?;
        // A rebuild may have taken us past it.
        if batch.seq <= self.shared.applied(batch.shard) {
            return Ok(());
        }
        self.shared.apply(batch).map_err(|error| self.note(error))?;
        self.moves.count(batch);
        Ok(())
    }

    /// Queries see the memory, so this only makes room.
    async fn flush(&mut self) -> Result<(), FollowError> {
        self.heal().await?;
        if !self.shared.is_full() {
            return Ok(());
        }
        let written = self.write(Until::Written).await;
        written.map_err(|error| self.note(error))
    }

    async fn sync(&mut self) -> Result<(), FollowError> {
        self.heal().await?;
        let written = self.write(Until::Durable).await;
        written.map_err(|error| self.note(error))?;
        self.moves.synced(&self.shared);
        Ok(())
    }

    fn safe(&self, shard: ShardId, synced: u64) -> u64 {
        self.moves.safe(shard, synced)
    }

    async fn step(&mut self) -> Result<bool, FollowError> {
        self.write_snapshots().await
    }

    fn step_at(&self) -> Option<Instant> {
        self.moves.next_due(&self.shared)
    }

    async fn hand_over(&mut self, shards: &[ShardId]) -> Result<(), FollowError> {
        self.heal().await?;
        self.write_last_snapshots(shards).await
    }

    async fn missed(&mut self, shard: ShardId, up_to: u64) -> Result<(), FollowError> {
        self.heal().await?;
        if self.shared.applied(shard) < up_to {
            self.rebuild(&[shard]).await?;
        }
        let applied = self.shared.applied(shard);
        if applied < up_to {
            let why = format!("the message rows of shard {shard} end at {applied}, before the journal begins");
            return Err(FollowError::Own(why));
        }
        Ok(())
    }
}

pub(super) fn own(error: DiskError) -> FollowError {
    match error {
        DiskError::Full => StoreError::Full.into(),
        other => FollowError::Own(other.to_string()),
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) => Err(DiskError::Damaged(error.to_string())),
    }
}
