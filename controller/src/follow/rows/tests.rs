//! The rows against a model that simply applies every event, over crashes; and what readers may count on.

use std::collections::BTreeMap;
use std::time::Duration;

use flotilla_protocol::id::Epoch;
use flotilla_routing::choice::Why;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::domain::event::{Accepted, Change, Event, Idempotency};
use crate::domain::message::MessageState;
use crate::follow::recent::DIRTY_MAX;
use crate::follow::testing::{accepted, changed, lead_all, lives, route, submission, tenant, tenant_of};
use crate::follow::{FollowOptions, follow};
use crate::store::{Journal, Stores, sqlite};

const SHARDS: u16 = 4;

fn open(dir: &tempfile::TempDir) -> Stores {
    sqlite::open(dir.path(), &sqlite::Options { shards: SHARDS, ..sqlite::Options::default() }).unwrap()
}

fn shard_of(tenant: TenantId) -> ShardId {
    ShardId::of(tenant, SHARDS)
}

/// Commits as a shard would.
struct Leader<'a> {
    journal: &'a dyn Journal,
    last: u64,
    shard: ShardId,
}

impl<'a> Leader<'a> {
    async fn of(stores: &'a Stores, tenant: TenantId) -> Self {
        let shard = shard_of(tenant);
        let last = stores.journal.take(shard, Epoch(1)).await.unwrap();
        Self { journal: &*stores.journal, last, shard }
    }

    async fn commit(&mut self, events: Vec<Event>) {
        self.last += 1;
        let batch = Batch { shard: self.shard, epoch: Epoch(1), seq: self.last, events: events.into() };
        self.journal.commit(batch).await.unwrap();
    }
}

/// Nothing is flushed by age: whatever is seen was waited for.
fn never_by_age() -> FollowOptions {
    let long = Duration::from_secs(86_400);
    FollowOptions { flush_after: long, sync_after: long }
}

async fn reader(stores: &Stores) -> (RowsReader, CancellationToken, tokio::task::JoinHandle<()>) {
    let follower = RowsFollower::open(Arc::clone(&stores.rows)).await.unwrap();
    let make = follower.reader();
    let stop = CancellationToken::new();
    let (handle, task) = follow(follower, Arc::clone(&stores.journal), never_by_age(), stop.clone());
    lead_all(&handle, SHARDS);
    (make(handle), stop, task)
}

fn all() -> Page {
    Page { limit: 1_000, cursor: None }
}

#[tokio::test]
async fn whoever_was_answered_finds_the_message() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&dir);
    let ours = tenant(1);
    let mut leader = Leader::of(&stores, ours).await;
    let (reader, stop, task) = reader(&stores).await;
    for n in 1..=50u8 {
        let message = submission(ours, 1_000 + u64::from(n), [n; 10]);
        leader.commit(vec![accepted(message.clone())]).await;
        let found = reader.get(ours, message.id).await.unwrap().unwrap();
        assert_eq!(found.state, MessageState::Queued);
        assert_eq!(found.order, (leader.last, 0));
        assert_eq!(reader.get(tenant(2), message.id).await, Ok(None), "another tenant's");
        if n % 10 == 0 {
            let listed = reader.list(ours, MessageFilter::default(), all()).await.unwrap();
            assert_eq!(listed.items.len(), usize::from(n));
            let change = Change::Dispatched { attempt: 1, route: route(1), session: 1, why: Why::default() };
            leader.commit(vec![changed(&message, 2_000, change), changed(&message, 2_001, Change::Cancelled)]).await;
            assert_eq!(reader.get(ours, message.id).await.unwrap().unwrap().state, MessageState::Cancelled);
        }
    }
    let cancelled = MessageFilter { states: vec![MessageState::Cancelled], ..MessageFilter::default() };
    let (a, b) = tokio::join!(reader.list(ours, cancelled, all()), reader.list(ours, MessageFilter::default(), all()));
    assert_eq!((a.unwrap().items.len(), b.unwrap().items.len()), (5, 50));
    assert_eq!(reader.lag(), Lag::default());
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn a_request_with_a_key_is_found_by_it() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&dir);
    let ours = tenant(1);
    let mut leader = Leader::of(&stores, ours).await;
    let (reader, stop, task) = reader(&stores).await;
    let ask = |n: u8, key: u8, index, count| {
        let idempotency = Some(Idempotency { key: [key; 16], request: [key + 100; 16], index, count });
        let kind =
            EventKind::Accepted(Box::new(Accepted { submission: submission(ours, 5_000, [n; 10]), idempotency }));
        Event { at_ms: 5_000, kind }
    };
    leader.commit(vec![ask(1, 1, 0, 2), ask(2, 1, 1, 2), ask(3, 2, 0, 1)]).await;
    reader.caught_up(shard_of(ours)).await.unwrap();
    let messages = [1, 2].map(|n| submission(ours, 5_000, [n; 10]).id).to_vec();
    let expected = KeyUse { request: [101; 16], messages, at_ms: 5_000 };
    assert_eq!(reader.idempotent(ours, [1; 16], 6_000).await, Ok(Some(expected)));
    assert_eq!(reader.idempotent(ours, [2; 16], 6_000).await.unwrap().unwrap().messages.len(), 1);
    assert_eq!(reader.idempotent(ours, [1; 16], 5_001 + IDEMPOTENCY_MS).await, Ok(None));
    stop.cancel();
    task.await.unwrap();
}

