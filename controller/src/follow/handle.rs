//! How far a follower is, shard by shard, and what this node is to each shard: written by the driver and by those who tell
//! of leadership, read by those who wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use flotilla_protocol::id::{Epoch, ShardId};
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};

use crate::store::{Feed, Journal, StoreError};

/// How far a follower is behind the journal of the shards that it follows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    pub batches: u64,
    /// Without those that were already in the journal when the shard was gained.
    pub events: u64,
}

/// What this node is to a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Standing {
    /// Another node leads it, or none.
    #[default]
    Away,
    /// Its journal is being taken: whoever waits for it shall go on waiting.
    Coming(Epoch),
    Led(Epoch),
    /// Nothing is committed any more; what was is taken, flushed, synced and handed over.
    Leaving(Epoch),
}

impl Standing {
    /// The epoch under which the shard is to be followed; 0 when it is not.
    pub(super) fn followed(self) -> u64 {
        match self {
            Self::Led(epoch) | Self::Leaving(epoch) => epoch.0,
            Self::Away | Self::Coming(_) => 0,
        }
    }
}

/// The shared view of one follower's progress.
pub(super) struct Progress {
    pub(super) name: &'static str,
    pub(super) shards: Box<[ShardProgress]>,
    standings: Mutex<Box<[Standing]>>,
    /// Counts changes of the standings.
    pub(super) changes: AtomicU64,
    /// Somebody waits, or a standing has changed.
    pub(super) wake: Notify,
    /// Something has moved, or trouble began or ended.
    pub(super) moved: watch::Sender<u64>,
    pub(super) trouble: Mutex<Option<StoreError>>,
    pub(super) stopped: AtomicBool,
}

/// Of the present leadership; without meaning while `epoch` is not the present one.
#[derive(Default)]
pub(super) struct ShardProgress {
    /// Under which the driver follows it; 0 while it does not.
    pub(super) epoch: AtomicU64,
    pub(super) taken: AtomicU64,
    pub(super) flushed: AtomicU64,
    pub(super) durable: AtomicU64,
    /// What somebody waits to see flushed.
    pub(super) wanted: AtomicU64,
    /// Of the events that this process has seen committed: those that are taken, or were there when the shard was gained.
    pub(super) events: AtomicU64,
}

impl Progress {
    pub(super) fn new(name: &'static str, shards: u16) -> Self {
        Self {
            name,
            shards: (0..shards).map(|_| ShardProgress::default()).collect(),
            standings: Mutex::new(vec![Standing::Away; usize::from(shards)].into()),
            changes: AtomicU64::new(0),
            wake: Notify::new(),
            moved: watch::Sender::new(0),
            trouble: Mutex::new(None),
            stopped: AtomicBool::new(false),
        }
    }

    pub(super) fn announce(&self) {
        self.moved.send_modify(|n| *n += 1);
    }

    pub(super) fn set_trouble(&self, trouble: Option<StoreError>) {
        let mut current = self.trouble.lock();
        if *current != trouble {
            *current = trouble;
            drop(current);
            self.announce();
        }
    }

    pub(super) fn standing(&self, shard: ShardId) -> Standing {
        self.standings.lock().get(usize::from(shard.0)).copied().unwrap_or_default()
    }

    /// Changes a standing and tells whoever has to know. What it was before.
    pub(super) fn change(&self, shard: ShardId, to: impl FnOnce(Standing) -> Standing) -> Standing {
        let mut standings = self.standings.lock();
        let Some(standing) = standings.get_mut(usize::from(shard.0)) else { return Standing::Away };
        let before = *standing;
        *standing = to(before);
        let changed = *standing != before;
        drop(standings);
        if changed {
            self.changes.fetch_add(1, Ordering::AcqRel);
            self.wake.notify_one();
            self.announce();
        }
        before
    }

    pub(super) fn of(&self, shard: ShardId) -> Result<&ShardProgress, StoreError> {
        self.shards.get(usize::from(shard.0)).ok_or(StoreError::NoSuchShard { shard })
    }
}

impl ShardProgress {
    fn is_followed(&self) -> bool {
        self.epoch.load(Ordering::Acquire) != 0
    }
}

/// Asks a follower how far it is, and waits for it. Of shards that this node does not lead it says so:
/// [`StoreError::NotLeading`], also to those who wait already.
#[derive(Clone)]
pub struct FollowHandle {
    pub(super) progress: Arc<Progress>,
    pub(super) journal: Arc<dyn Journal>,
    pub(super) feed: Feed,
}

