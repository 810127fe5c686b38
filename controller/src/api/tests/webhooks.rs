//! Webhooks over real HTTP: a receiver that keeps what it is told, and may refuse or say nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::World;
use crate::app;

/// Nothing here takes nearly as long, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Clone, Debug)]
struct Told {
    headers: HeaderMap,
    body: Bytes,
}

impl Told {
    fn id(&self) -> String {
        self.headers["webhook-id"].to_str().unwrap().to_owned()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn kind(&self) -> String {
        self.json()["type"].as_str().unwrap().to_owned()
    }

    fn is_signed_with(&self, secret: &str) -> bool {
        standardwebhooks::Webhook::new(secret).unwrap().verify(&self.body, &self.headers).is_ok()
    }
}

/// Answers with the status that is set; 0 never answers.
struct Receiver {
    url: String,
    status: Arc<AtomicU16>,
    told: watch::Receiver<usize>,
    all: Arc<Mutex<Vec<Told>>>,
    server: AbortHandle,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[derive(Clone)]
struct Desk {
    status: Arc<AtomicU16>,
    all: Arc<Mutex<Vec<Told>>>,
    count: watch::Sender<usize>,
}

async fn take(State(desk): State<Desk>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let count = {
        let mut all = desk.all.lock();
        all.push(Told { headers, body });
        all.len()
    };
    desk.count.send_replace(count);
    match desk.status.load(Ordering::SeqCst) {
        0 => std::future::pending().await,
        status => StatusCode::from_u16(status).unwrap(),
    }
}

impl Receiver {
    async fn new(status: u16) -> Self {
        let (count, told) = watch::channel(0);
        let desk = Desk { status: Arc::new(AtomicU16::new(status)), all: Arc::default(), count };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let (status, all) = (Arc::clone(&desk.status), Arc::clone(&desk.all));
        let router = Router::new().route("/hook", post(take)).with_state(desk);
        let server = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() }).abort_handle();
        Self { url, status, told, all, server }
    }

    /// What it was told, once it was so many times.
    async fn told(&self, count: usize) -> Vec<Told> {
        let mut told = self.told.clone();
        let waited = tokio::time::timeout(PATIENCE, told.wait_for(|known| *known >= count)).await;
        assert!(waited.is_ok(), "told {} times, not {count}", self.all.lock().len());
        self.all.lock().clone()
    }
}

async fn world() -> World {
    World::with(|config| config.webhooks.allow_private_addresses = true).await
}

impl World {
    /// A webhook: id and secret.
    async fn hook(&self, receiver: &Receiver, events: &[&str]) -> (String, String) {
        let body = json!({"url": receiver.url, "events": events, "rate_per_s": 1000});
        let made = self.call(self.post("/v1/webhooks", &self.key).json(&body)).await;
        assert_eq!(made.status, 201, "{made:?}");
        let text = |field: &str| made.body[field].as_str().unwrap().to_owned();
        (text("id"), text("secret"))
    }

