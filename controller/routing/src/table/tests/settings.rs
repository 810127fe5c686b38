//! What settings and outcomes make of the choice: limits, money, weights, stickiness, circuits, warm-up.

use super::*;
use crate::settings::{Budget, Limits, Price, RecipientLimit, WarmUp};

#[test]
fn a_tenants_limit_makes_all_wait_and_an_attempt_that_lands_wakes_them() {
    let mut table = table();
    online(&mut table, 1, 8, &[(1, true)]);
    let limits = Limits { per_day: Some(2), ..Default::default() };
    table.set_tenant(tenant(), Arc::new(TenantRouting { limits, ..TenantRouting::default() }), at(0));
    let choose = |table: &mut Table, segments, now| {
        table.choose(&Candidate { segments, ..candidate(Priority::Urgent, Pin::Any, None) }, now)
    };
    assert!(matches!(choose(&mut table, 3, at(0)), Choice::Refuse { code: "tenant-limit", .. }), "it never fits");
    reserve(&mut table, route(1, 1), at(0));
    assert!(matches!(choose(&mut table, 2, at(0)), Choice::Unfit { .. }), "one segment would fit");
    reserve(&mut table, route(1, 1), at(0));
    marks(&mut table, at(0));
    assert_eq!(choose(&mut table, 1, at(0)), Choice::Wait { until_ms: None });
    release(&mut table, route(1, 1), at(0));
    assert!(marks(&mut table, at(0)).contains(&Marked::Tenant(tenant())));
    assert!(matches!(choose(&mut table, 1, at(0)), Choice::Take(..)));
}

#[test]
fn what_no_route_could_ever_carry_is_refused_once_the_fleet_is_known() {
    let mut table = table();
    let price = Price { per_segment: Micros(20_000), ..Default::default() };
    let only = RouteSettings { countries: vec!["TZ".into()], price, unicode: false, ..RouteSettings::default() };
    set(&mut table, RouteKind::Sim, 1, 8, SmallVec::from_iter([one(1, true, only)]), at(0));
    let plain = candidate(Priority::Normal, Pin::Any, None);
    let cases = [
        (Candidate { to: Msisdn::from_u64(254_712_345_678).unwrap(), ..plain }, "country-not-served"),
        (Candidate { unicode: true, ..plain }, "unicode-not-served"),
        (Candidate { sender: Some(1), ..plain }, "sender-not-served"),
        (Candidate { max_cost: Some(Micros(39_999)), segments: 2, ..plain }, "max-cost"),
    ];
    for (asked, code) in cases {
        assert!(matches!(table.choose(&asked, at(0)), Choice::Unfit { .. }), "others may come: {code}");
        let later = table.choose(&asked, at(600_000));
        assert!(matches!(later, Choice::Refuse { code: refused, .. } if refused == code), "{code}: {later:?}");
    }
    assert!(matches!(table.choose(&plain, at(600_000)), Choice::Take(..)));
    table.remove_device(device(1), at(600_000));
    let dear = Candidate { max_cost: Some(Micros(20_000)), ..plain };
    assert!(matches!(table.choose(&dear, at(600_001)), Choice::Wait { .. }), "it may come back");
    online(&mut table, 2, 8, &[(2, true)]);
    assert!(matches!(table.choose(&cases[0].0, at(600_001)), Choice::Take(..)));
    assert!(
        matches!(
            table.choose(&Candidate { spent: Micros(1), max_cost: Some(Micros::ZERO), ..plain }, at(0)),
            Choice::Refuse { code: "max-cost", .. }
        ),
        "what is spent stays spent"
    );
}

