//! The driver with a follower that does what a test tells it.

use std::sync::atomic::AtomicBool;

use flotilla_protocol::id::Epoch;

use super::*;
use crate::follow::testing::{MemoryStore, accepted, submission, tenant};
use crate::follow::trim::trim_once;
use crate::store::Batch;

const S: ShardId = ShardId(0);

#[derive(Clone, Default)]
struct Shared {
    taken: Arc<Mutex<Vec<(ShardId, u64)>>>,
    flushes: Arc<AtomicU64>,
    syncs: Arc<AtomicU64>,
    broken: Arc<AtomicBool>,
    full: Arc<AtomicBool>,
    missed: Arc<Mutex<Vec<(ShardId, u64)>>>,
}

struct Probe {
    positions: Vec<u64>,
    shared: Shared,
    held: usize,
}

impl Probe {
    fn new(shared: &Shared) -> Self {
        Self { positions: vec![0; 2], shared: shared.clone(), held: 0 }
    }

    fn trouble(&self) -> Result<(), FollowError> {
        if self.shared.full.load(Ordering::Acquire) {
            return Err(StoreError::Full.into());
        }
        if self.shared.broken.load(Ordering::Acquire) { Err(FollowError::Own("on purpose".into())) } else { Ok(()) }
    }
}

impl Follower for Probe {
    fn name(&self) -> &'static str {
        "probe"
    }

    fn position(&self, shard: ShardId) -> u64 {
        self.positions[usize::from(shard.0)]
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), FollowError> {
        self.trouble()?;
        assert!(!self.full(), "it said that it was full");
        assert_eq!(batch.seq, self.position(batch.shard) + 1);
        self.positions[usize::from(batch.shard.0)] = batch.seq;
        self.shared.taken.lock().push((batch.shard, batch.seq));
        self.held += 1;
        std::future::ready(Ok(())).await
    }

    fn full(&self) -> bool {
        self.held == 3
    }

    async fn flush(&mut self) -> Result<(), FollowError> {
        self.trouble()?;
        self.held = 0;
        self.shared.flushes.fetch_add(1, Ordering::AcqRel);
        std::future::ready(Ok(())).await
    }

    async fn sync(&mut self) -> Result<(), FollowError> {
        self.shared.syncs.fetch_add(1, Ordering::AcqRel);
        std::future::ready(Ok(())).await
    }

    async fn missed(&mut self, shard: ShardId, up_to: u64) -> Result<(), FollowError> {
        self.positions[usize::from(shard.0)] = up_to;
        self.shared.missed.lock().push((shard, up_to));
        std::future::ready(Ok(())).await
    }
}

fn commit(store: &MemoryStore, shard: ShardId, batches: u8) {
    for n in 0..batches {
        store.append(shard, vec![accepted(submission(tenant(1), 1_000, [n; 10]))]);
    }
}

fn start(store: &Arc<MemoryStore>, shared: &Shared) -> (FollowHandle, JoinHandle<()>, CancellationToken) {
    let stop = CancellationToken::new();
    let journal = Arc::clone(store) as Arc<dyn Journal>;
    let (handle, task) = follow(Probe::new(shared), journal, FollowOptions::default(), stop.clone());
    (handle, task, stop)
}

#[tokio::test(start_paused = true)]
async fn waiting_flushes_at_once_and_age_does_later() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    let (handle, task, stop) = start(&store, &shared);
    let begin = Instant::now();
    commit(&store, S, 2);
    let waits = (handle.caught_up(S), handle.caught_up(S), handle.caught_up(ShardId(1)));
    let (a, b, c) = tokio::join!(waits.0, waits.1, waits.2);
    assert_eq!((a, b, c), (Ok(()), Ok(()), Ok(())));
    assert_eq!(shared.flushes.load(Ordering::Acquire), 1, "shared by all who waited");
    assert_eq!(begin.elapsed(), Duration::ZERO, "nobody waited for a timer");
    assert_eq!(handle.durable(S), 0);

    commit(&store, ShardId(1), 1);
    handle.taken(ShardId(1)).await.unwrap();
    assert_eq!(shared.flushes.load(Ordering::Acquire), 1);
    tokio::time::sleep(Duration::from_millis(1_001)).await;
    assert_eq!(shared.flushes.load(Ordering::Acquire), 2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((handle.durable(S), handle.durable(ShardId(1))), (2, 1));
    assert_eq!(handle.caught_up(ShardId(7)).await, Err(StoreError::NoSuchShard { shard: ShardId(7) }));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_taken_in_order_and_the_end_is_flushed() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    commit(&store, S, 20);
    let (handle, task, stop) = start(&store, &shared);
    assert_eq!(handle.lag(), Lag { batches: 20, events: 0 });
    commit(&store, ShardId(1), 10);
    assert_eq!(handle.lag(), Lag { batches: 30, events: 10 });
    stop.cancel();
    task.await.unwrap();
    assert_eq!(handle.lag(), Lag::default());
    assert_eq!((handle.durable(S), handle.durable(ShardId(1))), (20, 10));
    let taken = shared.taken.lock().clone();
    assert_eq!(
        taken.iter().filter(|(shard, _)| *shard == S).map(|(_, seq)| *seq).collect::<Vec<_>>(),
        (1..=20).collect::<Vec<_>>()
    );
    commit(&store, S, 1);
    assert!(matches!(handle.caught_up(S).await, Err(StoreError::Unavailable(_))), "it has stopped");
}

