//! The stored ledger is the fold of the journal, over restarts, hand-overs, trimmed journals and former leaders.

use flotilla_routing::Micros;
use tempfile::TempDir;

use super::*;
use crate::domain::event::{Change, Event, EventKind};
use crate::follow::testing::{MemoryStore, START_MS, changed, charged, lead_all, lives, route, submission, tenant};
use crate::follow::{FollowOptions, follow};
use crate::store::sqlite;

const SHARDS: u16 = 4;

struct World {
    store: Arc<MemoryStore>,
    catalog: Arc<dyn Catalog>,
    _folder: TempDir,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = sqlite::Options { shards: SHARDS, ..Default::default() };
        let stores = sqlite::open(folder.path(), &options).unwrap();
        Self { store: MemoryStore::new(SHARDS), catalog: stores.catalog, _folder: folder }
    }

    fn follower(&self) -> LedgerFollower {
        LedgerFollower::new(Some(Arc::clone(&self.catalog)), Arc::clone(&self.store) as Arc<dyn Journal>)
    }

    /// The fold of everything a shard's journal ever had.
    fn fold(&self, shard: ShardId) -> Ledger {
        let mut ledger = Ledger::default();
        for batch in self.store.batches(shard) {
            for event in batch.events.iter() {
                facts::of_event(event, |fact| {
                    ledger.apply(&fact);
                });
            }
        }
        ledger
    }
}

fn some_events(seed: u64) -> Vec<Event> {
    let is_sent = |event: &Event| {
        let EventKind::Changed(changed) = &event.kind else { return false };
        matches!(changed.change, Change::Sent { .. })
    };
    let charge = |event: Event| if is_sent(&event) { charged(&event, route(1), Micros(30)) } else { event };
    lives(seed, 40).into_iter().map(charge).collect()
}