#[test]
fn a_recipients_limit_holds_back_all_but_urgent_messages_until_its_exact_time() {
    let mut table = table();
    online(&mut table, 1, 8, &[(1, true)]);
    let limit = RecipientLimit { messages: 1, window_s: 60 };
    let routing = TenantRouting { recipient_limit: Some(limit), ..TenantRouting::default() };
    table.set_tenant(tenant(), Arc::new(routing), at(0));
    let to = Msisdn::from_u64(TO).unwrap();
    let charge = table.charge(route(1, 1), tenant(), 1, at(0).unix_ms, to);
    table.fact(&Fact::Charged { tenant: tenant(), charge }, at(0));
    let choose = |table: &mut Table, class, now| table.choose(&candidate(class, Pin::Any, None), now);
    let Choice::Unfit { until_ms } = choose(&mut table, Priority::High, at(1)) else { panic!("it has had one") };
    assert!((60_000..=61_000).contains(&until_ms), "{until_ms}");
    assert!(matches!(choose(&mut table, Priority::High, at(until_ms)), Choice::Take(..)));
    assert!(matches!(choose(&mut table, Priority::Urgent, at(1)), Choice::Take(..)));
}

#[test]
fn a_recipient_stays_with_its_sim_and_leaves_it_when_it_is_much_worse() {
    let mut table = table();
    for n in 1..=4 {
        online(&mut table, n, 64, &[(n, true)]);
    }
    let to = Msisdn::from_u64(TO).unwrap();
    let charge = table.charge(route(3, 3), tenant(), 1, at(0).unix_ms, to);
    table.fact(&Fact::Charged { tenant: tenant(), charge }, at(0));
    let choose = |table: &mut Table, n: u8| {
        let message = MessageId::from_bytes([n; 16]);
        taken(table.choose(&Candidate { message, ..candidate(Priority::Normal, Pin::Any, None) }, at(10))).unwrap()
    };
    for n in 0..50 {
        let (taken, why) = choose(&mut table, n);
        assert_eq!((taken, why.because), (route(3, 3), Because::Sticky));
    }
    for _ in 0..4 {
        let outcome = Outcome::Failed { class: ErrorClass::Transient };
        table.fact(&Fact::Outcome { route: route(3, 3), at_ms: at(5).unix_ms, outcome, region: None }, at(5));
    }
    for _ in 0..40 {
        let outcome = Outcome::Undelivered { class: ErrorClass::Transient };
        table.fact(&Fact::Outcome { route: route(3, 3), at_ms: at(5).unix_ms, outcome, region: None }, at(5));
    }
    assert!((0..50).all(|n| choose(&mut table, n).0 != route(3, 3)));
}

#[test]
fn a_circuit_lets_one_message_try_and_a_notice_is_given_once() {
    let mut table = table();
    online(&mut table, 1, 8, &[(1, true)]);
    let fact = |table: &mut Table, outcome, now: Now| {
        table.fact(&Fact::Outcome { route: route(1, 1), at_ms: now.unix_ms, outcome, region: None }, now);
    };
    for _ in 0..5 {
        fact(&mut table, Outcome::Failed { class: ErrorClass::Route }, at(0));
    }
    let notices = table.take_notices();
    assert!(matches!(notices[..], [Notice::Quarantined { .. }]), "{notices:?}");
    assert_eq!(fill(&mut table, Priority::Normal, Pin::Any, at(0)), [0u8; 0]);
    let woken = marks(&mut table, at(1_000));
    assert!(woken.contains(&Marked::Route { tenant: tenant(), route: route(1, 1) }), "{woken:?}");
    let (probe, why) = taken(table.choose(&candidate(Priority::Normal, Pin::Any, None), at(1_000))).unwrap();
    assert_eq!(why.because, Because::Probe);
    reserve(&mut table, probe, at(1_000));
    assert_eq!(fill(&mut table, Priority::Normal, Pin::Any, at(1_000)), [0u8; 0], "one at a time");
    for _ in 0..2 {
        fact(&mut table, Outcome::Sent { took_ms: 10 }, at(1_001));
    }
    release(&mut table, probe, at(1_001));
    assert!(matches!(table.take_notices()[..], [Notice::Recovered { .. }]));
    assert_eq!(fill(&mut table, Priority::Normal, Pin::Any, at(1_001)).len(), 7);
}

