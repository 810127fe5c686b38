//! Networks that let no UDP pass: links over TCP, and the way back to QUIC.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::{Controller, Node, Peer, Script, TestCa, attempt, dispatch, sim};
use flotilla_device_node::enroll::EnrollError;
use flotilla_device_node::link::{ConnectError, Links, Options, Transport};
use flotilla_device_node::selftest::{Check, Verdict, controllers};
use flotilla_protocol::id::Epoch;
use flotilla_protocol::wire::{DeviceInfo, Down, EnrollDown, EnrollUp, Hello, PROTOCOL, Refusal, ReportKind, Up};

const NEW: Duration = Duration::ZERO;
/// QUIC's head start, and the time that a slow machine may add.
const HEAD_START: Duration = Duration::from_secs(3);
const SLACK: Duration = Duration::from_secs(4);

async fn firewalled() -> Controller {
    Controller::start_behind_a_firewall(&Arc::new(TestCa::new())).await
}

/// Looks every few hundred milliseconds whether UDP passes.
fn impatient() -> Options {
    Options { look: Duration::from_millis(200), ..Options::default() }
}

/// Enrolled over TCP.
async fn enrolled(controller: &Controller, options: Options) -> Node {
    let node = Node::with(options);
    let (enrolled, ()) = tokio::join!(node.enroll(controller), controller.enroll(NEW, false));
    enrolled.expect("the code is good");
    node
}

async fn linked(controller: &Controller, node: &mut Node) -> (Script, Peer, Hello) {
    let script = node.start();
    let (mut peer, hello) = controller.welcome().await;
    begun(&mut peer).await;
    (script, peer, hello)
}

async fn transport(node: &Node) -> Option<Transport> {
    node.handle().status().await.expect("it runs").line.transport
}

/// The device has said all that comes first.
async fn begun(peer: &mut Peer) {
    peer.until(|frame| matches!(frame, Up::Holding { last: true, .. }).then_some(())).await;
}

/// There and back again.
async fn answers(peer: &mut Peer) {
    peer.send(&Down::Resume).await;
    begun(peer).await;
}

/// Hears the device, and answers its clock pairs, until it leaves.
async fn serve(mut peer: Peer) {
    while let Some(frame) = peer.try_receive::<Up>().await {
        if let Up::Ping { device_ms } = frame {
            peer.send(&Down::Pong { device_ms, controller_ms: device_ms }).await;
        }
    }
}

#[tokio::test]
async fn without_udp_a_device_is_enrolled_and_sends_over_tcp() {
    let controller = firewalled().await;
    let begun = Instant::now();
    let mut node = enrolled(&controller, Options::default()).await;
    assert!((HEAD_START..HEAD_START + SLACK).contains(&begun.elapsed()), "{:?}", begun.elapsed());

    let begun = Instant::now();
    let (mut script, mut peer, hello) = linked(&controller, &mut node).await;
    assert!(begun.elapsed() < HEAD_START, "it knows that UDP does not pass: {:?}", begun.elapsed());
    assert_eq!((peer.transport(), hello.sims), (Transport::Tcp, vec![sim()]));
    peer.send(&Down::Dispatch(dispatch(1, hello.device_ms))).await;
    assert_eq!(script.jobs.recv().await.unwrap().attempt, attempt(1));
    script.sent(attempt(1), &[77]);
    let sent = peer.report().await;
    assert_eq!(sent.kind, ReportKind::Sent { attempt: attempt(1), segments: 1 });
    let line = node.handle().status().await.unwrap().line;
    assert_eq!((line.transport, line.controller), (Some(Transport::Tcp), Some(controller.name())));

    peer.close();
    let begun = Instant::now();
    let (mut peer, _) = controller.welcome().await;
    assert!(begun.elapsed() < HEAD_START, "{:?}", begun.elapsed());
    assert_eq!(peer.report().await, sent, "what was not acknowledged comes again");
    peer.close();
    node.stop().await;
}

