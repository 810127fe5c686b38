//! What people have set up before the story begins, by seed: provider accounts, what each route may do, and how tenants route.
//! What it means is worked out here once more, in a few plain lines, for the checker: it does not ask the product.

mod plans;
mod routes;

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, ShardId, TenantId};
use flotilla_routing::route::Route;
use flotilla_routing::settings::{RouteSettings, TenantRouting, Tenants};

use super::Flaw;
use super::device;
use super::plan::{Size, Submit};
use super::provider::{self, Account};

pub(super) use plans::Way;
pub(super) use routes::{closed_for, of_sender, of_sim, spoiled};

/// The same for every controller: it is in the catalog.
#[derive(Debug)]
pub(super) struct Site {
    pub size: Size,
    pub accounts: Arc<[Account]>,
    pub routing: Vec<Arc<TenantRouting>>,
    ways: Vec<plans::Ways>,
}

impl Site {
    pub(super) fn new(seed: u64, size: Size) -> Self {
        let accounts: Arc<[Account]> = provider::draw(seed, size).into();
        let mut site = Self { size, accounts, routing: Vec::new(), ways: Vec::new() };
        for tenant in 0..size.tenants {
            let routing = plans::draw(seed, tenant, &site);
            site.ways.push(plans::Ways::new(tenant, &routing, &site));
            site.routing.push(Arc::new(routing));
        }
        site
    }

    /// What a shard that starts is told.
    pub(super) fn tenants_of(&self, shard: ShardId, shards: u16, flaw: Option<Flaw>) -> Tenants {
        let ids = (0..self.size.tenants).map(|tenant| (device::tenant_id(tenant), tenant));
        let here = ids.filter(|(id, _): &(TenantId, usize)| ShardId::of(*id, shards) == shard);
        here.map(|(id, tenant)| (id, plans::spoiled(&self.routing[tenant], flaw))).collect()
    }

    /// The ways that a message may go, by what its client has asked for.
    pub(super) fn ways_of(&self, submit: &Submit) -> Vec<Way> {
        self.ways[submit.tenant].of(submit)
    }

    /// Devices and accounts of a tenant, in order: what a message may be bound to.
    pub(super) fn gateways_of(&self, tenant: usize) -> Vec<DeviceId> {
        let accounts = self.accounts.iter().filter(|account| account.tenant == tenant).map(Account::id);
        self.devices_of(tenant).map(device::id).chain(accounts).collect()
    }

    fn devices_of(&self, tenant: usize) -> impl Iterator<Item = usize> {
        let tenants = self.size.tenants;
        (0..self.size.devices).filter(move |device| device % tenants == tenant)
    }

    /// All routes of a tenant with what is set for them.
    fn routes_of(&self, tenant: usize) -> Vec<(Route, RouteSettings)> {
        let sims = self.devices_of(tenant).flat_map(device::routes_of);
        let accounts = self.accounts.iter().filter(|account| account.tenant == tenant);
        let senders =
            accounts.flat_map(|account| account.slots().map(|slot| (account.route(slot), of_sender(account, slot))));
        sims.chain(senders).collect()
    }

    /// All routes there are.
    pub(super) fn all_routes(&self) -> Vec<(Route, RouteSettings)> {
        (0..self.size.tenants).flat_map(|tenant| self.routes_of(tenant)).collect()
    }
}
