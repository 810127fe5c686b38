//! What went out where and when, in true time: limits, pauses, send windows, and how often a recipient was written to.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_controller::domain::message::{Priority, Route};
use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::Attempt;
use flotilla_routing::settings::{Limits, RecipientLimit, RouteSettings};

use super::Checker;
use crate::sim::Ms;
use crate::sim::clock::UNIX_START_MS;
use crate::sim::site;

/// What clocks and silent services take from a span of time: a segment is charged by its device's clock (up to 10 s off, held
/// between dispatch and report) or when a service had to have answered, and looked at by those of other leaders, which are up to
/// 5 s off each and are set.
const UNSURE_MS: u64 = 10_000 + 2 * 5_000 + 8_000;
/// So that of a minute's limit nothing more than this holds in true time.
const SURE_MS: u64 = 60_000 - UNSURE_MS;
const DAY_MS: u64 = 86_400_000;
/// A leader looks at windows by one clock, which another one may have held back for a moment.
const WINDOW_MS: u64 = 10_000;
/// What was dispatched while a window was open leaves within the lease of its grant, and what clocks make of that.
const LEASE_MS: u64 = 60_000 + 15_000;

#[derive(Debug, Default)]
pub(super) struct Air {
    settings: BTreeMap<Route, RouteSettings>,
    accounts: BTreeSet<DeviceId>,
    out: BTreeMap<Route, Vec<Out>>,
    recipient_limits: BTreeMap<TenantId, RecipientLimit>,
    /// Attempts that were not urgent, by recipient.
    written_to: BTreeMap<(TenantId, Msisdn), Vec<Ms>>,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    at: Ms,
    segments: u32,
    attempt: Attempt,
}

impl Air {
    pub(super) fn is_account(&self, device: DeviceId) -> bool {
        self.accounts.contains(&device)
    }

    /// Nothing but its places holds anything back from it.
    pub(super) fn is_unlimited(&self, route: Route) -> bool {
        let unlimited = |settings: &RouteSettings| {
            let free = Limits::default();
            settings.limits == free && settings.device_limits == free && settings.windows.is_empty()
        };
        self.settings.get(&route).is_some_and(unlimited)
    }
}

impl Checker {
    /// What is set for a route.
    pub(in crate::sim) fn is_set(&mut self, route: Route, settings: RouteSettings) {
        if route.is_provider() {
            self.air.accounts.insert(route.device);
        }
        self.air.settings.insert(route, settings);
    }

    pub(in crate::sim) fn limits_recipients(&mut self, tenant: TenantId, limit: Option<RecipientLimit>) {
        self.air.recipient_limits.extend(limit.map(|limit| (tenant, limit)));
    }

    /// Segments of an attempt go out on a route.
    pub(in crate::sim) fn goes_out(&mut self, attempt: Attempt, route: Route, segments: u8, now: Ms) {
        // What is with a service is out of our hands: it was judged when it left.
        if !route.is_provider() {
            self.in_time(attempt, now);
        }
        let out = self.air.out.entry(route).or_default();
        let former = out.last().filter(|former| out.iter().all(|one| one.attempt != attempt) && former.at <= now);
        let former = former.copied();
        out.push(Out { at: now, segments: u32::from(segments), attempt });
        let Some(settings) = self.air.settings.get(&route) else { return };
        let over = over_budget(out.iter(), &settings.limits, now);
        if let Some(detail) = over {
            return self.violated("budget_never_exceeded", || format!("{:?}: {detail}", route.sim));
        }
        let of_device = self.air.out.iter().filter(|(one, _)| one.device == route.device).flat_map(|(_, out)| out);
        if let Some(detail) = over_budget(of_device, &settings.device_limits, now) {
            return self.violated("budget_never_exceeded", || format!("all of {}: {detail}", route.device));
        }
        let gap_ms = u64::from(settings.limits.gap_ms.unwrap_or(0)).saturating_sub(UNSURE_MS);
        if let Some(former) = former.filter(|former| now - former.at < gap_ms) {
            let pause_ms = now - former.at;
            return self.violated("pause_is_kept", || {
                format!("{attempt:?} goes over {:?} only {pause_ms} ms after {:?}", route.sim, former.attempt)
            });
        }
        let closed = if settings.windows.is_empty() { None } else { site::closed_for(UNIX_START_MS + now) };
        if let Some((for_ms, _)) = closed.filter(|(for_ms, left_ms)| *for_ms > LEASE_MS && *left_ms > WINDOW_MS) {
            self.violated("nothing_outside_its_window", || {
                format!("{attempt:?} goes over {:?}, which is closed for {for_ms} ms", route.sim)
            });
        }
    }