#[tokio::test]
async fn a_device_goes_back_to_quic_when_udp_passes_again() {
    let controller = firewalled().await;
    let mut node = enrolled(&controller, impatient()).await;
    let (_script, peer, _) = linked(&controller, &mut node).await;
    assert_eq!(transport(&node).await, Some(Transport::Tcp));
    controller.open_udp();
    let (mut peer, hello) = tokio::select! {
        linked = controller.link() => linked,
        () = serve(peer) => controller.link().await,
    };
    assert_eq!(peer.transport(), Transport::Quic);
    peer.send(&Down::Welcome(controller.greeting(&hello))).await;
    begun(&mut peer).await;
    assert_eq!(transport(&node).await, Some(Transport::Quic));
    node.stop().await;
}

#[tokio::test]
async fn a_look_that_finds_nothing_disturbs_no_link() {
    let controller = firewalled().await;
    let mut node = enrolled(&controller, Options { look: Duration::from_millis(1), ..Options::default() }).await;
    let (_script, mut peer, _) = linked(&controller, &mut node).await;
    // The looks take 5 s each, and there are no others to wait for.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(12)).await;
    tokio::time::resume();
    answers(&mut peer).await;
    assert_eq!(transport(&node).await, Some(Transport::Tcp));
    peer.close();
    node.stop().await;
}

#[tokio::test]
async fn a_controller_that_falls_silent_on_tcp_is_given_up() {
    let controller = firewalled().await;
    let mut node = enrolled(&controller, Options::default()).await;
    let (_script, mut silent, _) = linked(&controller, &mut node).await;
    tokio::time::pause();
    // The device says something every 5 s itself, so that the controller knows; three times in vain.
    tokio::time::advance(Duration::from_secs(6)).await;
    silent.until(|frame| matches!(frame, Up::Ping { .. }).then_some(())).await;
    tokio::time::advance(Duration::from_secs(10)).await;
    tokio::time::resume();
    let (_peer, _) = controller.welcome().await;
    silent.gone().await;
    node.stop().await;
}

#[tokio::test]
async fn a_network_that_changes_ends_a_link_over_tcp() {
    let controller = firewalled().await;
    let mut node = enrolled(&controller, Options::default()).await;
    let (_script, mut peer, _) = linked(&controller, &mut node).await;
    controller.open_udp();
    node.links.network_changed().unwrap();
    node.handle().network_changed().await;
    peer.gone().await;
    let (peer, _) = controller.welcome().await;
    assert_eq!(peer.transport(), Transport::Quic, "nothing is known of the new network");
    node.stop().await;
}

#[tokio::test]
async fn a_link_over_quic_moves_to_another_address() {
    let controller = Controller::start(&Arc::new(TestCa::new()));
    let mut node = Node::enrolled(&controller, NEW).await;
    let (_script, mut peer, _) = linked(&controller, &mut node).await;
    let before = peer.remote();
    node.links.network_changed().unwrap();
    node.handle().network_changed().await;
    for _ in 0..3 {
        answers(&mut peer).await;
    }
    assert_ne!(peer.remote(), before, "the same link from another port");
    node.stop().await;
}

#[tokio::test]
async fn an_impostor_on_tcp_hears_no_secret() {
    let right = Arc::new(TestCa::new());
    let mut wrong_ca = firewalled().await;
    wrong_ca.ca = right.clone();
    let wrong_name = Controller::start_tcp_as(&right, "elsewhere.flotilla").await;
    for impostor in [wrong_ca, wrong_name] {
        let node = Node::new();
        let enrolled = tokio::select! {
            enrolled = node.enroll(&impostor) => enrolled,
            _ = impostor.accept() => panic!("the handshake ends on our side"),
        };
        let error = enrolled.unwrap_err();
        assert!(matches!(error, EnrollError::Connect(ConnectError::NotTrusted(_))), "{error}");
    }
}

