//! The driver with a follower that does what a test tells it.

use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;

use super::super::handle::Lag;
use super::*;
use crate::follow::testing::{MemoryStore, accepted, lead_all, submission, tenant};
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
    /// Where the stored data are, as another node may have left them.
    stored: Arc<Mutex<Vec<u64>>>,
    /// What was said of leadership, in order.
    heard: Arc<Mutex<Vec<String>>>,
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

    async fn gained(&mut self, shards: &[(ShardId, Epoch)]) -> Result<(), FollowError> {
        self.trouble()?;
        for (shard, epoch) in shards {
            let number = usize::from(shard.0);
            self.positions[number] = self.shared.stored.lock().get(number).copied().unwrap_or(0);
            self.shared.heard.lock().push(format!("gained {shard} under {epoch}"));
        }
        std::future::ready(Ok(())).await
    }

    fn lost(&mut self, shard: ShardId) {
        self.shared.heard.lock().push(format!("lost {shard}"));
    }

    async fn hand_over(&mut self, shards: &[ShardId]) -> Result<(), FollowError> {
        let flushed = (self.held == 0, self.shared.syncs.load(Ordering::Acquire));
        shards.iter().for_each(|shard| self.shared.heard.lock().push(format!("hands {shard} over {flushed:?}")));
        std::future::ready(Ok(())).await
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
    lead_all(&handle, 2);
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
    assert_eq!(handle.durable(S), Some(0));

    commit(&store, ShardId(1), 1);
    handle.taken(ShardId(1)).await.unwrap();
    assert_eq!(shared.flushes.load(Ordering::Acquire), 1);
    tokio::time::sleep(Duration::from_millis(1_001)).await;
    assert_eq!(shared.flushes.load(Ordering::Acquire), 2);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((handle.durable(S), handle.durable(ShardId(1))), (Some(2), Some(1)));
    assert_eq!(handle.caught_up(ShardId(7)).await, Err(StoreError::NoSuchShard { shard: ShardId(7) }));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_backlog_is_taken_in_order_and_the_end_is_flushed() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    commit(&store, S, 20);
    let (handle, task, stop) = start(&store, &shared);
    assert_eq!(handle.lag(), Lag::default(), "not gained yet");
    commit(&store, ShardId(1), 10);
    stop.cancel();
    task.await.unwrap();
    assert_eq!(handle.lag(), Lag::default());
    assert_eq!((handle.durable(S), handle.durable(ShardId(1))), (Some(20), Some(10)));
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
        let journal = Arc::clone(&stores.journal);
        let (handle, task) = follow(Probe::new(shared), journal, FollowOptions::default(), stop.clone());
        lead_all(&handle, 2);
        (handle, task)
    };
    let (fast, slow_shared) = (of(&Shared::default()), Shared::default());
    slow_shared.broken.store(true, Ordering::Release);
    let slow = of(&slow_shared);
    let mut told = vec![0; 2];
    let handles = [fast.0.clone(), slow.0.clone()];
    fast.0.caught_up(S).await.unwrap();
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(fast.0.durable(S), Some(4));
    trim_once(&handles, &*stores.journal, &mut told).await;
    assert_eq!(told, [0, 0], "one still needs everything");
    slow_shared.broken.store(false, Ordering::Release);
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(slow.0.durable(S), Some(4));
    trim_once(&handles, &*stores.journal, &mut told).await;
    assert_eq!(told, [4, 0]);
    // The writer deletes before it takes what was asked after it.
    stores.journal.commit(batch(5)).await.unwrap();
    assert_eq!(stores.journal.read(S, 0, 1).await, Err(StoreError::Trimmed { shard: S, up_to: 4 }));
    stop.cancel();
    fast.1.await.unwrap();
    slow.1.await.unwrap();
}

