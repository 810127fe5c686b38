//! Which shards this node leads, by tenant.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId, TenantId};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::handle::{ShardError, ShardHandle};

/// The shards that this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    led: Arc<RwLock<Vec<Option<ShardHandle>>>>,
    /// Moves when a shard is gained, begins to serve, ceases to, or is gone.
    changes: watch::Sender<()>,
}

impl Shards {
    /// For a store with so many shards; none of them is led yet.
    pub fn new(shards: u16) -> Self {
        Self { led: Arc::new(RwLock::new(vec![None; usize::from(shards)])), changes: watch::Sender::new(()) }
    }

    /// The shard of a tenant. [`ShardError::NotLeading`] when another node leads it, or none.
    pub fn of(&self, tenant: TenantId) -> Result<ShardHandle, ShardError> {
        let led = self.led.read();
        let shard = ShardId::of(tenant, led.len() as u16);
        led.get(usize::from(shard.0)).cloned().flatten().ok_or(ShardError::NotLeading)
    }

    /// Whether this node leads the tenant's shard, and the shard has started.
    pub fn serves(&self, tenant: TenantId) -> bool {
        let led = self.led.read();
        let shard = ShardId::of(tenant, led.len() as u16);
        led.get(usize::from(shard.0)).is_some_and(|led| led.as_ref().is_some_and(ShardHandle::serves))
    }

    /// The epoch under which this node leads a shard that has started.
    pub fn serving(&self, shard: ShardId) -> Option<Epoch> {
        let led = self.led.read();
        led.get(usize::from(shard.0))?.as_ref().filter(|led| led.serves()).map(ShardHandle::epoch)
    }

    /// Word of every change in that.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    pub(super) fn changer(&self) -> watch::Sender<()> {
        self.changes.clone()
    }

    /// All led shards.
    pub fn all(&self) -> Vec<ShardHandle> {
        self.led.read().iter().flatten().cloned().collect()
    }

    pub(super) fn set(&self, shard: ShardId, handle: Option<ShardHandle>) {
        if let Some(place) = self.led.write().get_mut(usize::from(shard.0)) {
            *place = handle;
        }
        self.changes.send_replace(());
    }
}
