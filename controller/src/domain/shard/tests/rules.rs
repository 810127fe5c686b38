//! One test per rule of a message's life.

use flotilla_protocol::wire::{Down, ErrorClass, Held, NotSent, ReportKind};

use super::rig::*;
use crate::domain::message::{Duplicates, MessageState, Pin, Priority};
use crate::domain::shard::{ATTEMPTS_MAX, CancelOutcome, Input, RequestKey, ShardSettings};
use MessageState::*;

const MINUTE: u64 = 60_000;

#[test]
fn a_message_is_dispatched_sent_and_delivered() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    let dispatch = rig.dispatched(1);
    assert_eq!((dispatch.attempt, dispatch.granted), (attempt(id, 1), true));
    assert_eq!((dispatch.sent_ms, dispatch.send_within_ms), (rig.now.mono_ms, 60_000));
    assert_eq!(rig.state(id), Dispatching);
    rig.report(1, ReportKind::Sent { attempt: attempt(id, 1), segments: 1 });
    assert_eq!(rig.state(id), Sent);
    rig.report(1, ReportKind::Delivered { attempt: attempt(id, 1), segment: 0 });
    assert_eq!(rig.state(id), Delivered);
    assert_eq!(rig.frames[&device(1)].last(), Some(&Down::AckReports { position: 2 }));
    assert_eq!(rig.machine.status().resident, 0);
}

#[test]
fn segments_are_delivered_one_by_one_in_any_order_and_before_sent() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|s| s.segments = 3);
    let attempt = attempt(id, 1);
    for segment in [2, 2, 0, 9] {
        rig.report(1, ReportKind::Delivered { attempt, segment });
    }
    assert_eq!((rig.state(id), rig.records[&id].segments_delivered), (Dispatching, 0b101));
    rig.report(1, ReportKind::Delivered { attempt, segment: 1 });
    assert_eq!(rig.state(id), Delivered);
    let states: Vec<_> = rig.records[&id].trace.iter().map(|step| step.state).collect();
    assert_eq!(states, [Queued, Dispatching, Dispatching, Dispatching, Sent, Delivered]);
}

#[test]
fn device_times_are_held_between_dispatch_and_now() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    rig.pass(1_000);
    let session = rig.sessions[&device(1)];
    let kinds = [
        ReportKind::Sent { attempt: attempt(id, 1), segments: 1 },
        ReportKind::Delivered { attempt: attempt(id, 1), segment: 0 },
    ];
    for (position, (kind, at_ms)) in kinds.into_iter().zip([5, u64::MAX]).enumerate() {
        let report = flotilla_protocol::wire::Report { position: 1 + position as u64, at_ms, kind };
        rig.input(Input::Reports { device: device(1), session, reports: vec![report] });
    }
    let record = &rig.records[&id];
    assert_eq!((record.sent_ms, record.delivered_ms), (Some(START_MS), Some(START_MS + 1_000)));
}