/// Takes what is committed, with flushes at random; then, as after a crash, forgets what was not flushed.
async fn follow_for_a_while(stores: &Stores, rng: &mut StdRng, to_the_end: bool) {
    let mut follower = RowsFollower::open(Arc::clone(&stores.rows)).await.unwrap();
    for number in 0..SHARDS {
        let shard = ShardId(number);
        let after = follower.position(shard);
        for batch in stores.journal.read(shard, after, usize::MAX).await.unwrap() {
            if rng.random_ratio(1, 40) && !to_the_end {
                return;
            }
            follower.apply(&batch).await.unwrap();
            if rng.random_ratio(1, 10) {
                follower.flush().await.unwrap();
            }
        }
    }
    if to_the_end {
        follower.flush().await.unwrap();
    }
}

#[tokio::test]
async fn rows_equal_the_journal_over_crashes() {
    let seed = rand::rng().random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&dir);
    for shard in 0..SHARDS {
        stores.journal.take(ShardId(shard), Epoch(1)).await.unwrap();
    }
    let events = lives(seed, 300);
    let mut model: BTreeMap<MessageId, MessageRecord> = BTreeMap::new();
    let mut next = [1u64; SHARDS as usize];
    let mut open_batches: BTreeMap<ShardId, Vec<Event>> = BTreeMap::new();
    for (n, event) in events.iter().enumerate() {
        let shard = shard_of(tenant_of(event));
        let batch = open_batches.entry(shard).or_default();
        let seq = next[usize::from(shard.0)];
        match &event.kind {
            EventKind::Accepted(accepted) => {
                let order = (seq, batch.len() as u32);
                let record = MessageRecord::accepted(accepted.submission.clone(), event.at_ms, order);
                model.insert(accepted.submission.id, record);
            }
            EventKind::Changed(changed) => {
                let record = model.get_mut(&changed.message).unwrap();
                record.apply(event.at_ms, &changed.change);
                changed.charge.iter().for_each(|charge| record.charge(charge));
            }
            EventKind::Inbound(_) => {}
        }
        batch.push(event.clone());
        if rng.random_ratio(1, 3) || n + SHARDS as usize * 2 > events.len() {
            let events = std::mem::take(batch).into();
            stores.journal.commit(Batch { shard, epoch: Epoch(1), seq, events }).await.unwrap();
            next[usize::from(shard.0)] += 1;
        }
        if rng.random_ratio(1, 50) {
            follow_for_a_while(&stores, &mut rng, false).await;
        }
    }
    for (shard, events) in open_batches {
        let seq = next[usize::from(shard.0)];
        stores.journal.commit(Batch { shard, epoch: Epoch(1), seq, events: events.into() }).await.unwrap();
    }
    follow_for_a_while(&stores, &mut rng, true).await;

    let mut scan = stores.rows.scan(None).await.unwrap();
    let found: BTreeMap<_, _> =
        scan.messages(50_000).await.unwrap().into_iter().map(|record| (record.submission.id, record)).collect();
    assert_eq!(found, model, "seed {seed}");
    let inbound = events.iter().filter(|event| matches!(event.kind, EventKind::Inbound(_))).count();
    assert_eq!(scan.inbound(50_000).await.unwrap().len(), inbound, "seed {seed}");
}

#[tokio::test]
async fn a_load_without_end_needs_no_memory_without_end() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&dir);
    let ours = tenant(1);
    let mut leader = Leader::of(&stores, ours).await;
    let mut follower = RowsFollower::open(Arc::clone(&stores.rows)).await.unwrap();
    let mut flushes = 0;
    let mut number = 0u64;
    for _ in 0..60 {
        let message = |n: u64| {
            let mut random = [0; 10];
            random[..8].copy_from_slice(&n.to_be_bytes());
            accepted(submission(ours, 1_000, random))
        };
        leader.commit((number..number + 1_000).map(message).collect()).await;
        number += 1_000;
        for batch in stores.journal.read(leader.shard, follower.position(leader.shard), usize::MAX).await.unwrap() {
            if follower.full() {
                follower.flush().await.unwrap();
                flushes += 1;
            }
            follower.apply(&batch).await.unwrap();
        }
        let (slots, dirty) = follower.recent.lock().sizes();
        assert!(dirty <= DIRTY_MAX + 1_000 && slots <= 32_768 + DIRTY_MAX + 1_000, "{slots} {dirty}");
    }
    assert!(flushes >= 3);
    follower.flush().await.unwrap();
    assert_eq!(stores.rows.open_counts(leader.shard).await.unwrap()[0].messages, 60_000);
}

