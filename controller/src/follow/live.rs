//! Live events of a tenant: what the journal commits, as it commits it, and what happens to the fleet.
//!
//! A subscriber is a place in its shard's journal that moves forward, so there is nothing to lose and nothing to repeat:
//! it reads from memory while it keeps up and from disk when it is slow, and starts again wherever it left off. Only what
//! the journal has already deleted ends in a `reset`: list again, then go on from here.
//!
//! | event | id | data |
//! |---|---|---|
//! | `ready` | yes | first of a stream that was not resumed: what is committed from now on follows |
//! | `message.accepted, queued, dispatched, unknown, sent, delivered, failed, expired, cancelled` | yes | ids, state, attempt, route, error; no number, no text |
//! | `inbound.received` | yes | the message |
//! | `device.online, offline, telemetry`, `sim.changed, low_balance`, `enrollment.reused`, `provider.up, down, low_balance` | no | as published; not kept, so not repeated on a resume |
//! | `sim.` and `provider.quarantined, recovered, block_predicted, warm_up`, `tenant.budget_warned, budget_spent` | no | the same; once each, from the shard's leader |
//! | `reset` | if the journal's past is lost | `{"list": [...]}`: what to list again |
//!
//! An id is a place in the journal of a shard, whoever leads it: a sequence is given once, under one epoch. So the stream of a
//! shard that moves ends here, and the client resumes it by its last id at the new leader.
//!
//! Memory per subscriber is one read of the journal. Subscribers are counted, per tenant and in all.

mod event_id;
mod fleet;
mod render;
mod routing;
mod subscription;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use flotilla_protocol::id::{ShardId, TenantId};
use futures_util::Stream;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast;

use super::group::Leads;
use crate::store::{Journal, StoreError};

pub use event_id::{EventId, EventIdError};
pub(crate) use render::render as rendered;

/// One tenant cannot take all places.
pub const SUBSCRIBERS_PER_TENANT_MAX: usize = 64;
pub const SUBSCRIBERS_MAX: usize = 1_024;
/// Events of the fleet that a subscriber may be behind before it is told to list again.
const FLEET_EVENTS_MAX: usize = 256;

/// One event, ready for the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveEvent {
    /// Where to resume; none for events that are not in the journal.
    pub id: Option<EventId>,
    pub kind: &'static str,
    /// Unix milliseconds; 0 for `ready` and `reset`.
    pub at_ms: u64,
    /// A JSON object.
    pub data: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    #[error("too many event streams are open ({limit}); close one")]
    TooMany { limit: usize },
    #[error("`Last-Event-ID` is of another tenant's events; leave it out")]
    OtherShard,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Hands out streams of events. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    inner: Arc<Inner>,
}

struct Inner {
    journal: Arc<dyn Journal>,
    leads: Leads,
    hubs: Mutex<HashMap<TenantId, Hub>>,
    /// Who else is told what is published.
    listener: OnceLock<Listener>,
}

/// Gets each event that is not in the journal: tenant, kind, time (Unix ms), JSON. Must not wait.
pub type Listener = Box<dyn Fn(TenantId, &'static str, u64, &Bytes) + Send + Sync>;

/// The subscribers of a tenant.
struct Hub {
    fleet: broadcast::Sender<LiveEvent>,
    subscribers: usize,
}

impl Live {
    pub fn new(journal: Arc<dyn Journal>, leads: Leads) -> Self {
        Self { inner: Arc::new(Inner { journal, leads, hubs: Mutex::new(HashMap::new()), listener: OnceLock::new() }) }
    }

    /// The events of a tenant after one that it has seen, or from now on. The stream ends when this node does not lead the
    /// tenant's shard any more; [`StoreError::NotLeading`] when it does not now.
    pub async fn subscribe(
        &self,
        tenant: TenantId,
        after: Option<EventId>,
    ) -> Result<impl Stream<Item = LiveEvent> + Send + use<>, SubscribeError> {
        let shard = ShardId::of(tenant, self.inner.journal.shards());
        if after.is_some_and(|id| id.shard != shard) {
            return Err(SubscribeError::OtherShard);
        }
        let lease = self.inner.leads.lease(shard).ok_or(StoreError::NotLeading { shard })?;
        // Entered first, so that no event of the fleet is lost between here and the first read.
        let place = Place::take(&self.inner, tenant)?;
        let journal = Arc::clone(&self.inner.journal);
        Ok(subscription::stream(place, journal, lease, after).await?)
    }

    /// Tells the tenant's subscribers about something that is not in the journal. Never waits; a subscriber that is too far
    /// behind is told `reset` instead.
    pub fn publish(&self, tenant: TenantId, kind: &'static str, at_ms: u64, data: &impl Serialize) {
        let listener = self.inner.listener.get();
        if listener.is_none() && !self.inner.hubs.lock().contains_key(&tenant) {
            return;
        }
        let data: Bytes = match serde_json::to_vec(data) {
            Ok(data) => data.into(),
            Err(error) => return tracing::error!(kind, %error, "an event cannot be written as JSON"),
        };
        if let Some(listener) = listener {
            listener(tenant, kind, at_ms, &data);
        }
        if let Some(hub) = self.inner.hubs.lock().get(&tenant) {
            drop(hub.fleet.send(LiveEvent { id: None, kind, at_ms, data }));
        }
    }

    /// Lets somebody else hear what is published, too. Once.
    pub fn listen(&self, listener: Listener) {
        if self.inner.listener.set(listener).is_err() {
            tracing::error!("somebody listens to the live events already");
        }
    }

    /// How many streams are open.
    pub fn subscribers(&self) -> usize {
        self.inner.hubs.lock().values().map(|hub| hub.subscribers).sum()
    }
}

/// A subscriber's place in its tenant's hub, given back when dropped.
struct Place {
    inner: Arc<Inner>,
    tenant: TenantId,
    fleet: broadcast::Receiver<LiveEvent>,
}

impl Place {
    fn take(inner: &Arc<Inner>, tenant: TenantId) -> Result<Self, SubscribeError> {
        let mut hubs = inner.hubs.lock();
        if hubs.values().map(|hub| hub.subscribers).sum::<usize>() >= SUBSCRIBERS_MAX {
            return Err(SubscribeError::TooMany { limit: SUBSCRIBERS_MAX });
        }
        let new = || Hub { fleet: broadcast::Sender::new(FLEET_EVENTS_MAX), subscribers: 0 };
        let hub = hubs.entry(tenant).or_insert_with(new);
        if hub.subscribers >= SUBSCRIBERS_PER_TENANT_MAX {
            return Err(SubscribeError::TooMany { limit: SUBSCRIBERS_PER_TENANT_MAX });
        }
        hub.subscribers += 1;
        Ok(Self { inner: Arc::clone(inner), tenant, fleet: hub.fleet.subscribe() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut hubs = self.inner.hubs.lock();
        if let Some(hub) = hubs.get_mut(&self.tenant) {
            hub.subscribers -= 1;
            if hub.subscribers == 0 {
                hubs.remove(&self.tenant);
            }
        }
    }
}
