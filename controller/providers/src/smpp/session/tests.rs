//! The session as a machine: what goes out, what has a deadline, what is known when it ends.

use proptest::prelude::*;

use super::*;
use crate::account::Account;
use crate::smpp::testing::deliver;

fn settings(fields: &[(&str, &str)]) -> Arc<Settings> {
    let mut account = Account::default();
    let given = [("host", "h"), ("system_id", "s"), ("window", "3")];
    account.fields.extend(given.iter().chain(fields).map(|(name, value)| (Box::from(*name), Box::from(*value))));
    account.secrets.insert("password".into(), "p".into());
    Arc::new(Settings::from_account(&account).unwrap())
}

struct Smsc {
    session: Session,
    /// Sequences of submits that have no answer.
    submits: Vec<u32>,
    written: u64,
    done: Vec<(u64, SubmitOutcome)>,
    others: Vec<Effect>,
    /// Commands of all that was written.
    commands: Vec<(CommandId, u32)>,
}

impl Smsc {
    /// Bound at 0 ms.
    fn bound(fields: &[(&str, &str)]) -> Self {
        let mut smsc = Self::new(fields);
        smsc.answer(CommandId::BindTransceiverResp, 0, 1, b"smsc\0", 0);
        assert_eq!(smsc.others, [Effect::Bound { version: None }]);
        smsc.others.clear();
        smsc
    }

    fn new(fields: &[(&str, &str)]) -> Self {
        let session = Session::new(settings(fields), Role::Transceiver, 0);
        let (submits, done, others, commands) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut smsc = Self { session, submits, written: 0, done, others, commands };
        smsc.session.bind(0);
        smsc.collect();
        smsc
    }

    fn collect(&mut self) {
        while let Some(effect) = self.session.poll() {
            match effect {
                Effect::Write(octets) => {
                    self.written += octets.len() as u64;
                    let frame = pdu::take_frame(&mut octets.as_slice().into()).unwrap().unwrap();
                    self.commands.push((frame.command, frame.status));
                    if frame.command == CommandId::SubmitSm {
                        self.submits.push(frame.sequence);
                    }
                }
                Effect::Done { key, outcome } => self.done.push((key, outcome)),
                other => self.others.push(other),
            }
        }
    }

    fn submit(&mut self, key: u64, parts: usize, now_ms: u64) {
        self.submit_before(key, parts, now_ms, u64::MAX);
    }

    fn submit_before(&mut self, key: u64, parts: usize, now_ms: u64, deadline_ms: u64) {
        let submits = (0..parts).map(|_| SubmitSm::builder().build()).collect();
        let queue_until_ms = now_ms + 10_000;
        self.session
            .submit(Job { key, reference: format!("ref-{key}").into(), submits, queue_until_ms, deadline_ms }, now_ms);
        self.collect();
    }

    fn answer(&mut self, command: CommandId, status: u32, sequence: u32, body: &[u8], now_ms: u64) {
        let frame = Frame { command, status, sequence, body: bytes::Bytes::copy_from_slice(body) };
        self.session.frame(&frame, now_ms);
        self.collect();
    }

    /// Answers the oldest submit.
    fn answer_submit(&mut self, status: u32, id: &str, now_ms: u64) {
        let sequence = self.submits.remove(0);
        let body = if id.is_empty() { Vec::new() } else { format!("{id}\0").into_bytes() };
        self.answer(CommandId::SubmitSmResp, status, sequence, &body, now_ms);
    }

    fn tick(&mut self, now_ms: u64) {
        self.session.tick(now_ms);
        self.collect();
    }

    fn last(&self) -> &SubmitOutcome {
        &self.done.last().unwrap().1
    }

    fn last_code(&self) -> String {
        match &self.last().submitted {
            Submitted::Refused(refusal) => refusal.code.to_string(),
            other => format!("{other:?}"),
        }
    }

