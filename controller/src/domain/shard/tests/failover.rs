//! Accounts beside SIMs, what moves on and what does not, what is charged, and plans.

use flotilla_protocol::wire::{Down, ErrorClass, Held, ReportKind};
use flotilla_routing::Micros;
use flotilla_routing::choice::Because;
use flotilla_routing::ledger::Scope;
use flotilla_routing::settings::{Limits, Plan, Price, RouteSettings, Rule, Select, Step, TenantRouting};
use flotilla_routing::table::KnownRoute;
use std::sync::Arc;

use super::rig::*;
use crate::domain::message::{Duplicates, MessageState, Pin, Priority, RouteKind};
use crate::domain::shard::{Effect, RouteSim, ShardSettings, WHOLE};
use MessageState::*;

const MINUTE: u64 = 60_000;

fn plan(steps: &[Select]) -> Plan {
    let step = |select: &Select| Step { routes: vec![select.clone()], patience_s: None, cheapest: false };
    Plan { steps: steps.iter().map(step).collect() }
}

fn limited(n: u8, limits: Limits) -> RouteSim {
    let settings = RouteSettings { limits, ..RouteSettings::default() };
    RouteSim { settings: Arc::new(settings), ..route_sim(n, 4) }
}

/// The reports say what became of attempt `number` of a message.
fn undelivered(message: flotilla_protocol::id::MessageId, number: u16, class: ErrorClass) -> ReportKind {
    ReportKind::Undelivered { attempt: attempt(message, number), segment: 0, error: error(class) }
}

#[test]
fn an_account_gets_its_whole_window_granted() {
    let mut rig = Rig::new();
    rig.account_up(7, 20);
    let ids: Vec<_> = (0..17).map(|_| rig.accept(|_| {})).collect();
    let frames = rig.take_frames(7);
    assert!(frames.iter().all(|frame| matches!(frame, Down::Dispatch(dispatch) if dispatch.granted)), "{frames:?}");
    assert_eq!(frames.len(), 17);
    let route = rig.records[&ids[0]].route.unwrap();
    assert!(route.is_provider() && route.as_provider().is_some());
}

#[test]
fn what_an_account_was_given_and_does_not_know_is_in_doubt_until_a_late_report_settles_it() {
    for restart in [false, true] {
        let mut rig = Rig::new();
        rig.account_up(7, 20);
        let (sent, delivered, allowed) =
            (rig.accept(|_| {}), rig.accept(|_| {}), rig.accept(|s| s.duplicates = Duplicates::Allowed));
        let held = rig.accept(|_| {});
        if restart {
            rig.restart();
        } else {
            rig.down(7);
        }
        rig.connect_as(RouteKind::Provider, 7, 20, &[route_sim(7, 1)]);
        rig.held(7, vec![Held { attempt: attempt(held, 1), sending: false }]);
        assert_eq!([sent, delivered].map(|id| (rig.state(id), rig.records[&id].lost)), [(Unknown, true); 2]);
        assert_eq!((rig.state(allowed), rig.code(allowed)), (Queued, "provider-unknown"), "it may be repeated");
        let frames = rig.take_frames(7);
        assert!(!frames.iter().any(|frame| matches!(frame, Down::Go { .. } | Down::Cancel { .. })), "{frames:?}");
        rig.pass(10 * MINUTE);
        rig.report(7, ReportKind::Sent { attempt: attempt(sent, 1), segments: 1 });
        rig.report(7, ReportKind::Delivered { attempt: attempt(delivered, 1), segment: 0 });
        rig.report(7, ReportKind::Sent { attempt: attempt(held, 1), segments: 1 });
        assert_eq!([sent, delivered, held].map(|id| rig.state(id)), [Sent, Delivered, Sent]);
        let charged = rig.charges.len();
        assert_eq!(charged, 4, "each attempt that may have left once: the repeated one is still under way");
    }
}

#[test]
fn an_account_that_does_not_answer_holds_up_nothing_that_may_be_repeated() {
    let mut rig = Rig::new();
    rig.account_up(7, 20);
    let (never, allowed) = (rig.accept(|_| {}), rig.accept(|s| s.duplicates = Duplicates::Allowed));
    rig.account_up(8, 20);
    for id in [never, allowed] {
        rig.report(7, ReportKind::Unknown { attempt: attempt(id, 1) });
    }
    assert_eq!(rig.state(never), Unknown);
    let second = rig.dispatched(8);
    assert_eq!((second.attempt, second.granted), (attempt(allowed, 2), true));
    assert_eq!(rig.charges.len(), 2, "both may have left");
    rig.report(7, ReportKind::Failed { attempt: attempt(never, 1), error: error(ErrorClass::Route), segments_sent: 0 });
    assert_eq!(rig.dispatched(8).attempt, attempt(never, 2), "it has not, after all");
}