#[test]
fn without_a_device_messages_wait_and_leave_when_one_comes() {
    let mut rig = Rig::new();
    let ids: Vec<_> = (0..3).map(|_| rig.accept(|_| {})).collect();
    rig.connect(1, 2, &[route_sim(1, 1)]);
    assert_eq!(rig.take_frames(1), [], "nothing before it has listed what it holds");
    rig.held(1, vec![]);
    let frames = rig.take_frames(1);
    let dispatched: Vec<_> = frames
        .iter()
        .map(|frame| match frame {
            Down::Dispatch(dispatch) => (dispatch.attempt.message, dispatch.granted),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(dispatched, [(ids[0], true), (ids[1], false)]);
}

#[test]
fn a_finished_attempt_grants_the_next_and_makes_room() {
    let mut rig = Rig::new();
    rig.up(1, 2, &[route_sim(1, 1)]);
    let ids: Vec<_> = (0..3).map(|_| rig.accept(|_| {})).collect();
    rig.take_frames(1);
    rig.report(1, ReportKind::Sent { attempt: attempt(ids[0], 1), segments: 1 });
    let frames = rig.take_frames(1);
    let [Down::Go { attempts, sent_ms, .. }, Down::Dispatch(next)] = frames.as_slice() else { panic!("{frames:?}") };
    assert_eq!((attempts[0], *sent_ms), (attempt(ids[1], 1), rig.now.mono_ms));
    assert_eq!((next.attempt.message, next.granted), (ids[2], false));
}

#[test]
fn urgent_goes_before_bulk_in_the_queue_in_the_window_and_for_the_grant() {
    let mut rig = Rig::new();
    let bulk: Vec<_> = (0..20).map(|_| rig.accept(|s| s.priority = Priority::Bulk)).collect();
    rig.up(1, 8, &[route_sim(1, 1)]);
    assert_eq!(rig.take_frames(1).len(), 7, "one place of the window is kept");
    let urgent = rig.accept(|s| s.priority = Priority::Urgent);
    let dispatch = rig.dispatched(1);
    assert_eq!((dispatch.attempt.message, dispatch.granted), (urgent, false));
    rig.report(1, ReportKind::Sent { attempt: attempt(bulk[0], 1), segments: 1 });
    let frames = rig.take_frames(1);
    assert!(matches!(&frames[0], Down::Go { attempts, .. } if attempts[0].message == urgent), "{frames:?}");
}

#[test]
fn sims_take_turns_and_pins_are_kept() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 8), route_sim(2, 8)]);
    rig.up(2, 8, &[route_sim(3, 8)]);
    for _ in 0..6 {
        rig.accept(|_| {});
    }
    assert_eq!((rig.take_frames(1).len(), rig.take_frames(2).len()), (4, 2));
    for _ in 0..2 {
        rig.accept(|s| s.pin = Pin::Sim(sim(2)));
        rig.accept(|s| s.pin = Pin::Device(device(2)));
    }
    let slots: Vec<_> = rig.take_frames(1).iter().map(|f| if let Down::Dispatch(d) = f { d.slot } else { 9 }).collect();
    assert_eq!((slots, rig.take_frames(2).len()), (vec![0, 0], 2));
    let other_tenant = rig.accept(|s| {
        s.tenant = tenant(2);
        s.pin = Pin::Device(device(2))
    });
    assert_eq!(rig.state(other_tenant), Queued, "a pin does not reach into another tenant");
}

#[test]
fn campaigns_share_a_sim() {
    let mut rig = Rig::new();
    for _ in 0..4 {
        rig.accept(|s| s.campaign = "a".into());
    }
    for _ in 0..4 {
        rig.accept(|s| s.campaign = "b".into());
    }
    rig.up(1, 16, &[route_sim(1, 16)]);
    let order: Vec<_> = rig
        .take_frames(1)
        .iter()
        .map(|frame| match frame {
            Down::Dispatch(d) => rig.records[&d.attempt.message].submission.campaign.clone(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order.concat(), "abababab");
}

#[test]
fn what_was_not_sent_moves_at_once_and_its_sim_rests() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    rig.take_frames(1);
    rig.report(1, ReportKind::NotSent { attempt: attempt(id, 1), reason: NotSent::SimNotReady });
    assert_eq!((rig.state(id), rig.code(id)), (Queued, "not-sent-sim-not-ready"));
    rig.up(2, 8, &[route_sim(3, 1)]);
    assert_eq!(rig.dispatched(2).attempt, attempt(id, 2));
    let other = rig.accept(|s| s.pin = Pin::Sim(sim(1)));
    assert_eq!(rig.take_frames(1), []);
    rig.pass(1_000);
    assert_eq!(rig.dispatched(1).attempt.message, other);
}

#[test]
fn pauses_of_a_bad_sim_double_until_it_sends() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    let mut waited = vec![];
    for number in 1..6 {
        assert_eq!(rig.dispatched(1).attempt, attempt(id, number));
        rig.report(1, ReportKind::NotSent { attempt: attempt(id, number), reason: NotSent::OutboxFull });
        let since = rig.now.mono_ms;
        while rig.state(id) == Queued {
            rig.pass(500);
        }
        waited.push(rig.now.mono_ms - since);
    }
    assert_eq!(waited, [1_000, 2_000, 4_000, 8_000, 16_000]);
    rig.report(1, ReportKind::Sent { attempt: attempt(id, 6), segments: 1 });
    let next = rig.accept(|_| {});
    rig.report(1, ReportKind::NotSent { attempt: attempt(next, 1), reason: NotSent::OutboxFull });
    rig.pass(1_000);
    assert_eq!(rig.state(next), Dispatching);
}