    fn written_last(&self) -> CommandId {
        self.commands.last().unwrap().0
    }
}

#[test]
fn a_window_of_submits() {
    let mut smsc = Smsc::bound(&[]);
    for key in 0..5 {
        smsc.submit(key, 1, 0);
    }
    assert_eq!((smsc.submits.len(), smsc.session.in_flight()), (3, 3));
    assert!(smsc.session.has_room());
    smsc.submit(5, 1, 0);
    assert!(!smsc.session.has_room(), "three wait");
    smsc.answer_submit(0, "a", 1);
    assert_eq!((smsc.submits.len(), smsc.session.in_flight()), (3, 3));
    assert_eq!(smsc.last().submitted, Submitted::Accepted { id: Some("a".into()), price: None });
    while !smsc.submits.is_empty() {
        smsc.answer_submit(0, "b", 2);
    }
    assert_eq!((smsc.done.len(), smsc.session.in_flight()), (6, 0));
}

#[test]
fn a_bind_may_be_refused_or_unanswered() {
    let mut smsc = Smsc::new(&[]);
    smsc.submit(1, 1, 0);
    assert_eq!(smsc.last_code(), "smpp-not-bound");
    smsc.answer(CommandId::BindTransceiverResp, 0x0e, 1, b"", 0);
    assert_eq!(smsc.others, [Effect::Close(CloseReason::BindRefused(0x0e))]);
    let mut smsc = Smsc::new(&[]);
    smsc.answer(CommandId::GenericNack, 0x03, 1, b"", 0);
    assert_eq!(smsc.others, [Effect::Close(CloseReason::BindRefused(0x03))]);
    let mut smsc = Smsc::new(&[]);
    assert_eq!(smsc.session.next_deadline(), Some(10_000));
    smsc.tick(9_999);
    assert!(smsc.others.is_empty());
    smsc.tick(10_000);
    assert_eq!(smsc.others, [Effect::Close(CloseReason::BindTimeout)]);
}

#[test]
fn a_long_message_has_an_id_for_each_segment() {
    let mut smsc = Smsc::bound(&[]);
    smsc.submit(1, 3, 0);
    for id in ["a", "b", "c"] {
        smsc.answer_submit(0, id, 1);
    }
    let ids: Vec<Option<Box<str>>> = ["a", "b", "c"].map(|id| Some(id.into())).into();
    assert_eq!((&smsc.last().ids, smsc.last().segments_accepted), (&ids, 3));
    // A refused segment takes the rest with it that has not gone out.
    smsc.submit(2, 5, 2);
    smsc.answer_submit(0, "d", 3);
    smsc.answer_submit(0x0b, "", 3);
    assert_eq!(smsc.submits.len(), 2, "the third and the fourth are under way");
    smsc.answer_submit(0, "e", 3);
    assert_eq!(smsc.done.len(), 1, "the fourth is waited for");
    smsc.answer_submit(0, "f", 3);
    assert_eq!((smsc.last_code().as_str(), smsc.last().segments_accepted), ("smpp-0x0b", 3));
    assert_eq!(smsc.last().ids.iter().filter(|id| id.is_some()).count(), 3);
}

#[test]
fn throttling_is_a_pause() {
    for status in [0x58, 0x14] {
        let mut smsc = Smsc::bound(&[("throttle_pause_ms", "500")]);
        smsc.submit(1, 1, 0);
        smsc.submit(2, 1, 0);
        smsc.answer_submit(status, "", 10);
        let Submitted::Refused(refusal) = &smsc.last().submitted else { panic!() };
        assert_eq!(
            (refusal.class, refusal.retry_after_ms),
            (flotilla_protocol::wire::ErrorClass::Transient, Some(500))
        );
        smsc.answer_submit(status, "", 100);
        smsc.submit(3, 1, 100);
        assert!(smsc.submits.is_empty(), "nothing goes out in a pause");
        assert_eq!(smsc.session.next_deadline(), Some(510), "the second did not lengthen it");
        smsc.tick(509);
        assert!(smsc.submits.is_empty());
        smsc.tick(510);
        assert_eq!(smsc.submits.len(), 1);
        // Once more, and it doubles; an accepted one starts anew.
        smsc.answer_submit(status, "", 600);
        smsc.submit(4, 1, 600);
        assert_eq!(smsc.session.next_deadline(), Some(1_600));
        smsc.tick(1_600);
        smsc.answer_submit(0, "x", 1_700);
        smsc.submit(5, 1, 1_700);
        smsc.answer_submit(status, "", 1_800);
        smsc.submit(6, 1, 1_800);
        assert_eq!(smsc.session.next_deadline(), Some(2_300));
    }
}