async fn take_all(follower: &mut LedgerFollower, world: &World, shard: ShardId) {
    for batch in world.store.batches(shard) {
        if batch.seq > follower.position(shard) {
            follower.apply(&batch).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_gets_the_fold_of_everything_committed() {
    let world = World::new();
    let shard = ShardId(1);
    let last = world.store.append(shard, some_events(1));
    let follower = world.follower();
    let reader = follower.reader();
    let stop = tokio_util::sync::CancellationToken::new();
    let (handle, task) =
        follow(follower, Arc::clone(&world.store) as Arc<dyn Journal>, FollowOptions::default(), stop.clone());
    let reader = reader(handle.clone());
    lead_all(&handle, SHARDS);
    assert!(reader.read(shard).await.unwrap() == world.fold(shard));
    world.store.append(shard, some_events(2));
    let fold = world.fold(shard);
    assert!(reader.read(shard).await.unwrap() == fold && fold != Ledger::default());
    stop.cancel();
    task.await.unwrap();

    let mut next = world.follower();
    next.gained(&[(shard, Epoch(9))]).await.unwrap();
    assert_eq!(next.position(shard), last + 1, "stored at the end, so nothing is read again");
    assert!(next.shared.with(shard, |place| *place.ledger == fold).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_from_what_is_stored_when_the_journal_is_trimmed() {
    let world = World::new();
    let shard = ShardId(2);
    let mut first = world.follower();
    first.gained(&[(shard, Epoch(1))]).await.unwrap();
    world.store.append(shard, some_events(3));
    take_all(&mut first, &world, shard).await;
    first.end().await.unwrap();
    world.store.append(shard, some_events(4));
    take_all(&mut first, &world, shard).await;
    let fold = world.fold(shard);
    // It dies before the second flush; the journal has lost what was stored.
    drop(first);
    let mut second = world.follower();
    second.gained(&[(shard, Epoch(2))]).await.unwrap();
    assert_eq!(second.position(shard), 1);
    take_all(&mut second, &world, shard).await;
    assert!(second.shared.with(shard, |place| *place.ledger == fold).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_written_when_it_is_due_and_at_once_when_it_is_handed_over() {
    let world = World::new();
    let shard = ShardId(2);
    let mut follower = world.follower();
    follower.gained(&[(shard, Epoch(1))]).await.unwrap();
    world.store.append(shard, some_events(7));
    take_all(&mut follower, &world, shard).await;
    follower.flush().await.unwrap();
    follower.sync().await.unwrap();
    assert!(!follower.step().await.unwrap());
    assert!(follower.writing.is_none() && follower.step_at().is_some_and(|at| at > Instant::now()));
    assert_eq!(follower.safe(shard, 1), 0, "the journal has to keep it");
    follower.shared.with(shard, |place| place.pace.took(1_000_000));
    follower.step().await.unwrap();
    assert!(follower.writing.is_some(), "much would have to be folded again");
    // What comes meanwhile is not in it.
    world.store.append(shard, some_events(8));
    take_all(&mut follower, &world, shard).await;
    follower.finish().await.unwrap();
    assert_eq!((follower.safe(shard, 2), follower.position(shard)), (1, 2));
    let taken = world.follower().take(&[(shard, Epoch(1))]).await.unwrap().remove(0).unwrap();
    assert_eq!(taken.position, 1);
    follower.step().await.unwrap();
    assert!(follower.writing.is_none(), "it was written just now");
    follower.hand_over(&[shard]).await.unwrap();
    let mut next = world.follower();
    next.gained(&[(shard, Epoch(2))]).await.unwrap();
    assert_eq!((follower.safe(shard, 2), next.position(shard)), (2, 2));
    assert!(next.shared.with(shard, |place| *place.ledger == world.fold(shard)).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_over_writes_what_is_handed_over() {
    let world = World::new();
    let (leaves, stays) = (ShardId(1), ShardId(2));
    let mut follower = world.follower();
    follower.gained(&[(leaves, Epoch(1)), (stays, Epoch(1))]).await.unwrap();
    for shard in [leaves, stays] {
        world.store.append(shard, some_events(11));
        take_all(&mut follower, &world, shard).await;
    }
    follower.hand_over(&[leaves]).await.unwrap();
    assert_eq!((follower.safe(leaves, 1), follower.safe(stays, 1)), (1, 0));
    follower.end().await.unwrap();
    assert_eq!(follower.safe(stays, 1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_catalog_that_refuses_is_asked_again_after_a_pause() {
    let world = World::new();
    let shard = ShardId(3);
    let mut follower = world.follower();
    follower.gained(&[(shard, Epoch(1))]).await.unwrap();
    world.store.append(shard, some_events(12));
    take_all(&mut follower, &world, shard).await;
    follower.shared.with(shard, |place| place.pace.took(1_000_000));
    let rename = |from: &str, to: &str| {
        let (catalog, sql) = (Arc::clone(&world.catalog), format!("ALTER TABLE {from} RENAME TO {to}"));
        async move { catalog.run(move |tx| tx.execute(&sql, &[])).await.unwrap() }
    };
    rename("shard_ledgers", "elsewhere").await;
    for delay in [1, 2, 4] {
        let before = Instant::now();
        follower.refused.iter_mut().for_each(|refused| refused.until = before);
        follower.step().await.unwrap();
        follower.finish().await.unwrap_err();
        assert!(follower.step_at().unwrap() >= before + Duration::from_secs(delay));
        follower.step().await.unwrap();
        assert!(follower.writing.is_none(), "not yet");
    }
    rename("elsewhere", "shard_ledgers").await;
    follower.end().await.unwrap();
    assert!(follower.refused.is_none());
    assert_eq!(follower.safe(shard, 1), 1, "the program's end waits for no pause");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_former_leader_writes_nothing_over_its_successor() {
    let world = World::new();
    let shard = ShardId(0);
    let mut former = world.follower();
    former.gained(&[(shard, Epoch(1))]).await.unwrap();
    world.store.append(shard, some_events(5));
    take_all(&mut former, &world, shard).await;
    let mut later = world.follower();
    later.gained(&[(shard, Epoch(2))]).await.unwrap();
    former.end().await.unwrap();
    assert!(former.shared.with(shard, |place| place.fenced).unwrap());
    let mut again = world.follower();
    again.gained(&[(shard, Epoch(3))]).await.unwrap();
    assert_eq!(again.position(shard), 0, "nothing was stored");
    former.gained(&[(shard, Epoch(1))]).await.unwrap();
    assert!(former.shared.with(shard, |place| place.fenced).unwrap());
    former.lost(shard);
    assert!(former.shared.with(shard, |place| *place.ledger == Ledger::default()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_from_before_begins_with_what_its_journal_has() {
    let world = World::new();
    let shard = ShardId(3);
    let mut follower = world.follower();
    follower.gained(&[(shard, Epoch(1))]).await.unwrap();
    follower.missed(shard, 7).await.unwrap();
    assert_eq!(follower.position(shard), 7);
    let message = submission(tenant(1), START_MS, [1; 10]);
    let sent = Change::Sent { attempt: 1, route: route(1), sent_ms: START_MS, took_ms: 5 };
    let event = charged(&changed(&message, START_MS, sent), route(1), Micros(10));
    let batch = Batch { shard, epoch: Epoch(1), seq: 8, events: [event].into() };
    follower.apply(&batch).await.unwrap();
    assert!(follower.shared.with(shard, |place| place.ledger.health(&route(1)).is_some()).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_ledger_is_begun_anew() {
    let world = World::new();
    let shard = ShardId(1);
    let mut follower = world.follower();
    follower.gained(&[(shard, Epoch(1))]).await.unwrap();
    world.store.append(shard, some_events(6));
    take_all(&mut follower, &world, shard).await;
    follower.end().await.unwrap();
    let damage = world.catalog.run(|tx| {
        tx.execute("UPDATE shard_ledgers SET data = $1", sql_params![vec![255u8; 3]])?;
        Ok::<_, SqlError>(())
    });
    damage.await.unwrap();
    let mut next = world.follower();
    next.gained(&[(shard, Epoch(2))]).await.unwrap();
    assert_eq!(next.position(shard), 0);
}
