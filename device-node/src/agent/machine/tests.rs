//! Single decisions by table, and random lives with crashes at every step.

mod lives;
mod world;

use flotilla_protocol::address::Address;
use flotilla_protocol::id::Epoch;
use flotilla_protocol::wire::{NotSent, ReportKind, SimState, Up};
use world::{World, attempt, sim};

use super::*;
use crate::radio::{ReportKey, SendOutcome};

fn sent(references: &[u8]) -> SendOutcome {
    SendOutcome::Sent { segments: references.len().max(1) as u8, references: references.to_vec() }
}

#[test]
fn a_granted_attempt_goes_out_after_one_commit_and_its_reports_after_theirs() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    assert!(world.on_radio.is_empty(), "nothing goes before it is durable");
    world.commit();
    assert_eq!(world.on_radio.len(), 1);
    world.answer(attempt(1), sent(&[7, 8]));
    assert!(world.reports().is_empty());
    world.commit();
    assert_eq!(world.reports(), [ReportKind::Sent { attempt: attempt(1), segments: 2 }]);
    for (reference, segment) in [(8, 1), (7, 0)] {
        world.status_report(ReportKey::Reference { to: Address::International(world::RECIPIENT()), reference });
        world.commit();
        assert_eq!(world.reports(), [ReportKind::Delivered { attempt: attempt(1), segment }]);
    }
    world.status_report(ReportKey::Reference { to: Address::International(world::RECIPIENT()), reference: 7 });
    world.commit();
    assert!(world.reports().is_empty(), "a segment is delivered once");
}

#[test]
fn status_reports_find_their_segment_after_a_restart_and_in_national_form() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    world.commit();
    world.answer(attempt(1), sent(&[200]));
    world.commit();
    world.restart(false);
    world.connect(1);
    for (to, reference) in [("0700000001", 199), ("0711111111", 200), ("001", 200)] {
        world.status_report(ReportKey::Reference { to: Address::Short(to.into()), reference });
    }
    world.status_report(ReportKey::Reference { to: Address::Short("0700000001".into()), reference: 200 });
    world.commit();
    assert_eq!(
        world.reports(),
        [
            ReportKind::Sent { attempt: attempt(1), segments: 1 },
            ReportKind::Delivered { attempt: attempt(1), segment: 0 }
        ]
    );
}

#[test]
fn a_status_report_that_overtakes_the_result_is_kept_for_it() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    world.commit();
    world.status_report(ReportKey::Reference { to: Address::International(world::RECIPIENT()), reference: 4 });
    assert_eq!(world.stored, 0, "the hardware keeps it too");
    world.answer(attempt(1), sent(&[4]));
    world.commit();
    assert_eq!(
        world.reports(),
        [
            ReportKind::Sent { attempt: attempt(1), segments: 1 },
            ReportKind::Delivered { attempt: attempt(1), segment: 0 }
        ]
    );
    assert_eq!(world.stored, 1);
}

#[test]
fn what_is_not_granted_waits_for_go() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |dispatch| dispatch.granted = false);
    world.commit();
    assert!(world.frames.contains(&Up::Accepted { attempt: attempt(1) }));
    world.advance(3_600_000);
    world.commit();
    assert!(world.on_radio.is_empty());
    world.go(attempt(1), 5_000);
    world.commit();
    assert_eq!(world.on_radio.len(), 1);
}

#[test]
fn refusals_name_their_reason() {
    type Change = fn(&mut flotilla_protocol::wire::Dispatch);
    let table: [(Change, NotSent); 4] = [
        (|dispatch| dispatch.slot = 9, NotSent::NoSuchSim),
        (|dispatch| dispatch.epoch = Epoch(0), NotSent::StaleEpoch),
        (|dispatch| dispatch.send_within_ms = 0, NotSent::LeaseOver),
        (|dispatch| dispatch.sent_ms -= 10_000, NotSent::LeaseOver),
    ];
    for (number, (change, reason)) in table.into_iter().enumerate() {
        let mut world = World::connected();
        let attempt = attempt(number as u8);
        world.dispatch(attempt, change);
        world.commit();
        assert_eq!(world.reports(), [ReportKind::NotSent { attempt, reason }]);
        assert!(world.on_radio.is_empty());
    }
}

#[test]
fn a_full_outbox_and_a_full_window_are_answered() {
    let mut world = World::connected();
    world.machine.set_outbox_full(true);
    world.dispatch(attempt(1), |_| {});
    world.machine.set_outbox_full(false);
    let window = world.machine.config().window;
    for number in 0..=window {
        world.dispatch(attempt(10 + number as u8), |dispatch| dispatch.granted = false);
    }
    world.commit();
    let full = |attempt| ReportKind::NotSent { attempt, reason: NotSent::OutboxFull };
    assert_eq!(world.reports(), [full(attempt(1)), full(attempt(10 + window as u8))]);
}

#[test]
fn a_sim_that_is_not_ready_lets_go_of_what_waits_for_it() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |dispatch| dispatch.granted = false);
    world.commit();
    world.sims(vec![sim(0, SimState::Blocked)]);
    world.dispatch(attempt(2), |_| {});
    world.commit();
    let not_ready = |attempt| ReportKind::NotSent { attempt, reason: NotSent::SimNotReady };
    assert_eq!(world.reports(), [not_ready(attempt(1)), not_ready(attempt(2))]);
    assert!(world.frames.iter().any(|frame| matches!(frame, Up::Sims { sims } if sims[0].state == SimState::Blocked)));
}

