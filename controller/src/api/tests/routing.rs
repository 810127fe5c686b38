//! What people set about routing, and see of it.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::number::Iccid;
use flotilla_protocol::wire::{Attempt, ReportKind, SimInfo, Up};
use flotilla_routing::settings::{Limits, TenantRouting};
use reqwest::Method;
use serde_json::{Value, json};

use super::World;
use super::device::{Device, message};
use super::events::follow;
use crate::api::examples;
use crate::fleet::audit::By;
use crate::fleet::routing;
use crate::gateway::tests::client::hello;

#[tokio::test(flavor = "multi_thread")]
async fn routing_settings_have_a_version() {
    let world = World::new().await;
    let read = world.call(world.get("/v1/routing", &world.key)).await;
    assert_eq!((read.status, read.header("etag"), &read.body["version"]), (200, "\"0\"", &json!(0)), "{read:?}");
    assert_eq!(read.body["settings"]["sticky_points"], 20);
    let put = |tag: Option<&str>, key: &str| {
        let request = world.request(Method::PUT, "/v1/routing", key).json(&examples::routing_new());
        match tag {
            Some(tag) => request.header("if-match", tag),
            None => request,
        }
    };
    let blind = world.call(put(None, &world.key)).await;
    assert_eq!((blind.problem(), &blind.body["field"]), ((428, "precondition_required"), &json!("if-match")));
    let odd = world.call(put(Some("new"), &world.key)).await;
    assert_eq!(odd.problem(), (400, "invalid_header"));
    let (_, reader) = world.new_key(&["read"], 0).await;
    assert_eq!(world.call(put(Some("*"), &reader)).await.problem(), (403, "forbidden"));

    let first = world.call(put(Some("\"0\""), &world.key)).await;
    assert_eq!((first.status, first.header("etag"), &first.body["version"]), (200, "\"1\"", &json!(1)), "{first:?}");
    let read = world.call(world.get("/v1/routing", &reader)).await;
    assert_eq!(read.body["settings"]["plans"]["fast"]["steps"][0]["routes"][0]["pool"], "otp");
    assert_eq!(read.body["settings"]["budget"]["per_month"], "500000");
    let late = world.call(put(Some("\"0\""), &world.key)).await;
    assert_eq!((late.problem(), &late.body["field"]), ((412, "precondition_failed"), &json!("if-match")));
    assert_eq!(world.call(put(Some("*"), &world.key)).await.body["version"], 2);
    // What was read can be sent back as it is.
    let again = world.request(Method::PUT, "/v1/routing", &world.key).header("if-match", "2");
    assert_eq!(world.call(again.json(&read.body["settings"])).await.body["version"], 3);
    let (other, other_key) = world.new_tenant("Second").await;
    assert_eq!(world.call(world.get("/v1/routing", &other_key)).await.body["version"], 0, "{other} has its own");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_routing_settings_name_their_field() {
    let world = World::new().await;
    for (body, code, field) in [
        (json!({"rule": []}), "unknown_field", "rule"),
        (json!({"limits": {"per_day": -1}}), "invalid_field", "limits.per_day"),
        (json!({"rules": [{"name": "a"}]}), "missing_field", "rules[0].plan"),
        (
            json!({"budget": {"per_month": "much", "stop": true, "warn_percent": 80}}),
            "invalid_field",
            "budget.per_month",
        ),
    ] {
        let request = world.request(Method::PUT, "/v1/routing", &world.key).header("if-match", "*").json(&body);
        let refused = world.call(request).await;
        assert_eq!((refused.problem(), &refused.body["field"]), ((422, code), &json!(field)), "{body}");
    }
    world.node.shutdown().await;
}

fn sent(attempt: Attempt) -> ReportKind {
    ReportKind::Sent { attempt, segments: 1 }
}

async fn sim_of(world: &World) -> Value {
    let sims = world.call(world.get("/v1/sims", &world.key)).await.body;
    let path = format!("/v1/sims/{}", sims["items"][0]["id"].as_str().unwrap());
    world.call(world.get(&path, &world.key)).await.body
}

async fn change_sim(world: &World, sim: &Value, patch: Value) -> super::Answer {
    let path = format!("/v1/sims/{}", sim["id"].as_str().unwrap());
    world.call(world.request(Method::PATCH, &path, &world.key).json(&patch)).await
}

async fn explain(world: &World, body: Value) -> Value {
    let answer = world.call(world.post("/v1/routes/explain", &world.key).json(&body)).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_is_in_force_when_it_is_answered() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let sim = sim_of(&world).await;
    assert_eq!((&sim["held"], &sim["settings"]["limits"]["per_day"]), (&json!(false), &json!(null)), "{sim}");
    let change = json!({"limits": {"per_day": 1}, "price": {"per_segment": "0.25"}, "balance": "3", "pools": ["otp"]});
    let changed = change_sim(&world, &sim, change).await;
    assert_eq!((changed.status, &changed.body["balance"]["amount"]), (200, &json!("3")), "{changed:?}");
    let first = world.send("one").await;
    let dispatch = device.dispatched().await;
    assert_eq!(dispatch.attempt.message.to_string(), first);
    device.report(sent(dispatch.attempt)).await;
    assert_eq!(message(&world, &first).await["cost"], "0.25");

    let second = world.send("two").await;
    let to = json!({"to": "+255712345678", "text": "three"});
    let why = explain(&world, to.clone()).await;
    assert_eq!((&why["plan"], &why["choice"]["outcome"]), (&json!("sims-first"), &json!("wait")), "{why}");
    assert_eq!((&why["routes"][0]["sim"], &why["routes"][0]["reasons"][0]["code"]), (&sim["id"], &json!("limit")));
    let seen = sim_of(&world).await["routing"].clone();
    let limits = json!([{"name": "per_minute", "limit": 30, "used": 1, "left": 29},
        {"name": "per_day", "limit": 1, "used": 1, "left": 0}]);
    assert_eq!(seen["limits"], limits, "a phone's own, and what was set: {seen}");
    assert_eq!(
        (&seen["month_cost"], &seen["obstacles"][0], &seen["circuit"]),
        (&json!("0.25"), &json!("limit"), &json!("closed"))
    );
    assert_eq!(message(&world, &second).await["state"], "queued");
    let health = world.call(world.get("/v1/fleet/health", &world.key)).await.body;
    assert_eq!(
        (&health["routes"][0]["sim"], &health["routes"][0]["obstacles"]),
        (&sim["id"], &json!(["limit"])),
        "{health}"
    );
    let stats = world.call(world.get("/v1/stats?step=total&by=sim", &world.key)).await;
    assert_eq!(stats.body["rows"][0]["cost"], "0.25", "{stats:?}");

    let path = format!("/v1/devices/{}", device.identity.device);
    let limit = json!({"limits": {"per_hour": 1}});
    let both = world.call(world.request(Method::PATCH, &path, &world.key).json(&limit)).await;
    assert_eq!((both.status, &both.body["limits"]["per_hour"]), (200, &json!(1)), "{both:?}");
    assert_eq!(sim_of(&world).await["routing"]["obstacles"], json!(["limit", "device-limit"]));
    let none = world.request(Method::PATCH, &path, &world.key).json(&json!({"limits": null}));
    assert_eq!(world.call(none).await.body["limits"]["per_hour"], json!(null));

    // Back to what counts without it: the message that waits goes.
    assert_eq!(change_sim(&world, &sim, json!({"limits": null})).await.status, 200);
    assert_eq!(device.dispatched().await.attempt.message.to_string(), second);
    let audit = world.call(world.get("/v1/audit", &world.key)).await.body;
    assert_eq!(audit["items"][0]["action"], "sim.change");
    for (patch, code, field) in [
        (json!({"limits": {"per_week": 1}}), "unknown_field", "limits.per_week"),
        (json!({"weight": 101}), "invalid_field", "weight"),
        (json!({"timezone": "Mars/Olympus"}), "invalid_field", "timezone"),
        (json!({"windows": [{"from": "8:00", "to": "20:00"}]}), "invalid_field", "windows[0].from"),
        (json!({"balance": "lots"}), "invalid_field", "balance"),
        (json!({"colour": 1}), "unknown_field", "colour"),
    ] {
        let refused = change_sim(&world, &sim, patch.clone()).await;
        assert_eq!((refused.problem(), &refused.body["field"]), ((422, code), &json!(field)), "{patch}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_swapped_card_waits_for_somebody_to_confirm_it() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let mut events = follow(&world, "?types=sim", None).await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    let former = sim_of(&world).await;
    let swapped = SimInfo { iccid: Some(Iccid::parse("8944110068040085321").unwrap()), ..hello().sims[0].clone() };
    device.link.say(Up::Sims { sims: vec![swapped] }).await;
    device.link.ping(1).await;
    let event = events.next().await.unwrap();
    assert_eq!(
        (event.kind.as_str(), &event.data["change"], &event.data["held"]),
        ("sim.changed", &json!("replaced"), &json!(true))
    );
    assert_eq!(event.data["former"], former["id"]);
    let id = world.send("not by a stranger's card").await;
    let new = event.data["sim"].as_str().unwrap().to_owned();
    let shown = world.call(world.get(&format!("/v1/sims/{new}"), &world.key)).await.body;
    assert_eq!((&shown["held"], &shown["routing"]["obstacles"]), (&json!(true), &json!(["held"])), "{shown}");
    assert_eq!(message(&world, &id).await["state"], "queued");
    let confirm = world.post(&format!("/v1/sims/{new}/confirm"), &world.key);
    assert_eq!(world.call(confirm).await.body["held"], false);
    assert_eq!(device.dispatched().await.attempt.message.to_string(), id);
    assert_eq!(events.next().await.unwrap().data["change"], "removed");
    assert_eq!(events.next().await.unwrap().data["change"], "confirmed");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_choose_plans_and_say_so() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let sim = sim_of(&world).await;
    let settings = json!({"rules": [{"name": "codes", "when": {"text": "^Your code"}, "plan": "otp-only"}],
        "plans": {"otp-only": {"steps": [{"routes": [{"pool": "otp"}]}]}}});
    let put = world.request(Method::PUT, "/v1/routing", &world.key).header("if-match", "*").json(&settings);
    assert_eq!(world.call(put).await.status, 200);
    let code = json!({"to": "+255712345678", "text": "Your code is 4711"});
    let why = explain(&world, code.clone()).await;
    assert_eq!(
        (&why["plan"], &why["rules"]),
        (&json!("otp-only"), &json!([{"name": "codes", "unmet": null}])),
        "{why}"
    );
    assert_eq!(why["choice"]["outcome"], "wait", "no SIM is in the pool: {why}");
    let other = explain(&world, json!({"to": "+255712345678", "text": "Hello"})).await;
    assert_eq!((&other["plan"], &other["choice"]["sim"]), (&json!("sims-first"), &sim["id"]), "{other}");
    assert!(other["rules"][0]["unmet"].is_string() || other["rules"][0]["unmet"].is_object(), "{other}");

    let sent_id =
        world.call(world.post("/v1/messages", &world.key).json(&code)).await.body["messages"][0]["id"].clone();
    let named = json!({"to": "+255712345679", "text": "x", "route": "sims-only", "max_cost": "1", "from": "SHOP"});
    let nobody = world.call(world.post("/v1/routes/explain", &world.key).json(&named)).await;
    assert_eq!((nobody.problem(), &nobody.body["field"]), ((422, "invalid_field"), &json!("from")));
    let account = json!({"maker": "twilio", "name": "t", "enabled": false, "fields": {"account_sid": format!("AC{}", "1".repeat(32))},
        "secrets": {"auth_token": "x".repeat(32)}, "senders": [{"from": "Shop"}]});
    let made = world.call(world.post("/v1/providers", &world.key).json(&account)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let unfit = explain(&world, named).await;
    assert_eq!(unfit["routes"][0]["reasons"][0]["code"], "sender-not-served", "{unfit}");
    assert_eq!(change_sim(&world, &sim, json!({"pools": ["otp"]})).await.status, 200);
    let dispatch = device.dispatched().await;
    assert_eq!(dispatch.attempt.message.to_string(), sent_id.as_str().unwrap());
    let trace = message(&world, sent_id.as_str().unwrap()).await["trace"].clone();
    assert_eq!((&trace[1]["why"]["rule"], &trace[1]["why"]["step"]), (&json!("codes"), &json!(1)), "{trace}");
    let wrong = json!({"plans": {"a": {"steps": []}}});
    let put = world.request(Method::PUT, "/v1/routing", &world.key).header("if-match", "*").json(&wrong);
    let refused = world.call(put).await;
    assert_eq!((refused.problem(), &refused.body["field"]), ((422, "invalid_field"), &json!("plans.a.steps")));
    let many = world
        .post("/v1/routes/explain", &world.key)
        .json(&json!({"to": ["+255712345678", "+255712345679"], "text": "x"}));
    assert_eq!(world.call(many).await.problem(), (422, "invalid_field"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_low_balance_takes_points_and_is_shown_with_its_reason() {
    let world = World::new().await;
    let _device = Device::new(&world).await;
    let sim = sim_of(&world).await;
    let health = async || world.call(world.get("/v1/fleet/health", &world.key)).await.body["routes"][0].clone();
    assert_eq!(health().await["score"]["value"], 100);
    for (told, points) in [(json!("3"), None), (json!("2.5"), Some(10)), (json!("0"), Some(30)), (json!(null), None)] {
        let changed = change_sim(&world, &sim, json!({"balance": told, "low_balance": "2.5"})).await;
        assert_eq!(changed.status, 200, "{changed:?}");
        let seen = health().await;
        assert_eq!(seen["score"]["value"], 100 - points.unwrap_or(0), "{told}: {seen}");
        let why = explain(&world, json!({"to": "+255712345678", "text": "one"})).await["routes"][0].clone();
        for reasons in [&seen["score"]["reasons"], &why["health_reasons"]] {
            let reason = reasons.as_array().unwrap().first();
            let shown = reason.map(|reason| (reason["name"].clone(), reason["points"].clone()));
            assert_eq!(shown, points.map(|points| (json!("balance"), json!(points))), "{told}: {reasons}");
        }
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spent_budget_is_told_and_stops() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let sim = sim_of(&world).await;
    assert_eq!(change_sim(&world, &sim, json!({"price": {"per_segment": "0.5"}})).await.status, 200);
    let settings = json!({"budget": {"per_month": "1", "stop": true, "warn_percent": 50}});
    let put = world.request(Method::PUT, "/v1/routing", &world.key).header("if-match", "*").json(&settings);
    assert_eq!(world.call(put).await.status, 200);
    let mut events = follow(&world, "?types=tenant", None).await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    for (text, kind) in [("one", "tenant.budget_warned"), ("two", "tenant.budget_spent")] {
        world.send(text).await;
        let attempt = device.dispatched().await.attempt;
        device.report(sent(attempt)).await;
        let event = events.next().await.unwrap();
        assert_eq!((event.kind.as_str(), &event.data["budget"]), (kind, &json!("1")), "{:?}", event.data);
    }
    let late = world.send("three").await;
    assert_eq!(message(&world, &late).await["state"], "queued");
    let why = explain(&world, json!({"to": "+255712345678", "text": "four"})).await;
    assert_eq!(why["routes"][0]["reasons"][0]["code"], "budget", "{why}");
    let health = world.call(world.get("/v1/fleet/health", &world.key)).await.body;
    assert_eq!(health["routes"][0]["month_cost"], "1", "{health}");
    world.node.shutdown().await;
}

/// Another controller has taken the change: this one finds it in the catalog.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_elsewhere_is_felt_within_seconds() {
    let world = World::new().await;
    let mut device = Device::new(&world).await;
    let (catalog, tenant) = (&*world.node.api.stores.catalog, device.identity.tenant);
    let by = || By { actor: "elsewhere".into(), at_ms: 1 };
    let none = Limits { per_day: Some(0), ..Limits::default() };
    let stopped = TenantRouting { sim_limits: none, ..TenantRouting::default() };
    routing::put(catalog, tenant, None, Arc::new(stopped), by()).await.unwrap();
    let sim = sim_of(&world).await["id"].clone();
    let limited = async || {
        let shown = sim_of(&world).await;
        shown["routing"]["limits"].as_array().unwrap().iter().any(|limit| limit["name"] == "per_day")
    };
    let felt = async {
        while !limited().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), felt).await.expect("the link hears of it");
    let id = world.send("not now").await;
    assert_eq!(message(&world, &id).await["state"], "queued", "{sim}");
    routing::put(catalog, tenant, None, Arc::default(), by()).await.unwrap();
    assert_eq!(device.dispatched().await.attempt.message.to_string(), id);
    world.node.shutdown().await;
}
