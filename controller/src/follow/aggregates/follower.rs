//! The follower: counts batches, writes rows and positions, and heals itself. When the folder can not be trusted it is
//! moved aside and filled again from the message rows, while queries are answered with what is there so far.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};

use super::disk::{Content, Disk, DiskError, move_aside};
use super::shared::{Shared, State, Until};
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
}

/// What has to be done before anything else can go on.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// The memory is lost, the folder is fine as far as we know.
    Reopen,
    /// The folder is not to be trusted.
    Distrusted(String),
    /// The folder is new, or a rebuild did not come to its end.
    Unfinished,
}

impl AggregatesFollower {
    /// Blocks. Anything but `Locked` heals, which happens as soon as there is something to follow: a full disk by opening
    /// again, with the pauses of the driver, everything else by a rebuild.
    pub(super) fn open(shared: Arc<Shared>) -> Result<Self, DiskError> {
        let trouble = match shared.open_disk() {
            Ok((disk, Content::Complete(positions))) => {
                shared.follow(disk, positions);
                None
            }
            Ok((disk, Content::Unfinished)) => {
                if shared.journal.feed().positions().iter().all(|last| *last == 0) {
                    let positions = vec![0; usize::from(shared.shards)];
                    match disk.set_complete(&positions) {
                        Ok(()) => {
                            shared.follow(disk, positions);
                            None
                        }
                        Err(DiskError::Full) => Some(Trouble::Unfinished),
                        Err(error) => return Err(error),
                    }
                } else {
                    // Closed again, so that the rebuild finds the folder free.
                    Some(Trouble::Unfinished)
                }
            }
            Err(DiskError::Locked) => return Err(DiskError::Locked),
            Err(DiskError::Full) => {
                tracing::error!("the disk is full: the statistics are opened when there is space again");
                Some(Trouble::Reopen)
            }
            Err(error) => Some(Trouble::Distrusted(error.to_string())),
        };
        Ok(Self { shared, trouble })
    }

    #[cfg(test)]
    pub(super) fn is_well(&self) -> bool {
        self.trouble.is_none()
    }

    /// Notes what an error means for the folder, and makes it an error of following.
    fn note(&mut self, error: DiskError) -> FollowError {
        let (text, full) = (error.to_string(), error == DiskError::Full);
        self.trouble = Some(match error {
            DiskError::Full | DiskError::Locked => Trouble::Reopen,
            DiskError::Row | DiskError::Damaged(_) | DiskError::Io(_) => Trouble::Distrusted(text.clone()),
        });
        if full { StoreError::Full.into() } else { FollowError::Own(text) }
    }

    /// Does what is left to do after trouble. For others positions never go back by it: until it is done they stay.
    async fn heal(&mut self) -> Result<(), FollowError> {
        let Some(trouble) = self.trouble.clone() else { return Ok(()) };
        let reached = self.shared.state.lock().applied.clone();
        let healed = self.restore_up_to(trouble, &reached).await;
        let mut state = self.shared.state.lock();
        match healed {
            Ok(()) => self.trouble = None,
            Err(_) => {
                state.complete = false;
                for (applied, reached) in state.applied.iter_mut().zip(reached) {
                    *applied = reached.max(*applied);
                }
            }
        }
        healed
    }

