//! Drives one follower: tells it which shards it follows, reads what it has not yet taken of them, flushes by age, by its own
//! limit, or when somebody waits, and tells how far it is. One task per follower; it stops when its shutdown token is
//! cancelled, after a last flush and sync.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::handle::{FollowHandle, Progress, ShardProgress, Standing};
use super::{FollowError, Follower};
use crate::store::{Feed, Journal, StoreError};

/// Encoded bytes taken from one shard before the next one has its turn.
const READ_BYTES: usize = 1 << 20;
/// Pauses after an error, doubling.
const RETRY_MIN: Duration = Duration::from_millis(20);
/// A shard that starts waits for its rows: how long a store may be back before anybody notices.
const RETRY_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Copy)]
pub struct FollowOptions {
    /// Oldest change that is kept from queries while nobody waits for it.
    pub flush_after: Duration,
    /// How often what was flushed is made safe from power cuts.
    pub sync_after: Duration,
}

impl Default for FollowOptions {
    fn default() -> Self {
        Self { flush_after: Duration::from_secs(1), sync_after: Duration::from_secs(5) }
    }
}

/// Starts to follow; no shard yet, until the handle is told. The task ends after `shutdown`, when everything that was
/// committed by then to led shards is taken, flushed and synced.
pub fn follow<F: Follower>(
    follower: F,
    journal: Arc<dyn Journal>,
    options: FollowOptions,
    shutdown: CancellationToken,
) -> (FollowHandle, JoinHandle<()>) {
    let feed = journal.feed();
    let shards = journal.shards();
    let progress = Arc::new(Progress::new(follower.name(), shards));
    let handle = FollowHandle { progress: Arc::clone(&progress), journal: Arc::clone(&journal), feed: feed.clone() };
    let driver = Driver {
        follower,
        journal,
        feed,
        options,
        progress,
        shards: vec![Followed::default(); usize::from(shards)],
        changes_seen: 0,
        leaving: false,
        unflushed_since: None,
        unsynced_since: None,
        retry: RETRY_MIN,
    };
    (handle, tokio::spawn(driver.run(shutdown)))
}

struct Driver<F> {
    follower: F,
    journal: Arc<dyn Journal>,
    feed: Feed,
    options: FollowOptions,
    progress: Arc<Progress>,
    shards: Vec<Followed>,
    /// The change of standings that has been acted on.
    changes_seen: u64,
    /// Some shard is to be handed over.
    leaving: bool,
    /// When the oldest change was taken that is not flushed, flushed that is not synced.
    unflushed_since: Option<Instant>,
    unsynced_since: Option<Instant>,
    retry: Duration,
}

#[derive(Clone, Copy, Default)]
struct Followed {
    /// 0 while it is not followed.
    epoch: u64,
    /// Where the journal was when it was gained, to count events from there.
    begin: u64,
    synced: u64,
}

impl<F: Follower> Driver<F> {
    async fn run(mut self, shutdown: CancellationToken) {
        loop {
            match self.round().await {
                Ok(true) => {}
                Ok(false) if shutdown.is_cancelled() => break,
                Ok(false) => self.rest(&shutdown).await,
                Err(error) => {
                    self.report(&error);
                    if shutdown.is_cancelled() {
                        break;
                    }
                    self.pause(&shutdown).await;
                }
            }
        }
        let end = async {
            self.flush().await?;
            self.sync().await?;
            self.follower.end().await
        };
        if let Err(error) = end.await {
            tracing::warn!(follower = self.progress.name, %error, "not flushed at the end; the journal still has it");
        }
        let stopped = StoreError::Unavailable(format!("{} has stopped", self.progress.name));
        self.progress.stopped.store(true, Ordering::Release);
        self.progress.set_trouble(Some(stopped));
    }

    /// Gives every followed shard one turn, then flushes and syncs what is due. True while there is more to take.
    async fn round(&mut self) -> Result<bool, FollowError> {
        self.change_shards().await?;
        let mut more = false;
        for number in 0..self.shards.len() {
            if self.shards[number].epoch != 0 {
                more |= self.take(ShardId(number as u16)).await?;
            }
        }
        if self.flush_due() {
            self.flush().await?;
        }
        if self.unsynced_since.is_some_and(|since| since.elapsed() >= self.options.sync_after) {
            self.sync().await?;
        }
        more |= self.hand_over().await?;
        more |= self.follower.step().await?;
        self.note_durable();
        self.retry = RETRY_MIN;
        self.progress.set_trouble(None);
        Ok(more)
    }

