//! The ledger against exact logs, against its own stored halves, and its bounds.

mod exact;
mod stored;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::wire::ErrorClass;

use super::*;
use crate::Micros;
use crate::fact::recipient_hash;
use crate::limits::Calendar;
use crate::settings::Limits;

pub(super) const DAY_MS: u64 = 86_400_000;
/// 2026-03-01 00:00 UTC.
pub(super) const START_MS: u64 = 1_772_323_200_000;

pub(super) fn route(n: u8) -> Route {
    Route::sim(DeviceId::from_bytes([n / 2; 16]), SimId::from_bytes([n; 16]))
}

pub(super) fn tenant(n: u8) -> TenantId {
    TenantId::from_bytes([n; 16])
}

pub(super) fn charge(at_ms: u64, segments: u8, recipient: u64) -> Charge {
    let day = i32::try_from(at_ms / DAY_MS).unwrap();
    Charge {
        route: route(1),
        segments,
        at_ms,
        recipient: recipient_hash(recipient),
        cost: Micros(20_000).times(segments),
        day,
        tenant_day: day,
        recipient_window_s: 0,
    }
}

pub(super) fn charged(charge: Charge) -> Fact {
    Fact::Charged { tenant: tenant(1), charge }
}

pub(super) fn outcome(n: u8, at_ms: u64, outcome: Outcome) -> Fact {
    Fact::Outcome { route: route(n), at_ms, outcome, region: None }
}

fn utc(unix_ms: u64) -> Calendar {
    Calendar::new(&jiff::tz::TimeZone::UTC, unix_ms)
}

#[test]
fn a_charge_counts_for_its_route_its_device_and_its_tenant() {
    let mut ledger = Ledger::default();
    for (n, segments) in [(2, 1), (3, 2), (4, 4)] {
        ledger.apply(&charged(Charge { route: route(n), ..charge(START_MS, segments, u64::from(n)) }));
    }
    let now = utc(START_MS);
    let used = |scope| {
        let counters = ledger.counters(scope);
        (counters.last_minute(START_MS), counters.on_day(now.day), counters.recipients(now.month))
    };
    assert_eq!(used(Scope::Route(route(2))), (1, 1, 1));
    assert_eq!(used(Scope::Device(DeviceId::from_bytes([1; 16]))), (3, 3, 2), "both SIMs of the device");
    assert_eq!(used(Scope::Tenant(tenant(1))), (7, 7, 3));
    assert_eq!(used(Scope::Tenant(tenant(2))), (0, 0, 0), "nothing crosses tenants");
    assert_eq!(ledger.counters(Scope::Tenant(tenant(1))).cost(now.month), Micros(140_000));
}

#[test]
fn a_day_is_the_charges_own_and_late_ones_count_for_theirs() {
    let mut ledger = Ledger::default();
    let today = utc(START_MS + DAY_MS).day;
    for (at_ms, segments) in [(START_MS + DAY_MS, 1), (START_MS + 5, 10), (START_MS + DAY_MS + 9, 1), (START_MS, 10)] {
        ledger.apply(&charged(charge(at_ms, segments, 1)));
    }
    let counters = ledger.counters(Scope::Route(route(1)));
    assert_eq!(counters.on_day(today), 2);
    assert_eq!(counters.on_day(today - 1), 22, "a zone further west is still in yesterday: both count");
    assert_eq!(counters.first_day(), Some(today - 1));
    // Too late to be told apart, and over anyway.
    ledger.apply(&charged(charge(START_MS - 3 * DAY_MS, 50, 1)));
    assert_eq!(ledger.counters(Scope::Route(route(1))).on_day(today), 2);
}

