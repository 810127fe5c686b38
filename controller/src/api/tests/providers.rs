//! Provider accounts through the API, with a real shard, and a service on loopback that misbehaves in every way.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use self::smpp::{Seen, Smsc};
use super::{Answer, World};
use crate::api::callbacks::HELD_BYTES_MAX;
use crate::providers::tests::maker::{SIGNATURE, THANKS, signature};
use crate::providers::tests::service::{Mood, Service, Taken};

/// An SMSC, and what goes over to it.
mod smpp {
    pub(super) use flotilla_providers::smpp::testing::{DeliverSm, Options, Seen, Smsc, deliver};
}

const SECRET: &str = "geheim";
const PATIENCE: Duration = Duration::from_secs(30);

async fn world() -> World {
    World::with(|config| config.providers.allow_private_addresses = true).await
}

fn account(service: &Service) -> Value {
    json!({"maker": "test", "name": "Test", "base_url": service.url(), "secrets": {"key": SECRET},
        "senders": [{"from": "ACME"}], "timeout_ms": 1_000})
}

impl World {
    /// An account, at work.
    async fn add(&self, account: &Value) -> Value {
        let made = self.call(self.post("/v1/providers", &self.key).json(account)).await;
        assert_eq!(made.status, 201, "{made:?}");
        self.until_live(made.body["id"].as_str().unwrap()).await
    }

    async fn until_live(&self, id: &str) -> Value {
        self.until(&format!("/v1/providers/{id}"), |provider| provider["live"].is_object()).await
    }

    /// Asks until the answer is as it should be.
    async fn until(&self, path: &str, good: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = self.call(self.get(path, &self.key)).await;
            if good(&found.body) {
                return found.body;
            }
            assert!(Instant::now() < deadline, "{path}: {:?}", found.body);
            // Between two questions, not in place of one.
            sleep(Duration::from_millis(10)).await;
        }
    }

    async fn until_state(&self, message: &str, state: &str) -> Value {
        self.until(&format!("/v1/messages/{message}"), |message| message["state"] == state).await
    }

    async fn patch(&self, id: &str, body: Value) -> Answer {
        self.call(self.request(Method::PATCH, &format!("/v1/providers/{id}"), &self.key).json(&body)).await
    }

    /// The path of an account's callbacks.
    fn callback_path(&self, id: &str) -> String {
        let known = self.node.api.providers.accounts().known(id.parse().unwrap()).unwrap();
        format!("/{}", known.callback_path())
    }

    async fn call_back(&self, id: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let signed = signature(SECRET, body.as_bytes());
        self.call(self.post(&self.callback_path(id), "").header(SIGNATURE, signed).body(body)).await
    }
}

fn id(provider: &Value) -> &str {
    provider["id"].as_str().unwrap()
}

/// Whether a message went out by this account: an account and a device are the same place in a route.
fn went_by(message: &Value, provider: &Value) -> bool {
    let bare = |id: &Value| id.as_str().and_then(|id| id.split_once('_')).map(|(_, bare)| bare.to_owned());
    let route = bare(&message["provider"]).or_else(|| bare(&message["device"]));
    route.is_some() && route == bare(&provider["id"])
}

