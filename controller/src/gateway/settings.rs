//! What the SIMs of a link may do: read with its inventory, and again when people have changed it.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_routing::settings::RouteSettings;
use rustc_hash::{FxHashMap, FxHashSet};

use super::Context;
use crate::fleet::routing;
use crate::fleet::sims::Sim;
use crate::store::{SqlError, Tx};

/// The settings of some SIMs, and the number of the change that they are as new as.
#[derive(Clone, Debug, Default)]
pub(super) struct CardSettings {
    pub(super) number: u64,
    by_sim: FxHashMap<SimId, Arc<RouteSettings>>,
}

impl CardSettings {
    pub(super) fn of(&self, sim: SimId) -> Option<Arc<RouteSettings>> {
        self.by_sim.get(&sim).cloned()
    }
}

/// In the transaction that has found the SIMs of the device.
pub(super) fn read(tx: &mut dyn Tx, device: DeviceId, sims: &[Sim]) -> Result<CardSettings, SqlError> {
    let around = routing::of_device(tx, device)?;
    let by_sim = sims.iter().map(|sim| (sim.id, Arc::new(routing::resolve(sim, &around)))).collect();
    Ok(CardSettings { number: around.number, by_sim })
}

/// Reads the settings of a tenant's SIMs again, and tells its shard of those that differ.
pub(super) async fn refresh(context: &Context, tenant: TenantId) -> Result<(), SqlError> {
    let mut peers = context.sessions.all();
    peers.retain(|peer| peer.tenant() == tenant);
    if peers.is_empty() {
        return Ok(());
    }
    let (number, resolved) = context.catalog.read(move |tx| routing::of_tenant(tx, tenant)).await?;
    let by_sim = resolved.into_iter().map(|(sim, settings)| (sim, Arc::new(settings))).collect();
    let settings = CardSettings { number, by_sim };
    peers.iter().for_each(|peer| peer.set_settings(&settings));
    Ok(())
}

/// Tenants with a link whose settings are older than their last change.
pub(super) fn tenants_behind(context: &Context, last_change: impl Fn(TenantId) -> u64) -> FxHashSet<TenantId> {
    let peers = context.sessions.all();
    let behind = peers.iter().filter(|peer| peer.settings_number() < last_change(peer.tenant()));
    behind.map(|peer| peer.tenant()).collect()
}
