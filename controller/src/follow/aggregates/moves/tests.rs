//! Shards that move between nodes, each with a folder of its own over one store: whoever leads counts exactly.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::super::tests::{copy_folder, dump, model};
use super::super::{Aggregates, Counts, Options};
use super::*;
use crate::domain::event::Event;
use crate::follow::Follower;
use crate::follow::testing::{MemoryStore, START_MS, accepted, lives, submission, tenant};
use crate::sql_params;
use crate::store::{Catalog, Journal, SqlError, StoreError, sqlite};

const SHARDS: u16 = 4;
const NODES: usize = 3;

/// One store, and what the coordinator knows.
struct World {
    store: Arc<MemoryStore>,
    catalog: Arc<dyn Catalog>,
    folders: TempDir,
    lives: u64,
    nodes: Vec<Option<Node>>,
    /// The newest leadership of each shard, and its node.
    leaders: Vec<(Epoch, Option<usize>)>,
    part_bytes_max: usize,
}

struct Node {
    dir: PathBuf,
    follower: AggregatesFollower,
    /// The shards that it believes to lead.
    leads: BTreeMap<ShardId, Epoch>,
}

impl World {
    fn new() -> Self {
        let folders = tempfile::tempdir().unwrap();
        let stores = sqlite::open(folders.path(), &sqlite::Options { shards: SHARDS, ..Default::default() }).unwrap();
        Self {
            store: MemoryStore::new(SHARDS),
            catalog: stores.catalog,
            folders,
            lives: 0,
            nodes: (0..NODES).map(|_| None).collect(),
            leaders: vec![(Epoch(0), None); usize::from(SHARDS)],
            part_bytes_max: usize::MAX,
        }
    }

    fn open(&self, dir: PathBuf) -> Node {
        let snapshots = Snapshots {
            every: Duration::ZERO,
            events: 1,
            part_bytes_max: self.part_bytes_max,
            ..Snapshots::in_catalog(Arc::clone(&self.catalog))
        };
        let options = Options { memory_bytes: 20_000, snapshots: Some(snapshots), ..Options::default() };
        let (_, follower) = Aggregates::open(dir.clone(), options, self.store.clone(), self.store.clone()).unwrap();
        Node { dir, follower, leads: BTreeMap::new() }
    }

    fn node(&mut self, number: usize) -> &mut Node {
        if self.nodes[number].is_none() {
            self.lives += 1;
            let dir = self.folders.path().join(format!("node-{number}-{}", self.lives));
            self.nodes[number] = Some(self.open(dir));
        }
        self.nodes[number].as_mut().unwrap()
    }

    /// A new leadership of a shard. The former leader hears of it some other time.
    async fn lead(&mut self, shard: ShardId, number: usize) {
        let leader = &mut self.leaders[usize::from(shard.0)];
        *leader = (Epoch(leader.0.0 + 1), Some(number));
        let epoch = leader.0;
        let node = self.node(number);
        if node.leads.insert(shard, epoch).is_some() {
            node.follower.lost(shard);
        }
        node.follower.gained(&[(shard, epoch)]).await.unwrap();
    }

    /// As a power cut leaves it, or with an empty disk.
    fn crash(&mut self, number: usize, disk_survives: bool) {
        let Some(node) = self.nodes[number].take() else { return };
        for (_, leader) in self.leaders.iter_mut().filter(|(_, leader)| *leader == Some(number)) {
            *leader = None;
        }
        if disk_survives {
            self.lives += 1;
            let dir = self.folders.path().join(format!("node-{number}-{}", self.lives));
            copy_folder(&node.dir, &dir);
            drop(node);
            self.nodes[number] = Some(self.open(dir));
        }
    }

    /// What the trimmer does for a shard, on behalf of its leader.
    async fn trim(&self, shard: ShardId) {
        let Some(node) = self.leaders[usize::from(shard.0)].1.and_then(|number| self.nodes[number].as_ref()) else {
            return;
        };
        self.store.show_rows();
        let synced = node.follower.moves.of(shard).unwrap().synced;
        self.store.trim(shard, node.follower.safe(shard, synced)).await.unwrap();
    }

