//! One installation: controllers, tenants and the fleet of all of them, and one turn of load.

use std::fmt::Write;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use flotilla_protocol::id::{ShardId, TenantId};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::processes::{Servers, cpu_s, open_files, resident_mb};
use super::{Kind, Options};
use crate::process::Program;

const START_MAX: Duration = Duration::from_secs(120);
/// Enrolment takes some milliseconds of both cores for each device.
const ENROL_MAX: Duration = Duration::from_secs(600);
/// A turn that makes no progress for so long has failed.
const STALL: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
const IDLE_FOR: Duration = Duration::from_secs(2);
/// A controller takes 32 by default.
const UPLOADS_AT_A_TIME: usize = 24;

struct Controller {
    url: String,
    program: Program,
}

struct Tenant {
    id: String,
    key: String,
    /// Who leads its shard.
    leader: usize,
    /// Uploaded so far.
    sent: u64,
}

pub(super) struct Installation {
    pub(super) kind: Kind,
    pub(super) start_ms: f64,
    pub(super) idle_mb: Vec<f64>,
    pub(super) idle_cpu_percent: f64,
    shards: u16,
    folder: PathBuf,
    controllers: Vec<Controller>,
    fleet: Option<Program>,
    http: reqwest::Client,
    root: String,
    tenants: Vec<Tenant>,
}

/// What one turn of load has shown. Processor times are microseconds of a message.
pub(super) struct Turn {
    pub(super) accepted_per_s: f64,
    pub(super) delivered_per_s: f64,
    pub(super) controllers_us: f64,
    pub(super) fleet_us: f64,
    pub(super) postgres_us: f64,
    pub(super) forwarded_percent: f64,
}

impl Installation {
    pub(super) async fn start(kind: Kind, options: &Options, servers: &Servers) -> anyhow::Result<Self> {
        // The HTTP client wants a TLS provider even for plain connections; the first one installed wins.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(ENROL_MAX).no_proxy().build()?;
        let folder = options.folder.join(kind.to_string());
        std::fs::create_dir(&folder)?;
        let mut all = Self {
            kind,
            start_ms: 0.0,
            idle_mb: Vec::new(),
            idle_cpu_percent: 0.0,
            shards: options.shards,
            folder,
            controllers: Vec::new(),
            fleet: None,
            http,
            root: String::new(),
            tenants: Vec::new(),
        };
        let began = Instant::now();
        all.start_controllers(options, servers).await?;
        all.start_ms = began.elapsed().as_secs_f64() * 1e3;
        all.look_at_idle().await?;
        all.make_tenants(options.tenants).await?;
        if options.devices_per_tenant > 0 {
            all.start_fleet(options).await?;
        }
        Ok(all)
    }

    async fn start_controllers(&mut self, options: &Options, servers: &Servers) -> anyhow::Result<()> {
        let program = &options.programs.controller;
        let mut shared = String::new();
        if self.kind != Kind::Sqlite {
            let _ =
                write!(shared, "engine = \"postgres\"\n[store.postgres]\nurl = {:?}\n", servers.database(self.kind)?);
        }
        if self.kind == Kind::Cluster {
            let (key, etcd) = (self.folder.join("cluster.key"), servers.etcd.as_ref().context("etcd was not started")?);
            let made = std::process::Command::new(program).args(["cluster", "key", "--out"]).arg(&key).output()?;
            ensure!(made.status.success(), "flotilla cluster key: {}", String::from_utf8_lossy(&made.stderr));
            let _ = write!(shared, "[cluster.etcd]\nendpoints = {:?}\n", etcd.endpoints());
            let _ = write!(shared, "[cluster]\ncoordinator = \"etcd\"\nkey_file = {key:?}\n");
        }
        for number in 0..self.kind.controllers() {
            let (http, quic, peer) = (free_tcp()?, free_udp()?, free_udp()?);
            let (data, mut text) = (self.folder.join(format!("c{number}")), String::new());
            let _ = write!(text, "data_dir = {data:?}\n[http]\naddr = \"127.0.0.1:{http}\"\n[quic]\n");
            let _ =
                write!(text, "addr = \"127.0.0.1:{quic}\"\ntcp_addr = \"off\"\nadvertise = [\"127.0.0.1:{quic}\"]\n");
            let _ = write!(text, "[log]\nfilter = \"warn\"\n[store]\nshards = {}\n{shared}", self.shards);
            if self.kind == Kind::Cluster {
                let _ = write!(text, "node = \"c{number}\"\npeer_addr = \"127.0.0.1:{peer}\"\n");
            }
            let file = self.folder.join(format!("c{number}.toml"));
            std::fs::write(&file, text)?;
            let log = self.folder.join(format!("c{number}.log"));
            let mut program = Program::new(program, &["serve", "--config", utf8(&file)?], log);
            program.start()?;
            self.controllers.push(Controller { url: format!("http://127.0.0.1:{http}"), program });
        }
        self.all_lead().await
    }

