//! The subsystems, each made from its piece of the configuration and what it needs of the others.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use url::Url;

use crate::api::auth::KeyRing;
use crate::api::callbacks::HELD_BYTES_MAX;
use crate::api::messages::pins::Pins;
use crate::api::{Api, Counters, State};
use crate::ca::{Ca, TrustDomain};
use crate::clock::Clock;
use crate::config::Config;
use crate::fleet::controllers::Controllers;
use crate::fleet::deny::DenyList;
use crate::fleet::devices::Devices;
use crate::fleet::enrollments::Enrollments;
use crate::fleet::sims::Sims;
use crate::follow::aggregates::{self, Aggregates, Snapshots};
use crate::follow::live::Live;
use crate::follow::{self, FollowOptions, Leads, LedgerFollower, LedgerReader, RowsFollower, RowsReader, trim_behind};
use crate::gateway::{self, FleetEvents, GatewayConfig, GatewayError, GatewayHandle};
use crate::net_guard::NetGuard;
use crate::peer::Cluster;
use crate::providers::accounts::Accounts;
use crate::providers::{self, Providers};
use crate::secrets::{ClusterKeys, KEY_FILE};
use crate::settings::{CatalogRouting, News, SettingsKeeper};
use crate::shard::{ShardDeps, ShardSettings, Shards};
use crate::store::Stores;
use crate::webhooks::Webhooks;

/// New messages are refused while the rows are this many events behind: some seconds of work, and what a restart replays.
const LAG_EVENTS_MAX: u64 = 1_000_000;
/// A ledger is written whole, so not often; a start reads so much more of the journal.
const LEDGER_FLUSH_AFTER: Duration = Duration::from_secs(5);
/// Times a device may recover an expired certificate before it has to be enrolled again.
const RECOVERIES_MAX: u32 = 5;
/// Ports that are free for UDP and taken for TCP, before there is something wrong.
const PORT_TRIES_MAX: usize = 64;

/// Events wait this long for company before they are written into the lines of webhooks.
const HOOKS_FOLLOW: FollowOptions =
    FollowOptions { flush_after: Duration::from_millis(100), sync_after: Duration::from_secs(5) };

/// What follows the journal, and how to stop it.
pub(super) struct Followers {
    pub(super) rows: RowsReader,
    pub(super) ledgers: LedgerReader,
    pub(super) aggregates: Aggregates,
    pub(super) live: Live,
    /// To be told what this node leads.
    pub(super) all: follow::Followers,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

pub(super) fn open_webhooks(config: &Config, stores: &Stores, clock: &Arc<dyn Clock>) -> anyhow::Result<Webhooks> {
    let guard = NetGuard { allow_private: config.webhooks.allow_private_addresses };
    let keys = Arc::new(cluster_keys(config)?);
    let (shards, catalog) = (stores.journal.shards(), Arc::clone(&stores.catalog));
    Webhooks::new(shards, catalog, keys, guard, Arc::clone(clock)).context("preparing webhooks")
}

/// `shards_move`: other nodes may lead what this one leads now.
pub(super) async fn start_followers(
    config: &Config,
    stores: &Stores,
    webhooks: &Webhooks,
    shards_move: bool,
) -> anyhow::Result<Followers> {
    let stop = CancellationToken::new();
    let journal = &stores.journal;
    let follower = RowsFollower::open(Arc::clone(&stores.rows)).await?;
    let reader = follower.reader();
    let (rows_handle, rows_task) =
        follow::follow(follower, Arc::clone(journal), FollowOptions::default(), stop.clone());
    let snapshots = shards_move.then(|| Snapshots::in_catalog(Arc::clone(&stores.catalog)));
    let options = aggregates::Options { shutdown: stop.clone(), snapshots, ..aggregates::Options::default() };
    let (dir, journal_too, rows_too) = (config.data_dir.join("stats"), Arc::clone(journal), Arc::clone(&stores.rows));
    let open = move || Aggregates::open(dir, options, journal_too, rows_too);
    let (aggregates, follower) = tokio::task::spawn_blocking(open).await?.context("opening the statistics")?;
    let (stats_handle, stats_task) =
        follow::follow(follower, Arc::clone(journal), FollowOptions::default(), stop.clone());
    let (hooks_handle, hooks_task) =
        follow::follow(webhooks.follower(), Arc::clone(journal), HOOKS_FOLLOW, stop.clone());
    let ledgers = LedgerFollower::new(Some(Arc::clone(&stores.catalog)), Arc::clone(journal));
    let ledger_reader = ledgers.reader();
    let options = FollowOptions { flush_after: LEDGER_FLUSH_AFTER, ..FollowOptions::default() };
    let (ledger_handle, ledger_task) = follow::follow(ledgers, Arc::clone(journal), options, stop.clone());
    let handles = vec![rows_handle.clone(), stats_handle, ledger_handle.clone(), hooks_handle];
    let trimmer = tokio::spawn(trim_behind(handles.clone(), Arc::clone(journal), stop.clone()));
    let leads = Leads::none(journal.shards());
    let live = Live::new(Arc::clone(journal), leads.clone());
    let told = webhooks.clone();
    live.listen(Box::new(move |tenant, kind, at_ms, data| told.tell(tenant, kind, at_ms, data)));
    let all = follow::Followers::new(handles, leads);
    let rows = reader(rows_handle);
    let ledgers = ledger_reader(ledger_handle);
    let deliveries = webhooks.start(rows.clone(), stop.clone());
    let tasks = vec![rows_task, stats_task, ledger_task, hooks_task, trimmer, deliveries];
    Ok(Followers { rows, ledgers, aggregates, live, all, stop, tasks })
}

impl Followers {
    /// Hear what happens to the fleet.
    pub(super) fn events(&self) -> Arc<dyn FleetEvents> {
        Arc::new(self.live.clone())
    }