#[test]
fn a_modem_that_was_unplugged_is_not_ready_in_the_next_telemetry() {
    let mut world = World::connected();
    let measured =
        SimHealth { slot: 0, state: SimState::Ready, signal_dbm: Some(-71), ..world.machine.health().remove(0) };
    world.health(measured.clone());
    assert_eq!(world.machine.health()[0], measured);
    world.sims(vec![sim(0, SimState::Absent)]);
    assert_eq!(world.machine.health()[0].state, SimState::Absent);
    world.sims(vec![sim(0, SimState::Ready)]);
    assert_eq!(world.machine.health()[0], measured);
}

#[test]
fn a_lease_that_ends_while_the_machine_sleeps_is_over_when_it_wakes() {
    let mut world = World::connected();
    // The radio is busy, so the second waits with its grant.
    world.dispatch(attempt(1), |_| {});
    world.dispatch(attempt(2), |_| {});
    world.commit();
    assert_eq!(world.on_radio.len(), 1);
    world.advance(world::LEASE_MS + 1);
    world.answer(attempt(1), sent(&[]));
    world.commit();
    assert!(world.on_radio.is_empty());
    let reports = world.reports();
    assert!(reports.contains(&ReportKind::NotSent { attempt: attempt(2), reason: NotSent::LeaseOver }), "{reports:?}");
}

#[test]
fn a_lease_that_ends_while_the_disk_stalls_is_over() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    world.advance_quietly(world::LEASE_MS);
    world.commit();
    assert!(world.on_radio.is_empty());
    assert_eq!(world.reports(), [ReportKind::NotSent { attempt: attempt(1), reason: NotSent::LeaseOver }]);
}

#[test]
fn cancel_is_answered_unless_it_is_too_late() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    world.dispatch(attempt(2), |dispatch| dispatch.granted = false);
    world.commit();
    for number in [1, 2, 3] {
        world.cancel(attempt(number));
    }
    world.commit();
    let cancelled = |attempt| ReportKind::NotSent { attempt, reason: NotSent::Cancelled };
    assert_eq!(world.reports(), [cancelled(attempt(2)), cancelled(attempt(3))]);
    // The third was never seen; should its dispatch come now, it stays cancelled.
    world.dispatch(attempt(3), |_| {});
    world.commit();
    assert_eq!(world.on_radio.len(), 1);
}

#[test]
fn the_same_attempt_twice_is_answered_and_not_sent() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    world.commit();
    world.dispatch(attempt(1), |_| {});
    world.answer(attempt(1), sent(&[]));
    world.commit();
    world.dispatch(attempt(1), |_| {});
    world.commit();
    assert_eq!(world.reports().len(), 1, "its report is on its way already");
    world.acknowledge_all();
    world.restart(false);
    world.connect(1);
    world.dispatch(attempt(1), |_| {});
    world.commit();
    assert_eq!(world.reports(), [ReportKind::Sent { attempt: attempt(1), segments: 1 }]);
}

#[test]
fn after_a_crash_between_decision_and_result_the_attempt_is_unknown() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    world.commit();
    world.restart(false);
    world.connect(1);
    world.commit();
    assert_eq!(world.reports(), [ReportKind::Unknown { attempt: attempt(1) }]);
}

#[test]
fn an_older_controller_is_refused() {
    let mut world = World::connected();
    world.commit();
    world.restart(false);
    let welcome = world.welcome(0);
    let refused = world.machine.link_up(&welcome, world.now);
    assert_eq!(refused, Err(StaleController { offered: Epoch(0), seen: Epoch(1) }));
}

#[test]
fn grants_of_an_earlier_link_are_given_up_at_the_next_one() {
    let mut world = World::connected();
    world.dispatch(attempt(1), |_| {});
    world.dispatch(attempt(2), |_| {});
    world.commit();
    world.connect(2);
    let held = world.held();
    assert_eq!(held.len(), 2);
    assert!(held[0].sending && !held[1].sending);
    world.answer(attempt(1), sent(&[]));
    world.commit();
    assert!(world.on_radio.is_empty(), "the second needs a new grant");
    world.go(attempt(2), 5_000);
    world.commit();
    assert_eq!(world.on_radio.len(), 1);
}

#[test]
fn an_inbound_message_is_stored_once() {
    let mut world = World::connected();
    world.inbound(11);
    assert_eq!(world.stored, 0);
    world.commit();
    assert_eq!(world.stored, 1);
    world.restart(false);
    world.inbound(11);
    world.commit();
    assert_eq!(world.stored, 2);
    world.connect(1);
    assert_eq!(world.reports().len(), 1);
}

#[test]
fn acknowledgements_are_written_late_and_bounded_by_what_was_sent() {
    let mut world = World::connected();
    world.inbound(1);
    world.commit();
    assert_eq!(world.reports().len(), 1);
    let last = world.machine.state().next_position();
    world.machine.acknowledged(u64::MAX, world.now);
    assert_eq!(world.machine.state().first_position(), last);
    assert!(world.machine.take(world.now).is_none());
    let due = world.machine.next_deadline().unwrap();
    world.now.boot_ms = due;
    assert_eq!(world.machine.take(world.now), Some(vec![crate::outbox::Record::Acked { position: last - 1 }]));
}

/// The controller counts lists to know which one it asked for; two of its resumes may come before the first list could leave.
#[test]
fn every_resume_is_answered_with_a_list_of_its_own() {
    let mut world = World::connected();
    world.machine.resume();
    world.machine.resume();
    let frames: Vec<Up> = std::iter::from_fn(|| world.machine.poll_frame()).collect();
    let lists = frames.iter().filter(|frame| matches!(frame, Up::Holding { last: true, .. }));
    assert_eq!(lists.count(), 2);
}
