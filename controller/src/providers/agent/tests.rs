//! The rules of an agent, and that they hold whatever comes.

use flotilla_protocol::id::MessageId;
use flotilla_protocol::wire::TextEncoding;
use proptest::prelude::*;
use smallvec::smallvec;

use super::*;

const START: Now = Now { unix_ms: 1_763_640_000_000, mono_ms: 1_000_000 };
const LEASE_MS: u32 = 60_000;

fn at(ms: u64) -> Now {
    Now { unix_ms: START.unix_ms + ms, mono_ms: START.mono_ms + ms }
}

fn attempt(n: u8) -> Attempt {
    Attempt { message: MessageId::new(START.unix_ms, [n; 10]), number: 1 }
}

fn dispatch(n: u8, slot: u8, ms: u64) -> Down {
    Down::Dispatch(Dispatch {
        attempt: attempt(n),
        epoch: Epoch(5),
        slot,
        to: Msisdn::from_u64(255_712_345_678).unwrap(),
        body: Body::Text(format!("text {n}")),
        encoding: TextEncoding::default(),
        flash: false,
        report: true,
        validity_s: 600,
        sent_ms: START.mono_ms + ms,
        send_within_ms: LEASE_MS,
        granted: true,
    })
}

fn agent(batch_max: usize, requests_per_s: Option<u16>) -> Agent {
    let config = Config { window: 16, batch_max, requests_per_s };
    Agent::new(config, Epoch(5), vec![0, 1], START)
}

/// Everything for the shard, without the list that comes first.
fn reports(agent: &mut Agent) -> Vec<ReportKind> {
    let mut kinds = Vec::new();
    while let Some(news) = agent.to_shard() {
        if let ToShard::Reports(reports) = news {
            kinds.extend(reports.into_iter().map(|report| report.kind));
        }
    }
    kinds
}

fn accepted() -> Submitted {
    Submitted::Accepted { id: Some("x".into()), price: None }
}

fn refused(class: ErrorClass, retry_after_ms: Option<u64>) -> Submitted {
    Submitted::Refused(Refusal { class, code: "maker-7".into(), text: "no".into(), retry_after_ms })
}

#[test]
fn a_batch_has_one_sender_and_one_result_each() {
    let mut agent = agent(2, None);
    for (n, slot) in [(1, 0), (2, 1), (3, 0), (4, 0)] {
        agent.handle(dispatch(n, slot, 0), at(0));
    }
    let batches: Vec<Batch> = std::iter::from_fn(|| agent.next_batch(at(1))).collect();
    let shapes: Vec<(u8, Vec<Attempt>)> =
        batches.iter().map(|batch| (batch.slot, batch.jobs.iter().map(|job| job.attempt).collect())).collect();
    assert_eq!(shapes, [(0, vec![attempt(1), attempt(3)]), (1, vec![attempt(2)]), (0, vec![attempt(4)])]);
    assert_eq!((agent.waiting(), agent.in_flight()), (0, 4));
    agent.submitted(batches[0].number, &[accepted(), refused(ErrorClass::Permanent, None)], 0, at(2));
    // An answer that is too short leaves the rest in doubt.
    agent.submitted(batches[1].number, &[], 0, at(2));
    agent.submitted(batches[2].number, &[Submitted::Unclear("?".into())], 0, at(2));
    let kinds = reports(&mut agent);
    assert_eq!(kinds[0], ReportKind::Sent { attempt: attempt(1), segments: 1 });
    let ReportKind::Failed { error, segments_sent: 0, .. } = &kinds[1] else { panic!("{kinds:?}") };
    assert_eq!(
        (error.class, error.domain, &*error.text),
        (ErrorClass::Permanent, ErrorDomain::Provider, "maker-7: no")
    );
    assert_eq!(kinds[2..], [ReportKind::Unknown { attempt: attempt(2) }, ReportKind::Unknown { attempt: attempt(4) }]);
    assert!(agent.is_idle());
}

