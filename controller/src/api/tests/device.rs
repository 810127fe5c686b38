//! With a device, over real QUIC: from the request to the delivery report, and everything else that needs one.

use flotilla_protocol::address::Address;
use flotilla_protocol::enroll_code::EnrollCode;
use flotilla_protocol::id::InboundId;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{
    Dispatch, Down, EnrollDown, EnrollUp, InboundMessage, Refusal, Registration, Report, ReportKind, SimHealth,
    SimState, Telemetry, Up,
};
use rcgen::KeyPair;
use reqwest::Method;
use serde_json::{Value, json};

use super::World;
use super::events::follow;
use crate::gateway::tests::client::{Identity, LinkClient, ask, csr, hello};

const OWN_NUMBER: &str = "+255700000001";

/// A device whose radio is the test.
pub(super) struct Device {
    pub(super) identity: Identity,
    pub(super) link: LinkClient,
    position: u64,
}

impl Device {
    /// Enrols with a code from the API, and connects.
    pub(super) async fn new(world: &World) -> Self {
        let created =
            world.call(world.post("/v1/enrollments", &world.key).json(&json!({"device_name": "attic"}))).await;
        let code = EnrollCode::parse(created.body["uri"].as_str().unwrap()).unwrap();
        let roots_der = world.node.api.ca.roots_der();
        let key = KeyPair::generate().unwrap();
        let request = EnrollUp::Request {
            protocol: 1,
            token: code.token,
            secret: code.secret,
            csr_der: csr(&key),
            info: hello().info,
        };
        let EnrollDown::Issued(issued) = ask(world.node.quic_addr, &roots_der, &request).await else {
            panic!("not enrolled");
        };
        let identity = Identity {
            device: issued.device,
            tenant: issued.tenant,
            key,
            chain_der: issued.chain_der,
            roots_der: issued.roots_der,
        };
        let link = Self::connect(world, &identity).await;
        Self { identity, link, position: 0 }
    }

    pub(super) async fn connect(world: &World, identity: &Identity) -> LinkClient {
        let mut hello = hello();
        hello.sims[0].msisdn = Some(Msisdn::parse(OWN_NUMBER).unwrap());
        let (mut link, first) = LinkClient::start(world.node.quic_addr, identity, hello).await;
        assert!(matches!(first, Down::Welcome(_)), "{first:?}");
        link.say(Up::Holding { held: Vec::new(), last: true }).await;
        link
    }

    pub(super) async fn dispatched(&mut self) -> Dispatch {
        loop {
            if let Down::Dispatch(dispatch) = self.link.hear().await.expect("the link is closed") {
                return dispatch;
            }
        }
    }

    /// Reports, and waits until the controller has it durably.
    pub(super) async fn report(&mut self, kind: ReportKind) {
        self.position += 1;
        let at_ms = jiff::Timestamp::now().as_millisecond() as u64;
        self.link.say(Up::Report(Report { position: self.position, at_ms, kind })).await;
        loop {
            if let Down::AckReports { position } = self.link.hear().await.expect("the link is closed")
                && position >= self.position
            {
                return;
            }
        }
    }
}