#[test]
fn the_cheapest_goes_first_and_a_bundle_is_used_up_before_money() {
    let mut table = table();
    let priced = |per_segment, bundle_per_month| {
        let price = Price { per_segment: Micros(per_segment), bundle_per_month, ..Default::default() };
        RouteSettings { price, ..RouteSettings::default() }
    };
    let sims =
        [one(1, true, priced(3_000, None)), one(2, true, priced(1_000, None)), one(3, true, priced(9_000, Some(2)))];
    set(&mut table, RouteKind::Sim, 1, 64, SmallVec::from_iter(sims), at(0));
    let routing = TenantRouting { default_plan: Some("cheapest".into()), ..TenantRouting::default() };
    table.set_tenant(tenant(), Arc::new(routing), at(0));
    let mut order = vec![];
    for n in 0..4 {
        let message = MessageId::from_bytes([n; 16]);
        let asked = Candidate { message, ..candidate(Priority::Normal, Pin::Any, None) };
        let (chosen, _) = taken(table.choose(&asked, at(0))).unwrap();
        reserve(&mut table, chosen, at(0));
        order.push(chosen.sim.to_bytes()[0]);
    }
    assert_eq!(order, [3, 3, 2, 2]);
}

#[test]
fn weights_share_the_work_among_equals() {
    let mut table = table();
    let weighed = |weight| RouteSettings { weight, ..RouteSettings::default() };
    for (n, weight) in [(1, 100), (2, 100), (3, 100), (4, 25), (5, 0)] {
        set(&mut table, RouteKind::Sim, n, 64, SmallVec::from_iter([one(n, true, weighed(weight))]), at(0));
    }
    let mut counts = [0u32; 6];
    for n in 0..4_000u64 {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        let asked = Candidate { message: MessageId::from_bytes(bytes), ..candidate(Priority::Normal, Pin::Any, None) };
        let (chosen, _) = taken(table.choose(&asked, at(0))).unwrap();
        counts[usize::from(chosen.sim.to_bytes()[0])] += 1;
    }
    assert!(counts[1..=3].iter().all(|count| (900..1_600).contains(count)), "{counts:?}");
    assert!((100..600).contains(&counts[4]), "{counts:?}");
    assert!(counts[5] == 0, "{counts:?}");
}

#[test]
fn where_weights_learn_the_route_that_delivers_to_the_country_gets_most_and_the_other_is_tried() {
    let mut table = table();
    for n in 1..=2 {
        online(&mut table, n, 64, &[(n, true)]);
    }
    let region = Msisdn::from_u64(TO).unwrap().region();
    for n in 0..40 {
        let delivered = Outcome::Delivered { took_ms: 1_000 };
        let failed = Outcome::Undelivered { class: ErrorClass::Transient };
        for (one, outcome) in
            [(1, if n % 4 == 0 { failed } else { delivered }), (2, if n % 4 == 0 { delivered } else { failed })]
        {
            table.fact(&Fact::Outcome { route: route(one, one), at_ms: at(0).unix_ms, outcome, region }, at(0));
        }
    }
    let routing = TenantRouting { learn: true, ..TenantRouting::default() };
    table.set_tenant(tenant(), Arc::new(routing), at(0));
    let mut first = 0;
    for n in 0..200u8 {
        let asked =
            Candidate { message: MessageId::from_bytes([n; 16]), ..candidate(Priority::Normal, Pin::Any, None) };
        let (chosen, why) = taken(table.choose(&asked, at(600_000))).unwrap();
        assert_eq!(why.because, Because::Learned);
        first += u32::from(chosen == route(1, 1));
    }
    assert!((150..=200).contains(&first), "{first}");
}

