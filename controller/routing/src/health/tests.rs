//! The score's worked examples, that nothing worse scores better, and warnings before hard failure.

use flotilla_protocol::wire::{Registration, SimHealth, Telemetry};
use proptest::prelude::*;

use super::*;
use crate::Micros;

const NOW_MS: u64 = 1_772_323_200_000;
const SENT: Outcome = Outcome::Sent { took_ms: 2_000 };
const DELIVERED: Outcome = Outcome::Delivered { took_ms: 5_000 };
const REFUSED: Outcome = Outcome::Failed { class: ErrorClass::Route };
const LOST: Outcome = Outcome::Undelivered { class: ErrorClass::Transient };

fn after(outcomes: &[(Outcome, u32)]) -> Health {
    let mut health = Health::default();
    for (outcome, times) in outcomes {
        (0..*times).for_each(|_| {
            health.outcome(*outcome, NOW_MS);
        });
    }
    health
}

fn told(health: &Health, vitals: Option<&Vitals>, unix_ms: u64) -> (u8, Vec<(ReasonName, u8)>) {
    let score = score(health, vitals, unix_ms);
    (score.value, score.reasons.iter().map(|reason| (reason.name, reason.points)).collect())
}

#[test]
fn the_worked_examples_of_the_score() {
    use ReasonName::{BlockForeseen, Failing, FailuresInARow, Undelivered};
    assert_eq!(told(&Health::default(), None, NOW_MS), (100, vec![]));
    assert_eq!(told(&after(&[(SENT, 50), (DELIVERED, 50)]), None, NOW_MS), (100, vec![]));
    // Three refusals in a row.
    let refused = after(&[(SENT, 50), (REFUSED, 3)]);
    assert_eq!(told(&refused, None, NOW_MS), (79, vec![(Failing, 9), (FailuresInARow, 12)]));
    // The same half an hour later: half of it.
    assert_eq!(told(&refused, None, NOW_MS + 1_800_000), (90, vec![(Failing, 4), (FailuresInARow, 6)]));
    // One message gets through.
    let again = after(&[(SENT, 50), (REFUSED, 3), (SENT, 1)]);
    assert_eq!(told(&again, None, NOW_MS), (92, vec![(Failing, 8)]));
    // The network takes everything and delivers nothing of the last sixteen.
    let blocked = after(&[(SENT, 80), (DELIVERED, 80), (SENT, 16), (LOST, 16)]);
    assert_eq!(told(&blocked, None, NOW_MS), (61, vec![(Undelivered, 19), (BlockForeseen, 20)]));
}

#[test]
fn what_is_the_messages_fault_costs_nothing() {
    let permanent = Outcome::Failed { class: ErrorClass::Permanent };
    let gone = Outcome::Undelivered { class: ErrorClass::Permanent };
    let health = after(&[(SENT, 20), (DELIVERED, 10), (permanent, 30), (gone, 10)]);
    assert_eq!(told(&health, None, NOW_MS), (100, vec![]));
    assert_eq!(health.counts().failed_permanent, 30);
}

#[test]
fn a_device_in_trouble_is_explained() {
    use ReasonName::{Balance, Battery, NotRegistered, Roaming, Signal, TelemetryOld};
    let sim =
        SimHealth { slot: 1, signal_dbm: Some(-105), registration: Registration::Roaming, ..SimHealth::default() };
    let telemetry =
        Telemetry { sims: vec![sim], battery_percent: Some(10), charging: Some(false), ..Telemetry::default() };
    let vitals = Vitals::of(&telemetry, 1, NOW_MS);
    let of = |vitals: &Vitals, unix_ms| told(&Health::default(), Some(vitals), unix_ms);
    assert_eq!(of(&vitals, NOW_MS), (70, vec![(Signal, 12), (Roaming, 10), (Battery, 8)]));
    let old = of(&vitals, NOW_MS + 7 * 60_000);
    assert_eq!(old, (65, vec![(Signal, 12), (Roaming, 10), (Battery, 8), (TelemetryOld, 5)]));
    let charging = Vitals { charging: Some(true), ..vitals };
    assert_eq!(of(&charging, NOW_MS), (78, vec![(Signal, 12), (Roaming, 10)]));
    let denied = Vitals { registration: Registration::Denied, balance: Some(Micros::ZERO), ..Vitals::default() };
    assert_eq!(of(&denied, NOW_MS), (30, vec![(NotRegistered, 40), (Balance, 30)]));
    let low = Vitals { balance: Some(Micros(4)), low_balance: Some(Micros(5)), ..Vitals::default() };
    assert_eq!(of(&low, NOW_MS), (90, vec![(Balance, 10)]));
    assert_eq!(of(&Vitals::of(&telemetry, 2, NOW_MS), NOW_MS), (92, vec![(Battery, 8)]), "another slot's signal");
}

