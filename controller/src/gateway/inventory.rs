//! The SIMs of a device: find or make their rows, tell the shard, the device and the watchers.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::wire::{Down, SimInfo};
use tokio::time::timeout;

use super::Context;
use super::peer::{Peer, routes_of, states_of};
use super::ports::FleetEvent;
use super::settings::{self, CardSettings};
use crate::fleet::sims::{self, Inventory, Plan};
use crate::store::{SqlError, Tx};

const CATALOG_DEADLINE: Duration = Duration::from_secs(5);

/// The answer to `Sims`. When the catalog does not answer, the device keeps the routes it had.
pub(super) async fn changed(context: &Arc<Context>, peer: &Arc<Peer>, seen: &[SimInfo]) {
    let seen = sims::bounded(seen);
    let (plan, settings) = match timeout(CATALOG_DEADLINE, plan_and_apply(context, peer, seen.clone())).await {
        Ok(Ok(planned)) => planned,
        Ok(Err(error)) => return tracing::warn!(device = %peer.device(), %error, "cannot keep a device's SIMs"),
        Err(_) => return tracing::warn!(device = %peer.device(), "cannot keep a device's SIMs: no answer in time"),
    };
    peer.set_sims(routes_of(&seen, &plan.ids, &settings), settings.number, states_of(&seen));
    peer.push(vec![Down::Sims { sims: plan.ids.clone() }]);
    publish(context, peer, &plan);
}

/// Reads first: the usual inventory has not changed and costs no write.
async fn plan_and_apply(
    context: &Arc<Context>,
    peer: &Arc<Peer>,
    seen: Vec<SimInfo>,
) -> Result<(Plan, CardSettings), SqlError> {
    let (tenant, device) = (peer.tenant(), peer.device());
    let of = Inventory { tenant, device, hold: context.hold_new_sims, now_ms: context.clock.now().unix_ms };
    let again = seen.clone();
    let planned = context.catalog.read(move |tx| plan(tx, of, &seen)).await?;
    if planned.0.is_empty() {
        return Ok(planned);
    }
    // Planned again where nobody else writes: two devices may claim one card at the same moment.
    context
        .catalog
        .run(move |tx| {
            let planned = plan(tx, of, &again)?;
            sims::apply(tx, device, &planned.0)?;
            Ok::<_, SqlError>(planned)
        })
        .await
}

/// What a device's list of cards means, and what the cards may do.
pub(super) fn plan(tx: &mut dyn Tx, of: Inventory, seen: &[SimInfo]) -> Result<(Plan, CardSettings), SqlError> {
    let plan = sims::plan_inventory(tx, of, seen)?;
    let settings = settings::read(tx, of.device, &plan.present)?;
    Ok((plan, settings))
}

pub(super) fn publish(context: &Context, peer: &Peer, plan: &Plan) {
    for (sim, change) in &plan.changes {
        let event = FleetEvent::Sim { device: peer.device(), sim: *sim, change: *change };
        context.events.publish(peer.tenant(), event);
    }
}
