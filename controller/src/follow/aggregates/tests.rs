//! Exactness of the whole: random histories with crashes, rebuilds and damage; queries over memory and disk.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_util::sync::CancellationToken;

use super::contribution::Contribution;
use super::key::{BlockKey, Step, row_key};
use super::shared::Until;
use super::{Aggregates, AggregatesFollower, Counter, Counts, Dimension, Options, QueryError, StatsQuery, StatsStep};
use crate::domain::event::Event;
use crate::follow::rows::RowsFollower;
use crate::follow::testing::{MemoryStore, START_MS, lead_all, lives, tenant, tenant_of};
use crate::follow::{FollowOptions, Follower, follow};
use crate::store::{Batch, Journal, StoreError, Stores, sqlite};

const SHARDS: u16 = 4;
const HOUR_MS: u64 = 3_600_000;

fn options() -> Options {
    // So little that memory is given up all the time.
    Options { memory_bytes: 20_000, fresh_wait: Duration::from_millis(200), ..Options::default() }
}

fn open(dir: &Path, store: &Arc<MemoryStore>) -> (Aggregates, AggregatesFollower) {
    Aggregates::open(dir.to_path_buf(), options(), store.clone(), store.clone()).unwrap()
}

/// Leads every shard, if it does not yet.
async fn lead(follower: &mut AggregatesFollower) {
    if !follower.shared.is_led(ShardId(0)) {
        let all: Vec<_> = (0..SHARDS).map(|number| (ShardId(number), Epoch(1))).collect();
        follower.gained(&all).await.unwrap();
    }
}

/// What the driver does, up to a number of batches.
async fn drive(follower: &mut AggregatesFollower, store: &MemoryStore, mut batches: usize) {
    lead(follower).await;
    for number in 0..SHARDS {
        let shard = ShardId(number);
        while batches > 0 && follower.position(shard) < store.feed().last(shard) {
            match store.read(shard, follower.position(shard), 1).await {
                Err(StoreError::Trimmed { up_to, .. }) => follower.missed(shard, up_to).await.unwrap(),
                read => {
                    for batch in read.unwrap() {
                        follower.apply(&batch).await.unwrap();
                        batches = batches.saturating_sub(1);
                    }
                }
            }
            if follower.full() {
                follower.flush().await.unwrap();
            }
        }
    }
}

pub(super) async fn dump(follower: &mut AggregatesFollower) -> BTreeMap<Vec<u8>, Counts> {
    follower.sync().await.unwrap();
    let disk = follower.shared.state.lock().disk.clone().unwrap();
    disk.range(vec![], vec![0xff; 40]).map(|row| row.map(|(key, counts)| (key.to_vec(), counts)).unwrap()).collect()
}

/// The truth: every contribution in every row, without anything clever.
pub(super) fn model(events: &[Event]) -> BTreeMap<Vec<u8>, Counts> {
    let mut rows: BTreeMap<Vec<u8>, Counts> = BTreeMap::new();
    for it in events.iter().map(Contribution::of_event) {
        for step in Step::ALL {
            let block = BlockKey { tenant: it.tenant, step, bucket: step.bucket(it.at_ms) };
            for (_, place) in it.places() {
                it.add_to(rows.entry(row_key(&block, &place)).or_default());
            }
        }
    }
    rows
}

pub(super) fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_folder(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).unwrap()),
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_step_of_a_flush_changes_nothing() {
    let mut replayed = 0;
    for seed in 0..10u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let store = MemoryStore::new(SHARDS);
        store.append_all(&lives(seed, 120), &mut rng);
        let folders = tempfile::tempdir().unwrap();
        let mut life = 0;
        let mut follower = open(&folders.path().join("0"), &store).1;
        for _ in 0..6 {
            let batches = rng.random_range(1..40);
            drive(&mut follower, &store, batches).await;
            let copy = folders.path().join(format!("{}", life + 1));
            let crash_at = rng.random_range(0..8);
            let mut step = 0;
            follower
                .shared
                .flush(Until::Durable, &mut |_| {
                    if step == crash_at {
                        copy_folder(&folders.path().join(life.to_string()), &copy);
                    }
                    step += 1;
                })
                .unwrap();
            if copy.exists() {
                life += 1;
                follower = open(&copy, &store).1;
                replayed += u32::from(follower.is_well());
            }
        }
        drive(&mut follower, &store, usize::MAX).await;
        assert!(dump(&mut follower).await == model(&store.events()), "seed {seed}");
    }
    assert!(replayed > 10, "only {replayed} crashes were healed by replay");
}

