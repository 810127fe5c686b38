//! Which shards this node leads, by tenant.

use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId};
use parking_lot::RwLock;
use tokio::sync::watch;

use super::handle::{ShardError, ShardHandle};

/// The shards that this node leads. Cheap to clone.
#[derive(Clone)]
pub struct Shards {
    led: Arc<RwLock<Vec<Option<ShardHandle>>>>,
    /// Moves when a shard is gained or given up.
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

    /// Whether this node leads the tenant's shard.
    pub fn leads(&self, tenant: TenantId) -> bool {
        let led = self.led.read();
        let shard = ShardId::of(tenant, led.len() as u16);
        led.get(usize::from(shard.0)).is_some_and(Option::is_some)
    }

    /// One shard, if this node leads it.
    pub fn get(&self, shard: ShardId) -> Option<ShardHandle> {
        self.led.read().get(usize::from(shard.0)).cloned().flatten()
    }

    /// Word of each gain and each loss.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
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
