//! Devices against a controller of a few lines, over real QUIC: what both sides of the link rely on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Controller, Node, TestCa, attempt, dispatch, sim};
use flotilla_device_node::agent::Exit;
use flotilla_device_node::enroll::EnrollError;
use flotilla_device_node::link::{ConnectError, Options};
use flotilla_device_node::radio::{Delivery, RadioEvent, ReportKey};
use flotilla_protocol::address::Address;
use flotilla_protocol::id::{DeviceId, Epoch};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{
    Down, EnrollDown, EnrollRefusal, EnrollUp, Held, NotSent, PROTOCOL, Refusal, ReportKind, SimState, Up,
    recovery_statement,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use tokio::runtime::Builder;

const NEW: Duration = Duration::ZERO;
const DAY: Duration = Duration::from_secs(86_400);

fn controller() -> Controller {
    Controller::start(&Arc::new(TestCa::new()))
}

fn holding(frame: &Up) -> Option<Vec<Held>> {
    match frame {
        Up::Holding { held, last: true } => Some(held.clone()),
        _ => None,
    }
}

#[tokio::test]
async fn a_message_goes_out_and_its_reports_come_back() {
    let controller = controller();
    let mut node = Node::enrolled(&controller, NEW).await;
    let mut script = node.start();
    let (mut peer, hello) = controller.welcome().await;
    assert_eq!((hello.epoch_seen, hello.sims), (Epoch(0), vec![sim()]));
    assert_eq!(peer.until(holding).await, []);
    peer.send(&Down::Dispatch(dispatch(1, hello.device_ms))).await;
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(1));
    script.sent(attempt(1), &[77]);
    let sent = peer.report().await;
    assert_eq!(sent.kind, ReportKind::Sent { attempt: attempt(1), segments: 1 });
    let to = Address::International(Msisdn::from_u64(255_700_000_001).unwrap());
    let key = ReportKey::Reference { to, reference: 77 };
    script.say(RadioEvent::StatusReport { slot: 0, key, delivery: Delivery::Delivered, token: 0 });
    let delivered = peer.report().await;
    assert_eq!(delivered.kind, ReportKind::Delivered { attempt: attempt(1), segment: 0 });
    assert_eq!(delivered.position, sent.position + 1);
    let status = node.handle().status().await.unwrap();
    assert!(status.line.connected && status.reports_open == 2 && status.attempts_open == 0);
    assert_eq!(node.stop().await, Exit::Stopped);
}

#[tokio::test]
async fn what_was_not_acknowledged_is_repeated_after_a_reconnect_then_what_is_held_is_listed() {
    let controller = controller();
    let mut node = Node::enrolled(&controller, NEW).await;
    let mut script = node.start();
    let (mut peer, hello) = controller.welcome().await;
    for number in 1..=3 {
        let granted = number < 3;
        peer.send(&Down::Dispatch(flotilla_protocol::wire::Dispatch { granted, ..dispatch(number, hello.device_ms) }))
            .await;
    }
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(1));
    script.sent(attempt(1), &[1]);
    let first = peer.report().await;
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(2));
    peer.close();
    let (mut peer, hello) = controller.welcome().await;
    assert_eq!(hello.epoch_seen, Epoch(1));
    assert_eq!(peer.report().await, first);
    let held = peer.until(holding).await;
    assert_eq!(held, [Held { attempt: attempt(2), sending: true }, Held { attempt: attempt(3), sending: false }]);
    // The same dispatch again is not sent again; the third is granted now, and the second's result makes room for it.
    peer.send(&Down::Dispatch(dispatch(1, hello.device_ms))).await;
    peer.send(&Down::Dispatch(dispatch(2, hello.device_ms))).await;
    let go =
        Down::Go { attempts: [attempt(3)].into_iter().collect(), sent_ms: hello.device_ms, send_within_ms: 30_000 };
    peer.send(&go).await;
    peer.send(&Down::AckReports { position: first.position }).await;
    script.sent(attempt(2), &[2]);
    assert_eq!(peer.report().await.kind, ReportKind::Sent { attempt: attempt(2), segments: 1 });
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(3));
    // The controller forgets what it was told: only what it has acknowledged does not come again.
    peer.send(&Down::Resume).await;
    assert_eq!(peer.report().await.kind, ReportKind::Sent { attempt: attempt(2), segments: 1 });
    assert_eq!(peer.until(holding).await, [Held { attempt: attempt(3), sending: true }]);
    node.kill().await;
    assert!(script.jobs.try_recv().is_err(), "each went out once");
}