#[test]
fn a_budget_is_warned_of_once_spent_once_and_stops_only_what_costs_something() {
    let mut table = table();
    let price = Price { per_segment: Micros(400), ..Default::default() };
    let priced = RouteSettings { price, ..RouteSettings::default() };
    set(&mut table, RouteKind::Sim, 1, 8, SmallVec::from_iter([one(1, true, priced)]), at(0));
    let budget = Budget { per_month: Micros(1_000), stop: true, warn_percent: 40 };
    let routing = TenantRouting { budget: Some(budget), ..TenantRouting::default() };
    table.set_tenant(tenant(), Arc::new(routing), at(0));
    let to = Msisdn::from_u64(TO).unwrap();
    let plain = candidate(Priority::Normal, Pin::Any, None);
    for n in 1..=2 {
        assert!(matches!(table.choose(&plain, at(n)), Choice::Take(..)));
        let charge = table.charge(route(1, 1), tenant(), 1, at(n).unix_ms, to);
        assert_eq!(charge.cost, Micros(400));
        table.fact(&Fact::Charged { tenant: tenant(), charge }, at(n));
    }
    let notices = table.take_notices();
    assert!(matches!(notices[..], [Notice::BudgetWarned { cost: Micros(400), .. }]), "{notices:?}");
    assert!(matches!(table.choose(&plain, at(3)), Choice::Wait { .. }), "1,200 would be too much");
    online(&mut table, 2, 8, &[(2, true)]);
    let free = (0..20).map(|n| Candidate { message: MessageId::from_bytes([n; 16]), ..plain });
    assert!(free.into_iter().all(|asked| taken(table.choose(&asked, at(3))).unwrap().0 == route(2, 2)));
    let charge = Charge { cost: Micros(200), ..table.charge(route(1, 1), tenant(), 1, at(4).unix_ms, to) };
    table.fact(&Fact::Charged { tenant: tenant(), charge }, at(4));
    table.fact(&Fact::Charged { tenant: tenant(), charge }, at(4));
    let notices = table.take_notices();
    assert!(matches!(notices[..], [Notice::BudgetSpent { stopped: true, .. }]), "{notices:?}");
}

#[test]
fn the_stages_of_a_warm_up_are_told_as_they_come() {
    let mut table = table();
    let warm_up = Some(WarmUp { per_day: vec![1, 2] });
    let fresh = RouteSettings { warm_up, ..RouteSettings::default() };
    set(&mut table, RouteKind::Sim, 1, 8, SmallVec::from_iter([one(1, true, fresh)]), at(0));
    let to = Msisdn::from_u64(TO).unwrap();
    let mut stages = vec![];
    for day in 0..4 {
        let now = at(day * 86_400_000);
        marks(&mut table, now);
        let charge = table.charge(route(1, 1), tenant(), 1, now.unix_ms, to);
        table.fact(&Fact::Charged { tenant: tenant(), charge }, now);
        stages.extend(table.take_notices().into_iter().map(|notice| match notice {
            Notice::WarmUp { stage, .. } => (day, stage),
            other => panic!("{other:?}"),
        }));
        let open = matches!(table.choose(&candidate(Priority::Normal, Pin::Any, None), now), Choice::Take(..));
        assert_eq!(open, day > 0, "one segment on the first day, two on the next, and then no limit");
    }
    assert_eq!(stages, [(1, Some(1)), (2, None)]);
}

/// One route of very many suits: it is found after so many tries as it takes to look through all of them.
#[test]
fn the_one_route_to_a_country_is_found_among_many() {
    let mut table = table();
    let to = |country: &str| RouteSettings { countries: vec![country.into()], ..RouteSettings::default() };
    let many = 500u16;
    for n in 0..many {
        let bytes = |tag: u8| {
            let mut bytes = [tag; 16];
            bytes[..2].copy_from_slice(&n.to_be_bytes());
            bytes
        };
        let settings = to(if n == 123 { "TZ" } else { "KE" });
        let sim =
            RouteSim { slot: 0, sim: SimId::from_bytes(bytes(9)), depth: 1, ready: true, settings: settings.into() };
        let device = DeviceId::from_bytes(bytes(8));
        let (kind, sims) = (RouteKind::Sim, [sim].into_iter().collect());
        let online = RouteDevice { kind, device, tenant: tenant(), window: 4, accepts_work: true, sims };
        table.set_device(online, at(0));
    }
    let tries_max = usize::from(many).div_ceil(64) + 1;
    for message in 0..20u8 {
        let candidate =
            Candidate { message: MessageId::from_bytes([message; 16]), ..candidate(Priority::Normal, Pin::Any, None) };
        let mut now = at(0);
        let found = (0..tries_max).find_map(|_| match table.choose(&candidate, now) {
            Choice::Take(route, _) => Some(route),
            Choice::Unfit { until_ms } => {
                now = at(until_ms);
                None
            }
            other => panic!("{other:?}"),
        });
        assert!(found.is_some(), "message {message} has not found its route");
    }
}

