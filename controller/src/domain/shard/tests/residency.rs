//! What is not in memory comes back: in order, in time, and once.

use flotilla_protocol::wire::{Down, ReportKind};

use super::rig::*;
use crate::domain::message::{MessageState, Priority};
use crate::domain::shard::{CancelOutcome, Effect, Input, ShardSettings};
use MessageState::*;

fn small() -> ShardSettings {
    ShardSettings { queued_max: 8, queued_min: 4, page: 4, sent_max: 3, ..ShardSettings::default() }
}

/// Sends everything that the device is given, in its order, until nothing comes any more.
fn run_dry(rig: &mut Rig, n: u8) -> Vec<flotilla_protocol::id::MessageId> {
    let mut order = vec![];
    loop {
        let frames = rig.take_frames(n);
        let attempts: Vec<_> = frames
            .iter()
            .filter_map(|frame| match frame {
                Down::Dispatch(dispatch) => Some(dispatch.attempt),
                _ => None,
            })
            .collect();
        if attempts.is_empty() {
            return order;
        }
        for attempt in attempts {
            order.push(attempt.message);
            rig.report(n, ReportKind::Sent { attempt, segments: 1 });
        }
    }
}

#[test]
fn overflow_comes_back_in_the_order_of_acceptance() {
    let mut rig = Rig::with(small());
    let ids: Vec<_> = (0..50).map(|_| rig.accept(|_| {})).collect();
    let resident = rig.machine.status().resident;
    assert!((4..=12).contains(&resident), "{resident}");
    assert_eq!(rig.machine.status().queued, [0, 0, 50, 0]);
    rig.up(1, 2, &[route_sim(1, 2)]);
    assert_eq!(run_dry(&mut rig, 1), ids);
}

#[test]
fn one_tenants_overflow_does_not_touch_others() {
    let mut rig = Rig::with(small());
    for _ in 0..50 {
        rig.accept(|s| {
            s.tenant = tenant(2);
            s.priority = Priority::Bulk
        });
    }
    rig.up(1, 4, &[route_sim(1, 4)]);
    let id = rig.accept(|_| {});
    assert_eq!(rig.dispatched(1).attempt.message, id);
}

#[test]
fn a_restart_reads_a_page_and_goes_on_in_order() {
    let mut rig = Rig::with(small());
    let ids: Vec<_> = (0..50).map(|_| rig.accept(|_| {})).collect();
    rig.restart();
    assert!(rig.machine.status().resident <= 8);
    let late = rig.accept(|_| {});
    rig.up(1, 2, &[route_sim(1, 2)]);
    assert_eq!(run_dry(&mut rig, 1), [ids, vec![late]].concat());
}

#[test]
fn what_ends_while_the_store_is_read_does_not_come_back() {
    let mut rig = Rig::with(small());
    let ids: Vec<_> = (0..20).map(|_| rig.accept(|_| {})).collect();
    rig.hold_reads = true;
    rig.up(1, 16, &[route_sim(1, 16)]);
    let refill = rig.reads.pop().expect("memory is short of messages");
    assert!(matches!(refill, Effect::Refill { .. }));
    let mut stale: Vec<_> = rig.records.values().filter(|record| record.state == Queued).cloned().collect();
    stale.sort_by_key(|record| record.order);
    stale.truncate(4);
    let victim = stale[1].submission.id;
    rig.hold_reads = false;
    assert_eq!(rig.cancel(victim), CancelOutcome::Cancelled);
    let class = Priority::Normal;
    rig.input(Input::Refilled { tenant: tenant(1), class, records: stale });
    let sent = run_dry(&mut rig, 1);
    assert!(!sent.contains(&victim));
    assert_eq!((rig.state(victim), sent.len()), (Cancelled, ids.len() - 1));
}

#[test]
fn what_goes_to_the_store_while_it_is_read_is_read_next() {
    let mut rig = Rig::with(small());
    let mut ids: Vec<_> = (0..11).map(|_| rig.accept(|_| {})).collect();
    rig.hold_reads = true;
    rig.up(1, 16, &[route_sim(1, 16)]);
    assert!(matches!(rig.reads.pop(), Some(Effect::Refill { .. })));
    let mut page: Vec<_> = rig.records.values().filter(|record| record.state == Queued).cloned().collect();
    page.sort_by_key(|record| record.order);
    assert_eq!(page.len(), 3, "a short page: there is no more at this moment");
    ids.extend((0..3).map(|_| rig.accept(|_| {})));
    rig.hold_reads = false;
    let input = Input::Refilled { tenant: tenant(1), class: Priority::Normal, records: page };
    rig.input(input);
    assert_eq!(run_dry(&mut rig, 1), ids);
}

#[test]
fn far_messages_come_when_they_are_due_also_more_than_memory_holds() {
    let mut rig = Rig::with(small());
    let due = HOUR_MS;
    let ids: Vec<_> = (0..30).map(|_| rig.accept(|s| s.due_ms += due)).collect();
    assert_eq!(rig.machine.status().resident, 0);
    rig.up(1, 4, &[route_sim(1, 4)]);
    rig.pass(due - 1);
    assert_eq!(rig.take_frames(1), []);
    rig.pass(1);
    let mut sent = run_dry(&mut rig, 1);
    for _ in 0..20 {
        rig.pass(1);
        sent.extend(run_dry(&mut rig, 1));
    }
    sent.sort();
    assert_eq!(sent, ids);
}

