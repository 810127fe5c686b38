//! Links: who is let in, what goes up and down, and what ends them.

use bytes::BytesMut;
use flotilla_protocol::id::MessageId;
use flotilla_protocol::wire::{
    ALPN_LINK, Attempt, EnrollUp, PROTOCOL, Report, ReportKind, SimHealth, SimState, Telemetry, Up, encode_frame,
};
use quinn::ConnectionError;

use super::client::{self, LinkClient, csr, hello, sim};
use super::*;
use crate::fleet::sims::SimChange;

over_both! {
    a_link_carries_reports_up_and_frames_down_in_order
    hellos_that_do_not_fit_are_refused
    the_newest_connection_of_a_device_wins
    a_revoked_device_is_cut_off_and_stays_out
    a_renewed_certificate_replaces_the_old_one_when_it_is_used
    a_panic_in_one_session_hurts_no_other
    garbage_and_floods_end_a_link
    a_device_that_does_not_read_is_let_go
    a_controller_that_stops_says_so
}

fn report(position: u64) -> Up {
    let attempt = Attempt { message: MessageId::new(position, [1; 10]), number: 1 };
    Up::Report(Report { position, at_ms: 0, kind: ReportKind::Sent { attempt, segments: 1 } })
}

async fn session_of(world: &World, device: DeviceId) -> Link {
    world
        .notes
        .wait(|note| matches!(note, Note::Up(link) if link.device == device).then(|| note.clone()))
        .await
        .into_link()
}

impl Note {
    fn into_link(self) -> Link {
        match self {
            Self::Up(link) => link,
            other => panic!("{other:?}"),
        }
    }
}