#[test]
fn error_classes_decide_what_follows() {
    let table = [
        (ErrorClass::Permanent, 0, Duplicates::Never, Failed),
        (ErrorClass::Permanent, 0, Duplicates::Allowed, Failed),
        (ErrorClass::Route, 0, Duplicates::Never, Queued),
        (ErrorClass::Transient, 0, Duplicates::Never, Dispatching),
        (ErrorClass::Route, 1, Duplicates::Never, Failed),
        (ErrorClass::Transient, 1, Duplicates::Never, Failed),
        (ErrorClass::Route, 1, Duplicates::Allowed, Queued),
        (ErrorClass::Transient, 1, Duplicates::Allowed, Dispatching),
    ];
    for (class, segments_sent, duplicates, expected) in table {
        let mut rig = Rig::new();
        rig.up(1, 8, &[route_sim(1, 1)]);
        let id = rig.accept(|s| {
            s.segments = 2;
            s.duplicates = duplicates
        });
        rig.report(1, ReportKind::Failed { attempt: attempt(id, 1), error: error(class), segments_sent });
        assert_eq!((rig.state(id), rig.code(id)), (expected, "cms-38"), "{class:?} {segments_sent} {duplicates:?}");
    }
}

#[test]
fn transient_errors_are_repeated_at_once_then_after_5_30_and_120_minutes_then_the_message_fails() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    for (number, delay_ms) in [(1, 0), (2, 5 * MINUTE), (3, 30 * MINUTE), (4, 120 * MINUTE)] {
        assert_eq!(rig.dispatched(1).attempt, attempt(id, number));
        rig.report(
            1,
            ReportKind::Failed { attempt: attempt(id, number), error: error(ErrorClass::Transient), segments_sent: 0 },
        );
        if delay_ms > 0 {
            assert_eq!(rig.records[&id].next_try_ms, rig.now.unix_ms + delay_ms);
            rig.pass(delay_ms - 1);
            assert_eq!(rig.state(id), Queued);
            rig.pass(1);
        }
    }
    rig.report(
        1,
        ReportKind::Failed { attempt: attempt(id, 5), error: error(ErrorClass::Transient), segments_sent: 0 },
    );
    assert_eq!(rig.state(id), Failed);
}

#[test]
fn a_back_off_survives_a_restart() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    for number in [1, 2] {
        rig.report(
            1,
            ReportKind::Failed { attempt: attempt(id, number), error: error(ErrorClass::Transient), segments_sent: 0 },
        );
    }
    rig.restart();
    rig.up(1, 8, &[route_sim(1, 1)]);
    rig.pass(5 * MINUTE - 1);
    assert_eq!(rig.state(id), Queued);
    rig.pass(1);
    assert_eq!(rig.state(id), Dispatching);
    rig.report(
        1,
        ReportKind::Failed { attempt: attempt(id, 3), error: error(ErrorClass::Transient), segments_sent: 0 },
    );
    assert_eq!(rig.records[&id].next_try_ms, rig.now.unix_ms + 30 * MINUTE, "the count survived too");
}

