//! Puts one node together, a function for each subsystem, and takes it apart again in the right order.
//!
//! ```text
//! stores ── followers (rows, aggregates) ── trimmer
//!   ├───── shards (under the coordinator: this node's own, or the cluster's)
//!   ├───── CA, fleet ── gateway (devices)
//!   ├───── accounts ── providers (online services)
//!   └───── API (clients, and over peer links the other controllers)
//! ```
//! Going down: providers answer what is under way; in a cluster the shards then go to the others, while requests still find
//! their way to them; then no new requests; then the links, the shards with what they have begun, and the followers.

mod cluster;
mod parts;
pub mod root_key;
pub(crate) mod stores;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use flotilla_routing::table::RouteState;
use futures_util::future::select_all;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::server::{self, ServerLimits, listen};
use crate::api::{Api, cluster as cluster_api, openapi, ops};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Coordinator};
use crate::fleet::controllers::Controllers;
use crate::peer::local::LocalCluster;
use crate::peer::{self, PeerLinks};
use crate::settings::SettingsKeeper;
use crate::shard::ShardSupervisor;
use crate::store::Stores;
use crate::telemetry;
use cluster::{Company, Joined, Leave};
use parts::Followers;

const READY_LOOK: Duration = Duration::from_millis(10);
const STORES_GONE: Duration = Duration::from_secs(5);
/// What was used last, lags and the like are written this often.
const UPKEEP_EVERY: Duration = Duration::from_secs(10);

/// A running node.
pub struct Node {
    pub http_addr: SocketAddr,
    pub quic_addr: SocketAddr,
    /// The root key's file, if this start has made it.
    pub new_root_key: Option<PathBuf>,
    pub api: Api,
    closing: CancellationToken,
    servers: Vec<JoinHandle<()>>,
    /// What serves the other controllers.
    peers: Option<peer::Served>,
    drain: Duration,
    leave: Leave,
    upkeep: JoinHandle<()>,
    /// Looks for changed settings.
    keeping: JoinHandle<()>,
    shards: ShardSupervisor,
    followers: Followers,
    /// Other nodes of this process use the stores as well.
    stores_shared: bool,
}

/// What several nodes of one process have in common.
#[derive(Clone)]
pub struct Shared {
    pub stores: Stores,
    pub cluster: LocalCluster,
}

/// Starts everything. What listens comes last, so nobody is answered before all is there.
pub async fn start(config: &Config) -> anyhow::Result<Node> {
    make_data_dir(config)?;
    let stores = stores::open_stores(config).await?;
    let company = match config.cluster.coordinator {
        Coordinator::Embedded => Company::Alone,
        Coordinator::Etcd => Company::Etcd,
    };
    assemble(config, stores, company, false).await
}

/// Starts one of several nodes of this process. It leads what the cluster gives it.
pub async fn start_together(config: &Config, shared: &Shared) -> anyhow::Result<Node> {
    make_data_dir(config)?;
    let Shared { stores, cluster } = shared.clone();
    assemble(config, stores, Company::Local(cluster), true).await
}

async fn assemble(config: &Config, stores: Stores, company: Company, stores_shared: bool) -> anyhow::Result<Node> {
    let metrics = telemetry::metrics()?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let ca = parts::open_ca(config, &stores, &clock).await?;
    let closing = CancellationToken::new();
    let new_root_key = root_key::ensure(config, &*stores.catalog).await?;
    let http = listen(config.http.addr, "http.addr").await?;
    let shards_move = matches!(company, Company::Local(_)) || config.cluster.coordinator == Coordinator::Etcd;
    let webhooks = parts::open_webhooks(config, &stores, &clock)?;
    let followers = parts::start_followers(config, &stores, &webhooks, shards_move).await?;
    let door = parts::door(config)?;
    let now_ms = clock.now().unix_ms;
    let Joined { cluster, seat, leave } =
        cluster::join(config, company, &stores, &ca, &door.advertised, now_ms).await?;
    let controllers = Controllers::new(cluster.own.clone(), Arc::clone(&door.advertised), cluster.views.clone());
    let fleet = parts::open_fleet(&stores, ca, controllers, &clock).await?;
    let shards = cluster::lead(seat, parts::shard_deps(config, &stores, &followers, &clock)).await?;
    let led = shards.shards();
    let gateway = parts::start_gateway(config, &stores, &fleet, &door, led, &followers, &clock).await?;
    let quic_addr = gateway.local_addr();
    let keeper = SettingsKeeper::open(Arc::clone(&stores.catalog), led.clone(), Arc::clone(&gateway)).await?;
    let keeping = tokio::spawn(keeper.clone().run());
    let providers = parts::start_providers(config, &stores, led, &followers, &clock).await?;
    let doors = parts::Doors { gateway, providers, webhooks };
    let api = parts::make_api(config, &stores, &followers, led, fleet, doors, keeper, cluster, clock, closing.clone());
    let upkeep = tokio::spawn(upkeep(api.clone(), followers.all.clone(), metrics.clone()));

    let limits = ServerLimits {
        connections_max: config.http.connections_max,
        header_timeout: Duration::from_secs(config.http.header_timeout_s.into()),
        drain: Duration::from_secs(config.http.drain_s.into()),
    };
    let http_addr = http.local_addr().context("the HTTP listener has no address")?;
    let mut router = openapi::router(api.clone());
    let serve_peers = |links: &PeerLinks| links.serve(router.clone().merge(cluster_api::peer_routes(api.clone())));
    let peers = api.cluster.links.as_ref().map(serve_peers);
    let mut servers = Vec::new();
    let metrics_routes = ops::metrics_routes(metrics);
    match config.http.metrics_addr {
        None => router = router.merge(metrics_routes),
        Some(addr) => {
            let listener = listen(addr, "http.metrics_addr").await?;
            servers.push(serve(listener, metrics_routes, limits, &closing));
        }
    }
    servers.push(serve(http, router, limits, &closing));
    let node = &api.cluster.own;
    tracing::info!(%node, %http_addr, %quic_addr, data_dir = %config.data_dir.display(), "the controller is up");
    let drain = limits.drain;
    Ok(Node {
        http_addr,
        quic_addr,
        new_root_key,
        api,
        closing,
        servers,
        peers,
        drain,
        leave,
        upkeep,
        keeping,
        shards,
        followers,
        stores_shared,
    })
}

