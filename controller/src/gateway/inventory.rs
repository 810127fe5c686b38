//! The SIMs of a device: find or make their rows, tell the shard, the device and the watchers.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::wire::{Down, SimInfo};
use tokio::time::timeout;

use super::Context;
use super::peer::{Peer, routes_of, states_of};
use super::ports::FleetEvent;
use crate::fleet::sims::{self, Plan};
use crate::store::SqlError;

const CATALOG_DEADLINE: Duration = Duration::from_secs(5);

/// The answer to `Sims`. When the catalog does not answer, the device keeps the routes it had.
pub(super) async fn changed(context: &Arc<Context>, peer: &Arc<Peer>, seen: &[SimInfo]) {
    let seen = sims::bounded(seen);
    let plan = match timeout(CATALOG_DEADLINE, plan_and_apply(context, peer, seen.clone())).await {
        Ok(Ok(plan)) => plan,
        Ok(Err(error)) => return tracing::warn!(device = %peer.device(), %error, "cannot keep a device's SIMs"),
        Err(_) => return tracing::warn!(device = %peer.device(), "cannot keep a device's SIMs: no answer in time"),
    };
    peer.set_sims(routes_of(&seen, &plan.ids), states_of(&seen));
    peer.push(vec![Down::Sims { sims: plan.ids.clone() }]);
    publish(context, peer, &plan);
}

/// Reads first: the usual inventory has not changed and costs no write.
async fn plan_and_apply(context: &Arc<Context>, peer: &Arc<Peer>, seen: Vec<SimInfo>) -> Result<Plan, SqlError> {
    let (tenant, device) = (peer.tenant(), peer.device());
    let now_ms = context.clock.now().unix_ms;
    let again = seen.clone();
    let plan = context.catalog.read(move |tx| sims::plan_inventory(tx, tenant, device, &seen, now_ms)).await?;
    if plan.is_empty() {
        return Ok(plan);
    }
    // Planned again where nobody else writes: two devices may claim one card at the same moment.
    context
        .catalog
        .run(move |tx| {
            let plan = sims::plan_inventory(tx, tenant, device, &again, now_ms)?;
            sims::apply(tx, &plan)?;
            Ok::<_, SqlError>(plan)
        })
        .await
}

pub(super) fn publish(context: &Context, peer: &Peer, plan: &Plan) {
    for (sim, change) in &plan.changes {
        let event = FleetEvent::Sim { device: peer.device(), sim: *sim, change: *change };
        context.events.publish(peer.tenant(), event);
    }
}
