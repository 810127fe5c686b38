//! Every segment that has left, exactly: what limits are judged by.

use super::*;
use crate::fact::Charge;
use crate::settings::Limits;

#[derive(Clone, Copy)]
struct Left {
    tenant: TenantId,
    route: Route,
    at_ms: u64,
    segments: u32,
    recipient: u64,
    urgent: bool,
    month: i32,
    cost: u64,
}

/// Whether a tenant's segments on a route count in a scope.
type Belongs = Box<dyn Fn((TenantId, Route)) -> bool>;

#[derive(Default)]
pub(super) struct Log(Vec<Left>);

/// Windows of limits that slide, and whose days are those of UTC.
fn sums(limits: &Limits) -> impl Iterator<Item = (u32, u64)> {
    [(limits.per_minute, 60_000), (limits.per_hour, 3_600_000)].into_iter().filter_map(|(limit, ms)| Some((limit?, ms)))
}

impl Log {
    pub(super) fn add(&mut self, tenant: TenantId, charge: &Charge, urgent: bool) {
        let Charge { route, at_ms, recipient, .. } = *charge;
        let (month, cost) = (crate::limits::civil::month_of(charge.tenant_day), charge.cost.0);
        self.0.push(Left {
            tenant,
            route,
            at_ms,
            segments: u32::from(charge.segments),
            recipient,
            urgent,
            month,
            cost,
        });
    }

    /// With this message all that is on its way, and all that left within the windows that end now, are within the limits.
    pub(super) fn check_taken(
        &self,
        world: &World,
        candidate: &Candidate,
        route: Route,
        flights: &[Flight],
        now: Now,
        seed: u64,
    ) {
        let settings = &world.sim(route).settings;
        let routing = world.routing(candidate.tenant);
        let of_flight = |flight: &Flight| (flight.message.candidate.tenant, flight.route);
        for (limits, of) in self.scopes(settings, routing, route, candidate.tenant) {
            let flying = flights.iter().filter(|flight| of(of_flight(flight)));
            let flying: u32 = flying.clone().map(|flight| u32::from(flight.segments)).sum();
            let wanted = flying + u32::from(candidate.segments);
            let left = |since_ms: u64| -> u32 {
                let inside = self.0.iter().filter(|left| left.at_ms > since_ms && of((left.tenant, left.route)));
                inside.map(|left| left.segments).sum()
            };
            for (limit, ms) in sums(limits) {
                assert!(left(now.unix_ms - ms) + wanted <= limit, "seed {seed}: more than {limit} in {ms} ms");
            }
            let midnight_ms = now.unix_ms / DAY_MS * DAY_MS - 1;
            assert!(
                limits.per_day.is_none_or(|limit| left(midnight_ms) + wanted <= limit),
                "seed {seed}: a day's limit"
            );
            if let Some(gap_ms) = limits.gap_ms {
                let last = self.0.iter().filter(|left| of((left.tenant, left.route))).map(|left| left.at_ms).max();
                let early = last.is_some_and(|last| last + u64::from(gap_ms) > now.unix_ms);
                assert!(!early && flying == 0, "seed {seed}: in the pause of {gap_ms} ms");
            }
        }
        let urgent = candidate.class == Priority::Urgent;
        if let Some(limit) = routing.recipient_limit.filter(|_| !urgent) {
            let recipient = recipient_hash(candidate.to.as_u64());
            let since_ms = now.unix_ms - u64::from(limit.window_s) * 1_000;
            let mine =
                |left: &&Left| left.tenant == candidate.tenant && left.recipient == recipient && left.at_ms > since_ms;
            let flying = flights.iter().filter(|flight| {
                flight.message.candidate.tenant == candidate.tenant && flight.message.candidate.to == candidate.to
            });
            let count = self.0.iter().filter(mine).count() + flying.count();
            assert!(count < usize::from(limit.messages), "seed {seed}: {limit:?}");
        }
    }

    /// No window that ends with or after this charge has more than its limit.
    pub(super) fn check_landed(&self, world: &World, tenant: TenantId, charge: &Charge, seed: u64) {
        let settings = &world.sim(charge.route).settings;
        let routing = world.routing(tenant);
        for (limits, of) in self.scopes(settings, routing, charge.route, tenant) {
            let inside: Vec<&Left> = self.0.iter().filter(|left| of((left.tenant, left.route))).collect();
            for (limit, ms) in sums(limits) {
                let near = inside.iter().filter(|left| left.at_ms.abs_diff(charge.at_ms) < ms);
                for end in near {
                    let window = inside.iter().filter(|left| left.at_ms <= end.at_ms && left.at_ms + ms > end.at_ms);
                    let sum: u32 = window.map(|left| left.segments).sum();
                    assert!(sum <= limit, "seed {seed}: {sum} segments landed in {ms} ms, {limit} allowed");
                }
            }
            if let Some(limit) = limits.per_day {
                let day = charge.at_ms / DAY_MS;
                let sum: u32 = inside.iter().filter(|left| left.at_ms / DAY_MS == day).map(|left| left.segments).sum();
                assert!(sum <= limit, "seed {seed}: {sum} segments landed in a day, {limit} allowed");
            }
        }
        if let Some(budget) = routing.budget {
            let month = crate::limits::civil::month_of(charge.tenant_day);
            let cost: u64 =
                self.0.iter().filter(|left| left.tenant == tenant && left.month == month).map(|left| left.cost).sum();
            assert!(cost <= budget.per_month.0, "seed {seed}: {cost} spent of {budget:?}");
        }
        if let Some(limit) = routing.recipient_limit {
            let ms = u64::from(limit.window_s) * 1_000;
            let mine = self.0.iter().filter(|left| left.tenant == tenant && left.recipient == charge.recipient);
            let plain =
                mine.filter(|left| !left.urgent && left.at_ms <= charge.at_ms && left.at_ms + ms > charge.at_ms);
            assert!(plain.count() <= usize::from(limit.messages), "seed {seed}: {limit:?} landed");
        }
    }

    fn scopes<'a>(
        &self,
        settings: &'a RouteSettings,
        routing: &'a TenantRouting,
        route: Route,
        tenant: TenantId,
    ) -> [(&'a Limits, Belongs); 3] {
        [
            (&settings.limits, Box::new(move |(_, of)| of == route)),
            (&settings.device_limits, Box::new(move |(_, of)| of.device == route.device)),
            (&routing.limits, Box::new(move |(of, _)| of == tenant)),
        ]
    }
}