#[test]
fn after_the_sims_the_account() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 4)]);
    rig.account_up(7, 20);
    let id = rig.accept(|_| {});
    assert_eq!(rig.dispatched(1).attempt, attempt(id, 1));
    rig.report(1, ReportKind::Failed { attempt: attempt(id, 1), error: error(ErrorClass::Route), segments_sent: 0 });
    assert_eq!(rig.dispatched(7).attempt, attempt(id, 2), "no SIM is left for it");
    let why = rig.records[&id].trace.last().and_then(|step| step.why.clone()).unwrap();
    assert_eq!((why.because, why.step), (Because::Fallback, 2));
}

/// Too long for what the only route's limit lets through, all of them were set aside. Then another one comes.
#[test]
fn all_room_that_comes_is_offered_to_urgent_messages_first() {
    let mut rig = Rig::new();
    let per_minute = |n, segments| limited(n, Limits { per_minute: Some(segments), ..Limits::default() });
    rig.up(1, 8, &[per_minute(1, 3)]);
    rig.accept(|s| s.segments = 2);
    let accept = |rig: &mut Rig, class| {
        rig.accept(|s| {
            s.segments = 3;
            s.priority = class;
        })
    };
    let bulk: Vec<_> = (0..2).map(|_| accept(&mut rig, Priority::Bulk)).collect();
    let urgent: Vec<_> = (0..3).map(|_| accept(&mut rig, Priority::Urgent)).collect();
    rig.up(2, 8, &[per_minute(2, 9)]);
    let states = |rig: &Rig, ids: &[_]| ids.iter().map(|id| rig.state(*id)).collect::<Vec<_>>();
    assert_eq!((states(&rig, &urgent), states(&rig, &bulk)), (vec![Dispatching; 3], vec![Queued; 2]));
}

/// The only route with room has refused it, so it was set aside; those behind it take all other room at once.
#[test]
fn room_is_offered_to_a_message_that_was_set_aside_before_those_behind_it() {
    let mut rig = Rig::new();
    let step = Step { routes: vec![Select::Sims, Select::Providers], patience_s: None, cheapest: false };
    let plans = [("any".into(), Plan { steps: vec![step] })].into();
    rig.set_routing(TenantRouting { plans, default_plan: Some("any".into()), ..TenantRouting::default() });
    rig.up(1, 1, &[route_sim(1, 1)]);
    let first = rig.accept(|_| {});
    assert_eq!(rig.dispatched(1).attempt, attempt(first, 1));
    rig.account_up(7, 1);
    let moved = rig.accept(|_| {});
    assert_eq!(rig.dispatched(7).attempt, attempt(moved, 1));
    rig.report(7, ReportKind::Failed { attempt: attempt(moved, 1), error: error(ErrorClass::Route), segments_sent: 0 });
    rig.pass(2_000);
    let behind: Vec<_> = (0..3).map(|_| rig.accept(|_| {})).collect();
    assert_eq!(rig.dispatched(7).attempt, attempt(behind[0], 1), "the account does not rest any more");
    assert_eq!(rig.state(moved), Queued);
    rig.report(1, ReportKind::Sent { attempt: attempt(first, 1), segments: 1 });
    assert_eq!(rig.dispatched(1).attempt, attempt(moved, 2));
    // A pause that an error asks for is not cut short by room: the next one takes it.
    for number in [2, 3] {
        let (at, error) = (rig.records[&moved].route.unwrap().device.to_bytes()[0], error(ErrorClass::Transient));
        rig.report(at, ReportKind::Failed { attempt: attempt(moved, number), error, segments_sent: 0 });
        rig.report(7, ReportKind::Sent { attempt: attempt(behind[0], 1), segments: 1 });
    }
    assert_eq!((rig.records[&moved].attempt, rig.state(moved)), (3, Queued));
    rig.pass(5 * MINUTE - 1);
    assert_eq!((rig.state(behind[1]), rig.state(moved)), (Dispatching, Queued));
}

