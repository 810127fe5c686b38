//! The circuit by table, and worlds of random outcomes.

use proptest::prelude::*;

use super::*;

const NOW_MS: u64 = 1_772_323_200_000;
const SENT: Outcome = Outcome::Sent { took_ms: 1_000 };
const REFUSED: Outcome = Outcome::Failed { class: ErrorClass::Route };
const BUSY: Outcome = Outcome::Failed { class: ErrorClass::Transient };
const WARNING: Warning = Warning::DeliveryFalls { lately_percent: 20, usually_percent: 90 };

fn sim() -> Circuit {
    Circuit::new(RouteKind::Sim)
}

/// Fails a probe or a closed circuit until it opens; answers when its rest is over.
fn opens(circuit: &mut Circuit, at_ms: u64) -> u64 {
    for _ in 0..SIM_FAILURES {
        if let Some(Shift::Opened { until_ms, .. }) = circuit.on(REFUSED, None, at_ms) {
            return until_ms;
        }
    }
    panic!("it did not open: {circuit:?}");
}

#[test]
fn failures_in_a_row_open_it_a_providers_sooner() {
    for (kind, most) in [(RouteKind::Sim, SIM_FAILURES), (RouteKind::Provider, PROVIDER_FAILURES)] {
        let mut circuit = Circuit::new(kind);
        for _ in 1..most {
            assert_eq!(circuit.on(BUSY, None, NOW_MS), None);
        }
        assert_eq!(circuit.may_send(NOW_MS, 9), Gate::Yes);
        let until_ms = NOW_MS + REST_MIN_MS;
        let because = Because::Failures;
        assert_eq!(circuit.on(Outcome::Doubted, None, NOW_MS), Some(Shift::Opened { until_ms, because }), "{kind:?}");
        assert_eq!(circuit.may_send(NOW_MS, 0), Gate::Until(until_ms));
        assert_eq!((circuit.position(NOW_MS), circuit.position(until_ms)), (Position::Open, Position::HalfOpen));
    }
}

#[test]
fn a_success_between_begins_the_count_anew() {
    let mut circuit = sim();
    for _ in 0..3 {
        for _ in 1..SIM_FAILURES {
            assert_eq!(circuit.on(REFUSED, None, NOW_MS), None);
        }
        circuit.on(SENT, None, NOW_MS);
    }
}

#[test]
fn half_of_the_last_messages_open_it_when_there_are_enough() {
    let mut circuit = sim();
    let mut shifts = Vec::new();
    for n in 0..u64::from(SHARE_MIN) {
        let outcome = if n % 2 == 0 { SENT } else { BUSY };
        shifts.extend(circuit.on(outcome, None, NOW_MS + n * 1_000));
    }
    assert!(matches!(shifts[..], [Shift::Opened { because: Because::Share, .. }]), "{shifts:?}");
    // The same spread over an hour says nothing.
    let mut circuit = sim();
    for n in 0..u64::from(SHARE_MIN) {
        let outcome = if n % 2 == 0 { SENT } else { BUSY };
        assert_eq!(circuit.on(outcome, None, NOW_MS + n * 180_000), None);
    }
}

#[test]
fn what_is_the_messages_fault_or_late_says_nothing() {
    let mut circuit = sim();
    for outcome in [
        Outcome::Failed { class: ErrorClass::Permanent },
        Outcome::Undelivered { class: ErrorClass::Route },
        Outcome::NoReport,
        Outcome::Delivered { took_ms: 1 },
    ] {
        (0..50).for_each(|_| assert_eq!(circuit.on(outcome, None, NOW_MS), None));
    }
    assert_eq!(circuit.may_send(NOW_MS, 0), Gate::Yes);
}

#[test]
fn rests_double_up_to_ten_minutes_and_two_probes_close_it() {
    let mut circuit = sim();
    let mut now_ms = NOW_MS;
    let mut rests = Vec::new();
    for _ in 0..12 {
        let until_ms = opens(&mut circuit, now_ms);
        rests.push((until_ms - now_ms) / 1_000);
        assert_eq!(circuit.may_send(until_ms - 1, 0), Gate::Until(until_ms));
        assert_eq!(circuit.may_send(until_ms, 0), Gate::Probe);
        assert_eq!(circuit.may_send(until_ms, 1), Gate::Probing);
        now_ms = until_ms;
    }
    assert_eq!(rests, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 600, 600]);
    assert_eq!(circuit.because(), Some(Because::Probe));
    assert_eq!(circuit.on(SENT, None, now_ms + 1), None);
    assert_eq!(circuit.may_send(now_ms + 2, 0), Gate::Probe, "one success is not enough");
    assert_eq!(circuit.on(SENT, None, now_ms + 2), Some(Shift::Closed));
    assert_eq!((circuit.may_send(now_ms + 2, 5), circuit.because()), (Gate::Yes, None));
}

