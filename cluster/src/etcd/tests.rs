//! Whole nodes on real etcd servers, one test at a time: they measure, and etcd wants its processor.

mod access;
mod faults;
mod nodes;
mod takeover;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, MutexGuard, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;
use crate::ControlError;
use crate::testing::EtcdServers;

const SHARDS: u16 = 64;
/// For what takes milliseconds on a quiet machine; this one may be busy.
const PATIENCE: Duration = Duration::from_secs(30);

static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn turn() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().await
}

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

fn member(text: &str) -> Member {
    Member {
        name: name(text),
        peer: format!("{text}:7401"),
        quic: vec![format!("{text}:7400")],
        version: "0.1.0".to_owned(),
        since_ms: 0,
        draining: false,
    }
}

fn config(servers: &EtcdServers) -> EtcdConfig {
    EtcdConfig { endpoints: servers.endpoints(), prefix: "/test/flotilla".to_owned(), ..EtcdConfig::default() }
}

/// Who leads what as the nodes' own streams tell it, and when that changed.
#[derive(Debug, Clone, Default)]
struct Board {
    led: BTreeMap<(NodeName, u16), Epoch>,
    gains: Vec<(Instant, NodeName, u16)>,
    losses: Vec<(Instant, NodeName, u16)>,
    highest: BTreeMap<u16, Epoch>,
    broken: Option<String>,
}

impl Board {
    fn take(&mut self, node: &NodeName, change: Leadership) {
        let now = Instant::now();
        match change {
            Leadership::Gained { shard, epoch } => {
                let highest = self.highest.entry(shard.0).or_default();
                if epoch <= *highest {
                    self.broken = Some(format!("{node} gained shard {shard} at {epoch} after {highest}"));
                }
                *highest = epoch.max(*highest);
                self.led.insert((node.clone(), shard.0), epoch);
                self.gains.push((now, node.clone(), shard.0));
            }
            Leadership::Drain { shard } | Leadership::Lost { shard } => {
                if self.led.remove(&(node.clone(), shard.0)).is_some() {
                    self.losses.push((now, node.clone(), shard.0));
                }
            }
        }
    }

    fn of(&self, node: &str) -> Vec<u16> {
        self.led.keys().filter(|(leader, _)| leader.as_str() == node).map(|(_, shard)| *shard).collect()
    }

    /// Every shard has exactly one leader, and that is the one that rendezvous hashing says.
    fn shared_out(&self, nodes: &[&str]) -> bool {
        let wanted = |shard: u16| nodes.iter().map(|node| name(node)).max_by_key(|node| weight(ShardId(shard), node));
        self.led.len() == usize::from(SHARDS)
            && (0..SHARDS).all(|shard| wanted(shard).is_some_and(|node| self.led.contains_key(&(node, shard))))
    }
}

#[derive(Clone)]
struct Witness(watch::Sender<Board>);

impl Witness {
    fn new() -> Self {
        Self(watch::Sender::new(Board::default()))
    }

    async fn until(&self, what: &str, condition: impl Fn(&Board) -> bool) -> Board {
        let mut board = self.0.subscribe();
        let met = timeout(PATIENCE, board.wait_for(|board| board.broken.is_some() || condition(board))).await;
        let now = self.0.borrow().clone();
        assert_eq!(now.broken, None);
        let shares = || {
            now.led.keys().fold(BTreeMap::<_, usize>::new(), |mut shares, (node, _)| {
                *shares.entry(node.clone()).or_default() += 1;
                shares
            })
        };
        assert!(met.is_ok(), "never: {what}; now {:?}", shares());
        now
    }

    async fn shared_out(&self, nodes: &[&str]) -> Board {
        self.until(&format!("shared out over {nodes:?}"), |board| board.shared_out(nodes)).await
    }
}

/// A node whose shards start and stop at once.
struct Node {
    name: NodeName,
    views: Views,
    control: Arc<dyn Control>,
    membership: Option<Membership>,
    witness: Witness,
    follower: JoinHandle<()>,
}

impl Node {
    async fn start(config: EtcdConfig, text: &str, witness: &Witness) -> Self {
        Self::try_start(config, text, witness).await.unwrap()
    }

    async fn try_start(config: EtcdConfig, text: &str, witness: &Witness) -> Result<Self, StartError> {
        let cluster = start(config, member(text), SHARDS, Epoch(1_000)).await?;
        let EtcdCluster { mut coordinator, views, control, membership } = cluster;
        let (node, board) = (name(text), witness.0.clone());
        let follower = tokio::spawn(async move {
            while let Ok(change) = coordinator.next().await {
                board.send_modify(|board| board.take(&node, change));
                if let Leadership::Drain { shard } = change {
                    let _ = coordinator.released(shard).await;
                }
            }
        });
        let membership = Some(membership);
        Ok(Self { name: name(text), views, control, membership, witness: witness.clone(), follower })
    }

    /// Nothing is told to anybody.
    async fn die(mut self) -> Instant {
        let at = Instant::now();
        self.follower.abort();
        let _ = (&mut self.follower).await;
        self.membership = None;
        self.witness.0.send_modify(|board| board.led.retain(|(node, _), _| *node != self.name));
        at
    }

    async fn leave(mut self) -> Duration {
        let began = Instant::now();
        self.membership.take().unwrap().shutdown(Duration::from_secs(10)).await;
        began.elapsed()
    }

    async fn sees(&mut self, what: &str, condition: impl Fn(&View) -> bool) -> Arc<View> {
        let seen = timeout(PATIENCE, self.views.wait_for(|view| condition(view))).await;
        let seen = seen.ok().and_then(Result::ok).map(|view| Arc::clone(&view));
        seen.unwrap_or_else(|| panic!("{} never sees: {what}; now {:?}", self.name, self.views.borrow()))
    }
}

/// Prints how long something took, for the record.
fn report(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let [Some(min), Some(median), Some(max)] = [times.first(), times.get(times.len() / 2), times.last()] else {
        return;
    };
    let (min, median, max) = (min.as_millis(), median.as_millis(), max.as_millis());
    println!("{what}: min {min} ms, median {median} ms, max {max} ms of {}", times.len());
}