#[test]
fn what_waits_too_long_is_not_sent() {
    let mut agent = agent(1, Some(1));
    agent.handle(dispatch(1, 0, 0), at(0));
    agent.handle(dispatch(2, 0, 0), at(0));
    assert!(agent.next_batch(at(0)).is_some() && agent.next_batch(at(999)).is_none(), "one a second");
    assert_eq!(agent.next_deadline(at(999)), Some(at(1_000).mono_ms));
    assert!(agent.next_batch(at(LEASE_MS.into())).is_none());
    let over = ReportKind::NotSent { attempt: attempt(2), reason: NotSent::LeaseOver };
    assert_eq!(reports(&mut agent), [over]);
    agent.handle(dispatch(3, 0, 0), at(u64::from(LEASE_MS) + 5));
    let late = ReportKind::NotSent { attempt: attempt(3), reason: NotSent::LeaseOver };
    assert_eq!(reports(&mut agent), [late]);
}

#[test]
fn a_pause_sends_the_others_elsewhere() {
    let mut agent = agent(1, None);
    for n in 1..=3 {
        agent.handle(dispatch(n, 0, 0), at(0));
    }
    let first = agent.next_batch(at(0)).unwrap();
    agent.submitted(first.number, &[refused(ErrorClass::Transient, Some(2_000))], 0, at(10));
    assert!(agent.is_paused() && agent.next_batch(at(11)).is_none());
    let not_ready = |n| ReportKind::NotSent { attempt: attempt(n), reason: NotSent::SimNotReady };
    assert_eq!(reports(&mut agent)[1..], [not_ready(2), not_ready(3)]);
    agent.handle(dispatch(4, 0, 0), at(12));
    assert_eq!(reports(&mut agent), [not_ready(4)]);
    assert_eq!(agent.next_deadline(at(12)), Some(at(2_010).mono_ms));
    agent.expire(at(2_010));
    agent.handle(dispatch(5, 0, 2_010), at(2_010));
    assert!(agent.next_batch(at(2_010)).is_some());
    agent.submitted(2, &[refused(ErrorClass::Transient, Some(u64::MAX))], 0, at(2_011));
    assert_eq!(agent.next_deadline(at(2_011)), Some(at(2_011 + PAUSE_MS_MAX).mono_ms), "bounded");
}

#[test]
fn only_what_has_not_left_can_be_cancelled() {
    let mut agent = agent(1, None);
    agent.handle(dispatch(1, 0, 0), at(0));
    assert!(agent.next_batch(at(0)).is_some());
    agent.handle(dispatch(2, 0, 0), at(0));
    agent.handle(Down::Cancel { attempts: smallvec![attempt(1), attempt(2), attempt(9)] }, at(1));
    let cancelled = ReportKind::NotSent { attempt: attempt(2), reason: NotSent::Cancelled };
    assert_eq!(reports(&mut agent), [cancelled], "of 9 nobody here knows whether it was sent");
}

#[test]
fn the_same_attempt_is_answered_again_and_never_submitted_again() {
    let mut agent = agent(1, None);
    agent.handle(dispatch(1, 0, 0), at(0));
    let batch = agent.next_batch(at(0)).unwrap();
    agent.handle(dispatch(1, 0, 1), at(1));
    assert!(agent.next_batch(at(1)).is_none() && reports(&mut agent).is_empty());
    agent.submitted(batch.number, &[accepted()], 0, at(2));
    agent.handle(dispatch(1, 0, 3), at(3));
    let sent = ReportKind::Sent { attempt: attempt(1), segments: 1 };
    assert_eq!(reports(&mut agent), [sent.clone(), sent]);
    assert!(agent.next_batch(at(3)).is_none());
}