#[test]
fn what_the_network_gives_up_goes_on_to_the_next_route() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 4)]);
    let id = rig.accept(|_| {});
    rig.report(1, ReportKind::Sent { attempt: attempt(id, 1), segments: 1 });
    rig.account_up(7, 20);
    rig.take_frames(1);
    rig.report(1, undelivered(id, 1, ErrorClass::Route));
    let second = rig.dispatched(7);
    assert_eq!((second.attempt, second.body.clone()), (attempt(id, 2), rig.records[&id].submission.body.clone()));
    let states: Vec<_> = rig.records[&id].trace.iter().map(|step| step.state).collect();
    assert_eq!(states, [Queued, Dispatching, Sent, Queued, Dispatching]);
    rig.report(7, ReportKind::Sent { attempt: attempt(id, 2), segments: 1 });
    rig.report(7, undelivered(id, 2, ErrorClass::Permanent));
    assert_eq!(rig.state(id), Failed, "nobody can deliver it");
    assert_eq!(rig.charges.len(), 2);
}

#[test]
fn an_undelivered_message_waits_for_its_turn_when_the_error_passes() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 4)]);
    let id = rig.accept(|_| {});
    for (number, delay_ms) in [(1, 0), (2, 5 * MINUTE), (3, 30 * MINUTE), (4, 120 * MINUTE)] {
        assert_eq!(rig.dispatched(1).attempt, attempt(id, number));
        rig.report(1, ReportKind::Sent { attempt: attempt(id, number), segments: 1 });
        rig.report(1, undelivered(id, number, ErrorClass::Transient));
        if delay_ms > 0 {
            rig.pass(delay_ms - 1);
            assert_eq!(rig.state(id), Queued, "{number}");
            rig.pass(1);
        }
    }
    rig.report(1, ReportKind::Sent { attempt: attempt(id, 5), segments: 1 });
    rig.report(1, undelivered(id, 5, ErrorClass::Transient));
    assert_eq!(rig.state(id), Failed);
}

#[test]
fn nothing_is_repeated_of_which_segments_were_or_may_still_be_delivered() {
    for duplicates in [Duplicates::Never, Duplicates::Allowed] {
        let mut rig = Rig::new();
        rig.up(1, 8, &[route_sim(1, 4)]);
        rig.up(2, 8, &[route_sim(3, 4)]);
        let id = rig.accept(|s| {
            s.segments = 2;
            s.duplicates = duplicates
        });
        let device = rig.records[&id].route.unwrap().device.to_bytes()[0];
        rig.report(device, ReportKind::Sent { attempt: attempt(id, 1), segments: 2 });
        rig.report(device, undelivered(id, 1, ErrorClass::Route));
        let expected = if duplicates == Duplicates::Never { Failed } else { Dispatching };
        assert_eq!(rig.state(id), expected, "{duplicates:?}");
    }
}

/// An SMSC reports by segment, most services about the whole message.
#[test]
fn an_account_may_give_up_a_segment_or_the_whole_message() {
    for (segment, expected) in [(1, Failed), (WHOLE, Dispatching)] {
        let mut rig = Rig::new();
        rig.account_up(7, 20);
        let id = rig.accept(|s| s.segments = 3);
        rig.report(7, ReportKind::Sent { attempt: attempt(id, 1), segments: 3 });
        rig.account_up(8, 20);
        rig.take_frames(8);
        rig.report(7, ReportKind::Undelivered { attempt: attempt(id, 1), segment, error: error(ErrorClass::Route) });
        assert_eq!(rig.state(id), expected, "{segment}");
    }
}

#[test]
fn what_is_left_of_a_long_message_is_told_with_its_end() {
    for (segment, class, expected) in [
        (1, ErrorClass::Route, "segment 2 of 3 was given up, 1 delivered so far; network out of order"),
        (1, ErrorClass::Permanent, "segment 2 of 3 was given up, 1 delivered so far; network out of order"),
        (WHOLE, ErrorClass::Permanent, "all 3 segments were given up, 1 delivered before; network out of order"),
    ] {
        let mut rig = Rig::new();
        rig.account_up(7, 20);
        let id = rig.accept(|s| s.segments = 3);
        rig.report(7, ReportKind::Sent { attempt: attempt(id, 1), segments: 3 });
        rig.report(7, ReportKind::Delivered { attempt: attempt(id, 1), segment: 0 });
        rig.report(7, ReportKind::Undelivered { attempt: attempt(id, 1), segment, error: error(class) });
        let record = &rig.records[&id];
        let failure = record.failure.as_ref().unwrap();
        assert_eq!((record.state, &*failure.code, &*failure.text), (Failed, "cms-38", expected));
        assert_eq!(record.segments_delivered, 1, "what was delivered is told");
        rig.report(7, ReportKind::Delivered { attempt: attempt(id, 1), segment: 2 });
        assert_eq!(rig.records[&id].segments_delivered, 1, "its end is its end");
    }
}

