//! What people set about routing, and see of it.

use reqwest::Method;
use serde_json::json;

use super::World;
use crate::api::examples;

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