#[test]
fn a_message_avoids_the_sim_that_refused_it_while_there_is_another() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    rig.report(1, ReportKind::Failed { attempt: attempt(id, 1), error: error(ErrorClass::Route), segments_sent: 0 });
    rig.pass(2_000);
    assert_eq!(rig.state(id), Queued, "its SIM has rested, but not for this message");
    let other = rig.accept(|_| {});
    assert_eq!(rig.state(other), Dispatching, "it holds up nobody else");
    rig.up(2, 8, &[route_sim(3, 1)]);
    rig.pass(5_000);
    assert_eq!(rig.records[&id].route.map(|route| route.sim), Some(sim(3)));
    let mut alone = Rig::new();
    alone.up(1, 8, &[route_sim(1, 1)]);
    let id = alone.accept(|_| {});
    alone.report(1, ReportKind::Failed { attempt: attempt(id, 1), error: error(ErrorClass::Route), segments_sent: 0 });
    alone.pass(10 * MINUTE + 5_000);
    assert_eq!(alone.state(id), Dispatching, "not for ever");
}

#[test]
fn attempts_are_bounded() {
    let settings = ShardSettings { pause_max_ms: 1_000, ..ShardSettings::default() };
    let mut rig = Rig::with(settings);
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    for number in 1..=ATTEMPTS_MAX {
        assert_eq!(rig.state(id), Dispatching);
        rig.report(1, ReportKind::NotSent { attempt: attempt(id, number), reason: NotSent::LeaseOver });
        rig.pass(1_000);
    }
    assert_eq!((rig.state(id), rig.code(id)), (Failed, "attempts-used-up"));
}

#[test]
fn when_the_link_goes_ungranted_attempts_move_and_granted_ones_are_in_doubt() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let (granted, waiting) = (rig.accept(|_| {}), rig.accept(|_| {}));
    rig.down(1);
    assert_eq!((rig.state(granted), rig.state(waiting)), (Unknown, Queued));
    assert_eq!(rig.code(waiting), "link-lost");
    rig.up(2, 8, &[route_sim(3, 1)]);
    assert_eq!(rig.dispatched(2).attempt, attempt(waiting, 2));
    rig.pass(2 * HOUR_MS);
    assert_eq!(rig.state(granted), Unknown, "it waits for its device");
}

#[test]
fn with_duplicates_allowed_a_granted_attempt_moves_after_the_lease_and_its_margin() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|s| s.duplicates = Duplicates::Allowed);
    rig.pass(10_000);
    rig.down(1);
    rig.up(2, 8, &[route_sim(3, 1)]);
    rig.pass(50_999);
    assert_eq!((rig.state(id), rig.take_frames(2)), (Dispatching, vec![]));
    rig.pass(1);
    assert_eq!(rig.dispatched(2).attempt, attempt(id, 2));
    rig.connect(1, 8, &[route_sim(1, 1)]);
    rig.held(1, vec![Held { attempt: attempt(id, 1), sending: false }]);
    assert_eq!(rig.take_frames(1), [Down::Cancel { attempts: [attempt(id, 1)].into_iter().collect() }]);
}

#[test]
fn a_late_report_of_an_attempt_that_was_taken_back_spares_the_next() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|s| s.duplicates = Duplicates::Allowed);
    rig.down(1);
    rig.pass(2 * MINUTE);
    assert_eq!((rig.state(id), rig.code(id)), (Queued, "lease-over"));
    rig.connect(1, 8, &[route_sim(1, 1)]);
    rig.report(1, ReportKind::Sent { attempt: attempt(id, 1), segments: 1 });
    rig.held(1, vec![]);
    assert_eq!((rig.state(id), rig.take_frames(1)), (Sent, vec![]));
}