#[test]
fn a_message_whose_text_comes_back_late_can_be_cancelled_and_ends_in_time() {
    for cancelled in [false, true] {
        let mut rig = Rig::with(ShardSettings { look_up_ms: 0, ..ShardSettings::default() });
        rig.up(1, 8, &[route_sim(1, 4)]);
        let id = rig.accept(|s| s.expires_ms = START_MS + MINUTE);
        rig.report(1, ReportKind::Sent { attempt: attempt(id, 1), segments: 1 });
        rig.hold_reads = true;
        rig.report(1, undelivered(id, 1, ErrorClass::Route));
        assert_eq!(rig.state(id), Queued);
        if !cancelled {
            rig.pass(MINUTE + 10_000);
        }
        rig.hold_reads = false;
        for read in std::mem::take(&mut rig.reads) {
            assert!(matches!(read, Effect::Load { .. } | Effect::FetchOverdue { .. }), "{read:?}");
            rig.answer(read);
        }
        rig.settle();
        if cancelled {
            rig.cancel(id);
        }
        rig.pass(10_000);
        assert_eq!(rig.state(id), if cancelled { Cancelled } else { Expired });
    }
}

#[test]
fn attempts_are_charged_once_and_only_when_segments_may_have_left() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let refused = rig.accept(|_| {});
    rig.report(
        1,
        ReportKind::Failed { attempt: attempt(refused, 1), error: error(ErrorClass::Permanent), segments_sent: 0 },
    );
    assert_eq!(rig.charges.len(), 0, "nothing has left");
    let partly = rig.accept(|s| s.segments = 3);
    rig.report(
        1,
        ReportKind::Failed { attempt: attempt(partly, 1), error: error(ErrorClass::Transient), segments_sent: 2 },
    );
    assert_eq!((rig.state(partly), rig.charges.last().map(|charge| charge.segments)), (Failed, Some(2)));
    let doubted = rig.accept(|_| {});
    rig.down(1);
    assert_eq!((rig.state(doubted), rig.charges.len()), (Unknown, 2));
    rig.connect(1, 8, &[route_sim(1, 4)]);
    rig.report(1, ReportKind::Sent { attempt: attempt(doubted, 1), segments: 1 });
    rig.held(1, vec![]);
    assert_eq!((rig.state(doubted), rig.charges.len()), (Sent, 2), "charged before");
    rig.pass(2_000);
    let expired = rig.accept(|s| s.expires_ms = s.accepted_ms + 1_000);
    rig.pass(1_000);
    assert_eq!((rig.code(expired), rig.charges.len()), ("in-doubt", 3));
    let back = rig.accept(|s| s.duplicates = Duplicates::Allowed);
    rig.down(1);
    rig.pass(2 * MINUTE);
    assert_eq!((rig.state(back), rig.charges.len()), (Queued, 4), "its lease is over; it may have left");
    rig.connect(1, 8, &[route_sim(1, 1)]);
    rig.report(1, ReportKind::Sent { attempt: attempt(back, 1), segments: 1 });
    assert_eq!((rig.state(back), rig.charges.len()), (Sent, 4));
}

#[test]
fn a_limit_holds_over_restarts_and_reconnects() {
    let mut rig = Rig::new();
    let limits = Limits { per_hour: Some(2), ..Limits::default() };
    rig.up(1, 8, &[limited(1, limits.clone())]);
    let ids: Vec<_> = (0..3).map(|_| rig.accept(|_| {})).collect();
    assert_eq!([0, 1, 2].map(|n| rig.state(ids[n])), [Dispatching, Dispatching, Queued], "reserved");
    rig.report(1, ReportKind::Sent { attempt: attempt(ids[0], 1), segments: 1 });
    rig.restart();
    rig.up(2, 8, &[limited(3, Limits { per_hour: Some(0), ..Limits::default() })]);
    rig.connect(1, 8, &[limited(1, limits)]);
    rig.held(1, vec![Held { attempt: attempt(ids[1], 1), sending: true }]);
    rig.pass(50 * MINUTE);
    assert_eq!(rig.state(ids[2]), Queued, "one is charged and one reserved");
    rig.report(1, ReportKind::Sent { attempt: attempt(ids[1], 1), segments: 1 });
    rig.pass(12 * MINUTE);
    assert_eq!(rig.state(ids[2]), Dispatching, "the first charge is an hour old");
}