    fn followed(&self) -> impl Iterator<Item = (ShardId, &Followed)> {
        let shards = (0u16..).zip(&self.shards).filter(|(_, one)| one.epoch != 0);
        shards.map(|(number, one)| (ShardId(number), one))
    }

    /// Lets go of the shards that were lost, and begins with those that were gained.
    async fn change_shards(&mut self) -> Result<(), FollowError> {
        let changes = self.progress.changes.load(Ordering::Acquire);
        if changes == self.changes_seen {
            return Ok(());
        }
        let mut gained = Vec::new();
        self.leaving = false;
        for number in 0..self.shards.len() {
            let shard = ShardId(number as u16);
            let standing = self.progress.standing(shard);
            let (followed, wanted) = (self.shards[number].epoch, standing.followed());
            self.leaving |= matches!(standing, Standing::Leaving(_));
            if followed != wanted && followed != 0 {
                self.let_go(shard);
            }
            if followed != wanted && wanted != 0 {
                gained.push((shard, Epoch(wanted)));
            }
        }
        if !gained.is_empty() {
            self.follower.gained(&gained).await?;
            for (shard, epoch) in gained {
                self.begin(shard, epoch);
            }
            self.progress.announce();
        }
        self.changes_seen = changes;
        Ok(())
    }

    fn begin(&mut self, shard: ShardId, epoch: Epoch) {
        let position = self.follower.position(shard);
        let (begin, events) = self.feed.place(shard);
        self.shards[usize::from(shard.0)] = Followed { epoch: epoch.0, begin, synced: position };
        let one = self.progress_of(shard);
        one.taken.store(position, Ordering::Release);
        one.flushed.store(position, Ordering::Release);
        one.durable.store(self.follower.safe(shard, position), Ordering::Release);
        one.events.store(events, Ordering::Release);
        one.epoch.store(epoch.0, Ordering::Release);
        tracing::debug!(follower = self.progress.name, %shard, %epoch, position, last = begin, "follows");
    }

    fn let_go(&mut self, shard: ShardId) {
        self.follower.lost(shard);
        self.shards[usize::from(shard.0)] = Followed::default();
        let one = self.progress_of(shard);
        one.epoch.store(0, Ordering::Release);
        one.wanted.store(0, Ordering::Release);
    }

    fn progress_of(&self, shard: ShardId) -> &ShardProgress {
        &self.progress.shards[usize::from(shard.0)]
    }