#[tokio::test]
async fn after_a_kill_the_attempt_on_the_radio_is_unknown_and_the_rest_is_held() {
    let controller = controller();
    let mut node = Node::enrolled(&controller, NEW).await;
    let mut script = node.start();
    let (mut peer, hello) = controller.welcome().await;
    peer.send(&Down::Dispatch(dispatch(1, hello.device_ms))).await;
    peer.send(&Down::Dispatch(dispatch(2, hello.device_ms))).await;
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(1));
    node.kill().await;
    let mut script = node.start();
    let (mut peer, hello) = controller.welcome().await;
    assert_eq!(hello.epoch_seen, Epoch(1));
    assert_eq!(peer.report().await.kind, ReportKind::Unknown { attempt: attempt(1) });
    let held = peer.until(holding).await;
    assert_eq!(held, [Held { attempt: attempt(2), sending: false }]);
    peer.send(&Down::Cancel { attempts: [attempt(2)].into_iter().collect() }).await;
    let reason = NotSent::Cancelled;
    assert_eq!(peer.report().await.kind, ReportKind::NotSent { attempt: attempt(2), reason });
    node.stop().await;
    assert!(script.jobs.try_recv().is_err());
}

#[tokio::test]
async fn a_redirect_is_followed_and_an_older_controller_left_alone() {
    let ca = Arc::new(TestCa::new());
    let (first, second) = (Controller::start(&ca), Controller::start(&ca));
    let mut node = Node::enrolled(&first, NEW).await;
    let _script = node.start();
    let (mut peer, _) = first.link().await;
    peer.send(&Down::Redirect { controllers: vec![second.name()] }).await;
    let (mut peer, hello) = second.link().await;
    let mut welcome = second.greeting(&hello);
    (welcome.epoch, welcome.controllers) = (Epoch(5), vec![second.name(), first.name()]);
    peer.send(&Down::Welcome(welcome)).await;
    assert_eq!(peer.until(holding).await, []);
    let status = node.handle().status().await.unwrap();
    assert_eq!(status.line.controller, Some(second.name()));
    // The leader before it comes back with an old epoch.
    peer.close();
    let (mut peer, hello) = second.link().await;
    assert_eq!(hello.epoch_seen, Epoch(5));
    peer.send(&Down::Welcome(second.greeting(&hello))).await;
    let (mut peer, hello) = first.link().await;
    let mut welcome = first.greeting(&hello);
    welcome.epoch = Epoch(6);
    peer.send(&Down::Welcome(welcome)).await;
    assert_eq!(peer.until(holding).await, []);
    node.stop().await;
}

/// As after `kill -9`, with a report on its way: not a word more, and no answer.
#[tokio::test]
async fn a_controller_that_dies_in_silence_is_left_for_another_long_before_the_transport_gives_up() {
    let ca = Arc::new(TestCa::new());
    let dying = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let first = {
        let _within = dying.enter();
        Controller::start(&ca)
    };
    let second = Controller::start(&ca);
    // No keep-alive is due meanwhile: the report's own repetitions have to do.
    let (keep_alive, silence) = (Duration::from_secs(60), Duration::from_millis(500));
    let mut node = Node::with(Options { keep_alive, silence, ..Options::default() });
    let (enrolled, ()) = tokio::join!(node.enroll(&first), first.enroll(NEW, false));
    enrolled.unwrap();
    let mut script = node.start();
    let (mut peer, hello) = first.link().await;
    let mut welcome = first.greeting(&hello);
    welcome.controllers = vec![first.name(), second.name()];
    peer.send(&Down::Welcome(welcome)).await;
    assert_eq!(peer.until(holding).await, []);
    peer.send(&Down::Dispatch(dispatch(1, hello.device_ms))).await;
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(1));
    let died = Instant::now();
    dying.shutdown_background();
    script.sent(attempt(1), &[1]);
    let (mut peer, _) = second.welcome().await;
    assert!(died.elapsed() < Duration::from_secs(8), "{:?}", died.elapsed());
    assert_eq!(peer.report().await.kind, ReportKind::Sent { attempt: attempt(1), segments: 1 });
    node.stop().await;
}

#[tokio::test]
async fn a_link_that_is_up_is_redirected_and_told_of_new_controllers() {
    let ca = Arc::new(TestCa::new());
    let (first, second) = (Controller::start(&ca), Controller::start(&ca));
    let mut node = Node::enrolled(&first, NEW).await;
    let mut script = node.start();
    let (mut peer, hello) = first.welcome().await;
    assert_eq!(peer.until(holding).await, []);
    peer.send(&Down::Dispatch(dispatch(1, hello.device_ms))).await;
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(1));
    script.sent(attempt(1), &[1]);
    let report = peer.report().await;
    peer.send(&Down::Redirect { controllers: vec![second.name()] }).await;
    // What was not acknowledged is repeated to the new leader.
    let (mut peer, _) = second.welcome().await;
    assert_eq!(peer.report().await, report);
    assert_eq!(node.handle().status().await.unwrap().line.controller, Some(second.name()));

    let third = Controller::start(&ca);
    peer.send(&Down::Controllers { controllers: vec![third.name()] }).await;
    peer.send(&Down::Refused { reason: Refusal::ShuttingDown, detail: String::new() }).await;
    let (mut peer, _) = third.welcome().await;
    assert_eq!(peer.report().await, report);
    // Kept over a restart.
    node.kill().await;
    let _script = node.start();
    let (mut peer, _) = third.welcome().await;
    assert_eq!(peer.report().await, report);
    node.stop().await;
}