#[test]
fn a_route_with_a_gap_sends_one_at_a_time() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[limited(1, Limits { gap_ms: Some(10_000), ..Limits::default() })]);
    let ids: Vec<_> = (0..3).map(|_| rig.accept(|_| {})).collect();
    for (n, id) in ids.iter().enumerate() {
        assert_eq!(rig.dispatched(1).attempt, attempt(*id, 1));
        rig.report(1, ReportKind::Sent { attempt: attempt(*id, 1), segments: 1 });
        if n < 2 {
            rig.pass(9_900);
            assert_eq!(rig.take_frames(1), []);
            rig.pass(200);
        }
    }
}

/// Their device is away since the restart, and never comes back.
#[test]
fn what_was_in_flight_over_a_restart_is_charged_on_its_own_day_and_at_its_own_price() {
    let mut rig = Rig::new();
    let price = Price { per_segment: Micros(20), ..Price::default() };
    let settings = RouteSettings { timezone: "Africa/Nairobi".into(), price, ..RouteSettings::default() };
    let sims = [RouteSim { settings: Arc::new(settings), ..route_sim(1, 4) }];
    rig.set_routing(TenantRouting { timezone: "Africa/Nairobi".into(), ..TenantRouting::default() });
    rig.up(1, 8, &sims);
    let ids: Vec<_> = (1..3).map(|segments| rig.accept(|s| s.segments = segments)).collect();
    let route = rig.records[&ids[0]].route.unwrap();
    rig.catalog = vec![KnownRoute { route, tenant: tenant(1), settings: Arc::clone(&sims[0].settings) }];
    rig.restart();
    rig.pass(2 * MINUTE);
    assert_eq!(
        ids.iter().map(|id| (rig.state(*id), rig.records[id].cost.0)).collect::<Vec<_>>(),
        [(Unknown, 20), (Unknown, 40)]
    );
    // By UTC it is a quarter past ten in the evening of the day before.
    let days: Vec<_> = rig.charges.iter().map(|charge| charge.day).collect();
    assert_eq!(days, [(START_MS / 86_400_000) as i32 + 1; 2]);
    assert_eq!(rig.ledger.counters(Scope::Tenant(tenant(1))).on_day(days[0]), 3);
}

/// Its link breaks, and it hands over what it was granted at the last moment of the lease: nobody hears of it until it is back.
#[test]
fn what_a_lost_device_may_still_send_is_in_the_minute_and_the_gap_until_its_lease_ends() {
    for limits in [
        Limits { per_minute: Some(2), ..Limits::default() },
        Limits { gap_ms: Some(60_000), ..Limits::default() },
        Limits { per_hour: Some(2), ..Limits::default() },
    ] {
        let window_ms = if limits.per_hour.is_some() { 60 * MINUTE } else { MINUTE };
        let mut rig = Rig::new();
        let sims = [limited(1, limits)];
        rig.up(1, 8, &sims);
        let ids: Vec<_> = (0..4).map(|_| rig.accept(|_| {})).collect();
        let under_way: Vec<_> = ids.iter().copied().filter(|id| rig.state(*id) == Dispatching).collect();
        rig.pass(1_000);
        rig.down(1);
        rig.pass(58_000);
        let sent_ms = rig.now.unix_ms;
        rig.connect(1, 8, &sims);
        for id in &under_way {
            rig.report(1, ReportKind::Sent { attempt: attempt(*id, 1), segments: 1 });
        }
        rig.held(1, vec![]);
        let waiting = |rig: &Rig| ids.iter().filter(|id| rig.state(**id) == Queued).count();
        let left = waiting(&rig);
        rig.pass(sent_ms + window_ms - 1 - rig.now.unix_ms);
        assert_eq!(waiting(&rig), left, "within {window_ms} ms of what was handed over last");
        rig.pass(2_000 + MINUTE);
        assert!(waiting(&rig) < left, "the lease was over soon after");
    }
}

#[test]
fn a_message_that_can_never_go_fails_with_its_reason() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 4)]);
    let id = rig.accept(|s| s.plan = Some("nobody-made-it".into()));
    assert_eq!((rig.state(id), rig.code(id)), (Failed, "no-such-plan"));
    assert_eq!(rig.records[&id].failure.as_ref().map(|why| why.class), Some(ErrorClass::Permanent));
    assert_eq!(rig.records[&id].cost, Micros::ZERO);
}

