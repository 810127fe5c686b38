//! An explanation says what the choice does, and changes nothing.

use super::*;
use crate::explain::{Outcome, ReasonSeen, RuleTried};
use crate::rules::Unmet;
use crate::settings::{Conditions, Limits, Rule};

fn classify(plan: Option<&str>) -> Classify<'_> {
    Classify {
        to: Msisdn::from_u64(TO).unwrap(),
        text: "hello",
        sender: None,
        class: Priority::Normal,
        tags: &[],
        message: MessageId::from_bytes([7; 16]),
        plan,
    }
}

fn rule(name: &str, country: &str, plan: &str) -> Rule {
    let when = Conditions { countries: vec![country.into()], ..Conditions::default() };
    Rule { name: name.into(), when, plan: plan.into(), share_percent: None }
}

#[test]
fn rules_routes_and_reasons_are_told_and_the_choice_is_the_one_that_is_made() {
    let mut table = table();
    let rules = vec![rule("kenya", "KE", "providers-only"), rule("tanzania", "TZ", "sims-first")];
    table.set_tenant(tenant(), Arc::new(TenantRouting { rules, ..TenantRouting::default() }), at(0));
    let limits = Limits { per_hour: Some(0), ..Limits::default() };
    let spent = RouteSettings { limits, countries: vec!["KE".into()], ..RouteSettings::default() };
    let sims = SmallVec::from_iter([one(1, true, RouteSettings::default()), one(2, true, spent)]);
    set(&mut table, RouteKind::Sim, 1, 8, sims, at(0));
    provider(&mut table, 9, 4);
    let asked = candidate(Priority::Normal, Pin::Any, None);
    let told = table.explain(&classify(None), &asked, at(5));
    let tried = |name: &str, unmet| RuleTried { name: name.into(), unmet };
    assert_eq!(told.rules, [tried("kenya", Some(Unmet::Country)), tried("tanzania", None)]);
    assert_eq!((told.plan.as_deref(), told.held, told.routes_left_out), (Some("sims-first"), None, 0));
    assert_eq!(told.steps.iter().map(|step| (step.with_room, step.busy)).collect::<Vec<_>>(), [(1, 0), (1, 0)]);
    let seen: Vec<_> = told.routes.iter().map(|route| (route.step, route.eligible, route.route.sim)).collect();
    assert_eq!(seen, [(1, true, Some(sim(1))), (1, false, Some(sim(2))), (2, true, None)]);
    let codes: Vec<_> = told.routes[1].reasons.iter().map(|reason: &ReasonSeen| reason.code).collect();
    assert_eq!(codes, [Obstacle::CountryNotServed, Obstacle::Limit]);
    let best = &told.routes[0];
    assert_eq!((best.score, best.parts.score(), best.reasons.len()), (90, 90, 0), "no carrier match: 90 of 100");
    let way = table.classify(tenant(), &classify(None), at(5));
    let (route, why) = taken(table.choose(&Candidate { plan: way, ..asked }, at(5))).unwrap();
    assert_eq!(why.rule.as_deref(), Some("tanzania"));
    let expected = Outcome::Take { route: route.into(), step: 1, score: why.score, because: why.because.into() };
    assert_eq!(told.choice, expected);
}

/// It is no news of the device: it stays what it was told while the device is away, and whatever that tells.
#[test]
fn a_balance_counts_in_the_score_until_another_is_told() {
    let mut table = table();
    let with = |balance| RouteSettings { balance, low_balance: Some(Micros(5)), ..RouteSettings::default() };
    for (balance, points) in [(None, 0), (Some(Micros(6)), 0), (Some(Micros(5)), 10), (Some(Micros(0)), 30)] {
        let tell = |table: &mut Table| {
            set(table, RouteKind::Sim, 1, 8, SmallVec::from_iter([one(1, true, with(balance))]), at(0));
        };
        let check = |table: &mut Table| {
            let health = table.health_of(route(1, 1), at(5)).unwrap().score;
            assert_eq!((health.value, health.reasons.len()), (100 - points, usize::from(points > 0)), "{balance:?}");
            let told = table.explain(&classify(None), &candidate(Priority::Normal, Pin::Any, None), at(5));
            assert_eq!(told.routes[0].health_reasons, health.reasons.to_vec());
            let expected = 0.6 * f32::from(100 - points);
            assert!((told.routes[0].parts.health - expected).abs() < 0.01, "{:?}", told.routes[0].parts);
        };
        tell(&mut table);
        check(&mut table);
        let telemetry = flotilla_protocol::wire::Telemetry::default();
        table.telemetry(device(1), &telemetry, at(5));
        check(&mut table);
        table.remove_device(device(1), at(5));
        check(&mut table);
        tell(&mut table);
        check(&mut table);
    }
}

#[test]
fn a_plan_that_does_not_exist_is_refused_and_named() {
    let mut table = table();
    let told = table.explain(&classify(Some("mine")), &candidate(Priority::Normal, Pin::Any, None), at(0));
    assert_eq!((told.plan, told.steps.len(), told.rules.len()), (None, 0, 0));
    assert!(matches!(told.choice, Outcome::Refuse { ref code, .. } if code == "no-such-plan"), "{:?}", told.choice);
    let json = serde_json::to_value(&told.choice).unwrap();
    assert_eq!(json["outcome"], "refuse");
}

#[test]
fn a_pinned_message_is_explained_by_its_own_routes() {
    let mut table = table();
    online(&mut table, 1, 4, &[(1, true), (2, false)]);
    online(&mut table, 2, 4, &[(3, true)]);
    let asked = candidate(Priority::Normal, Pin::Device(device(1)), None);
    let told = table.explain(&classify(None), &asked, at(0));
    assert_eq!(told.routes.iter().map(|route| route.step).collect::<Vec<_>>(), [0, 0]);
    assert_eq!(told.routes[1].reasons[0].code, Obstacle::NotReady);
    assert!(matches!(told.choice, Outcome::Take { step: 0, .. }));
}
