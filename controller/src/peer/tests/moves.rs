//! Shards move while they are used.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use reqwest::Method;
use serde_json::json;

use super::{Events, Nodes, answer, name};

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_whoever_leads_next() {
    let nodes = Arc::new(Nodes::new(2).await);
    nodes.place(None);
    nodes.ownerless().await;
    let waiting = [1, 2].map(|via| {
        let nodes = nodes.clone();
        tokio::spawn(async move { nodes.send(via, "patience").await })
    });
    let list = {
        let nodes = nodes.clone();
        tokio::spawn(async move { answer(nodes.get(1, "/v1/messages")).await })
    };
    // They wait in their nodes, not in a queue before them.
    assert_eq!(answer(nodes.get(1, "/healthz")).await.status, 200);
    assert!(waiting.iter().all(|task| !task.is_finished()));
    nodes.place(Some(2));
    for task in waiting {
        task.await.unwrap();
    }
    list.await.unwrap().expect(200);
    assert_eq!(answer(nodes.get(1, "/v1/messages")).await.expect(200)["items"].as_array().unwrap().len(), 2);
    Arc::into_inner(nodes).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_nobody_can_serve_is_told_so_and_nothing_was_done() {
    let nodes = Nodes::new(2).await;
    nodes.place(None);
    nodes.ownerless().await;
    let refused = answer(nodes.message(2, "nobody")).await;
    assert_eq!(refused.problem(), (503, "not_leading"));
    nodes.place(Some(1));
    assert_eq!(answer(nodes.get(2, "/v1/messages")).await.expect(200)["items"], json!([]));
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_doubled_while_shards_move() {
    let nodes = Arc::new(Nodes::new(3).await);
    let stop = Arc::new(AtomicBool::new(false));
    let senders: Vec<_> = (1..=3)
        .map(|via| {
            let (nodes, stop) = (nodes.clone(), stop.clone());
            tokio::spawn(async move {
                let mut sent = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let text = format!("c{via} {}", sent.len());
                    let request = nodes.message(via, &text).header("idempotency-key", &text);
                    let answer = answer(request).await.expect(202);
                    sent.push(answer["messages"][0]["id"].as_str().unwrap().to_owned());
                }
                sent
            })
        })
        .collect();
    for to in [2, 3, 1, 3, 2, 1] {
        nodes.place(Some(to));
        nodes.serves(to).await;
        nodes.send(to, "between").await;
    }
    stop.store(true, Ordering::SeqCst);
    let mut sent = HashSet::new();
    for sender in senders {
        let ids = sender.await.unwrap();
        assert!(!ids.is_empty());
        sent.extend(ids);
    }
    let mut listed = HashSet::new();
    let mut path = "/v1/messages?limit=500".to_owned();
    loop {
        let page = answer(nodes.get(2, &path)).await.expect(200);
        for item in page["items"].as_array().unwrap() {
            assert!(listed.insert(item["id"].as_str().unwrap().to_owned()));
        }
        let Some(next) = page["next"].as_str() else { break };
        path = format!("/v1/messages?limit=500&cursor={next}");
    }
    assert!(sent.is_subset(&listed));
    assert_eq!(listed.len(), sent.len() + 6, "and the six between");
    Arc::into_inner(nodes).unwrap().shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_events_goes_on_at_the_next_leader_without_a_gap() {
    let nodes = Nodes::new(3).await;
    // Through the leader, through one that stays out of it, and through the next leader.
    for via in [1, 2, 3] {
        nodes.place(Some(1));
        nodes.serves(1).await;
        let mut events = Events::follow(&nodes, via, None).await;
        assert_eq!(events.next().await.unwrap().kind, "ready");
        let first = nodes.send(2, "first").await;
        let seen = events.next().await.unwrap();
        assert_eq!(seen.data["id"], first);
        nodes.place(Some(3));
        nodes.serves(3).await;
        assert!(events.next().await.is_none(), "the stream through c{via} ends");
        let second = nodes.send(1, "second").await;
        let mut events = Events::follow(&nodes, via, Some(&seen.id)).await;
        assert_eq!(events.next().await.unwrap().data["id"], second, "through c{via}");
    }
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_drains_pins_and_resumes() {
    let nodes = Nodes::new(2).await;
    let id = nodes.send(1, "before").await;
    answer(nodes.as_root(Method::POST, 1, "/v1/cluster/nodes/c1/drain")).await.expect(202);
    nodes.serves(2).await;
    assert_eq!(answer(nodes.get(1, &format!("/v1/messages/{id}"))).await.expect(200)["text"], "before");
    let cluster = answer(nodes.as_root(Method::GET, 1, "/v1/cluster")).await.expect(200);
    assert_eq!(cluster["members"][0]["draining"], true);
    answer(nodes.as_root(Method::POST, 2, "/v1/cluster/nodes/c1/resume")).await.expect(202);
    let path = format!("/v1/cluster/shards/{}/move", nodes.shard());
    answer(nodes.as_root(Method::POST, 2, &path).json(&json!({"to": "c1"}))).await.expect(202);
    nodes.serves(1).await;
    let cluster = answer(nodes.as_root(Method::GET, 2, "/v1/cluster")).await.expect(200);
    assert_eq!(cluster["shards"][usize::from(nodes.shard().0)]["pinned_to"], "c1");
    answer(nodes.as_root(Method::POST, 2, &path).json(&json!({"to": null}))).await.expect(202);
    let call = |path: &str, body| answer(nodes.as_root(Method::POST, 2, path).json(&body));
    assert_eq!(call("/v1/cluster/nodes/c9/drain", json!({})).await.problem(), (404, "not_found"));
    assert_eq!(call("/v1/cluster/shards/99/move", json!({"to": "c1"})).await.problem(), (404, "not_found"));
    assert_eq!(call("/v1/cluster/shards/x/move", json!({"to": "c1"})).await.problem(), (400, "invalid_parameter"));
    assert_eq!(call(&path, json!({"to": "C 1"})).await.problem(), (422, "invalid_field"));
    let audit = answer(nodes.as_root(Method::GET, 1, "/v1/audit")).await.expect(200);
    let actions: Vec<_> =
        audit["items"].as_array().unwrap().iter().map(|act| act["action"].as_str().unwrap()).collect();
    assert_eq!(actions[..4], ["cluster.move", "cluster.move", "cluster.resume", "cluster.drain"]);
    nodes.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_stops_hands_over_and_nobody_notices() {
    let mut nodes = Nodes::new(2).await;
    let leaving = nodes.nodes[0].take().unwrap();
    let nodes = Arc::new(nodes);
    let stopped = Arc::new(AtomicBool::new(false));
    let sender = {
        let (nodes, stopped) = (nodes.clone(), stopped.clone());
        tokio::spawn(async move {
            let mut sent = 0;
            while !stopped.load(Ordering::SeqCst) {
                nodes.send(2, "on and on").await;
                sent += 1;
            }
            sent
        })
    };
    leaving.shutdown().await;
    stopped.store(true, Ordering::SeqCst);
    let sent: usize = sender.await.unwrap();
    nodes.send(2, "after").await;
    nodes.shared.cluster.expel(&name(1));
    // Whoever lists sees all; the counts are then as new.
    answer(nodes.get(2, "/v1/messages")).await.expect(200);
    let counts = answer(nodes.get(2, "/v1/fleet/health")).await.expect(200);
    assert_eq!(counts["messages"]["queued"], sent + 1);
    Arc::into_inner(nodes).unwrap().shutdown().await;
}
