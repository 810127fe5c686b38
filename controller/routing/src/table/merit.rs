//! How two routes compare, and the one number that is shown for it.
//!
//! A route's score is made of parts that add up to at most 100; docs/routing.md has them in a table. All of them are numbers
//! of this moment, so that a choice can be explained part by part.

use serde::Serialize;
use utoipa::ToSchema;

use super::choose::Search;
use super::entry::{Device, Entry, Key, SCORE_AGE_MS, Scored};
use crate::health::{Health, score::score};
use crate::learn::Seen;
use crate::ledger::Scope;
use crate::limits::{headroom, warmed_up};
use crate::seed;
use crate::{Micros, Now};

/// What each part counts at most.
pub(crate) const HEALTH_POINTS: f32 = 60.0;
pub(crate) const COST_POINTS: f32 = 15.0;
pub(crate) const CARRIER_POINTS: f32 = 10.0;
pub(crate) const HEADROOM_POINTS: f32 = 5.0;
pub(crate) const FREE_POINTS: f32 = 10.0;

/// The parts of a route's score for a message. They add up to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Parts {
    /// 0 to 60: its health score, or, where weights learn, the draw from what it has delivered.
    pub health: f32,
    /// 0 to 15: less, the nearer its price is to the tenant's highest.
    pub cost: f32,
    /// 0 or 10: the recipient is in its own network.
    pub carrier: f32,
    /// 0 to 5: how much of its scarcest limit is left.
    pub headroom: f32,
    /// 0 to 10: how many of its places are free.
    pub free: f32,
}

impl Parts {
    pub fn total(&self) -> f32 {
        self.health + self.cost + self.carrier + self.headroom + self.free
    }

    /// 0 to 100.
    pub fn score(&self) -> u8 {
        self.total().round().clamp(0.0, 100.0) as u8
    }
}

/// A route that has room and suits, as it compares.
#[derive(Clone, Copy, Debug)]
pub(super) struct Drawn {
    pub(super) key: Key,
    pub(super) parts: Parts,
    pub(super) cost: Micros,
    /// It would be the one message that shows whether the route works again.
    pub(super) probe: bool,
    /// Its weight lets it take part in this comparison.
    pub(super) weighed: bool,
    pub(super) weight: u8,
    /// Its health was drawn by what it has delivered.
    pub(super) learned: bool,
}

/// What decided between two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    Score,
    Learned,
}

impl Drawn {
    /// Whether a recipient's former route is good enough beside the best one.
    pub(super) fn stays(&self, best: &Self, points: u8) -> bool {
        !self.probe && self.parts.total() + f32::from(points) >= best.parts.total()
    }
}

impl Search<'_> {
    pub(super) fn drawn(&self, key: Key, entry: &Entry, device: &Device) -> Drawn {
        let number = self.number_for(entry);
        let (health, learned) = self.health(entry, number);
        let cost = self.cost(entry);
        let parts = Parts {
            health: HEALTH_POINTS * health,
            cost: COST_POINTS * (1.0 - self.dearness(cost)),
            carrier: if self.own_network(entry) { CARRIER_POINTS } else { 0.0 },
            headroom: HEADROOM_POINTS * self.headroom(entry),
            free: FREE_POINTS * free(entry, device, self.kind),
        };
        let probe = self.view.probes(entry);
        let weight = entry.settings.weight;
        let weighed = seed::place(number, 100) < usize::from(weight);
        Drawn { key, parts, cost, probe, weighed, weight, learned }
    }

    /// The message's number for what is drawn about a route.
    pub(super) fn number_for(&self, entry: &Entry) -> u64 {
        let sim = u128::from_be_bytes(entry.route.sim.to_bytes());
        seed::of_message(self.candidate.message, seed::mix(sim as u64) ^ u64::from(self.candidate.attempt))
    }

    /// The better one of two, and what decided.
    pub(super) fn better(&self, a: Drawn, b: Drawn) -> (Drawn, Compared) {
        let one = |first: bool| (if first { a } else { b }, Compared::Score);
        if a.weighed != b.weighed {
            return one(a.weighed);
        }
        if !a.weighed && a.weight != b.weight {
            return one(a.weight > b.weight);
        }
        if self.cheapest && a.cost != b.cost {
            return one(a.cost < b.cost);
        }
        if a.probe != b.probe {
            // Urgent messages do not find out for others.
            return one(a.probe == (self.kind != 0));
        }
        let first = a.parts.total() >= b.parts.total();
        (if first { a } else { b }, if a.learned || b.learned { Compared::Learned } else { Compared::Score })
    }

    /// 0 to 1, and whether it was drawn.
    fn health(&self, entry: &Entry, number: u64) -> (f32, bool) {
        let health = f32::from(health_score(self, entry)) / 100.0;
        match self.seen(entry) {
            Some(seen) => (health * seen.draw(number), true),
            None => (health, false),
        }
    }

    /// What the route has delivered to the recipient's country, where that counts.
    pub(super) fn seen(&self, entry: &Entry) -> Option<Seen> {
        let now_ms = self.view.now.unix_ms;
        self.tenant.routing.learn.then(|| {
            let learned = self.view.ledger.learned(&entry.route);
            learned.map_or(Seen::default(), |learned| learned.seen(self.candidate.to.region(), now_ms))
        })
    }

    fn dearness(&self, cost: Micros) -> f32 {
        let dearest = self.tenant.dearest.times(self.candidate.segments);
        if dearest == Micros::ZERO { 0.0 } else { (cost.0 as f32 / dearest.0 as f32).min(1.0) }
    }

    fn own_network(&self, entry: &Entry) -> bool {
        !entry.terms.own_prefixes.is_empty() && entry.terms.own_prefixes.hold(self.candidate.to)
    }

    fn headroom(&self, entry: &Entry) -> f32 {
        if !entry.terms.limited {
            return 1.0;
        }
        let counters = self.view.ledger.counters(Scope::Route(entry.route));
        let today = entry.calendar.at(&entry.terms.zone, self.view.now.unix_ms);
        let limits = warmed_up(&entry.settings.limits, entry.settings.warm_up.as_ref(), counters, today.day);
        headroom(&limits, counters, entry.segments, &today)
    }
}

/// How much of its places is free, 0 to 1.
fn free(entry: &Entry, device: &Device, kind: usize) -> f32 {
    let places = entry.places(device, kind).max(1);
    places.saturating_sub(entry.used) as f32 / places as f32
}

fn health_score(search: &Search<'_>, entry: &Entry) -> u8 {
    let now = search.view.now;
    let known = entry.score.get();
    if known.at_ms.is_some_and(|at_ms| now.mono_ms.saturating_sub(at_ms) < SCORE_AGE_MS) {
        return known.value;
    }
    let value = fresh_score(search.view.ledger.health(&entry.route), entry, now);
    entry.score.set(Scored { value, at_ms: Some(now.mono_ms) });
    value
}

/// The health score of a route, made anew. One that nothing is known of is healthy.
pub(super) fn fresh_score(health: Option<&Health>, entry: &Entry, now: Now) -> u8 {
    match (health, entry.vitals()) {
        (None, None) => 100,
        (Some(health), vitals) => score(health, vitals.as_ref(), now.unix_ms).value,
        (None, vitals) => score(&Health::default(), vitals.as_ref(), now.unix_ms).value,
    }
}
