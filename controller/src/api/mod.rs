//! The HTTP API: axum routes over the shards, the rows and the catalog.
//!
//! `server` takes connections, `auth` finds out who is asking, one module for each kind of thing answers. Errors are
//! [`problem::Problem`] everywhere. `openapi` describes what is here from the code that does it.

pub mod audit;
pub mod auth;
pub mod ca;
pub mod callbacks;
pub mod cluster;
pub mod devices;
pub mod enrollments;
pub mod events;
pub mod examples;
mod forward;
pub mod health;
pub mod inbound;
pub mod json;
pub mod keys;
pub mod messages;
pub mod openapi;
pub mod ops;
pub mod page;
pub mod params;
pub mod problem;
pub mod providers;
pub mod qr;
pub mod routing;
pub mod server;
pub mod sims;
pub mod stats;
pub mod tenants;
pub mod time;
pub mod webhooks;

use std::ops::Deref;
use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId};
use metrics::{Counter, counter};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::ca::Ca;
use crate::clock::Clock;
use crate::config::Limits;
use crate::fleet::devices::Devices;
use crate::fleet::enrollments::Enrollments;
use crate::fleet::sims::Sims;
use crate::follow::RowsReader;
use crate::follow::aggregates::Aggregates;
use crate::follow::live::Live;
use crate::gateway::{FleetEvents, GatewayHandle};
use crate::peer::Cluster;
use crate::providers::Providers;
use crate::settings::SettingsKeeper;
use crate::shard::{ShardError, Shards};
use crate::store::{SqlError, StoreError, Stores};
use crate::webhooks::Webhooks;

use auth::KeyRing;
use messages::pins::Pins;
use problem::{Code, Problem};

/// What every handler can reach. Cheap to clone.
#[derive(Clone)]
pub struct Api(Arc<State>);

pub struct State {
    pub keys: KeyRing,
    pub pins: Pins,
    pub stores: Stores,
    pub shards: Shards,
    /// The rows, as far as they are committed.
    pub rows: RowsReader,
    pub aggregates: Aggregates,
    pub devices: Devices,
    pub sims: Sims,
    pub enrollments: Enrollments,
    pub ca: Arc<Ca>,
    pub gateway: Arc<GatewayHandle>,
    pub settings: SettingsKeeper,
    pub providers: Providers,
    pub live: Live,
    pub webhooks: Webhooks,
    /// Hear what is done here to the fleet.
    pub events: Arc<dyn FleetEvents>,
    pub cluster: Cluster,
    pub clock: Arc<dyn Clock>,
    pub limits: Limits,
    pub counters: Counters,
    /// Bulk uploads at a time.
    pub uploads: Arc<Semaphore>,
    /// Bytes of providers' callbacks at a time.
    pub callback_bytes: Semaphore,
    /// Cancelled when the node begins to shut down: endless answers end.
    pub closing: CancellationToken,
}

/// Counters of the hottest path, found once.
pub struct Counters {
    pub accepted: Counter,
    pub accepted_segments: Counter,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            accepted: counter!("flotilla_messages_accepted_total"),
            accepted_segments: counter!("flotilla_segments_accepted_total"),
        }
    }
}

impl Deref for Api {
    type Target = State;

    fn deref(&self) -> &State {
        &self.0
    }
}

impl Api {
    pub fn new(state: State) -> Self {
        Self(Arc::new(state))
    }

    pub fn now_ms(&self) -> u64 {
        self.clock.now().unix_ms
    }

    fn shard(&self, tenant: TenantId) -> ShardId {
        ShardId::of(tenant, self.stores.journal.shards())
    }

    /// Something about routing was changed here: shards and links hear of it before the answer.
    async fn routing_changed(&self) -> Result<(), Problem> {
        self.settings.look().await.map_err(|error| catalog_problem(&error))
    }

    /// Whether a tenant's requests are answered here and now. A controller that is alone answers everything.
    fn serves(&self, tenant: TenantId) -> bool {
        self.cluster.links.is_none() || self.shards.serves(tenant)
    }
}

/// The catalog did not do what it was asked.
pub fn catalog_problem(error: &SqlError) -> Problem {
    match error {
        SqlError::Full => disk_full(),
        SqlError::Unavailable(_) => {
            tracing::warn!(%error, "the catalog does not answer");
            Problem::busy("the store does not answer now; try again", 2)
        }
        other => Problem::internal(other),
    }
}

pub fn store_problem(error: &StoreError) -> Problem {
    match error {
        StoreError::Full => disk_full(),
        StoreError::Cursor => {
            let detail = "not a cursor of this list; leave it out to start at the newest";
            Problem::new(Code::InvalidParameter, detail).at("cursor")
        }
        StoreError::NotLeading { .. } => not_leading(),
        StoreError::Unavailable(_) => {
            tracing::warn!(%error, "the store does not answer");
            Problem::busy("the store does not answer now; try again", 2)
        }
        other => Problem::internal(other),
    }
}

pub fn shard_problem(error: ShardError) -> Problem {
    match error {
        ShardError::Busy { retry_after_ms } => busy(retry_after_ms),
        ShardError::DiskFull => disk_full(),
        ShardError::NotLeading => not_leading(),
        ShardError::Undecided => Problem::busy("no answer in time; look at the message's state", 1),
    }
}

fn busy(retry_after_ms: u64) -> Problem {
    let seconds = u32::try_from(retry_after_ms.div_ceil(1000)).unwrap_or(u32::MAX);
    Problem::busy("more is under way than can be written down; try again", seconds)
}

fn not_leading() -> Problem {
    let detail = "no controller leads the tenant's shard at this moment, nothing was done; try again";
    Problem::new(Code::NotLeading, detail).retry_after(1)
}

fn disk_full() -> Problem {
    Problem::new(Code::DiskFull, "the controller's disk is full, nothing was changed; free some space").retry_after(30)
}

#[cfg(test)]
mod tests;
