//! Streams over a journal that moves meanwhile: no gap, no repetition, and a reset where neither can be had.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{EnrollmentId, Epoch, ShardId, TenantId};
use flotilla_protocol::wire::Telemetry;
use flotilla_routing::choice::Why;
use futures_util::{Stream, StreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::domain::event::{Change, Event};
use crate::fleet::sims::SimChange;
use crate::follow::testing::{MemoryStore, START_MS, accepted, changed, failure, lives, route, submission, tenant};
use crate::gateway::{FleetEvent, FleetEvents};

const SHARDS: u16 = 2;

fn live(store: &Arc<MemoryStore>) -> Live {
    Live::new(store.clone(), all_led(Epoch(1)))
}

fn all_led(epoch: Epoch) -> Leads {
    let leads = Leads::none(SHARDS);
    (0..SHARDS).for_each(|number| leads.set(ShardId(number), Some(epoch)));
    leads
}

fn shard(tenant: TenantId) -> ShardId {
    ShardId::of(tenant, SHARDS)
}

async fn take(stream: &mut (impl Stream<Item = LiveEvent> + Unpin), n: usize) -> Vec<LiveEvent> {
    tokio::time::timeout(Duration::from_secs(30), stream.take(n).collect()).await.expect("the events come")
}

/// What a tenant has to see of the journal: kinds and ids, straight from the store.
fn truth(store: &MemoryStore, tenant: TenantId) -> Vec<(String, &'static str)> {
    let mut seen = Vec::new();
    for batch in store.batches(shard(tenant)) {
        for (index, event) in batch.events.iter().enumerate() {
            if let Some((kind, _)) = render::render(tenant, event) {
                seen.push((format!("{}-{}-{index}", batch.shard, batch.seq), kind));
            }
        }
    }
    seen
}

fn ids(events: &[LiveEvent]) -> Vec<(String, &'static str)> {
    events.iter().map(|event| (event.id.unwrap().to_string(), event.kind)).collect()
}

#[tokio::test]
async fn the_steps_of_a_message_are_told_without_number_or_text() {
    let mut it = submission(tenant(1), START_MS, [1; 10]);
    it.client_ref = Some("order-7".into());
    it.campaign = "may".into();
    let on = route(3);
    let why = failure("cms-38");
    let changes = [
        (
            Change::Dispatched { attempt: 1, route: on, session: 9, why: Why::default() },
            "message.dispatched",
            "dispatching",
        ),
        (Change::Doubted { attempt: 1, route: on, lost: false }, "message.unknown", "unknown"),
        (
            Change::Returned { attempt: 1, route: on, why: why.clone(), retry_ms: 0, undelivered: false },
            "message.queued",
            "queued",
        ),
        (Change::Sent { attempt: 2, route: on, sent_ms: START_MS, took_ms: 0 }, "message.sent", "sent"),
        (
            Change::Delivered { attempt: 2, route: on, sent_ms: START_MS, delivered_ms: START_MS },
            "message.delivered",
            "delivered",
        ),
        (Change::Failed { attempt: 2, route: None, why: why.clone(), undelivered: false }, "message.failed", "failed"),
        (Change::Expired { attempt: 2, route: Some(on), why }, "message.expired", "expired"),
        (Change::Cancelled, "message.cancelled", "cancelled"),
    ];
    let (kind, data) = render::render(tenant(1), &accepted(it.clone())).unwrap();
    let told: Value = serde_json::from_slice(&data).unwrap();
    assert_eq!(kind, "message.accepted");
    let at = "2025-11-20T23:00:00.000Z";
    assert_eq!(told, json!({"id": it.id, "state": "queued", "at": at, "campaign": "may", "client_ref": "order-7"}));
    for (change, expected, state) in changes {
        let (kind, data) = render::render(tenant(1), &changed(&it, START_MS, change)).unwrap();
        let told: Value = serde_json::from_slice(&data).unwrap();
        assert_eq!((kind, told["state"].as_str()), (expected, Some(state)));
        let text = String::from_utf8(data.to_vec()).unwrap();
        assert!(!text.contains("255712345678") && !text.contains("hello"), "{text}");
        assert_eq!(told["error"]["code"] == "cms-38", ["queued", "failed", "expired"].contains(&state), "{text}");
        assert_eq!(told["device"].is_string(), !["failed", "cancelled"].contains(&state), "{text}");
    }
    let segment = changed(&it, START_MS, Change::SegmentDelivered { attempt: 1, route: on, segment: 0 });
    assert_eq!(render::render(tenant(1), &segment), None);
    assert_eq!(render::render(tenant(2), &accepted(it)), None, "another tenant sees nothing");
}

#[tokio::test]
async fn an_inbound_message_comes_whole() {
    let store = MemoryStore::new(SHARDS);
    let events = lives(11, 80);
    let inbound =
        events.iter().find(|event| matches!(event.kind, crate::domain::event::EventKind::Inbound(_))).unwrap();
    let owner = crate::follow::testing::tenant_of(inbound);
    let mut stream = Box::pin(live(&store).subscribe(owner, None).await.unwrap());
    store.append(shard(owner), vec![inbound.clone()]);
    let told = take(&mut stream, 2).await;
    assert_eq!((told[0].kind, told[1].kind), ("ready", "inbound.received"));
    let data: Value = serde_json::from_slice(&told[1].data).unwrap();
    assert_eq!(data["text"], "hi");
    assert!(data["from"].as_str().is_some_and(|from| !from.is_empty()));
    assert!(data["received_at"].as_str().unwrap().ends_with('Z'));
}

#[tokio::test]
async fn a_stream_that_breaks_anywhere_resumes_without_gap_or_repetition() {
    for seed in 0..8u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let store = MemoryStore::new(SHARDS);
        let live = live(&store);
        let me = tenant(1);
        let mut stream = Box::pin(live.subscribe(me, None).await.unwrap());
        let mut last = take(&mut stream, 1).await.remove(0).id;

        // Commits go on while the stream is read, broken off and resumed.
        let writer = tokio::spawn({
            let (store, events, mut rng) = (store.clone(), lives(seed, 200), StdRng::seed_from_u64(seed));
            async move {
                for events in events.chunks(7) {
                    store.append_all(events, &mut rng);
                    tokio::task::yield_now().await;
                }
            }
        });
        let mut seen = Vec::new();
        loop {
            let want = rng.random_range(1..30);
            while seen.len() % 30 != want {
                let done = writer.is_finished() && seen.len() == truth(&store, me).len();
                if done {
                    break;
                }
                let event = take(&mut stream, 1).await.remove(0);
                last = event.id;
                seen.push(event);
            }
            if writer.is_finished() && seen.len() == truth(&store, me).len() {
                break;
            }
            // What a browser does: the id it saw last, as text.
            let resume = last.unwrap().to_string().parse().unwrap();
            stream = Box::pin(live.subscribe(me, Some(resume)).await.unwrap());
        }
        assert_eq!(ids(&seen), truth(&store, me), "seed {seed}");
        assert!(seen.len() > 50);
        let more = tokio::time::timeout(Duration::from_millis(60), stream.next()).await;
        assert!(more.is_err(), "seed {seed}: {more:?}");
    }
}

