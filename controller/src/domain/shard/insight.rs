//! What people and metrics see of the routes, as the choice sees them. Nothing is changed by looking.

use flotilla_protocol::id::TenantId;
use flotilla_protocol::wire::Body;
use flotilla_routing::Micros;
use flotilla_routing::choice::{Candidate, Classify, PlanRef, sender_hash};
use flotilla_routing::explain::Explanation;
use flotilla_routing::table::{RouteHealth, RouteState};

use super::message::is_unicode;
use super::{Machine, Now};
use crate::domain::message::{Route, RouteKind, Submission};

/// The routes of a shard, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteGlance {
    /// In the order of [`RouteState::ALL`].
    pub states: [u64; RouteState::ALL.len()],
    /// Scores of the routes that are there: of SIMs, and of provider senders.
    pub scores: [Vec<u8>; 2],
    /// Times since the last glance that messages were set aside until a limit or a pause lets them go.
    pub waits: u64,
}

impl Machine {
    /// What would become of a message now, and why.
    pub fn explain(&mut self, submission: &Submission, now: Now) -> Explanation {
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
        let candidate = Candidate {
            message: submission.id,
            attempt: 1,
            tenant: submission.tenant,
            class: submission.priority,
            pin: submission.pin,
            // Found by the table, as for a message that comes in.
            plan: PlanRef::default(),
            to: submission.to,
            segments: submission.segments,
            unicode: is_unicode(submission),
            sender: submission.sender.as_deref().map(sender_hash),
            avoid: None,
            waits_since_ms: now.mono_ms,
            max_cost: submission.max_cost,
            spent: Micros::ZERO,
        };
        self.routes.explain(&classify, &candidate, now)
    }

    /// All routes of a tenant that are there, or were lately.
    pub fn route_health(&self, tenant: TenantId, now: Now) -> Vec<RouteHealth> {
        self.routes.health(tenant, now)
    }

    /// One of them.
    pub fn route_health_of(&self, route: Route, now: Now) -> Option<RouteHealth> {
        self.routes.health_of(route, now)
    }

    pub fn route_glance(&mut self, now: Now) -> RouteGlance {
        let mut glance = RouteGlance { waits: std::mem::take(&mut self.waits), ..RouteGlance::default() };
        self.routes.glance(now, |kind, state, score| {
            glance.states[state as usize] += 1;
            if state != RouteState::Offline {
                glance.scores[usize::from(kind == RouteKind::Provider)].push(score);
            }
        });
        glance
    }
}