/// Lets the driver do what it has to do.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_led_shards_are_followed_waited_for_and_counted() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    let stop = CancellationToken::new();
    let journal = Arc::clone(&store) as Arc<dyn Journal>;
    let (handle, task) = follow(Probe::new(&shared), journal, FollowOptions::default(), stop.clone());
    commit(&store, S, 3);
    commit(&store, ShardId(1), 4);
    settle().await;
    assert_eq!((handle.lag(), handle.followed(), handle.durable(S)), (Lag::default(), 0, None));
    assert_eq!(handle.caught_up(S).await, Err(StoreError::NotLeading { shard: S }));
    assert!(shared.taken.lock().is_empty());

    // Whoever asks between the gain and the take waits.
    handle.coming(S, Epoch(5));
    let waits = tokio::spawn({
        let handle = handle.clone();
        async move { (handle.taken(S).await, handle.caught_up(S).await) }
    });
    settle().await;
    assert!(!waits.is_finished());
    *shared.stored.lock() = vec![2, 0];
    handle.lead(S, Epoch(5));
    assert_eq!(waits.await.unwrap(), (Ok(Epoch(5)), Ok(())));
    assert_eq!(*shared.taken.lock(), [(S, 3)], "from where the stored data are");
    commit(&store, S, 1);
    assert_eq!(handle.lag(), Lag { batches: 1, events: 1 }, "nothing of the other shard");
    handle.caught_up(S).await.unwrap();
    assert_eq!((handle.lag(), handle.followed()), (Lag::default(), 1));
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lost_shard_is_let_go_at_once_and_gained_anew_from_the_store() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    let (handle, task, stop) = start(&store, &shared);
    commit(&store, S, 2);
    handle.taken(S).await.unwrap();
    shared.broken.store(true, Ordering::Release);
    commit(&store, S, 1);
    let waits = tokio::spawn({
        let handle = handle.clone();
        async move { handle.taken(S).await }
    });
    settle().await;
    handle.lost(S);
    // A waiter may hear of the trouble first; it never hangs.
    assert!(matches!(waits.await.unwrap(), Err(StoreError::NotLeading { .. } | StoreError::Unavailable(_))));
    assert_eq!(handle.still_led(S, Epoch(1)), Err(StoreError::NotLeading { shard: S }));
    handle.lead(S, Epoch(1));
    assert_eq!(handle.caught_up(S).await, Err(StoreError::NotLeading { shard: S }), "a take that comes late");

    // Another node has stored two of the three; it comes back under a new epoch without a pause between.
    shared.broken.store(false, Ordering::Release);
    *shared.stored.lock() = vec![2, 0];
    shared.taken.lock().clear();
    handle.coming(S, Epoch(9));
    handle.lead(S, Epoch(9));
    while handle.caught_up(S).await.is_err() {
        tokio::time::sleep(RETRY_MIN).await;
    }
    assert_eq!(handle.taken(S).await, Ok(Epoch(9)));
    assert_eq!(*shared.taken.lock(), [(S, 3)]);
    let heard = shared.heard.lock().clone();
    assert_eq!(heard[heard.len() - 2..], ["lost 0".to_owned(), "gained 0 under 9".to_owned()]);
    stop.cancel();
    task.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drained_shard_is_stored_whole_before_it_is_released() {
    let (store, shared) = (MemoryStore::new(2), Shared::default());
    let (handle, task, stop) = start(&store, &shared);
    handle.caught_up(S).await.unwrap();
    commit(&store, S, 20);
    commit(&store, ShardId(1), 1);
    let begin = Instant::now();
    handle.drained(S, Epoch(7)).await;
    assert!(handle.still_led(S, Epoch(1)).is_ok(), "that was another leadership");
    tokio::join!(handle.drained(S, Epoch(1)), handle.drained(S, Epoch(1)));
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(shared.taken.lock().iter().filter(|(shard, _)| *shard == S).count(), 20);
    let heard = shared.heard.lock().clone();
    assert_eq!(heard[2..], ["hands 0 over (true, 1)".to_owned(), "lost 0".to_owned()]);
    assert_eq!((handle.durable(S), handle.durable(ShardId(1))), (None, Some(1)));
    assert_eq!(handle.caught_up(S).await, Err(StoreError::NotLeading { shard: S }));

    // One that is lost in the middle of it does not wait for the follower.
    shared.broken.store(true, Ordering::Release);
    commit(&store, ShardId(1), 1);
    let drains = tokio::spawn({
        let handle = handle.clone();
        async move { handle.drained(ShardId(1), Epoch(1)).await }
    });
    settle().await;
    assert!(!drains.is_finished());
    handle.lost(ShardId(1));
    drains.await.unwrap();
    shared.broken.store(false, Ordering::Release);
    stop.cancel();
    task.await.unwrap();
}
