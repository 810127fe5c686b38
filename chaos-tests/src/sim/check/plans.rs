//! Whether messages go by their tenants' plans: only over routes that their plan names, and over a later step only when the
//! steps before had no route for them. The second is judged where there is no doubt: a route without limits on a gateway that
//! has been with this leader for long, has had no work for long, and has hardly ever failed, had room.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_controller::domain::event::{Change, Changed};
use flotilla_controller::domain::facts::codes;
use flotilla_controller::domain::message::{Pin, Route};
use flotilla_protocol::id::{DeviceId, ShardId};
use flotilla_protocol::wire::Attempt;

use super::{Checker, Writer};
use crate::sim::Ms;
use crate::sim::site::Way;

/// Longer than leases that matter, pauses, commits that come late, and controllers that are stopped.
const SURE_IDLE_MS: u64 = 75_000;
/// The most that a SIM rests after it could not send, and more.
const SURE_WELL_MS: u64 = 100_000;
/// No circuit opens after so few, and no warning is given about so little.
const FAILURES_MAX: u32 = 2;
const SENT_MAX: u32 = 25;

#[derive(Debug, Default)]
pub(super) struct Gateways(BTreeMap<DeviceId, Gateway>);

/// A device or an account, as its leader sees it.
#[derive(Debug, Default)]
struct Gateway {
    /// The controller that it is with.
    with: Option<Writer>,
    /// Since when nothing of that has changed.
    since: Ms,
    ready: bool,
    /// Attempts that it may have.
    open: BTreeSet<Attempt>,
    last_work: Option<Ms>,
    sent: u32,
    failures: u32,
    last_failure: Option<Ms>,
}

impl Gateways {
    fn of(&mut self, route: &Route) -> &mut Gateway {
        self.0.entry(route.device).or_default()
    }
}

impl Gateway {
    fn has_failed(&mut self, now: Ms) {
        self.failures += 1;
        self.last_failure = Some(now);
    }

    fn is_surely_free(&self, leader: Writer, now: Ms) -> bool {
        let long_ago = |at: Option<Ms>, ms| at.is_none_or(|at| at + ms <= now);
        self.with == Some(leader)
            && self.ready
            && self.open.is_empty()
            && self.sent <= SENT_MAX
            && self.failures <= FAILURES_MAX
            && long_ago(Some(self.since), SURE_IDLE_MS)
            && long_ago(self.last_work, SURE_IDLE_MS)
            && long_ago(self.last_failure, SURE_WELL_MS)
    }
}

impl Checker {
    /// A gateway has listed what it holds to its controller.
    pub(in crate::sim) fn gateway_is_up(&mut self, device: DeviceId, with: Writer, ready: bool, now: Ms) {
        let gateway = self.gateways.0.entry(device).or_default();
        (gateway.with, gateway.since, gateway.ready) = (Some(with), now, ready);
    }

    pub(in crate::sim) fn gateway_changes(&mut self, device: DeviceId, ready: bool, now: Ms) {
        let gateway = self.gateways.0.entry(device).or_default();
        (gateway.since, gateway.ready) = (now, ready);
    }

    pub(in crate::sim) fn gateway_is_gone(&mut self, device: DeviceId) {
        self.gateways.0.entry(device).or_default().with = None;
    }

    /// Work for a route, before it counts.
    pub(super) fn goes_by_its_plan(
        &mut self,
        changed: &Changed,
        (shard, leader, led_since): (ShardId, Writer, Ms),
        now: Ms,
    ) {
        let Change::Dispatched { attempt, route, why, .. } = &changed.change else { return };
        let (id, route) = (changed.message, *route);
        let Some(submission) = self.messages.get(&id).map(|tracked| &tracked.record.submission) else { return };
        let Some(ways) = self.ways_of(id) else { return };
        let follows = match submission.pin {
            Pin::Any => ways.iter().any(|way| way.iter().flatten().any(|one| *one == route)),
            Pin::Device(device) => route.device == device,
            Pin::Sim(sim) => route.sim == sim,
        };
        if !follows {
            return self.violated("plan_is_followed", || format!("{id} goes over {route:?}, which it must not use"));
        }
        let ([way], Pin::Any) = (&*ways, submission.pin) else { return };
        let step = usize::from(why.step);
        if !step.checked_sub(1).and_then(|step| way.get(step)).is_some_and(|routes| routes.contains(&route)) {
            return self.violated("plan_is_followed", || format!("{id} goes over {route:?} in step {step}"));
        }
        // What has failed before keeps away from where that was.
        let settled = self.run_since.get(&shard).is_some_and(|since| since + SURE_IDLE_MS <= now);
        if *attempt > 1 || !settled || led_since + SURE_IDLE_MS > now {
            return;
        }
        let sooner =
            way[..step - 1].iter().flatten().find(|sooner| self.is_surely_free(**sooner, leader, now)).copied();
        if let Some(sooner) = sooner {
            self.violated("fallback_only_when_needed", || {
                format!("{id} goes over {:?} in step {step}, and {:?} was free", route.sim, sooner.sim)
            });
        }
    }

    fn is_surely_free(&self, route: Route, leader: Writer, now: Ms) -> bool {
        let gateway = self.gateways.0.get(&route.device);
        self.air.is_unlimited(route) && gateway.is_some_and(|gateway| gateway.is_surely_free(leader, now))
    }

    fn ways_of(&self, id: flotilla_protocol::id::MessageId) -> Option<Vec<Way>> {
        self.promises.asked(id).map(|asked| asked.ways.clone())
    }

    /// What gateways have, by the journal.
    pub(super) fn note_work(&mut self, changed: &Changed, now: Ms) {
        let at = |number: &u16| Attempt { message: changed.message, number: *number };
        match &changed.change {
            Change::Dispatched { attempt, route, .. } => {
                let gateway = self.gateways.of(route);
                gateway.open.insert(at(attempt));
                gateway.last_work = Some(now);
            }
            Change::Sent { attempt, route, .. } | Change::Delivered { attempt, route, .. } => {
                let gateway = self.gateways.of(route);
                gateway.sent += u32::from(gateway.open.remove(&at(attempt)));
            }
            Change::Returned { attempt, route, .. } | Change::Failed { attempt, route: Some(route), .. } => {
                let gateway = self.gateways.of(route);
                gateway.open.remove(&at(attempt));
                gateway.has_failed(now);
            }
            Change::Doubted { route, .. } => self.gateways.of(route).has_failed(now),
            // It keeps its place until its gateway has answered, which no journal tells.
            Change::Expired { route: Some(route), why, .. } if *why.code != *codes::NO_REPORT => {
                self.gateways.of(route).has_failed(now);
            }
            _ => {}
        }
    }
}
