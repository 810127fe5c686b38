//! A shard that moves between two nodes over one store: what the next leader finds, and what the former one can still do.

use flotilla_cluster::{CoordinationError, Coordinator, Leadership};
use tokio::sync::mpsc;

use super::*;
use crate::store::StoreError;

/// Says what a test tells it, and notes how far the rows are when a shard is released.
struct Script {
    changes: mpsc::UnboundedReceiver<Leadership>,
    store: MemoryStore,
    released: mpsc::UnboundedSender<(ShardId, u64)>,
}

impl Coordinator for Script {
    async fn next(&mut self) -> Result<Leadership, CoordinationError> {
        self.changes.recv().await.ok_or(CoordinationError::Stopped)
    }

    async fn released(&mut self, shard: ShardId) -> Result<(), CoordinationError> {
        let rows = self.store.positions().await.unwrap_or_default();
        let _ = self.released.send((shard, rows.get(usize::from(shard.0)).copied().unwrap_or(0)));
        Ok(())
    }
}

struct Member {
    node: Node,
    tell: mpsc::UnboundedSender<Leadership>,
    released: mpsc::UnboundedReceiver<(ShardId, u64)>,
}

impl Member {
    /// Its rows are flushed only when somebody waits for them.
    async fn join(store: &MemoryStore, clock: TokioClock) -> Self {
        let (tell, changes) = mpsc::unbounded_channel();
        let (sender, released) = mpsc::unbounded_channel();
        let script = Script { changes, store: store.clone(), released: sender };
        let long = Duration::from_secs(86_400);
        let options = FollowOptions { flush_after: long, sync_after: long };
        let node = Node::make(store, clock, Arc::new(clock), 1_000_000, options, script).await;
        Self { node, tell, released }
    }

    async fn gains(&self, epoch: u64) {
        self.tell.send(Leadership::Gained { shard: shard(), epoch: Epoch(epoch) }).unwrap();
        self.node.leads().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fenced_shard_is_released_and_may_be_gained_anew() {
    let (store, clock) = (MemoryStore::new(SHARDS), TokioClock::new(UNIX_MS));
    let mut a = Member::join(&store, clock).await;
    a.gains(1).await;
    store.fail_next(Fault::Fenced);
    assert_eq!(a.node.accept(None).await, Err(AcceptError::NotLeading));
    let released = timeout(Duration::from_secs(60), a.released.recv()).await.expect("nobody would lead it any more");
    assert_eq!(released.map(|(released, _)| released), Some(shard()));
    a.gains(10).await;
    a.node.accepted().await;
}

#[tokio::test(start_paused = true)]
async fn a_drained_shard_is_released_when_its_rows_are_stored() {
    let (store, clock) = (MemoryStore::new(SHARDS), TokioClock::new(UNIX_MS));
    let (mut a, b) = (Member::join(&store, clock).await, Member::join(&store, clock).await);
    a.gains(1).await;
    let ids = [a.node.accepted().await, a.node.accepted().await];
    let last = store.committed(shard());
    assert!(store.positions().await.unwrap()[usize::from(shard().0)] < last, "nobody has waited for the rows yet");

    a.tell.send(Leadership::Drain { shard: shard() }).unwrap();
    assert_eq!(a.released.recv().await, Some((shard(), last)));
    assert_eq!(a.node.accept_where_led().await, Err(AcceptError::NotLeading));
    let not_led = Err(StoreError::NotLeading { shard: shard() });
    assert_eq!(a.node.reader.get(tenant(), ids[0]).await, not_led);

    b.gains(2).await;
    for id in ids {
        assert_eq!(b.node.state(id).await, MessageState::Queued);
    }
    assert_eq!(b.node.status().await.unwrap().queued, [0, 0, 2, 0]);

    // And back: the first node believes nothing of what it had in memory.
    b.node.handle().cancel(tenant(), ids[0]).await.unwrap();
    b.tell.send(Leadership::Drain { shard: shard() }).unwrap();
    a.gains(3).await;
    assert_eq!(
        (a.node.state(ids[0]).await, a.node.state(ids[1]).await),
        (MessageState::Cancelled, MessageState::Queued)
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_followed_by_another_spoils_nothing() {
    let (store, clock) = (MemoryStore::new(SHARDS), TokioClock::new(UNIX_MS));
    let (mut a, b) = (Member::join(&store, clock).await, Member::join(&store, clock).await);
    a.gains(1).await;
    let ids = [a.node.accepted().await, a.node.accepted().await];
    assert_eq!(a.node.state(ids[0]).await, MessageState::Queued);

    // The other one leads already, and the first has not heard of it.
    b.gains(2).await;
    b.node.handle().cancel(tenant(), ids[0]).await.unwrap();
    b.node.reader.caught_up(shard()).await.unwrap();
    let rows = store.positions().await.unwrap();
    assert_eq!(a.node.accept(None).await, Err(AcceptError::NotLeading), "its commit is refused, and it stops");
    assert_eq!(a.released.recv().await.map(|(released, _)| released), Some(shard()));
    a.node.reader.caught_up(ShardId(shard().0 ^ 1)).await.unwrap_err();
    assert_eq!(store.positions().await.unwrap(), rows);
    assert_eq!(b.node.state(ids[0]).await, MessageState::Cancelled);

    // Told to drain what it has lost, or what it never had, it has nothing to release.
    a.tell.send(Leadership::Drain { shard: shard() }).unwrap();
    a.tell.send(Leadership::Lost { shard: shard() }).unwrap();
    a.gains(3).await;
    assert_eq!(a.node.state(ids[0]).await, MessageState::Cancelled);
    assert!(a.released.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_holds_no_hand_over_up_for_ever() {
    let (store, clock) = (MemoryStore::new(SHARDS), TokioClock::new(UNIX_MS));
    let (mut a, b) = (Member::join(&store, clock).await, Member::join(&store, clock).await);
    a.gains(1).await;
    let id = a.node.accepted().await;
    store.set_down(true);
    a.tell.send(Leadership::Drain { shard: shard() }).unwrap();
    a.released.recv().await.unwrap();
    store.set_down(false);
    b.gains(2).await;
    assert_eq!(b.node.state(id).await, MessageState::Queued);

    // Lost in the middle of a hand-over: nothing is released any more.
    store.set_down(true);
    b.tell.send(Leadership::Drain { shard: shard() }).unwrap();
    b.tell.send(Leadership::Lost { shard: shard() }).unwrap();
    sleep(Duration::from_secs(60)).await;
    let mut b = b;
    assert!(b.released.try_recv().is_err());
    b.node.supervisor.take().unwrap().shutdown().await;
}
