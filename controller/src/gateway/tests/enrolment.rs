//! Enrolment as a device and as an impostor sees it, over real QUIC.

use flotilla_protocol::id::EnrollmentId;
use flotilla_protocol::wire::{ENROLL_PROTOCOL, EnrollDown, EnrollRefusal, EnrollUp, Issued, recovery_statement};
use quinn::ConnectionError;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

use super::client::{self, LinkClient, ask, csr, enroll_stream, hello};
use super::*;
use crate::fleet::audit;
use crate::fleet::enrollments::EnrollmentState;

over_both! {
    a_good_code_makes_a_device_that_can_connect
    the_same_key_may_come_again_and_another_may_not
    garbage_and_too_long_frames_are_refused
    a_device_recovers_with_its_key_a_few_times
}

async fn request(world: &World, request: EnrollUp) -> EnrollDown {
    ask(world.at(), &world.parts.ca.roots_der(), &request).await
}

pub(super) fn redeem(code: &flotilla_protocol::enroll_code::EnrollCode, key: &KeyPair) -> EnrollUp {
    EnrollUp::Request {
        protocol: ENROLL_PROTOCOL,
        token: code.token,
        secret: code.secret,
        csr_der: csr(key),
        info: Default::default(),
    }
}

pub(super) fn issued(answer: EnrollDown) -> Issued {
    match answer {
        EnrollDown::Issued(issued) => issued,
        other => panic!("{other:?}"),
    }
}

fn refused(answer: EnrollDown) -> EnrollRefusal {
    match answer {
        EnrollDown::Refused { reason, detail } => {
            assert!(!detail.is_empty());
            reason
        }
        other => panic!("{other:?}"),
    }
}

pub(super) fn identity(issued: Issued, key: KeyPair) -> Identity {
    let Issued { device, tenant, chain_der, roots_der, .. } = issued;
    Identity { device, tenant, key, chain_der, roots_der }
}

async fn a_good_code_makes_a_device_that_can_connect(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let code = world.code().await;
    assert_eq!(code.ca_pins, world.parts.ca.pins());
    let key = KeyPair::generate().unwrap();
    let issued = issued(request(&world, redeem(&code, &key)).await);
    assert_eq!((issued.tenant, issued.tenant_name.as_str()), (world.tenant, "Clinic"));
    assert_eq!(issued.controllers, *controllers());

    let row = world.parts.devices.get(world.tenant, issued.device).await.unwrap();
    assert_eq!(row.name, "van 3");
    let enrollment = world.parts.enrollments.get(world.tenant, code.token, world.now_ms()).await.unwrap();
    assert!(matches!(enrollment.state, EnrollmentState::Used { device, .. } if device == issued.device));
    assert!(world.parts.enrollments.code(code.token, world.now_ms()).is_none(), "a used code is not shown again");

    let (_link, welcome) = LinkClient::up(world.at(), &identity(issued, key)).await;
    assert_eq!((welcome.epoch, welcome.device_ms, welcome.sims.len()), (EPOCH, 1_000, 1));
}

async fn the_same_key_may_come_again_and_another_may_not(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let code = world.code().await;
    let (key, thief) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let first = issued(request(&world, redeem(&code, &key)).await);
    let second = issued(request(&world, redeem(&code, &key)).await);
    assert_eq!(first.device, second.device);
    assert_ne!(first.chain_der, second.chain_der);

    assert_eq!(refused(request(&world, redeem(&code, &thief)).await), EnrollRefusal::UsedToken);
    let entries = audit::list(&*world.parts.catalog, Some(world.tenant), None, 10).await.unwrap();
    let alarm = entries.iter().find(|entry| entry.action == "enrollment.reused").expect("no alarm");
    assert_eq!(alarm.subject, code.token.to_string());
}

#[tokio::test]
async fn bad_tokens_are_told_apart() {
    let world = World::new().await;
    let code = world.code().await;
    let key = KeyPair::generate().unwrap();
    let mut wrong_secret = code.clone();
    wrong_secret.secret[0] ^= 1;
    assert_eq!(refused(request(&world, redeem(&wrong_secret, &key)).await), EnrollRefusal::WrongSecret);
    let mut unknown = code.clone();
    unknown.token = EnrollmentId::new(1, [1; 10]);
    assert_eq!(refused(request(&world, redeem(&unknown, &key)).await), EnrollRefusal::UnknownToken);

    let revoked = world.code().await;
    world.parts.enrollments.revoke(world.tenant, revoked.token, "test".into(), world.now_ms()).await.unwrap();
    assert_eq!(refused(request(&world, redeem(&revoked, &key)).await), EnrollRefusal::Revoked);

    world.clock.ahead_ms.store(3_601_000, Ordering::Relaxed);
    assert_eq!(refused(request(&world, redeem(&code, &key)).await), EnrollRefusal::ExpiredToken);
}

