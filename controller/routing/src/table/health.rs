//! How the routes of a tenant are, for people.

use flotilla_protocol::id::TenantId;
use serde::Serialize;
use smallvec::SmallVec;
use utoipa::ToSchema;

use super::Table;
use super::blocks::{Lasts, Obstacle, View};
use super::entry::{Device, Entry};
use crate::circuit::{Because, Position};
use crate::health::history::History;
use crate::health::score::{Score, score};
use crate::health::{Health, HealthView};
use crate::ledger::Scope;
use crate::limits::{Usage, stage, usage, warmed_up};
use crate::route::Route;
use crate::{Micros, Now};

/// One route, as it is now.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RouteHealth {
    #[serde(skip)]
    #[schema(ignore)]
    pub route: Route,
    pub online: bool,
    pub score: Score,
    /// How it has done; none when it has done nothing yet.
    pub outcomes: Option<HealthView>,
    pub circuit: Position,
    /// Why the circuit is not closed.
    pub circuit_because: Option<Because>,
    /// What keeps ordinary messages from it now.
    #[schema(value_type = Vec<Obstacle>)]
    pub obstacles: SmallVec<[Obstacle; 4]>,
    /// When the last of those that time ends is over (Unix ms).
    pub until_unix_ms: Option<u64>,
    /// Messages on their way.
    pub in_flight: u32,
    #[schema(value_type = Vec<Usage>)]
    pub limits: SmallVec<[Usage; 5]>,
    /// The stage of its warm-up, from 0.
    pub warm_up_stage: Option<usize>,
    /// What the month has cost.
    pub month_cost: Micros,
    /// Scores of the last 24 hours: the beginning of a quarter of an hour (Unix ms), and the score.
    pub history: Vec<(u64, u8)>,
}

impl Table {
    /// All routes of a tenant that are there, or were within the last weeks.
    pub fn health(&self, tenant: TenantId, now: Now) -> Vec<RouteHealth> {
        let routes = self.tenants.get(&tenant).map_or(&[][..], |tenant| &tenant.routes);
        let known = routes.iter().filter_map(|key| self.entries.get(*key));
        known.filter_map(|entry| Some(self.route_health(entry, self.devices.get(&entry.route.device)?, now))).collect()
    }

    /// One of them.
    pub fn health_of(&self, route: Route, now: Now) -> Option<RouteHealth> {
        let entry = self.entries.get(*self.by_route.get(&route)?)?;
        Some(self.route_health(entry, self.devices.get(&entry.route.device)?, now))
    }

    fn route_health(&self, entry: &Entry, device: &Device, now: Now) -> RouteHealth {
        let view = View { ledger: &self.ledger, pauses: &self.pauses, now };
        let (mut obstacles, mut until_ms) = (SmallVec::new(), None::<u64>);
        view.of_route(entry, device, 1, &mut |obstacle, lasts| {
            obstacles.push(obstacle);
            if let Lasts::Until(at_ms) = lasts {
                until_ms = Some(until_ms.map_or(at_ms, |known| known.max(at_ms)));
            }
        });
        let health = self.ledger.health(&entry.route);
        let circuit = self.ledger.circuit(&entry.route);
        let counters = self.ledger.counters(Scope::Route(entry.route));
        let today = entry.calendar.at(&entry.terms.zone, now.unix_ms);
        let warm_up = entry.settings.warm_up.as_ref();
        let limits = warmed_up(&entry.settings.limits, warm_up, counters, today.day);
        RouteHealth {
            route: entry.route,
            online: entry.online,
            score: score(health.unwrap_or(&Health::default()), entry.vitals().as_ref(), now.unix_ms),
            outcomes: health.map(|health| health.view(now.unix_ms)),
            circuit: circuit.map_or(Position::Closed, |circuit| circuit.position(now.unix_ms)),
            circuit_because: circuit.and_then(|circuit| circuit.because()),
            obstacles,
            until_unix_ms: until_ms.map(|at_ms| now.unix_ms.saturating_add(at_ms.saturating_sub(now.mono_ms))),
            in_flight: entry.used,
            limits: usage(&limits, counters, entry.segments, &today),
            warm_up_stage: warm_up.and_then(|warm_up| stage(warm_up, counters, today.day)),
            month_cost: counters.cost(today.month),
            history: self
                .ledger
                .history(&entry.route)
                .map(|history: &History| history.iter().collect())
                .unwrap_or_default(),
        }
    }
}
