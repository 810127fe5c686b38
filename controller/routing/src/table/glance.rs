//! All routes at a glance: for metrics, which must not grow with the fleet.

use super::Table;
use super::blocks::{Obstacle, View};
use super::entry::SCORE_AGE_MS;
use super::merit::fresh_score;
use crate::Now;
use crate::circuit::Position;
use crate::route::RouteKind;

/// What a route is up to, by what stands in its way most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteState {
    Ready,
    /// It has as many messages as it takes.
    Busy,
    /// A limit or a send window keeps it back.
    Limited,
    /// It rests after a failure, is drained, or its SIM is not ready.
    Resting,
    /// Its circuit is open, or lets single messages through to see.
    Quarantined,
    /// Held back until a person confirms the SIM.
    Held,
    Offline,
}

impl RouteState {
    pub const ALL: [Self; 7] =
        [Self::Ready, Self::Busy, Self::Limited, Self::Resting, Self::Quarantined, Self::Held, Self::Offline];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Busy => "busy",
            Self::Limited => "limited",
            Self::Resting => "resting",
            Self::Quarantined => "quarantined",
            Self::Held => "held",
            Self::Offline => "offline",
        }
    }

    /// The least bad first.
    const fn of(obstacle: Obstacle) -> Self {
        match obstacle {
            Obstacle::Offline => Self::Offline,
            Obstacle::Held => Self::Held,
            Obstacle::CircuitOpen | Obstacle::Probing => Self::Quarantined,
            Obstacle::TakesNoWork | Obstacle::NotReady | Obstacle::Paused => Self::Resting,
            Obstacle::WindowClosed | Obstacle::Limit | Obstacle::DeviceLimit | Obstacle::Budget => Self::Limited,
            Obstacle::NoPlace => Self::Busy,
            // Those come with a message.
            Obstacle::Avoided
            | Obstacle::CountryNotServed
            | Obstacle::UnicodeNotServed
            | Obstacle::SenderNotServed
            | Obstacle::MaxCost => Self::Ready,
        }
    }
}

impl Table {
    /// Tells kind, state and score of every route that is there or was lately. A score may be a few seconds old.
    pub fn glance(&self, now: Now, mut tell: impl FnMut(RouteKind, RouteState, u8)) {
        let view = View { ledger: &self.ledger, pauses: &self.pauses, now };
        for key in self.tenants.values().flat_map(|tenant| &tenant.routes) {
            let Some(entry) = self.entries.get(*key) else { continue };
            let Some(device) = self.devices.get(&entry.route.device) else { continue };
            let circuit = self.ledger.circuit(&entry.route).map(|circuit| circuit.position(now.unix_ms));
            let closed = circuit.is_none_or(|position| position == Position::Closed);
            let mut state = if closed { RouteState::Ready } else { RouteState::Quarantined };
            view.of_route(entry, device, 1, &mut |obstacle, _| {
                state = if state as u8 > RouteState::of(obstacle) as u8 { state } else { RouteState::of(obstacle) };
            });
            let known = entry.score.get();
            let fresh = known.at_ms.is_some_and(|at_ms| now.mono_ms.saturating_sub(at_ms) < SCORE_AGE_MS);
            let score = if fresh { known.value } else { fresh_score(self.ledger.health(&entry.route), entry, now) };
            tell(entry.route.kind, state, score);
        }
    }
}