pub(super) async fn message(world: &World, id: &str) -> Value {
    world.call(world.get(&format!("/v1/messages/{id}"), &world.key)).await.body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_from_the_request_to_its_delivery_report() {
    let world = World::new().await;
    let mut events = follow(&world, "?types=device,message,inbound", None).await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    let mut device = Device::new(&world).await;
    let online = events.next().await.unwrap();
    assert_eq!(
        (online.kind.as_str(), online.data["device"].as_str()),
        ("device.online", Some(&*device.identity.device.to_string()))
    );
    let id = world.send("Habari ya asubuhi").await;
    let dispatch = device.dispatched().await;
    assert_eq!(
        (dispatch.attempt.message.to_string(), dispatch.attempt.number, dispatch.granted),
        (id.clone(), 1, true)
    );
    assert_eq!(message(&world, &id).await["state"], "dispatching");
    device.report(ReportKind::Sent { attempt: dispatch.attempt, segments: 1 }).await;
    assert_eq!(message(&world, &id).await["state"], "sent");
    device.report(ReportKind::Delivered { attempt: dispatch.attempt, segment: 0 }).await;
    let delivered = message(&world, &id).await;
    assert_eq!(
        (&delivered["state"], &delivered["segments_delivered"]),
        (&json!("delivered"), &json!(1)),
        "{delivered}"
    );
    let states: Vec<_> =
        delivered["trace"].as_array().unwrap().iter().map(|step| step["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["queued", "dispatching", "sent", "delivered"]);
    assert_eq!(delivered["device"], device.identity.device.to_string());
    for kind in ["message.accepted", "message.dispatched", "message.sent", "message.delivered"] {
        assert_eq!(events.next().await.unwrap().kind, kind);
    }
    let stats = world.call(world.get("/v1/stats?step=total&by=device", &world.key)).await;
    assert_eq!(stats.body["rows"][0]["delivered"], 1, "{stats:?}");
    let late = world.request(Method::DELETE, &format!("/v1/messages/{id}"), &world.key);
    assert_eq!(world.call(late).await.problem(), (409, "too_late"));

    let from = Address::International(Msisdn::parse("+255712345678").unwrap());
    let inbound = InboundMessage {
        id: InboundId::new(1_763_640_000_000, [7; 10]),
        slot: 0,
        from,
        text: "STOP".into(),
        segments: 1,
        sent_ms: None,
    };
    device.report(ReportKind::Inbound(inbound)).await;
    assert_eq!(events.next().await.unwrap().kind, "inbound.received");
    for (query, count) in [("", 1), ("?from=%2B255712345678", 1), ("?from=BANK", 0)] {
        let listed = world.call(world.get(&format!("/v1/inbound{query}"), &world.key)).await;
        assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(count), "{query}: {listed:?}");
    }
    drop(device);
    let offline = events.next().await.unwrap();
    assert_eq!(offline.kind, "device.offline");
    let health = world.call(world.get("/v1/fleet/health", &world.key)).await;
    assert_eq!(
        (&health.body["devices"]["online"], &health.body["problems"][0]["reason"]),
        (&json!(0), &json!("offline"))
    );
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_is_seen_named_drained_and_thrown_out() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let path = format!("/v1/devices/{}", device.identity.device);
    let telemetry = Telemetry {
        sims: vec![SimHealth {
            slot: 0,
            state: SimState::Ready,
            signal_dbm: Some(-109),
            registration: Registration::Roaming,
            ..SimHealth::default()
        }],
        battery_percent: Some(9),
        charging: Some(false),
        ..Telemetry::default()
    };
    device.link.say(Up::Telemetry(telemetry)).await;
    device.link.ping(1).await;
    let seen = world.call(world.get(&path, &world.key)).await.body;
    assert_eq!(
        (&seen["online"], &seen["battery_percent"], &seen["name"]),
        (&json!(true), &json!(9), &json!("attic")),
        "{seen}"
    );
    let sims = world.call(world.get("/v1/sims", &world.key)).await.body;
    let sim = &sims["items"][0];
    assert_eq!(
        (&sim["msisdn"], &sim["registration"], &sim["signal_dbm"]),
        (&json!(OWN_NUMBER), &json!("roaming"), &json!(-109))
    );
    let health = world.call(world.get("/v1/fleet/health", &world.key)).await.body;
    let reasons: Vec<_> =
        health["problems"].as_array().unwrap().iter().map(|p| p["reason"].as_str().unwrap()).collect();
    assert_eq!(reasons, ["battery_low", "weak_signal"], "{health}");

    let patch = json!({"name": "roof", "labels": {"site": "arusha"}, "settings": {"telemetry_interval_s": 30}});
    let patched = world.call(world.request(Method::PATCH, &path, &world.key).json(&patch)).await.body;
    assert_eq!((&patched["name"], &patched["labels"]["site"]), (&json!("roof"), &json!("arusha")));
    loop {
        if let Down::Settings(settings) = device.link.hear().await.unwrap() {
            assert_eq!(settings.telemetry_interval_s, 30);
            break;
        }
    }
    let sim_path = format!("/v1/sims/{}", sim["id"].as_str().unwrap());
    let renamed = world.call(world.request(Method::PATCH, &sim_path, &world.key).json(&json!({"name": "Voda"}))).await;
    assert_eq!(renamed.body["name"], "Voda");

    let drained = world.call(world.post(&format!("{path}/drain"), &world.key)).await;
    assert_eq!(drained.body["state"], "draining");
    let id = world.send("for whoever may").await;
    device.link.ping(2).await;
    assert_eq!(message(&world, &id).await["state"], "queued");
    assert_eq!(world.call(world.post(&format!("{path}/resume"), &world.key)).await.body["state"], "active");
    assert_eq!(device.dispatched().await.attempt.message.to_string(), id);

    let certificates = world.call(world.get("/v1/certificates", &world.key)).await.body;
    assert_eq!(certificates["items"][0]["device"], device.identity.device.to_string());
    assert_eq!(world.call(world.post(&format!("{path}/revoke"), &world.key)).await.body["state"], "revoked");
    assert_eq!(device.link.refusal().await, Refusal::Revoked);
    let pinned = json!({"to": "+255712345678", "text": "x", "device": device.identity.device});
    let refused = world.call(world.post("/v1/messages", &world.key).json(&pinned)).await;
    assert_eq!((refused.problem(), &refused.body["field"]), ((422, "invalid_field"), &json!("device")));
    let resumed = world.call(world.post(&format!("{path}/resume"), &world.key)).await;
    assert_eq!(resumed.problem(), (409, "conflict"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sim_can_be_chosen_in_three_ways() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let sims = world.call(world.get("/v1/sims", &world.key)).await.body;
    let sim = sims["items"][0]["id"].as_str().unwrap();
    let wishes = [json!({"from": OWN_NUMBER}), json!({"sim": sim}), json!({"device": device.identity.device})];
    for wish in wishes {
        let mut body = json!({"to": "+255712345678", "text": "by you"});
        body.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
        let id = sent.body["messages"][0]["id"].as_str().unwrap().to_owned();
        let dispatch = device.dispatched().await;
        assert_eq!(dispatch.attempt.message.to_string(), id);
        assert!(message(&world, &id).await["only_by"].is_string());
        device.report(ReportKind::Sent { attempt: dispatch.attempt, segments: 1 }).await;
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_answer_ussd_through_the_device() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let path = format!("/v1/devices/{}/ussd", device.identity.device);
    for (reply, expected) in [(Ok("4,200 TZS".to_owned()), 200), (Err("not allowed".to_owned()), 409)] {
        let request = world.post(&path, &world.key).json(&json!({"code": "*102#"})).send();
        let request = tokio::spawn(request);
        let number = loop {
            if let Down::Ussd { request, slot: 0, code } = device.link.hear().await.unwrap() {
                assert_eq!(code, "*102#");
                break request;
            }
        };
        device.link.say(Up::UssdReply { request: number, result: reply }).await;
        let answer = request.await.unwrap().unwrap();
        assert_eq!(answer.status(), expected);
        assert!(answer.text().await.unwrap().contains(if expected == 200 { "4,200 TZS" } else { "not allowed" }));
    }
    let wrong = world.call(world.post(&path, &world.key).json(&json!({"code": "hello world"}))).await;
    assert_eq!((wrong.problem(), &wrong.body["field"]), ((422, "invalid_field"), &json!("code")));
    drop(device);
    world.node.shutdown().await;
}