#[tokio::test]
async fn an_older_controller_is_spoken_to_in_its_own_frames() {
    let controller = controller();
    let mut node = Node::enrolled(&controller, NEW).await;
    let _script = node.start();
    let (mut peer, hello) = controller.link().await;
    assert_eq!(hello.protocol, PROTOCOL);
    peer.send(&Down::Refused { reason: Refusal::UnsupportedProtocol, detail: String::new() }).await;
    let (mut peer, hello) = controller.welcome().await;
    assert_eq!(hello.protocol, PROTOCOL - 1);
    assert_eq!(peer.until(holding).await, []);
    // It may be updated before the next link.
    peer.close();
    let (_peer, hello) = controller.link().await;
    assert_eq!(hello.protocol, PROTOCOL);
    node.stop().await;
}

#[tokio::test]
async fn a_revoked_device_stops_and_says_so() {
    let controller = controller();
    let mut node = Node::enrolled(&controller, NEW).await;
    let _script = node.start();
    let (mut peer, _) = controller.link().await;
    peer.send(&Down::Refused { reason: Refusal::Busy, detail: String::new() }).await;
    // Busy passes: it comes again, and is revoked while it is connected.
    let (mut peer, _) = controller.welcome().await;
    assert_eq!(peer.until(holding).await, []);
    peer.send(&Down::Refused { reason: Refusal::Revoked, detail: "lost phone".into() }).await;
    assert_eq!(node.exit().await, Exit::Revoked { detail: "lost phone".into() });
}

#[tokio::test]
async fn garbage_ends_the_link_and_nothing_else() {
    let controller = controller();
    let mut node = Node::enrolled(&controller, NEW).await;
    let mut script = node.start();
    for garbage in [&[255u8; 64][..], &[2, 0, 0, 0, 99, 99], &[1, 0, 0, 0, 0, 9, 9, 9, 9, 9, 9]] {
        let (mut peer, _) = controller.welcome().await;
        assert_eq!(peer.until(holding).await, []);
        peer.send_bytes(garbage).await;
        peer.gone().await;
    }
    let (mut peer, hello) = controller.welcome().await;
    peer.send(&Down::Dispatch(dispatch(1, hello.device_ms))).await;
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(1));
    node.kill().await;
}

#[tokio::test]
async fn a_change_of_the_inventory_and_a_late_dispatch_are_told() {
    let controller = controller();
    let mut node = Node::enrolled(&controller, NEW).await;
    let script = node.start();
    let (mut peer, hello) = controller.welcome().await;
    assert_eq!(peer.until(holding).await, []);
    let blocked = flotilla_protocol::wire::SimInfo { state: SimState::Blocked, ..sim() };
    script.say(RadioEvent::Sims(vec![blocked.clone()]));
    let sims = |frame: &Up| match frame {
        Up::Sims { sims } if sims[0].state != SimState::Ready => Some(sims.clone()),
        _ => None,
    };
    assert_eq!(peer.until(sims).await, [blocked]);
    script.say(RadioEvent::Sims(vec![sim()]));
    // It lay in a sleeping phone's buffers until its lease was over.
    let mut late = dispatch(1, hello.device_ms);
    late.send_within_ms = 0;
    peer.send(&Down::Dispatch(late)).await;
    let reason = NotSent::LeaseOver;
    assert_eq!(peer.report().await.kind, ReportKind::NotSent { attempt: attempt(1), reason });
    node.stop().await;
}