#[test]
fn without_a_device_due_messages_neither_fill_memory_nor_keep_others_from_being_due() {
    let mut rig = Rig::with(small());
    let stuck: Vec<_> = (0..30)
        .map(|_| {
            rig.accept(|s| {
                s.tenant = tenant(2);
                s.due_ms += HOUR_MS
            })
        })
        .collect();
    let id = rig.accept(|s| s.due_ms += HOUR_MS + 1);
    rig.up(1, 4, &[route_sim(1, 4)]);
    rig.pass(HOUR_MS + 10);
    assert_eq!(rig.dispatched(1).attempt.message, id);
    assert!(stuck.iter().all(|id| rig.state(*id) == Queued));
    assert!(rig.machine.status().resident <= 12);
}

#[test]
fn sent_messages_that_left_memory_come_back_with_their_report() {
    let mut rig = Rig::with(small());
    rig.up(1, 20, &[route_sim(1, 20)]);
    let ids: Vec<_> = (0..10).map(|_| rig.accept(|_| {})).collect();
    run_dry(&mut rig, 1);
    assert_eq!((rig.machine.status().resident, rig.machine.status().sent), (3, 10));
    rig.hold_reads = true;
    rig.frames.clear();
    for (n, id) in ids.iter().enumerate() {
        rig.report(1, ReportKind::Delivered { attempt: attempt(*id, 1), segment: 0 });
        assert_eq!(rig.state(*id), if n < 7 { Sent } else { Delivered });
    }
    let acknowledged = |rig: &Rig| match rig.frames.get(&device(1)).and_then(|frames| frames.last()) {
        Some(Down::AckReports { position }) => *position,
        _ => 0,
    };
    assert_eq!(acknowledged(&rig), 10, "not beyond the first report that waits");
    let mut reads = std::mem::take(&mut rig.reads);
    let first = reads.remove(0);
    for read in reads {
        rig.answer(read);
    }
    rig.settle();
    assert_eq!(acknowledged(&rig), 10);
    rig.answer(first);
    rig.settle();
    assert_eq!(acknowledged(&rig), 20);
    assert!(ids.iter().all(|id| rig.state(*id) == Delivered));
}

#[test]
fn whatever_is_in_the_store_only_ends_with_its_validity() {
    let mut rig = Rig::with(small());
    rig.up(1, 20, &[route_sim(1, 20)]);
    let sent: Vec<_> = (0..10).map(|_| rig.accept(|s| s.expires_ms = START_MS + HOUR_MS)).collect();
    run_dry(&mut rig, 1);
    rig.down(1);
    let queued: Vec<_> = (0..20).map(|_| rig.accept(|s| s.expires_ms = START_MS + HOUR_MS)).collect();
    let scheduled = rig.accept(|s| {
        s.due_ms += 3 * HOUR_MS;
        s.expires_ms = START_MS + HOUR_MS
    });
    rig.pass(HOUR_MS + 2 * rig.settings.overdue_every_ms);
    for id in sent.iter().chain(&queued).chain([&scheduled]) {
        assert_eq!(rig.state(*id), Expired);
    }
    assert_eq!(rig.machine.status().resident, 0);
}

#[test]
fn a_device_with_more_reports_than_may_wait_is_asked_to_repeat_them() {
    let settings = ShardSettings { loads_max: 1, reports_held_max: 2, sent_max: 1, ..small() };
    let mut rig = Rig::with(settings);
    rig.up(1, 20, &[route_sim(1, 20)]);
    let ids: Vec<_> = (0..5).map(|_| rig.accept(|_| {})).collect();
    run_dry(&mut rig, 1);
    rig.hold_reads = true;
    rig.frames.clear();
    for id in &ids {
        rig.report(1, ReportKind::Delivered { attempt: attempt(*id, 1), segment: 0 });
    }
    while let Some(read) = rig.reads.pop() {
        rig.answer(read);
        rig.settle();
    }
    let states: Vec<_> = ids.iter().map(|id| rig.state(*id)).collect();
    assert_eq!(states, [Delivered, Delivered, Sent, Sent, Sent]);
    let frames = &rig.frames[&device(1)];
    assert!(frames.contains(&Down::Resume) && frames.contains(&Down::AckReports { position: 7 }), "{frames:?}");
}

#[test]
fn a_list_behind_refused_reports_is_not_believed() {
    let settings = ShardSettings { loads_max: 1, reports_held_max: 1, sent_max: 1, ..small() };
    let mut rig = Rig::with(settings);
    rig.up(1, 20, &[route_sim(1, 20)]);
    let ids: Vec<_> = (0..4).map(|_| rig.accept(|_| {})).collect();
    run_dry(&mut rig, 1);
    let last = rig.accept(|_| {});
    assert_eq!(rig.dispatched(1).attempt, attempt(last, 1));
    rig.restart();
    rig.connect(1, 20, &[route_sim(1, 20)]);
    rig.hold_reads = true;
    for id in &ids {
        rig.report(1, ReportKind::Delivered { attempt: attempt(*id, 1), segment: 0 });
    }
    // It comes behind one for which there was no room, so it is not taken either; the list leaves the attempt out.
    rig.report(1, ReportKind::Sent { attempt: attempt(last, 1), segments: 1 });
    rig.held(1, vec![]);
    assert_eq!(
        (rig.state(last), rig.records[&last].attempt),
        (Dispatching, 1),
        "it was sent: nobody may send it again"
    );
    rig.hold_reads = false;
    while let Some(read) = rig.reads.pop() {
        rig.answer(read);
        rig.settle();
    }
    assert!(rig.frames[&device(1)].contains(&Down::Resume));
}
