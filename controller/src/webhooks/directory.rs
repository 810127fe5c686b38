//! The endpoints of the tenants whose shards this node leads, in memory: who wants to hear of an event.

use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId, WebhookId};
use parking_lot::{Mutex, RwLock};
use rustc_hash::FxHashMap;

use super::endpoint::Endpoint;

#[derive(Debug, Default)]
pub(super) struct Directory {
    tenants: RwLock<FxHashMap<TenantId, Vec<Arc<Endpoint>>>>,
    owners: RwLock<FxHashMap<WebhookId, TenantId>>,
    /// Since when nothing could be delivered (Unix ms), of those that fail.
    failing: Mutex<FxHashMap<WebhookId, u64>>,
}

impl Directory {
    /// Whether a tenant has any.
    pub(super) fn knows(&self, tenant: TenantId) -> bool {
        self.tenants.read().contains_key(&tenant)
    }

    /// The endpoints of a tenant that want an event.
    pub(super) fn wanting(&self, tenant: TenantId, kind: &str, at_ms: u64, callback: bool) -> Vec<WebhookId> {
        let tenants = self.tenants.read();
        let Some(endpoints) = tenants.get(&tenant) else { return Vec::new() };
        endpoints.iter().filter(|endpoint| endpoint.wants(kind, at_ms, callback)).map(|endpoint| endpoint.id).collect()
    }

    pub(super) fn get(&self, tenant: TenantId, id: WebhookId) -> Option<Arc<Endpoint>> {
        self.tenants.read().get(&tenant)?.iter().find(|endpoint| endpoint.id == id).cloned()
    }

    pub(super) fn tenant_of(&self, id: WebhookId) -> Option<TenantId> {
        self.owners.read().get(&id).copied()
    }

    /// Notes how a try went; since when the endpoint fails, if it does.
    pub(super) fn failing(&self, id: WebhookId, delivered: bool, now_ms: u64) -> Option<u64> {
        let mut failing = self.failing.lock();
        if delivered {
            failing.remove(&id);
            return None;
        }
        Some(*failing.entry(id).or_insert(now_ms))
    }

    /// A new endpoint, or a changed one.
    pub(super) fn put(&self, endpoint: Endpoint) {
        self.owners.write().insert(endpoint.id, endpoint.tenant);
        match endpoint.failing_since_ms {
            Some(since_ms) => drop(self.failing.lock().insert(endpoint.id, since_ms)),
            None => drop(self.failing.lock().remove(&endpoint.id)),
        }
        let mut tenants = self.tenants.write();
        let endpoints = tenants.entry(endpoint.tenant).or_default();
        endpoints.retain(|known| known.id != endpoint.id);
        endpoints.push(Arc::new(endpoint));
    }

    pub(super) fn remove(&self, tenant: TenantId, id: WebhookId) {
        self.owners.write().remove(&id);
        self.failing.lock().remove(&id);
        let mut tenants = self.tenants.write();
        if let Some(endpoints) = tenants.get_mut(&tenant) {
            endpoints.retain(|known| known.id != id);
            if endpoints.is_empty() {
                tenants.remove(&tenant);
            }
        }
    }

    /// Forgets the tenants of a shard; the endpoints that they had.
    pub(super) fn forget(&self, shard: ShardId, shards: u16) -> Vec<WebhookId> {
        let mut gone = Vec::new();
        self.tenants.write().retain(|tenant, endpoints| {
            let stays = ShardId::of(*tenant, shards) != shard;
            if !stays {
                gone.extend(endpoints.iter().map(|endpoint| endpoint.id));
            }
            stays
        });
        self.owners.write().retain(|id, _| !gone.contains(id));
        self.failing.lock().retain(|id, _| !gone.contains(id));
        gone
    }
}
