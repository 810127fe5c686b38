//! Binding, keeping, losing and ending sessions.

use std::sync::Arc;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rusmpp::Pdu;
use rusmpp::values::InterfaceVersion;
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::support::{bound, client_with, outgoing, settings, within};
use crate::maker::{Judged, Submitted};
use crate::smpp::testing::{Options, Seen, Smsc};
use crate::smpp::{State, judge};

#[tokio::test]
async fn each_way_to_bind() {
    for (bind, sends, receives) in
        [("transmitter", true, false), ("receiver", false, true), ("transceiver", true, true), ("pair", true, true)]
    {
        let (mut smsc, client) = bound(Options::default(), &[("bind", bind), ("system_type", "VMS")]).await;
        client.until(|state| *state == State::Bound { receiving: receives }).await;
        let mut binds = Vec::new();
        for _ in 0..if bind == "pair" { 2 } else { 1 } {
            let Some(Seen::Bind { pdu, .. }) = within(smsc.until(|seen| matches!(seen, Seen::Bind { .. }))).await
            else {
                panic!()
            };
            binds.push(match *pdu {
                Pdu::BindTransmitter(bind) => ("transmitter", bind.system_type, bind.interface_version),
                Pdu::BindReceiver(bind) => ("receiver", bind.system_type, bind.interface_version),
                Pdu::BindTransceiver(bind) => ("transceiver", bind.system_type, bind.interface_version),
                other => panic!("{other:?}"),
            });
        }
        assert!(binds.iter().all(|(_, kind, version)| kind.as_str() == "VMS" && *version == InterfaceVersion::Smpp3_4));
        let mut kinds: Vec<&str> = binds.iter().map(|bind| bind.0).collect();
        kinds.sort_unstable();
        assert_eq!(kinds, if bind == "pair" { vec!["receiver", "transmitter"] } else { vec![bind] });
        let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
        assert_eq!(matches!(outcome.submitted, Submitted::Accepted { .. }), sends, "{bind}: {outcome:?}");
        within(client.handle.shutdown()).await;
        assert_eq!(client.handle.state(), State::Stopped);
    }
}

#[tokio::test]
async fn version_3_3_has_no_parameters() {
    let options = Options { version: None, ..Options::default() };
    let (mut smsc, client) = bound(options, &[("version", "3.3")]).await;
    for _ in 0..2 {
        let Some(Seen::Bind { pdu, octets, .. }) = within(smsc.until(|seen| matches!(seen, Seen::Bind { .. }))).await
        else {
            panic!()
        };
        assert!(matches!(*pdu, Pdu::BindTransmitter(_) | Pdu::BindReceiver(_)), "there was no transceiver then");
        assert_eq!(octets[16 + "flotilla\0secret\0\0".len()], 0x33);
    }
    let outcome = within(client.handle.submit(outgoing(1, &"x".repeat(200)))).await;
    assert_eq!(outcome.segments_accepted, 2);
    for _ in 0..2 {
        let (_, submit, _) = within(smsc.next_submit()).await.unwrap();
        assert!(submit.tlvs().is_empty());
    }
}

/// An SMSC with a certificate for `localhost`, and its certificate.
async fn smsc_with_tls() -> (Smsc, String) {
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    let tls = Some(TlsAcceptor::from(Arc::new(config)));
    (Smsc::start(Options { tls, ..Options::default() }).await.unwrap(), cert.pem())
}

#[tokio::test]
async fn tls_with_a_given_certificate() {
    let (mut smsc, pem) = smsc_with_tls().await;
    let fields = [("tls", "true"), ("ca_pem", pem.as_str()), ("server_name", "localhost")];
    let client = client_with(settings(&smsc, &fields), 8);
    client.until(|state| matches!(state, State::Bound { .. })).await;
    let outcome = within(client.handle.submit(outgoing(1, "secret text"))).await;
    assert!(matches!(outcome.submitted, Submitted::Accepted { .. }));
    let (_, submit, _) = within(smsc.next_submit()).await.unwrap();
    assert_eq!(submit.short_message().as_ref(), b"secret text");
    within(client.handle.shutdown()).await;
    assert!(within(smsc.until(|seen| matches!(seen, Seen::Unbind { .. }))).await.is_some());
}

