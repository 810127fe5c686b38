//! The coordinator of a cluster: nodes share the shards out between them through etcd.
//!
//! Everything runs on one thread of its own, so that a node whose other threads are busy does not lose its lease for it.
//! In there: a keeper (lease and member key), a reader and a watch (what is in etcd), and the driver of the machine that
//! decides ([`crate::ownership`]). What is in etcd, and how each change is made, is in `keys` and `store`.

mod client;
mod clock;
mod config;
mod control;
mod driver;
mod keeper;
mod keys;
mod reader;
mod store;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::ownership::{Input, Ownership, Settings, weight};
use crate::{Control, CoordinationError, Coordinator, Leadership, Member, NodeName, View, Views};
use client::Etcd;
use control::EtcdControl;
use driver::{Driver, Event};
use keeper::Keeper;
use keys::Keys;
use reader::Hint;
use store::Store;

pub use config::{ConfigError, EtcdConfig};

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("etcd does not answer: {0}")]
    Unavailable(String),
    #[error("etcd refuses this node, see user, password and cert_file: {0}")]
    Refused(String),
    #[error(
        "another process is in the cluster as {name} (peer address {peer}); give each node a name of its own, or stop the other"
    )]
    NameTaken { name: NodeName, peer: String },
    #[error("another cluster with {theirs} shards uses this prefix, and this one has {ours}; give it another prefix")]
    OtherShards { ours: u16, theirs: u16 },
    #[error("a newer version wrote format {version} under this prefix; update this node")]
    Newer { version: u32 },
    #[error("no thread for the coordinator: {0}")]
    Thread(#[from] std::io::Error),
    #[error("the coordinator's thread has ended")]
    Ended,
}

/// A node's part in a cluster.
pub struct EtcdCluster {
    pub coordinator: EtcdCoordinator,
    pub views: Views,
    pub control: Arc<dyn Control>,
    /// To be kept as long as the node is to be in the cluster.
    pub membership: Membership,
}

/// Joins the cluster. `epochs_floor` is the highest epoch in the node's store: no shard is gained under a lower one.
pub async fn start(
    config: EtcdConfig,
    member: Member,
    shards: u16,
    epochs_floor: Epoch,
) -> Result<EtcdCluster, StartError> {
    let first = weight(ShardId(0), &member.name) as usize;
    let store = Arc::new(Store { etcd: Etcd::new(&config, first)?, keys: Keys::new(&config.prefix), shards });
    let (events, inbox) = mpsc::channel(1_024);
    let (changes, gains) = mpsc::unbounded_channel();
    let (views, seen) = watch::channel(Arc::new(View::default()));
    let (renounced, given_up) = watch::channel(None);
    let (floor, floor_seen) = watch::channel(epochs_floor);
    let keeper = Keeper {
        store: Arc::clone(&store),
        member: member.clone(),
        ttl_s: config.lease_ttl_s,
        events: events.clone(),
        renounced: given_up,
        floor: floor_seen,
        leases: VecDeque::new(),
    };
    let settings = Settings {
        moves_at_once: config.moves_at_once.into(),
        settle_ms: config.settle_ms.into(),
        ..Settings::new(shards)
    };
    let machine = Ownership::new(member.name.clone(), settings);
    let hint = Arc::new(Hint::default());
    let driver = Driver {
        store,
        member,
        machine,
        hint,
        changes,
        views,
        renounced,
        floor,
        events: events.clone(),
        state: driver::State::default(),
    };
    let stop = CancellationToken::new();
    spawn(keeper, driver, inbox, stop.clone()).await?;
    Ok(EtcdCluster {
        coordinator: EtcdCoordinator { changes: gains, events: events.clone(), led: BTreeSet::new() },
        views: seen,
        control: Arc::new(EtcdControl { events: events.clone() }),
        membership: Membership { events, _stop: stop.drop_guard() },
    })
}

/// Runs everything on a thread of its own; returns when the node is registered.
async fn spawn(
    keeper: Keeper,
    driver: Driver,
    inbox: mpsc::Receiver<Event>,
    stop: CancellationToken,
) -> Result<(), StartError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (joined, wait) = oneshot::channel();
    let run = move || {
        // Dropping it with the runtime ends whatever still runs, as the end of the process would.
        runtime.block_on(async {
            tokio::select! {
                () = work(keeper, driver, inbox, joined) => {}
                () = stop.cancelled() => {}
            }
        });
        runtime.shutdown_background();
    };
    std::thread::Builder::new().name("flotilla-etcd".to_owned()).spawn(run)?;
    wait.await.map_err(|_| StartError::Ended)?
}

async fn work(
    mut keeper: Keeper,
    driver: Driver,
    inbox: mpsc::Receiver<Event>,
    joined: oneshot::Sender<Result<(), StartError>>,
) {
    let granted = match keeper.join().await {
        Ok(granted) => granted,
        Err(error) => {
            let _ = joined.send(Err(error));
            return;
        }
    };
    if joined.send(Ok(())).is_err() {
        return;
    }
    let (store, hint, events) = (Arc::clone(&driver.store), Arc::clone(&driver.hint), driver.events.clone());
    tokio::select! {
        () = keeper.keep(granted) => {}
        () = reader::read(Arc::clone(&store), Arc::clone(&hint), events) => {}
        () = reader::watch(store, hint) => {}
        () = driver.run(inbox) => {}
    }
}

/// What this node gains and loses. Should its thread end, everything that is still led is lost.
pub struct EtcdCoordinator {
    changes: mpsc::UnboundedReceiver<Leadership>,
    events: mpsc::Sender<Event>,
    led: BTreeSet<ShardId>,
}

impl Coordinator for EtcdCoordinator {
    async fn next(&mut self) -> Result<Leadership, CoordinationError> {
        let Some(change) = self.changes.recv().await else {
            let shard = self.led.pop_first().ok_or(CoordinationError::Stopped)?;
            return Ok(Leadership::Lost { shard });
        };
        match change {
            Leadership::Gained { shard, .. } => self.led.insert(shard),
            Leadership::Lost { shard } => self.led.remove(&shard),
            Leadership::Drain { .. } => false,
        };
        Ok(change)
    }

    async fn released(&mut self, shard: ShardId) -> Result<(), CoordinationError> {
        self.led.remove(&shard);
        let event = Event::Input(Input::Released { shard });
        self.events.send(event).await.map_err(|_| CoordinationError::Stopped)
    }
}

/// This node's place in the cluster. Dropped, it is as if the process had died: the others notice when the lease ends.
pub struct Membership {
    events: mpsc::Sender<Event>,
    _stop: DropGuard,
}

impl Membership {
    /// Leaves the cluster: tells the node to drain what it leads, a few shards at once, waits up to `grace` until they are
    /// handed over, then gives up the rest and the membership. Call it while the shards still run and follow the coordinator.
    pub async fn shutdown(self, grace: Duration) {
        let (done, wait) = oneshot::channel();
        if self.events.send(Event::Leave { grace, done }).await.is_ok() {
            // An error means that it has ended already.
            let _ = wait.await;
        }
    }
}