#[tokio::test]
async fn a_certificate_is_renewed_over_the_link_with_a_new_key() {
    let controller = controller();
    // Half of its life is over.
    let mut node = Node::enrolled(&controller, 8 * DAY).await;
    let old = node.store.load().unwrap().unwrap().credential;
    let _script = node.start();
    let (mut peer, _) = controller.welcome().await;
    let csr_der = peer
        .until(|frame| match frame {
            Up::Renew { csr_der } => Some(csr_der.clone()),
            _ => None,
        })
        .await;
    let issued = controller.issue(&csr_der, NEW, false);
    peer.send(&Down::Certificate { chain_der: issued.chain_der.clone(), roots_der: issued.roots_der }).await;
    let (mut peer, _) = controller.link().await;
    assert_eq!(peer.certificate(), issued.chain_der[0]);
    let both = node.store.load().unwrap().unwrap();
    assert_ne!(both.credential.key.public_point(), old.key.public_point());
    assert!(both.previous.is_some(), "the old one stays until the new one has connected");
    let hello_again = flotilla_protocol::wire::Welcome {
        epoch: Epoch(1),
        device_ms: 0,
        controller_ms: 0,
        sims: Vec::new(),
        settings: flotilla_protocol::wire::Settings::default(),
        controllers: Vec::new(),
    };
    peer.send(&Down::Welcome(hello_again)).await;
    assert_eq!(peer.until(holding).await, []);
    assert!(node.store.load().unwrap().unwrap().previous.is_none());
    node.stop().await;
}

#[tokio::test]
async fn an_expired_device_comes_back_with_its_key() {
    let controller = controller();
    let mut node = Node::new();
    let (enrolled, ()) = tokio::join!(node.enroll(&controller), controller.enroll(30 * DAY, true));
    let bound = enrolled.unwrap().credential.key;
    let _script = node.start();
    // The link is refused within TLS; this is the recovery.
    let mut peer = controller.accept().await;
    let EnrollUp::Recover { device, .. } = peer.receive().await else { panic!("a recovery") };
    assert_eq!(device, DeviceId::new(1, [1; 10]));
    let nonce = [9; 32];
    peer.send(&EnrollDown::Challenge { nonce }).await;
    let EnrollUp::Proof { signature, csr_der } = peer.receive().await else { panic!("a proof") };
    let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, bound.public_point());
    key.verify(&recovery_statement(device, &nonce), &signature).unwrap();
    peer.send(&EnrollDown::Issued(controller.issue(&csr_der, NEW, false))).await;
    let (mut peer, _) = controller.welcome().await;
    assert_eq!(peer.until(holding).await, []);
    node.stop().await;
}

#[tokio::test]
async fn each_refusal_of_an_enrolment_names_its_remedy() {
    let controller = controller();
    for (reason, remedy) in [
        (EnrollRefusal::UnknownToken, "ask for a new one"),
        (EnrollRefusal::ExpiredToken, "has expired: ask for a new one"),
        (EnrollRefusal::UsedToken, "was used already, by another device"),
        (EnrollRefusal::WrongSecret, "scan it again"),
        (EnrollRefusal::UnsupportedProtocol, "update the older one"),
    ] {
        let node = Node::new();
        let serve = async {
            let mut peer = controller.accept().await;
            let _: EnrollUp = peer.receive().await;
            peer.send(&EnrollDown::Refused { reason, detail: "number 7".into() }).await;
            peer.gone().await;
        };
        let (refused, ()) = tokio::join!(node.enroll(&controller), serve);
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(remedy) && text.contains("number 7"), "{text}");
        assert!(node.store.load().unwrap().is_none());
    }
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_again_with_the_same_key() {
    let controller = controller();
    let node = Node::new();
    let serve = async {
        let mut peer = controller.accept().await;
        let EnrollUp::Request { csr_der: first, .. } = peer.receive().await else { panic!("a request") };
        peer.close();
        let mut peer = controller.accept().await;
        let EnrollUp::Request { csr_der, .. } = peer.receive().await else { panic!("a request") };
        assert_eq!(first, csr_der);
        peer.send(&EnrollDown::Issued(controller.issue(&csr_der, NEW, false))).await;
        peer.gone().await;
    };
    let (enrolled, ()) = tokio::join!(node.enroll(&controller), serve);
    let identity = enrolled.unwrap();
    assert_eq!(node.enroll(&controller).await.unwrap().device, identity.device, "once more is the same device");
    let other = flotilla_protocol::enroll_code::EnrollCode {
        token: crate::support::token(9),
        ..controller.code(crate::support::token(9))
    };
    let again = flotilla_device_node::enroll::enroll(&node.links, &node.store, &other, &Default::default()).await;
    assert!(matches!(again, Err(EnrollError::AlreadyEnrolled(_))));
}

#[tokio::test]
async fn only_a_pinned_controller_with_the_right_name_hears_the_secret() {
    let right = Arc::new(TestCa::new());
    let mut wrong_ca = controller();
    wrong_ca.ca = right.clone();
    let wrong_name = Controller::start_as(&right, "elsewhere.flotilla");
    for impostor in [wrong_ca, wrong_name] {
        let node = Node::new();
        let enrolled = tokio::select! {
            enrolled = node.enroll(&impostor) => enrolled,
            _ = impostor.accept() => panic!("no stream is opened to an impostor"),
        };
        assert!(matches!(enrolled, Err(EnrollError::Connect(ConnectError::NotTrusted(_)))));
    }
}