    /// Waits until every controller is ready, leads something, and no shard is nobody's.
    async fn all_lead(&mut self) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.check_alive()?;
            if let Some(key) = self.root_key()
                && self.ready().await
            {
                self.root = key;
                let leaders = self.leaders().await?;
                let leads = |number| leaders.contains(&Some(number));
                if leaders.iter().all(Option::is_some) && (0..self.controllers.len()).all(leads) {
                    return Ok(());
                }
            }
            ensure!(began.elapsed() < START_MAX, "{} is not up in time:\n{}", self.kind, self.logs());
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    fn root_key(&self) -> Option<String> {
        let file = |number| self.folder.join(format!("c{number}/root.key"));
        let found = (0..self.controllers.len()).find_map(|number| std::fs::read_to_string(file(number)).ok());
        found.map(|key| key.trim().to_owned())
    }

    async fn ready(&self) -> bool {
        for one in &self.controllers {
            let answer = self.http.get(format!("{}/readyz", one.url)).send().await;
            if !answer.is_ok_and(|answer| answer.status().is_success()) {
                return false;
            }
        }
        true
    }

    /// Who leads each shard. Alone, the only one leads all.
    async fn leaders(&self) -> anyhow::Result<Vec<Option<usize>>> {
        if self.kind != Kind::Cluster {
            return Ok(vec![Some(0); usize::from(self.shards)]);
        }
        let cluster = self.ask(0, Method::GET, "/v1/cluster", &self.root, None, Value::Null).await?;
        let shards = cluster["shards"].as_array().context("no shards in the answer")?;
        let number = |shard: &Value| shard["leader"].as_str()?.strip_prefix('c')?.parse().ok();
        Ok(shards.iter().map(number).collect())
    }

    /// What it needs before anybody uses it.
    async fn look_at_idle(&mut self) -> anyhow::Result<()> {
        let before = self.controllers_cpu_s()?;
        tokio::time::sleep(IDLE_FOR).await;
        self.idle_cpu_percent = (self.controllers_cpu_s()? - before) / IDLE_FOR.as_secs_f64() * 100.0;
        self.idle_mb = self.memory_and_files()?.into_iter().map(|(mb, _)| mb).collect();
        Ok(())
    }

    /// As many tenants in the shards of each controller: who turns up in a full one's shard is not used.
    async fn make_tenants(&mut self, count: usize) -> anyhow::Result<()> {
        let leaders = self.leaders().await?;
        let each = count.div_ceil(self.controllers.len());
        for number in 0.. {
            if self.tenants.len() == count {
                break;
            }
            let body = json!({ "name": format!("Tenant {number}") });
            let made = self.ask(0, Method::POST, "/v1/tenants", &self.root, None, body).await?;
            let id = made["id"].as_str().context("no id in the answer")?.to_owned();
            let shard = ShardId::of(TenantId::parse(&id).context("a tenant's id")?, self.shards);
            let leader = leaders[usize::from(shard.0)].context("a shard is nobody's")?;
            if self.tenants.iter().filter(|tenant| tenant.leader == leader).count() == each {
                continue;
            }
            let body = json!({ "name": "speed", "scopes": ["admin"], "rate_per_min": 0 });
            let made = self.ask(0, Method::POST, "/v1/keys", &self.root, Some(&id), body).await?;
            let key = made["secret"].as_str().context("no secret in the answer")?.to_owned();
            self.tenants.push(Tenant { id, key, leader, sent: 0 });
        }
        // So that a third of each controller's tenants comes to it at first.
        self.tenants.sort_by_key(|tenant| tenant.leader);
        Ok(())
    }

