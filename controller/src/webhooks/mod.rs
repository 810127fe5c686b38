//! Webhooks: tells addresses of a tenant what happens to its messages and its fleet.
//!
//! | module | what |
//! |---|---|
//! | `endpoint`, `endpoints` | addresses, which events they want, what signs; the same in the catalog |
//! | `follower` | takes events from the journal into the lines of those who want them |
//! | `queue` | the lines in the catalog |
//! | `courier` | what goes to whom next, without IO: order, pauses, giving up |
//! | `delivery` | the tasks that send, and write down what became of it |
//! | `sender`, `body` | one event to one address: what is said, and how it is signed |
//! | `directory`, `shared` | what these have in common in memory |
//!
//! A tenant's events leave from the controller that leads its shard. What is in the journal is told at least once, in order for
//! each message; what is not (devices, SIMs, providers) as well as it goes. docs/webhooks.md is for those who receive it.

mod body;
mod courier;
mod delivery;
mod directory;
mod endpoint;
mod endpoints;
mod follower;
mod queue;
mod sender;
mod shared;

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_protocol::id::{TenantId, WebhookId};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::fleet::audit::By;
use crate::follow::RowsReader;
use crate::net_guard::NetGuard;
use crate::secrets::ClusterKeys;
use crate::store::{Catalog, SqlError};
use body::Subject;
use courier::Place;
use delivery::Delivery;
use queue::Queue;
use sender::{Answer, Letter, Sender};
use shared::Shared;

pub use endpoint::{
    Change, EVENTS, Endpoint, EndpointError, NAME_BYTES_MAX, PATTERNS_MAX, PatternError, Patterns, RATE_DEFAULT,
    RATE_MAX, SigningSecret, URL_BYTES_MAX, callbacks_of,
};
pub use endpoints::Endpoints;
pub use follower::WebhooksFollower;
pub use queue::{Again, Waiting};
pub use sender::UrlError;

/// What a test of an endpoint found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tested {
    pub delivered: bool,
    /// `HTTP 500`, `no answer in time`...; empty when it was delivered.
    pub error: String,
    pub took: Duration,
}

/// The webhooks of this node. Cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    shared: Arc<Shared>,
    sender: Sender,
    clock: Arc<dyn Clock>,
}

impl Webhooks {
    /// Nothing is sent before [`Webhooks::start`].
    pub fn new(
        shards: u16,
        catalog: Arc<dyn Catalog>,
        keys: Arc<ClusterKeys>,
        guard: NetGuard,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, reqwest::Error> {
        let endpoints = Endpoints::new(Arc::clone(&catalog), keys);
        let shared = Arc::new(Shared::new(shards, endpoints, Queue::new(catalog)));
        Ok(Self { shared, sender: Sender::new(guard)?, clock })
    }

    /// What follows the journal for them. One for each node.
    pub fn follower(&self) -> WebhooksFollower {
        WebhooksFollower::new(Arc::clone(&self.shared))
    }

    /// Begins to send, until `stop`.
    pub fn start(&self, rows: RowsReader, stop: CancellationToken) -> JoinHandle<()> {
        let (shared, sender, clock) = (Arc::clone(&self.shared), self.sender.clone(), Arc::clone(&self.clock));
        tokio::spawn(Delivery { shared, rows, sender, clock }.run(stop))
    }

    /// An event that is not in the journal.
    pub fn tell(&self, tenant: TenantId, kind: &'static str, at_ms: u64, data: &bytes::Bytes) {
        self.shared.tell(tenant, kind, at_ms, data);
    }

    pub fn endpoints(&self) -> &Endpoints {
        &self.shared.endpoints
    }

    /// Whether an address can be told anything.
    pub fn check(&self, url: &str) -> Result<(), UrlError> {
        self.sender.check(url).map(drop)
    }

    pub async fn create(&self, by: By, new: Endpoint, secret: &SigningSecret) -> Result<Endpoint, EndpointError> {
        let endpoint = self.shared.endpoints.create(by, new, secret).await?;
        self.shared.put(endpoint.clone());
        Ok(endpoint)
    }

    pub async fn change(
        &self,
        by: By,
        tenant: TenantId,
        id: WebhookId,
        change: Change,
    ) -> Result<Option<Endpoint>, SqlError> {
        let changed = self.shared.endpoints.change(by, tenant, id, change).await?;
        changed.iter().for_each(|endpoint| self.shared.put(endpoint.clone()));
        Ok(changed)
    }

    pub async fn delete(&self, by: By, tenant: TenantId, id: WebhookId) -> Result<bool, SqlError> {
        let deleted = self.shared.endpoints.delete(by, tenant, id).await?;
        if deleted {
            self.shared.remove(tenant, id);
        }
        Ok(deleted)
    }

    pub async fn rotate(
        &self,
        by: By,
        tenant: TenantId,
        id: WebhookId,
        secret: &SigningSecret,
    ) -> Result<Option<Endpoint>, EndpointError> {
        let now_ms = self.clock.now().unix_ms;
        let rotated = self.shared.endpoints.rotate(by, tenant, id, secret, now_ms).await?;
        self.shared.secrets.lock().remove(&id);
        Ok(rotated)
    }

    /// How many events wait for an endpoint, and how many were given up.
    pub async fn counts(&self, id: WebhookId) -> Result<(u64, u64), SqlError> {
        self.shared.queue.counts(id).await
    }

    /// Events that wait, the first ones first, or were given up, the last ones first.
    pub async fn waiting(
        &self,
        id: WebhookId,
        dead: bool,
        after: Option<(u64, u32)>,
        limit: usize,
    ) -> Result<Vec<Waiting>, SqlError> {
        let after = after.map(|(seq, index)| Place { seq, index });
        self.shared.queue.list(id, dead, after, limit).await
    }

    /// Sends events again. How many.
    pub async fn replay(&self, id: WebhookId, again: Again) -> Result<u64, SqlError> {
        let revived = self.shared.queue.revive(id, again, self.clock.now().unix_ms).await?;
        if revived > 0 {
            self.shared.courier.lock().reload(id);
            self.shared.wake.notify_one();
        }
        Ok(revived)
    }

    /// Sends `webhook.test` to an endpoint now, beside its line.
    pub async fn test(&self, endpoint: &Endpoint) -> Result<Tested, EndpointError> {
        let now_ms = self.clock.now().unix_ms;
        let secrets = self.shared.endpoints.secrets(endpoint.tenant, endpoint.id, now_ms).await?;
        let body = body::compose("webhook.test", now_ms, b"{}", &Subject::default(), true).unwrap_or_default();
        let id = format!("{}-test-{now_ms}", endpoint.id);
        let letter = Letter { url: endpoint.url.clone(), id, body, secrets: secrets.into(), at_ms: now_ms };
        let begin = Instant::now();
        let answer = self.sender.send(&letter).await;
        let error = match &answer {
            Answer::Delivered { .. } => String::new(),
            Answer::Failed { error, .. } => error.to_string(),
            Answer::Gone => "HTTP 410".to_owned(),
        };
        Ok(Tested { delivered: error.is_empty(), error, took: begin.elapsed() })
    }
}
