//! Submits: the window, answers of every kind, links lost on the way.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_protocol::wire::ErrorClass;

use super::support::{bound, outgoing, within};
use crate::maker::Submitted;
use crate::smpp::testing::{Options, Reply, Seen};
use crate::smpp::{Event, LATE, State, SubmitOutcome};

fn answering(reply: impl Fn(usize) -> Vec<Reply> + Send + 'static) -> Options {
    Options { submit: Box::new(move |nth, _| reply(nth)), ..Options::default() }
}

fn code(outcome: &SubmitOutcome) -> &str {
    match &outcome.submitted {
        Submitted::Refused(refusal) => &refusal.code,
        Submitted::Unclear(_) => "unclear",
        Submitted::Accepted { .. } => "accepted",
    }
}

#[tokio::test]
async fn never_more_than_the_window() {
    // The SMSC keeps its answers until it has seen a whole window, then checks that nothing more has come.
    let (mut smsc, client) = bound(answering(|_| Vec::new()), &[("window", "4")]).await;
    let outcomes: Vec<_> = (0..8).map(|number| tokio::spawn(client.handle.submit(outgoing(number, "hi")))).collect();
    let mut open = Vec::new();
    for answered in 0..8 {
        while open.len() < 4 && answered + open.len() < 8 {
            open.push(within(smsc.next_submit()).await.unwrap().0);
        }
        // A fifth would stand before the answer to this.
        smsc.send(0, rusmpp::Pdu::EnquireLink);
        let next =
            within(smsc.until(|seen| matches!(seen, Seen::EnquireLinkAnswer { .. } | Seen::Submit { .. }))).await;
        assert!(matches!(next, Some(Seen::EnquireLinkAnswer { .. })), "{next:?}");
        assert!(client.handle.in_flight() <= 4 && client.handle.window() == 4);
        let sequence = open.remove(0);
        smsc.send_raw(0, answer(sequence, 0, "x"));
    }
    for outcome in outcomes {
        assert_eq!(code(&within(outcome).await.unwrap()), "accepted");
    }
}

/// A submit_sm_resp.
fn answer(sequence: u32, status: u32, id: &str) -> Vec<u8> {
    let mut octets = vec![0, 0, 0, 17 + id.len() as u8, 0x80, 0, 0, 4];
    octets.extend(status.to_be_bytes());
    octets.extend(sequence.to_be_bytes());
    octets.extend(id.as_bytes());
    octets.push(0);
    octets
}

#[tokio::test]
async fn a_thousand_messages() {
    let (_smsc, client) = bound(Options::default(), &[("window", "50")]).await;
    let room = Arc::new(tokio::sync::Semaphore::new(40));
    let accepted = Arc::new(AtomicUsize::new(0));
    let tasks: Vec<_> = (0..1_000)
        .map(|number| {
            let (handle, room, accepted) = (client.handle.clone(), room.clone(), accepted.clone());
            tokio::spawn(async move {
                let _permit = room.acquire().await.unwrap();
                let outcome = handle.submit(outgoing(number, "hi")).await;
                accepted.fetch_add(usize::from(code(&outcome) == "accepted"), Ordering::Relaxed);
            })
        })
        .collect();
    for task in tasks {
        within(task).await.unwrap();
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 1_000);
}

#[tokio::test]
async fn refusals() {
    for (status, class) in [(0x0b, ErrorClass::Permanent), (0x0a, ErrorClass::Route), (0x08, ErrorClass::Transient)] {
        let (_smsc, client) = bound(answering(move |_| vec![Reply::Refuse(status)]), &[]).await;
        let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
        let Submitted::Refused(refusal) = &outcome.submitted else { panic!("{outcome:?}") };
        assert_eq!((refusal.class, outcome.segments_accepted), (class, 0));
        assert_eq!(&*refusal.code, format!("smpp-0x{status:02x}"));
    }
}