#[test]
fn falling_delivery_is_a_warning_once_and_again_after_half_an_hour() {
    let mut health = after(&[(SENT, 100), (DELIVERED, 100)]);
    let mut warned = Vec::new();
    for n in 0..40u64 {
        let at_ms = NOW_MS + n * 60_000;
        health.outcome(SENT, at_ms);
        warned.extend(health.outcome(LOST, at_ms).map(|warning| (n, warning)));
    }
    let Warning::DeliveryFalls { lately_percent, usually_percent } = warned[0].1 else { panic!("{warned:?}") };
    assert!(lately_percent < 50 && usually_percent > 85, "{warned:?}");
    assert!((8..14).contains(&warned[0].0), "before it is hard failure: {warned:?}");
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert!(health.outcome(LOST, NOW_MS + (warned[0].0 + 30) * 60_000).is_some());
    // Delivered again: the warning is over, and a new fall is told anew.
    (0..60).for_each(|_| {
        health.outcome(DELIVERED, NOW_MS + 7_200_000);
    });
    assert_eq!(health.warning(NOW_MS + 7_200_000), None);
}

#[test]
fn a_route_that_delivers_little_as_a_rule_gives_no_warning() {
    let mut health = Health::default();
    for n in 0..1_000u32 {
        let outcome = if n % 2 == 0 { DELIVERED } else { LOST };
        assert_eq!(health.outcome(outcome, NOW_MS), None);
    }
    for _ in 0..10 {
        assert_eq!(health.outcome(LOST, NOW_MS), None);
    }
}

#[test]
fn delivery_three_times_slower_than_usual_is_a_warning() {
    let slow = |took_ms| {
        let mut health = Health::default();
        (0..150).for_each(|_| {
            health.outcome(Outcome::Delivered { took_ms: 30_000 }, NOW_MS);
        });
        (0..20).filter_map(|_| health.outcome(Outcome::Delivered { took_ms }, NOW_MS)).next()
    };
    assert!(matches!(slow(120_000), Some(Warning::DeliverySlows { .. })));
    assert_eq!(slow(70_000), None, "twice is not enough");
    let mut quick = after(&[(Outcome::Delivered { took_ms: 1_000 }, 150)]);
    let told = (0..20).filter_map(|_| quick.outcome(Outcome::Delivered { took_ms: 20_000 }, NOW_MS)).next();
    assert_eq!(told, None, "still under a minute");
}

#[test]
fn reports_that_stop_are_a_warning_where_they_usually_come() {
    let silent = |reports: u32| {
        let mut health = after(&[(SENT, 60), (DELIVERED, reports)]);
        // After a quiet night: what counts is the time since the first message that was not reported on.
        let morning_ms = NOW_MS + 8 * 3_600_000;
        (0..60u64).filter_map(|n| Some((n, health.outcome(SENT, morning_ms + n * 30_000)?))).next()
    };
    let Some((n, Warning::ReportsStop { sent, for_s })) = silent(60) else { panic!("no warning") };
    assert_eq!((n, sent, for_s), (29, 30, 870), "thirty messages, and ten minutes");
    assert_eq!(silent(10), None, "they never came for most");
    let mut health = after(&[(SENT, 60), (DELIVERED, 60)]);
    let burst = (0..200u64).filter_map(|n| health.outcome(SENT, NOW_MS + n * 1_000)).next();
    assert_eq!(burst, None, "a burst of three minutes is not silence");
}

#[test]
fn reports_that_never_come_say_nothing_but_those_that_fail_to_come_do() {
    let never = after(&[(SENT, 100), (Outcome::NoReport, 100)]);
    assert_eq!(told(&never, None, NOW_MS), (100, vec![]));
    let mut stopped = after(&[(SENT, 100), (DELIVERED, 100)]);
    (0..16).for_each(|_| {
        stopped.outcome(Outcome::NoReport, NOW_MS);
    });
    assert!(score(&stopped, None, NOW_MS).value < 75);
    assert_eq!(stopped.counts().unreported, 16);
}

#[test]
fn the_view_has_what_people_ask_for() {
    let health = after(&[(SENT, 30), (DELIVERED, 20), (LOST, 4)]);
    let view = health.view(NOW_MS);
    assert_eq!((view.success_percent, view.failures_in_a_row), (100, 0));
    assert_eq!((view.to_sent_p50_ms, view.to_sent_p95_ms), (Some(1_792), Some(1_792)));
    assert_eq!(view.last_outcome, Some(Last::Undelivered));
    assert!(view.delivered_percent.unwrap() < view.usually_delivered_percent.unwrap());
    let fresh = Health::default().view(NOW_MS);
    assert_eq!((fresh.delivered_percent, fresh.to_sent_p50_ms, fresh.last_outcome_unix_ms), (None, None, None));
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![Just(SENT), Just(DELIVERED), Just(REFUSED), Just(LOST), Just(Outcome::Doubted), Just(Outcome::NoReport)]
}