    async fn take(&mut self, shard: ShardId) -> Result<bool, FollowError> {
        let after = self.follower.position(shard);
        let (last, events) = self.feed.place(shard);
        if after >= last {
            let one = self.progress_of(shard);
            one.events.store(events, Ordering::Release);
            // A follower that has healed itself may be further than what it was given.
            if one.taken.load(Ordering::Acquire) < after {
                self.note_taken(shard, 0);
                self.progress.announce();
            }
            return Ok(false);
        }
        let batches = match self.journal.read(shard, after, READ_BYTES).await {
            Ok(batches) => batches,
            Err(StoreError::Trimmed { up_to, .. }) => {
                tracing::error!(follower = self.progress.name, %shard, after, up_to, "the journal no longer has what it missed");
                self.follower.missed(shard, up_to).await?;
                self.note_taken(shard, 0);
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        };
        for batch in &batches {
            if self.follower.full() {
                self.flush().await?;
            }
            self.follower.apply(batch).await?;
            let fresh = batch.seq > self.shards[usize::from(shard.0)].begin;
            self.note_taken(shard, if fresh { batch.events.len() as u64 } else { 0 });
        }
        self.progress.announce();
        Ok(self.follower.position(shard) < self.feed.last(shard))
    }

    fn note_taken(&mut self, shard: ShardId, events: u64) {
        self.unflushed_since.get_or_insert_with(Instant::now);
        let one = self.progress_of(shard);
        one.taken.store(self.follower.position(shard), Ordering::Release);
        one.events.fetch_add(events, Ordering::AcqRel);
    }

    fn flush_due(&self) -> bool {
        let Some(since) = self.unflushed_since else { return false };
        since.elapsed() >= self.options.flush_after || self.follower.full() || self.somebody_waits()
    }

    fn somebody_waits(&self) -> bool {
        self.followed().any(|(shard, _)| {
            let one = self.progress_of(shard);
            one.wanted.load(Ordering::Acquire) > one.flushed.load(Ordering::Acquire)
        })
    }

    async fn flush(&mut self) -> Result<(), FollowError> {
        self.follower.flush().await?;
        self.unflushed_since = None;
        self.unsynced_since.get_or_insert_with(Instant::now);
        for (shard, _) in self.followed() {
            let one = self.progress_of(shard);
            // The follower may have found that the store is further than it was.
            let position = one.taken.load(Ordering::Acquire).max(self.follower.position(shard));
            one.taken.store(position, Ordering::Release);
            one.flushed.store(position, Ordering::Release);
        }
        self.progress.announce();
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), FollowError> {
        self.follower.sync().await?;
        self.unsynced_since = None;
        for (followed, one) in self.shards.iter_mut().zip(&self.progress.shards) {
            followed.synced = one.flushed.load(Ordering::Acquire);
        }
        self.note_durable();
        self.progress.announce();
        Ok(())
    }

    fn note_durable(&self) {
        for (shard, followed) in self.followed() {
            let safe = self.follower.safe(shard, followed.synced);
            self.progress_of(shard).durable.store(safe, Ordering::Release);
        }
    }

    /// Finishes the shards that are leaving and have been taken to their end, all of them with one flush. True while some are
    /// not that far.
    async fn hand_over(&mut self) -> Result<bool, FollowError> {
        if !self.leaving {
            return Ok(false);
        }
        let is_leaving = |shard: &ShardId| matches!(self.progress.standing(*shard), Standing::Leaving(_));
        let leaving: Vec<ShardId> = self.followed().map(|(shard, _)| shard).filter(is_leaving).collect();
        let (done, rest): (Vec<_>, Vec<_>) =
            leaving.into_iter().partition(|shard| self.follower.position(*shard) >= self.feed.last(*shard));
        if done.is_empty() {
            return Ok(!rest.is_empty());
        }
        if self.unflushed_since.is_some() {
            self.flush().await?;
        }
        if self.unsynced_since.is_some() {
            self.sync().await?;
        }
        self.follower.hand_over(&done).await?;
        for shard in done {
            let epoch = Epoch(self.shards[usize::from(shard.0)].epoch);
            self.let_go(shard);
            self.progress.change(shard, |standing| match standing {
                Standing::Leaving(leaving) if leaving == epoch => Standing::Away,
                other => other,
            });
        }
        Ok(!rest.is_empty())
    }

    /// Waits for something to do.
    async fn rest(&mut self, shutdown: &CancellationToken) {
        let flush_at = self.unflushed_since.map(|since| since + self.options.flush_after);
        let sync_at = self.unsynced_since.map(|since| since + self.options.sync_after);
        let next = [flush_at, sync_at, self.follower.step_at()].into_iter().flatten().min();
        let timer = async {
            match next {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.feed.changed() => {}
            () = self.progress.wake.notified() => {}
            () = timer => {}
            () = shutdown.cancelled() => {}
        }
    }

    async fn pause(&mut self, shutdown: &CancellationToken) {
        tokio::select! {
            () = tokio::time::sleep(self.retry) => {}
            () = shutdown.cancelled() => {}
        }
        self.retry = (self.retry * 2).min(RETRY_MAX);
    }

    fn report(&self, error: &FollowError) {
        tracing::warn!(follower = self.progress.name, %error, retry_ms = self.retry.as_millis() as u64, "cannot follow the journal");
        self.progress.set_trouble(Some(match error {
            // Whoever waits is to know the remedy.
            FollowError::Store(StoreError::Full) => StoreError::Full,
            other => StoreError::Unavailable(format!("{}: {other}", self.progress.name)),
        }));
    }
}

#[cfg(test)]
mod tests;