#[test]
fn after_a_reconnect_the_list_of_held_attempts_decides() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 4)]);
    let ids: Vec<_> = (0..4).map(|_| rig.accept(|_| {})).collect();
    rig.down(1);
    assert!(ids.iter().all(|id| rig.state(*id) == Unknown));
    rig.connect(1, 8, &[route_sim(1, 1)]);
    rig.report(1, ReportKind::Sent { attempt: attempt(ids[0], 1), segments: 1 });
    rig.held(
        1,
        vec![Held { attempt: attempt(ids[1], 1), sending: true }, Held { attempt: attempt(ids[2], 1), sending: false }],
    );
    assert_eq!([0, 1, 2, 3].map(|n| rig.state(ids[n])), [Sent, Unknown, Unknown, Queued]);
    assert_eq!(rig.code(ids[3]), "never-arrived");
    rig.report(1, ReportKind::Sent { attempt: attempt(ids[1], 1), segments: 1 });
    let frames = rig.take_frames(1);
    assert!(matches!(&frames[0], Down::Go { attempts, .. } if attempts[0] == attempt(ids[2], 1)), "{frames:?}");
}

#[test]
fn an_attempt_that_its_device_has_given_up_is_in_doubt_for_good() {
    for restart in [false, true] {
        let mut rig = Rig::new();
        rig.up(1, 8, &[route_sim(1, 1)]);
        let id = rig.accept(|_| {});
        rig.report(1, ReportKind::Unknown { attempt: attempt(id, 1) });
        rig.down(1);
        if restart {
            rig.restart();
        }
        rig.up(1, 8, &[route_sim(1, 1)]);
        rig.pass(2 * MINUTE);
        assert_eq!(rig.state(id), Unknown, "a list without it does not say that it never arrived");
        rig.report(1, ReportKind::Delivered { attempt: attempt(id, 1), segment: 0 });
        assert_eq!(rig.state(id), Delivered, "a delivery report proves it");
    }
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let (never, allowed) = (rig.accept(|_| {}), rig.accept(|s| s.duplicates = Duplicates::Allowed));
    rig.report(1, ReportKind::Unknown { attempt: attempt(never, 1) });
    rig.report(1, ReportKind::Unknown { attempt: attempt(allowed, 1) });
    assert_eq!((rig.state(allowed), rig.records[&allowed].attempt), (Dispatching, 2));
    rig.pass(24 * HOUR_MS);
    assert_eq!((rig.state(never), rig.code(never)), (Expired, "in-doubt"));
}

#[test]
fn after_a_restart_every_open_attempt_counts_as_granted() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let ids: Vec<_> = (0..3).map(|_| rig.accept(|_| {})).collect();
    rig.restart();
    rig.up(2, 8, &[route_sim(3, 1)]);
    rig.pass(61_000);
    assert!(ids.iter().all(|id| rig.state(*id) == Unknown));
    rig.connect(1, 8, &[route_sim(1, 1)]);
    let held = |n: usize| Held { attempt: attempt(ids[n], 1), sending: false };
    rig.held(1, vec![held(0), held(1)]);
    let frames = rig.take_frames(1);
    assert!(matches!(&frames[0], Down::Go { attempts, .. } if attempts.len() == 1), "one place: {frames:?}");
    assert_eq!((rig.state(ids[2]), rig.records[&ids[2]].attempt), (Dispatching, 2), "the third never arrived");
}

#[test]
fn a_newer_link_replaces_an_older_one_that_was_not_yet_seen_to_go() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    let old = rig.sessions[&device(1)];
    rig.connect(1, 8, &[route_sim(1, 1)]);
    assert_eq!(rig.state(id), Unknown);
    rig.input(Input::DeviceDown { device: device(1), session: old });
    rig.held(1, vec![]);
    rig.pass(2_000);
    assert_eq!(rig.dispatched(1).attempt, attempt(id, 2));
}

