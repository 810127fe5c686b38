//! All followers of a node, told together which shards it leads.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::timeout;

use super::FollowHandle;

/// How long a hand-over may take. After that the next leader finds less prepared and reads more of the journal.
const HAND_OVER_MAX: Duration = Duration::from_secs(10);

/// Which shards are led, for those that have no position of their own to keep.
#[derive(Clone)]
pub struct Leads {
    epochs: Arc<watch::Sender<Box<[u64]>>>,
}

impl Leads {
    /// Of so many shards none is led yet.
    pub fn none(shards: u16) -> Self {
        Self { epochs: Arc::new(watch::Sender::new(vec![0; usize::from(shards)].into())) }
    }

    /// The present leadership of a shard, if there is one.
    pub(super) fn lease(&self, shard: ShardId) -> Option<Lease> {
        let epochs = self.epochs.subscribe();
        let epoch = epochs.borrow().get(usize::from(shard.0)).copied().filter(|epoch| *epoch != 0)?;
        Some(Lease { epochs, shard, epoch })
    }

    pub(super) fn set(&self, shard: ShardId, epoch: Option<Epoch>) {
        let epoch = epoch.map_or(0, |epoch| epoch.0);
        self.epochs.send_if_modified(|epochs| match epochs.get_mut(usize::from(shard.0)) {
            Some(known) if *known != epoch => {
                *known = epoch;
                true
            }
            _ => false,
        });
    }

    /// Ends this leadership, if it is the present one.
    fn end(&self, shard: ShardId, epoch: Epoch) {
        self.epochs.send_if_modified(|epochs| match epochs.get_mut(usize::from(shard.0)) {
            Some(known) if *known == epoch.0 => {
                *known = 0;
                true
            }
            _ => false,
        });
    }
}

/// One leadership of one shard.
pub(super) struct Lease {
    epochs: watch::Receiver<Box<[u64]>>,
    shard: ShardId,
    epoch: u64,
}

impl Lease {
    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn is_over(&self) -> bool {
        is_over(&self.epochs.borrow(), self.shard, self.epoch)
    }

    /// Returns when it is over. Cancel safe.
    pub(super) async fn over(&mut self) {
        let (shard, epoch) = (self.shard, self.epoch);
        // An error means that the node is gone, and its leaderships with it.
        let _ = self.epochs.wait_for(|epochs| is_over(epochs, shard, epoch)).await;
    }
}

fn is_over(epochs: &[u64], shard: ShardId, epoch: u64) -> bool {
    epochs.get(usize::from(shard.0)) != Some(&epoch)
}

/// The followers of a node. Cheap to clone.
#[derive(Clone)]
pub struct Followers {
    handles: Arc<[FollowHandle]>,
    leads: Leads,
    /// Shards are taken and lost by different tasks: each change is made as a whole.
    turn: Arc<Mutex<()>>,
}

impl Followers {
    pub fn new(handles: impl Into<Arc<[FollowHandle]>>, leads: Leads) -> Self {
        Self { handles: handles.into(), leads, turn: Arc::default() }
    }

    /// This node is to lead the shard. Whoever asks for it waits from now on.
    pub fn coming(&self, shard: ShardId, epoch: Epoch) {
        let _turn = self.turn.lock();
        self.leads.set(shard, None);
        self.handles.iter().for_each(|follower| follower.coming(shard, epoch));
    }

    /// The shard's journal is taken under this epoch: nobody else commits to it any more, and it can be followed. May be
    /// repeated. Without effect when the shard has been lost meanwhile.
    pub fn lead(&self, shard: ShardId, epoch: Epoch) {
        let _turn = self.turn.lock();
        self.handles.iter().for_each(|follower| follower.lead(shard, epoch));
        if self.handles.first().is_none_or(|follower| follower.still_led(shard, epoch).is_ok()) {
            self.leads.set(shard, Some(epoch));
        }
    }

    /// Another node may lead it already: nothing more of it is written here.
    pub fn lost(&self, shard: ShardId) {
        let _turn = self.turn.lock();
        self.leads.set(shard, None);
        self.handles.iter().for_each(|follower| follower.lost(shard));
    }

    /// The shard has made its last commit here: stores everything that the next leader would otherwise take from the journal.
    /// Returns when that is done, or takes too long; then the shard is not followed any more.
    pub async fn drained(&self, shard: ShardId, epoch: Epoch) {
        let all = join_all(self.handles.iter().map(|follower| follower.drained(shard, epoch)));
        if timeout(HAND_OVER_MAX, all).await.is_err() {
            tracing::warn!(%shard, "followers do not come to an end; the next leader takes the rest from the journal");
        }
        let _turn = self.turn.lock();
        self.leads.end(shard, epoch);
        self.handles.iter().for_each(|follower| follower.end(shard, epoch));
    }

    /// Gauges of each follower, over the shards that are led.
    pub fn observe(&self) {
        for follower in self.handles.iter() {
            let (name, lag) = (follower.name(), follower.lag());
            metrics::gauge!("flotilla_follower_shards", "follower" => name).set(follower.followed() as f64);
            metrics::gauge!("flotilla_follower_behind_batches", "follower" => name).set(lag.batches as f64);
            metrics::gauge!("flotilla_follower_behind_events", "follower" => name).set(lag.events as f64);
            metrics::gauge!("flotilla_follower_unsafe_batches", "follower" => name)
                .set(follower.unsafe_batches() as f64);
        }
    }
}