#[tokio::test]
async fn throttled_and_then_let_in() {
    let refuse_first = |nth| if nth == 0 { vec![Reply::Refuse(0x58)] } else { vec![Reply::Accept("a".to_owned())] };
    let (mut smsc, client) = bound(answering(refuse_first), &[("throttle_pause_ms", "50")]).await;
    let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
    let Submitted::Refused(refusal) = outcome.submitted else { panic!("{outcome:?}") };
    assert_eq!((refusal.class, refusal.retry_after_ms), (ErrorClass::Transient, Some(50)));
    // What comes in the pause goes out behind it.
    assert_eq!(code(&within(client.handle.submit(outgoing(2, "hi"))).await), "accepted");
    // A segment of a long message goes again by itself.
    let outcome = within(client.handle.submit(outgoing(3, &"x".repeat(200)))).await;
    assert_eq!((code(&outcome), outcome.segments_accepted), ("accepted", 2));
    for _ in 0..4 {
        within(smsc.next_submit()).await.unwrap();
    }
}

#[tokio::test]
async fn a_link_lost_before_the_answer_leaves_it_unclear() {
    let (mut smsc, client) = bound(answering(|_| vec![Reply::Close]), &[("window", "1")]).await;
    let first = client.handle.submit(outgoing(1, "hi"));
    let second = client.handle.submit(outgoing(2, "hi"));
    let first = within(first).await;
    assert!(matches!(&first.submitted, Submitted::Unclear(_)), "{first:?}");
    // The second waited for the first: it never went out, and that is certain.
    let second = within(second).await;
    assert!(matches!(code(&second), "smpp-link-lost" | "smpp-not-bound"), "{second:?}");
    assert_eq!(within(smsc.next_submit()).await.unwrap().0, 2);
    within(smsc.until(|seen| matches!(seen, Seen::Bind { session: 1, .. }))).await.unwrap();
}

#[tokio::test]
async fn an_answer_with_the_close_behind_it_counts() {
    let (_smsc, client) = bound(answering(|_| vec![Reply::Accept("a".to_owned()), Reply::Close]), &[]).await;
    let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
    assert_eq!(outcome.ids, [Some("a".into())]);
}

#[tokio::test]
async fn an_answer_too_late_is_told() {
    let (mut smsc, mut client) = bound(answering(|_| Vec::new()), &[("response_timeout_ms", "100")]).await;
    let outcome = within(client.handle.submit(outgoing(9, "hi"))).await;
    assert!(matches!(outcome.submitted, Submitted::Unclear(_)), "{outcome:?}");
    let sequence = within(smsc.next_submit()).await.unwrap().0;
    smsc.send_raw(0, answer(sequence, 0, "00AB"));
    let Event::Late { reference, segment, submitted } = client.event().await else { panic!() };
    assert_eq!((&*reference, segment), ("msg_9-1", 0));
    assert_eq!(submitted, Submitted::Accepted { id: Some("ab".into()), price: None });
    assert_eq!(client.handle.state(), State::Bound { receiving: true }, "one slow answer is no lost link");
}

#[tokio::test]
async fn answers_out_of_order_and_without_ids() {
    let (mut smsc, client) = bound(answering(|_| Vec::new()), &[]).await;
    let outcome = client.handle.submit(outgoing(1, &"y".repeat(400)));
    let mut sequences = Vec::new();
    for _ in 0..3 {
        sequences.push(within(smsc.next_submit()).await.unwrap().0);
    }
    smsc.send_raw(0, answer(sequences[2], 0, "c"));
    smsc.send_raw(0, answer(sequences[0], 0, ""));
    smsc.send_raw(0, answer(sequences[1], 0, "b"));
    let outcome = within(outcome).await;
    assert_eq!(outcome.submitted, Submitted::Accepted { id: None, price: None });
    assert_eq!(outcome.ids, [None, Some("b".into()), Some("c".into())]);
}