#[test]
fn it_begins_with_a_short_rest_again_only_when_it_has_settled() {
    let rest = |successes: u16| {
        let mut circuit = sim();
        let mut now_ms = NOW_MS;
        for _ in 0..4 {
            now_ms = opens(&mut circuit, now_ms);
        }
        (0..PROBES + successes).for_each(|_| {
            circuit.on(SENT, None, now_ms);
        });
        opens(&mut circuit, now_ms) - now_ms
    };
    assert_eq!(rest(0), 16_000);
    assert_eq!(rest(SETTLED - 1), 16_000);
    assert_eq!(rest(SETTLED), REST_MIN_MS);
}

#[test]
fn what_was_sent_before_it_opened_changes_nothing() {
    let mut circuit = Circuit::new(RouteKind::Provider);
    let until_ms = opens(&mut circuit, NOW_MS);
    for outcome in [REFUSED, SENT, REFUSED, SENT, SENT] {
        assert_eq!(circuit.on(outcome, None, until_ms - 1), None);
    }
    assert_eq!(circuit.may_send(until_ms - 1, 0), Gate::Until(until_ms));
    assert_eq!(circuit.may_send(until_ms, 3), Gate::Probing, "the late ones first");
}

#[test]
fn a_warning_rests_it_for_five_minutes() {
    let mut circuit = sim();
    let opened = Shift::Opened { until_ms: NOW_MS + REST_WARNED_MS, because: Because::Warning };
    assert_eq!(circuit.on(Outcome::NoReport, Some(WARNING), NOW_MS), Some(opened));
    assert_eq!(circuit.on(Outcome::NoReport, Some(WARNING), NOW_MS + 1), None, "it rests already");
}

#[test]
fn a_clock_that_went_back_does_not_keep_it_open() {
    let mut circuit = sim();
    let until_ms = opens(&mut circuit, NOW_MS);
    let before_ms = until_ms - 86_400_000;
    assert_eq!(circuit.may_send(before_ms, 0), Gate::Probe);
    assert_eq!(circuit.on(SENT, None, before_ms), None);
    assert_eq!(circuit.on(SENT, None, before_ms + 1), Some(Shift::Closed));
    // And it opens as ever.
    assert_eq!(opens(&mut circuit, before_ms + 2), before_ms + 2 + 2 * REST_MIN_MS);
}

#[derive(Clone, Copy, Debug)]
enum Event {
    Pass(u64),
    Send,
    End { well: bool },
    Warn,
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => prop_oneof![0..2_000u64, 0..700_000u64].prop_map(Event::Pass),
        4 => Just(Event::Send),
        4 => any::<bool>().prop_map(|well| Event::End { well }),
        1 => Just(Event::Warn),
    ]
}

proptest! {
    #[test]
    fn there_is_one_probe_at_a_time_and_a_restored_circuit_does_the_same(
        provider in any::<bool>(),
        events in proptest::collection::vec(any_event(), 1..300),
        half in any::<proptest::sample::Index>(),
    ) {
        let kind = if provider { RouteKind::Provider } else { RouteKind::Sim };
        let mut circuit = Circuit::new(kind);
        let (mut now_ms, mut in_flight, mut probes) = (NOW_MS, 0u32, 0u32);
        let restored = half.index(events.len());
        for (n, event) in events.iter().enumerate() {
            if n == restored {
                let bytes = postcard::to_stdvec(&circuit).unwrap();
                circuit = postcard::from_bytes(&bytes).unwrap();
            }
            match *event {
                Event::Pass(ms) => now_ms += ms,
                Event::Send => match circuit.may_send(now_ms, in_flight) {
                    Gate::Yes => {
                        prop_assert_eq!(circuit.position(now_ms), Position::Closed);
                        in_flight += 1;
                    }
                    Gate::Probe => {
                        prop_assert_eq!((in_flight, probes), (0, 0), "another is under way");
                        (in_flight, probes) = (1, 1);
                    }
                    Gate::Probing => prop_assert!(in_flight > 0),
                    Gate::Until(until_ms) => {
                        prop_assert!(until_ms > now_ms && until_ms <= now_ms + REST_MAX_MS);
                    }
                },
                Event::End { well } if in_flight > 0 => {
                    in_flight -= 1;
                    probes = 0;
                    circuit.on(if well { SENT } else { REFUSED }, None, now_ms);
                }
                Event::End { .. } => {}
                Event::Warn => {
                    let shift = circuit.on(Outcome::NoReport, Some(WARNING), now_ms);
                    prop_assert_eq!(circuit.position(now_ms) == Position::Closed, false, "{:?}", shift);
                }
            }
        }
        // Whatever happened, it is probed when its rest is over, and two successes close it.
        now_ms += REST_MAX_MS;
        if circuit.may_send(now_ms, 0) != Gate::Yes {
            prop_assert_eq!(circuit.may_send(now_ms, 0), Gate::Probe);
            circuit.on(SENT, None, now_ms);
            circuit.on(SENT, None, now_ms);
            prop_assert_eq!(circuit.may_send(now_ms, 7), Gate::Yes);
        }
    }
}