#[test]
fn queued_messages_follow_new_rules_at_once_and_keep_their_order() {
    let mut rig = Rig::new();
    rig.account_up(7, 20);
    let only_sims = TenantRouting { default_plan: Some("sims-only".into()), ..TenantRouting::default() };
    rig.set_routing(only_sims.clone());
    let ids: Vec<_> = (0..4).map(|n| rig.accept(|s| s.tags = vec![["odd", "even"][n % 2].into()])).collect();
    let pinned = rig.accept(|s| s.pin = Pin::Sim(sim(9)));
    assert_eq!(rig.take_frames(7), []);
    let when = flotilla_routing::settings::Conditions { tags: vec!["even".into()], ..Default::default() };
    let rule = Rule { name: "even".into(), when, plan: "accounts".into(), share_percent: None };
    let plans = [("accounts".into(), plan(&[Select::Providers]))].into();
    rig.set_routing(TenantRouting { rules: vec![rule], plans, ..only_sims });
    let went: Vec<_> = rig
        .take_frames(7)
        .iter()
        .map(|frame| match frame {
            Down::Dispatch(dispatch) => dispatch.attempt.message,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(went, [ids[1], ids[3]]);
    let why = rig.records[&ids[1]].trace.last().and_then(|step| step.why.clone()).unwrap();
    assert_eq!((why.rule.as_deref(), why.step), (Some("even"), 1));
    rig.restart();
    rig.account_up(7, 20);
    let late = rig.accept(|s| s.tags = vec!["even".into()]);
    assert_eq!((rig.state(late), rig.state(ids[0]), rig.state(pinned)), (Dispatching, Queued, Queued));
}

/// The SIM is busy: after their patience messages go on to the account.
#[test]
fn who_has_had_patience_is_not_overtaken_and_who_has_run_out_of_it_does_not_stand_behind_others() {
    let mut rig = Rig::new();
    rig.up(1, 1, &[route_sim(1, 1)]);
    let first = rig.accept(|_| {});
    rig.account_up(7, 1);
    let class = |class| move |s: &mut crate::domain::message::Submission| s.priority = class;
    let bulk = rig.accept(class(Priority::Bulk));
    rig.pass(29_000);
    let urgent = rig.accept(class(Priority::Urgent));
    rig.pass(900);
    let states = |rig: &Rig| [first, bulk, urgent].map(|id| rig.state(id));
    assert_eq!(states(&rig), [Dispatching, Queued, Queued], "a message under way leaves no room");
    rig.pass(100);
    assert_eq!(
        states(&rig),
        [Dispatching, Queued, Dispatching],
        "the account has room for one, which is the urgent one's"
    );
    rig.report(7, ReportKind::Sent { attempt: attempt(urgent, 1), segments: 1 });
    assert_eq!(rig.state(bulk), Dispatching);
}

#[test]
fn patience_is_counted_for_each_message_of_many_campaigns() {
    let mut rig = Rig::new();
    rig.up(1, 1, &[route_sim(1, 1)]);
    let _under_way = rig.accept(|_| {});
    rig.account_up(7, 100);
    let ids: Vec<_> = (0..40)
        .map(|n| {
            let id = rig.accept(|s| s.campaign = n.to_string().into());
            rig.pass(100);
            id
        })
        .collect();
    rig.pass(25_900);
    for (n, id) in ids.iter().enumerate() {
        rig.pass(99);
        assert_eq!(rig.state(*id), Queued, "{n}");
        rig.pass(1);
        assert_eq!(rig.state(*id), Dispatching, "{n}: it has waited for thirty seconds");
    }
}

#[test]
fn urgent_goes_first_also_where_plans_differ() {
    let mut rig = Rig::new();
    let plans =
        [("sims".into(), plan(&[Select::Sims])), ("all".into(), plan(&[Select::Sims, Select::Providers]))].into();
    rig.set_routing(TenantRouting { plans, ..TenantRouting::default() });
    let bulk: Vec<_> = (0..3)
        .map(|_| {
            rig.accept(|s| {
                s.priority = Priority::Bulk;
                s.plan = Some("sims".into())
            })
        })
        .collect();
    let urgent = rig.accept(|s| {
        s.priority = Priority::Urgent;
        s.plan = Some("all".into())
    });
    rig.up(1, 1, &[route_sim(1, 1)]);
    assert_eq!(rig.dispatched(1).attempt.message, urgent);
    assert!(bulk.iter().all(|id| rig.state(*id) == Queued));
}
