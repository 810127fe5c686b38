//! One message: accepted, found, cancelled, repeated, refused.

use reqwest::Method;
use serde_json::json;

use super::World;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_found_at_once() {
    let world = World::new().await;
    let body = json!({"to": ["+255712345678", "+255712345679"], "text": "Habari", "client_ref": "r-1", "tags": ["a"],
        "campaign": "may", "priority": "high"});
    let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
    assert_eq!((sent.status, &sent.body["segments"]), (202, &json!(2)), "{sent:?}");
    let id = sent.body["messages"][1]["id"].as_str().unwrap();
    let found = world.call(world.get(&format!("/v1/messages/{id}"), &world.key)).await;
    assert_eq!((found.status, &found.body["state"]), (200, &json!("queued")), "{found:?}");
    assert_eq!(found.body["to"], "+255712345679");
    assert_eq!(found.body["trace"][0]["state"], "queued");
    let queries = [
        ("", 2),
        ("?state=queued", 2),
        ("?state=sent,delivered", 0),
        ("?to=%2B255712345678", 1),
        ("?to=+255712345678", 1),
        ("?client_ref=r-1", 2),
        ("?client_ref=r-2", 0),
        ("?tag=a&campaign=may&priority=high", 2),
        ("?priority=bulk", 0),
        ("?until=2020-01-01T00:00:00Z", 0),
        ("?since=2020-01-01T00:00:00Z", 2),
    ];
    for (query, count) in queries {
        let listed = world.call(world.get(&format!("/v1/messages{query}"), &world.key)).await;
        assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(count), "{query}: {listed:?}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_lead_through_the_whole_list_once() {
    let world = World::new().await;
    let to: Vec<String> = (0..25).map(|n| format!("+2557123456{n:02}")).collect();
    let sent = world.call(world.post("/v1/messages", &world.key).json(&json!({"to": to, "text": "x"}))).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = world.call(world.get(&format!("/v1/messages?limit=7{cursor}"), &world.key)).await;
        let items = page.body["items"].as_array().unwrap();
        assert!(items.len() <= 7);
        seen.extend(items.iter().map(|item| item["to"].as_str().unwrap().to_owned()));
        match page.body["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    seen.sort();
    assert_eq!(seen, to);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_twice_sends_once() {
    let world = World::new().await;
    let body = json!({"to": ["+255712345678", "+255712345679"], "text": "once"});
    let send =
        |body: &serde_json::Value| world.post("/v1/messages", &world.key).header("idempotency-key", "k-1").json(body);
    let first = world.call(send(&body)).await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (202, ""));
    let again = world.call(send(&body)).await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (202, "true"));
    assert_eq!(first.body, again.body);
    // The rows know it too, not only the shard's memory.
    let listed = world.call(world.get("/v1/messages", &world.key)).await;
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(world.call(send(&body)).await.body, first.body);
    let other = world.call(send(&json!({"to": "+255712345678", "text": "other"}))).await;
    assert_eq!(other.problem(), (409, "idempotency_key_reused"));
    assert_eq!(other.body["field"], "idempotency-key");
    // Another tenant's key of the same name is another key.
    let (_, stranger) = world.new_tenant("Second").await;
    let theirs = world.post("/v1/messages", &stranger).header("idempotency-key", "k-1").json(&body);
    assert_eq!(world.call(theirs).await.header("idempotent-replayed"), "");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_cancelled_once() {
    let world = World::new().await;
    let id = world.send("never mind").await;
    let cancel = || world.request(Method::DELETE, &format!("/v1/messages/{id}"), &world.key);
    let cancelled = world.call(cancel()).await;
    assert_eq!((cancelled.status, &cancelled.body["cancel"]), (200, &json!("cancelled")));
    let found = world.call(world.get(&format!("/v1/messages/{id}"), &world.key)).await;
    assert_eq!(found.body["state"], "cancelled");
    assert_eq!(world.call(cancel()).await.problem(), (409, "too_late"));
    let none = world.request(Method::DELETE, "/v1/messages/msg_00000000000e00800000000000", &world.key);
    assert_eq!(world.call(none).await.problem(), (404, "not_found"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scheduled_messages_wait() {
    let world = World::new().await;
    let at = jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1);
    let body = json!({"to": "+255712345678", "text": "later", "send_at": at.to_string()});
    let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
    let id = sent.body["messages"][0]["id"].as_str().unwrap();
    let found = world.call(world.get(&format!("/v1/messages/{id}"), &world.key)).await;
    assert_eq!(found.body["state"], "scheduled", "{found:?}");
    assert!(found.body["send_at"].is_string());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn previews_count_what_would_be_sent() {
    let world = World::new().await;
    let (_, send_only) = world.new_key(&["send"], 0).await;
    for (text, encoding, segments) in [("Hello", "gsm7", 1), ("漢字", "ucs2", 1), (&*"x".repeat(161), "gsm7", 2)] {
        let preview = world.post("/v1/messages/preview", &send_only).json(&json!({"text": text}));
        let preview = world.call(preview).await;
        assert_eq!((&preview.body["encoding"], &preview.body["segments"]), (&json!(encoding), &json!(segments)));
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_name_the_field_and_leak_nothing() {
    let world = World::with(|config| config.limits.body_bytes_max = 2048).await;
    let post = |body: &str| {
        let request = world.post("/v1/messages", &world.key).header("content-type", "application/json");
        request.body(body.to_owned())
    };
    let unknown_sim = r#"{"to":"+255712345678","text":"x","sim":"sim_00000000000e00800000000000"}"#;
    let unknown_device = r#"{"to":"+255712345678","text":"x","device":"dev_00000000000e00800000000000"}"#;
    let foreign_number = r#"{"to":"+255712345678","text":"x","from":"+255712345678"}"#;
    let too_large = format!(r#"{{"to":"+255712345678","text":"{}"}}"#, "x".repeat(3000));
    let cases = [
        ("", 400, "invalid_json", None),
        ("{", 400, "invalid_json", None),
        ("[]", 400, "invalid_json", None),
        ("{}", 422, "missing_field", Some("to")),
        (r#"{"to":"+255712345678","text":"x","callback_url":"x"}"#, 422, "invalid_field", Some("callback_url")),
        (r#"{"to":"+255712345678","text":"x","route":"fastest"}"#, 422, "invalid_field", Some("route")),
        (r#"{"to":"+255712345678","text":"x","colour":"x"}"#, 422, "unknown_field", Some("colour")),
        (r#"{"to":"0712","text":"x"}"#, 422, "invalid_number", Some("to")),
        (unknown_sim, 422, "invalid_field", Some("sim")),
        (unknown_device, 422, "invalid_field", Some("device")),
        (foreign_number, 422, "invalid_field", Some("from")),
        (&too_large, 413, "body_too_large", None),
    ];
    for (body, status, code, field) in cases {
        let answer = world.call(post(body)).await;
        assert_eq!(answer.problem(), (status, code), "{body:.80}");
        assert_eq!(answer.body["field"].as_str(), field, "{body:.80}");
    }
    let typed = world.post("/v1/messages", &world.key).header("content-type", "text/plain").body("{}");
    assert_eq!(world.call(typed).await.problem(), (415, "unsupported_media_type"));
    let keyed = post(r#"{"to":"+255712345678","text":"x"}"#).header("idempotency-key", "k".repeat(256));
    assert_eq!(world.call(keyed).await.problem(), (400, "invalid_header"));
    let paths = [
        ("/v1/messages/msg_1", "id"),
        ("/v1/messages/dev_00000000000e00800000000000", "id"),
        ("/v1/messages?limit=0", "limit"),
        ("/v1/messages?limit=many", "limit"),
        ("/v1/messages?colour=red", "colour"),
        ("/v1/messages?state=lost", "state"),
        ("/v1/messages?cursor=x", "cursor"),
        ("/v1/messages?since=yesterday", "since"),
        ("/v1/stats?by=moon", "by"),
        ("/v1/stats?limit=5000", "limit"),
    ];
    for (path, field) in paths {
        let answer = world.call(world.get(path, &world.key)).await;
        assert_eq!(answer.problem(), (400, "invalid_parameter"), "{path}");
        assert_eq!(answer.body["field"], field, "{path}");
    }
    assert_eq!(world.call(world.get("/v1/nothing", &world.key)).await.problem(), (404, "not_found"));
    let wrong_method = world.request(Method::PUT, "/v1/messages", &world.key);
    assert_eq!(world.call(wrong_method).await.problem(), (405, "method_not_allowed"));
    let listed = world.call(world.get("/v1/messages", &world.key)).await;
    assert_eq!(listed.body["items"], json!([]), "a refused request left something");
    world.node.shutdown().await;
}