#[tokio::test]
async fn a_deleted_folder_comes_back_from_the_rows() {
    let store = MemoryStore::new(SHARDS);
    let mut rng = StdRng::seed_from_u64(1);
    let events = lives(1, 300);
    let (before, after) = events.split_at(900);
    store.append_all(before, &mut rng);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("aggregates");
    let mut follower = open(&dir, &store).1;
    drive(&mut follower, &store, usize::MAX).await;
    assert!(dump(&mut follower).await == model(before));
    drop(follower);

    store.show_rows();
    store.trim_all();
    std::fs::remove_dir_all(&dir).unwrap();
    store.append_all(after, &mut rng);
    let (aggregates, mut follower) = open(&dir, &store);
    assert!(!follower.is_well());
    assert_eq!(follower.position(ShardId(0)), 0, "nothing may be trimmed for us before the rebuild");
    assert_eq!(aggregates.query(totals(1)).await, Err(QueryError::NotLeading));
    follower.shared.set_led(ShardId(0), true);
    follower.shared.set_led(ShardId::of(tenant(1), SHARDS), true);
    assert!(!aggregates.query(totals(1)).await.unwrap().complete);
    (0..SHARDS).for_each(|number| follower.shared.set_led(ShardId(number), false));
    drive(&mut follower, &store, usize::MAX).await;
    assert!(dump(&mut follower).await == model(&events));
    assert!(aggregates.query(totals(1)).await.unwrap().complete);
}

#[tokio::test]
async fn a_folder_from_the_future_or_of_another_store_is_not_used() {
    let store = MemoryStore::new(SHARDS);
    store.append_all(&lives(2, 100), &mut StdRng::seed_from_u64(2));
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("aggregates");
    let mut follower = open(&dir, &store).1;
    drive(&mut follower, &store, usize::MAX).await;
    dump(&mut follower).await;
    drop(follower);

    let restored = store.keep_only(5);
    let mut follower = open(&dir, &restored).1;
    assert!(!follower.is_well());
    drive(&mut follower, &restored, usize::MAX).await;
    assert!(dump(&mut follower).await == model(&restored.events()));
    assert!(folder.path().join("aggregates.damaged").exists(), "kept to be looked at");
    drop(follower);

    let other = MemoryStore::new(SHARDS + 1);
    other.append_all(&lives(3, 10), &mut StdRng::seed_from_u64(3));
    assert!(!open(&dir, &other).1.is_well());
}

#[tokio::test]
async fn damaged_files_heal() {
    let store = MemoryStore::new(SHARDS);
    store.append_all(&lives(4, 150), &mut StdRng::seed_from_u64(4));
    store.show_rows();
    let truth = model(&store.events());
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let mut follower = open(&whole, &store).1;
    drive(&mut follower, &store, usize::MAX).await;
    dump(&mut follower).await;
    drop(follower);

    let mut unwell = 0;
    for seed in 0..24u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = folder.path().join(format!("damaged-{seed}"));
        copy_folder(&whole, &dir);
        let file = dir.join(["db", "conf"][usize::from(rng.random_ratio(1, 8))]);
        let mut bytes = std::fs::read(&file).unwrap();
        // Most of a small file is zeros that nobody reads.
        let filled: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let at = filled[rng.random_range(0..filled.len())];
        match rng.random_range(0..3) {
            0 => bytes.truncate(at),
            1 => bytes[at] ^= 0x40,
            _ => {
                let end = bytes.len().min(at + 4_096);
                bytes[at..end].fill(0);
            }
        }
        std::fs::write(&file, bytes).unwrap();
        let mut follower = open(&dir, &store).1;
        unwell += u32::from(!follower.is_well());
        drive(&mut follower, &store, usize::MAX).await;
        assert!(dump(&mut follower).await == truth, "seed {seed}, {}", follower.is_well());
    }
    assert!(unwell > 0, "no damage was ever noticed");
}

#[tokio::test]
async fn an_error_in_the_middle_heals_without_going_back() {
    let store = MemoryStore::new(SHARDS);
    store.append_all(&lives(8, 400), &mut StdRng::seed_from_u64(8));
    let folder = tempfile::tempdir().unwrap();
    let mut follower = open(folder.path(), &store).1;
    drive(&mut follower, &store, 150).await;
    follower.sync().await.unwrap();
    drive(&mut follower, &store, 100).await;
    let shard = (0..SHARDS).map(ShardId).find(|shard| follower.position(*shard) < store.feed().last(*shard)).unwrap();
    let before = follower.position(shard);
    let batch = store.read(shard, before, 1).await.unwrap().remove(0);

    // As after an error of sled: everything in memory is lost, and the folder can not be opened at first.
    let held = follower.shared.state.lock().disk.take();
    assert!(follower.apply(&batch).await.is_err());
    assert!(follower.apply(&batch).await.is_err(), "the folder is still locked");
    assert_eq!(follower.position(shard), before);
    drop(held);
    follower.apply(&batch).await.unwrap();
    assert_eq!(follower.position(shard), batch.seq);
    drive(&mut follower, &store, usize::MAX).await;
    assert!(dump(&mut follower).await == model(&store.events()));
}

