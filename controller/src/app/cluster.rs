//! This node's place among the controllers: alone, or one of several.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flotilla_cluster::etcd::{self, EtcdCluster, EtcdConfig, EtcdCoordinator, Membership};
use flotilla_cluster::{Embedded, Member, View};
use tokio::time::timeout;

use super::parts::advertised;
use crate::ca::Ca;
use crate::config::{self, Config};
use crate::peer::local::{LocalCluster, LocalCoordinator};
use crate::peer::{self, Cluster, PeerLinks};
use crate::shard::{ShardDeps, ShardSupervisor};
use crate::store::Stores;

/// All shards together; one takes well below a second.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(15);

/// Whom a node is to be with.
pub(super) enum Company {
    Alone,
    Etcd,
    /// Nodes of the same process.
    Local(LocalCluster),
}

/// Who tells this node what it leads.
pub(super) enum Seat {
    Alone(Embedded),
    Etcd(EtcdCoordinator),
    Local(LocalCoordinator),
}

/// How it goes.
pub(super) enum Leave {
    Alone,
    Etcd(Membership),
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
            let coordinator = Embedded::new(&epochs)?;
            let (views, control) = coordinator.alone(member(String::new()));
            let cluster = Cluster { own, views, control, links: None };
            Ok(Joined { cluster, seat: Seat::Alone(coordinator), leave: Leave::Alone })
        }
        Company::Etcd => {
            let (socket, address) = listen(config)?;
            let floor = epochs.iter().max().copied().unwrap_or_default();
            let etcd = etcd_config(&config.cluster.etcd)?;
            let EtcdCluster { coordinator, views, control, membership } =
                etcd::start(etcd, member(address), epochs.len() as u16, floor).await.context("joining the cluster")?;
            let links = Some(PeerLinks::open(socket, own.clone(), Arc::clone(ca), views.clone())?);
            let cluster = Cluster { own, views, control, links };
            Ok(Joined { cluster, seat: Seat::Etcd(coordinator), leave: Leave::Etcd(membership) })
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

fn etcd_config(section: &config::Etcd) -> anyhow::Result<EtcdConfig> {
    let password = match &section.password_file {
        Some(file) => {
            let text = std::fs::read_to_string(file);
            let text = text.with_context(|| format!("cluster.etcd.password_file: {}", file.display()))?;
            Some(text.trim_end_matches(['\r', '\n']).to_owned())
        }
        None => None,
    };
    Ok(EtcdConfig {
        endpoints: section.endpoints.clone(),
        prefix: section.prefix.clone(),
        lease_ttl_s: section.lease_ttl_s,
        user: section.user.clone(),
        password,
        ca_file: section.ca_file.clone(),
        cert_file: section.cert_file.clone(),
        key_file: section.key_file.clone(),
        ..EtcdConfig::default()
    })
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
        Seat::Etcd(coordinator) => ShardSupervisor::start(deps, coordinator).await?,
        Seat::Local(coordinator) => ShardSupervisor::start(deps, coordinator).await?,
    })
}

impl Leave {
    /// Gives all shards to the others, as far as there are any. Returns when the others know.
    pub(super) async fn hand_over(self, cluster: &Cluster) {
        match self {
            Self::Alone => return,
            // Others know when it returns, or it has waited long enough.
            Self::Etcd(membership) => return membership.shutdown(HAND_OVER_DEADLINE).await,
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