/// Its device has not been here since the start, and somebody has removed its SIM meanwhile.
#[test]
fn a_route_that_nobody_knows_is_charged_as_the_dearest_and_in_the_last_day_there_is() {
    let mut table = table();
    let price = |micros| Price { per_segment: Micros(micros), ..Price::default() };
    let dear = RouteSettings { price: price(700), ..RouteSettings::default() };
    set(&mut table, RouteKind::Sim, 2, 8, SmallVec::from_iter([one(2, true, dear)]), at(0));
    let budget = Budget { per_month: Micros(2_000), stop: true, warn_percent: 80 };
    let routing = TenantRouting { budget: Some(budget), ..TenantRouting::default() };
    table.set_tenant(tenant(), Arc::new(routing), at(0));
    table.reserve(route(1, 1), tenant(), 2, recipient_hash(1), at(0));
    let waits = table.choose(&candidate(Priority::Normal, Pin::Any, None), at(1));
    assert!(matches!(waits, Choice::Wait { .. }), "it may have cost 1,400 of 2,000 already: {waits:?}");
    let to = Msisdn::from_u64(TO).unwrap();
    // The first of December, 12:00 UTC: in Kiritimati the second has begun.
    let noon_ms = 1_796_126_400_000;
    let charge = table.charge(route(1, 1), tenant(), 2, noon_ms, to);
    let today = charge.tenant_day;
    assert_eq!((charge.cost, charge.day), (Micros(1_400), today + 1));
    table.fact(&Fact::Charged { tenant: tenant(), charge }, at(2));
    let counters = table.ledger().counters(crate::ledger::Scope::Route(route(1, 1)));
    assert_eq!((counters.on_day(today), counters.on_day(today + 1)), (2, 2));
    // The catalog knows it after all.
    let cheap = Arc::new(RouteSettings { price: price(10), ..RouteSettings::default() });
    table.know(&[KnownRoute { route: route(1, 1), tenant: tenant(), settings: cheap }], at(3));
    let charge = table.charge(route(1, 1), tenant(), 2, noon_ms, to);
    assert_eq!((charge.cost, charge.day), (Micros(20), today));
}

#[test]
fn a_message_waits_for_a_route_that_the_catalog_knows() {
    let mut table = table();
    let only = |country: &str| RouteSettings { countries: vec![country.into()], ..RouteSettings::default() };
    set(&mut table, RouteKind::Sim, 1, 8, SmallVec::from_iter([one(1, true, only("KE"))]), at(0));
    let known = |settings| [KnownRoute { route: route(2, 2), tenant: tenant(), settings: Arc::new(settings) }];
    let asked = candidate(Priority::Normal, Pin::Any, None);
    let choose = |table: &mut Table, at_ms| table.choose(&asked, at(at_ms));
    assert!(matches!(choose(&mut table, 0), Choice::Unfit { .. }));
    table.know(&known(only("TZ")), at(0));
    let long_ms = TableSettings::default().known_after_ms * 10;
    assert!(matches!(choose(&mut table, long_ms), Choice::Unfit { .. }), "it may come back");
    let seen = table.health_of(route(2, 2), at(long_ms)).unwrap();
    assert_eq!((seen.online, &seen.obstacles[..]), (false, &[Obstacle::Offline][..]));
    table.know(&known(only("UG")), at(long_ms));
    let refused = choose(&mut table, long_ms);
    assert!(
        matches!(refused, Choice::Refuse { code: "country-not-served", .. }),
        "somebody has changed it: {refused:?}"
    );
    table.know(&known(only("TZ")), at(long_ms));
    set(&mut table, RouteKind::Sim, 2, 8, SmallVec::from_iter([one(2, true, only("TZ"))]), at(long_ms));
    // What the catalog had is older than what its device has told.
    table.know(&known(only("UG")), at(long_ms));
    assert_eq!(taken(choose(&mut table, long_ms)).unwrap().0, route(2, 2));
}
