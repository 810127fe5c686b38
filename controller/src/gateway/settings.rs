//! What the SIMs of a link may do: read with its inventory, and again when people have changed it.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_routing::settings::RouteSettings;
use flotilla_routing::table::KnownRoute;
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

/// Tells a tenant's shard of those of its SIMs that are connected here and may do something else by now. The rest is answered:
/// their devices are away, or elsewhere.
pub(super) fn refresh(
    context: &Context,
    tenant: TenantId,
    number: u64,
    routes: FxHashMap<SimId, KnownRoute>,
) -> Vec<KnownRoute> {
    let mut peers = context.sessions.all();
    peers.retain(|peer| peer.tenant() == tenant);
    let here: FxHashSet<DeviceId> = peers.iter().map(|peer| peer.device()).collect();
    let (near, away): (Vec<_>, Vec<_>) = routes.into_values().partition(|known| here.contains(&known.route.device));
    let by_sim = near.into_iter().map(|known| (known.route.sim, known.settings)).collect();
    let settings = CardSettings { number, by_sim };
    peers.iter().for_each(|peer| peer.set_settings(&settings));
    away
}

/// Whether a device of the tenant is connected here.
pub(super) fn has_links(context: &Context, tenant: TenantId) -> bool {
    context.sessions.all().iter().any(|peer| peer.tenant() == tenant)
}

/// Tenants with a link whose settings are older than their last change.
pub(super) fn tenants_behind(context: &Context, last_change: impl Fn(TenantId) -> u64) -> FxHashSet<TenantId> {
    let peers = context.sessions.all();
    let behind = peers.iter().filter(|peer| peer.settings_number() < last_change(peer.tenant()));
    behind.map(|peer| peer.tenant()).collect()
}
