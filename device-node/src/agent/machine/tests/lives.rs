//! Random lives of a device, with crashes anywhere. The world checks the invariants at every step, this the end.

use proptest::prelude::*;

use super::world::{LEASE_MS, World, attempt, sim};
use crate::radio::{ReportKey, SendOutcome};
use flotilla_protocol::wire::{ErrorClass, ErrorDomain, NotSent, SendError, SimState};

#[derive(Clone, Debug)]
enum Step {
    Connect { newer: bool },
    Disconnect,
    Resume,
    Dispatch { attempt: u8, granted: bool, stale: bool },
    Go(u8),
    Cancel(u8),
    Acknowledge(u8),
    Answer { which: u8, outcome: u8 },
    Delivered { attempt: u8, segment: u8 },
    Inbound(u8),
    Sim(SimState),
    Land,
    Advance(u16),
    Sleep(u16),
    Crash { landed: bool },
}

fn step() -> impl Strategy<Value = Step> {
    let attempt = || 0u8..12;
    prop_oneof![
        2 => any::<bool>().prop_map(|newer| Step::Connect { newer }),
        1 => Just(Step::Disconnect),
        1 => Just(Step::Resume),
        8 => (attempt(), prop::bool::weighted(0.7), prop::bool::weighted(0.05))
            .prop_map(|(attempt, granted, stale)| Step::Dispatch { attempt, granted, stale }),
        4 => attempt().prop_map(Step::Go),
        2 => attempt().prop_map(Step::Cancel),
        2 => any::<u8>().prop_map(Step::Acknowledge),
        8 => (any::<u8>(), 0u8..4).prop_map(|(which, outcome)| Step::Answer { which, outcome }),
        4 => (attempt(), 0u8..3).prop_map(|(attempt, segment)| Step::Delivered { attempt, segment }),
        1 => (0u8..5).prop_map(Step::Inbound),
        1 => prop_oneof![Just(SimState::Ready), Just(SimState::Blocked)].prop_map(Step::Sim),
        12 => Just(Step::Land),
        2 => (0u16..7_000).prop_map(Step::Advance),
        1 => (0u16..7_000).prop_map(Step::Sleep),
        2 => any::<bool>().prop_map(|landed| Step::Crash { landed }),
    ]
}

fn outcome(number: u8) -> SendOutcome {
    match number {
        0 => SendOutcome::Sent { segments: 2, references: Vec::new() },
        1 => SendOutcome::NotSent(NotSent::LeaseOver),
        2 => {
            let error =
                SendError { class: ErrorClass::Route, domain: ErrorDomain::Cms, code: 38, text: "out of order".into() };
            SendOutcome::Failed { error, segments_sent: 1 }
        }
        _ => SendOutcome::Unknown,
    }
}

fn run(world: &mut World, step: Step, linked: &mut bool) {
    match step {
        Step::Connect { newer } => {
            let epoch = world.epoch + u64::from(newer);
            world.connect(epoch);
            *linked = true;
        }
        Step::Disconnect => {
            world.disconnect();
            *linked = false;
        }
        Step::Resume if *linked => world.resume(),
        Step::Dispatch { attempt: number, granted, stale } if *linked => world.dispatch(attempt(number), |dispatch| {
            dispatch.granted = granted;
            if stale {
                dispatch.epoch.0 -= 1;
            }
        }),
        Step::Go(number) if *linked => world.go(attempt(number), LEASE_MS as u32),
        Step::Cancel(number) if *linked => world.cancel(attempt(number)),
        Step::Acknowledge(part) if *linked => {
            let positions: Vec<u64> = world.seen.keys().copied().collect();
            if let Some(position) = positions.get(positions.len() * usize::from(part) / 256) {
                world.machine.acknowledged(*position, world.now);
            }
        }
        Step::Answer { which, outcome: number } if !world.on_radio.is_empty() => {
            let job = world.on_radio[usize::from(which) % world.on_radio.len()].attempt;
            world.answer(job, outcome(number));
        }
        Step::Delivered { attempt: number, segment } => {
            world.status_report(ReportKey::Segment { attempt: attempt(number), segment });
        }
        Step::Inbound(digest) => world.inbound(u64::from(digest)),
        Step::Sim(state) => world.sims(vec![sim(0, state)]),
        Step::Land => world.land(),
        Step::Advance(ms) => world.advance(u64::from(ms)),
        Step::Sleep(ms) => world.advance_quietly(u64::from(ms)),
        Step::Crash { landed } => {
            world.restart(landed);
            *linked = false;
        }
        _ => {}
    }
}

/// Everything comes to rest: the controller cancels what is held, the radio answers.
fn settle(world: &mut World) {
    world.commit();
    let epoch = world.epoch;
    world.connect(epoch);
    world.commit();
    for number in 0..12 {
        world.cancel(attempt(number));
    }
    world.commit();
    while let Some(job) = world.on_radio.first().map(|job| job.attempt) {
        world.answer(job, outcome(0));
        world.commit();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_attempt_goes_out_at_most_once_and_ends_exactly_once(steps in prop::collection::vec(step(), 1..160)) {
        let mut world = World::new();
        let mut linked = false;
        for step in steps {
            run(&mut world, step, &mut linked);
        }
        settle(&mut world);
        prop_assert_eq!(world.machine.state().open_len(), 0);
        let (arrived, results) = world.on_disk();
        for attempt in arrived {
            prop_assert_eq!(results.get(&attempt), Some(&1));
        }
        prop_assert!(results.values().all(|count| *count == 1));
        prop_assert!(!world.machine.is_dirty() || world.machine.next_deadline().is_some());
    }
}