#[test]
fn a_throttled_segment_goes_again() {
    let mut smsc = Smsc::bound(&[]);
    smsc.submit(1, 2, 0);
    smsc.answer_submit(0, "a", 1);
    smsc.answer_submit(0x58, "", 1);
    assert!(smsc.done.is_empty());
    smsc.tick(1_001);
    smsc.answer_submit(0, "b", 1_002);
    assert_eq!(smsc.last().segments_accepted, 2);
    assert!(matches!(smsc.last().submitted, Submitted::Accepted { .. }));
    // But not for ever.
    smsc.submit(2, 2, 2_000);
    smsc.answer_submit(0, "c", 2_000);
    let mut now_ms = 2_000;
    for _ in 0..=RETRIES_MAX {
        smsc.answer_submit(0x58, "", now_ms);
        now_ms += 8_000;
        smsc.answer(CommandId::EnquireLinkResp, 0, 9_999, b"", now_ms);
        smsc.tick(now_ms);
    }
    assert_eq!((smsc.last_code().as_str(), smsc.last().segments_accepted), ("smpp-0x58", 1));
}

#[test]
fn an_answer_that_does_not_come_in_time_leaves_it_unclear() {
    let mut smsc = Smsc::bound(&[("response_timeout_ms", "2000")]);
    smsc.submit(1, 2, 0);
    smsc.answer_submit(0, "a", 5);
    assert_eq!(smsc.session.next_deadline(), Some(2_000));
    smsc.tick(1_999);
    assert!(smsc.done.is_empty());
    smsc.tick(2_000);
    assert!(matches!(smsc.last().submitted, Submitted::Unclear(_)));
    assert_eq!((smsc.last().segments_accepted, smsc.session.in_flight()), (1, 0));
    // It comes after all.
    smsc.answer_submit(0, "late", 2_500);
    let submitted = Submitted::Accepted { id: Some("late".into()), price: None };
    assert_eq!(smsc.others, [Effect::Late { reference: "ref-1".into(), segment: 1, submitted }]);
    assert_eq!(smsc.done.len(), 1, "settled once");
}

#[test]
fn what_is_known_when_the_link_is_lost() {
    let mut smsc = Smsc::bound(&[]);
    smsc.submit(1, 1, 0);
    let whole = smsc.written;
    smsc.submit(2, 1, 0);
    smsc.submit(3, 1, 0);
    smsc.submit(4, 1, 0);
    // One octet of the second is missing; the third is not begun; the fourth waits.
    let second = whole + (smsc.written - whole) / 2 - 1;
    smsc.session.lost(second);
    smsc.collect();
    let outcome =
        |key: u64| smsc.done.iter().find(|(done, _)| *done == key).map(|(_, outcome)| outcome.submitted.clone());
    assert!(matches!(outcome(1), Some(Submitted::Unclear(_))));
    for key in 2..=4 {
        let Some(Submitted::Refused(refusal)) = outcome(key) else { panic!("{key}") };
        assert_eq!((&*refusal.code, refusal.class), ("smpp-link-lost", flotilla_protocol::wire::ErrorClass::Route));
    }
    assert_eq!(smsc.session.next_deadline(), None);
}