#[test]
fn a_month_ends_with_its_last_day() {
    let mut ledger = Ledger::default();
    let february = START_MS - 1;
    ledger.apply(&charged(charge(february, 5, 1)));
    ledger.apply(&charged(charge(START_MS, 3, 2)));
    ledger.apply(&charged(Charge { cost: Micros::ZERO, ..charge(START_MS + 1, 2, 2) }));
    ledger.apply(&charged(charge(february, 1, 3)));
    let counters = ledger.counters(Scope::Route(route(1)));
    let march = utc(START_MS).month;
    assert_eq!((counters.in_month(march), counters.in_month(march - 1)), (5, 11));
    assert_eq!((counters.recipients(march), counters.recipients(march - 1)), (1, 3));
    assert_eq!((counters.bundle_used(march), counters.cost(march)), (2, Micros(60_000)));
}

#[test]
fn beyond_the_bound_every_message_is_one_to_a_new_recipient() {
    let mut ledger = Ledger::default();
    for n in 0..u64::from(RECIPIENTS_MAX) {
        ledger.apply(&charged(charge(START_MS, 1, n)));
        ledger.apply(&charged(charge(START_MS, 1, n / 2)));
    }
    let month = utc(START_MS).month;
    let counters = ledger.counters(Scope::Route(route(1)));
    assert_eq!(counters.recipients(month), RECIPIENTS_MAX);
    assert!(counters.knows_recipient(month, recipient_hash(7)));
    let full = ledger.to_bytes().len();
    for _ in 0..3 {
        ledger.apply(&charged(charge(START_MS, 1, u64::MAX)));
    }
    let counters = ledger.counters(Scope::Route(route(1)));
    assert_eq!(counters.recipients(month), RECIPIENTS_MAX + 3);
    assert!(
        !counters.knows_recipient(month, recipient_hash(7)),
        "unknown again, so counted too much, never too little"
    );
    let freed = 3 * 8 * RECIPIENTS_MAX as usize;
    assert!(ledger.to_bytes().len() < full - freed + 100, "beyond the bound no scope needs memory for them");
}

#[test]
fn an_idle_scope_shrinks_and_is_forgotten_after_62_days() {
    let mut ledger = Ledger::default();
    for n in 0..100 {
        ledger.apply(&charged(charge(START_MS + n * 500, 1, 1)));
    }
    ledger.apply(&outcome(1, START_MS, Outcome::Sent { took_ms: 900 }));
    let busy = ledger.to_bytes().len();
    let later = |ledger: &mut Ledger, at_ms| ledger.apply(&outcome(9, at_ms, Outcome::Sent { took_ms: 900 }));
    later(&mut ledger, START_MS + 3 * 3_600_000);
    let idle = ledger.to_bytes().len();
    assert!(idle + 200 < busy, "{idle} bytes idle, {busy} busy");
    assert_eq!(ledger.counters(Scope::Route(route(1))).in_month(utc(START_MS).month), 100, "its month is still known");
    later(&mut ledger, START_MS + 61 * DAY_MS);
    assert!(ledger.health(&route(1)).is_some() && ledger.counters(Scope::Route(route(1))).first_day().is_some());
    later(&mut ledger, START_MS + 63 * DAY_MS);
    assert!(ledger.health(&route(1)).is_none());
    assert_eq!(ledger.counters(Scope::Tenant(tenant(1))), &Counters::EMPTY);
    assert_eq!(ledger.routes().count(), 1, "only the busy one is left");
}

#[test]
fn a_recipient_stays_with_the_last_sim_as_long_as_the_bound_allows() {
    let mut ledger = Ledger::default();
    ledger.apply(&charged(Charge { route: route(4), ..charge(START_MS, 1, 1) }));
    ledger.apply(&charged(Charge { route: route(5), ..charge(START_MS, 1, 1) }));
    let sticky = |ledger: &Ledger, n| ledger.sticky(tenant(1), recipient_hash(n));
    assert_eq!(sticky(&ledger, 1), Some(SimId::from_bytes([5; 16])));
    assert_eq!(ledger.sticky(tenant(2), recipient_hash(1)), None, "another tenant's");
    for n in 2..STICKY_MAX as u64 / 2 {
        ledger.apply(&charged(charge(START_MS, 1, n)));
    }
    assert!(sticky(&ledger, 1).is_some(), "half the bound is certain");
    for n in 0..STICKY_MAX as u64 {
        ledger.apply(&charged(charge(START_MS, 1, n + 1_000_000)));
    }
    assert_eq!(sticky(&ledger, 1), None);
}