    async fn start_fleet(&mut self, options: &Options) -> anyhow::Result<()> {
        let mut codes = String::new();
        for tenant in &self.tenants {
            for device in 0..options.devices_per_tenant {
                let body = json!({ "device_name": format!("device {device}"), "ttl_s": 3600 });
                let made = self.ask(0, Method::POST, "/v1/enrollments", &tenant.key, None, body).await?;
                codes.push_str(made["uri"].as_str().context("no uri in the answer")?);
                codes.push('\n');
            }
        }
        let file = |kind: &str| self.folder.join(format!("fleet{kind}"));
        let (data, list, profile) = (file(""), file(".codes"), file(".toml"));
        std::fs::write(&list, codes)?;
        let at_once = "{ min_ms = 0, mean_ms = 0, max_ms = 0 }";
        let window = options.window;
        std::fs::write(
            &profile,
            format!(
                "[[group]]\nwindow = {window}\n[[group.sim]]\ndepth = 16\nlatency = {at_once}\ndelivery = {at_once}\n"
            ),
        )?;
        let arguments = [
            "--data-dir",
            utf8(&data)?,
            "--log",
            "warn",
            "simulate",
            "--codes",
            utf8(&list)?,
            "--profile",
            utf8(&profile)?,
        ];
        let mut fleet = Program::new(&options.programs.node, &arguments, file(".log"));
        fleet.start()?;
        self.fleet = Some(fleet);
        self.online(options.devices_per_tenant as u64).await
    }