#[tokio::test]
async fn an_expired_device_recovers_over_tcp() {
    let controller = firewalled().await;
    let mut node = Node::new();
    let month = Duration::from_secs(30 * 86_400);
    let (enrolled, ()) = tokio::join!(node.enroll(&controller), controller.enroll(month, true));
    enrolled.unwrap();
    let _script = node.start();
    // The link is refused within TLS; this is the recovery.
    let mut peer = controller.accept().await;
    assert_eq!(peer.transport(), Transport::Tcp);
    let EnrollUp::Recover { .. } = peer.receive().await else { panic!("a recovery") };
    peer.send(&EnrollDown::Challenge { nonce: [9; 32] }).await;
    let EnrollUp::Proof { csr_der, .. } = peer.receive().await else { panic!("a proof") };
    peer.send(&EnrollDown::Issued(controller.issue(&csr_der, NEW, false))).await;
    controller.welcome().await;
    node.stop().await;
}

#[tokio::test]
async fn the_last_words_on_tcp_are_heard() {
    let controller = firewalled().await;
    let mut node = enrolled(&controller, Options::default()).await;
    let (_script, mut peer, _) = linked(&controller, &mut node).await;
    peer.send(&Down::Refused { reason: Refusal::Revoked, detail: "by its owner".into() }).await;
    // Gone at once, while the device is still talking.
    drop(peer);
    let exit = node.exit().await;
    assert!(matches!(exit, flotilla_device_node::agent::Exit::Revoked { .. }), "{exit:?}");
}

#[tokio::test]
async fn garbage_over_tcp_ends_the_link_and_the_device_tries_again() {
    let controller = firewalled().await;
    let mut node = enrolled(&controller, Options::default()).await;
    for garbage in [&[0xff; 8][..], &[20, 0, 0, 0, 0xee, 0xee]] {
        let (_script, mut peer, _) = linked(&controller, &mut node).await;
        peer.send_bytes(garbage).await;
        if garbage.len() < 8 {
            // Half a frame, and the end.
            peer.close();
        } else {
            peer.gone().await;
        }
        let (_peer, _) = controller.welcome().await;
        node.stop().await;
    }
}

#[tokio::test]
async fn a_controller_that_is_silent_after_the_handshake_is_tried_over_the_other_transport() {
    let controller = firewalled().await;
    let node = enrolled(&controller, Options::default()).await;
    // UDP passes now, as far as the first packets go: some networks only let a handshake through.
    controller.open_udp();
    let identity = node.store.load().unwrap().unwrap();
    let links = Links::bind(1).unwrap();
    let config = links.link_config(&identity.credential, &identity.roots_der).unwrap();
    let hello = || Hello {
        protocol: PROTOCOL,
        info: DeviceInfo::default(),
        device_ms: 0,
        window: 1,
        epoch_seen: Epoch(0),
        sims: vec![sim()],
    };
    let targets = [controller.name()];
    let side = async {
        let (over_quic, _) = controller.link().await;
        assert_eq!(over_quic.transport(), Transport::Quic);
        let (peer, _) = controller.welcome().await;
        (over_quic, peer)
    };
    let (connected, (mut over_quic, peer)) = tokio::join!(links.connect(&config, &targets, hello), side);
    assert_eq!((connected.unwrap().0.transport(), peer.transport()), (Transport::Tcp, Transport::Tcp));
    over_quic.gone().await;
}

#[tokio::test]
async fn the_selftest_tells_that_udp_does_not_pass() {
    let controller = firewalled().await;
    let node = enrolled(&controller, Options::default()).await;
    let identity = node.store.load().unwrap().unwrap();
    let info = DeviceInfo::default();
    let hello = Hello { protocol: PROTOCOL, info, device_ms: 0, window: 1, epoch_seen: Epoch(0), sims: vec![sim()] };
    let side = async { controller.welcome().await.0.gone().await };
    let (checks, ()) = tokio::join!(controllers(&identity, &hello), side);
    let [Check { verdict: Verdict::Warning, detail, .. }] = &checks[..] else { panic!("{checks:?}") };
    assert!(detail.contains("UDP"), "{detail}");
}