    async fn cancel(&self, message: &str) {
        let path = format!("/v1/messages/{message}");
        let done = self.call(self.request(reqwest::Method::DELETE, &path, &self.key)).await;
        assert!(done.status < 300, "{done:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_signed_and_in_order_for_each_message() {
    let world = world().await;
    let receiver = Receiver::new(200).await;
    let (_, secret) = world.hook(&receiver, &["message.accepted", "message.cancelled"]).await;
    let mut ids = vec![];
    for n in 0..20 {
        let body =
            json!({"to": "+255712345678", "text": "secret text", "client_ref": format!("order {n}"), "tags": ["a"]});
        let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
        ids.push(sent.body["messages"][0]["id"].as_str().unwrap().to_owned());
    }
    for id in &ids {
        world.cancel(id).await;
    }
    let told = receiver.told(40).await;
    let mut kinds: HashMap<String, Vec<String>> = HashMap::new();
    for one in &told {
        assert!(one.is_signed_with(&secret), "{one:?}");
        let data = one.json()["data"].clone();
        assert_eq!((&data["to"], &data["tags"]), (&json!("+255712345678"), &json!(["a"])));
        assert!(data["client_ref"].as_str().unwrap().starts_with("order "));
        assert!(!String::from_utf8_lossy(&one.body).contains("secret text"));
        kinds.entry(data["id"].as_str().unwrap().to_owned()).or_default().push(one.kind());
    }
    assert_eq!(kinds.len(), 20);
    assert!(kinds.values().all(|kinds| *kinds == ["message.accepted", "message.cancelled"]), "{kinds:?}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_says_nothing_harms_no_other() {
    let world = world().await;
    let (silent, quick) = (Receiver::new(0).await, Receiver::new(204).await);
    world.hook(&silent, &["*"]).await;
    world.hook(&quick, &["message.accepted"]).await;
    for n in 0..50 {
        world.send(&format!("{n}")).await;
    }
    quick.told(50).await;
    assert!(silent.told(1).await.len() <= 16, "not more than may be under way");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_refused_is_told_again_after_a_restart_under_the_same_id() {
    let world = world().await;
    let receiver = Receiver::new(500).await;
    let (id, _) = world.hook(&receiver, &["message.accepted"]).await;
    world.send("hello").await;
    let first = receiver.told(1).await[0].clone();
    let World { node, config, key, http, _dir, .. } = world;
    node.shutdown().await;
    receiver.status.store(200, Ordering::SeqCst);
    let node = app::start(&config).await.unwrap();
    node.ready().await;
    let again = receiver.told(2).await[1].clone();
    assert_eq!((again.id(), &again.body), (first.id(), &first.body));
    // Nothing is left behind, as soon as that is written down.
    let url = format!("http://{}/v1/webhooks/{id}", node.http_addr);
    let shown = async {
        loop {
            let hook: Value = http.get(&url).bearer_auth(&key).send().await.unwrap().json().await.unwrap();
            if hook["waiting"] == 0 && hook["last_success_at"].is_string() {
                return hook;
            }
            tokio::task::yield_now().await;
        }
    };
    let hook = tokio::time::timeout(PATIENCE, shown).await.unwrap();
    assert!(hook["failing_since"].is_null(), "{hook}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_may_have_an_address_of_its_own() {
    let world = world().await;
    let (own, hook) = (Receiver::new(200).await, Receiver::new(200).await);
    world.hook(&hook, &["message.cancelled"]).await;
    let body = json!({"to": "+255712345678", "text": "hello", "callback_url": own.url});
    let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    let id = sent.body["messages"][0]["id"].as_str().unwrap();
    let other = world.send("without").await;
    world.cancel(&other).await;
    world.cancel(id).await;
    let told = own.told(1).await;
    assert_eq!((told[0].kind().as_str(), &told[0].json()["data"]["id"]), ("message.cancelled", &json!(id)));
    hook.told(2).await;
    assert_eq!(own.all.lock().len(), 1, "only its own message");
    let hooks = world.call(world.get("/v1/webhooks", &world.key)).await.body;
    let callbacks = hooks["items"].as_array().unwrap().iter().find(|hook| hook["url"].is_null()).unwrap().clone();
    let path = format!("/v1/webhooks/{}/rotate", callbacks["id"].as_str().unwrap());
    let secret = world.call(world.post(&path, &world.key)).await.body["secret"].as_str().unwrap().to_owned();
    let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
    world.cancel(sent.body["messages"][0]["id"].as_str().unwrap()).await;
    assert!(own.told(2).await[1].is_signed_with(&secret));
    world.node.shutdown().await;
}

/// Its addresses are the clients' own, and one that hangs is nobody else's trouble.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_address_that_hangs_keeps_no_other_waiting() {
    let world = world().await;
    let (hangs, works) = (Receiver::new(0).await, Receiver::new(200).await);
    let line = |receiver: &Receiver| crate::domain::callback::callback_line(Some(&receiver.url));
    let mut others = Vec::new();
    let mut works = works;
    while line(&works) == line(&hangs) {
        others.push(std::mem::replace(&mut works, Receiver::new(200).await));
    }
    let send = async |receiver: &Receiver| {
        let body = json!({"to": "+255712345678", "text": "hello", "callback_url": receiver.url});
        let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
        world.cancel(sent.body["messages"][0]["id"].as_str().unwrap()).await;
    };
    for _ in 0..17 {
        send(&hangs).await;
    }
    // As many as may be at once; none of them ends within fifteen seconds.
    hangs.told(16).await;
    send(&works).await;
    let told = tokio::time::timeout(Duration::from_secs(10), works.told(1)).await;
    assert!(told.is_ok(), "it waits for the other");
    assert_eq!(hangs.all.lock().len(), 16);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_is_sent_again_when_somebody_asks() {
    let world = world().await;
    let receiver = Receiver::new(410).await;
    let (id, _) = world.hook(&receiver, &["message.cancelled"]).await;
    let path = format!("/v1/webhooks/{id}");
    // One: the first answer disables the webhook, and what comes later is not for it.
    let message = world.send("one").await;
    world.cancel(&message).await;
    let given_up = async |count: u64| {
        let shown = async {
            while world.call(world.get(&path, &world.key)).await.body["given_up"] != count {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, shown).await.expect("not given up");
    };
    receiver.told(1).await;
    given_up(1).await;
    let replay = |path: String, body: Value| world.call(world.post(&path, &world.key).json(&body));
    let own = || format!("{path}/replay");
    assert_eq!(replay(own(), json!({})).await.problem(), (409, "conflict"), "it is disabled");
    receiver.status.store(200, Ordering::SeqCst);
    let patch = world.request(reqwest::Method::PATCH, &path, &world.key).json(&json!({"enabled": true}));
    assert_eq!(world.call(patch).await.status, 200);
    let listed = world.call(world.get(&format!("{path}/deliveries?state=given_up"), &world.key)).await.body;
    let delivery = listed["items"][0]["id"].as_str().unwrap().to_owned();
    for (body, field) in [
        (json!({"deliveries": ["whk_01kaqmpxm0e8xs6bhkrg5jrqzt-1-0"]}), "deliveries[0]"),
        (json!({"deliveries": ["nonsense"]}), "deliveries[0]"),
        (json!({"since": "yesterday"}), "since"),
        (json!({"message": "sim_1"}), "message"),
    ] {
        assert_eq!(replay(own(), body.clone()).await.body["field"], field, "{body}");
    }
    let later = json!({"since": "2999-01-01T00:00:00Z"});
    assert_eq!(replay(own(), later).await.body["events"], 0);
    let refused = replay("/v1/webhooks/replay".into(), json!({"deliveries": [delivery]})).await;
    assert_eq!(refused.body["field"], "deliveries[0]", "of which webhook?");
    let other = json!({"message": "msg_01kaqmpxm0e8xs6bhkrg5jrqzt"});
    assert_eq!(replay("/v1/webhooks/replay".into(), other).await.body["events"], 0);
    let chosen = json!({"deliveries": [delivery], "message": message});
    assert_eq!(replay(own(), chosen).await.body["events"], 1);
    assert_eq!(receiver.told(2).await[1].id(), delivery, "under the same id");
    given_up(0).await;
    assert_eq!(replay("/v1/webhooks/replay".into(), json!({})).await.body["events"], 0, "it was delivered");
    let (_, other) = world.new_tenant("Second").await;
    let foreign = world.call(world.post(&own(), &other).json(&json!({}))).await;
    assert_eq!(foreign.problem(), (404, "not_found"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_fifty_webhooks_beside_its_callbacks() {
    let world = world().await;
    let own = Receiver::new(200).await;
    let body = json!({"to": "+255712345678", "text": "hello", "callback_url": own.url});
    let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
    world.cancel(sent.body["messages"][0]["id"].as_str().unwrap()).await;
    own.told(1).await;
    let create = || world.call(world.post("/v1/webhooks", &world.key).json(&json!({"url": own.url})));
    for n in 0..50 {
        assert_eq!(create().await.status, 201, "{n}");
    }
    assert_eq!(create().await.problem(), (409, "conflict"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_fleet_are_told_too() {
    let world = world().await;
    let receiver = Receiver::new(200).await;
    world.hook(&receiver, &["provider.*"]).await;
    let tenant = world.tenant.parse().unwrap();
    let at_ms = world.node.api.now_ms() + 1;
    world.node.api.live.publish(tenant, "provider.down", at_ms, &json!({"provider": "prv_1"}));
    world.node.api.live.publish(tenant, "device.online", at_ms, &json!({"device": "dev_1"}));
    world.node.api.live.publish(tenant, "provider.up", at_ms, &json!({"provider": "prv_1"}));
    let told = receiver.told(2).await;
    assert_eq!(told.iter().map(Told::kind).collect::<Vec<_>>(), ["provider.down", "provider.up"]);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_signs_beside_the_old_one_and_tests_tell_what_came_back() {
    let world = world().await;
    let receiver = Receiver::new(503).await;
    let (id, old) = world.hook(&receiver, &["message.accepted"]).await;
    let path = |verb: &str| format!("/v1/webhooks/{id}/{verb}");
    let tested = world.call(world.post(&path("test"), &world.key)).await.body;
    assert_eq!((&tested["delivered"], &tested["error"]), (&json!(false), &json!("HTTP 503")));
    receiver.status.store(200, Ordering::SeqCst);
    let rotated = world.call(world.post(&path("rotate"), &world.key)).await.body;
    let new = rotated["secret"].as_str().unwrap();
    let tested = world.call(world.post(&path("test"), &world.key)).await.body;
    assert_eq!(tested["delivered"], true);
    let told = receiver.told(2).await;
    assert_eq!(told[1].kind(), "webhook.test");
    assert!(told[1].is_signed_with(new) && told[1].is_signed_with(&old) && !told[0].is_signed_with(new));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_settings_name_their_field_and_nobody_sees_what_is_not_his() {
    let world = World::new().await;
    let create = |body: Value| world.call(world.post("/v1/webhooks", &world.key).json(&body));
    for (body, field) in [
        (json!({"url": "http://example.org/"}), "url"),
        (json!({"url": "https://127.0.0.1/"}), "url"),
        (json!({"url": "https://localhost/"}), "url"),
        (json!({"url": "nowhere"}), "url"),
        (json!({"url": "https://example.org/", "events": []}), "events"),
        (json!({"url": "https://example.org/", "events": ["mesage.sent"]}), "events"),
        (json!({"url": "https://example.org/", "rate_per_s": 0}), "rate_per_s"),
    ] {
        let refused = create(body.clone()).await;
        assert_eq!((refused.status, &refused.body["field"]), (422, &json!(field)), "{body}: {refused:?}");
    }
    let made = create(json!({"url": "https://example.org/hook"})).await;
    let path = format!("/v1/webhooks/{}", made.body["id"].as_str().unwrap());
    let shown = world.call(world.get(&path, &world.key)).await.body;
    assert!(shown.get("secret").is_none() && shown["events"].as_array().unwrap().len() == 6, "{shown}");
    let (_, other) = world.new_tenant("Second").await;
    assert_eq!(world.call(world.get(&path, &other)).await.problem().0, 404);
    assert_eq!(world.call(world.request(reqwest::Method::DELETE, &path, &other)).await.problem().0, 404);
    let (_, reader) = world.new_key(&["read"], 0).await;
    assert_eq!(
        world.call(world.post("/v1/webhooks", &reader).json(&json!({"url": "https://a.org/"}))).await.problem().0,
        403
    );
    assert_eq!(world.call(world.request(reqwest::Method::DELETE, &path, &world.key)).await.status, 200);
    world.node.shutdown().await;
}
