//! Keys, scopes, tenants, limits.

use reqwest::Method;
use serde_json::json;

use super::World;

#[tokio::test(flavor = "multi_thread")]
async fn without_a_good_key_nothing_is_answered() {
    let world = World::new().await;
    let bare = world.http.get(format!("http://{}/v1/messages", world.node.http_addr));
    let answer = world.call(bare).await;
    assert_eq!(answer.problem(), (401, "unauthenticated"));
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    let unknown = format!("flk_{}", "a".repeat(52));
    for key in ["", "nonsense", "flk_short", unknown.as_str()] {
        assert_eq!(world.call(world.get("/v1/messages", key)).await.problem(), (401, "unauthenticated"), "{key}");
    }
    // Both headers work.
    let other = world.http.get(format!("http://{}/v1/messages", world.node.http_addr));
    assert_eq!(world.call(other.header("x-api-key", &world.key)).await.status, 200);
    // For probes, nobody needs one.
    for path in ["/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"] {
        let open = world.http.get(format!("http://{}{path}", world.node.http_addr));
        assert_eq!(world.call(open).await.status, 200, "{path}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_bound_what_a_key_may_do() {
    let world = World::new().await;
    let (_, send) = world.new_key(&["send"], 0).await;
    let (_, read) = world.new_key(&["read"], 0).await;
    let message = json!({"to": "+255712345678", "text": "hi"});
    let forbidden = (403, "forbidden");
    assert_eq!(world.call(world.post("/v1/messages", &send).json(&message)).await.status, 202);
    assert_eq!(world.call(world.get("/v1/messages", &send)).await.problem(), forbidden);
    assert_eq!(world.call(world.post("/v1/messages", &read).json(&message)).await.problem(), forbidden);
    assert_eq!(world.call(world.get("/v1/messages", &read)).await.status, 200);
    for key in [&send, &read] {
        assert_eq!(world.call(world.get("/v1/keys", key)).await.problem(), forbidden);
        assert_eq!(world.call(world.post("/v1/enrollments", key).json(&json!({}))).await.problem(), forbidden);
        assert_eq!(world.call(world.get("/v1/tenants", key)).await.problem(), forbidden);
    }
    // An admin of a tenant is none of the installation.
    for path in ["/v1/tenants", "/v1/ca/rotate/prepare"] {
        assert_eq!(world.call(world.post(path, &world.key).json(&json!({"name": "x"}))).await.problem(), forbidden);
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_key_hold_at_once() {
    let world = World::new().await;
    let (id, old) = world.new_key(&["read"], 0).await;
    assert_eq!(world.call(world.get("/v1/messages", &old)).await.status, 200);
    let rotated = world.call(world.post(&format!("/v1/keys/{id}/rotate"), &world.key)).await;
    let new = rotated.body["secret"].as_str().unwrap().to_owned();
    assert_eq!(world.call(world.get("/v1/messages", &old)).await.problem(), (401, "unauthenticated"));
    assert_eq!(world.call(world.get("/v1/messages", &new)).await.status, 200);
    let disable = |disabled: bool| {
        let path = format!("/v1/keys/{id}");
        world.request(Method::PATCH, &path, &world.key).json(&json!({"disabled": disabled}))
    };
    assert_eq!(world.call(disable(true)).await.body["disabled"], true);
    assert_eq!(world.call(world.get("/v1/messages", &new)).await.problem(), (401, "unauthenticated"));
    assert_eq!(world.call(disable(false)).await.status, 200);
    assert_eq!(world.call(world.get("/v1/messages", &new)).await.status, 200);
    // Its use is written down, and its secret is nowhere.
    let listed = world.call(world.get("/v1/keys", &world.key)).await;
    let key = listed.body["items"].as_array().unwrap().iter().find(|key| key["id"] == *id).unwrap();
    assert!(key["last_used_at"].is_string(), "{key}");
    assert!(key.get("secret").is_none(), "{key}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_over_its_limit_is_told_when_to_come_back() {
    let world = World::new().await;
    let (id, key) = world.new_key(&["read"], 2).await;
    for _ in 0..2 {
        assert_eq!(world.call(world.get("/v1/messages", &key)).await.status, 200);
    }
    let limited = world.call(world.get("/v1/messages", &key)).await;
    assert_eq!(limited.problem(), (429, "rate_limited"));
    let wait_s: u32 = limited.header("retry-after").parse().unwrap();
    assert!((1..=30).contains(&wait_s), "{wait_s}");
    let patch = world.request(Method::PATCH, &format!("/v1/keys/{id}"), &world.key);
    assert_eq!(world.call(patch.json(&json!({"rate_per_min": 0}))).await.body["rate_per_min"], 0);
    for _ in 0..5 {
        assert_eq!(world.call(world.get("/v1/messages", &key)).await.status, 200);
    }
    // What is not said is the installation's default.
    let made = world.call(world.post("/v1/keys", &world.key).json(&json!({"name": "k", "scopes": ["read"]}))).await;
    assert_eq!(made.body["rate_per_min"], 100);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_do_not_see_each_other() {
    let world = World::new().await;
    let (_, stranger) = world.new_tenant("Second").await;
    let message = world.send("secret").await;
    let enrolled = world.call(world.post("/v1/enrollments", &world.key).json(&json!({}))).await;
    let enrollment = enrolled.body["id"].as_str().unwrap().to_owned();
    let (key, _) = world.new_key(&["read"], 0).await;
    let not_found = (404, "not_found");
    for path in [format!("/v1/messages/{message}"), format!("/v1/enrollments/{enrollment}")] {
        assert_eq!(world.call(world.get(&path, &stranger)).await.problem(), not_found, "{path}");
        let delete = world.request(Method::DELETE, &path, &stranger);
        assert_eq!(world.call(delete).await.problem(), not_found, "{path}");
        assert_eq!(world.call(world.get(&path, &world.key)).await.status, 200, "{path}");
    }
    let qr = format!("/v1/enrollments/{enrollment}/qr.svg");
    assert_eq!(world.call(world.get(&qr, &stranger)).await.problem(), not_found);
    let patch = world.request(Method::PATCH, &format!("/v1/keys/{key}"), &stranger);
    assert_eq!(world.call(patch.json(&json!({"disabled": true}))).await.problem(), not_found);
    assert_eq!(world.call(world.post(&format!("/v1/keys/{key}/rotate"), &stranger)).await.problem(), not_found);
    for path in ["/v1/messages", "/v1/inbound", "/v1/enrollments", "/v1/devices", "/v1/sims", "/v1/certificates"] {
        let listed = world.call(world.get(path, &stranger)).await;
        assert_eq!(listed.body["items"], json!([]), "{path}");
    }
    // A key of a tenant can not name another one.
    let named = world.get("/v1/messages", &stranger).header("x-tenant", &world.tenant);
    assert_eq!(world.call(named).await.body["items"], json!([]));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_root_key_says_which_tenant_it_means() {
    let world = World::new().await;
    let unnamed = world.call(world.get("/v1/messages", &world.root)).await;
    assert_eq!(unnamed.problem(), (400, "tenant_required"));
    assert_eq!(unnamed.body["field"], "x-tenant");
    for (tenant, code) in [("ten_1", "invalid_header"), ("ten_00000000000e00800000000000", "invalid_header")] {
        let named = world.get("/v1/messages", &world.root).header("x-tenant", tenant);
        assert_eq!(world.call(named).await.problem(), (400, code));
    }
    let named = world.get("/v1/fleet/health", &world.root).header("x-tenant", &world.tenant);
    let health = world.call(named).await;
    assert_eq!(health.body["controller"]["shards"].as_array().unwrap().len(), 4);
    let own = world.call(world.get("/v1/fleet/health", &world.key)).await;
    assert!(own.body.get("controller").is_none());
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_tenant_is_refused_until_it_is_enabled() {
    let world = World::new().await;
    let path = format!("/v1/tenants/{}", world.tenant);
    let set = |disabled: bool| world.request(Method::PATCH, &path, &world.root).json(&json!({"disabled": disabled}));
    assert_eq!(world.call(set(true)).await.body["disabled"], true);
    assert_eq!(world.call(world.get("/v1/messages", &world.key)).await.problem(), (403, "forbidden"));
    assert_eq!(world.call(set(false)).await.body["disabled"], false);
    assert_eq!(world.call(world.get("/v1/messages", &world.key)).await.status, 200);
    let again = world.call(world.post("/v1/tenants", &world.root).json(&json!({"name": "First"}))).await;
    assert_eq!(again.problem(), (409, "conflict"));
    world.node.shutdown().await;
}