    /// Everything that is committed is flushed and synced when this returns.
    pub(super) async fn stop(self) {
        self.stop.cancel();
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

pub(super) fn shard_deps(config: &Config, stores: &Stores, followers: &Followers, clock: &Arc<dyn Clock>) -> ShardDeps {
    let retry_delays_ms = config.routing.retry_delays_ms();
    ShardDeps {
        journal: Arc::clone(&stores.journal),
        reader: followers.rows.clone(),
        ledgers: followers.ledgers.clone(),
        followers: followers.all.clone(),
        clock: Arc::clone(clock),
        settings: ShardSettings { retry_delays_ms, ..ShardSettings::default() },
        routing: Arc::new(CatalogRouting::new(stores)),
        news: Arc::new(News(followers.events())),
        lag_events_max: LAG_EVENTS_MAX,
    }
}

pub(super) async fn open_ca(config: &Config, stores: &Stores, clock: &Arc<dyn Clock>) -> anyhow::Result<Arc<Ca>> {
    let now_s = clock.now().unix_ms / 1000;
    let trust_domain = TrustDomain::parse(&config.ca.trust_domain)?;
    let secrets = cluster_keys(config)?;
    // Where single nodes had it before it was in the store.
    let former = config.data_dir.join("ca");
    let ca = Ca::open(Arc::clone(&stores.catalog), secrets, trust_domain, Some(&former), now_s).await;
    Ok(Arc::new(ca.context("opening the certificate authority")?))
}

fn cluster_keys(config: &Config) -> anyhow::Result<ClusterKeys> {
    Ok(match &config.cluster.key_file {
        Some(file) => ClusterKeys::read(file)?,
        None => ClusterKeys::read_or_create(&config.data_dir.join(KEY_FILE))?,
    })
}

/// Accounts at online providers, at work where their tenants' shards are led.
pub(super) async fn start_providers(
    config: &Config,
    stores: &Stores,
    shards: &Shards,
    followers: &Followers,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Providers> {
    let guard = NetGuard { allow_private: config.providers.allow_private_addresses };
    let accounts = Accounts::open(Arc::clone(&stores.catalog), cluster_keys(config)?, guard).await;
    let public_url = config.http.public_url.as_deref().map(Url::parse).transpose().context("http.public_url")?;
    let needs = providers::Needs {
        catalog: Arc::clone(&stores.catalog),
        accounts: accounts.context("opening the provider accounts")?,
        shards: Arc::new(shards.clone()),
        led: shards.changes(),
        events: followers.events(),
        clock: Arc::clone(clock),
        public_url,
    };
    Ok(providers::start(needs).await?)
}

/// Where devices connect, and what they are told of it.
pub(super) struct Door {
    listen: SocketAddr,
    tcp: Option<SocketAddr>,
    pub(super) advertised: Arc<[String]>,
}

pub(super) fn door(config: &Config) -> anyhow::Result<Door> {
    let listen = with_port(config.quic.addr)?;
    let tcp = config.quic.tcp_addr.beside(listen);
    Ok(Door { listen, tcp, advertised: advertised(listen, &config.quic.advertise) })
}

/// The fleet's records, and who signs for them.
pub(super) struct Fleet {
    ca: Arc<Ca>,
    deny: Arc<DenyList>,
    devices: Devices,
    sims: Sims,
    enrollments: Enrollments,
    controllers: Controllers,
}

pub(super) async fn open_fleet(
    stores: &Stores,
    ca: Arc<Ca>,
    controllers: Controllers,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Fleet> {
    let catalog = &stores.catalog;
    let deny = DenyList::load(&**catalog, clock.now().unix_ms / 1000).await?;
    let devices = Devices::new(Arc::clone(catalog), Arc::clone(&deny));
    let sims = Sims::new(Arc::clone(catalog));
    let enrollments = Enrollments::new(Arc::clone(catalog), Arc::clone(&ca), controllers.clone());
    Ok(Fleet { ca, deny, devices, sims, enrollments, controllers })
}

/// Enrolment codes name the port, so it has to be known before anybody listens on it. Free for TCP as well.
fn with_port(addr: SocketAddr) -> anyhow::Result<SocketAddr> {
    if addr.port() != 0 {
        return Ok(addr);
    }
    for _ in 0..PORT_TRIES_MAX {
        let socket = UdpSocket::bind(addr).with_context(|| format!("no UDP port of {} is free", addr.ip()))?;
        let found = socket.local_addr()?;
        if TcpListener::bind(found).is_ok() {
            return Ok(found);
        }
    }
    anyhow::bail!("no port of {} is free for UDP and TCP: set quic.addr", addr.ip())
}

/// What others are told to connect to.
pub(super) fn advertised(listen: SocketAddr, configured: &[String]) -> Arc<[String]> {
    if !configured.is_empty() {
        return configured.into();
    }
    let ip = if listen.ip().is_unspecified() { outward_ip() } else { listen.ip() };
    [SocketAddr::new(ip, listen.port()).to_string()].into()
}

/// The address that this machine would send from. Connecting a UDP socket sends nothing.
fn outward_ip() -> IpAddr {
    let found = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        // TEST-NET-1 (RFC 5737): routed like any far address, and nobody's.
        socket.connect("192.0.2.1:9")?;
        socket.local_addr()
    });
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |addr| addr.ip())
}

pub(super) async fn start_gateway(
    config: &Config,
    stores: &Stores,
    fleet: &Fleet,
    door: &Door,
    shards: &Shards,
    followers: &Followers,
    clock: &Arc<dyn Clock>,
) -> anyhow::Result<Arc<GatewayHandle>> {
    let gateway = GatewayConfig {
        listen: door.listen,
        tcp: door.tcp,
        name: fleet.controllers.own().to_string(),
        dir: config.data_dir.join("gateway"),
        settings: flotilla_protocol::wire::Settings::default(),
        recoveries_max: RECOVERIES_MAX,
        hold_new_sims: config.routing.hold_new_sims,
        limits: gateway::Limits::default(),
    };
    let parts = gateway::Parts {
        shards: Arc::new(shards.clone()),
        catalog: Arc::clone(&stores.catalog),
        ca: Arc::clone(&fleet.ca),
        controllers: fleet.controllers.clone(),
        enrollments: fleet.enrollments.clone(),
        devices: fleet.devices.clone(),
        deny: Arc::clone(&fleet.deny),
        events: followers.events(),
        clock: Arc::clone(clock),
    };
    let listening = gateway::start(gateway, parts).await;
    let addr = door.listen;
    let remedy = |error: &GatewayError| match error {
        // Names its own key.
        GatewayError::BindTcp { .. } => "devices can not connect over TCP".to_owned(),
        _ => format!("devices can not connect on {addr} (UDP): stop what uses it, or set quic.addr"),
    };
    Ok(Arc::new(listening.map_err(|error| {
        let context = remedy(&error);
        anyhow::Error::new(error).context(context)
    })?))
}

/// Where messages leave: gateways, and online services.
pub(super) struct Doors {
    pub(super) gateway: Arc<GatewayHandle>,
    pub(super) providers: Providers,
    pub(super) webhooks: Webhooks,
}

#[expect(clippy::too_many_arguments, reason = "the one place where everything comes together")]
pub(super) fn make_api(
    config: &Config,
    stores: &Stores,
    followers: &Followers,
    shards: &Shards,
    fleet: Fleet,
    doors: Doors,
    settings: SettingsKeeper,
    cluster: Cluster,
    clock: Arc<dyn Clock>,
    closing: CancellationToken,
) -> Api {
    Api::new(State {
        keys: KeyRing::new(Arc::clone(&stores.catalog)),
        pins: Pins::new(fleet.devices.clone(), fleet.sims.clone(), doors.providers.accounts().clone()),
        stores: stores.clone(),
        shards: shards.clone(),
        rows: followers.rows.clone(),
        aggregates: followers.aggregates.clone(),
        live: followers.live.clone(),
        webhooks: doors.webhooks,
        events: followers.events(),
        devices: fleet.devices,
        sims: fleet.sims,
        enrollments: fleet.enrollments,
        ca: fleet.ca,
        gateway: doors.gateway,
        settings,
        providers: doors.providers,
        cluster,
        clock,
        uploads: Arc::new(Semaphore::new(config.limits.bulk_uploads_max)),
        callback_bytes: Semaphore::new(HELD_BYTES_MAX),
        limits: config.limits.clone(),
        counters: Counters::default(),
        closing,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_told_an_address_they_can_reach() {
        let listen = "0.0.0.0:7443".parse().unwrap();
        let told = advertised(listen, &[]);
        let addr: SocketAddr = told[0].parse().unwrap();
        assert!(!addr.ip().is_unspecified() && addr.port() == 7443);
        assert_eq!(&*advertised("127.0.0.1:1".parse().unwrap(), &[]), ["127.0.0.1:1"]);
        assert_eq!(&*advertised(listen, &["sms.example.org:443".into()]), ["sms.example.org:443"]);
        assert_ne!(with_port("127.0.0.1:0".parse().unwrap()).unwrap().port(), 0);
    }
}
