//! Enrolments, devices, the CA, the audit trail.

use flotilla_protocol::enroll_code::EnrollCode;
use reqwest::Method;
use serde_json::json;

use super::World;

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_shown_while_it_is_open() {
    let world = World::new().await;
    let body = json!({"device_name": "Front desk", "ttl_s": 600});
    let created = world.call(world.post("/v1/enrollments", &world.key).json(&body)).await;
    assert_eq!(created.status, 201, "{created:?}");
    let code = EnrollCode::parse(created.body["uri"].as_str().unwrap()).unwrap();
    assert_eq!((code.tenant_name.as_str(), code.ca_pins.len()), ("First", 1));
    assert_eq!(code.controllers, [world.node.quic_addr.to_string()]);
    assert!(created.body["qr_svg"].as_str().unwrap().contains("<svg"));
    let path = format!("/v1/enrollments/{}", created.body["id"].as_str().unwrap());
    for (picture, media_type) in
        [("qr.svg", "image/svg+xml"), ("qr.png", "image/png"), ("qr.txt", "text/plain; charset=utf-8")]
    {
        let answer = world.call(world.get(&format!("{path}/{picture}"), &world.key)).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, media_type));
        assert_eq!(answer.header("cache-control"), "no-store");
    }
    let none = world.call(world.get(&format!("{path}/qr.gif"), &world.key)).await;
    assert_eq!(none.problem(), (404, "not_found"));
    // The secret is in no other answer.
    let found = world.call(world.get(&path, &world.key)).await;
    assert_eq!((found.body.get("uri"), &found.body["state"]), (None, &json!("open")));
    let revoked = world.call(world.request(Method::DELETE, &path, &world.key)).await;
    assert_eq!(revoked.body["state"], "revoked");
    let gone = world.call(world.get(&format!("{path}/qr.svg"), &world.key)).await;
    assert_eq!(gone.problem(), (410, "gone"));
    for (body, field) in [(json!({"ttl_s": 5}), "ttl_s"), (json!({"device_name": "x".repeat(65)}), "device_name")] {
        let answer = world.call(world.post("/v1/enrollments", &world.key).json(&body)).await;
        assert_eq!((answer.problem(), &answer.body["field"]), ((422, "invalid_field"), &json!(field)));
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ca_turns_step_by_step() {
    let world = World::new().await;
    let phase = |answer: super::Answer| answer.body["phase"].as_str().map(str::to_owned);
    let step = |name: &str| world.post(&format!("/v1/ca/rotate/{name}"), &world.root);
    let forced = json!({"force": false});
    let first = world.call(world.get("/v1/ca", &world.key)).await;
    assert_eq!((&first.body["phase"], first.body["pins"].as_array().map(Vec::len)), (&json!("stable"), Some(1)));
    assert!(first.body["roots_pem"][0].as_str().unwrap().starts_with("-----BEGIN CERTIFICATE-----\n"));
    assert_eq!(world.call(step("activate")).await.problem(), (409, "conflict"));
    assert_eq!(phase(world.call(step("prepare")).await).as_deref(), Some("prepared"));
    assert_eq!(phase(world.call(step("rollback").json(&forced)).await).as_deref(), Some("stable"));
    assert_eq!(phase(world.call(step("prepare")).await).as_deref(), Some("prepared"));
    assert_eq!(phase(world.call(step("activate")).await).as_deref(), Some("active"));
    let last = world.call(step("finish").json(&forced)).await;
    assert_eq!(last.body["phase"], "stable", "{last:?}");
    assert_ne!(last.body["issuing"], first.body["issuing"]);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acts_are_written_down() {
    let world = World::new().await;
    let (key, _) = world.new_key(&["send"], 5).await;
    let patch = world.request(Method::PATCH, &format!("/v1/keys/{key}"), &world.key);
    world.call(patch.json(&json!({"disabled": true, "rate_per_min": 7}))).await;
    let audit = world.call(world.get("/v1/audit", &world.key)).await;
    let acts: Vec<_> =
        audit.body["items"].as_array().unwrap().iter().map(|act| act["action"].as_str().unwrap()).collect();
    assert_eq!(acts, ["key.rate", "key.disable", "key.create", "key.create", "tenant.create"]);
    assert!(audit.body["items"][0]["actor"].as_str().unwrap().starts_with("key_"));
    let page = world.call(world.get("/v1/audit?limit=2", &world.key)).await;
    let next = page.body["next"].as_str().unwrap();
    let rest = world.call(world.get(&format!("/v1/audit?limit=2&cursor={next}"), &world.key)).await;
    assert_eq!(rest.body["items"][0]["action"], "key.create");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_that_are_not_there_are_not_found() {
    let world = World::new().await;
    let path = "/v1/devices/dev_00000000000e00800000000000";
    let ussd = world.post(&format!("{path}/ussd"), &world.key).json(&json!({"code": "*102#"}));
    let patch = world.request(Method::PATCH, path, &world.key).json(&json!({"name": "x"}));
    let mut requests = vec![world.get(path, &world.key), patch, ussd];
    for act in ["drain", "resume", "revoke"] {
        requests.push(world.post(&format!("{path}/{act}"), &world.key));
    }
    requests.push(world.get("/v1/sims/sim_00000000000e00800000000000", &world.key));
    for request in requests {
        assert_eq!(world.call(request).await.problem(), (404, "not_found"));
    }
    let settings = json!({"settings": {"telemetry_interval_s": 1}});
    let answer = world.call(world.request(Method::PATCH, path, &world.key).json(&settings)).await;
    assert_eq!(answer.body["field"], "settings.telemetry_interval_s");
    world.node.shutdown().await;
}