#[test]
fn validity_ends_every_message() {
    let mut rig = Rig::new();
    let day = 24 * HOUR_MS;
    let queued = rig.accept(|s| s.pin = Pin::Sim(sim(9)));
    let scheduled = rig.accept(|s| {
        s.due_ms += 2 * day;
        s.expires_ms = s.due_ms - day
    });
    rig.up(1, 8, &[route_sim(1, 1)]);
    let sent = rig.accept(|_| {});
    rig.report(1, ReportKind::Sent { attempt: attempt(sent, 1), segments: 1 });
    let (granted, waiting) = (rig.accept(|_| {}), rig.accept(|_| {}));
    rig.take_frames(1);
    rig.pass(day - 1);
    let states = [queued, scheduled, sent, granted, waiting].map(|id| rig.state(id));
    assert_eq!(states, [Queued, Scheduled, Sent, Dispatching, Dispatching]);
    rig.pass(10_000);
    let ends = [queued, scheduled, sent, granted, waiting].map(|id| (rig.state(id), rig.code(id)));
    let codes = ["validity-over", "validity-over", "no-delivery-report", "in-doubt", "validity-over"];
    assert_eq!(ends, codes.map(|code| (Expired, code)));
    let frames = rig.take_frames(1);
    assert!(matches!(frames.as_slice(), [Down::Cancel { attempts }] if attempts.len() == 2), "{frames:?}");
    rig.report(1, ReportKind::Sent { attempt: attempt(granted, 1), segments: 1 });
    assert_eq!(rig.state(granted), Expired, "a late report changes nothing");
    assert_eq!(rig.frames[&device(1)].last(), Some(&Down::AckReports { position: 2 }));
}

#[test]
fn an_ended_attempt_keeps_its_place_until_its_device_has_given_it_up() {
    let mut rig = Rig::new();
    rig.up(1, 1, &[route_sim(1, 1)]);
    let first = rig.accept(|s| s.expires_ms = START_MS + 1_000);
    let second = rig.accept(|_| {});
    rig.pass(1_000);
    assert_eq!((rig.state(first), rig.state(second)), (Expired, Queued));
    rig.report(1, ReportKind::NotSent { attempt: attempt(first, 1), reason: NotSent::Cancelled });
    assert_eq!(rig.state(second), Dispatching);
}

#[test]
fn cancelling_depends_on_how_far_the_message_is() {
    let mut rig = Rig::new();
    let queued = rig.accept(|_| {});
    let scheduled = rig.accept(|s| s.due_ms += HOUR_MS);
    assert_eq!((rig.cancel(queued), rig.cancel(scheduled)), (CancelOutcome::Cancelled, CancelOutcome::Cancelled));
    assert_eq!(rig.cancel(queued), CancelOutcome::TooLate(Cancelled));
    rig.up(1, 8, &[route_sim(1, 1)]);
    let (granted, waiting, other) = (rig.accept(|_| {}), rig.accept(|_| {}), rig.accept(|_| {}));
    rig.take_frames(1);
    assert_eq!(rig.cancel(waiting), CancelOutcome::Cancelled, "it was never granted, so it cannot be sent");
    assert_eq!(rig.cancel(granted), CancelOutcome::Requested);
    assert_eq!(rig.take_frames(1).len(), 2);
    assert_eq!((rig.state(waiting), rig.state(granted)), (Cancelled, Dispatching));
    rig.report(1, ReportKind::NotSent { attempt: attempt(granted, 1), reason: NotSent::Cancelled });
    assert_eq!(rig.state(granted), Cancelled);
    let frames = rig.take_frames(1);
    assert!(matches!(&frames[0], Down::Go { attempts, .. } if attempts[0].message == other), "{frames:?}");
    rig.report(1, ReportKind::Sent { attempt: attempt(other, 1), segments: 1 });
    assert_eq!(rig.cancel(other), CancelOutcome::TooLate(Sent));
    let foreign = rig.accept(|s| s.tenant = tenant(2));
    assert_eq!(rig.cancel(foreign), CancelOutcome::NotFound);
}

#[test]
fn what_nobody_wanted_cancelled_is_sent_after_the_store_was_set_back() {
    let mut rig = Rig::new();
    let id = rig.accept(|_| {});
    rig.connect(1, 8, &[route_sim(1, 1)]);
    // The device has the attempt from a time that the store no longer knows, is told to drop it, and says so for ever.
    rig.held(1, vec![Held { attempt: attempt(id, 1), sending: false }]);
    assert_eq!(rig.state(id), Dispatching);
    rig.report(1, ReportKind::NotSent { attempt: attempt(id, 1), reason: NotSent::Cancelled });
    assert_eq!((rig.state(id), rig.records[&id].attempt), (Dispatching, 2));
    rig.report(1, ReportKind::Sent { attempt: attempt(id, 2), segments: 1 });
    assert_eq!(rig.state(id), Sent);
}