#[tokio::test]
async fn a_slow_subscriber_gets_everything_that_the_journal_still_has() {
    let store = MemoryStore::new(SHARDS);
    let mut stream = Box::pin(live(&store).subscribe(tenant(1), None).await.unwrap());
    take(&mut stream, 1).await;
    store.append_all(&lives(21, 500), &mut StdRng::seed_from_u64(21));
    let truth = truth(&store, tenant(1));
    assert_eq!(ids(&take(&mut stream, truth.len()).await), truth);
}

#[tokio::test]
async fn what_the_journal_has_lost_is_a_reset_and_then_goes_on() {
    let store = MemoryStore::new(SHARDS);
    let me = tenant(1);
    let live = live(&store);
    let event = |n: u8| accepted(submission(me, START_MS, [n; 10]));
    let mut stream = Box::pin(live.subscribe(me, None).await.unwrap());
    store.append(shard(me), vec![event(1), event(2)]);
    let seen = take(&mut stream, 2).await;
    store.append(shard(me), vec![event(3)]);
    store.trim_all();
    let mut resumed = Box::pin(live.subscribe(me, seen[1].id).await.unwrap());
    let reset = take(&mut resumed, 1).await.remove(0);
    assert_eq!(reset.kind, "reset");
    assert_eq!(reset.id.unwrap().to_string(), format!("{}-2", shard(me)));
    store.append(shard(me), vec![event(4)]);
    assert_eq!(take(&mut resumed, 1).await[0].id.unwrap().to_string(), format!("{}-3-0", shard(me)));

    let future = format!("{}-9-0", shard(me)).parse().unwrap();
    let mut from_another_journal = Box::pin(live.subscribe(me, Some(future)).await.unwrap());
    assert_eq!(take(&mut from_another_journal, 1).await[0].kind, "reset");
    let other = EventId { shard: ShardId(shard(me).0 ^ 1), seq: 1, index: None };
    assert!(matches!(live.subscribe(me, Some(other)).await, Err(SubscribeError::OtherShard)));
}

