//! Keeps the shards that are led here, and the links of devices, at what people have set: in the catalog, by whichever
//! controller.
//!
//! A shard starts with the settings of its tenants and of their SIMs, whose devices may be away ([`CatalogRouting`]), a link with
//! those of its SIMs (`gateway::hello`). From
//! then on the keeper looks for changes, by their numbers: at once after a change that was made here, and every two seconds for
//! those that others have made. It is a reconciler: what it missed because the catalog did not answer, it does the next time.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{ShardId, TenantId};
use flotilla_routing::settings::{TenantRouting, Tenants};
use flotilla_routing::table::{KnownRoute, Notice};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, TryStreamExt, stream};
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::Mutex;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::domain::message::Route;
use crate::fleet::routing;
use crate::gateway::{FleetEvent, FleetEvents, GatewayHandle};
use crate::providers::accounts;
use crate::shard::{RoutingNews, RoutingSource, Shards};
use crate::store::{Catalog, SqlError, StoreError, Stores};

const EVERY: Duration = Duration::from_secs(2);
const CATALOG_DEADLINE: Duration = Duration::from_secs(5);
/// Tenants that a starting shard asks for at the same time.
const READS_AT_ONCE: usize = 8;
/// Settings in memory; beyond it all are forgotten and read again.
const REMEMBERED_MAX: usize = 10_000;

/// What a shard starts with.
pub struct CatalogRouting {
    catalog: Arc<dyn Catalog>,
    shards: u16,
}

impl CatalogRouting {
    pub fn new(stores: &Stores) -> Self {
        Self { catalog: Arc::clone(&stores.catalog), shards: stores.journal.shards() }
    }
}

impl CatalogRouting {
    async fn routes_of(
        &self,
        shard: ShardId,
        in_flight: Vec<(TenantId, Route)>,
    ) -> Result<Vec<KnownRoute>, StoreError> {
        let catalog = &*self.catalog;
        let tenants = in_time(routing::tenants_of(catalog, shard, self.shards)).await?;
        let reads = tenants.into_iter().map(|tenant| in_time(catalog.read(move |tx| routing::of_tenant(tx, tenant))));
        let mut reads = stream::iter(reads).buffer_unordered(READS_AT_ONCE);
        let mut known = Vec::new();
        while let Some((_, routes)) = reads.try_next().await? {
            known.extend(routes.into_values());
        }
        let there: FxHashSet<Route> = known.iter().map(|known| known.route).collect();
        for (tenant, route) in in_flight.into_iter().filter(|(_, route)| !there.contains(route)) {
            let found = in_time(catalog.read(move |tx| match route.as_provider() {
                Some((provider, sender)) => accounts::of_route(tx, tenant, provider, sender),
                None => routing::of_route(tx, tenant, route),
            }));
            known.extend(found.await?);
        }
        Ok(known)
    }
}

async fn in_time<T>(read: impl Future<Output = Result<T, SqlError>>) -> Result<T, StoreError> {
    let late = |_| StoreError::Unavailable("the settings of its tenants: no answer in time".to_owned());
    timeout(CATALOG_DEADLINE, read).await.map_err(late)?.map_err(|error| match error {
        SqlError::Full => StoreError::Full,
        other => StoreError::Unavailable(format!("the settings of its tenants: {other}")),
    })
}

impl RoutingSource for CatalogRouting {
    fn tenants(&self, shard: ShardId) -> BoxFuture<'_, Result<Tenants, StoreError>> {
        in_time(routing::of_shard(&*self.catalog, shard, self.shards)).boxed()
    }

    fn routes(
        &self,
        shard: ShardId,
        in_flight: Vec<(TenantId, Route)>,
    ) -> BoxFuture<'_, Result<Vec<KnownRoute>, StoreError>> {
        self.routes_of(shard, in_flight).boxed()
    }
}

/// Gives a shard's news to those who hear of the fleet.
pub struct News(pub Arc<dyn FleetEvents>);

impl RoutingNews for News {
    fn tell(&self, notice: &Notice) {
        metrics::counter!("flotilla_routing_notices_total", "kind" => kind_of(notice)).increment(1);
        self.0.publish(notice.tenant(), FleetEvent::Routing(*notice));
    }
}

/// As in the name of its event.
const fn kind_of(notice: &Notice) -> &'static str {
    match notice {
        Notice::Quarantined { .. } => "quarantined",
        Notice::Recovered { .. } => "recovered",
        Notice::BlockPredicted { .. } => "block_predicted",
        Notice::BudgetWarned { .. } => "budget_warned",
        Notice::BudgetSpent { .. } => "budget_spent",
        Notice::WarmUp { .. } => "warm_up",
    }
}