#[tokio::test]
async fn bad_requests_get_a_reason() {
    let world = World::new().await;
    let code = world.code().await;
    let EnrollUp::Request { token, secret, info, csr_der, .. } = redeem(&code, &KeyPair::generate().unwrap()) else {
        panic!()
    };
    let newer = EnrollUp::Request { protocol: ENROLL_PROTOCOL + 1, token, secret, csr_der, info: info.clone() };
    assert_eq!(refused(request(&world, newer).await), EnrollRefusal::UnsupportedProtocol);
    let no_csr = EnrollUp::Request { protocol: ENROLL_PROTOCOL, token, secret, csr_der: vec![1, 2, 3], info };
    assert_eq!(refused(request(&world, no_csr).await), EnrollRefusal::BadRequest);
    let unasked = EnrollUp::Proof { signature: vec![], csr_der: vec![] };
    assert_eq!(refused(request(&world, unasked).await), EnrollRefusal::BadRequest);
}

async fn garbage_and_too_long_frames_are_refused(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let roots = world.parts.ca.roots_der();
    let announced_4_gib = [0xff; 8].to_vec();
    let garbage = [&20u32.to_le_bytes()[..], &[0xee; 20]].concat();
    let long = [&60_000u32.to_le_bytes()[..], &[0; 60_000]].concat();
    for bytes in [announced_4_gib, garbage, long] {
        let mut stream = enroll_stream(world.at(), &roots).await;
        stream.write(&bytes).await;
        let answer = stream.hear::<EnrollDown>().await.expect("closed without a reason");
        assert_eq!(refused(answer), EnrollRefusal::BadRequest);
        stream.gone().await;
    }
}

#[tokio::test]
async fn whoever_says_nothing_is_closed() {
    let world = World::with(Limits { first_frame_ms: 500, ..Limits::default() }).await;
    let roots = world.parts.ca.roots_der();
    let mut half = enroll_stream(world.at(), &roots).await;
    half.write(&[9]).await;
    let ConnectionError::ApplicationClosed(close) = half.closed().await else { panic!() };
    assert_eq!(close.error_code, close::TOO_SLOW);
    let endpoint = client::endpoint();
    let silent = client::connect(&endpoint, world.address(), &roots, None, flotilla_protocol::wire::ALPN_ENROLL);
    let silent = silent.await.unwrap();
    let ConnectionError::ApplicationClosed(close) = timeout(PATIENCE, silent.closed()).await.unwrap() else { panic!() };
    assert_eq!(close.error_code, close::TOO_SLOW);
}

async fn recover(world: &World, identity: &Identity, signer: &KeyPair) -> EnrollDown {
    let mut stream = enroll_stream(world.at(), &identity.roots_der).await;
    stream
        .say(&EnrollUp::Recover { protocol: ENROLL_PROTOCOL, device: identity.device, tenant: identity.tenant })
        .await;
    let nonce = match stream.hear().await.unwrap() {
        EnrollDown::Challenge { nonce } => nonce,
        other => return other,
    };
    let random = SystemRandom::new();
    let pkcs8 = signer.serialize_der();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &pkcs8, &random).unwrap();
    let signature = key.sign(&random, &recovery_statement(identity.device, &nonce)).unwrap();
    stream.say(&EnrollUp::Proof { signature: signature.as_ref().to_vec(), csr_der: csr(&identity.key) }).await;
    stream.hear().await.unwrap()
}

async fn a_device_recovers_with_its_key_a_few_times(over: Transport) {
    let world = World::over(over, Limits::default()).await;
    let device = world.device().await;
    let stranger = KeyPair::generate().unwrap();
    assert_eq!(refused(recover(&world, &device, &stranger).await), EnrollRefusal::BadRequest);
    for _ in 0..2 {
        let again = issued(recover(&world, &device, &device.key).await);
        assert_eq!(again.device, device.device);
        let again = Identity { chain_der: again.chain_der, ..clone(&device) };
        LinkClient::up(world.at(), &again).await;
    }
    assert_eq!(refused(recover(&world, &device, &device.key).await), EnrollRefusal::RecoveriesUsedUp);
    let devices = &world.parts.devices;
    devices.set_draining(world.tenant, device.device, false, "test".into(), world.now_ms()).await.unwrap();
    issued(recover(&world, &device, &device.key).await);
    devices.revoke(world.tenant, device.device, "test".into(), world.now_ms()).await.unwrap();
    assert_eq!(refused(recover(&world, &device, &device.key).await), EnrollRefusal::Revoked);
    assert_eq!(LinkClient::refused(world.at(), &device, hello()).await, Refusal::Revoked);
}

fn clone(identity: &Identity) -> Identity {
    let key = KeyPair::try_from(identity.key.serialize_der()).unwrap();
    let Identity { device, tenant, chain_der, roots_der, .. } = identity;
    Identity { device: *device, tenant: *tenant, key, chain_der: chain_der.clone(), roots_der: roots_der.clone() }
}