#[test]
fn silence_is_tested() {
    let mut smsc = Smsc::bound(&[("enquire_link_ms", "30000"), ("response_timeout_ms", "5000")]);
    smsc.tick(29_999);
    assert_eq!(smsc.commands.len(), 1);
    assert_eq!(smsc.session.next_deadline(), Some(30_000));
    smsc.tick(30_000);
    assert_eq!(smsc.written_last(), CommandId::EnquireLink);
    assert_eq!(smsc.session.next_deadline(), Some(35_000));
    // Anything that comes is life.
    smsc.answer(CommandId::AlertNotification, 0, 5, b"", 34_000);
    assert_eq!(smsc.session.next_deadline(), Some(64_000));
    smsc.tick(64_000);
    smsc.submit(1, 1, 64_000);
    smsc.tick(69_000);
    assert!(smsc.others.contains(&Effect::Close(CloseReason::Silent)));
}

#[test]
fn requests_of_the_smsc() {
    let mut smsc = Smsc::bound(&[]);
    smsc.answer(CommandId::EnquireLink, 0, 77, b"", 1);
    assert_eq!(smsc.commands.last(), Some(&(CommandId::EnquireLinkResp, 0)));
    let octets = pdu::encode(0, 78, deliver("1", "2", 0, 0, b"hi"));
    smsc.answer(CommandId::DeliverSm, 0, 78, &octets[16..], 1);
    let Some(Effect::Deliver { sequence: 78, command: CommandId::DeliverSm, deliver }) = smsc.others.pop() else {
        panic!()
    };
    assert_eq!(deliver.message, b"hi");
    smsc.session.answer(CommandId::DeliverSm, 78, 0);
    smsc.session.answer(CommandId::DataSm, 79, 0x64);
    smsc.collect();
    let tail = &smsc.commands[smsc.commands.len() - 2..];
    assert_eq!(tail, [(CommandId::DeliverSmResp, 0), (CommandId::DataSmResp, 0x64)]);
    // What cannot be read is refused for good, unknown commands are refused, and strange answers dropped.
    smsc.answer(CommandId::DeliverSm, 0, 80, b"\0\x01", 1);
    assert_eq!(smsc.commands.last(), Some(&(CommandId::DeliverSmResp, 0x66)));
    smsc.answer(CommandId::QuerySm, 0, 81, b"", 1);
    assert_eq!(smsc.commands.last(), Some(&(CommandId::GenericNack, 0x03)));
    let written = smsc.commands.len();
    smsc.answer(CommandId::SubmitSmResp, 0, 4_000, b"x\0", 1);
    smsc.answer(CommandId::QuerySmResp, 0, 4_001, b"", 1);
    smsc.answer(CommandId::Outbind, 0, 4_002, b"", 1);
    assert_eq!((smsc.commands.len(), smsc.others.len()), (written, 0));
    smsc.answer(CommandId::Unbind, 0, 90, b"", 1);
    assert_eq!(smsc.written_last(), CommandId::UnbindResp);
    assert_eq!(smsc.others, [Effect::Close(CloseReason::UnboundByPeer)]);
}

#[test]
fn a_submit_that_was_not_understood_was_not_taken() {
    let mut smsc = Smsc::bound(&[]);
    smsc.submit(1, 1, 0);
    let sequence = smsc.submits.remove(0);
    smsc.answer(CommandId::GenericNack, 0, sequence, b"", 1);
    assert_eq!(smsc.last_code(), "smpp-0x03");
    smsc.submit(2, 1, 1);
    smsc.answer_submit(0x04, "", 2);
    assert_eq!(smsc.last_code(), "smpp-0x04");
    assert_eq!(smsc.others, [Effect::Close(CloseReason::NotBound)]);
}