#[test]
fn a_tenant_without_a_limit_by_recipient_keeps_none() {
    let mut ledger = Ledger::default();
    let limit = RecipientLimit { messages: 2, window_s: 60 };
    let room = |ledger: &Ledger, in_flight, now_ms| {
        ledger.recipient_room(tenant(1), recipient_hash(1), limit, in_flight, now_ms)
    };
    ledger.apply(&charged(charge(START_MS, 1, 1)));
    assert_eq!(ledger.followed(tenant(1)), 0);
    let followed = |at_ms| charged(Charge { recipient_window_s: 60, ..charge(at_ms, 1, 1) });
    ledger.apply(&followed(START_MS + 1));
    assert_eq!(room(&ledger, 0, START_MS + 1), Room::Yes);
    assert_eq!(room(&ledger, 1, START_MS + 1), Room::InFlight);
    // A late one: the older of the two decides when there is room again.
    ledger.apply(&followed(START_MS - 5_000));
    assert_eq!(room(&ledger, 0, START_MS + 1), Room::Until { unix_ms: START_MS + 55_000 });
    assert_eq!(room(&ledger, 0, START_MS + 55_000), Room::Yes);
    assert_eq!(room(&ledger, 2, START_MS + 55_000), Room::InFlight);
    // Switched off: dropped with the next message.
    ledger.apply(&charged(charge(START_MS + 2, 1, 1)));
    assert_eq!(ledger.followed(tenant(1)), 0);
}

#[test]
fn lapsed_recipients_are_dropped() {
    let mut ledger = Ledger::default();
    for n in 0..500 {
        ledger.apply(&charged(Charge { recipient_window_s: 600, ..charge(START_MS, 1, n) }));
    }
    assert_eq!(ledger.followed(tenant(1)), 500);
    let later = START_MS + 2 * 3_600_000;
    ledger.apply(&charged(Charge { recipient_window_s: 600, ..charge(later, 1, 9_999) }));
    assert_eq!(ledger.followed(tenant(1)), 1);
}

#[test]
fn outcomes_open_the_circuit_and_leave_a_history() {
    let mut ledger = Ledger::default();
    let mut opened = 0;
    for n in 0..5 {
        let failed = Outcome::Failed { class: ErrorClass::Route };
        opened += u32::from(ledger.apply(&outcome(1, START_MS + n, failed)).circuit.is_some());
    }
    assert_eq!(opened, 1);
    assert!(ledger.circuit(&route(1)).unwrap().may_send(START_MS + 5, 0) != crate::circuit::Gate::Yes);
    ledger.apply(&outcome(1, START_MS + 900_000, Outcome::Sent { took_ms: 100 }));
    let history: Vec<_> = ledger.history(&route(1)).unwrap().iter().map(|(_, value)| value).collect();
    assert_eq!(history.len(), 2);
    assert!(
        history[0] == 100 && history[1] < 80,
        "{history:?}: the second slot begins with the score after the failures"
    );
    ledger.note_score(&route(1), START_MS + 900_001, 33);
    assert_eq!(ledger.history(&route(1)).unwrap().iter().last(), Some((START_MS + 900_000, 33)));
}

#[test]
fn limits_of_zero_stop_and_no_limits_do_not() {
    let counters = Counters::EMPTY;
    let ask = crate::limits::Ask { segments: 1, recipient: Some(1) };
    let now = utc(START_MS);
    assert_eq!(crate::limits::room(&Limits::default(), &counters, 1_000_000, ask, &now), Room::Yes);
    for stop in [
        Limits { per_minute: Some(0), ..Limits::default() },
        Limits { per_month: Some(0), ..Limits::default() },
        Limits { recipients_per_month: Some(0), ..Limits::default() },
    ] {
        assert_eq!(crate::limits::room(&stop, &counters, 0, ask, &now), Room::Never, "{stop:?}");
    }
}
