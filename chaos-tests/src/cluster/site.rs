//! The processes of a cluster: three members of etcd, a PostgreSQL, controllers, fleets, and the relays between them.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use flotilla_cluster::testing::EtcdServers;
use flotilla_controller::store::postgres::own::{OwnError, OwnServer};
use flotilla_protocol::id::{ShardId, TenantId};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::nodes::{Call, Nodes};
use super::relay::Relay;
use crate::fleet::{Fleet, radio_logs};
use crate::process::{Program, Programs};
use crate::radio_log;

const ETCD_MEMBERS: usize = 3;
pub const CONTROLLERS: usize = 3;
const START_DEADLINE: Duration = Duration::from_secs(120);
const POLL_PAUSE: Duration = Duration::from_millis(100);

/// What a site is made of.
#[derive(Debug, Clone)]
pub struct Plan {
    pub programs: Programs,
    pub folder: PathBuf,
    pub seed: u64,
    pub shards: u16,
    pub tenants: Tenants,
    pub devices_per_tenant: usize,
    pub fleets: usize,
    /// A fleet's profile, TOML.
    pub profile: String,
}

#[derive(Debug, Clone, Copy)]
pub enum Tenants {
    Count(usize),
    /// As many as it takes until each shard has one; the others are not used.
    OneInEachShard,
}

#[derive(Debug, Clone)]
pub struct Tenant {
    pub shard: u16,
    pub nodes: Nodes,
}

/// The ways of one controller to everything else.
#[derive(Debug)]
pub struct Ways {
    pub etcd: Vec<Relay>,
    pub postgres: Relay,
    pub devices: Relay,
    pub peers: Relay,
}

pub struct Site {
    pub plan: Plan,
    pub etcd: EtcdServers,
    pub postgres: Arc<Mutex<OwnServer>>,
    pub controllers: Vec<Program>,
    pub ways: Vec<Ways>,
    pub fleets: Vec<Program>,
    /// With the root key.
    pub root: Nodes,
    pub tenants: Vec<Tenant>,
}

/// Controllers are named c0, c1...
pub fn name(controller: usize) -> String {
    format!("c{controller}")
}

impl Site {
    /// `None` when this machine lacks etcd or PostgreSQL, which is said.
    pub async fn start(plan: Plan) -> anyhow::Result<Option<Self>> {
        let Some(postgres) = start_postgres().await? else { return Ok(None) };
        let Some(etcd) = EtcdServers::start(ETCD_MEMBERS).await else { return Ok(None) };
        let database = postgres.database()?;
        let postgres_at = SocketAddr::from(([127, 0, 0, 1], postgres.port()));
        make_key(&plan)?;
        let (mut controllers, mut ways, mut urls) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..CONTROLLERS {
            let (program, way, url) = controller(&plan, number, &etcd, postgres_at, &database).await?;
            controllers.push(program);
            ways.push(way);
            urls.push(url);
        }
        let root = Nodes::new(urls)?;
        let postgres = Arc::new(Mutex::new(postgres));
        let mut site = Self { plan, etcd, postgres, controllers, ways, fleets: Vec::new(), root, tenants: Vec::new() };
        for number in 0..CONTROLLERS {
            site.controllers[number].start()?;
        }
        site.all_ready().await?;
        site.root = site.root.with_key(&site.root_key()?);
        site.all_led().await?;
        site.make_tenants().await?;
        site.start_fleets().await?;
        // What the harness asks goes around a controller that it has broken itself; clients have to find out.
        site.root = site.root.apart();
        Ok(Some(site))
    }

    /// What a balancer in front does with a controller that is gone, for clients and for us.
    pub fn leave_out(&self, controller: usize, out: bool) {
        self.root.leave_out(controller, out);
        self.tenants.iter().for_each(|tenant| tenant.nodes.leave_out(controller, out));
    }

    fn root_key(&self) -> anyhow::Result<String> {
        let file = |number| self.plan.folder.join(name(number)).join("root.key");
        let found = (0..CONTROLLERS).find_map(|number| std::fs::read_to_string(file(number)).ok());
        Ok(found.context("no controller has written a root key")?.trim().to_owned())
    }

    /// Waits until every controller that runs says that it is ready.
    pub async fn all_ready(&mut self) -> anyhow::Result<()> {
        for number in 0..CONTROLLERS {
            self.ready(number).await?;
        }
        Ok(())
    }

    pub async fn ready(&mut self, number: usize) -> anyhow::Result<()> {
        let until = Instant::now() + START_DEADLINE;
        while !self.root.is_ready(number).await {
            self.controllers[number].check_alive()?;
            ensure!(
                Instant::now() < until,
                "controller {number} is not ready:\n{}",
                self.controllers[number].log_tail()
            );
            tokio::time::sleep(POLL_PAUSE).await;
        }
        Ok(())
    }

    pub async fn cluster(&self) -> anyhow::Result<Value> {
        self.root.ask(&Call::get("/v1/cluster"), START_DEADLINE).await
    }