fn report(id: &str, state: &str) -> Value {
    json!({"reports": [{"id": id, "state": state, "price": 9_100}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_through_a_provider_and_its_report_comes_back() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let message = world.send("Your code is 4711").await;
    let taken = service.takes(1).await;
    assert_eq!(taken[0].message["text"], "Your code is 4711");
    assert_eq!((&taken[0].message["from"], &taken[0].message["to"]), (&json!("ACME"), &json!("+255712345678")));
    assert_eq!(taken[0].message["ref"], format!("{message}-1-1"));
    let sent = world.until_state(&message, "sent").await;
    assert!(went_by(&sent, &provider), "{sent}");
    let told = world.call_back(id(&provider), &report(&taken[0].id, "delivered")).await;
    assert_eq!((told.status, told.body.as_str()), (200, Some(THANKS)));
    world.until_state(&message, "delivered").await;
    let again = world.call_back(id(&provider), &report(&taken[0].id, "failed")).await;
    assert_eq!(again.status, 200, "late and out of order is harmless");
    assert_eq!(world.until_state(&message, "delivered").await["state"], "delivered");
    let shown = world.until_live(id(&provider)).await;
    assert_eq!((&shown["live"]["state"], &shown["live"]["counters"]["accepted"]), (&json!("up"), &json!(1)));
    assert_eq!((&shown["balance"]["amount"], &shown["prices"]["TZ"]["amount"]), (&json!("5"), &json!("0.0091")));
    assert_eq!(shown["secrets"], json!({"key": true, "login": false}));
    assert!(!shown.to_string().contains(SECRET));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn callbacks_of_strangers_are_refused() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let message = world.send("hello").await;
    let taken = service.takes(1).await;
    world.until_state(&message, "sent").await;
    let body = report(&taken[0].id, "delivered").to_string();
    let path = world.callback_path(id(&provider));
    let unsigned = world.call(world.post(&path, "").body(body.clone())).await;
    assert_eq!(unsigned.problem(), (403, "forbidden"));
    let wrong =
        world.call(world.post(&path, "").header(SIGNATURE, signature("other", body.as_bytes())).body(body.clone()));
    assert_eq!(wrong.await.problem(), (403, "forbidden"));
    let garbage = world.call(world.post(&path, "").header(SIGNATURE, signature(SECRET, b"x")).body("x")).await;
    assert_eq!(garbage.problem(), (422, "invalid_field"));
    let large = world.call(world.post(&path, "").body(vec![b'x'; 1024 * 1024 + 1])).await;
    assert_eq!(large.problem().0, 413);
    let signed =
        |path: String| world.post(&path, "").header(SIGNATURE, signature(SECRET, body.as_bytes())).body(body.clone());
    let (base, token) = path.rsplit_once('/').unwrap();
    for path in [
        format!("{base}/{}", "a".repeat(token.len())),
        path.replace("/test/", "/test-echo/"),
        path.replace(id(&provider), "prv_00000000000000000000000000"),
        path.replace(id(&provider), "nonsense"),
    ] {
        assert_eq!(world.call(signed(path.clone())).await.problem(), (404, "not_found"), "{path}");
    }
    assert_eq!(world.until_state(&message, "sent").await["state"], "sent", "nothing of it has counted");
    // Unsigned ones are taken when the account says so.
    assert_eq!(world.patch(id(&provider), json!({"unsigned_callbacks": true})).await.status, 200);
    let unsigned = world.call(world.post(&path, "").body(body.clone())).await;
    assert_eq!(unsigned.status, 200, "{unsigned:?}");
    world.until_state(&message, "delivered").await;
    world.node.shutdown().await;
}

/// Makers tell of many messages at once, and come again for hours with what is refused.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_may_be_as_long_as_a_thousand_reports() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let message = world.send("hello").await;
    let taken = service.takes(1).await;
    world.until_state(&message, "sent").await;
    let mut reports: Vec<Value> =
        (0..1_000).map(|n| json!({"id": format!("{n:0300}"), "state": "delivered"})).collect();
    reports.push(json!({"id": taken[0].id, "state": "delivered"}));
    let told = world.call_back(id(&provider), &json!({ "reports": reports })).await;
    assert_eq!(told.status, 200, "{told:?}");
    world.until_state(&message, "delivered").await;
    world.node.shutdown().await;
}

/// Bodies are held until the shard has answered.
#[tokio::test(flavor = "multi_thread")]
async fn callbacks_have_so_much_room_and_no_more() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let nobodys = report("nobody", "delivered");
    let (room, length) = (&world.node.api.callback_bytes, nobodys.to_string().len());
    let others = room.try_acquire_many((HELD_BYTES_MAX - length + 1) as u32).unwrap();
    let refused = world.call_back(id(&provider), &nobodys).await;
    assert_eq!((refused.problem(), refused.header("retry-after")), ((503, "busy"), "2"));
    drop(others);
    let others = room.try_acquire_many((HELD_BYTES_MAX - length) as u32).unwrap();
    assert_eq!(world.call_back(id(&provider), &nobodys).await.status, 200);
    drop(others);
    assert_eq!(room.available_permits(), HELD_BYTES_MAX, "all of it is given back");
    world.node.shutdown().await;
}

/// Who switches an account off has messages there whose reports are still to come.
#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_account_hears_of_what_it_has_sent() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let messages = [world.send("one").await, world.send("two").await];
    let taken = service.takes(2).await;
    for message in &messages {
        world.until_state(message, "sent").await;
    }
    let of = |text: &str| &taken.iter().find(|taken| taken.message["text"] == text).unwrap().id;
    assert_eq!(world.patch(id(&provider), json!({"enabled": false})).await.status, 200);
    let path = format!("/v1/providers/{}", id(&provider));
    world.until(&path, |provider| provider["live"].is_null()).await;
    assert_eq!(world.call_back(id(&provider), &report(of("one"), "delivered")).await.status, 200);
    world.until_state(&messages[0], "delivered").await;
    let stop = json!({"inbound": [{"id": "in-1", "from": "+255712345678", "to": "acme", "text": "STOP"}]});
    assert_eq!(world.call_back(id(&provider), &stop).await.status, 200);
    // So it does on a controller that has never seen it at work.
    let World { node, config, root, tenant, key, http, _dir } = world;
    node.shutdown().await;
    let node = crate::app::start(&config).await.unwrap();
    node.ready().await;
    let world = World { node, config, root, tenant, key, http, _dir };
    let waiting = world.send("three").await;
    let deadline = Instant::now() + PATIENCE;
    while world.call_back(id(&provider), &report(of("two"), "delivered")).await.status != 200 {
        assert!(Instant::now() < deadline, "no session has taken it");
    }
    world.until_state(&messages[1], "delivered").await;
    assert_eq!(world.until_state(&waiting, "queued").await["attempts"], 0, "it takes no work");
    assert_eq!(world.patch(id(&provider), json!({"enabled": true})).await.status, 200);
    world.until_state(&waiting, "sent").await;
    world.until_live(id(&provider)).await;
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_may_come_before_the_answer() {
    let (world, service) = (world().await, Service::start(Mood::Hold).await);
    let provider = world.add(&account(&service)).await;
    assert_eq!(world.patch(id(&provider), json!({"timeout_ms": 30_000})).await.status, 200);
    let message = world.send("hello").await;
    let taken = service.takes(1).await;
    let early = report(&taken[0].id, "delivered");
    let callback = world.call_back(id(&provider), &early);
    let release = async {
        let sessions = world.node.api.providers.sessions();
        while sessions.live(id(&provider).parse().unwrap()).is_none_or(|live| live.early == 0) {
            sleep(Duration::from_millis(5)).await;
        }
        service.release();
    };
    let (answer, ()) = tokio::join!(callback, release);
    assert_eq!(answer.status, 200);
    world.until_state(&message, "delivered").await;
    // Of a message that nobody knows here: there is nothing to wait for.
    assert_eq!(world.call_back(id(&provider), &report("nobody", "delivered")).await.status, 200);
    // A maker that sends our references back needs no answer first.
    let mut echo = account(&service);
    (echo["maker"], echo["timeout_ms"]) = (json!("test-echo"), json!(30_000));
    let echo = world.add(&echo).await;
    assert_eq!(world.patch(id(&provider), json!({"enabled": false})).await.status, 200);
    world.until(&format!("/v1/providers/{}", id(&provider)), |provider| provider["live"].is_null()).await;
    let message = world.send("hello").await;
    let taken = service.takes(2).await;
    let by_reference = json!({"reports": [{"ref": taken[1].message["ref"], "state": "delivered"}]});
    assert_eq!(world.call_back(id(&echo), &by_reference).await.status, 200);
    world.until_state(&message, "delivered").await;
    service.release();
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_certainly_was_not_sent_goes_elsewhere_at_once() {
    for mood in [
        Mood::Answer(StatusCode::TOO_MANY_REQUESTS, Some("30")),
        Mood::Answer(StatusCode::UNAUTHORIZED, None),
        Mood::Refuse("route"),
    ] {
        let (world, bad, good) = (world().await, Service::start(mood.clone()).await, Service::start(Mood::Take).await);
        let first = world.add(&account(&bad)).await;
        let message = world.send("hello").await;
        bad.is_asked(1).await;
        let second = world.add(&account(&good)).await;
        let sent = world.until_state(&message, "sent").await;
        assert!(went_by(&sent, &second), "{mood:?}: {sent}");
        assert_eq!((bad.taken().len(), good.taken().len()), (0, 1));
        let shown = world.until_live(id(&first)).await;
        assert!(shown["live"]["last_error"].as_str().is_some_and(|error| error.starts_with("test-")), "{shown}");
        let paused = matches!(mood, Mood::Answer(StatusCode::TOO_MANY_REQUESTS, _));
        assert_eq!(shown["live"]["state"] == "paused", paused, "{shown}");
        world.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_where_nobody_listens_is_not_sent() {
    let (world, gone, good) = (world().await, Service::start(Mood::Take).await, Service::start(Mood::Take).await);
    let nowhere = account(&gone);
    drop(gone);
    let first = world.add(&nowhere).await;
    let message = world.send("hello").await;
    let failed = |provider: &Value| provider["live"]["counters"]["refused"].as_u64() > Some(0);
    let shown = world.until(&format!("/v1/providers/{}", id(&first)), failed).await;
    let error = shown["live"]["last_error"].as_str().unwrap();
    assert!(!error.contains("127.0.0.1") || error.contains("refused"), "{error}");
    world.add(&account(&good)).await;
    world.until_state(&message, "sent").await;
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_sent_is_in_doubt_and_never_sent_again() {
    for mood in
        [Mood::Answer(StatusCode::INTERNAL_SERVER_ERROR, None), Mood::Garbage, Mood::Break, Mood::Never, Mood::Hold]
    {
        let (world, bad, good) = (world().await, Service::start(mood.clone()).await, Service::start(Mood::Take).await);
        let first = world.add(&account(&bad)).await;
        let message = world.send("hello").await;
        bad.is_asked(1).await;
        world.until_state(&message, "unknown").await;
        let second = world.add(&account(&good)).await;
        let other = world.send("another").await;
        let reached = |found: &Value| found["state"] == "sent" || found["state"] == "unknown";
        world.until(&format!("/v1/messages/{other}"), reached).await;
        assert!(good.taken().iter().all(|taken| taken.message["ref"] != format!("{message}-2-1")), "{mood:?}");
        assert_eq!(world.until_state(&message, "unknown").await["attempts"], 1, "{mood:?}");
        let shown = world.until_live(id(&first)).await;
        assert!(shown["live"]["counters"]["unclear"].as_u64() >= Some(1), "{mood:?}: {shown}");
        world.until_live(id(&second)).await;
        world.node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_report_settles_a_doubt() {
    let (world, service) = (world().await, Service::start(Mood::Break).await);
    let mut echo = account(&service);
    echo["maker"] = json!("test-echo");
    let provider = world.add(&echo).await;
    let message = world.send("hello").await;
    world.until_state(&message, "unknown").await;
    let taken = service.takes(1).await;
    let settled = json!({"reports": [{"ref": taken[0].message["ref"], "state": "delivered"}]});
    assert_eq!(world.call_back(id(&provider), &settled).await.status, 200);
    world.until_state(&message, "delivered").await;
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_delivered_when_all_of_its_parts_are() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let mut by_part = account(&service);
    by_part["maker"] = json!("test-parts");
    let provider = world.add(&by_part).await;
    let report = |taken: &Taken, part: u8| {
        let reports =
            json!([{"ref": taken.message["ref"], "id": format!("{}.{part}", taken.id), "state": "delivered"}]);
        let (world, provider) = (&world, id(&provider));
        async move { assert_eq!(world.call_back(provider, &json!({ "reports": reports })).await.status, 200) }
    };
    let segments = |message: &str, count: u8| {
        let path = format!("/v1/messages/{message}");
        let world = &world;
        async move { world.until(&path, |message| message["segments_delivered"] == count).await }
    };
    let planned = world.send(&"long ".repeat(50)).await;
    let taken = service.takes(1).await.remove(0);
    world.until_state(&planned, "sent").await;
    report(&taken, 1).await;
    report(&taken, 1).await;
    assert_eq!(segments(&planned, 1).await["state"], "sent", "one of two");
    report(&taken, 0).await;
    world.until_state(&planned, "delivered").await;
    // The maker has made three parts of it.
    let longer = world.send(&format!("+{}", "long ".repeat(50))).await;
    let taken = service.takes(2).await.remove(1);
    world.until_state(&longer, "sent").await;
    report(&taken, 2).await;
    report(&taken, 0).await;
    assert_eq!(segments(&longer, 1).await["state"], "sent");
    report(&taken, 1).await;
    world.until_state(&longer, "delivered").await;
    // The answer was lost: that a part has come says that the message was taken, and no more.
    service.set_mood(Mood::Break);
    let lost = world.send(&"lost ".repeat(50)).await;
    let taken = service.takes(3).await.remove(2);
    world.until_state(&lost, "unknown").await;
    report(&taken, 0).await;
    world.until_state(&lost, "sent").await;
    world.node.shutdown().await;
}

/// One report for all parts that a maker has made of what was planned as one: the others may have arrived.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_its_maker_has_cut_does_not_go_out_again() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let mut echo = account(&service);
    echo["maker"] = json!("test-echo");
    let provider = world.add(&echo).await;
    let message = world.send("hello").await;
    let taken = service.takes(1).await;
    world.until_state(&message, "sent").await;
    let lost = json!({"reports": [{"ref": taken[0].message["ref"], "segment": 0, "state": "lost"}]});
    assert_eq!(world.call_back(id(&provider), &lost).await.status, 200);
    let failed = world.until_state(&message, "failed").await;
    assert_eq!((&failed["attempts"], service.taken().len()), (&json!(1), 1), "{failed}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_come_in_are_kept_once() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let stop = json!({"inbound": [{"id": "in-1", "from": "+255712345678", "to": "acme", "text": "STOP"}]});
    for _ in 0..2 {
        assert_eq!(world.call_back(id(&provider), &stop).await.status, 200);
    }
    let inbound = world.until("/v1/inbound", |page| page["items"].as_array().is_some_and(|all| !all.is_empty())).await;
    let items = inbound["items"].as_array().unwrap();
    assert_eq!((items.len(), &items[0]["text"], &items[0]["from"]), (1, &json!("STOP"), &json!("+255712345678")));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_change_while_they_work() {
    let (world, service) = (world().await, Service::start(Mood::Hold).await);
    let provider = world.add(&account(&service)).await;
    let path = format!("/v1/providers/{}", id(&provider));
    assert_eq!(world.patch(id(&provider), json!({"timeout_ms": 30_000})).await.status, 200);
    let first = world.send("one").await;
    service.takes(1).await;
    // A new window waits for what is under way; the new sender does not get it.
    let senders = json!([{"from": "OTHER"}]);
    let changed = world.patch(id(&provider), json!({"window": 3, "senders": senders})).await;
    assert_eq!((changed.status, &changed.body["window"]), (200, &json!(3)));
    assert_ne!(changed.body["senders"][0]["id"], provider["senders"][0]["id"]);
    service.set_mood(Mood::Take);
    service.release();
    world.until_state(&first, "sent").await;
    let second = world.send("two").await;
    world.until_state(&second, "sent").await;
    assert_eq!(service.taken()[1].message["from"], "OTHER");
    // Switched off, it finishes and takes no more.
    assert_eq!(world.patch(id(&provider), json!({"enabled": false})).await.status, 200);
    world.until(&path, |provider| provider["live"].is_null()).await;
    let third = world.send("three").await;
    assert_eq!(world.until_state(&third, "queued").await["attempts"], 0);
    assert_eq!(world.patch(id(&provider), json!({"enabled": true})).await.status, 200);
    world.until_state(&third, "sent").await;
    let removed = world.call(world.request(Method::DELETE, &path, &world.key)).await;
    assert_eq!((removed.status, &removed.body["removed"]), (200, &json!(true)));
    assert_eq!(world.call(world.get(&path, &world.key)).await.problem(), (404, "not_found"));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_tenant_finds_nothing() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let (_, other) = world.new_tenant("Second").await;
    let path = format!("/v1/providers/{}", id(&provider));
    assert_eq!(world.call(world.get(&path, &other)).await.problem(), (404, "not_found"));
    let patch = world.request(Method::PATCH, &path, &other).json(&json!({"enabled": false}));
    assert_eq!(world.call(patch).await.problem(), (404, "not_found"));
    assert_eq!(world.call(world.request(Method::DELETE, &path, &other)).await.problem(), (404, "not_found"));
    assert_eq!(world.call(world.post(&format!("{path}/test"), &other)).await.problem(), (404, "not_found"));
    let list = world.call(world.get("/v1/providers", &other)).await;
    assert_eq!(list.body["items"], json!([]));
    assert_eq!(world.until_live(id(&provider)).await["enabled"], true);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_tested_without_sending() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let test = || world.call(world.post(&format!("/v1/providers/{}/test", id(&provider)), &world.key));
    assert_eq!(test().await.body, json!({"verdict": "works", "detail": "it answers"}));
    world.patch(id(&provider), json!({"secrets": {"key": "wrong"}})).await;
    assert_eq!(test().await.body["verdict"], "refused");
    drop(service);
    assert_eq!(test().await.body["verdict"], "unclear");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_asked_for_once_and_again_when_it_is_void() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let mut with_login = account(&service);
    with_login["secrets"]["login"] = json!("me");
    world.add(&with_login).await;
    for n in 1..=3 {
        let message = world.send("hello").await;
        world.until_state(&message, "sent").await;
        assert_eq!(service.taken().len(), n);
    }
    let given = service.tokens_given();
    service.void_tokens();
    let message = world.send("hello").await;
    world.until_state(&message, "sent").await;
    assert_eq!((service.taken().len(), service.tokens_given()), (4, given + 1));
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_knows_what_it_had_sent() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let message = world.send("hello").await;
    let taken = service.takes(1).await;
    world.until_state(&message, "sent").await;
    let World { node, config, root, tenant, key, http, _dir } = world;
    node.shutdown().await;
    let node = crate::app::start(&config).await.unwrap();
    node.ready().await;
    let world = World { node, config, root, tenant, key, http, _dir };
    world.until_live(id(&provider)).await;
    assert_eq!(world.call_back(id(&provider), &report(&taken[0].id, "delivered")).await.status, 200);
    world.until_state(&message, "delivered").await;
    assert_eq!(service.taken().len(), 1);
    world.node.shutdown().await;
}

/// Secrets are never shown; they are not sent to just any address either.
#[tokio::test(flavor = "multi_thread")]
async fn another_address_needs_the_secrets_again() {
    let world = world().await;
    let (service, elsewhere) = (Service::start(Mood::Take).await, Service::start(Mood::Take).await);
    let provider = world.add(&account(&service)).await;
    let refused = world.patch(id(&provider), json!({"base_url": elsewhere.url()})).await;
    assert_eq!((refused.problem(), &refused.body["field"]), ((422, "invalid_field"), &json!("secrets")));
    let moved = world.patch(id(&provider), json!({"base_url": elsewhere.url(), "secrets": {"key": "new"}})).await;
    assert_eq!(moved.status, 200, "{moved:?}");
    assert_eq!(world.patch(id(&provider), json!({"name": "Same place"})).await.status, 200);
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn private_addresses_need_the_controllers_leave() {
    let world = World::new().await;
    for url in ["http://127.0.0.1:9", "http://[::1]:9", "http://localhost:9", "http://169.254.169.254/"] {
        let body =
            json!({"maker": "test", "name": "x", "base_url": url, "secrets": {"key": "k"}, "senders": [{"from": "A"}]});
        let refused = world.call(world.post("/v1/providers", &world.key).json(&body)).await;
        assert_eq!(refused.problem(), (422, "invalid_field"), "{url}");
        assert_eq!(refused.body["field"], "base_url");
    }
    world.node.shutdown().await;
}

fn smpp_account(smsc: &Smsc) -> Value {
    json!({"maker": "smpp", "name": "SMSC", "base_url": format!("smpp://{}", smsc.address),
        "fields": {"system_id": "flotilla", "reconnect_min_ms": "10", "reconnect_max_ms": "10"},
        "secrets": {"password": "secret"}, "senders": [{"from": "15030"}]})
}

fn receipt(id: &str, state: &str) -> smpp::DeliverSm {
    let text = format!(
        "id:{id} sub:001 dlvrd:001 submit date:2611201400 done date:2611201401 stat:{state} err:000 text:hello"
    );
    smpp::deliver("255712345678", "15030", 0x04, 0, text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_goes_through_an_smsc_by_its_segments() {
    let world = world().await;
    let mut smsc = Smsc::start(smpp::Options::default()).await.unwrap();
    let provider = world.add(&smpp_account(&smsc)).await;
    let up = |provider: &Value| provider["live"]["state"] == "up";
    world.until(&format!("/v1/providers/{}", id(&provider)), up).await;
    let message = world.send(&"long ".repeat(50)).await;
    smsc.next_submit().await.unwrap();
    smsc.next_submit().await.unwrap();
    let sent = world.until_state(&message, "sent").await;
    assert!(went_by(&sent, &provider), "{sent}");
    smsc.send(0, receipt("id-0", "DELIVRD"));
    let first = |message: &Value| message["segments_delivered"] == 1;
    assert_eq!(world.until(&format!("/v1/messages/{message}"), first).await["state"], "sent");
    smsc.send(0, receipt("id-1", "DELIVRD"));
    smsc.send(0, receipt("id-0", "UNDELIV"));
    world.until_state(&message, "delivered").await;
    let taken = |seen: &Seen| matches!(seen, Seen::DeliverAnswer { status: 0, .. });
    for _ in 0..3 {
        smsc.until(taken).await.unwrap();
    }
    smsc.send(0, smpp::deliver("255712345678", "15030", 0, 0, b"STOP"));
    smsc.until(taken).await.unwrap();
    world.until("/v1/inbound", |page| page["items"][0]["text"] == "STOP").await;
    let tested = world.call(world.post(&format!("/v1/providers/{}/test", id(&provider)), &world.key)).await;
    assert_eq!(tested.body["verdict"], "works", "{tested:?}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_smsc_that_lets_nobody_in_gets_nothing() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let smsc = Smsc::start(smpp::Options::default()).await.unwrap();
    let mut account_at_smsc = smpp_account(&smsc);
    account_at_smsc["secrets"]["password"] = json!("wrong");
    let provider = world.add(&account_at_smsc).await;
    let refused = |provider: &Value| provider["live"]["last_error"].is_string();
    let shown = world.until(&format!("/v1/providers/{}", id(&provider)), refused).await;
    assert_ne!(shown["live"]["state"], "up", "{shown}");
    world.add(&account(&service)).await;
    let message = world.send("hello").await;
    world.until_state(&message, "sent").await;
    assert_eq!(service.taken().len(), 1);
    let tested = world.call(world.post(&format!("/v1/providers/{}/test", id(&provider)), &world.key)).await;
    assert_eq!(tested.body["verdict"], "refused", "{tested:?}");
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_dies_leaves_a_doubt_and_no_second_message() {
    let (world, service) = (world().await, Service::start(Mood::Hold).await);
    let mut slow = account(&service);
    slow["timeout_ms"] = json!(60_000);
    let provider = world.add(&slow).await;
    let message = world.send("hello").await;
    let taken = service.takes(1).await;
    let sessions = world.node.api.providers.sessions();
    sessions.kill(id(&provider).parse().unwrap());
    // The next session does not know the attempt, so it may have been sent.
    world.until_state(&message, "unknown").await;
    service.set_mood(Mood::Take);
    let next = world.send("another").await;
    world.until_state(&next, "sent").await;
    assert_eq!(service.taken().len(), 2, "the first one was not sent again");
    // The request of the dead session goes on, and what it learns settles the doubt with the report.
    service.release();
    let delivered = report(&taken[0].id, "delivered");
    let told = || world.call_back(id(&provider), &delivered);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert_eq!(told().await.status, 200);
        let found = world.call(world.get(&format!("/v1/messages/{message}"), &world.key)).await;
        if found.body["state"] == "delivered" {
            break;
        }
        assert!(Instant::now() < deadline, "{found:?}");
    }
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn makers_are_asked_and_low_balances_are_told() {
    let (world, service) = (world().await, Service::start(Mood::Take).await);
    let tenant = world.tenant.parse().unwrap();
    let mut events = std::pin::pin!(world.node.api.live.subscribe(tenant, None).await.unwrap());
    service.set_balance(1_500_000);
    service.set_polled("delivered");
    let mut poor = account(&service);
    poor["low_balance"] = json!("2.5");
    let provider = world.add(&poor).await;
    let low = loop {
        let event = events.next().await.unwrap();
        if event.kind == "provider.low_balance" {
            break serde_json::from_slice::<Value>(&event.data).unwrap();
        }
    };
    assert_eq!((&low["provider"], &low["amount"], &low["currency"]), (&provider["id"], &json!("1.5"), &json!("USD")));
    let is_low = |health: &Value| health["routes"][0]["score"]["reasons"][0]["name"] == "balance";
    world.until("/v1/fleet/health", is_low).await;
    let message = world.send("hello").await;
    world.until_state(&message, "delivered").await;
    world.node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_goes_out_in_one_request() {
    let (world, service) = (world().await, Service::start(Mood::Hold).await);
    let mut batches = account(&service);
    (batches["batch_size"], batches["window"], batches["timeout_ms"]) = (json!(10), json!(20), json!(30_000));
    let provider = world.add(&batches).await;
    let numbers: Vec<String> = (0..30).map(|n| format!("+2557123456{n:02}")).collect();
    // A part of the window is kept for urgent ones.
    let body = json!({"to": numbers, "text": "hello", "priority": "urgent"});
    let sent = world.call(world.post("/v1/messages", &world.key).json(&body)).await;
    assert_eq!(sent.status, 202, "{sent:?}");
    // The window and no more.
    service.takes(20).await;
    let full = |provider: &Value| provider["live"]["in_flight"] == 20;
    world.until(&format!("/v1/providers/{}", id(&provider)), full).await;
    assert_eq!((service.taken().len(), service.requests()), (20, 2));
    service.set_mood(Mood::Take);
    service.release();
    service.takes(30).await;
    service.release();
    for message in sent.body["messages"].as_array().unwrap() {
        world.until_state(message["id"].as_str().unwrap(), "sent").await;
    }
    world.node.shutdown().await;
}