fn totals(n: u8) -> StatsQuery {
    StatsQuery {
        tenant: tenant(n),
        from_ms: START_MS - HOUR_MS,
        to_ms: START_MS + 48 * HOUR_MS,
        step: StatsStep::Total,
        by: Dimension::Total,
        value: None,
        limit: 10,
        cursor: None,
    }
}

/// Adds up rows of the model.
fn expected(model: &BTreeMap<Vec<u8>, Counts>, query: &StatsQuery, step: Step) -> BTreeMap<(u32, Vec<u8>), Counts> {
    let (from, to) = (step.bucket(query.from_ms), step.bucket_from(query.to_ms));
    let mut sums: BTreeMap<(u32, Vec<u8>), Counts> = BTreeMap::new();
    for (key, counts) in model {
        let bucket = u32::from_be_bytes(key[18..22].try_into().unwrap());
        let ours = key[..16] == query.tenant.to_bytes() && key[16] == query.by as u8 && key[17] == step as u8;
        if ours && (from..to).contains(&bucket) {
            let bucket = if query.step == StatsStep::Total { 0 } else { bucket };
            sums.entry((bucket, key[22..].to_vec())).or_default().merge(counts);
        }
    }
    sums
}

#[tokio::test]
async fn queries_see_memory_over_disk_by_page_and_by_value() {
    let store = MemoryStore::new(SHARDS);
    let mut rng = StdRng::seed_from_u64(5);
    store.append_all(&lives(5, 300), &mut rng);
    let folder = tempfile::tempdir().unwrap();
    let (aggregates, mut follower) = open(folder.path(), &store);
    drive(&mut follower, &store, 400).await;
    follower.sync().await.unwrap();
    drive(&mut follower, &store, usize::MAX).await;
    let model = model(&store.events());
    for by in Dimension::ALL {
        for step in [StatsStep::Hour, StatsStep::Day, StatsStep::Total] {
            let stored = if step == StatsStep::Day { Step::Day } else { Step::Hour };
            let mut query = StatsQuery { by, step, limit: 3, ..totals(1) };
            let truth = expected(&model, &query, stored);
            let mut found = Vec::new();
            loop {
                let answer = aggregates.query(query.clone()).await.unwrap();
                assert!(answer.fresh && answer.complete && answer.rows.len() <= 3);
                found.extend(answer.rows);
                match answer.next {
                    Some(next) => query.cursor = Some(next),
                    None => break,
                }
            }
            let counts: Vec<&Counts> = found.iter().map(|row| &row.counts).collect();
            assert_eq!(counts, truth.values().collect::<Vec<_>>(), "{by:?} {step:?}");

            let first = found.first().unwrap().clone();
            let one = StatsQuery { value: Some(first.value.clone()), cursor: None, ..query };
            let answer = aggregates.query(one).await.unwrap();
            let same: Vec<_> = found.into_iter().filter(|row| row.value == first.value).collect();
            assert_eq!(answer.rows, same[..same.len().min(3)]);
        }
    }
    let nobody = aggregates.query(StatsQuery { tenant: tenant(99), ..totals(1) }).await.unwrap();
    assert!(nobody.rows.is_empty() && nobody.next.is_none());
}

#[tokio::test]
async fn impossible_queries_are_refused() {
    let store = MemoryStore::new(SHARDS);
    let folder = tempfile::tempdir().unwrap();
    let (aggregates, mut follower) = open(folder.path(), &store);
    lead(&mut follower).await;
    let of = |change: fn(&mut StatsQuery)| {
        let mut query = totals(1);
        change(&mut query);
        let aggregates = aggregates.clone();
        async move { aggregates.query(query).await.unwrap_err() }
    };
    assert_eq!(of(|q| q.to_ms = q.from_ms).await, QueryError::Range);
    assert_eq!(of(|q| q.limit = 0).await, QueryError::Limit);
    assert_eq!(of(|q| q.limit = 1_001).await, QueryError::Limit);
    assert_eq!(of(|q| q.cursor = Some("?".into())).await, QueryError::Cursor);
    let wide = of(|q| {
        (q.from_ms, q.step) = (0, StatsStep::Hour);
        (q.by, q.value) = (Dimension::Campaign, Some("may".into()));
    });
    assert_eq!(wide.await, QueryError::TooWide);
}