#[test]
fn reports_are_repeated_until_they_are_acknowledged_and_then_the_list_comes() {
    let mut agent = agent(1, None);
    assert_eq!(agent.to_shard(), Some(ToShard::Held(vec![])));
    for n in 1..=3 {
        agent.handle(dispatch(n, 0, 0), at(0));
    }
    let first = agent.next_batch(at(0)).unwrap();
    agent.submitted(first.number, &[accepted()], 0, at(1));
    let _second = agent.next_batch(at(1)).unwrap();
    let Some(ToShard::Reports(told)) = agent.to_shard() else { panic!() };
    assert_eq!((told.len(), agent.to_shard()), (1, None));
    agent.handle(Down::Resume, at(2));
    assert_eq!(agent.to_shard(), Some(ToShard::Reports(told.clone())));
    let held = vec![Held { attempt: attempt(3), sending: false }, Held { attempt: attempt(2), sending: true }];
    assert_eq!(agent.to_shard(), Some(ToShard::Held(held.clone())));
    agent.handle(Down::AckReports { position: told[0].position }, at(3));
    assert_eq!(agent.acknowledged(), told[0].position);
    agent.handle(Down::Resume, at(3));
    agent.handle(Down::Resume, at(3));
    let list = Some(ToShard::Held(held));
    assert_eq!([agent.to_shard(), agent.to_shard(), agent.to_shard()], [list.clone(), list, None], "one for each");
}

#[test]
fn what_cannot_be_carried_is_told_apart() {
    let mut agent = agent(1, None);
    agent.handle(dispatch(1, 7, 0), at(0));
    let with = |n: u8, change: fn(&mut Dispatch)| {
        let Down::Dispatch(mut dispatch) = dispatch(n, 0, 0) else { unreachable!() };
        change(&mut dispatch);
        Down::Dispatch(dispatch)
    };
    agent.handle(with(2, |dispatch| dispatch.epoch = Epoch(4)), at(0));
    agent.handle(with(3, |dispatch| dispatch.body = Body::Data { bytes: vec![1], port: None }), at(0));
    let kinds = reports(&mut agent);
    assert_eq!(kinds[0], ReportKind::NotSent { attempt: attempt(1), reason: NotSent::NoSuchSim });
    assert_eq!(kinds[1], ReportKind::NotSent { attempt: attempt(2), reason: NotSent::StaleEpoch });
    assert!(matches!(&kinds[2], ReportKind::Failed { error, .. } if error.class == ErrorClass::Route), "{kinds:?}");
    // A sender that is taken away takes its messages with it.
    agent.handle(dispatch(4, 1, 0), at(0));
    agent.configure(agent.config(), vec![0], at(1));
    assert_eq!(reports(&mut agent), [ReportKind::NotSent { attempt: attempt(4), reason: NotSent::NoSuchSim }]);
}

#[test]
fn texts_go_out_as_they_were_counted() {
    let mut agent = agent(1, None);
    let with = |n: u8, text: &str, smart: bool| {
        let Down::Dispatch(mut dispatch) = dispatch(n, 0, 0) else { unreachable!() };
        dispatch.body = Body::Text(text.into());
        dispatch.encoding.smart = smart;
        Down::Dispatch(dispatch)
    };
    let long = "“quoted” ".repeat(12);
    agent.handle(with(1, &long, true), at(0));
    agent.handle(with(2, &long, false), at(0));
    agent.handle(with(3, "Привет", false), at(0));
    let jobs: Vec<Job> = std::iter::from_fn(|| agent.next_batch(at(0))).flat_map(|batch| batch.jobs).collect();
    assert!(jobs[0].text.starts_with("\"quoted\"") && !jobs[0].unicode && jobs[0].segments == 1);
    assert!(jobs[1].text.starts_with('“') && jobs[1].unicode && jobs[1].segments == 2);
    assert!(jobs[2].unicode);
    assert!(!format!("{jobs:?}").contains("quoted"));
}