/// A new folder is its owner's alone. One that is there stays as it is: what is secret in it has its own permissions.
fn make_data_dir(config: &Config) -> anyhow::Result<()> {
    let dir = &config.data_dir;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).with_context(|| format!("the data folder {} can not be made; set data_dir", dir.display()))
}

fn serve(
    listener: TcpListener,
    router: axum::Router,
    limits: ServerLimits,
    closing: &CancellationToken,
) -> JoinHandle<()> {
    tokio::spawn(server::serve(listener, router, limits, closing.clone()))
}

impl Node {
    /// Returns when the node can not go on, with the reason.
    pub async fn failed(&mut self) -> anyhow::Error {
        let (ended, ..) = select_all(&mut self.servers).await;
        match ended {
            Ok(()) => anyhow::anyhow!("the HTTP server has ended"),
            Err(error) => anyhow::anyhow!("the HTTP server has failed: {error}"),
        }
    }

    /// Returns when all shards work. Until then messages are refused with 503.
    pub async fn ready(&self) {
        while !ops::Readiness::of(&self.api).await.ready && !self.closing.is_cancelled() {
            tokio::time::sleep(READY_LOOK).await;
        }
    }

    /// Ends in order: in a cluster the shards go to the others; then requests, links, shards, followers. What was
    /// acknowledged is durable before and after.
    pub async fn shutdown(self) {
        tracing::info!("shutting down");
        // While the shards are led here: what providers answer to the next leader would be in doubt.
        self.api.providers.shutdown().await;
        self.leave.hand_over(&self.api.cluster).await;
        self.closing.cancel();
        for server in self.servers {
            let _ = server.await;
        }
        if let Some(peers) = self.peers {
            peers.shutdown(self.drain).await;
        }
        self.api.gateway.shutdown().await;
        self.shards.shutdown().await;
        self.followers.stop().await;
        for task in [self.upkeep, self.keeping] {
            task.abort();
            let _ = task.await;
        }
        self.api.keys.write_last_used().await;
        let released = self.api.stores.released.clone();
        drop(self.api);
        // Tasks that were told to end let go of their part of the store a moment later.
        if !self.stores_shared && tokio::time::timeout(STORES_GONE, released.cancelled()).await.is_err() {
            tracing::warn!("something still uses the store");
        }
        tracing::info!("the controller is down");
    }
}

/// The routes of the shards that are led here, counted by what they are up to: not each, there may be ten thousand.
async fn routes(api: &Api) {
    let mut states = [0u64; RouteState::ALL.len()];
    for shard in api.shards.all() {
        // One that does not answer is starting or stopping.
        let Ok(glance) = shard.route_glance().await else { continue };
        states.iter_mut().zip(glance.states).for_each(|(all, some)| *all += some);
        for (kind, scores) in ["sim", "provider"].into_iter().zip(glance.scores) {
            let summary = metrics::histogram!("flotilla_route_score", "kind" => kind);
            scores.into_iter().for_each(|score| summary.record(f64::from(score)));
        }
        metrics::counter!("flotilla_limit_waits_total").increment(glance.waits);
    }
    for (state, routes) in RouteState::ALL.into_iter().zip(states) {
        metrics::gauge!("flotilla_routes", "state" => state.as_str()).set(routes as f64);
    }
}

/// Small things that somebody has to do now and then.
async fn upkeep(api: Api, followers: crate::follow::Followers, metrics: metrics_exporter_prometheus::PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP_EVERY);
    let mut rounds = 0u64;
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
        let lag = api.rows.lag();
        metrics::gauge!("flotilla_rows_behind_events").set(lag.events as f64);
        metrics::gauge!("flotilla_rows_behind_batches").set(lag.batches as f64);
        followers.observe();
        metrics::gauge!("flotilla_event_streams").set(api.live.subscribers() as f64);
        metrics::gauge!("flotilla_shards_led").set(api.shards.all().len() as f64);
        routes(&api).await;
        metrics::gauge!("flotilla_shards").set(f64::from(api.stores.journal.shards()));
        if rounds.is_multiple_of(3) {
            api.keys.write_last_used().await;
        }
        // Daily, the first time at the start.
        if rounds.is_multiple_of(8640) {
            let pruned = crate::fleet::certificates::prune(&*api.stores.catalog, api.now_ms() / 1000).await;
            if let Err(error) = pruned {
                tracing::warn!(%error, "ended certificates are not forgotten");
            }
        }
        rounds += 1;
    }
}
