//! Simulated devices in one process, with every fault at once: nothing is sent twice, and everything ends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use crate::support::{Controller, Peer, TestCa, dispatch, token};
use flotilla_device_node::fleet::{self, Fleet, Member, Shared};
use flotilla_device_node::link::Links;
use flotilla_device_node::outbox::{Options, Outbox};
use flotilla_device_node::radio::RadioLog;
use flotilla_device_node::radio::simulated::FleetProfile;
use flotilla_protocol::wire::{Attempt, Down, ReportKind, Up};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

const DEVICES: u8 = 12;
const MESSAGES: u8 = 20;

const PROFILE: &str = r#"
    [[group]]
    count = 6
    window = 64
    [[group.sim]]
    latency = { min_ms = 0, mean_ms = 3, max_ms = 20 }
    delivery = { min_ms = 0, mean_ms = 3, max_ms = 20 }
    transient = 0.1
    permanent = 0.1
    unknown = 0.1
    crash = 0.05
    crash_pause_ms = 10
    silence = 0.1
    undelivered = 0.1
    inbound_per_hour = 200000

    [[group]]
    window = 64
    [[group.sim]]
    latency = { min_ms = 0, mean_ms = 0, max_ms = 0 }
    delivery = { min_ms = 0, mean_ms = 0, max_ms = 0 }
    depth = 16
"#;

/// Dispatches every message of a device on its first link, and grants on later ones what it still holds.
async fn serve(
    controller: Arc<Controller>,
    mut peer: Peer,
    device: u8,
    first: bool,
    reports: UnboundedSender<(u8, ReportKind)>,
) {
    let Some(Up::Hello(hello)) = peer.try_receive().await else { return };
    peer.send(&Down::Welcome(controller.greeting(&hello))).await;
    if first {
        for number in 0..MESSAGES {
            let mut dispatch = dispatch(number, hello.device_ms);
            dispatch.attempt = attempt(device, number);
            peer.send(&Down::Dispatch(dispatch)).await;
        }
    }
    while let Some(frame) = peer.try_receive().await {
        match frame {
            Up::Report(report) => {
                // Whoever counts has seen enough.
                let _ = reports.send((device, report.kind));
                peer.send(&Down::AckReports { position: report.position }).await;
            }
            Up::Holding { held, .. } => {
                let attempts = held.iter().filter(|held| !held.sending).map(|held| held.attempt).collect();
                peer.send(&Down::Go { attempts, sent_ms: hello.device_ms, send_within_ms: 600_000 }).await;
            }
            _ => {}
        }
    }
}

fn attempt(device: u8, number: u8) -> Attempt {
    let mut attempt = crate::support::attempt(number);
    attempt.number = u16::from(device) + 1;
    attempt
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_with_every_fault_sends_nothing_twice_and_ends_everything() {
    let seed = rand::random();
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let controller = Arc::new(Controller::start(&Arc::new(TestCa::new())));
    let links = Links::bind(2).unwrap();

    let codes = (0..DEVICES).map(|number| controller.code(token(number))).collect();
    let enrolling = fleet::enroll_all(&links, folder.path(), codes);
    let (enrolled, ()) = tokio::join!(enrolling, controller.enroll_fleet(DEVICES));
    assert_eq!((enrolled.0, enrolled.1.len()), (usize::from(DEVICES), 0));
    let stores = fleet::enrolled(folder.path()).unwrap();
    assert_eq!(stores.len(), usize::from(DEVICES));

    let outbox = Outbox::open(folder.path(), Options { reserve_bytes: 0, ..Options::fleet() }).unwrap();
    let log = folder.path().join("radio.log");
    let shared = Shared {
        links: links.clone(),
        outbox: outbox.clone(),
        profile: Arc::new(FleetProfile::parse(PROFILE).unwrap()),
        radio_log: Some(Arc::new(RadioLog::open(&log).unwrap())),
        presence: Arc::new(AtomicUsize::new(0)),
        seed,
    };
    let members = stores.into_iter().enumerate().map(|(number, store)| Member { number, store }).collect();
    let fleet = Fleet::start(&shared, members);

    let (sender, mut reports) = unbounded_channel();
    let accepting = tokio::spawn({
        let controller = controller.clone();
        async move {
            let mut links = HashMap::new();
            loop {
                let peer = controller.accept().await;
                let next = links.len() as u8;
                let seen = links.contains_key(&peer.certificate());
                let device = *links.entry(peer.certificate()).or_insert(next);
                tokio::spawn(serve(controller.clone(), peer, device, !seen, sender.clone()));
            }
        }
    });

    let mut ended = HashMap::new();
    let mut inbound = 0;
    while ended.len() < usize::from(DEVICES) * usize::from(MESSAGES) {
        let (device, kind) = reports.recv().await.unwrap();
        match kind {
            ReportKind::Sent { attempt, .. }
            | ReportKind::NotSent { attempt, .. }
            | ReportKind::Failed { attempt, .. }
            | ReportKind::Unknown { attempt } => {
                // A report may be repeated, but never changed.
                let before = ended.insert(attempt, kind.clone());
                assert!(before.is_none_or(|before| before == kind));
                assert_eq!(attempt.number, u16::from(device) + 1);
            }
            ReportKind::Inbound(_) => inbound += 1,
            ReportKind::Delivered { .. } | ReportKind::Undelivered { .. } => {}
        }
    }
    assert!(inbound > 0, "messages came in meanwhile");
    fleet.stop().await.unwrap();
    accepting.abort();
    outbox.close();

    let lines = std::fs::read_to_string(&log).unwrap();
    let mut on_air = HashSet::new();
    for line in lines.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        assert!(on_air.insert((fields[2].to_owned(), fields[3].to_owned())), "handed over twice: {line}");
    }
    // In the second half nothing fails, so every one of theirs went out.
    assert!(on_air.len() >= usize::from(DEVICES) * usize::from(MESSAGES) / 2);
    assert!(ended.values().filter(|kind| matches!(kind, ReportKind::Sent { .. })).count() > 0);
}