#[test]
fn a_shutdown_waits_for_answers_and_unbinds() {
    let mut smsc = Smsc::bound(&[("window", "1")]);
    smsc.submit(1, 1, 0);
    smsc.submit(2, 1, 0);
    smsc.session.shutdown(10);
    smsc.collect();
    assert_eq!(smsc.last_code(), "smpp-stopped");
    smsc.submit(3, 1, 10);
    assert_eq!((smsc.done.len(), smsc.last_code().as_str()), (2, "smpp-stopped"));
    assert_eq!(smsc.written_last(), CommandId::SubmitSm, "not before the answer");
    smsc.answer_submit(0, "a", 20);
    assert_eq!((smsc.done.len(), smsc.written_last()), (3, CommandId::Unbind));
    let unbind = smsc.session.next_sequence - 1;
    smsc.answer(CommandId::UnbindResp, 0, unbind, b"", 30);
    assert_eq!(smsc.others, [Effect::Close(CloseReason::Unbound)]);
    // Without answers it ends too.
    let mut smsc = Smsc::bound(&[]);
    smsc.submit(1, 1, 0);
    smsc.session.shutdown(0);
    smsc.tick(10_000);
    assert_eq!((smsc.done.len(), smsc.written_last()), (1, CommandId::Unbind));
    smsc.tick(10_000 + UNBIND_MS);
    assert_eq!(smsc.others, [Effect::Close(CloseReason::Unbound)]);
}

#[test]
fn who_waits_too_long_is_sent_away() {
    let mut smsc = Smsc::bound(&[("window", "1"), ("response_timeout_ms", "20000")]);
    smsc.submit(1, 1, 0);
    smsc.submit(2, 2, 5);
    smsc.tick(10_004);
    assert!(smsc.done.is_empty());
    smsc.tick(10_005);
    assert_eq!((smsc.done.len(), smsc.last_code().as_str()), (1, "smpp-busy"));
}

#[test]
fn nothing_goes_out_after_its_deadline() {
    let mut smsc = Smsc::bound(&[("window", "1")]);
    smsc.submit_before(1, 1, 0, 0);
    assert_eq!(smsc.last_code(), "smpp-late");
    smsc.submit(2, 1, 0);
    smsc.submit_before(3, 2, 0, 500);
    assert_eq!(smsc.session.next_deadline(), Some(500));
    // The answer makes room, but too late, and no tick has come between.
    smsc.answer_submit(0, "a", 500);
    assert_eq!((smsc.done.len(), smsc.last_code().as_str(), smsc.submits.len()), (3, "smpp-late", 0));
    // A throttled segment does not outlive it either.
    smsc.submit_before(4, 2, 500, 1_000);
    smsc.answer_submit(0x58, "", 600);
    smsc.tick(1_000);
    assert_eq!((smsc.last_code().as_str(), smsc.last().segments_accepted), ("smpp-late", 0));
    smsc.tick(5_000);
    assert!(smsc.submits.is_empty());
}

#[test]
fn congestion_narrows_the_window() {
    let mut smsc = Smsc::bound(&[("window", "4"), ("version", "5.0")]);
    smsc.submit(1, 1, 0);
    let sequence = smsc.submits.remove(0);
    smsc.answer(CommandId::SubmitSmResp, 0, sequence, b"a\0\x04\x28\0\x01\x5b", 1);
    assert_eq!((smsc.session.window(), smsc.others.pop()), (2, Some(Effect::Congestion(91))));
    (2..8).for_each(|key| smsc.submit(key, 1, 1));
    assert_eq!(smsc.submits.len(), 2);
    let sequence = smsc.submits.remove(0);
    smsc.answer(CommandId::SubmitSmResp, 0, sequence, b"a\0\x04\x28\0\x01\x64", 1);
    assert_eq!((smsc.session.window(), smsc.others.pop()), (1, Some(Effect::Congestion(100))));
    assert_eq!(smsc.submits.len(), 1);
    let sequence = smsc.submits.remove(0);
    smsc.answer(CommandId::SubmitSmResp, 0, sequence, b"a\0\x04\x28\0\x01\x05", 1);
    assert_eq!((smsc.session.window(), smsc.submits.len()), (4, 4));
}