#[test]
fn a_cancellation_that_a_restart_forgot_is_one_all_the_same() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let id = rig.accept(|_| {});
    assert_eq!(rig.cancel(id), CancelOutcome::Requested);
    rig.restart();
    rig.connect(1, 8, &[route_sim(1, 1)]);
    rig.report(1, ReportKind::NotSent { attempt: attempt(id, 1), reason: NotSent::Cancelled });
    assert_eq!(rig.state(id), Cancelled);
}

#[test]
fn a_wish_to_cancel_outlives_the_link() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let (lost, held) = (rig.accept(|_| {}), rig.accept(|s| s.priority = Priority::High));
    rig.report(1, ReportKind::NotSent { attempt: attempt(lost, 1), reason: NotSent::LeaseOver });
    rig.down(1);
    assert_eq!(rig.cancel(held), CancelOutcome::Requested);
    rig.connect(1, 8, &[route_sim(1, 1)]);
    rig.take_frames(1);
    rig.held(1, vec![]);
    assert_eq!(rig.state(held), Cancelled, "it never arrived, and nobody wants it any more");
}

#[test]
fn a_drained_device_gives_back_what_waits_and_gets_nothing_new() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let (granted, waiting) = (rig.accept(|_| {}), rig.accept(|_| {}));
    rig.take_frames(1);
    let session = rig.sessions[&device(1)];
    rig.input(Input::DeviceChanged { device: device(1), session, sims: vec![route_sim(1, 1)], accepts_work: false });
    assert_eq!((rig.state(granted), rig.state(waiting)), (Dispatching, Queued));
    rig.report(1, ReportKind::NotSent { attempt: attempt(waiting, 1), reason: NotSent::Cancelled });
    assert_eq!(rig.state(waiting), Queued, "the answer to the call-back is no cancellation");
    rig.input(Input::DeviceChanged { device: device(1), session, sims: vec![route_sim(1, 1)], accepts_work: true });
    assert_eq!((rig.state(waiting), rig.records[&waiting].attempt), (Dispatching, 2));
}

#[test]
fn a_repeated_request_answers_the_same_ids_and_another_one_is_refused() {
    let mut rig = Rig::new();
    let key = RequestKey { key: [1; 16], request: [2; 16] };
    let first = rig.submission();
    let id = first.id;
    assert_eq!(rig.request(Some(key), vec![first]), Some(Reply::Accepted { ids: vec![id], replayed: false }));
    for restart in [false, true] {
        if restart {
            rig.restart();
        }
        let again = rig.submission();
        assert_eq!(rig.request(Some(key), vec![again]), Some(Reply::Accepted { ids: vec![id], replayed: true }));
        let other = rig.submission();
        assert_eq!(rig.request(Some(RequestKey { request: [3; 16], ..key }), vec![other]), Some(Reply::KeyReused));
    }
    assert_eq!(rig.records.len(), 1);
}

#[test]
fn the_same_key_twice_while_it_is_looked_up_is_accepted_once() {
    let mut rig = Rig::new();
    rig.hold_reads = true;
    let key = RequestKey { key: [1; 16], request: [2; 16] };
    for _ in 0..2 {
        let submission = rig.submission();
        assert_eq!(rig.request(Some(key), vec![submission]), None);
    }
    for read in std::mem::take(&mut rig.reads) {
        rig.answer(read);
    }
    rig.settle();
    assert_eq!((rig.records.len(), rig.replies.len()), (1, 2));
}

