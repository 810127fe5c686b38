//! Every segment that has left, exactly: what limits are judged by.

use super::*;
use crate::fact::Charge;
use crate::settings::Limits;

#[derive(Clone, Copy)]
struct Left {
    tenant: TenantId,
    route: Route,
    /// By the monotonic clock, as it was.
    at_ms: u64,
    segments: u32,
    recipient: u64,
    urgent: bool,
    /// As it was charged: by the route's clock, and by the tenant's.
    dated: Dated,
    of_tenant: Dated,
    cost: u64,
}

/// Days since 1970 and months.
type Dated = (i32, i32);

/// What a scope's days and months go by.
#[derive(Clone, Copy)]
struct Calendar<'a> {
    zone: &'a str,
    of: fn(&Left) -> Dated,
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
    pub(super) fn add(&mut self, world: &World, tenant: TenantId, charge: &Charge, at_ms: u64, urgent: bool) {
        let Charge { route, at_ms: unix_ms, recipient, .. } = *charge;
        let dated = make::day_and_month(&world.sim(route).settings.timezone, unix_ms);
        let of_tenant = make::day_and_month(&world.routing(tenant).timezone, unix_ms);
        assert_eq!((charge.day, charge.tenant_day), (dated.0, of_tenant.0), "the calendar's days");
        let (segments, cost) = (u32::from(charge.segments), charge.cost.0);
        self.0.push(Left { tenant, route, at_ms, segments, recipient, urgent, dated, of_tenant, cost });
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
        for (limits, of, calendar) in self.scopes(settings, routing, route, candidate.tenant) {
            let flying = flights.iter().filter(|flight| of(of_flight(flight)));
            let flying: u32 = flying.clone().map(|flight| u32::from(flight.segments)).sum();
            let wanted = flying + u32::from(candidate.segments);
            let left = |since_ms: u64| -> u32 {
                let inside = self.0.iter().filter(|left| left.at_ms > since_ms && of((left.tenant, left.route)));
                inside.map(|left| left.segments).sum()
            };
            for (limit, ms) in sums(limits) {
                let inside: u32 = match now.mono_ms.checked_sub(ms) {
                    Some(since_ms) => left(since_ms),
                    None => self.0.iter().filter(|left| of((left.tenant, left.route))).map(|left| left.segments).sum(),
                };
                assert!(inside + wanted <= limit, "seed {seed}: more than {limit} in {ms} ms");
            }
            let (day, month) = make::day_and_month(calendar.zone, now.unix_ms);
            let since = |is_inside: &dyn Fn(Dated) -> bool| -> u32 {
                let all = self.0.iter().filter(|left| of((left.tenant, left.route)));
                all.filter(|left| is_inside((calendar.of)(left))).map(|left| left.segments).sum()
            };
            let today = since(&|of| of.0 >= day) + wanted;
            assert!(limits.per_day.is_none_or(|limit| today <= limit), "seed {seed}: a day's limit");
            let this_month = since(&|of| of.1 >= month) + wanted;
            assert!(limits.per_month.is_none_or(|limit| this_month <= limit), "seed {seed}: a month's limit");
            if let Some(gap_ms) = limits.gap_ms {
                let last = self.0.iter().filter(|left| of((left.tenant, left.route))).map(|left| left.at_ms).max();
                let early = last.is_some_and(|last| last + u64::from(gap_ms) > now.mono_ms);
                assert!(!early && flying == 0, "seed {seed}: in the pause of {gap_ms} ms");
            }
        }
        let urgent = candidate.class == Priority::Urgent;
        if let Some(limit) = routing.recipient_limit.filter(|_| !urgent) {
            let recipient = recipient_hash(candidate.to.as_u64());
            let window_ms = u64::from(limit.window_s) * 1_000;
            let mine = |left: &&Left| {
                left.tenant == candidate.tenant && left.recipient == recipient && left.at_ms + window_ms > now.mono_ms
            };
            let flying = flights.iter().filter(|flight| {
                flight.message.candidate.tenant == candidate.tenant && flight.message.candidate.to == candidate.to
            });
            let count = self.0.iter().filter(mine).count() + flying.count();
            assert!(count < usize::from(limit.messages), "seed {seed}: {limit:?}");
        }
        let wanted = u32::from(candidate.segments);
        let flying = flights.iter().filter(|flight| flight.route == route).map(|flight| u32::from(flight.segments));
        self.check_warm_up(settings, route, now.unix_ms, wanted + flying.sum::<u32>(), seed);
    }

    /// A SIM sends no more on a day than the stage of its warm-up lets it.
    fn check_warm_up(&self, settings: &RouteSettings, route: Route, unix_ms: u64, wanted: u32, seed: u64) {
        let Some(warm_up) = &settings.warm_up else { return };
        let (day, _) = make::day_and_month(&settings.timezone, unix_ms);
        let mine = || self.0.iter().filter(|left| left.route == route);
        let first = mine().map(|left| left.dated.0).min().unwrap_or(day);
        let Some(most) = warm_up.per_day.get(usize::try_from(day - first).unwrap_or(0)) else { return };
        let used: u32 = mine().filter(|left| left.dated.0 >= day).map(|left| left.segments).sum();
        assert!(used + wanted <= *most, "seed {seed}: {used} and {wanted} of the {most} of its warm-up");
    }

    /// No window that ends with or after this charge has more than its limit.
    pub(super) fn check_landed(&self, world: &World, tenant: TenantId, charge: &Charge, seed: u64) {
        let settings = &world.sim(charge.route).settings;
        let routing = world.routing(tenant);
        let landed = self.0.last().copied().expect("it was added");
        for (limits, of, calendar) in self.scopes(settings, routing, charge.route, tenant) {
            let inside: Vec<&Left> = self.0.iter().filter(|left| of((left.tenant, left.route))).collect();
            for (limit, ms) in sums(limits) {
                let near = inside.iter().filter(|left| left.at_ms.abs_diff(landed.at_ms) < ms);
                for end in near {
                    let window = inside.iter().filter(|left| left.at_ms <= end.at_ms && left.at_ms + ms > end.at_ms);
                    let sum: u32 = window.map(|left| left.segments).sum();
                    assert!(sum <= limit, "seed {seed}: {sum} segments landed in {ms} ms, {limit} allowed");
                }
            }
            let (day, month) = (calendar.of)(&landed);
            let sum = |is_inside: &dyn Fn(Dated) -> bool| -> u32 {
                inside.iter().filter(|left| is_inside((calendar.of)(left))).map(|left| left.segments).sum()
            };
            let (today, this_month) = (sum(&|of| of.0 == day), sum(&|of| of.1 == month));
            let kept = |limit: Option<u32>, sum| limit.is_none_or(|limit| sum <= limit);
            assert!(kept(limits.per_day, today), "seed {seed}: {today} segments landed in a day: {limits:?}");
            assert!(kept(limits.per_month, this_month), "seed {seed}: {this_month} landed in a month: {limits:?}");
        }
        if let Some(budget) = routing.budget {
            let month = landed.of_tenant.1;
            let mine = self.0.iter().filter(|left| left.tenant == tenant && left.of_tenant.1 == month);
            let cost: u64 = mine.map(|left| left.cost).sum();
            assert!(cost <= budget.per_month.0, "seed {seed}: {cost} spent of {budget:?}");
        }
        if let Some(limit) = routing.recipient_limit {
            let ms = u64::from(limit.window_s) * 1_000;
            let mine = self.0.iter().filter(|left| left.tenant == tenant && left.recipient == charge.recipient);
            let plain =
                mine.filter(|left| !left.urgent && left.at_ms <= landed.at_ms && left.at_ms + ms > landed.at_ms);
            assert!(plain.count() <= usize::from(limit.messages), "seed {seed}: {limit:?} landed");
        }
    }

    fn scopes<'a>(
        &self,
        settings: &'a RouteSettings,
        routing: &'a TenantRouting,
        route: Route,
        tenant: TenantId,
    ) -> [(&'a Limits, Belongs, Calendar<'a>); 3] {
        let own = Calendar { zone: &settings.timezone, of: |left| left.dated };
        let of_tenant = Calendar { zone: &routing.timezone, of: |left| left.of_tenant };
        [
            (&settings.limits, Box::new(move |(_, of)| of == route), own),
            (&settings.device_limits, Box::new(move |(_, of)| of.device == route.device), own),
            (&routing.limits, Box::new(move |(of, _)| of == tenant), of_tenant),
        ]
    }
}