impl FollowHandle {
    pub fn name(&self) -> &'static str {
        self.progress.name
    }

    /// Returns when everything that was committed before the call is visible in what the follower has flushed. Makes it flush
    /// at once; all who wait share one flush. Fails while the follower or the journal has trouble.
    pub async fn caught_up(&self, shard: ShardId) -> Result<(), StoreError> {
        let target = self.target(shard).await?;
        let one = self.progress.of(shard)?;
        if self.reached(shard, &one.flushed, target)?.is_some() {
            return Ok(());
        }
        one.wanted.fetch_max(target, Ordering::AcqRel);
        self.progress.wake.notify_one();
        self.wait(shard, |one| &one.flushed, target).await.map(drop)
    }

    /// Like `caught_up`, but what it has taken in memory is enough. Answers under which epoch: what is then read from that
    /// memory is good if the shard is [still led](Self::still_led) under it afterwards.
    pub async fn taken(&self, shard: ShardId) -> Result<Epoch, StoreError> {
        let target = self.target(shard).await?;
        self.wait(shard, |one| &one.taken, target).await
    }

    pub fn still_led(&self, shard: ShardId, epoch: Epoch) -> Result<(), StoreError> {
        let led = self.progress.standing(shard).followed() == epoch.0;
        if led { Ok(()) } else { Err(StoreError::NotLeading { shard }) }
    }

    /// How far the follower is behind; what it holds in memory and has not flushed counts as taken.
    pub fn lag(&self) -> Lag {
        let mut lag = Lag::default();
        self.feed.each(|shard, last, events| {
            let Some(one) = self.progress.shards.get(usize::from(shard.0)).filter(|one| one.is_followed()) else {
                return;
            };
            lag.batches += last.saturating_sub(one.taken.load(Ordering::Acquire));
            lag.events += events.saturating_sub(one.events.load(Ordering::Acquire));
        });
        lag
    }

    /// Batches of the followed shards that would be lost with this node if the journal did not keep them.
    pub fn unsafe_batches(&self) -> u64 {
        let mut batches = 0;
        self.feed.each(|shard, last, _| batches += self.durable(shard).map_or(0, |at| last.saturating_sub(at)));
        batches
    }

    /// How many shards it follows.
    pub fn followed(&self) -> usize {
        self.progress.shards.iter().filter(|one| one.is_followed()).count()
    }

    /// The sequence up to which the follower's data of a followed shard survive a power cut and the loss of this node.
    pub fn durable(&self, shard: ShardId) -> Option<u64> {
        let one = self.progress.shards.get(usize::from(shard.0)).filter(|one| one.is_followed())?;
        Some(one.durable.load(Ordering::Acquire))
    }

    /// The shard is this node's, and will be followed as soon as its journal is [taken](Self::lead).
    pub(super) fn coming(&self, shard: ShardId, epoch: Epoch) {
        self.progress.change(shard, |_| Standing::Coming(epoch));
    }

    /// The journal is taken. Without effect when the shard has been lost meanwhile, or is led already.
    pub(super) fn lead(&self, shard: ShardId, epoch: Epoch) {
        self.progress.change(shard, |standing| match standing {
            Standing::Coming(coming) if coming == epoch => Standing::Led(epoch),
            other => other,
        });
    }

    pub(super) fn lost(&self, shard: ShardId) {
        self.progress.change(shard, |_| Standing::Away);
    }

    /// Ends this leadership, if it is the present one.
    pub(super) fn end(&self, shard: ShardId, epoch: Epoch) {
        self.progress.change(shard, |standing| match standing {
            Standing::Coming(of) | Standing::Led(of) | Standing::Leaving(of) if of == epoch => Standing::Away,
            other => other,
        });
    }

    /// Returns when everything of the shard is stored for the next leader, or when this leadership ends before that.
    pub(super) async fn drained(&self, shard: ShardId, epoch: Epoch) {
        let mut moved = self.progress.moved.subscribe();
        let leaving = Standing::Leaving(epoch);
        self.progress.change(shard, |standing| if standing == Standing::Led(epoch) { leaving } else { standing });
        while self.progress.standing(shard) == leaving && !self.progress.stopped.load(Ordering::Acquire) {
            // The sender lives in `progress`, so this cannot fail while we hold it.
            let _ = moved.changed().await;
        }
    }

    async fn target(&self, shard: ShardId) -> Result<u64, StoreError> {
        // Nobody asks a store about shards that others lead.
        if self.progress.standing(shard) == Standing::Away {
            self.progress.of(shard)?;
            return Err(StoreError::NotLeading { shard });
        }
        self.journal.last(shard).await
    }

    /// The epoch, if the position is reached under the present one.
    fn reached(&self, shard: ShardId, position: &AtomicU64, target: u64) -> Result<Option<Epoch>, StoreError> {
        let epoch = match self.progress.standing(shard) {
            Standing::Away => return Err(StoreError::NotLeading { shard }),
            Standing::Coming(_) => return Ok(None),
            Standing::Led(epoch) | Standing::Leaving(epoch) => epoch,
        };
        let is_followed = self.progress.of(shard)?.epoch.load(Ordering::Acquire) == epoch.0;
        Ok((is_followed && position.load(Ordering::Acquire) >= target).then_some(epoch))
    }

    async fn wait(
        &self,
        shard: ShardId,
        position: impl Fn(&ShardProgress) -> &AtomicU64,
        target: u64,
    ) -> Result<Epoch, StoreError> {
        let mut moved = self.progress.moved.subscribe();
        loop {
            if let Some(epoch) = self.reached(shard, position(self.progress.of(shard)?), target)? {
                return Ok(epoch);
            }
            if let Some(trouble) = self.progress.trouble.lock().clone() {
                return Err(trouble);
            }
            let _ = moved.changed().await;
        }
    }
}