prop_compose! {
    fn any_vitals()(
        age_ms in 0..7_200_000u64,
        signal_dbm in proptest::option::of(-130..-40i16),
        registered in 0..6u8,
        battery_percent in proptest::option::of(0..=100u8),
        charging in proptest::option::of(any::<bool>()),
        balance in proptest::option::of(0..100u64),
    ) -> Vitals {
        let registration = match registered {
            0 => Registration::Home,
            1 => Registration::Unknown,
            2 => Registration::Roaming,
            3 => Registration::Searching,
            4 => Registration::NotRegistered,
            _ => Registration::Denied,
        };
        Vitals {
            at_ms: Some(NOW_MS - age_ms),
            signal_dbm,
            registration,
            battery_percent,
            charging,
            balance: balance.map(Micros),
            low_balance: Some(Micros(50)),
        }
    }
}

/// A thing that has become worse.
#[derive(Clone, Copy, Debug)]
enum Worse {
    Signal(i16),
    Registration,
    Battery(u8),
    Unplugged,
    Older(u64),
    Poorer(u64),
    Success(f32),
    Streak(u16),
    Delivered(f32),
    Slower,
    Silent(u32),
}

fn any_worse() -> impl Strategy<Value = Worse> {
    prop_oneof![
        (1..50i16).prop_map(Worse::Signal),
        Just(Worse::Registration),
        (1..100u8).prop_map(Worse::Battery),
        Just(Worse::Unplugged),
        (1..7_200_000u64).prop_map(Worse::Older),
        (1..100u64).prop_map(Worse::Poorer),
        (0.0..1.0f32).prop_map(Worse::Success),
        (1..100u16).prop_map(Worse::Streak),
        (0.0..1.0f32).prop_map(Worse::Delivered),
        Just(Worse::Slower),
        (1..100u32).prop_map(Worse::Silent),
    ]
}

fn worsen(health: &mut Health, vitals: &mut Vitals, worse: Worse) {
    match worse {
        Worse::Signal(by) => vitals.signal_dbm = vitals.signal_dbm.map(|dbm| dbm - by),
        Worse::Registration => {
            vitals.registration = match vitals.registration {
                Registration::Home | Registration::Unknown => Registration::Roaming,
                Registration::Roaming => Registration::Searching,
                _ => Registration::Denied,
            }
        }
        Worse::Battery(by) => vitals.battery_percent = vitals.battery_percent.map(|percent| percent.saturating_sub(by)),
        Worse::Unplugged => vitals.charging = Some(false),
        Worse::Older(by) => vitals.at_ms = vitals.at_ms.map(|at_ms| at_ms - by),
        Worse::Poorer(by) => vitals.balance = vitals.balance.map(|balance| Micros(balance.0.saturating_sub(by))),
        Worse::Success(part) => health.success *= part,
        Worse::Streak(by) => health.streak = health.streak.saturating_add(by),
        Worse::Delivered(part) => health.delivered_lately *= part,
        Worse::Slower => {
            health.to_sent = Latency::default();
            (0..60).for_each(|_| health.to_sent.record(3_600_000));
        }
        Worse::Silent(by) => health.sent_since_report += by,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_worse_ever_scores_better(
        outcomes in proptest::collection::vec((any_outcome(), 1..40u32), 0..12),
        vitals in any_vitals(),
        worse in any_worse(),
        later_ms in 0..7_200_000u64,
    ) {
        let mut health = after(&outcomes);
        let mut now_vitals = vitals;
        let unix_ms = NOW_MS + later_ms;
        let before = score(&health, Some(&now_vitals), unix_ms);
        worsen(&mut health, &mut now_vitals, worse);
        let then = score(&health, Some(&now_vitals), unix_ms);
        prop_assert!(then.value <= before.value, "{before:?} became {then:?} by {worse:?}");
        let taken: u32 = then.reasons.iter().map(|reason| u32::from(reason.points)).sum();
        prop_assert_eq!(u32::from(then.value), 100u32.saturating_sub(taken), "the points explain the score");
    }

    /// One refusal more, in place of a success, anywhere in the history.
    #[test]
    fn a_history_with_one_more_failure_never_scores_better(
        sent in proptest::collection::vec(any::<bool>(), 1..120),
        which in any::<proptest::sample::Index>(),
    ) {
        let of = |sent: &[bool]| {
            let mut health = Health::default();
            for well in sent {
                health.outcome(if *well { SENT } else { REFUSED }, NOW_MS);
            }
            score(&health, None, NOW_MS).value
        };
        let mut worse = sent.clone();
        worse[which.index(sent.len())] = false;
        prop_assert!(of(&worse) <= of(&sent));
    }
}