    /// A leader gives a route work, by its clock at this time.
    pub(super) fn given_work(&mut self, attempt: Attempt, route: Route, at_ms: u64) {
        let windows = self.air.settings.get(&route).is_some_and(|settings| !settings.windows.is_empty());
        let closed = if windows { site::closed_for(at_ms) } else { None };
        if closed.is_some_and(|(for_ms, left_ms)| for_ms.min(left_ms) > WINDOW_MS) {
            self.violated("nothing_outside_its_window", || {
                format!("{attempt:?} is dispatched to {:?}, which is closed", route.sim)
            });
        }
    }

    /// An attempt begins to go out. Urgent ones are not held back by what a recipient has had.
    pub(super) fn written_to(&mut self, tenant: TenantId, to: Msisdn, priority: Priority, now: Ms) {
        let Some(limit) = self.air.recipient_limits.get(&tenant).copied() else { return };
        if priority == Priority::Urgent {
            return;
        }
        let times = self.air.written_to.entry((tenant, to)).or_default();
        times.push(now);
        let sure_ms = (u64::from(limit.window_s) * 1_000).saturating_sub(UNSURE_MS);
        let count = times.iter().filter(|at| **at + sure_ms > now).count();
        if count > usize::from(limit.messages) {
            self.violated("recipient_limit_never_exceeded", || {
                format!("{count} messages to one recipient in {sure_ms} ms, {limit:?}")
            });
        }
    }
}

/// What is over its limit now, after all that went out.
fn over_budget<'a>(out: impl Iterator<Item = &'a Out>, limits: &Limits, now: Ms) -> Option<String> {
    if limits.per_minute.is_none() && limits.per_day.is_none() {
        return None;
    }
    let day = |at: Ms| (UNIX_START_MS + at) / DAY_MS;
    // Around midnight clocks do not agree about the day.
    let clear = |at: Ms| day(at.saturating_sub(30_000)) == day(at + 30_000);
    let (mut of_minute, mut of_day, mut all_clear) = (0, 0, true);
    for one in out {
        of_minute += if one.at > now.saturating_sub(SURE_MS) { one.segments } else { 0 };
        of_day += if day(one.at) == day(now) { one.segments } else { 0 };
        all_clear &= clear(one.at);
    }
    if let Some(limit) = limits.per_minute.filter(|limit| of_minute > *limit) {
        return Some(format!("{of_minute} segments in {SURE_MS} ms, {limit} a minute"));
    }
    limits
        .per_day
        .filter(|limit| of_day > *limit && all_clear)
        .map(|limit| format!("{of_day} segments on a day, {limit} a day"))
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::id::MessageId;

    use super::*;

    #[test]
    fn budgets_are_counted_in_true_time() {
        let attempt = Attempt { message: MessageId::new(1, [1; 10]), number: 1 };
        let all = |times: &[Ms]| times.iter().map(|at| Out { at: *at, segments: 1, attempt }).collect::<Vec<_>>();
        let minute = Limits { per_minute: Some(2), ..Limits::default() };
        let near = all(&[100_000, 110_000, 120_000]);
        assert!(over_budget(near.iter(), &minute, 120_000).is_some());
        let far = all(&[100_000, 110_000, 100_000 + SURE_MS]);
        assert!(over_budget(far.iter(), &minute, 100_000 + SURE_MS).is_none());
        let day = Limits { per_day: Some(2), ..Limits::default() };
        assert!(over_budget(near.iter(), &day, 120_000).is_some());
        assert!(over_budget(near[..2].iter(), &day, 110_000).is_none());
    }
}