fn inbound(n: u8) -> ReportKind {
    ReportKind::Inbound(flotilla_protocol::wire::InboundMessage {
        id: flotilla_protocol::id::InboundId::from_bytes([n; 16]),
        slot: 1,
        from: flotilla_protocol::address::Address::Alphanumeric("Bank".into()),
        text: "hi".into(),
        segments: 1,
        sent_ms: None,
    })
}

#[test]
fn inbound_messages_are_taken_once_and_in_order() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    rig.report(1, inbound(1));
    for restart in [false, true] {
        if restart {
            rig.restart();
            rig.up(1, 8, &[route_sim(1, 1)]);
        }
        let session = rig.sessions[&device(1)];
        let report = flotilla_protocol::wire::Report { position: 1, at_ms: START_MS, kind: inbound(1) };
        rig.input(Input::Reports { device: device(1), session, reports: vec![report] });
        assert_eq!(rig.frames[&device(1)].last(), Some(&Down::AckReports { position: 1 }));
    }
    rig.report(1, inbound(2));
    let taken: Vec<_> = rig.inbound.iter().map(|message| (message.position, message.sim)).collect();
    assert_eq!(taken, [(1, sim(1)), (2, sim(1))]);
}

/// A session of an account begins its positions at its controller's clock, and another controller's may be ahead.
#[test]
fn an_account_receives_whatever_the_clocks_of_controllers_say() {
    let mut rig = Rig::new();
    rig.account_up(7, 8);
    let told = |rig: &mut Rig, position: u64, n: u8| {
        let session = rig.sessions[&device(7)];
        let report = flotilla_protocol::wire::Report { position, at_ms: START_MS, kind: inbound(n) };
        rig.input(Input::Reports { device: device(7), session, reports: vec![report] });
        assert_eq!(rig.frames[&device(7)].last(), Some(&Down::AckReports { position }));
    };
    told(&mut rig, 9_000, 1);
    rig.down(7);
    rig.account_up(7, 8);
    told(&mut rig, 1_000, 2);
    rig.restart();
    rig.account_up(7, 8);
    told(&mut rig, 500, 3);
    told(&mut rig, 501, 3);
    let taken: Vec<_> = rig.inbound.iter().map(|message| message.id.to_bytes()[0]).collect();
    assert_eq!(taken, [1, 2, 3], "each once, a repetition not at all");
}

#[test]
fn the_wall_clock_may_jump() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let scheduled = rig.accept(|s| s.due_ms += MINUTE);
    let allowed = rig.accept(|s| s.duplicates = Duplicates::Allowed);
    rig.down(1);
    rig.now.unix_ms -= HOUR_MS;
    rig.pass(61_000);
    assert_eq!(rig.state(allowed), Queued, "leases do not see the wall");
    assert_eq!(rig.state(scheduled), Scheduled, "schedules do");
    let trace = &rig.records[&allowed].trace;
    assert!(trace.windows(2).all(|steps| steps[0].at_ms <= steps[1].at_ms), "a trace does not go back");
    rig.now.unix_ms += 2 * HOUR_MS;
    rig.pass(5_000);
    assert_eq!(rig.state(scheduled), Queued);
    rig.now.unix_ms += 48 * HOUR_MS;
    rig.pass(5_000);
    assert_eq!((rig.state(scheduled), rig.state(allowed)), (Expired, Expired));
}

#[test]
fn a_report_of_another_tenants_device_says_nothing() {
    let mut rig = Rig::new();
    rig.up(1, 8, &[route_sim(1, 1)]);
    let foreign = rig.accept(|s| s.tenant = tenant(2));
    let own = rig.accept(|_| {});
    rig.up(2, 8, &[route_sim(3, 1)]);
    for id in [foreign, own] {
        rig.report(2, ReportKind::Delivered { attempt: attempt(id, 1), segment: 0 });
        rig.report(
            2,
            ReportKind::Failed { attempt: attempt(id, 1), error: error(ErrorClass::Permanent), segments_sent: 0 },
        );
    }
    assert_eq!((rig.state(foreign), rig.state(own)), (Queued, Dispatching));
}
