//! The shards that this node leads, as actors around the pure machine of `domain::shard`.
//!
//! ```text
//! supervisor            parent: the node; starts and stops shards as the coordinator says, restarts those that fail
//!   └─ actor (one per led shard)      does with tokio and the store what the shard's `life` decides: feeds the machine,
//!                                     commits its batches, releases what they permit
//! ```
//! [`Shards`] finds the shard of a tenant, [`ShardHandle`] talks to it. What must outlive a failing actor (the sessions of
//! devices, who waits for a reply) is in the handle's inbox, so that nobody has to ask for a shard again when it restarts.

mod actor;
mod handle;
mod inbox;
pub mod life;
pub mod reads;
mod registry;
mod running;
mod supervisor;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId};
use flotilla_routing::settings::Tenants;
use flotilla_routing::table::{KnownRoute, Notice};
use futures_util::future::{BoxFuture, ready};

pub use handle::{AcceptError, Answer, DeviceSink, ShardError, ShardHandle};
pub use registry::Shards;
pub use supervisor::{ShardSupervisor, StartError};

use crate::clock::Clock;
use crate::domain::message::Route;
use crate::follow::{Followers, LedgerReader, RowsReader};
use crate::store::{Journal, StoreError};

/// Where a shard that starts finds what its tenants have set. Changes afterwards go to [`ShardHandle::set_tenant`].
pub trait RoutingSource: Send + Sync + 'static {
    fn tenants(&self, shard: ShardId) -> BoxFuture<'_, Result<Tenants, StoreError>>;

    /// The routes of its tenants, and these, of messages in flight, wherever they are by now. Changes afterwards go to
    /// [`ShardHandle::know_routes`].
    fn routes(
        &self,
        shard: ShardId,
        in_flight: Vec<(TenantId, Route)>,
    ) -> BoxFuture<'_, Result<Vec<KnownRoute>, StoreError>>;
}

/// Every tenant has the defaults, and no route is known before it comes.
pub struct Defaults;

impl RoutingSource for Defaults {
    fn tenants(&self, _shard: ShardId) -> BoxFuture<'_, Result<Tenants, StoreError>> {
        Box::pin(ready(Ok(Tenants::default())))
    }

    fn routes(
        &self,
        _shard: ShardId,
        _in_flight: Vec<(TenantId, Route)>,
    ) -> BoxFuture<'_, Result<Vec<KnownRoute>, StoreError>> {
        Box::pin(ready(Ok(Vec::new())))
    }
}

/// Hears what somebody should know about routes and budgets. Never blocks.
pub trait RoutingNews: Send + Sync + 'static {
    fn tell(&self, notice: &Notice);
}

/// Nobody listens.
impl RoutingNews for () {
    fn tell(&self, _notice: &Notice) {}
}

/// What a shard stands on.
#[derive(Clone)]
pub struct ShardDeps {
    pub journal: Arc<dyn Journal>,
    pub reader: RowsReader,
    pub ledgers: LedgerReader,
    /// Are told what is led.
    pub followers: Followers,
    pub clock: Arc<dyn Clock>,
    pub settings: ShardSettings,
    pub routing: Arc<dyn RoutingSource>,
    /// Hear what becomes of routes and budgets.
    pub news: Arc<dyn RoutingNews>,
    /// How many committed events the rows may be behind before new messages are refused.
    pub lag_events_max: u64,
}

pub use crate::domain::shard::{
    AcceptRequest, Acceptance, CancelOutcome, Link, RequestKey, RouteGlance, RouteSim, ShardSettings, ShardStatus,
};