/// One for each node. Cheap to clone.
#[derive(Clone)]
pub struct SettingsKeeper(Arc<Inner>);

struct Inner {
    catalog: Arc<dyn Catalog>,
    shards: Shards,
    gateway: Arc<GatewayHandle>,
    /// Held while a look is under way, so that changes are told in their order.
    known: Mutex<Known>,
    remembered: RwLock<FxHashMap<TenantId, Arc<TenantRouting>>>,
}

#[derive(Default)]
struct Known {
    /// Everything up to this number is told.
    last: u64,
    /// The number of each tenant's last change.
    tenants: FxHashMap<TenantId, u64>,
}

impl SettingsKeeper {
    /// Everything that is there when it begins is known to the shards and links, which start after that.
    pub async fn open(
        catalog: Arc<dyn Catalog>,
        shards: Shards,
        gateway: Arc<GatewayHandle>,
    ) -> Result<Self, SqlError> {
        let mut known = Known::default();
        while known.add(&routing::changes_after(&*catalog, known.last).await?) {}
        let (known, remembered) = (Mutex::new(known), RwLock::default());
        Ok(Self(Arc::new(Inner { catalog, shards, gateway, known, remembered })))
    }

    /// Looks every two seconds, for ever.
    pub async fn run(self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut blind = false;
        loop {
            ticks.tick().await;
            let failed = match timeout(CATALOG_DEADLINE, self.look()).await {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some("no answer in time".to_owned()),
            };
            if let Some(error) = failed.as_ref().filter(|_| !blind) {
                tracing::warn!(error, "what people set about routing is not seen at the moment");
            }
            blind = failed.is_some();
        }
    }

    /// Tells shards and links everything that has changed since the last look.
    pub async fn look(&self) -> Result<(), SqlError> {
        let inner = &*self.0;
        let mut known = inner.known.lock().await;
        loop {
            let changes = routing::changes_after(&*inner.catalog, known.last).await?;
            if changes.is_empty() {
                break;
            }
            for change in changes {
                self.tell(change.0).await?;
                // One by one: what is told stays told when the time for this look is over.
                known.add(&[change]);
            }
        }
        // Links that came up with what was read before a change, while that change was told.
        for tenant in inner.gateway.tenants_behind(|tenant| known.tenants.get(&tenant).copied().unwrap_or(0)) {
            self.tell_routes(tenant).await?;
        }
        Ok(())
    }

    async fn tell(&self, tenant: TenantId) -> Result<(), SqlError> {
        let inner = &*self.0;
        let settings = routing::get(&*inner.catalog, tenant).await?.settings;
        self.remember(tenant, &settings);
        if let Ok(shard) = inner.shards.of(tenant) {
            shard.set_tenant(tenant, settings);
        }
        self.tell_routes(tenant).await
    }

    /// What the tenant's SIMs may do: those that are connected here by their links, the others by their shard, if it is here.
    async fn tell_routes(&self, tenant: TenantId) -> Result<(), SqlError> {
        let inner = &*self.0;
        let shard = inner.shards.of(tenant).ok();
        if shard.is_none() && !inner.gateway.has_links(tenant) {
            return Ok(());
        }
        let (number, routes) = inner.catalog.read(move |tx| routing::of_tenant(tx, tenant)).await?;
        let away = inner.gateway.refresh_settings(tenant, number, routes);
        if let Some(shard) = shard.filter(|_| !away.is_empty()) {
            shard.know_routes(tenant, away);
        }
        Ok(())
    }

    fn remember(&self, tenant: TenantId, settings: &Arc<TenantRouting>) {
        let mut remembered = self.0.remembered.write();
        if remembered.len() >= REMEMBERED_MAX {
            remembered.clear();
        }
        remembered.insert(tenant, Arc::clone(settings));
    }

    /// A tenant's settings, as of the last look at least.
    pub async fn of(&self, tenant: TenantId) -> Result<Arc<TenantRouting>, SqlError> {
        if let Some(settings) = self.0.remembered.read().get(&tenant) {
            return Ok(Arc::clone(settings));
        }
        // Not while a look is under way: it may be about to remember newer ones.
        let _known = self.0.known.lock().await;
        let settings = routing::get(&*self.0.catalog, tenant).await?.settings;
        self.remember(tenant, &settings);
        Ok(settings)
    }
}

impl Known {
    /// True when there may be more.
    fn add(&mut self, changes: &[(TenantId, u64)]) -> bool {
        for (tenant, number) in changes {
            self.tenants.insert(*tenant, *number);
            self.last = self.last.max(*number);
        }
        !changes.is_empty()
    }
}