    /// Who leads each shard, as somebody who answers has heard.
    pub async fn leaders(&self) -> anyhow::Result<Vec<Option<usize>>> {
        let cluster = self.cluster().await?;
        let shards = cluster["shards"].as_array().context("no shards in the answer")?;
        let number = |leader: &str| (0..CONTROLLERS).find(|number| name(*number) == leader);
        Ok(shards.iter().map(|shard| shard["leader"].as_str().and_then(number)).collect())
    }

    /// Waits until every shard has a leader that satisfies.
    pub async fn led_by(&self, accept: impl Fn(usize) -> bool) -> anyhow::Result<Vec<usize>> {
        let until = Instant::now() + START_DEADLINE;
        loop {
            let leaders = self.leaders().await?;
            let good: Vec<usize> = leaders.iter().flatten().copied().filter(|leader| accept(*leader)).collect();
            if good.len() == usize::from(self.plan.shards) {
                return Ok(good);
            }
            ensure!(Instant::now() < until, "shards are led by {leaders:?}");
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    pub async fn all_led(&self) -> anyhow::Result<Vec<usize>> {
        self.led_by(|_| true).await
    }

    async fn make_tenants(&mut self) -> anyhow::Result<()> {
        let shards = usize::from(self.plan.shards);
        let mut served = vec![false; shards];
        let mut number = 0;
        loop {
            let enough = match self.plan.tenants {
                Tenants::Count(count) => self.tenants.len() == count,
                Tenants::OneInEachShard => self.tenants.len() == shards,
            };
            if enough {
                return Ok(());
            }
            let body = json!({ "name": format!("chaos {number}") });
            number += 1;
            let tenant = self.root.ask(&Call::post("/v1/tenants", body), START_DEADLINE).await?;
            let id = tenant["id"].as_str().context("no id in the answer")?;
            let shard = ShardId::of(TenantId::parse(id).context("a tenant's id")?, self.plan.shards).0;
            let taken = std::mem::replace(&mut served[usize::from(shard)], true);
            if taken && matches!(self.plan.tenants, Tenants::OneInEachShard) {
                continue;
            }
            let body = json!({ "name": "chaos", "scopes": ["admin"], "rate_per_min": 0 });
            let call = Call { tenant: Some(id), ..Call::post("/v1/keys", body) };
            let key = self.root.ask(&call, START_DEADLINE).await?;
            let nodes = self.root.with_key(key["secret"].as_str().context("no secret in the answer")?);
            self.tenants.push(Tenant { shard, nodes });
        }
    }

    /// The devices of all tenants, dealt out to the fleets in turn.
    async fn start_fleets(&mut self) -> anyhow::Result<()> {
        let mut codes = vec![String::new(); self.plan.fleets];
        for (number, tenant) in self.tenants.iter().enumerate() {
            for device in 0..self.plan.devices_per_tenant {
                let body = json!({ "device_name": format!("tenant {number} device {device}") });
                let enrolment = tenant.nodes.ask(&Call::post("/v1/enrollments", body), START_DEADLINE).await?;
                let codes = &mut codes[(number + device) % self.plan.fleets];
                codes.push_str(enrolment["uri"].as_str().context("no uri in the answer")?);
                codes.push('\n');
            }
        }
        let Plan { folder, profile, seed, programs, .. } = &self.plan;
        for (number, codes) in codes.iter().enumerate() {
            let fleet = Fleet { folder, number, codes, profile, seed: *seed };
            self.fleets.push(fleet.start(programs)?);
        }
        let everybody: Vec<usize> = (0..self.tenants.len()).collect();
        self.online(&everybody, START_DEADLINE).await.map(drop)
    }

    /// Waits until all devices of some tenants are online; gives how long each took.
    pub async fn online(&self, tenants: &[usize], within: Duration) -> anyhow::Result<Vec<Duration>> {
        let began = Instant::now();
        let mut waits = tokio::task::JoinSet::new();
        for tenant in tenants {
            let (nodes, expected) = (self.tenants[*tenant].nodes.clone(), self.plan.devices_per_tenant as u64);
            let tenant = *tenant;
            waits.spawn(async move {
                loop {
                    let health = nodes.ask(&Call::get("/v1/fleet/health"), within).await?;
                    let online = health["devices"]["online"].as_u64().context("no count of devices online")?;
                    if online == expected {
                        return Ok(began.elapsed());
                    }
                    ensure!(began.elapsed() < within, "{online} of {expected} devices of tenant {tenant} are online");
                    tokio::time::sleep(POLL_PAUSE).await;
                }
            });
        }
        let mut took = Vec::new();
        while let Some(done) = waits.join_next().await {
            took.push(done??);
        }
        Ok(took)
    }

    pub fn radios(&self) -> anyhow::Result<(Vec<radio_log::HandOver>, Vec<radio_log::Received>)> {
        radio_log::read_both(&radio_logs(&self.plan.folder, self.fleets.len()))
    }

    /// Nobody but us ends a process here.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        self.controllers.iter_mut().chain(&mut self.fleets).try_for_each(Program::check_alive)
    }

    /// PostgreSQL's own commands wait, so they run aside.
    pub async fn with_postgres(
        &self,
        work: impl FnOnce(&mut OwnServer) -> anyhow::Result<()> + Send + 'static,
    ) -> anyhow::Result<()> {
        let postgres = Arc::clone(&self.postgres);
        let work = move || work(&mut postgres.lock().unwrap_or_else(PoisonError::into_inner));
        tokio::task::spawn_blocking(work).await?
    }

    /// One number of a controller's metrics, summed over its labels.
    pub async fn metric(&self, controller: usize, metric: &str) -> anyhow::Result<f64> {
        let (status, text) = self.root.once(controller, &Call::get("/metrics")).await?;
        let Value::String(text) = text else { bail!("/metrics answers {status}: {text}") };
        let of = |line: &str| {
            let (name, value) = line.rsplit_once(' ')?;
            (name.split('{').next() == Some(metric)).then(|| value.parse::<f64>().ok())?
        };
        Ok(text.lines().filter_map(of).sum())
    }

    /// Ends everything in order: a process that does not end well is a finding.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        for program in self.fleets.iter_mut().chain(&mut self.controllers) {
            program.stop().await?;
        }
        Ok(())
    }

    /// The servers' own logs, beside those of the others. Their folders go with them.
    pub fn keep_logs(&self) {
        let postgres = self.postgres.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = std::fs::copy(postgres.folder().join("log"), self.plan.folder.join("postgres.log"));
        for member in 0..ETCD_MEMBERS {
            let log = format!("m{member}.log");
            let _ = std::fs::copy(self.etcd.folder().join(&log), self.plan.folder.join(format!("etcd-{log}")));
        }
        // A stopped process can be looked at; a paused one would stay.
        self.controllers.iter().for_each(|controller| drop(controller.signal(Signal::CONT)));
    }
}