#[tokio::test]
async fn tls_that_is_not_trusted() {
    let (smsc, pem) = smsc_with_tls().await;
    for fields in [
        // The system's certificates do not know it; the name is another; no TLS at all.
        vec![("tls", "true"), ("server_name", "localhost")],
        vec![("tls", "true"), ("ca_pem", pem.as_str()), ("server_name", "smsc.example")],
        vec![("response_timeout_ms", "300")],
    ] {
        let client = client_with(settings(&smsc, &fields), 8);
        client.until(|state| matches!(state, State::BackingOff { .. })).await;
        let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
        let Submitted::Refused(refusal) = outcome.submitted else { panic!("{outcome:?}") };
        assert_eq!(&*refusal.code, "smpp-not-bound");
    }
}

#[tokio::test]
async fn a_refused_account_is_no_storm() {
    let options = Options { bind: Box::new(|_, _| 0x0e), ..Options::default() };
    let mut smsc = Smsc::start(options).await.unwrap();
    let client = client_with(settings(&smsc, &[]), 8);
    let state = client.until(|state| matches!(state, State::Refused { .. })).await;
    let State::Refused { code, retry_in_ms, .. } = state else { unreachable!() };
    assert_eq!(&*code, "smpp-0x0e");
    assert!(retry_in_ms >= 15_000);
    within(client.handle.shutdown()).await;
    assert!(within(smsc.until(|seen| matches!(seen, Seen::Closed { .. }))).await.is_some());
    // A refusal that passes is tried again soon.
    let options = Options { bind: Box::new(|nth, _| if nth == 0 { 0x08 } else { 0 }), ..Options::default() };
    let (_smsc, _client) = bound(options, &[]).await;
}

#[tokio::test]
async fn an_account_is_tried_without_sending() {
    let smsc = Smsc::start(Options::default()).await.unwrap();
    assert!(matches!(within(judge(settings(&smsc, &[]))).await, Judged::Works(_)));
    assert!(matches!(within(judge(settings(&smsc, &[("bind", "pair")]))).await, Judged::Works(_)));
    let mut wrong = settings(&smsc, &[]);
    wrong.password = "guess".into();
    assert!(matches!(within(judge(wrong)).await, Judged::Refused(_)));
    let mut nobody = settings(&smsc, &[]);
    drop(smsc);
    // A port that was free a moment ago.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    nobody.port = free.port();
    assert!(matches!(within(judge(nobody)).await, Judged::Unclear(_)));
}

#[tokio::test]
async fn addresses_that_are_not_allowed() {
    let mut smsc = Smsc::start(Options::default()).await.unwrap();
    let mut settings = settings(&smsc, &[]);
    settings.may_connect = Some(Arc::new(|address| !address.is_loopback()));
    let client = client_with(settings, 8);
    let state = client.until(|state| matches!(state, State::BackingOff { .. })).await;
    assert!(matches!(state, State::BackingOff { reason, .. } if reason.contains("127.0.0.1")));
    within(client.handle.shutdown()).await;
    assert!(smsc.look().is_none(), "nobody came");
}

#[tokio::test]
async fn a_lost_session_comes_back() {
    let (mut smsc, client) = bound(Options::default(), &[]).await;
    smsc.close(0);
    within(smsc.until(|seen| matches!(seen, Seen::Bind { session: 1, .. }))).await.unwrap();
    client.until(|state| matches!(state, State::Bound { .. })).await;
    // And when the SMSC ends it in order.
    smsc.send(1, Pdu::Unbind);
    within(smsc.until(|seen| matches!(seen, Seen::UnbindAnswer { session: 1 }))).await.unwrap();
    within(smsc.until(|seen| matches!(seen, Seen::Bind { session: 2, .. }))).await.unwrap();
    let states = client.until(|state| matches!(state, State::Bound { .. })).await;
    assert_eq!(states, State::Bound { receiving: true });
    let outcome = within(client.handle.submit(outgoing(1, "hi"))).await;
    assert!(matches!(outcome.submitted, Submitted::Accepted { .. }), "{outcome:?}");
}