#[tokio::test(start_paused = true)]
async fn trouble_is_told_and_passes() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    let (handle, task, stop) = start(&store, &shared);
    shared.broken.store(true, Ordering::Release);
    commit(&store, S, 2);
    let told = handle.caught_up(S).await;
    assert!(matches!(&told, Err(StoreError::Unavailable(why)) if why.contains("on purpose")), "{told:?}");
    shared.full.store(true, Ordering::Release);
    tokio::time::sleep(RETRY_MAX).await;
    assert_eq!(handle.caught_up(S).await, Err(StoreError::Full), "its remedy is another one");
    shared.full.store(false, Ordering::Release);
    shared.broken.store(false, Ordering::Release);
    tokio::time::sleep(RETRY_MAX).await;
    assert_eq!(handle.caught_up(S).await, Ok(()));
    assert_eq!(*shared.taken.lock(), [(S, 1), (S, 2)], "nothing twice");
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_journal_has_lost_is_told() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    commit(&store, S, 5);
    store.trim_all();
    commit(&store, S, 2);
    let (handle, task, stop) = start(&store, &shared);
    handle.caught_up(S).await.unwrap();
    assert_eq!(*shared.missed.lock(), [(S, 5)]);
    assert_eq!(*shared.taken.lock(), [(S, 6), (S, 7)]);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_journal_is_trimmed_behind_the_slowest() {
    let dir = tempfile::tempdir().unwrap();
    let options = crate::store::sqlite::Options { shards: 2, retain_bytes: 0, tail_bytes: 0, ..Default::default() };
    let stores = crate::store::sqlite::open(dir.path(), &options).unwrap();
    stores.journal.take(S, Epoch(1)).await.unwrap();
    let events: Arc<[_]> = vec![accepted(submission(tenant(1), 1_000, [0; 10]))].into();
    let batch = |seq| Batch { shard: S, epoch: Epoch(1), seq, events: Arc::clone(&events) };
    for seq in 1..=4 {
        stores.journal.commit(batch(seq)).await.unwrap();
    }
    let stop = CancellationToken::new();
    let of = |shared: &Shared| {
        follow(Probe::new(shared), Arc::clone(&stores.journal), FollowOptions::default(), stop.clone())
    };
    let (fast, slow_shared) = (of(&Shared::default()), Shared::default());
    slow_shared.broken.store(true, Ordering::Release);
    let slow = of(&slow_shared);
    let mut told = vec![0; 2];
    let handles = [fast.0.clone(), slow.0.clone()];
    fast.0.caught_up(S).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fast.0.durable(S), 4);
    trim_once(&handles, &*stores.journal, &mut told).await;
    assert_eq!(told, [0, 0], "one still needs everything");
    slow_shared.broken.store(false, Ordering::Release);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(slow.0.durable(S), 4);
    trim_once(&handles, &*stores.journal, &mut told).await;
    assert_eq!(told, [4, 0]);
    // The writer deletes before it takes what was asked after it.
    stores.journal.commit(batch(5)).await.unwrap();
    assert_eq!(stores.journal.read(S, 0, 1).await, Err(StoreError::Trimmed { shard: S, up_to: 4 }));
    stop.cancel();
    fast.1.await.unwrap();
    slow.1.await.unwrap();
}
