//! What tenants have set, and what devices tell about their state: both change what is chosen from now on. The plan of a
//! message is a part of its lane, so messages in memory change their lanes when the rules choose another one for them.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::wire::{Body, Telemetry};
use flotilla_routing::choice::{Classify, PlanRef};
use flotilla_routing::settings::TenantRouting;

use super::lanes::LaneKey;
use super::residency::Stage;
use super::slots::Slot;
use super::timers::Timer;
use super::{Machine, Now, lane_key};
use crate::domain::message::{Pin, Submission};

impl Machine {
    pub(super) fn set_tenant(&mut self, tenant: TenantId, routing: Arc<TenantRouting>, now: Now) {
        self.routes.set_tenant(tenant, routing, now);
        self.reclassify(tenant, now);
    }

    pub(super) fn telemetry(&mut self, id: DeviceId, session: u64, telemetry: &Telemetry, now: Now) {
        if self.session_mut(id, session).is_some() {
            self.routes.telemetry(id, telemetry, now);
        }
    }

    /// The lane of a message that comes into memory.
    pub(super) fn join_lane(&mut self, submission: &Submission, now: Now) -> Slot {
        let routes = &mut self.routes;
        let key = lane_key(submission, || {
            let text = if let Body::Text(text) = &submission.body { text.as_str() } else { "" };
            let classify = Classify {
                to: submission.to,
                text,
                sender: submission.sender.as_deref(),
                class: submission.priority,
                tags: &submission.tags,
                message: submission.id,
                plan: submission.plan.as_deref(),
            };
            routes.classify(submission.tenant, &classify, now)
        });
        self.lanes.join(key)
    }

    /// The time has come at which a tenant's rules choose other plans, unless its settings have changed since.
    pub(super) fn reclassify_in_time(&mut self, tenant: TenantId, now: Now) {
        if self.reclassify_ms.get(&tenant).is_some_and(|at_ms| *at_ms <= now.unix_ms) {
            self.reclassify_ms.remove(&tenant);
            self.reclassify(tenant, now);
        }
    }

    /// Looks at every message of the tenant in memory once. Sent ones have no text any more; should they be queued again, they
    /// come from the store and are looked at then.
    pub(super) fn reclassify(&mut self, tenant: TenantId, now: Now) {
        match self.routes.reclassify_at(tenant, now) {
            Some(at_ms) if self.reclassify_ms.insert(tenant, at_ms) != Some(at_ms) => {
                self.timers.at_wall(at_ms, Timer::Reclassify(tenant));
            }
            Some(_) => {}
            None => {
                self.reclassify_ms.remove(&tenant);
            }
        }
        let mut moves: Vec<(super::Order, Slot, PlanRef)> = Vec::new();
        for (slot, message) in self.messages.iter() {
            let key = &self.lanes.get(message.lane).key;
            if key.tenant != tenant || key.pin != Pin::Any || Stage::of(message) == Some(Stage::Sent) {
                continue;
            }
            let plan = self.routes.classify(tenant, &message.classify(key.class), now);
            if plan != key.plan {
                moves.push((message.order, slot, plan));
            }
        }
        // They keep the order in which they were accepted.
        moves.sort_unstable_by_key(|(order, ..)| *order);
        for (_, slot, plan) in moves {
            let Some(message) = self.messages.get_mut(slot) else { continue };
            let former = message.lane;
            let key = LaneKey { plan, ..self.lanes.get(former).key.clone() };
            let lane = self.lanes.join(key);
            message.lane = lane;
            let is_ready = Stage::of(message) == Some(Stage::Ready);
            self.lanes.leave(former);
            if is_ready {
                self.enqueue(slot, false);
            }
        }
    }
}