#[tokio::test]
async fn a_link_that_is_dead_is_noticed() {
    let options = Options { answers_enquire_link: false, ..Options::default() };
    let fields = [("enquire_link_ms", "100"), ("response_timeout_ms", "150")];
    let (mut smsc, client) = bound(options, &fields).await;
    within(smsc.until(|seen| matches!(seen, Seen::EnquireLink { session: 0 }))).await.unwrap();
    let state = client.until(|state| matches!(state, State::BackingOff { .. })).await;
    assert!(matches!(state, State::BackingOff { reason, .. } if reason.contains("enquire_link")));
    within(smsc.until(|seen| matches!(seen, Seen::Bind { session: 1, .. }))).await.unwrap();
}

#[tokio::test]
async fn a_link_that_lives_is_kept() {
    let (mut smsc, client) = bound(Options::default(), &[("enquire_link_ms", "100")]).await;
    for _ in 0..5 {
        within(smsc.until(|seen| matches!(seen, Seen::EnquireLink { session: 0 }))).await.unwrap();
    }
    smsc.send(0, Pdu::EnquireLink);
    within(smsc.until(|seen| matches!(seen, Seen::EnquireLinkAnswer { session: 0 }))).await.unwrap();
    assert_eq!(client.handle.state(), State::Bound { receiving: true });
}

#[tokio::test]
async fn garbage_ends_the_session_and_nothing_else() {
    let (mut smsc, client) = bound(Options::default(), &[]).await;
    // A PDU that nobody knows is refused; the session lives on.
    smsc.send_raw(0, [&[0, 0, 0, 18, 0, 0, 0x0f, 0xff, 0, 0, 0, 0, 0, 0, 0, 9], &[1u8, 2][..]].concat());
    within(smsc.until(|seen| matches!(seen, Seen::GenericNack { session: 0, status: 0x03 }))).await.unwrap();
    // A deliver_sm that cannot be read is refused for good.
    smsc.send_raw(0, vec![0, 0, 0, 17, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 10, 1]);
    let refused = within(smsc.until(|seen| matches!(seen, Seen::DeliverAnswer { .. }))).await;
    assert!(matches!(refused, Some(Seen::DeliverAnswer { sequence: 10, status: 0x66, .. })));
    // Behind an impossible length nobody can read on.
    smsc.send_raw(0, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec());
    within(smsc.until(|seen| matches!(seen, Seen::GenericNack { session: 0, status: 0x02 }))).await.unwrap();
    within(smsc.until(|seen| matches!(seen, Seen::Bind { session: 1, .. }))).await.unwrap();
    client.until(|state| matches!(state, State::Bound { .. })).await;
}

#[tokio::test]
async fn the_last_handle_ends_the_session_in_order() {
    let (mut smsc, client) = bound(Options::default(), &[("bind", "pair")]).await;
    let copy = client.handle.clone();
    drop(client.handle);
    assert!(matches!(within(copy.submit(outgoing(1, "hi"))).await.submitted, Submitted::Accepted { .. }));
    drop(copy);
    for _ in 0..2 {
        within(smsc.until(|seen| matches!(seen, Seen::Unbind { .. }))).await.unwrap();
    }
    // An SMSC that does not answer an unbind is left anyway.
    let options = Options { answers_unbind: false, ..Options::default() };
    let (mut smsc, client) = bound(options, &[]).await;
    within(client.handle.shutdown()).await;
    within(smsc.until(|seen| matches!(seen, Seen::Closed { .. }))).await.unwrap();
}
