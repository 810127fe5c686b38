//! Explanations from the same code that chooses: obstacles by `blocks`, parts by `merit`, the outcome by `choose`.

use super::Table;
use super::blocks::{Lasts, Obstacle, View, limits_in_the_way};
use super::choose::Search;
use super::entry::{Device, Entry, Key};
use super::tenant::Tenant;
use crate::Now;
use crate::choice::{Candidate, Choice, Classify, Pin};
use crate::explain::{Drawn, Explanation, Outcome, ROUTES_MAX, ReasonSeen, RouteSeen, RuleTried, StepSeen};
use crate::fact::recipient_hash;
use crate::health::Health;
use crate::health::score::score;
use crate::limits::Room;

impl Table {
    /// What would become of a message now, and why. Nothing is changed by it. The plan is found as for a message that comes
    /// in; `candidate.plan` is not looked at.
    pub fn explain(&mut self, message: &Classify<'_>, candidate: &Candidate, now: Now) -> Explanation {
        let plan = self.classify(candidate.tenant, message, now);
        let candidate = &Candidate { plan, ..*candidate };
        let mut choice = match candidate.pin {
            Pin::Any => self.try_plan(candidate, now).0,
            Pin::Sim(_) | Pin::Device(_) => self.try_pin(candidate, now).0,
        };
        if !matches!(choice, Choice::Take(..) | Choice::Refuse { .. }) {
            choice = self.never(candidate, now).unwrap_or(choice);
        }
        let tenant = self.tenant(candidate.tenant);
        let rules = if message.plan.is_some() || candidate.pin != Pin::Any {
            Vec::new()
        } else {
            rules_tried(tenant, message, now)
        };
        let tenant = &*tenant;
        let pinned = candidate.pin != Pin::Any;
        let way = tenant.way(plan).filter(|_| !pinned);
        let steps = if pinned { Vec::new() } else { steps_seen(tenant, candidate) };
        let name = way.map(|(plan, _)| plan.name.to_string());
        let held = self.tenants.get(&candidate.tenant).and_then(|tenant| self.gate(candidate, tenant, now));
        let (routes, routes_left_out) = self.routes_seen(candidate, now);
        let held = held.map(|held| outcome(held, now));
        Explanation { rules, plan: name, held, steps, routes, routes_left_out, choice: outcome(choice, now) }
    }

    fn routes_seen(&self, candidate: &Candidate, now: Now) -> (Vec<RouteSeen>, usize) {
        let Some(tenant) = self.tenants.get(&candidate.tenant) else { return (Vec::new(), 0) };
        let mut search = Search::new(self, tenant, candidate, now);
        let mut found: Vec<(u8, bool, f32, Key)> = Vec::new();
        for key in &tenant.routes {
            let Some((entry, device)) = self.seen(*key) else { continue };
            let Some(step) = step_of(tenant, candidate, entry) else { continue };
            let mut eligible = true;
            search.view.of_route(entry, device, search.kind, &mut |_, _| eligible = false);
            search.view.of_message(candidate, tenant, entry, device, &mut |_, _| eligible = false);
            found.push((step, !eligible, -search.drawn(*key, entry, device).parts.total(), *key));
        }
        found.sort_unstable_by(|a, b| (a.0, a.1).cmp(&(b.0, b.1)).then(a.2.total_cmp(&b.2)));
        let left_out = found.len().saturating_sub(ROUTES_MAX);
        found.truncate(ROUTES_MAX);
        let shown = found.into_iter().filter_map(|(step, blocked, _, key)| {
            let (entry, device) = self.seen(key)?;
            Some(route_seen(&mut search, key, entry, device, step, !blocked))
        });
        (shown.collect(), left_out)
    }

    fn seen(&self, key: Key) -> Option<(&Entry, &Device)> {
        let entry = self.entries.get(key)?;
        Some((entry, self.devices.get(&entry.route.device)?))
    }
}

fn rules_tried(tenant: &Tenant, message: &Classify<'_>, now: Now) -> Vec<RuleTried> {
    let mut tried = Vec::new();
    for rule in tenant.rules() {
        let unmet = rule.unmet(message, now.unix_ms);
        tried.push(RuleTried { name: rule.name().to_owned(), unmet });
        if unmet.is_none() {
            break;
        }
    }
    tried
}

