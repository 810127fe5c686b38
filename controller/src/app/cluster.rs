//! This node's place among the controllers: alone, or one of several.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flotilla_cluster::{Control, ControlError, Embedded, Leader, Member, NodeName, View, Views};
use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::{BoxFuture, ready};
use tokio::sync::watch;
use tokio::time::timeout;

use super::parts::advertised;
use crate::ca::Ca;
use crate::config::Config;
use crate::peer::local::{LocalCluster, LocalCoordinator};
use crate::peer::{self, Cluster, PeerLinks};
use crate::shard::{ShardDeps, ShardSupervisor};
use crate::store::Stores;

/// All shards together; one takes well below a second.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(15);

/// Whom a node is to be with.
pub(super) enum Company {
    Alone,
    /// Nodes of the same process.
    Local(LocalCluster),
}

/// Who tells this node what it leads.
pub(super) enum Seat {
    Alone(Embedded),
    Local(LocalCoordinator),
}

/// How it goes.
pub(super) enum Leave {
    Alone,
    Local(LocalCluster),
}

pub(super) struct Joined {
    pub(super) cluster: Cluster,
    pub(super) seat: Seat,
    pub(super) leave: Leave,
}

/// Takes the node's place. From here on it may be given shards.
pub(super) async fn join(
    config: &Config,
    company: Company,
    stores: &Stores,
    ca: &Arc<Ca>,
    devices: &[String],
    since_ms: u64,
) -> anyhow::Result<Joined> {
    let own = config.cluster.node_name()?;
    let epochs = stores.journal.epochs().await?;
    let member = |peer: String| Member {
        name: own.clone(),
        peer,
        quic: devices.to_vec(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since_ms,
        draining: false,
    };
    match company {
        Company::Alone => {
            let (views, seat) = (alone(member(String::new()), &epochs), Seat::Alone(Embedded::new(&epochs)?));
            let cluster = Cluster { own, views, control: Arc::new(Nobody), links: None };
            Ok(Joined { cluster, seat, leave: Leave::Alone })
        }
        Company::Local(local) => {
            let (socket, address) = listen(config)?;
            let (views, control) = (local.views(), local.control());
            let links = Some(PeerLinks::open(socket, own.clone(), Arc::clone(ca), views.clone())?);
            let seat = Seat::Local(local.join(member(address)));
            Ok(Joined { cluster: Cluster { own, views, control, links }, seat, leave: Leave::Local(local) })
        }
    }
}

/// The port for other controllers, and what they are told of it.
fn listen(config: &Config) -> anyhow::Result<(UdpSocket, String)> {
    let socket = peer::bind(config.cluster.peer_addr)?;
    let listening: SocketAddr = socket.local_addr().context("the port for other controllers has no address")?;
    let told = match &config.cluster.peer_advertise {
        Some(told) => told.clone(),
        None => advertised(listening, &[]).first().cloned().unwrap_or_else(|| listening.to_string()),
    };
    Ok((socket, told))
}

/// Begins to lead what this node is given.
pub(super) async fn lead(seat: Seat, deps: ShardDeps) -> anyhow::Result<ShardSupervisor> {
    Ok(match seat {
        Seat::Alone(coordinator) => ShardSupervisor::start(deps, coordinator).await?,
        Seat::Local(coordinator) => ShardSupervisor::start(deps, coordinator).await?,
    })
}

impl Leave {
    /// Gives all shards to the others, as far as there are any. Returns when the others know.
    pub(super) async fn hand_over(self, cluster: &Cluster) {
        match self {
            Self::Alone => return,
            Self::Local(local) => local.leave(&cluster.own),
        }
        let mut views = cluster.views.clone();
        let none_left = |view: &Arc<View>| !view.leaders.iter().flatten().any(|leader| leader.node == cluster.own);
        match timeout(HAND_OVER_DEADLINE, views.wait_for(none_left)).await {
            Ok(Ok(_)) => tracing::info!("all shards are handed over"),
            Ok(Err(_)) | Err(_) => tracing::warn!("some shards were not handed over; others take them"),
        }
    }
}

/// What a node that is alone knows: it leads everything. Never changes.
fn alone(member: Member, last_epochs: &[Epoch]) -> Views {
    let leader = |last: &Epoch| Some(Leader { node: member.name.clone(), epoch: Epoch(last.0.saturating_add(1)) });
    let leaders = last_epochs.iter().map(leader).collect();
    let view = View { leaders, members: vec![member], pins: Vec::new(), fresh: true };
    watch::Sender::new(Arc::new(view)).subscribe()
}

/// There is nobody to move anything to.
struct Nobody;

impl Control for Nobody {
    fn drain(&self, _node: NodeName, _on: bool) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(ready(Err(ControlError::Alone)))
    }

    fn move_shard(&self, _shard: ShardId, _to: Option<NodeName>) -> BoxFuture<'_, Result<(), ControlError>> {
        Box::pin(ready(Err(ControlError::Alone)))
    }
}
