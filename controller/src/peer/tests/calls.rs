//! Any node takes any call.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{Events, Nodes, PATIENCE, answer};
use crate::providers::tests::maker::{SIGNATURE, THANKS, signature};
use crate::providers::tests::service::{Mood, Service};

#[tokio::test(flavor = "multi_thread")]
async fn messages_go_through_any_node_and_are_seen_through_any() {
    let nodes = Nodes::new(3).await;
    let ids = [nodes.send(1, "one").await, nodes.send(2, "two").await, nodes.send(3, "three").await];
    for via in 1..=3 {
        let listed = answer(nodes.get(via, "/v1/messages")).await.expect(200);
        let listed: Vec<_> =
            listed["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(listed, [&ids[2], &ids[1], &ids[0]], "through c{via}");
        let one = answer(nodes.get(via, &format!("/v1/messages/{}", ids[1]))).await.expect(200);
        assert_eq!((one["text"].as_str(), one["state"].as_str()), (Some("two"), Some("queued")));
    }
    let path = format!("/v1/messages/{}", ids[0]);
    let cancelled = answer(nodes.request(Method::DELETE, 3, &path, &nodes.key)).await.expect(200);
    assert_eq!(cancelled["cancel"], "cancelled");
    assert_eq!(answer(nodes.get(2, &path)).await.expect(200)["state"], "cancelled");
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_of_a_tenant_is_there_through_a_node_that_leads_nothing() {
    let nodes = Nodes::new(2).await;
    nodes.send(2, "counted").await;
    let stats = answer(nodes.get(2, "/v1/stats?step=total")).await.expect(200);
    assert_eq!(stats["rows"][0]["accepted"], 1, "{stats}");
    assert_eq!(answer(nodes.get(2, "/v1/inbound")).await.expect(200)["items"], json!([]));
    // Whoever lists sees all; the counts of the health are then as new.
    assert_eq!(
        answer(nodes.get(2, "/v1/messages?state=queued")).await.expect(200)["items"].as_array().unwrap().len(),
        1
    );
    assert_eq!(answer(nodes.get(2, "/v1/fleet/health")).await.expect(200)["messages"]["queued"], 1);
    let code = answer(nodes.post(2, "/v1/enrollments", &json!({"device_name": "attic"}))).await.expect(201);
    let picture = nodes.get(2, &format!("/v1/enrollments/{}/qr.svg", code["id"].as_str().unwrap()));
    assert!(answer(picture).await.expect(200).as_str().unwrap().contains("<svg"));
    for path in ["/v1/devices", "/v1/sims", "/v1/keys", "/v1/audit", "/v1/ca", "/v1/certificates"] {
        answer(nodes.get(2, path)).await.expect(200);
    }
    let preview = answer(nodes.post(2, "/v1/messages/preview", &json!({"text": "Habari"}))).await.expect(200);
    assert_eq!(preview["segments"], 1);
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_the_leaders_own() {
    let nodes = Nodes::new(2).await;
    let wrong = answer(nodes.post(2, "/v1/messages", &json!({"to": "255", "text": "x"}))).await;
    assert_eq!((wrong.problem(), wrong.body["field"].as_str()), ((422, "invalid_number"), Some("to")));
    let large = "x".repeat(300_000);
    assert_eq!(answer(nodes.message(2, &large)).await.problem(), (413, "body_too_large"));
    let unknown = answer(nodes.request(Method::GET, 2, "/v1/messages", "flk_nobody")).await;
    assert_eq!(unknown.problem(), (401, "unauthenticated"));
    let body = json!({"name": "reader", "scopes": ["read"]});
    let reader = answer(nodes.post(2, "/v1/keys", &body)).await.expect(201);
    let reader = reader["secret"].as_str().unwrap();
    let body = json!({"to": "+255712345678", "text": "x"});
    let refused = answer(nodes.request(Method::POST, 2, "/v1/messages", reader).json(&body)).await;
    assert_eq!(refused.problem(), (403, "forbidden"));
    assert_eq!(answer(nodes.request(Method::GET, 2, "/v1/messages", reader)).await.status, 200);
    nodes.shutdown().await;
}

/// A provider knows one address, whoever leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_settles_its_message_whichever_node_it_comes_to() {
    let nodes = Nodes::prepared(2, |_, config| config.providers.allow_private_addresses = true, |_| {}).await;
    let service = Service::start(Mood::Take).await;
    let account = json!({"maker": "test", "name": "Test", "base_url": service.url(), "secrets": {"key": "geheim"},
        "senders": [{"from": "ACME"}]});
    let made = answer(nodes.post(2, "/v1/providers", &account)).await.expect(201);
    let message = nodes.send(2, "hello").await;
    let until = async |state: &str| {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let found = answer(nodes.get(2, &format!("/v1/messages/{message}"))).await.expect(200);
            if found["state"] == state {
                return;
            }
            assert!(Instant::now() < deadline, "not {state}: {found}");
            // Between two questions, not in place of one.
            sleep(Duration::from_millis(10)).await;
        }
    };
    let taken = service.takes(1).await.remove(0);
    until("sent").await;
    let providers = &nodes.node(2).api.providers;
    assert_eq!(providers.sessions().count(), 0, "the leader has the session");
    let id = made["id"].as_str().unwrap().parse().unwrap();
    let path = providers.accounts().get(nodes.tenant, id).await.unwrap().callback_path();
    let body = json!({"reports": [{"id": taken.id, "state": "delivered"}]}).to_string();
    let call = |path: String| {
        nodes
            .request(Method::POST, 2, &path, "")
            .header(SIGNATURE, signature("geheim", body.as_bytes()))
            .body(body.clone())
    };
    let (base, _) = path.rsplit_once('/').unwrap();
    assert_eq!(answer(call(format!("/{base}/another"))).await.problem(), (404, "not_found"));
    assert_eq!(answer(call(format!("/{path}"))).await.expect(200), THANKS);
    until("delivered").await;
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_counts_whichever_node_has_it() {
    let nodes = Nodes::new(3).await;
    let send = |via| nodes.message(via, "once").header("idempotency-key", "k1");
    let first = send(2).send().await.unwrap();
    assert!(first.headers().get("idempotent-replayed").is_none());
    let first = super::taken_apart(first).await.expect(202);
    for via in [3, 1, 2] {
        let again = send(via).send().await.unwrap();
        assert_eq!(again.headers()["idempotent-replayed"], "true", "through c{via}");
        assert_eq!(super::taken_apart(again).await.expect(202), first);
    }
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_of_any_length_passes_through() {
    let nodes = Nodes::new(2).await;
    let lines = 20_000;
    let line =
        |n: usize| format!("{{\"to\": \"+25571{n:07}\", \"text\": \"Hello {n}, this is a line of an upload\"}}\n");
    let upload = |via| {
        let body: String = (0..lines).map(line).collect();
        // In pieces and without a length, as a client does that reads a pipe.
        let pieces: Vec<_> =
            body.as_bytes().chunks(9_973).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect();
        nodes
            .request(Method::POST, via, "/v1/messages/bulk", &nodes.key)
            .header("content-type", "application/x-ndjson")
            .header("idempotency-key", "upload-1")
            .body(reqwest::Body::wrap_stream(futures_util::stream::iter(pieces)))
    };
    let report = answer(upload(2)).await.expect(202);
    assert_eq!((&report["accepted"], &report["replayed"]), (&json!(lines), &json!(0)));
    let report = answer(upload(1)).await.expect(202);
    assert_eq!((&report["accepted"], &report["replayed"]), (&json!(lines), &json!(lines)), "the chunks are the same");
    let bad = nodes
        .request(Method::POST, 2, "/v1/messages/bulk", &nodes.key)
        .header("content-type", "text/csv")
        .body("colour\nred\n");
    assert_eq!(answer(bad).await.problem(), (400, "invalid_csv"));
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_through_any_node() {
    let nodes = Nodes::new(2).await;
    let mut events = Events::follow(&nodes, 2, None).await;
    assert_eq!(events.next().await.unwrap().kind, "ready");
    for via in [1, 2] {
        let id = nodes.send(via, "hello").await;
        let event = events.next().await.unwrap();
        assert_eq!((event.kind.as_str(), event.data["id"].as_str()), ("message.accepted", Some(&*id)));
    }
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_claims_to_be_forwarded_is_not() {
    let nodes = Nodes::new(3).await;
    let spoofed = nodes.message(2, "spoofed").header("x-flotilla-forwarded", "c1").header("x-flotilla-epoch", "0");
    answer(spoofed).await.expect(202);
    let spoofed =
        nodes.message(1, "spoofed").header("x-flotilla-forwarded", "c2").header("x-flotilla-not-leading", "1");
    answer(spoofed).await.expect(202);
    assert_eq!(answer(nodes.as_root(Method::GET, 1, "/peer/status")).await.problem(), (404, "not_found"));
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cluster_shows_its_members_and_their_shards() {
    let nodes = Nodes::new(3).await;
    nodes.shared.cluster.place(nodes.shard(), Some(&super::name(3)));
    nodes.serves(3).await;
    nodes.send(2, "queued at c3").await;
    let cluster = answer(nodes.as_root(Method::GET, 2, "/v1/cluster")).await.expect(200);
    assert_eq!((&cluster["node"], &cluster["fresh"]), (&json!("c2"), &json!(true)));
    let member = |number: usize| &cluster["members"][number - 1];
    let led: Vec<_> = (1..=3).map(|number| member(number)["shards_led"].as_u64().unwrap()).collect();
    assert_eq!(led, [3, 0, 1]);
    assert!((1..=3).all(|number| member(number)["answers"] == true), "{cluster}");
    assert!(member(1)["rtt_ms"].as_f64().unwrap() > 0.0 && member(2).get("rtt_ms").is_none());
    assert_eq!(cluster["shards"][usize::from(nodes.shard().0)]["leader"], "c3");
    let tenant = nodes.tenant.to_string();
    let health = nodes.as_root(Method::GET, 2, "/v1/fleet/health").header("x-tenant", tenant);
    let health = answer(health).await.expect(200);
    assert_eq!(health["controllers"].as_array().unwrap().len(), 3, "{health}");
    assert_eq!(health["controllers"][2]["shards"][0]["queued"], 1);
    assert!(health.get("controllers_missing").is_none());
    assert_eq!(answer(nodes.get(2, "/v1/cluster")).await.problem(), (403, "forbidden"));
    let ready = answer(nodes.get(2, "/readyz")).await.expect(200);
    assert_eq!(ready["cluster"], json!({"members": 3, "shards_without_leader": 0}));
    nodes.shutdown().await;
}