    async fn online(&mut self, each: u64) -> anyhow::Result<()> {
        let began = Instant::now();
        for number in 0..self.tenants.len() {
            loop {
                self.check_alive()?;
                let key = &self.tenants[number].key;
                let health = self.ask(0, Method::GET, "/v1/fleet/health", key, None, Value::Null).await?;
                if health["devices"]["online"].as_u64() == Some(each) {
                    break;
                }
                ensure!(
                    began.elapsed() < ENROL_MAX,
                    "the fleet of {} is not online: {health}\n{}",
                    self.kind,
                    self.logs()
                );
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
        Ok(())
    }

    pub(super) fn has_devices(&self) -> bool {
        self.fleet.is_some()
    }

    /// Uploads to all tenants, and waits until everything is delivered and counted.
    pub(super) async fn turn(&mut self, round: usize, messages: u64, servers: &Servers) -> anyhow::Result<Turn> {
        let each = messages / self.tenants.len() as u64;
        let sent = (each * self.tenants.len() as u64) as f64;
        let before = (self.controllers_cpu_s()?, self.fleet_cpu_s()?, servers.postgres_cpu_s()?);
        let began = Instant::now();
        let forwarded = self.upload(round, each).await?;
        let accepted = began.elapsed();
        if self.has_devices() {
            for tenant in 0..self.tenants.len() {
                self.delivered(tenant).await?;
            }
        }
        let took = began.elapsed();
        self.check_alive()?;
        let us = |before: f64, after: f64| (after - before) * 1e6 / sent;
        Ok(Turn {
            accepted_per_s: sent / accepted.as_secs_f64(),
            delivered_per_s: sent / took.as_secs_f64(),
            controllers_us: us(before.0, self.controllers_cpu_s()?),
            fleet_us: us(before.1, self.fleet_cpu_s()?),
            postgres_us: us(before.2, servers.postgres_cpu_s()?),
            forwarded_percent: forwarded as f64 * 100.0 / self.tenants.len() as f64,
        })
    }

    /// Gives how many uploads came to a controller that does not lead the tenant's shard.
    async fn upload(&mut self, round: usize, each: u64) -> anyhow::Result<usize> {
        let lines = Arc::new(lines(each));
        let (permits, mut uploads, mut forwarded) = (Arc::new(Semaphore::new(UPLOADS_AT_A_TIME)), JoinSet::new(), 0);
        for (number, tenant) in self.tenants.iter_mut().enumerate() {
            let via = (number + round) % self.controllers.len();
            forwarded += usize::from(via != tenant.leader);
            tenant.sent += each;
            let request = self.http.post(format!("{}/v1/messages/bulk", self.controllers[via].url));
            let request = request.bearer_auth(&tenant.key).header("content-type", "application/x-ndjson");
            let (lines, permits) = (Arc::clone(&lines), Arc::clone(&permits));
            uploads.spawn(async move {
                let _permit = permits.acquire().await?;
                let answer = request.body(lines.to_vec()).send().await?;
                let (status, text) = (answer.status(), answer.text().await?);
                let told: Value = serde_json::from_str(&text).unwrap_or_default();
                ensure!(told["accepted"] == each && told["rejected"] == 0, "an upload answered {status}: {text}");
                Ok(())
            });
        }
        while let Some(done) = uploads.join_next().await {
            done??;
        }
        Ok(forwarded)
    }

    /// Waits until a tenant's statistics have counted as many deliveries as there were messages.
    async fn delivered(&self, number: usize) -> anyhow::Result<()> {
        let Tenant { id, key, sent, .. } = &self.tenants[number];
        let via = number % self.controllers.len();
        let mut last = (0, Instant::now());
        loop {
            let stats = self.ask(via, Method::GET, "/v1/stats?step=total", key, None, Value::Null).await?;
            let rows = stats["rows"].as_array().context("no rows in the answer")?;
            let count: u64 = rows.iter().filter_map(|row| row["delivered"].as_u64()).sum();
            if count >= *sent {
                ensure!(count == *sent, "{count} deliveries are counted for {sent} messages of {id}");
                return Ok(());
            }
            if count > last.0 {
                last = (count, Instant::now());
            }
            ensure!(last.1.elapsed() < STALL, "{id} is stuck at {count} of {sent} deliveries:\n{}", self.logs());
            // The pace of the questions, not a wait for their answer: each answer costs a query.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn ask(
        &self,
        via: usize,
        method: Method,
        path: &str,
        key: &str,
        tenant: Option<&str>,
        body: Value,
    ) -> anyhow::Result<Value> {
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.controllers[via].url));
        request = request.bearer_auth(key);
        if let Some(tenant) = tenant {
            request = request.header("x-tenant", tenant);
        }
        if !body.is_null() {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let (status, text) = (answer.status(), answer.text().await?);
        ensure!(status.is_success(), "{method} {path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    fn pids(&self) -> impl Iterator<Item = u32> {
        self.controllers.iter().filter_map(|one| one.program.pid())
    }

    fn controllers_cpu_s(&self) -> anyhow::Result<f64> {
        self.pids().map(|pid| cpu_s(pid, 2)).sum()
    }

    fn fleet_cpu_s(&self) -> anyhow::Result<f64> {
        self.fleet.iter().filter_map(Program::pid).map(|pid| cpu_s(pid, 2)).sum()
    }

    /// Of each controller, megabytes and count.
    pub(super) fn memory_and_files(&self) -> anyhow::Result<Vec<(f64, f64)>> {
        self.pids().map(|pid| Ok((resident_mb(pid)?, open_files(pid)?))).collect()
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        let controllers = self.controllers.iter_mut().map(|one| &mut one.program);
        controllers.chain(&mut self.fleet).try_for_each(Program::check_alive)
    }

    fn logs(&self) -> String {
        let controllers = self.controllers.iter().map(|one| &one.program);
        controllers.chain(&self.fleet).map(|program| format!("---\n{}\n", program.log_tail())).collect()
    }

    pub(super) async fn stop(&mut self) -> anyhow::Result<()> {
        for program in self.fleet.iter_mut().chain(self.controllers.iter_mut().map(|one| &mut one.program)) {
            program.stop().await?;
        }
        Ok(())
    }
}

/// An upload of so many messages.
fn lines(count: u64) -> Vec<u8> {
    let mut text = String::new();
    for n in 0..count {
        let _ = writeln!(
            text,
            "{{\"to\":\"+25571{:07}\",\"text\":\"Your code is {:06}\"}}",
            n * 7919 % 10_000_000,
            n % 1_000_000
        );
    }
    text.into_bytes()
}

fn utf8(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the folder's name is not UTF-8")
}

fn free_tcp() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn free_udp() -> anyhow::Result<u16> {
    Ok(UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port())
}