async fn start_postgres() -> anyhow::Result<Option<OwnServer>> {
    match tokio::task::spawn_blocking(|| OwnServer::start(&[])).await? {
        Ok(server) => Ok(Some(server)),
        Err(error @ (OwnError::Missing | OwnError::NoUser)) => {
            ensure!(std::env::var_os("FLOTILLA_TESTS_REQUIRE_ALL").is_none_or(|value| value != "1"), "{error}");
            eprintln!("skipped: {error}");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}

fn make_key(plan: &Plan) -> anyhow::Result<()> {
    let mut command = std::process::Command::new(&plan.programs.controller);
    command.args(["cluster", "key", "--out"]).arg(plan.folder.join("cluster.key"));
    let done = command.output().context("running flotilla cluster key")?;
    ensure!(done.status.success(), "flotilla cluster key: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

/// A controller that reaches everything, and is reached by everything but clients, through relays of its own.
async fn controller(
    plan: &Plan,
    number: usize,
    etcd: &EtcdServers,
    postgres: SocketAddr,
    database: &str,
) -> anyhow::Result<(Program, Ways, String)> {
    let (http, quic, peer) = (free_tcp_address()?, free_udp_address()?, free_udp_address()?);
    let mut etcd_relays = Vec::new();
    for endpoint in etcd.endpoints() {
        let address = endpoint.rsplit('/').next().context("an endpoint without address")?;
        etcd_relays.push(Relay::tcp(address.parse()?).await?);
    }
    let ways = Ways {
        etcd: etcd_relays,
        postgres: Relay::tcp(postgres).await?,
        devices: Relay::udp(quic).await?,
        peers: Relay::udp(peer).await?,
    };
    let endpoints: Vec<String> = ways.etcd.iter().map(|relay| format!("http://{}", relay.address())).collect();
    let url = database.replace(&postgres.to_string(), &ways.postgres.address().to_string());
    ensure!(url != database, "{database} does not name {postgres}");
    let folder = plan.folder.join(name(number));
    let config = format!(
        "data_dir = {data:?}\n[http]\naddr = \"{http}\"\ndrain_s = 5\n[quic]\naddr = \"{quic}\"\ntcp_addr = \"off\"\n\
         advertise = [\"{device_relay}\"]\n[store]\nengine = \"postgres\"\nshards = {shards}\n[store.postgres]\n\
         url = \"{url}\"\n[cluster]\ncoordinator = \"etcd\"\nnode = \"{name}\"\npeer_addr = \"{peer}\"\n\
         peer_advertise = \"{peer_relay}\"\nkey_file = {key:?}\n[cluster.etcd]\nendpoints = {endpoints:?}\n",
        data = text(&folder)?,
        device_relay = ways.devices.address(),
        shards = plan.shards,
        name = name(number),
        peer_relay = ways.peers.address(),
        key = text(&plan.folder.join("cluster.key"))?,
    );
    let file = plan.folder.join(format!("{}.toml", name(number)));
    std::fs::write(&file, config)?;
    let log = plan.folder.join(format!("{}.log", name(number)));
    let program = Program::new(&plan.programs.controller, &["serve", "--config", text(&file)?], log);
    Ok((program, ways, format!("http://{http}")))
}

fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the folder's name is not UTF-8")
}

fn free_tcp_address() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

fn free_udp_address() -> anyhow::Result<SocketAddr> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?)
}