#[test]
fn a_delivery_is_reported_for_each_segment() {
    let mut agent = agent(1, None);
    let last = agent.delivered(attempt(9), 3, None, 77);
    agent.delivered(attempt(9), 3, Some(1), 78);
    let segments: Vec<u8> = reports(&mut agent)
        .into_iter()
        .map(|kind| match kind {
            ReportKind::Delivered { segment, .. } => segment,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(segments, [0, 1, 2, 1]);
    assert_eq!(last, START.unix_ms * 1_000 + 2);
}

#[derive(Clone, Debug)]
enum Step {
    Dispatch(u8, u8),
    Cancel(u8),
    Next,
    Answer(u8, u8),
    Pass(u16),
    Resume,
    Acknowledge,
    Senders(bool),
    Accepts(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0u8..40, 0u8..3).prop_map(|(n, slot)| Step::Dispatch(n, slot)),
        1 => (0u8..40).prop_map(Step::Cancel),
        4 => Just(Step::Next),
        4 => (any::<u8>(), any::<u8>()).prop_map(|(which, how)| Step::Answer(which, how)),
        2 => (0u16..30_000).prop_map(Step::Pass),
        1 => Just(Step::Resume),
        1 => Just(Step::Acknowledge),
        1 => any::<bool>().prop_map(Step::Senders),
        1 => any::<bool>().prop_map(Step::Accepts),
    ];
    prop::collection::vec(step, 1..200)
}

proptest! {
    /// Submitted at most once; one result for each attempt, and none before it has left or was turned away; positions
    /// without gaps; nothing after its lease.
    #[test]
    fn the_invariants_hold(steps in steps(), batch_max in 1usize..4, rate in prop::option::of(1u16..50)) {
        let mut agent = agent(batch_max, rate);
        let (mut now_ms, mut flying) = (0u64, Vec::new());
        let mut submitted = std::collections::HashSet::new();
        let mut results: std::collections::HashMap<Attempt, ReportKind> = Default::default();
        let (mut last, mut seen) = (START.unix_ms * 1_000 - 1, std::collections::BTreeMap::new());
        for step in steps {
            let now = at(now_ms);
            match step {
                Step::Dispatch(n, slot) => agent.handle(dispatch(n, slot, now_ms), now),
                Step::Cancel(n) => agent.handle(Down::Cancel { attempts: smallvec![attempt(n)] }, now),
                Step::Next => if let Some(batch) = agent.next_batch(now) {
                    prop_assert!((1..=batch_max).contains(&batch.jobs.len()));
                    for job in &batch.jobs {
                        prop_assert!(submitted.insert(job.attempt), "submitted twice");
                        prop_assert!(now.mono_ms < job.deadline_ms);
                        prop_assert!(!results.contains_key(&job.attempt));
                    }
                    flying.push(batch);
                },
                Step::Answer(which, how) => if !flying.is_empty() {
                    let batch = flying.swap_remove(usize::from(which) % flying.len());
                    let result = match how % 4 {
                        0 => accepted(),
                        1 => refused(ErrorClass::Route, (how > 100).then_some(500)),
                        _ => Submitted::Unclear("?".into()),
                    };
                    agent.submitted(batch.number, &vec![result; batch.jobs.len()], 0, now);
                },
                Step::Pass(ms) => { now_ms += u64::from(ms); agent.expire(at(now_ms)); }
                Step::Resume => agent.handle(Down::Resume, now),
                Step::Acknowledge => agent.handle(Down::AckReports { position: last }, now),
                Step::Senders(all) => agent.configure(agent.config(), if all { vec![0, 1] } else { vec![0] }, now),
                Step::Accepts(accepts) => agent.set_accepts(accepts, now),
            }
            let in_flight: usize = flying.iter().map(|batch: &Batch| batch.jobs.len()).sum();
            prop_assert_eq!(agent.in_flight(), in_flight);
            while let Some(news) = agent.to_shard() {
                let ToShard::Reports(reports) = news else { continue };
                for report in reports {
                    prop_assert!(report.position <= last + 1, "a gap");
                    last = last.max(report.position);
                    let known = seen.entry(report.position).or_insert_with(|| report.clone());
                    prop_assert_eq!(&*known, &report, "a report changes");
                    let attempt = match &report.kind {
                        ReportKind::Sent { attempt, .. } | ReportKind::NotSent { attempt, .. }
                        | ReportKind::Failed { attempt, .. } | ReportKind::Unknown { attempt } => *attempt,
                        other => panic!("{other:?}"),
                    };
                    let left = matches!(&report.kind, ReportKind::Sent { .. } | ReportKind::Unknown { .. });
                    prop_assert!(!left || submitted.contains(&attempt));
                    let first = results.entry(attempt).or_insert_with(|| report.kind.clone());
                    prop_assert_eq!(&*first, &report.kind, "two results");
                }
            }
        }
    }
}