#[tokio::test]
async fn events_of_the_fleet_reach_their_tenant_and_a_flood_ends_in_a_reset() {
    let store = MemoryStore::new(SHARDS);
    let live = live(&store);
    let mut mine = Box::pin(live.subscribe(tenant(1), None).await.unwrap());
    let mut theirs = Box::pin(live.subscribe(tenant(2), None).await.unwrap());
    take(&mut mine, 1).await;
    take(&mut theirs, 1).await;
    live.publish(tenant(1), "device.online", 5, &json!({"device": "dev_1"}));
    let told = take(&mut mine, 1).await.remove(0);
    assert_eq!((told.id, told.kind, told.at_ms), (None, "device.online", 5));
    assert_eq!(&told.data[..], br#"{"device":"dev_1"}"#);

    for n in 0..=FLEET_EVENTS_MAX {
        live.publish(tenant(1), "device.offline", n as u64, &json!({}));
    }
    let told = take(&mut mine, 2).await;
    assert_eq!((told[0].kind, told[0].id), ("reset", None));
    assert_eq!(told[1].kind, "device.offline");
    let nothing = tokio::time::timeout(Duration::from_millis(20), theirs.next()).await;
    assert!(nothing.is_err());
}

#[tokio::test]
async fn the_gateway_publishes_devices_and_sims() {
    let live = live(&MemoryStore::new(SHARDS));
    let mut stream = Box::pin(live.subscribe(tenant(1), None).await.unwrap());
    take(&mut stream, 1).await;
    let (device, sim) = (route(1).device, route(1).sim);
    let gateway: &dyn FleetEvents = &live;
    gateway.publish(tenant(1), FleetEvent::Online { device, software: "node 1".into() });
    gateway.publish(tenant(1), FleetEvent::Sim { device, sim, change: SimChange::Moved });
    let telemetry = Telemetry { battery_percent: Some(80), ..Telemetry::default() };
    gateway.publish(tenant(1), FleetEvent::Telemetry { device, telemetry: Box::new(telemetry) });
    gateway.publish(tenant(1), FleetEvent::Offline { device });
    let enrollment = EnrollmentId::new(1, [7; 10]);
    gateway.publish(tenant(1), FleetEvent::EnrollmentReused { enrollment, device: Some(device) });
    let told = take(&mut stream, 5).await;
    assert_eq!(
        told.iter().map(|event| event.kind).collect::<Vec<_>>(),
        ["device.online", "sim.changed", "device.telemetry", "device.offline", "enrollment.reused"]
    );
    let data: Vec<Value> = told.iter().map(|event| serde_json::from_slice(&event.data).unwrap()).collect();
    assert!(data.iter().all(|data| data["device"] == json!(device) && data["at"].is_string()));
    assert_eq!(data[0]["software"], "node 1");
    assert_eq!((&data[1]["sim"], &data[1]["change"]), (&json!(sim), &json!("moved")));
    assert_eq!(data[2]["battery_percent"], 80);
    assert_eq!(data[4]["enrollment"], json!(enrollment));
}

#[tokio::test]
async fn subscribers_are_counted_and_give_their_place_back() {
    let store = MemoryStore::new(SHARDS);
    let live = live(&store);
    let mut streams = Vec::new();
    for _ in 0..SUBSCRIBERS_PER_TENANT_MAX {
        streams.push(live.subscribe(tenant(1), None).await.unwrap());
    }
    assert!(matches!(live.subscribe(tenant(1), None).await, Err(SubscribeError::TooMany { .. })));
    assert!(live.subscribe(tenant(2), None).await.is_ok());
    streams.pop();
    assert!(live.subscribe(tenant(1), None).await.is_ok());
    drop(streams);
    assert_eq!(live.subscribers(), 0);
    let none: [Event; 0] = [];
    assert!(store.events() == none);
}

#[tokio::test]
async fn a_stream_goes_on_at_the_next_leader_from_its_last_id() {
    let store = MemoryStore::new(SHARDS);
    let me = tenant(1);
    let (leads_a, leads_b) = (all_led(Epoch(1)), Leads::none(SHARDS));
    let (a, b) = (Live::new(store.clone(), leads_a.clone()), Live::new(store.clone(), leads_b.clone()));
    let not_led = b.subscribe(me, None).await.err();
    assert!(matches!(not_led, Some(SubscribeError::Store(StoreError::NotLeading { .. }))), "{not_led:?}");

    let mut stream = Box::pin(a.subscribe(me, None).await.unwrap());
    let events = lives(31, 200);
    let (before, after) = events.split_at(events.len() / 2);
    store.append_all(before, &mut StdRng::seed_from_u64(31));
    let mut seen = take(&mut stream, 1 + truth(&store, me).len() / 2).await.split_off(1);

    // The shard moves while the client reads: it gets what was on its way, and then the end.
    leads_a.set(shard(me), None);
    leads_b.set(shard(me), Some(Epoch(2)));
    store.append_all(after, &mut StdRng::seed_from_u64(32));
    let rest: Vec<LiveEvent> = tokio::time::timeout(Duration::from_secs(30), stream.collect()).await.expect("it ends");
    seen.extend(rest);
    assert!(a.subscribe(me, seen.last().unwrap().id).await.is_err(), "the former leader knows nothing newer");

    let last = seen.last().unwrap().id.unwrap().to_string().parse().unwrap();
    let mut stream = Box::pin(b.subscribe(me, Some(last)).await.unwrap());
    let truth = truth(&store, me);
    seen.extend(take(&mut stream, truth.len() - seen.len()).await);
    assert_eq!(ids(&seen), truth);

    // The same leader under a new epoch is another leadership: what came between is not known here.
    leads_b.set(shard(me), Some(Epoch(3)));
    assert!(tokio::time::timeout(Duration::from_secs(30), stream.next()).await.expect("it ends").is_none());

    // What the journal has lost meanwhile is told as ever.
    store.trim_all();
    let mut stream = Box::pin(b.subscribe(me, seen[0].id).await.unwrap());
    let reset = take(&mut stream, 1).await.remove(0);
    assert_eq!((reset.kind, &reset.data[..]), ("reset", &br#"{"list":["messages","inbound","devices","sims"]}"#[..]));
}