    async fn read(&mut self, number: usize, shard: ShardId, mut batches: usize) {
        let store = self.store.clone();
        let is_late = self.leaders[usize::from(shard.0)].1 != Some(number);
        let follower = &mut self.node(number).follower;
        while batches > 0 && follower.position(shard) < store.feed().last(shard) {
            match store.read(shard, follower.position(shard), 1).await {
                // It will hear of the new leader before long.
                Err(StoreError::Trimmed { .. }) if is_late => return,
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

    async fn hand_over(&mut self, shard: ShardId) {
        let Some(number) = self.leaders[usize::from(shard.0)].1.take() else { return };
        self.read(number, shard, usize::MAX).await;
        let node = self.node(number);
        node.follower.sync().await.unwrap();
        node.follower.hand_over(&[shard]).await.unwrap();
        node.follower.lost(shard);
        node.leads.remove(&shard);
    }

    /// What the leader has counted of its shard.
    async fn counted(&mut self, shard: ShardId) -> BTreeMap<Vec<u8>, Counts> {
        let number = self.leaders[usize::from(shard.0)].1.unwrap();
        self.read(number, shard, usize::MAX).await;
        let follower = &mut self.node(number).follower;
        let mut rows = dump(follower).await;
        rows.retain(|key, _| shard_of_key(key) == shard);
        rows
    }

    fn truth(&self, shard: ShardId) -> BTreeMap<Vec<u8>, Counts> {
        let events: Vec<Event> = self.store.batches(shard).iter().flat_map(|batch| batch.events.to_vec()).collect();
        model(&events)
    }

    async fn head(&self, shard: ShardId) -> u64 {
        let sql = "SELECT position FROM aggregate_snapshots WHERE shard = $1";
        let row = self.catalog.read(move |tx| tx.query_one(sql, sql_params![shard.0])).await.unwrap();
        row.map_or(0, |row| row.get("position").unwrap())
    }
}

fn shard_of_key(key: &[u8]) -> ShardId {
    ShardId::of(TenantId::from_bytes(key[..16].try_into().unwrap()), SHARDS)
}

#[derive(Default, Debug)]
struct Seen {
    snapshots: u64,
    hand_overs: u32,
    takeovers: u32,
    crashes: u32,
    late_writers: u32,
}

/// One thing that happens.
async fn happen(world: &mut World, events: &mut Vec<Event>, rng: &mut StdRng, seen: &mut Seen) {
    let shard = ShardId(rng.random_range(0..SHARDS));
    let number = rng.random_range(0..NODES);
    match rng.random_range(0..100) {
        0..30 => {
            let some = events.split_off(events.len().saturating_sub(rng.random_range(1..30)));
            world.store.append_all(&some, rng);
        }
        30..60 => {
            // Also of a shard that another node leads by now: it has not heard of that.
            let leads: Vec<ShardId> = world.node(number).leads.keys().copied().collect();
            for shard in leads {
                let batches = rng.random_range(0..20);
                world.read(number, shard, batches).await;
            }
        }
        60..80 => {
            let node = world.node(number);
            let late = node.leads.clone();
            node.follower.sync().await.unwrap();
            for _ in 0..rng.random_range(0..6) {
                node.follower.step().await.unwrap();
            }
            let is_late = |(shard, epoch): (&ShardId, &Epoch)| world.leaders[usize::from(shard.0)].0 > *epoch;
            seen.late_writers += late.iter().filter(|one| is_late(*one)).count() as u32;
        }
        80..88 => world.trim(shard).await,
        88..92 => {
            seen.hand_overs += 1;
            world.hand_over(shard).await;
            world.lead(shard, number).await;
        }
        92..95 => {
            seen.takeovers += 1;
            world.lead(shard, number).await;
        }
        95..97 => {
            // The news of a lost shard arrive.
            let leaders = world.leaders.clone();
            let node = world.node(number);
            node.leads.retain(|shard, epoch| {
                leaders[usize::from(shard.0)] == (*epoch, Some(number)) || {
                    node.follower.lost(*shard);
                    false
                }
            });
        }
        _ => {
            seen.crashes += 1;
            world.crash(number, rng.random_ratio(2, 3));
        }
    }
    for shard in (0..SHARDS).map(ShardId) {
        seen.snapshots = seen.snapshots.max(world.head(shard).await);
    }
}

#[tokio::test]
async fn whoever_leads_counts_exactly() {
    let mut all = Seen::default();
    for seed in 0..12u64 {
        println!("seed {seed}");
        let mut rng = StdRng::seed_from_u64(seed);
        let mut world = World::new();
        let mut events = lives(seed, 400);
        events.reverse();
        for shard in (0..SHARDS).map(ShardId) {
            world.lead(shard, rng.random_range(0..NODES)).await;
        }
        for quiet in 0..4 {
            for _ in 0..60 {
                happen(&mut world, &mut events, &mut rng, &mut all).await;
            }
            for shard in (0..SHARDS).map(ShardId) {
                if world.leaders[usize::from(shard.0)].1.is_none() {
                    world.lead(shard, rng.random_range(0..NODES)).await;
                }
                let counted = world.counted(shard).await;
                assert!(counted == world.truth(shard), "seed {seed}, quiet point {quiet}, shard {shard}");
            }
        }
        assert_eq!(world.store.scans(), 0, "seed {seed}: the journal was trimmed behind no snapshot");
    }
    assert!(all.snapshots > 10 && all.hand_overs > 20 && all.takeovers > 20 && all.crashes > 20, "{all:?}");
    assert!(all.late_writers > 20, "{all:?}");
}

fn event(n: u16) -> Event {
    let mut random = [0; 10];
    random[..2].copy_from_slice(&n.to_be_bytes());
    accepted(submission(tenant(1), START_MS + u64::from(n), random))
}

/// A world in which node 0 leads a shard with so many events.
async fn led_world(events: u16) -> (World, ShardId) {
    let mut world = World::new();
    let shard = ShardId::of(tenant(1), SHARDS);
    world.lead(shard, 0).await;
    for n in 0..events {
        world.store.append(shard, vec![event(n)]);
    }
    (world, shard)
}

#[tokio::test]
async fn a_shard_that_was_handed_over_is_not_counted_again() {
    let (mut world, shard) = led_world(20).await;
    world.hand_over(shard).await;
    assert_eq!(world.head(shard).await, 20);
    world.lead(shard, 1).await;
    let node = world.node(1);
    assert_eq!(node.follower.position(shard), 20, "before it has read anything of the journal");
    assert_eq!(node.follower.safe(shard, 20), 20);
    world.trim(shard).await;
    world.store.append(shard, vec![event(100)]);
    assert!(world.counted(shard).await == world.truth(shard));
    assert_eq!(world.node(1).follower.safe(shard, 21), 20, "its own disk does not count");

    // Back at the first node, which takes only what is newer than what it has.
    world.hand_over(shard).await;
    world.trim(shard).await;
    world.lead(shard, 0).await;
    assert!(world.counted(shard).await == world.truth(shard));
    assert_eq!(world.store.scans(), 0);
}

#[tokio::test]
async fn a_former_leaders_snapshot_is_refused() {
    let (mut world, shard) = led_world(20).await;
    world.read(0, shard, 15).await;
    world.node(0).follower.sync().await.unwrap();
    world.lead(shard, 1).await;
    world.read(1, shard, usize::MAX).await;
    world.node(1).follower.sync().await.unwrap();
    while world.node(1).follower.step().await.unwrap() {}
    assert_eq!(world.head(shard).await, 20);

    while world.node(0).follower.step().await.unwrap() {}
    assert_eq!(world.node(0).follower.moves.of(shard).unwrap().no_more, Some(NoMore::Fenced));
    world.node(0).follower.hand_over(&[shard]).await.unwrap();
    assert_eq!(world.head(shard).await, 20);
    world.crash(1, false);
    world.lead(shard, 1).await;
    assert!(world.counted(shard).await == world.truth(shard));
}

#[tokio::test]
async fn beyond_the_bound_there_is_no_snapshot_and_rows_are_counted() {
    let (mut world, shard) = led_world(3_000).await;
    world.part_bytes_max = 20_000;
    world.crash(0, false);
    world.lead(shard, 0).await;
    // Some 4,000 rows of campaigns make an hour that is too large.
    for n in 0..4_000u16 {
        let mut it = submission(tenant(1), START_MS, [0; 10]);
        it.campaign = format!("campaign {n}").into();
        it.id =
            flotilla_protocol::id::MessageId::new(START_MS + 1, u128::from(n).to_be_bytes()[6..].try_into().unwrap());
        world.store.append(shard, vec![accepted(it)]);
    }
    world.hand_over(shard).await;
    assert_eq!(world.head(shard).await, 0);
    world.lead(shard, 0).await;
    world.read(0, shard, usize::MAX).await;
    world.store.append(shard, vec![event(30_000)]);
    world.read(0, shard, usize::MAX).await;
    let node = world.node(0);
    node.follower.sync().await.unwrap();
    while node.follower.step().await.unwrap() {}
    assert_eq!(node.follower.moves.of(shard).unwrap().no_more, Some(NoMore::TooLarge));
    assert_eq!(node.follower.safe(shard, 7_001), 7_001, "or the journal would grow without end");
    world.trim(shard).await;

    world.lead(shard, 1).await;
    assert!(world.counted(shard).await == world.truth(shard));
    assert_eq!(world.store.scans(), 1);
}

#[tokio::test]
async fn a_snapshot_that_can_not_be_read_is_replaced() {
    for change in [
        "UPDATE aggregate_parts SET codec = 9",
        "UPDATE aggregate_parts SET data = zeroblob(9)",
        "UPDATE aggregate_snapshots SET position = 1000",
    ] {
        let (mut world, shard) = led_world(20).await;
        world.hand_over(shard).await;
        world.store.show_rows();
        world.store.trim(shard, 20).await.unwrap();
        let damaged: Result<u64, SqlError> = world.catalog.run(move |tx| tx.execute(change, &[])).await;
        assert!(damaged.unwrap() > 0, "{change}");
        world.lead(shard, 1).await;
        world.store.append(shard, vec![event(50)]);
        assert!(world.counted(shard).await == world.truth(shard), "{change}");
        assert_eq!(world.store.scans(), 1);
        world.hand_over(shard).await;
        assert_eq!(world.head(shard).await, 21, "{change}");
        world.lead(shard, 2).await;
        assert!(world.counted(shard).await == world.truth(shard), "{change}");
        assert_eq!(world.store.scans(), 1, "{change}: the new one is good");
    }
}

#[tokio::test]
async fn what_a_node_counted_alone_is_in_its_next_snapshot() {
    let (mut world, shard) = led_world(5).await;
    world.hand_over(shard).await;
    // The same folder, without company for a while.
    let dir = world.nodes[0].take().unwrap().dir;
    let (_, mut alone) =
        Aggregates::open(dir.clone(), Options::default(), world.store.clone(), world.store.clone()).unwrap();
    alone.gained(&[(shard, Epoch(2))]).await.unwrap();
    let mut later = submission(tenant(1), START_MS + 90_000_000, [9; 10]);
    later.campaign = "alone".into();
    world.store.append(shard, vec![accepted(later)]);
    for batch in world.store.read(shard, alone.position(shard), usize::MAX).await.unwrap() {
        alone.apply(&batch).await.unwrap();
    }
    alone.sync().await.unwrap();
    drop(alone);

    world.nodes[0] = Some(world.open(dir));
    world.leaders[usize::from(shard.0)].0 = Epoch(2);
    world.lead(shard, 0).await;
    world.store.append(shard, vec![event(7)]);
    world.hand_over(shard).await;
    world.trim(shard).await;
    world.lead(shard, 1).await;
    assert_eq!(world.node(1).follower.position(shard), 7);
    assert!(world.counted(shard).await == world.truth(shard));
}
