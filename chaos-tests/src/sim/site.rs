//! What people have set up before the story begins, by seed: provider accounts, and how tenants route.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, ShardId, TenantId};
use flotilla_routing::settings::{TenantRouting, Tenants};

use super::device;
use super::plan::Size;
use super::provider::{self, Account};
use super::rng::Rng;

/// The same for every controller: it is in the catalog.
#[derive(Debug)]
pub(super) struct Site {
    pub size: Size,
    pub accounts: Arc<[Account]>,
    pub routing: Vec<Arc<TenantRouting>>,
}

impl Site {
    pub(super) fn new(seed: u64, size: Size) -> Self {
        let accounts: Arc<[Account]> = provider::draw(seed, size).into();
        let routing = (0..size.tenants).map(|tenant| Arc::new(routing(seed, tenant, &accounts))).collect();
        Self { size, accounts, routing }
    }

    /// What a shard that starts is told.
    pub(super) fn tenants_of(&self, shard: ShardId, shards: u16) -> Tenants {
        let ids = (0..self.size.tenants).map(|tenant| (device::tenant_id(tenant), Arc::clone(&self.routing[tenant])));
        ids.filter(|(id, _): &(TenantId, _)| ShardId::of(*id, shards) == shard).collect()
    }

    /// Devices and accounts of a tenant, in order: what a message may be bound to.
    pub(super) fn gateways_of(&self, tenant: usize) -> Vec<DeviceId> {
        let devices = (0..self.size.devices).filter(|device| device % self.size.tenants == tenant).map(device::id);
        let accounts = self.accounts.iter().filter(|account| account.tenant == tenant).map(Account::id);
        devices.chain(accounts).collect()
    }
}

fn routing(seed: u64, tenant: usize, accounts: &[Account]) -> TenantRouting {
    let mut rng = Rng::new(seed, "routing", tenant);
    let has_accounts = accounts.iter().any(|account| account.tenant == tenant);
    let plans = ["sims-first", "providers-first", "providers-first", "providers-only"];
    let default_plan = (has_accounts && rng.percent(70)).then(|| plans[rng.index(plans.len())].into());
    TenantRouting { default_plan, ..TenantRouting::default() }
}
