//! What is different over TCP: who is let in, who keeps whom waiting, and how the end of a peer is noticed.

use std::io::ErrorKind;

use flotilla_protocol::wire::{ALPN_LINK, EnrollDown, EnrollRefusal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::client::{LinkClient, Stream, connect_tcp, enroll_stream, hello};
use super::*;

async fn session(world: &World, device: DeviceId, last: u64) -> u64 {
    let up = world.notes.wait(|note| match note {
        Note::Up(link) if link.device == device && link.session > last => Some(link.session),
        _ => None,
    });
    up.await
}

async fn down(world: &World, ended: u64) {
    world.notes.wait(|note| matches!(note, Note::Down { session, .. } if *session == ended).then_some(())).await;
}

/// Waits for the end of a bare connection.
async fn closed(mut stream: TcpStream) {
    let mut rest = Vec::new();
    // A reset is an end, too.
    let end = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("it stays open");
    assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
}

#[tokio::test]
async fn a_device_moves_between_the_transports() {
    let world = World::new().await;
    let device = world.device().await;
    let ways: [At; 3] = [world.address().into(), world.tcp(), world.address().into()];
    let (mut link, _) = LinkClient::up(ways[0], &device).await;
    let mut last = session(&world, device.device, 0).await;
    for (at, over) in ways.into_iter().zip([Transport::Quic, Transport::Tcp, Transport::Quic]).skip(1) {
        let (mut next, _) = LinkClient::up(at, &device).await;
        assert_eq!(link.refusal().await, Refusal::Superseded);
        down(&world, last).await;
        last = session(&world, device.device, last).await;
        next.ping(1).await;
        let info = world.gateway.session(device.device).unwrap();
        assert_eq!((info.transport, info.rtt.is_some()), (over, over == Transport::Quic));
        link = next;
    }
    assert_eq!(world.gateway.connected(), 1);
    assert_eq!(world.notes.count(|note| matches!(note, Note::Event(FleetEvent::Offline { .. }))), 0);
}

#[tokio::test]
async fn a_certificate_of_another_ca_ends_in_an_alert() {
    let world = World::new().await;
    let known = world.device().await;
    let stranger = World::new().await;
    let foreign = stranger.forged(world.tenant, known.device);
    let foreign = Identity { roots_der: known.roots_der, ..foreign };
    let At::Tcp(address) = world.tcp() else { panic!() };
    // The client's side of the handshake ends before the server has judged, so the error comes later.
    let mut stream = connect_tcp(address, &foreign.roots_der, Some(&foreign), ALPN_LINK).await.unwrap();
    let error = timeout(PATIENCE, stream.read_u8()).await.unwrap().unwrap_err();
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    assert!(matches!(tls, Some(rustls::Error::AlertReceived(_))), "{error:?}");
    assert_eq!(world.notes.count(|note| matches!(note, Note::Up(_))), 0);
}

#[tokio::test]
async fn what_quic_says_in_codes_is_said_in_frames() {
    let world = World::with(Limits { first_frame_ms: 300, enrollments_max: 1, ..Limits::default() }).await;
    let device = world.device().await;
    let roots = device.roots_der.clone();
    let mut nobody = Stream::open(world.tcp(), &roots, None, ALPN_LINK).await;
    let refused = nobody.hear::<Down>().await;
    assert!(matches!(refused, Some(Down::Refused { reason: Refusal::UnknownDevice, .. })), "{refused:?}");
    nobody.gone().await;

    let mut silent = LinkClient::open(world.tcp(), &device).await;
    assert_eq!(silent.refusal().await, Refusal::Busy);

    // The one holds the only place until it has been silent for too long.
    let mut first = enroll_stream(world.tcp(), &roots).await;
    let mut second = enroll_stream(world.tcp(), &roots).await;
    for stream in [&mut first, &mut second] {
        let refused = stream.hear::<EnrollDown>().await;
        assert!(matches!(refused, Some(EnrollDown::Refused { reason: EnrollRefusal::Busy, .. })), "{refused:?}");
        stream.gone().await;
    }
}

#[tokio::test]
async fn a_peer_that_falls_silent_is_given_up_as_over_quic() {
    let world = World::new().await;
    let device = world.device().await;
    let (mut link, _) = LinkClient::up(world.tcp(), &device).await;
    let up = session(&world, device.device, 0).await;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(44)).await;
    link.ping(1).await;
    tokio::time::advance(Duration::from_secs(44)).await;
    link.ping(2).await;
    assert_eq!(world.gateway.connected(), 1);
    // The cable is pulled: no end of the stream, no reset, only silence.
    tokio::time::advance(Duration::from_secs(46)).await;
    down(&world, up).await;
    assert_eq!(world.gateway.connected(), 0);
    drop(link);
}