#[tokio::test]
async fn a_whole_message_in_one_submit() {
    let (mut smsc, client) = bound(Options::default(), &[("long_text", "payload")]).await;
    let mut long = outgoing(1, &"z".repeat(400));
    long.segments = 3;
    let outcome = within(client.handle.submit(long)).await;
    assert_eq!((outcome.whole, outcome.segments_accepted, outcome.ids.len()), (true, 3, 1));
    let (_, submit, _) = within(smsc.next_submit()).await.unwrap();
    assert_eq!((submit.short_message().len(), submit.tlvs().len()), (0, 1));
}

#[tokio::test]
async fn what_no_smsc_could_take_is_not_sent() {
    let (_smsc, client) = bound(Options::default(), &[("long_text", "single")]).await;
    let outcome = within(client.handle.submit(outgoing(1, &"z".repeat(400)))).await;
    assert_eq!(code(&outcome), "smpp-too-long");
}

#[tokio::test]
async fn a_queue_that_is_full_says_so_at_once() {
    let (_smsc, client) = bound(answering(|_| Vec::new()), &[("window", "1"), ("response_timeout_ms", "60000")]).await;
    // The last of them finds no room, whatever the client has taken off the queue by then.
    let outcomes: Vec<_> = (0..20).map(|number| Box::pin(client.handle.submit(outgoing(number, "hi")))).collect();
    let last = within(outcomes.into_iter().next_back().unwrap()).await;
    assert_eq!(code(&last), "smpp-busy");
}

#[tokio::test]
async fn congestion_is_told_and_heeded() {
    let congested = |nth| vec![Reply::Congested(format!("{nth}"), if nth == 0 { 95 } else { 10 })];
    let (_smsc, mut client) = bound(answering(congested), &[("version", "5.0"), ("window", "8")]).await;
    within(client.handle.submit(outgoing(1, "hi"))).await;
    assert!(matches!(client.event().await, Event::Congestion(95)));
    within(client.handle.submit(outgoing(2, "hi"))).await;
    assert!(matches!(client.event().await, Event::Congestion(10)));
    assert_eq!(client.handle.window(), 8);
}

#[tokio::test]
async fn a_shutdown_brings_in_what_is_under_way() {
    let (mut smsc, client) = bound(answering(|_| Vec::new()), &[]).await;
    let outcome = client.handle.submit(outgoing(1, "hi"));
    let sequence = within(smsc.next_submit()).await.unwrap().0;
    let handle = client.handle.clone();
    let shutdown = tokio::spawn(async move { handle.shutdown().await });
    smsc.send_raw(0, answer(sequence, 0, "last"));
    assert_eq!(within(outcome).await.ids, [Some("last".into())]);
    within(shutdown).await.unwrap();
    assert!(within(smsc.until(|seen| matches!(seen, Seen::Unbind { .. }))).await.is_some());
    assert_eq!(code(&within(client.handle.submit(outgoing(2, "hi"))).await), "smpp-stopped");
}

#[tokio::test]
async fn a_message_whose_time_is_over_stays_here() {
    let (mut smsc, client) = bound(answering(|_| Vec::new()), &[("window", "1")]).await;
    let now = std::time::Instant::now();
    let first = client.handle.submit_before(outgoing(1, "hi"), now + std::time::Duration::from_secs(60));
    let sequence = within(smsc.next_submit()).await.unwrap().0;
    // It waits for the answer to the first, which comes after its time.
    let second = client.handle.submit_before(outgoing(2, "hi"), now + std::time::Duration::from_millis(100));
    assert_eq!(code(&within(second).await), LATE);
    smsc.send_raw(0, answer(sequence, 0, "a"));
    assert_eq!(code(&within(first).await), "accepted");
    assert_eq!(code(&within(client.handle.submit_before(outgoing(3, "hi"), now)).await), LATE);
    assert_eq!(client.handle.in_flight(), 0);
}
