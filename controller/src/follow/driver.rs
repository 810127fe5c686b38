//! Drives one follower: reads what it has not yet taken, flushes by age, by its own limit, or when somebody waits, and tells
//! how far it is. One task per follower; it stops when its shutdown token is cancelled, after a last flush and sync.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_protocol::id::ShardId;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{FollowError, Follower};
use crate::store::{Feed, Journal, StoreError};

/// Encoded bytes taken from one shard before the next one has its turn.
const READ_BYTES: usize = 1 << 20;
/// Pauses after an error, doubling.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(5);

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

/// How far a follower is behind the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    pub batches: u64,
    /// Without those that were already in the journal when this process began to follow.
    pub events: u64,
}

/// Starts to follow. The task ends after `shutdown`, when everything that was committed by then is taken, flushed and synced.
pub fn follow<F: Follower>(
    follower: F,
    journal: Arc<dyn Journal>,
    options: FollowOptions,
    shutdown: CancellationToken,
) -> (FollowHandle, JoinHandle<()>) {
    let feed = journal.feed();
    let shards = journal.shards();
    let positions =
        |at: &dyn Fn(ShardId) -> u64| (0..shards).map(|n| AtomicU64::new(at(ShardId(n)))).collect::<Box<_>>();
    let progress = Arc::new(Progress {
        name: follower.name(),
        taken: positions(&|shard| follower.position(shard)),
        flushed: positions(&|shard| follower.position(shard)),
        durable: positions(&|shard| follower.position(shard)),
        wanted: positions(&|_| 0),
        begin: feed.positions(),
        events_begin: feed.events(),
        events_taken: AtomicU64::new(0),
        wake: Notify::new(),
        moved: watch::Sender::new(0),
        trouble: Mutex::new(None),
    });
    let handle = FollowHandle { progress: Arc::clone(&progress), journal: Arc::clone(&journal), feed: feed.clone() };
    let driver = Driver {
        follower,
        journal,
        feed,
        options,
        progress,
        shards,
        unflushed_since: None,
        unsynced_since: None,
        retry: RETRY_MIN,
    };
    (handle, tokio::spawn(driver.run(shutdown)))
}

/// The shared view of one follower's progress.
struct Progress {
    name: &'static str,
    taken: Box<[AtomicU64]>,
    flushed: Box<[AtomicU64]>,
    durable: Box<[AtomicU64]>,
    /// What somebody waits to see flushed.
    wanted: Box<[AtomicU64]>,
    /// Where the journal was when the driver started, to count events from there.
    begin: Vec<u64>,
    events_begin: u64,
    events_taken: AtomicU64,
    /// Somebody waits.
    wake: Notify,
    /// Something has moved, or trouble began or ended.
    moved: watch::Sender<u64>,
    trouble: Mutex<Option<StoreError>>,
}

impl Progress {
    fn announce(&self) {
        self.moved.send_modify(|n| *n += 1);
    }

    fn set_trouble(&self, trouble: Option<StoreError>) {
        let mut current = self.trouble.lock();
        if *current != trouble {
            *current = trouble;
            drop(current);
            self.announce();
        }
    }
}

/// Asks a follower how far it is, and waits for it.
#[derive(Clone)]
pub struct FollowHandle {
    progress: Arc<Progress>,
    journal: Arc<dyn Journal>,
    feed: Feed,
}

impl FollowHandle {
    pub fn name(&self) -> &'static str {
        self.progress.name
    }

    /// Returns when everything that was committed before the call is visible in what the follower has flushed. Makes it flush
    /// at once; all who wait share one flush. Fails while the follower or the journal has trouble.
    pub async fn caught_up(&self, shard: ShardId) -> Result<(), StoreError> {
        let target = self.journal.last(shard).await?;
        let flushed = self.place(&self.progress.flushed, shard)?;
        if flushed.load(Ordering::Acquire) >= target {
            return Ok(());
        }
        self.place(&self.progress.wanted, shard)?.fetch_max(target, Ordering::AcqRel);
        self.progress.wake.notify_one();
        self.wait(flushed, target).await
    }

    /// Like `caught_up`, but what it has taken in memory is enough.
    pub async fn taken(&self, shard: ShardId) -> Result<(), StoreError> {
        let target = self.journal.last(shard).await?;
        self.wait(self.place(&self.progress.taken, shard)?, target).await
    }

    async fn wait(&self, position: &AtomicU64, target: u64) -> Result<(), StoreError> {
        let mut moved = self.progress.moved.subscribe();
        while position.load(Ordering::Acquire) < target {
            if let Some(trouble) = self.progress.trouble.lock().clone() {
                return Err(trouble);
            }
            // The sender lives in `progress`, so this cannot fail while we hold it.
            let _ = moved.changed().await;
        }
        Ok(())
    }

    /// How far the follower is behind; what it holds in memory and has not flushed counts as taken.
    pub fn lag(&self) -> Lag {
        let taken = |shard: usize| self.progress.taken[shard].load(Ordering::Acquire);
        let behind =
            self.feed.positions().iter().enumerate().map(|(shard, last)| last.saturating_sub(taken(shard))).sum();
        let committed = self.feed.events() - self.progress.events_begin;
        Lag { batches: behind, events: committed.saturating_sub(self.progress.events_taken.load(Ordering::Acquire)) }
    }

    /// The sequence up to which the follower's data survive a power cut.
    pub fn durable(&self, shard: ShardId) -> u64 {
        self.place(&self.progress.durable, shard).map_or(0, |position| position.load(Ordering::Acquire))
    }

    fn place<'a>(&self, positions: &'a [AtomicU64], shard: ShardId) -> Result<&'a AtomicU64, StoreError> {
        positions.get(usize::from(shard.0)).ok_or(StoreError::NoSuchShard { shard })
    }
}