#[test]
fn the_rate_is_kept() {
    let mut smsc = Smsc::bound(&[("window", "500"), ("rate_per_s", "2")]);
    (0..5).for_each(|key| smsc.submit(key, 1, 100));
    assert_eq!((smsc.submits.len(), smsc.session.next_deadline()), (2, Some(1_100)));
    smsc.tick(1_099);
    assert_eq!(smsc.submits.len(), 2);
    smsc.tick(1_100);
    assert_eq!(smsc.submits.len(), 4);
}

/// What a random SMSC and a random user do.
#[derive(Clone, Debug)]
enum Step {
    Submit { parts: usize },
    Answer { index: usize, status: u32 },
    Nack { sequence: u32 },
    Garbage { command: u32, sequence: u32, body: Vec<u8> },
    Wait { ms: u64 },
}

fn any_step() -> impl Strategy<Value = Step> {
    let status = prop::sample::select(vec![0, 0, 0, 0, 0x58, 0x14, 0x0b, 0x08]);
    prop_oneof![
        4 => (1..5usize).prop_map(|parts| Step::Submit { parts }),
        6 => (0..10usize, status).prop_map(|(index, status)| Step::Answer { index, status }),
        1 => (0..40u32).prop_map(|sequence| Step::Nack { sequence }),
        1 => (any::<u32>(), 0..40u32, prop::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(command, sequence, body)| Step::Garbage { command, sequence, body }),
        2 => (0..4_000u64).prop_map(|ms| Step::Wait { ms }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn each_job_ends_once_and_the_window_is_never_exceeded(
        window in 1..6usize,
        steps in prop::collection::vec(any_step(), 1..120),
        cut in 0u64..5_000,
    ) {
        let window_text = window.to_string();
        let mut smsc = Smsc::bound(&[("window", &window_text), ("response_timeout_ms", "3000")]);
        let (mut now_ms, mut keys) = (0, 0);
        for step in steps {
            match step {
                Step::Submit { parts } if smsc.session.has_room() => {
                    keys += 1;
                    smsc.submit(keys, parts, now_ms);
                }
                Step::Submit { .. } => {}
                Step::Answer { index, status } => {
                    if let Some(index) = index.checked_rem(smsc.submits.len()) {
                        let sequence = smsc.submits.remove(index);
                        smsc.answer(CommandId::SubmitSmResp, status, sequence, b"id\0", now_ms);
                    }
                }
                Step::Nack { sequence } => smsc.answer(CommandId::GenericNack, 0x02, sequence, b"", now_ms),
                Step::Garbage { command, sequence, body } => {
                    smsc.answer(CommandId::from(command), 0, sequence, &body, now_ms);
                }
                Step::Wait { ms } => {
                    now_ms += ms;
                    smsc.tick(now_ms);
                    // A deadline that has passed would make the driver spin.
                    if let Some(deadline) = smsc.session.next_deadline() {
                        prop_assert!(deadline > now_ms, "{deadline} at {now_ms}");
                    }
                }
            }
            prop_assert!(smsc.session.in_flight() <= window);
        }
        smsc.session.lost(cut);
        smsc.collect();
        let mut done: Vec<u64> = smsc.done.iter().map(|(key, _)| *key).collect();
        done.sort_unstable();
        prop_assert_eq!(done, (1..=keys).collect::<Vec<_>>());
        for (key, outcome) in &smsc.done {
            let accepted = outcome.ids.iter().filter(|id| id.is_some()).count();
            prop_assert_eq!(accepted, usize::from(outcome.segments_accepted), "{}", key);
            if matches!(outcome.submitted, Submitted::Accepted { .. }) {
                prop_assert_eq!(accepted, outcome.ids.len());
            }
        }
    }
}
