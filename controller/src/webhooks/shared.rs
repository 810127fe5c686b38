//! What the follower, the deliveries and the API share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use bytes::Bytes;
use flotilla_protocol::id::{ShardId, TenantId, WebhookId};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::Notify;

use super::courier::{Courier, LineId, NOT_JOURNALED, Parcel, Place};
use super::directory::Directory;
use super::endpoint::{Endpoint, SigningSecret};
use super::endpoints::Endpoints;
use super::queue::{Queue, Settled};

/// Such events that wait to be written; what comes on top is dropped.
const LOOSE_MAX: usize = 10_000;

pub(super) struct Shared {
    pub(super) shards: u16,
    pub(super) endpoints: Endpoints,
    pub(super) queue: Queue,
    pub(super) directory: Directory,
    pub(super) courier: Mutex<Courier>,
    /// The courier has something new.
    pub(super) wake: Notify,
    /// What became of parcels, on its way into the store; parcels that come from elsewhere than the journal.
    pub(super) outcomes: Mutex<Outcomes>,
    /// There is something in `outcomes`.
    pub(super) settle: Notify,
    pub(super) secrets: Mutex<FxHashMap<WebhookId, Secrets>>,
    loose: AtomicU32,
}

/// What signs, and until when that may be believed (Unix ms).
type Secrets = (Arc<[SigningSecret]>, u64);

#[derive(Default)]
pub(super) struct Outcomes {
    pub(super) settled: Vec<Settled>,
    pub(super) loose: Vec<(ShardId, WebhookId, Parcel)>,
    /// How endpoints do: by endpoint, the last of each.
    pub(super) marks: FxHashMap<WebhookId, (TenantId, Mark)>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Mark {
    pub(super) success_ms: Option<u64>,
    pub(super) failure_ms: Option<u64>,
    pub(super) error: Option<Box<str>>,
}

impl Shared {
    pub(super) fn new(shards: u16, endpoints: Endpoints, queue: Queue) -> Self {
        Self {
            shards,
            endpoints,
            queue,
            directory: Directory::default(),
            courier: Mutex::default(),
            wake: Notify::new(),
            outcomes: Mutex::default(),
            settle: Notify::new(),
            secrets: Mutex::default(),
            loose: AtomicU32::new(0),
        }
    }

    /// An endpoint is there, or has changed.
    pub(super) fn put(&self, endpoint: Endpoint) {
        let mut courier = self.courier.lock();
        if endpoint.enabled {
            let lines = LineId::all(endpoint.id, endpoint.is_callbacks());
            lines.for_each(|line| courier.open(line, endpoint.rate_per_s));
        } else {
            courier.close(endpoint.id);
        }
        self.secrets.lock().remove(&endpoint.id);
        self.directory.put(endpoint);
        drop(courier);
        self.wake.notify_one();
    }

    pub(super) fn remove(&self, tenant: TenantId, id: WebhookId) {
        let mut courier = self.courier.lock();
        courier.close(id);
        self.directory.remove(tenant, id);
        self.secrets.lock().remove(&id);
    }

    pub(super) fn forget(&self, shard: ShardId) {
        let mut courier = self.courier.lock();
        for id in self.directory.forget(shard, self.shards) {
            courier.close(id);
            self.secrets.lock().remove(&id);
        }
    }

    /// New parcels that are in the store.
    pub(super) fn append(&self, parcels: impl Iterator<Item = (WebhookId, Parcel)>) {
        let mut by_line: FxHashMap<LineId, Vec<Parcel>> = FxHashMap::default();
        for (webhook, parcel) in parcels {
            by_line.entry(LineId::of(webhook, &parcel)).or_default().push(parcel);
        }
        let mut courier = self.courier.lock();
        by_line.into_iter().for_each(|(line, parcels)| courier.append(line, parcels));
        drop(courier);
        self.wake.notify_one();
    }

    /// An event that is not in the journal. Best effort: a kill in the next moments loses it.
    pub(super) fn tell(&self, tenant: TenantId, kind: &'static str, at_ms: u64, data: &Bytes) {
        let webhooks = self.directory.wanting(tenant, kind, at_ms, false);
        if webhooks.is_empty() {
            return;
        }
        let index = self.loose.fetch_add(1, Ordering::Relaxed);
        let mut outcomes = self.outcomes.lock();
        for webhook in webhooks {
            if outcomes.loose.len() >= LOOSE_MAX {
                metrics::counter!("flotilla_webhook_events_dropped_total").increment(1);
                return;
            }
            let parcel = Parcel {
                place: Place { seq: NOT_JOURNALED + at_ms, index },
                lane: 0,
                // All of a tenant's in one order: a device that is offline was online before.
                subject: tenant.to_bytes(),
                kind: kind.into(),
                at_ms,
                since_ms: at_ms,
                data: data.clone(),
                attempts: 0,
                next_ms: 0,
            };
            outcomes.loose.push((ShardId::of(tenant, self.shards), webhook, parcel));
        }
        drop(outcomes);
        self.settle.notify_one();
    }
}