async fn a_link_carries_reports_up_and_frames_down_in_order(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let device = world.device().await;
    let (mut link, welcome) = LinkClient::up(world.at(), &device).await;
    let up = session_of(&world, device.device).await;
    assert_eq!((up.tenant, up.window, up.accepts_work), (world.tenant, 32, true));
    assert_eq!(
        up.sims,
        [RouteSim { slot: 0, sim: welcome.sims[0].1, depth: 1, ready: true, settings: std::sync::Arc::default() }]
    );

    let mut bytes = BytesMut::new();
    for frame in [report(1), report(2), Up::Holding { held: vec![], last: true }, report(3)] {
        encode_frame(&frame, &mut bytes).unwrap();
    }
    // Cut anywhere: frames do not care where the network cuts them.
    let (start, rest) = bytes.split_at(bytes.len() / 2 - 1);
    link.stream.write(start).await;
    link.ping_after(rest).await;
    world
        .notes
        .wait(|note| matches!(note, Note::Reports { positions, .. } if positions.contains(&3)).then_some(()))
        .await;
    let told: Vec<Note> = world.notes.notes.lock().iter().filter(|n| !matches!(n, Note::Event(_))).cloned().collect();
    let mut seen = vec![];
    for note in &told[1..] {
        match note {
            Note::Reports { positions, session, .. } => {
                assert_eq!(*session, up.session);
                seen.extend(positions.iter().copied());
            }
            Note::Held { last: true, .. } => assert_eq!(seen, [1, 2], "the list comes behind the reports before it"),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, [1, 2, 3]);

    let sink = world.notes.sink(up.session);
    sink.send((1..=500).map(|position| Down::AckReports { position }).collect());
    sink.send(vec![Down::Drain]);
    for expected in 1..=500 {
        assert_eq!(link.hear().await, Some(Down::AckReports { position: expected }));
    }
    assert_eq!(link.hear().await, Some(Down::Drain));
    assert!(link.ping(5).await >= welcome.controller_ms);

    let info = world.gateway.session(device.device).unwrap();
    assert_eq!((info.software.as_str(), info.sims.len(), world.gateway.connected()), ("test/1", 1, 1));
    link.stream.leave();
    world.notes.wait(|note| (*note == Note::Event(FleetEvent::Offline { device: device.device })).then_some(())).await;
    assert_eq!(world.gateway.connected(), 0);
    assert_eq!(world.notes.count(|note| matches!(note, Note::Down { session, .. } if *session == up.session)), 1);
    sink.send(vec![Down::Drain]);
}

impl LinkClient {
    async fn ping_after(&mut self, bytes: &[u8]) {
        self.stream.write(bytes).await;
        self.ping(1).await;
    }
}

#[tokio::test]
async fn sims_keep_their_ids_and_changes_are_told() {
    let world = World::new().await;
    let (one, two) = (world.device().await, world.device().await);
    let (mut link, welcome) = LinkClient::up(world.address(), &one).await;
    let id = welcome.sims[0].1;
    link.say(Up::Sims { sims: vec![sim(1, Some("8901410321111851072")), sim(0, None)] }).await;
    let Some(Down::Sims { sims }) = link.hear().await else { panic!() };
    assert_eq!(sims[0], (1, id), "the card is the same in another slot");
    assert_ne!(sims[1].1, id);
    let changed = world.notes.wait(|note| match note {
        Note::Changed { device, sims, .. } if *device == one.device => Some(sims.len()),
        _ => None,
    });
    assert_eq!(changed.await, 2);

    let (mut other, welcome) = LinkClient::up(world.address(), &two).await;
    assert_eq!(welcome.sims[0].1, id, "and in another device");
    let moved = FleetEvent::Sim { device: two.device, sim: id, change: SimChange::Moved };
    world.notes.wait(|note| (*note == Note::Event(moved.clone())).then_some(())).await;

    let health = SimHealth { slot: 0, state: SimState::Blocked, ..SimHealth::default() };
    other.say(Up::Telemetry(Telemetry { sims: vec![health], battery_percent: Some(40), ..Telemetry::default() })).await;
    let blocked = world.notes.wait(|note| match note {
        Note::Changed { device, sims, .. } if *device == two.device => Some(sims[0].ready),
        _ => None,
    });
    assert!(!blocked.await);
    assert_eq!(world.gateway.session(two.device).unwrap().telemetry.unwrap().battery_percent, Some(40));
}

#[tokio::test]
async fn ussd_and_settings_reach_the_device() {
    let world = World::new().await;
    let device = world.device().await;
    let (mut link, _) = LinkClient::up(world.address(), &device).await;
    assert_eq!(world.gateway.ussd(device.device, 0, "*1\n#", PATIENCE).await, Err(UssdError::Code));
    let answer = async {
        let Some(Down::Ussd { request, slot: 0, code }) = link.hear().await else { panic!() };
        assert_eq!(code, "*100#");
        link.say(Up::UssdReply { request: request + 9, result: Ok("not asked".into()) }).await;
        link.say(Up::UssdReply { request, result: Ok("12 EUR".into()) }).await;
    };
    let (reply, ()) = tokio::join!(world.gateway.ussd(device.device, 0, "*100#", PATIENCE), answer);
    assert_eq!(reply, Ok(Ok("12 EUR".into())));
    let late = world.gateway.ussd(device.device, 0, "*100#", Duration::from_millis(1)).await;
    assert_eq!(late, Err(UssdError::Timeout));
    assert!(matches!(link.hear().await, Some(Down::Ussd { .. })));

    let settings = Settings { log_level: 3, ..Settings::default() };
    assert!(world.gateway.push_settings(device.device, settings.clone()));
    assert_eq!(link.hear().await, Some(Down::Settings(settings)));
    assert!(world.gateway.set_draining(device.device, true));
    let draining = world.notes.wait(|note| match note {
        Note::Changed { accepts_work, .. } => Some(*accepts_work),
        _ => None,
    });
    assert!(!draining.await);
}

#[tokio::test]
async fn strangers_are_turned_away() {
    let world = World::new().await;
    let known = world.device().await;
    let elsewhere = TenantId::new(9, [9; 10]);
    let unknown = DeviceId::new(9, [9; 10]);
    for stranger in [world.forged(elsewhere, known.device), world.forged(world.tenant, unknown)] {
        assert_eq!(LinkClient::refused(world.address(), &stranger, hello()).await, Refusal::UnknownDevice);
    }

    let other_dir = tempfile::tempdir().unwrap();
    let domain = TrustDomain::parse("test.flotilla").unwrap();
    let catalog = new_stores(other_dir.path()).catalog;
    let secrets = ClusterKeys::read_or_create(&other_dir.path().join("cluster.key")).unwrap();
    let other = Ca::open(catalog, secrets, domain, None, world.now_ms() / 1000).await.unwrap();
    let public = DeviceKey::from_csr(&csr(&known.key)).unwrap();
    let foreign = other.issue_device(&public, world.tenant, known.device, world.now_ms() / 1000).unwrap();
    let foreign = Identity { chain_der: foreign.chain_der, ..known };
    let endpoint = client::endpoint();
    // The client's side of the handshake ends before the server has judged, so the error may come later.
    let end = match client::connect(&endpoint, world.address(), &foreign.roots_der, Some(&foreign), ALPN_LINK).await {
        Err(error) => error,
        Ok(connection) => timeout(PATIENCE, connection.closed()).await.unwrap(),
    };
    assert!(matches!(end, ConnectionError::ConnectionClosed(_)), "{end}");

    let nobody = client::connect(&endpoint, world.address(), &foreign.roots_der, None, ALPN_LINK).await.unwrap();
    let ConnectionError::ApplicationClosed(end) = timeout(PATIENCE, nobody.closed()).await.unwrap() else { panic!() };
    assert_eq!(end.error_code, close::NO_CERTIFICATE);
    assert_eq!(world.notes.count(|note| matches!(note, Note::Up(_))), 0);
}

async fn hellos_that_do_not_fit_are_refused(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let device = world.device().await;
    let newer = Hello { protocol: PROTOCOL + 1, ..hello() };
    let ahead = Hello { epoch_seen: Epoch(EPOCH.0 + 1), ..hello() };
    assert_eq!(LinkClient::refused(world.at(), &device, newer).await, Refusal::UnsupportedProtocol);
    assert_eq!(LinkClient::refused(world.at(), &device, ahead).await, Refusal::Busy);
    *world.notes.leaderless.lock() = true;
    assert_eq!(LinkClient::refused(world.at(), &device, hello()).await, Refusal::Busy);

    let mut link = LinkClient::open(world.at(), &device).await;
    link.say(Up::Ping { device_ms: 1 }).await;
    assert_eq!(link.refusal().await, Refusal::BadFrame);
    let mut link = LinkClient::open(world.at(), &device).await;
    link.stream.say(&EnrollUp::Proof { signature: vec![0xff; 99], csr_der: vec![] }).await;
    assert_eq!(link.refusal().await, Refusal::BadFrame);
}

use flotilla_protocol::wire::Hello;

async fn the_newest_connection_of_a_device_wins(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let device = world.device().await;
    let (mut old, _) = LinkClient::up(world.at(), &device).await;
    let first = session_of(&world, device.device).await.session;
    let (mut new, _) = LinkClient::up(world.at(), &device).await;
    assert_eq!(old.refusal().await, Refusal::Superseded);
    world.notes.wait(|note| matches!(note, Note::Down { session, .. } if *session == first).then_some(())).await;
    new.ping(1).await;
    assert_eq!(world.gateway.connected(), 1);
    assert_eq!(world.notes.count(|note| matches!(note, Note::Event(FleetEvent::Offline { .. }))), 0);
}

async fn a_revoked_device_is_cut_off_and_stays_out(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let device = world.device().await;
    let (mut link, _) = LinkClient::up(world.at(), &device).await;
    world.parts.devices.revoke(world.tenant, device.device, "test".into(), world.now_ms()).await.unwrap();
    assert!(world.gateway.close(device.device, Refusal::Revoked, "revoked by its owner"));
    assert_eq!(link.refusal().await, Refusal::Revoked);
    assert_eq!(LinkClient::refused(world.at(), &device, hello()).await, Refusal::Revoked);

    // Another controller, or this one after a restart, finds it in the catalog.
    let now_s = world.now_ms() / 1000;
    let deny = DenyList::load(&*world.parts.catalog, now_s).await.unwrap();
    let identity = DeviceIdentity::of_certificate(&device.chain_der[0], world.parts.ca.trust_domain()).unwrap();
    assert!(deny.holds(&identity));
    let parts = Parts { deny: std::sync::Arc::default(), ..world.parts.clone() };
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = start(World::config(&dir, 0, Limits::default()), parts).await.unwrap();
    assert_eq!(LinkClient::refused(elsewhere.local_addr(), &device, hello()).await, Refusal::Revoked);
}

use crate::ca::DeviceIdentity;

async fn a_renewed_certificate_replaces_the_old_one_when_it_is_used(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let device = world.device().await;
    let (mut link, _) = LinkClient::up(world.at(), &device).await;
    link.say(Up::Renew { csr_der: vec![0; 9] }).await;
    assert!(matches!(link.hear().await, Some(Down::RenewRefused { .. })));
    let key = KeyPair::generate().unwrap();
    link.say(Up::Renew { csr_der: csr(&key) }).await;
    let Some(Down::Certificate { chain_der, roots_der }) = link.hear().await else { panic!() };
    let renewed = Identity { device: device.device, tenant: device.tenant, key, chain_der, roots_der };

    let (mut still, _) = LinkClient::up(world.at(), &device).await;
    still.ping(1).await;
    let (mut new, _) = LinkClient::up(world.at(), &renewed).await;
    new.ping(1).await;
    assert_eq!(LinkClient::refused(world.at(), &device, hello()).await, Refusal::StaleCertificate);
    new.ping(2).await;
}

async fn a_panic_in_one_session_hurts_no_other(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let (bystander, reader, session) = (world.device().await, world.device().await, world.device().await);
    let (mut calm, _) = LinkClient::up(world.at(), &bystander).await;
    *world.notes.panics_in_reader.lock() = Some(reader.device);
    *world.notes.panics_in_session.lock() = Some(session.device);

    let (mut bad, _) = LinkClient::up(world.at(), &reader).await;
    bad.say(Up::Holding { held: vec![], last: true }).await;
    bad.stream.gone().await;
    let mut bad = LinkClient::open(world.at(), &session).await;
    bad.say(Up::Hello(hello())).await;
    bad.stream.gone().await;
    for device in [reader.device, session.device] {
        world.notes.wait(|note| matches!(note, Note::Down { device: d, .. } if *d == device).then_some(())).await;
    }
    calm.ping(1).await;
    assert_eq!(world.gateway.connected(), 1);

    *world.notes.panics_in_reader.lock() = None;
    let (mut again, _) = LinkClient::up(world.at(), &reader).await;
    again.say(Up::Holding { held: vec![], last: true }).await;
    again.ping(2).await;
}

async fn garbage_and_floods_end_a_link(over: Transport) {
    let limits = Limits {
        control_frames: Rate { burst: 20, per_s: 1 },
        frames: Rate { burst: 100, per_s: 1 },
        bytes: Rate { burst: 100_000, per_s: 1 },
        ..Limits::default()
    };
    let world = World::over(over, limits).await;
    let (calm, wild) = (world.device().await, world.device().await);
    let (mut calm, _) = LinkClient::up(world.at(), &calm).await;

    let (mut link, _) = LinkClient::up(world.at(), &wild).await;
    link.stream.write(&[&3u32.to_le_bytes()[..], &[0xff; 3]].concat()).await;
    assert_eq!(link.refusal().await, Refusal::BadFrame);
    let (mut link, _) = LinkClient::up(world.at(), &wild).await;
    link.stream.write(&u32::MAX.to_le_bytes()).await;
    assert_eq!(link.refusal().await, Refusal::BadFrame);
    let (mut link, _) = LinkClient::up(world.at(), &wild).await;
    link.say(Up::Hello(hello())).await;
    assert_eq!(link.refusal().await, Refusal::BadFrame);

    let (mut link, _) = LinkClient::up(world.at(), &wild).await;
    for n in 0..21 {
        link.say(Up::Ping { device_ms: n }).await;
    }
    assert_eq!(link.refusal().await, Refusal::TooFast);
    let (mut link, _) = LinkClient::up(world.at(), &wild).await;
    for n in 0..101 {
        link.say(report(n)).await;
    }
    assert_eq!(link.refusal().await, Refusal::TooFast);
    let (mut link, _) = LinkClient::up(world.at(), &wild).await;
    let filler = Up::Log { level: 5, target: "t".into(), line: "x".repeat(60_000) };
    link.say(filler.clone()).await;
    link.say(filler).await;
    assert_eq!(link.refusal().await, Refusal::TooFast);
    calm.ping(1).await;
}

async fn a_device_that_does_not_read_is_let_go(over: Transport) {
    let world = World::over(over, Limits { outgoing_frames_max: 1_000, ..Limits::default() }).await;
    let device = world.device().await;
    let (link, _) = LinkClient::up(world.at(), &device).await;
    let up = session_of(&world, device.device).await;
    let sink = world.notes.sink(up.session);
    let text = |n: u64| Down::Refused { reason: Refusal::Busy, detail: format!("{n}{}", "x".repeat(1_000)) };
    // The windows of the link take some hundred KB; the rest has to wait, until too much of it does.
    let full = async {
        while !world.notes.notes.lock().iter().any(|note| matches!(note, Note::Down { .. })) {
            sink.send((0..500).map(text).collect());
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, full).await.expect("the session takes frames for ever");
    assert_eq!(world.gateway.connected(), 0);
    drop(link);
}

async fn a_controller_that_stops_says_so(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let device = world.device().await;
    let (mut link, _) = LinkClient::up(world.at(), &device).await;
    let (refusal, ()) = tokio::join!(link.refusal(), world.gateway.shutdown());
    assert_eq!(refusal, Refusal::ShuttingDown);
    assert_eq!(world.notes.count(|note| matches!(note, Note::Down { .. })), 1);
}