#[tokio::test]
async fn what_a_former_leader_still_had_to_write_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&dir);
    let (ours, theirs) =
        (tenant(1), (2..50).map(tenant).find(|other| shard_of(*other) != shard_of(tenant(1))).unwrap());
    let (shard, other) = (shard_of(ours), shard_of(theirs));
    let mut leader = Leader::of(&stores, ours).await;
    let mut second = Leader::of(&stores, theirs).await;
    let (first, elsewhere) = (submission(ours, 1_000, [1; 10]), submission(theirs, 1_000, [2; 10]));
    leader.commit(vec![accepted(first.clone())]).await;
    second.commit(vec![accepted(elsewhere.clone())]).await;

    let mut former = RowsFollower::open(Arc::clone(&stores.rows)).await.unwrap();
    former.gained(&[(shard, Epoch(1)), (other, Epoch(1))]).await.unwrap();
    for shard in [shard, other] {
        for batch in stores.journal.read(shard, 0, 1 << 20).await.unwrap() {
            former.apply(&batch).await.unwrap();
        }
    }
    // Another leader goes on from the rows, and is further when the former one flushes.
    leader.commit(vec![changed(&first, 2_000, Change::Cancelled)]).await;
    let mut next = RowsFollower::open(Arc::clone(&stores.rows)).await.unwrap();
    next.gained(&[(shard, Epoch(2))]).await.unwrap();
    assert_eq!(next.position(shard), 0);
    for batch in stores.journal.read(shard, 0, 1 << 20).await.unwrap() {
        next.apply(&batch).await.unwrap();
    }
    next.flush().await.unwrap();
    former.flush().await.unwrap();
    assert_eq!(stores.rows.get(ours, first.id).await.unwrap().unwrap().state, MessageState::Cancelled);
    assert!(stores.rows.get(theirs, elsewhere.id).await.unwrap().is_some(), "that shard is still its own");
    assert_eq!((former.position(shard), former.position(other)), (2, 1), "it goes on from where the rows are");
    assert!(!former.recent.lock().has(first.id));

    // Gained again, it believes the rows and nothing else.
    former.lost(other);
    assert_eq!(former.recent.lock().sizes(), (0, 0));
    former.gained(&[(other, Epoch(3))]).await.unwrap();
    second.commit(vec![changed(&elsewhere, 2_000, Change::Cancelled)]).await;
    for batch in stores.journal.read(other, former.position(other), 1 << 20).await.unwrap() {
        former.apply(&batch).await.unwrap();
    }
    former.lost(other);
    former.flush().await.unwrap();
    assert_eq!(stores.rows.get(theirs, elsewhere.id).await.unwrap().unwrap().state, MessageState::Queued);
}

#[tokio::test]
async fn nothing_is_added_twice_when_a_former_leader_still_writes() {
    let dir = tempfile::tempdir().unwrap();
    let stores = open(&dir);
    let ours = tenant(1);
    let mut leader = Leader::of(&stores, ours).await;
    let shard = leader.shard;
    let message = submission(ours, 1_000, [1; 10]);
    leader.commit(vec![accepted(message.clone())]).await;
    let mut former = RowsFollower::open(Arc::clone(&stores.rows)).await.unwrap();
    let batches = |after: u64| stores.journal.read(shard, after, usize::MAX);
    former.apply(&batches(0).await.unwrap()[0]).await.unwrap();
    former.flush().await.unwrap();
    leader
        .commit(vec![changed(
            &message,
            2_000,
            Change::Dispatched { attempt: 1, route: route(1), session: 1, why: Why::default() },
        )])
        .await;
    former.apply(&batches(1).await.unwrap()[0]).await.unwrap();

    // The next leader begins where the rows are. Then what its predecessor had in memory is written after all.
    let mut next = RowsFollower::open(Arc::clone(&stores.rows)).await.unwrap();
    next.gained(&[(shard, Epoch(2))]).await.unwrap();
    former.flush().await.unwrap();
    leader
        .commit(vec![changed(
            &message,
            3_000,
            Change::Sent { attempt: 1, route: route(1), sent_ms: 3_000, took_ms: 0 },
        )])
        .await;
    while next.position(shard) < leader.last {
        for batch in batches(next.position(shard)).await.unwrap() {
            next.apply(&batch).await.unwrap();
        }
        next.flush().await.unwrap();
    }
    let row = stores.rows.get(ours, message.id).await.unwrap().unwrap();
    let states: Vec<_> = row.trace.iter().map(|step| step.state).collect();
    assert_eq!(states, [MessageState::Queued, MessageState::Dispatching, MessageState::Sent]);
}
