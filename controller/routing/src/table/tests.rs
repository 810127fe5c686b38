//! What the table guarantees about room, pins, pauses and steps, one case after the other. Random worlds are in `worlds`.

mod explain;
mod settings;
mod worlds;

use flotilla_protocol::id::{DeviceId, MessageId, ProviderId, SenderId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::ErrorClass;

use super::*;
use crate::Micros;
use crate::choice::{Because, Why};
use crate::fact::{Fact, Outcome};
use crate::route::Priority;

const TO: u64 = 255_712_345_678;

fn table() -> Table {
    let settings = TableSettings { pause_min_ms: 1_000, pause_max_ms: 8_000, ..TableSettings::default() };
    Table::new(settings, Ledger::default())
}

fn at(mono_ms: u64) -> Now {
    Now { unix_ms: 1_795_262_400_000 + mono_ms, mono_ms }
}

fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

fn sim(n: u8) -> SimId {
    SimId::from_bytes([n; 16])
}

fn tenant() -> TenantId {
    TenantId::from_bytes([1; 16])
}

fn route(of: u8, n: u8) -> Route {
    Route::sim(device(of), sim(n))
}

fn one(n: u8, ready: bool, settings: RouteSettings) -> RouteSim {
    RouteSim { slot: n, sim: sim(n), depth: 1, ready, settings: Arc::new(settings) }
}

fn online(table: &mut Table, n: u8, window: u16, sims: &[(u8, bool)]) {
    let sims = sims.iter().map(|(n, ready)| one(*n, *ready, RouteSettings::default())).collect();
    set(table, RouteKind::Sim, n, window, sims, at(0));
}

fn set(table: &mut Table, kind: RouteKind, n: u8, window: u16, sims: SmallVec<[RouteSim; 2]>, now: Now) {
    let device = RouteDevice { kind, device: device(n), tenant: tenant(), window, accepts_work: true, sims };
    table.set_device(device, now);
}

fn candidate(class: Priority, pin: Pin, avoid: Option<Route>) -> Candidate {
    Candidate {
        message: MessageId::from_bytes([7; 16]),
        attempt: 1,
        tenant: tenant(),
        class,
        pin,
        plan: PlanRef::default(),
        to: Msisdn::from_u64(TO).unwrap(),
        segments: 1,
        unicode: false,
        sender: None,
        avoid,
        waits_since_ms: 0,
        max_cost: None,
        spent: Micros::ZERO,
    }
}

fn reserve(table: &mut Table, route: Route, now: Now) {
    table.reserve(route, tenant(), 1, recipient_hash(TO), now);
}

fn release(table: &mut Table, route: Route, now: Now) {
    table.release(route, tenant(), 1, recipient_hash(TO), now);
}

/// Chooses and reserves until there is no room; the numbers of the SIMs.
fn fill(table: &mut Table, class: Priority, pin: Pin, now: Now) -> Vec<u8> {
    let mut taken = vec![];
    loop {
        let message = MessageId::from_bytes([taken.len() as u8; 16]);
        match table.choose(&Candidate { message, ..candidate(class, pin, None) }, now) {
            Choice::Take(route, _) => {
                reserve(table, route, now);
                taken.push(route.sim.to_bytes()[0]);
            }
            Choice::Wait { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    taken.sort_unstable();
    taken
}

fn taken(choice: Choice) -> Option<(Route, Why)> {
    match choice {
        Choice::Take(route, why) => Some((route, why)),
        _ => None,
    }
}

fn marks(table: &mut Table, now: Now) -> Vec<Marked> {
    let mut marked = vec![];
    table.advance(now, &mut marked);
    marked
}

#[test]
fn sims_are_filled_up_to_their_share_and_a_part_is_kept_for_urgent() {
    let mut table = table();
    online(&mut table, 1, 8, &[(1, true), (2, true)]);
    online(&mut table, 2, 2, &[(3, true), (4, false)]);
    let full = fill(&mut table, Priority::Bulk, Pin::Any, at(0));
    let of = |n| full.iter().filter(|sim| **sim == n).count();
    assert_eq!((of(1) + of(2), of(3), of(4)), (7, 2, 0));
    assert!(of(1) >= 3 && of(2) >= 3, "neither has more than its share of four: {full:?}");
    assert_eq!(fill(&mut table, Priority::High, Pin::Device(device(1)), at(0)), [0u8; 0]);
    assert_eq!(fill(&mut table, Priority::Urgent, Pin::Any, at(0)).len(), 1);
    assert_eq!(fill(&mut table, Priority::Urgent, Pin::Sim(sim(1)), at(0)), [0u8; 0]);
}

#[test]
fn released_room_is_offered_again_once() {
    let mut table = table();
    online(&mut table, 1, 2, &[(1, true)]);
    fill(&mut table, Priority::Normal, Pin::Any, at(0));
    marks(&mut table, at(0));
    for _ in 0..3 {
        release(&mut table, route(1, 1), at(0));
    }
    let waking = Marked::Route { tenant: tenant(), route: route(1, 1) };
    let woken = marks(&mut table, at(0));
    assert_eq!(woken.iter().filter(|mark| **mark == waking).count(), 1, "{woken:?}");
    assert_eq!(fill(&mut table, Priority::Normal, Pin::Any, at(0)), [1, 1], "never more than the window");
}

#[test]
fn pins_need_their_own_and_reach_into_no_other_tenant() {
    let mut table = table();
    online(&mut table, 1, 4, &[(1, true), (2, true)]);
    let of = |table: &mut Table, pin| table.choose(&candidate(Priority::Normal, pin, None), at(0));
    let (pinned, why) = taken(of(&mut table, Pin::Sim(sim(2)))).unwrap();
    assert_eq!((pinned, why.because, why.step), (route(1, 2), Because::Pinned, 0));
    let nothing = Choice::Wait { until_ms: None };
    assert_eq!(of(&mut table, Pin::Sim(sim(9))), nothing);
    assert_eq!(of(&mut table, Pin::Device(device(9))), nothing);
    for pin in [Pin::Any, Pin::Sim(sim(2)), Pin::Device(device(1))] {
        let other = TenantId::from_bytes([9; 16]);
        let foreign = Candidate { tenant: other, ..candidate(Priority::Normal, pin, None) };
        assert_eq!(table.choose(&foreign, at(0)), nothing);
    }
}

#[test]
fn an_avoided_sim_is_taken_only_by_those_pinned_to_it() {
    let mut table = table();
    online(&mut table, 1, 4, &[(1, true)]);
    let avoid = Some(route(1, 1));
    let choose = |table: &mut Table, pin| table.choose(&candidate(Priority::Normal, pin, avoid), at(0));
    assert!(matches!(choose(&mut table, Pin::Any), Choice::Unfit { .. }));
    assert!(matches!(choose(&mut table, Pin::Device(device(1))), Choice::Unfit { .. }));
    assert!(matches!(choose(&mut table, Pin::Sim(sim(1))), Choice::Take(..)));
    online(&mut table, 2, 4, &[(2, true)]);
    assert_eq!(taken(choose(&mut table, Pin::Any)).unwrap().0, route(2, 2));
}

#[test]
fn pauses_double_while_nothing_is_sent_and_outlive_the_link() {
    let mut table = table();
    online(&mut table, 1, 4, &[(1, true)]);
    let mut now_ms = 0;
    let mut lengths = vec![];
    for _ in 0..5 {
        let until_ms = table.pause(sim(1), at(now_ms));
        assert_eq!(table.pause(sim(1), at(now_ms + 1)), until_ms, "one pause at a time");
        table.remove_device(device(1), at(now_ms + 1));
        online(&mut table, 1, 4, &[(1, true)]);
        assert_eq!(fill(&mut table, Priority::Normal, Pin::Any, at(now_ms + 1)), [0u8; 0]);
        marks(&mut table, at(until_ms - 1));
        assert!(table.is_paused(sim(1), at(until_ms - 1)));
        assert_eq!(table.next_deadline(), Some(until_ms));
        let woken = marks(&mut table, at(until_ms));
        assert!(woken.contains(&Marked::Route { tenant: tenant(), route: route(1, 1) }), "{woken:?}");
        lengths.push(until_ms - now_ms);
        now_ms = until_ms;
    }
    assert_eq!(lengths, [1_000, 2_000, 4_000, 8_000, 8_000]);
    table.succeeded(sim(1), at(now_ms));
    assert_eq!(table.pause(sim(1), at(now_ms)), now_ms + 1_000);
}

#[test]
fn a_device_that_comes_and_goes_leaves_one_entry_and_later_none() {
    let mut table = table();
    for _ in 0..100 {
        online(&mut table, 1, 4, &[(1, true)]);
        table.remove_device(device(1), at(0));
    }
    assert_eq!(table.tenants[&tenant()].routes.len(), 1);
    let mut now_ms = 0;
    while let Some(next_ms) = table.next_deadline() {
        assert!(next_ms > now_ms);
        now_ms = next_ms;
        marks(&mut table, at(now_ms));
    }
    assert_eq!(now_ms, TableSettings::default().forget_after_ms);
    assert!(table.by_sim.is_empty() && table.devices.is_empty() && table.by_route.is_empty());
    assert!(table.tenants[&tenant()].routes.is_empty());
}

#[test]
fn what_a_device_carries_stays_counted_while_it_is_away() {
    let mut table = table();
    reserve(&mut table, route(1, 1), at(0));
    online(&mut table, 1, 2, &[(1, true)]);
    assert_eq!(fill(&mut table, Priority::Urgent, Pin::Any, at(0)), [1]);
    table.remove_device(device(1), at(0));
    release(&mut table, route(1, 1), at(0));
    online(&mut table, 1, 2, &[(1, true)]);
    assert_eq!(fill(&mut table, Priority::Urgent, Pin::Any, at(0)), [1]);
}

fn provider(table: &mut Table, n: u8, window: u16) {
    let sender = RouteSim { depth: 8, ..one(n, true, RouteSettings::default()) };
    set(table, RouteKind::Provider, n, window, SmallVec::from_iter([sender]), at(0));
}

#[test]
fn a_step_without_a_usable_route_is_passed_over_and_a_busy_one_is_waited_for() {
    let mut table = table();
    provider(&mut table, 9, 100);
    let away = route(1, 1);
    let choose = |table: &mut Table, class, now| table.choose(&candidate(class, Pin::Any, None), now);
    let (first, why) = taken(choose(&mut table, Priority::Normal, at(0))).unwrap();
    let sender = Route::provider(ProviderId::from_bytes([9; 16]), SenderId::from_bytes([9; 16]));
    assert_eq!((first, why.because, why.step), (sender, Because::Fallback, 2));
    online(&mut table, 1, 1, &[(1, true)]);
    assert_eq!(taken(choose(&mut table, Priority::Normal, at(0))).unwrap().0, away);
    reserve(&mut table, away, at(0));
    assert_eq!(choose(&mut table, Priority::Normal, at(1)), Choice::Wait { until_ms: Some(30_000) });
    assert_eq!(choose(&mut table, Priority::Urgent, at(1)), Choice::Wait { until_ms: Some(3_000) });
    assert_eq!(taken(choose(&mut table, Priority::Urgent, at(3_000))).unwrap().0, sender);
    assert_eq!(taken(choose(&mut table, Priority::Normal, at(30_000))).unwrap().0, sender);
    marks(&mut table, at(2));
    table.remove_device(device(1), at(2));
    assert!(marks(&mut table, at(2)).contains(&Marked::Tenant(tenant())), "nobody waits for a SIM that has gone");
    assert_eq!(taken(choose(&mut table, Priority::Normal, at(2))).unwrap().0, sender);
}