#[tokio::test]
async fn a_query_waits_for_what_was_committed_and_says_when_it_has_not_come() {
    let store = MemoryStore::new(SHARDS);
    let folder = tempfile::tempdir().unwrap();
    let (aggregates, mut follower) = open(folder.path(), &store);
    lead(&mut follower).await;
    store.append_all(&lives(6, 50), &mut StdRng::seed_from_u64(6));
    let answer = aggregates.query(totals(1)).await.unwrap();
    assert!(!answer.fresh && answer.complete && answer.rows.is_empty(), "nobody follows yet");

    let stop = CancellationToken::new();
    let (handle, task) = follow(follower, store.clone(), FollowOptions::default(), stop.clone());
    lead_all(&handle, SHARDS);
    let answer = aggregates.query(totals(1)).await.unwrap();
    let truth = expected(&model(&store.events()), &totals(1), Step::Hour);
    assert!(answer.fresh);
    assert_eq!(answer.rows[0].counts, truth[&(0, vec![])]);
    assert!(answer.rows[0].counts.get(Counter::Accepted) > 0);
    stop.cancel();
    task.await.unwrap();
    for shard in (0..SHARDS).map(ShardId) {
        assert_eq!(handle.durable(shard), Some(store.feed().last(shard)));
    }
}

#[tokio::test]
async fn shards_without_news_are_not_behind_after_a_rebuild() {
    let store = MemoryStore::new(SHARDS);
    store.append_all(&lives(7, 100), &mut StdRng::seed_from_u64(7));
    store.show_rows();
    let folder = tempfile::tempdir().unwrap();
    let (aggregates, follower) = open(folder.path(), &store);
    assert!(!follower.is_well());
    let stop = CancellationToken::new();
    let (handle, task) = follow(follower, store.clone(), FollowOptions::default(), stop.clone());
    lead_all(&handle, SHARDS);
    for shard in (0..SHARDS).map(ShardId) {
        tokio::time::timeout(Duration::from_secs(60), handle.taken(shard)).await.unwrap().unwrap();
    }
    assert_eq!(handle.lag().batches, 0);
    assert!(aggregates.query(totals(1)).await.unwrap().fresh);
    stop.cancel();
    task.await.unwrap();
}

/// The real store: journal and rows in SQLite, both followers, a deleted folder and a trimmed journal.
#[tokio::test]
async fn over_sqlite_a_deleted_folder_equals_a_count_over_the_store() {
    let data = tempfile::tempdir().unwrap();
    let dir = data.path().join("aggregates");
    let options = sqlite::Options { shards: SHARDS, retain_bytes: 0, ..sqlite::Options::default() };
    let stores = sqlite::open(data.path(), &options).unwrap();
    let events = lives(9, 300);
    let (before, after) = events.split_at(events.len() / 2);
    for shard in (0..SHARDS).map(ShardId) {
        stores.journal.take(shard, Epoch(1)).await.unwrap();
    }
    commit(&stores, before).await;
    let mut follower = run_both(&dir, &stores).await;
    assert!(dump(&mut follower).await == model(before));
    drop(follower);

    std::fs::remove_dir_all(&dir).unwrap();
    for shard in (0..SHARDS).map(ShardId) {
        stores.journal.trim(shard, stores.journal.last(shard).await.unwrap()).await.unwrap();
    }
    commit(&stores, after).await;
    let mut follower = run_both(&dir, &stores).await;
    assert!(dump(&mut follower).await == model(&events));
}

async fn commit(stores: &Stores, events: &[Event]) {
    for events in events.chunks(40) {
        let mut batches: BTreeMap<ShardId, Vec<Event>> = BTreeMap::new();
        for event in events {
            batches.entry(ShardId::of(tenant_of(event), SHARDS)).or_default().push(event.clone());
        }
        for (shard, events) in batches {
            let seq = stores.journal.last(shard).await.unwrap() + 1;
            stores.journal.commit(Batch { shard, epoch: Epoch(1), seq, events: events.into() }).await.unwrap();
        }
    }
}

/// Follows to the end with rows and aggregates at the same time, then opens the aggregates once more to look into them.
async fn run_both(dir: &Path, stores: &Stores) -> AggregatesFollower {
    let stop = CancellationToken::new();
    let rows = RowsFollower::open(stores.rows.clone()).await.unwrap();
    let (rows, rows_task) = follow(rows, stores.journal.clone(), FollowOptions::default(), stop.clone());
    lead_all(&rows, SHARDS);
    let open = || Aggregates::open(dir.to_path_buf(), options(), stores.journal.clone(), stores.rows.clone()).unwrap();
    let (aggregates, follower) = open();
    let (handle, task) = follow(follower, stores.journal.clone(), FollowOptions::default(), stop.clone());
    lead_all(&handle, SHARDS);
    for shard in (0..SHARDS).map(ShardId) {
        rows.caught_up(shard).await.unwrap();
        handle.taken(shard).await.unwrap();
    }
    stop.cancel();
    task.await.unwrap();
    rows_task.await.unwrap();
    drop(aggregates);
    open().1
}