    async fn restore_up_to(&mut self, trouble: Trouble, reached: &[u64]) -> Result<(), FollowError> {
        self.close().await?;
        self.restore(trouble).await?;
        // From here on the folder is good; only the way back through the journal can fail.
        self.trouble = Some(Trouble::Reopen);
        for (number, target) in (0u16..).zip(reached) {
            let caught_up = self.catch_up(ShardId(number), *target).await;
            if let Err(FollowError::Store(StoreError::Trimmed { shard, up_to })) = &caught_up {
                // What is missing is gone from the journal as well: only the rows have it.
                self.trouble = Some(Trouble::Distrusted(format!("shard {shard} misses batches up to {up_to}")));
            }
            caught_up?;
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

    async fn restore(&mut self, trouble: Trouble) -> Result<(), FollowError> {
        let why = match trouble {
            Trouble::Reopen => {
                let shared = Arc::clone(&self.shared);
                match blocking(move || shared.open_disk()).await {
                    Ok((disk, Content::Complete(positions))) => {
                        self.shared.follow(disk, positions);
                        return Ok(());
                    }
                    Ok((_, Content::Unfinished)) => "it is not complete".to_owned(),
                    Err(error @ (DiskError::Locked | DiskError::Full)) => return Err(own(error)),
                    Err(error) => error.to_string(),
                }
            }
            Trouble::Distrusted(why) => why,
            Trouble::Unfinished => "it is not complete".to_owned(),
        };
        tracing::warn!(%why, "the aggregates are built anew from the message rows");
        // Stays until the rebuild is through: whatever stops it in the middle, it starts over.
        self.trouble = Some(Trouble::Distrusted(why));
        self.rebuild().await
    }

    async fn rebuild(&mut self) -> Result<(), FollowError> {
        let (dir, cache_bytes) = (self.shared.dir.clone(), self.shared.options.cache_bytes);
        let disk = blocking(move || {
            move_aside(&dir)?;
            Disk::open(&dir, cache_bytes)
        });
        let disk = disk.await.map_err(own)?;
        let mut scan = self.shared.rows.scan(None).await?;
        let mut positions = scan.positions().to_vec();
        positions.resize(usize::from(self.shared.shards), 0);
        *self.shared.state.lock() =
            State { disk: Some(Arc::new(disk)), table: Table::default(), applied: positions, complete: false };
        loop {
            let messages = scan.messages(SCAN_ROWS).await?;
            if messages.is_empty() {
                break;
            }
            self.shared.add_rows(&messages, &[]).map_err(own)?;
            self.rebuilt_some().await?;
        }
        loop {
            let inbound = scan.inbound(SCAN_ROWS).await?;
            if inbound.is_empty() {
                break;
            }
            self.shared.add_rows(&[], &inbound).map_err(own)?;
            self.rebuilt_some().await?;
        }
        drop(scan);
        self.write(Until::Complete).await.map_err(own)?;
        self.shared.state.lock().complete = true;
        self.shared.moved.send_modify(|n| *n += 1);
        Ok(())
    }

    async fn rebuilt_some(&self) -> Result<(), FollowError> {
        if self.shared.options.shutdown.is_cancelled() {
            return Err(FollowError::Own("stopped in the middle of a rebuild".into()));
        }
        if self.shared.is_full() {
            self.write(Until::Written).await.map_err(own)?;
        }
        tokio::task::yield_now().await;
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

impl Follower for AggregatesFollower {
    fn name(&self) -> &'static str {
        "aggregates"
    }

    fn position(&self, shard: ShardId) -> u64 {
        self.shared.applied(shard)
    }

    async fn gained(&mut self, _shards: &[(ShardId, Epoch)]) -> Result<(), FollowError> {
        std::future::ready(Ok(())).await
    }

    /// What is counted stays: it is a count of committed batches, whoever led.
    fn lost(&mut self, _shard: ShardId) {}

    fn full(&self) -> bool {
        self.shared.is_full()
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), FollowError> {
        self.heal().await?;
        // A rebuild may have taken us past it.
        if batch.seq <= self.shared.applied(batch.shard) {
            return Ok(());
        }
        self.shared.apply(batch).map_err(|error| self.note(error))
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
        written.map_err(|error| self.note(error))
    }

    async fn missed(&mut self, shard: ShardId, up_to: u64) -> Result<(), FollowError> {
        if self.trouble.is_none() {
            self.trouble = Some(Trouble::Distrusted(format!("shard {shard} misses batches up to {up_to}")));
            self.shared.state.lock().complete = false;
        }
        // What the journal has lost is not to be looked for in it.
        if let Some(applied) = self.shared.state.lock().applied.get_mut(usize::from(shard.0)) {
            *applied = 0;
        }
        self.heal().await?;
        let applied = self.shared.applied(shard);
        if applied < up_to {
            let why = format!("the message rows of shard {shard} end at {applied}, before the journal begins");
            self.trouble = Some(Trouble::Distrusted(why.clone()));
            return Err(FollowError::Own(why));
        }
        Ok(())
    }
}

fn own(error: DiskError) -> FollowError {
    match error {
        DiskError::Full => StoreError::Full.into(),
        other => FollowError::Own(other.to_string()),
    }
}

async fn blocking<T: Send + 'static>(
    f: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
) -> Result<T, DiskError> {
    match tokio::task::spawn_blocking(f).await {
        Ok(result) => result,
        Err(error) => Err(DiskError::Damaged(error.to_string())),
    }
}