struct Driver<F> {
    follower: F,
    journal: Arc<dyn Journal>,
    feed: Feed,
    options: FollowOptions,
    progress: Arc<Progress>,
    shards: u16,
    /// When the oldest change was taken that is not flushed, flushed that is not synced.
    unflushed_since: Option<Instant>,
    unsynced_since: Option<Instant>,
    retry: Duration,
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
                    tokio::select! {
                        () = tokio::time::sleep(self.retry) => {}
                        () = shutdown.cancelled() => {}
                    }
                    self.retry = (self.retry * 2).min(RETRY_MAX);
                }
            }
        }
        let end = async {
            self.flush().await?;
            self.sync().await
        };
        if let Err(error) = end.await {
            tracing::warn!(follower = self.progress.name, %error, "not flushed at the end; the journal still has it");
        }
        let stopped = StoreError::Unavailable(format!("{} has stopped", self.progress.name));
        self.progress.set_trouble(Some(stopped));
    }

    /// Gives every shard one turn, then flushes and syncs what is due. True while there is more to take.
    async fn round(&mut self) -> Result<bool, FollowError> {
        let mut more = false;
        for number in 0..self.shards {
            more |= self.take(ShardId(number)).await?;
        }
        if self.flush_due() {
            self.flush().await?;
        }
        if self.unsynced_since.is_some_and(|since| since.elapsed() >= self.options.sync_after) {
            self.sync().await?;
        }
        self.retry = RETRY_MIN;
        self.progress.set_trouble(None);
        Ok(more)
    }

    async fn take(&mut self, shard: ShardId) -> Result<bool, FollowError> {
        let after = self.follower.position(shard);
        if after >= self.feed.last(shard) {
            // A follower that has healed itself may be further than what it was given.
            if self.progress.taken[usize::from(shard.0)].load(Ordering::Acquire) < after {
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
            let fresh = batch.seq > self.progress.begin[usize::from(shard.0)];
            self.note_taken(shard, if fresh { batch.events.len() as u64 } else { 0 });
        }
        self.progress.announce();
        Ok(self.follower.position(shard) < self.feed.last(shard))
    }

    fn note_taken(&mut self, shard: ShardId, events: u64) {
        self.unflushed_since.get_or_insert_with(Instant::now);
        self.progress.taken[usize::from(shard.0)].store(self.follower.position(shard), Ordering::Release);
        self.progress.events_taken.fetch_add(events, Ordering::AcqRel);
    }

    fn flush_due(&self) -> bool {
        let Some(since) = self.unflushed_since else { return false };
        since.elapsed() >= self.options.flush_after || self.follower.full() || self.somebody_waits()
    }

    fn somebody_waits(&self) -> bool {
        let pairs = self.progress.wanted.iter().zip(&self.progress.flushed);
        pairs.into_iter().any(|(wanted, flushed)| wanted.load(Ordering::Acquire) > flushed.load(Ordering::Acquire))
    }

    async fn flush(&mut self) -> Result<(), FollowError> {
        self.follower.flush().await?;
        self.unflushed_since = None;
        self.unsynced_since.get_or_insert_with(Instant::now);
        copy(&self.progress.taken, &self.progress.flushed);
        self.progress.announce();
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), FollowError> {
        self.follower.sync().await?;
        self.unsynced_since = None;
        copy(&self.progress.flushed, &self.progress.durable);
        self.progress.announce();
        Ok(())
    }

    /// Waits for something to do.
    async fn rest(&mut self, shutdown: &CancellationToken) {
        let flush_at = self.unflushed_since.map(|since| since + self.options.flush_after);
        let sync_at = self.unsynced_since.map(|since| since + self.options.sync_after);
        let next = [flush_at, sync_at].into_iter().flatten().min();
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

    fn report(&self, error: &FollowError) {
        tracing::warn!(follower = self.progress.name, %error, retry_ms = self.retry.as_millis() as u64, "cannot follow the journal");
        self.progress.set_trouble(Some(match error {
            // Whoever waits is to know the remedy.
            FollowError::Store(StoreError::Full) => StoreError::Full,
            other => StoreError::Unavailable(format!("{}: {other}", self.progress.name)),
        }));
    }
}

fn copy(from: &[AtomicU64], to: &[AtomicU64]) {
    for (from, to) in from.iter().zip(to) {
        to.store(from.load(Ordering::Acquire), Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