#[tokio::test]
async fn who_says_nothing_keeps_nobody_from_quic() {
    let world = World::with(Limits { handshakes_tcp_max: 2, ..Limits::default() }).await;
    let (one, two) = (world.device().await, world.device().await);
    let At::Tcp(address) = world.tcp() else { panic!() };
    let mut loris = Vec::new();
    for _ in 0..2 {
        loris.push(TcpStream::connect(address).await.unwrap());
    }
    let (mut link, _) = LinkClient::up(world.address(), &one).await;
    link.ping(1).await;
    // Their time is bounded, and then others get their places.
    let (late, ()) = tokio::join!(LinkClient::up(world.tcp(), &two), async {
        for stream in loris {
            closed(stream).await;
        }
    });
    drop(late);
}

#[tokio::test]
async fn what_is_no_tls_of_ours_is_closed() {
    let world = World::new().await;
    let At::Tcp(address) = world.tcp() else { panic!() };
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0x16, 3, 1, 0xff, 0xff], &[0; 64]] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        closed(stream).await;
    }
    let roots = world.parts.ca.roots_der();
    assert!(connect_tcp(address, &roots, None, b"h2").await.is_err(), "no protocol that both speak");
    enroll_stream(world.tcp(), &roots).await.leave();
    let device = world.device().await;
    let (mut link, _) = LinkClient::start(world.tcp(), &device, hello()).await;
    link.ping(1).await;
}

#[tokio::test]
async fn a_full_gateway_refuses_over_tcp_as_well() {
    let world = World::with(Limits { connections_max: 1, ..Limits::default() }).await;
    let device = world.device().await;
    let At::Tcp(address) = world.tcp() else { panic!() };
    let (mut link, _) = LinkClient::up(world.address(), &device).await;
    closed(TcpStream::connect(address).await.unwrap()).await;
    link.ping(1).await;
    link.stream.leave();
    world.notes.wait(|note| matches!(note, Note::Down { .. }).then_some(())).await;

    // And one over TCP leaves no room for QUIC.
    let _link = loop {
        // quinn still counts a connection that was closed a moment ago.
        match connect_tcp(address, &device.roots_der, Some(&device), ALPN_LINK).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let endpoint = super::client::endpoint();
    let refused = super::client::connect(&endpoint, world.address(), &device.roots_der, Some(&device), ALPN_LINK).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn tcp_can_be_off() {
    let dir = tempfile::tempdir().unwrap();
    let (parts, ..) = World::parts(&dir).await;
    let config = GatewayConfig { tcp: None, ..World::config(&dir, 0, Limits::default()) };
    let gateway = start(config, parts.clone()).await.unwrap();
    assert_eq!(gateway.tcp_addr(), None);

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let _holder = std::net::TcpListener::bind(taken).unwrap();
    let config = GatewayConfig { tcp: Some(taken), ..World::config(&dir, 0, Limits::default()) };
    let Err(error) = start(config, parts).await.map(drop) else { panic!("the port was taken") };
    assert!(error.to_string().contains("quic.tcp_addr"), "{error}");
}

#[tokio::test]
async fn an_address_that_opens_too_many_handshakes_is_counted_over_both() {
    // Loopback has no such limit, so the count itself is looked at.
    let world = World::new().await;
    let At::Tcp(address) = world.tcp() else { panic!() };
    let held = TcpStream::connect(address).await.unwrap();
    let of_address = || world.gateway.context.addresses.lock().count(address.ip());
    while of_address() == 0 {
        tokio::task::yield_now().await;
    }
    drop(held);
    while of_address() > 0 {
        tokio::task::yield_now().await;
    }
    while world.gateway.context.tcp_open.load(Ordering::Relaxed) > 0 {
        tokio::task::yield_now().await;
    }
}