fn steps_seen(tenant: &Tenant, candidate: &Candidate) -> Vec<StepSeen> {
    let kind = super::blocks::kind(candidate.class);
    let families = tenant.way(candidate.plan).map_or(&[][..], |(plan, _)| &plan.steps);
    let steps = families.iter().zip(1..).map(|(family, step)| {
        let family = tenant.sets.family(*family);
        let (with_room, busy) = tenant.sets.counts(family, kind);
        StepSeen { step, with_room, busy, patience_ms: family.patience_ms[kind], cheapest: family.cheapest }
    });
    steps.collect()
}

/// The step of the plan that means a route, from 1; 0 for a route that the message is pinned to.
fn step_of(tenant: &Tenant, candidate: &Candidate, entry: &Entry) -> Option<u8> {
    match candidate.pin {
        Pin::Sim(sim) => (entry.route.sim == sim).then_some(0),
        Pin::Device(device) => (entry.route.device == device).then_some(0),
        Pin::Any => {
            let (plan, _) = tenant.way(candidate.plan)?;
            let means = |family: &u16| entry.places.iter().any(|place| tenant.sets.family_of_set(place.set) == *family);
            plan.steps.iter().position(means).map(|step| step as u8 + 1)
        }
    }
}

fn route_seen(
    search: &mut Search<'_>,
    key: Key,
    entry: &Entry,
    device: &Device,
    step: u8,
    eligible: bool,
) -> RouteSeen {
    let now = search.view.now;
    let drawn = search.drawn(key, entry, device);
    let health = search.view.ledger.health(&entry.route);
    let health = score(health.unwrap_or(&Health::default()), entry.vitals().as_ref(), now.unix_ms);
    let candidate = search.candidate;
    let recipient = recipient_hash(candidate.to.as_u64());
    let learned = search.seen(entry).map(|seen| Drawn { draw: seen.draw(search.number_for(entry)), seen });
    RouteSeen {
        route: entry.route.into(),
        step,
        eligible,
        reasons: reasons(&search.view, search.tenant, candidate, entry, device, search.kind),
        score: drawn.parts.score(),
        parts: drawn.parts,
        health_reasons: health.reasons.to_vec(),
        cost: drawn.cost,
        probe: drawn.probe,
        weight: entry.settings.weight,
        sticky: search.view.ledger.sticky(candidate.tenant, recipient) == Some(entry.route.sim),
        learned,
    }
}

/// Everything in the way, limits by their names.
fn reasons(
    view: &View<'_>,
    tenant: &Tenant,
    candidate: &Candidate,
    entry: &Entry,
    device: &Device,
    kind: usize,
) -> Vec<ReasonSeen> {
    let mut all: Vec<ReasonSeen> = Vec::new();
    let mut tell = |code: Obstacle, lasts: Lasts| {
        let is_limit = matches!(code, Obstacle::Limit | Obstacle::DeviceLimit);
        if !is_limit && !all.iter().any(|known| known.code == code) {
            let until_unix_ms = match lasts {
                Lasts::Until(at_ms) => Some(unix_ms(at_ms, view.now)),
                Lasts::Busy | Lasts::Away | Lasts::Ever => None,
            };
            all.push(ReasonSeen { code, limit: None, until_unix_ms });
        }
    };
    view.of_route(entry, device, kind, &mut tell);
    view.of_message(candidate, tenant, entry, device, &mut tell);
    limits_in_the_way(view, entry, device, candidate, |code, limit, room| {
        let until_unix_ms = match room {
            Room::Yes => return,
            Room::Until { unix_ms } => Some(unix_ms),
            Room::InFlight | Room::Never => None,
        };
        all.push(ReasonSeen { code, limit: Some(limit), until_unix_ms });
    });
    all
}

fn unix_ms(mono_ms: u64, now: Now) -> u64 {
    now.unix_ms.saturating_add(mono_ms.saturating_sub(now.mono_ms))
}

fn outcome(choice: Choice, now: Now) -> Outcome {
    match choice {
        Choice::Take(route, why) => {
            Outcome::Take { route: route.into(), step: why.step, score: why.score, because: why.because.into() }
        }
        Choice::Wait { until_ms } => Outcome::Wait { until_unix_ms: until_ms.map(|at_ms| unix_ms(at_ms, now)) },
        Choice::Unfit { until_ms } => Outcome::Unfit { until_unix_ms: unix_ms(until_ms, now) },
        Choice::Refuse { code, text } => Outcome::Refuse { code: code.to_owned(), text: text.into() },
    }
}
