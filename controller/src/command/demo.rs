//! `demo`: a controller with a tenant, a key and a fleet of simulated gateways in a second process. With `--failover` there is
//! an online provider behind them, and the fleet may die as often as somebody wants to watch that.

mod failover;
mod provider;

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;
use flotilla_protocol::id::{KeyId, TenantId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::files::print;
use super::serve::{StopSignals, down};
use crate::api::qr;
use crate::app::{self, Node};
use crate::ca::{read_private, write_private};
use crate::config::{Config, Http, Log, Providers, Quic};
use crate::fleet::audit::By;
use crate::fleet::devices::{DeviceFilter, DeviceState};
use crate::fleet::enrollments::{NewEnrollment, TTL_MAX_S};
use crate::fleet::keys::{self, ApiKey, Scopes, Secret};
use crate::fleet::tenants::{self, Tenant};
use crate::telemetry;

const NODE_PROGRAM: &str = "flotilla-node";
const TENANT_NAME: &str = "Demo";
const DEVICES_MAX: u32 = 100_000;
/// After being told to stop, the fleet gets this long.
const FLEET_STOP: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  flotilla demo --devices 20\n  flotilla demo --devices 1000 --json --data-dir /tmp/demo\n  flotilla demo --failover\n\n\
    Without --data-dir everything is forgotten at the end. Ctrl-C ends the controller and its fleet."
)]
pub(super) struct Demo {
    /// Simulated gateways, one SIM each; 5, or 1 with --failover, when left out
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=i64::from(DEVICES_MAX)))]
    devices: Option<u32>,
    /// A slow gateway, and an online provider behind it that this program plays: kill the gateway and watch
    #[arg(long, conflicts_with_all = ["instant", "window"])]
    failover: bool,
    /// Address of the HTTP API; 127.0.0.1:8080, or a free port, when left out
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Address for devices (UDP); 0.0.0.0:7443, or a free port, when left out
    #[arg(long, value_name = "ADDR")]
    quic: Option<SocketAddr>,
    /// Keep everything here, and go on with it the next time
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Print one line of JSON with url, key, enroll_uri, pid and fleet_pid when all is online
    #[arg(long)]
    json: bool,
    /// Radios that answer at once, for measuring
    #[arg(long, conflicts_with = "profile")]
    instant: bool,
    /// Messages that a gateway takes in at a time
    #[arg(long, conflicts_with = "profile", value_parser = clap::value_parser!(u16).range(1..=4096))]
    window: Option<u16>,
    /// How the SIMs behave, in TOML; see `flotilla-node simulate --help`
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
    /// Of all chance in the fleet
    #[arg(long)]
    seed: Option<u64>,
    /// A line for each message that is handed to a radio
    #[arg(long, value_name = "FILE")]
    radio_log: Option<PathBuf>,
}

/// What a demonstration keeps beside the controller's own files.
#[derive(Serialize, Deserialize)]
struct Kept {
    tenant: TenantId,
    key: String,
}

impl Demo {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let (dir, _forgotten) = match &self.data_dir {
            Some(dir) => (dir.clone(), None),
            None => {
                let dir = tempfile::Builder::new().prefix("flotilla-demo-").tempdir()?;
                (dir.path().to_owned(), Some(dir))
            }
        };
        let config = self.config(dir);
        telemetry::logs(&config.log)?;
        let mut stop = StopSignals::listen()?;
        let mut node = app::start(&config).await?;
        let ended = self.with_fleet(&config, &mut node, &mut stop).await;
        down(node, &mut stop).await;
        ended
    }

    fn config(&self, data_dir: PathBuf) -> Config {
        let defaults = Config::default();
        let http = self.http.unwrap_or_else(|| free_tcp(defaults.http.addr));
        let quic = self.quic.unwrap_or_else(|| free_udp(defaults.quic.addr));
        let http = match self.failover {
            // The provider has to know where its reports go before anybody listens there.
            true => {
                let addr = settled(http);
                Http { addr, public_url: Some(format!("http://{addr}")), ..defaults.http }
            }
            false => Http { addr: http, ..defaults.http },
        };
        Config {
            data_dir,
            http,
            providers: Providers { allow_private_addresses: self.failover },
            quic: Quic { addr: quic, ..defaults.quic },
            log: Log { filter: "warn".to_owned(), ..defaults.log },
            ..defaults
        }
    }

    /// Runs the fleet beside the node until somebody stops it, or one of them fails.
    async fn with_fleet(&self, config: &Config, node: &mut Node, stop: &mut StopSignals) -> anyhow::Result<()> {
        let begun = tokio::select! {
            begun = self.begin(config, node) => begun,
            () = stop.next() => return Ok(()),
        };
        let Some((mut fleet, tenant)) = begun? else {
            tokio::select! {
                () = stop.next() => return Ok(()),
                error = node.failed() => return Err(error),
            }
        };
        loop {
            tokio::select! {
                () = stop.next() => return fleet.stop().await,
                error = node.failed() => return Err(error),
                ended = fleet.child.wait() => {
                    let ended = ended?;
                    if !self.failover {
                        bail!("{NODE_PROGRAM} has ended ({ended}); its log is above");
                    }
                    print(&failover::died(ended))?;
                }
            }
            fleet = tokio::select! {
                back = self.come_back(config, node, tenant) => back?,
                () = stop.next() => return Ok(()),
            };
        }
    }

    /// The fleet that has died is started again after a while, with the identities and the outbox that it had.
    async fn come_back(&self, config: &Config, node: &Node, tenant: TenantId) -> anyhow::Result<Fleet> {
        tokio::time::sleep(failover::AWAY).await;
        let mut fleet = self.start_fleet(config, node, tenant).await?;
        fleet.online().await?;
        print(&failover::back(fleet.child.id()))?;
        Ok(fleet)
    }

    /// Up to the announcement, when everything is online. The fleet is killed if this is dropped.
    async fn begin(&self, config: &Config, node: &Node) -> anyhow::Result<Option<(Fleet, TenantId)>> {
        let kept = keep(config, node).await?;
        node.ready().await;
        if self.failover {
            failover::open_account(node, kept.tenant).await?;
        }
        let mut fleet = None;
        if self.devices() > 0 {
            let mut started = self.start_fleet(config, node, kept.tenant).await?;
            started.online().await?;
            fleet = Some(started);
        }
        self.announce(node, &kept, fleet.as_ref().and_then(|fleet| fleet.child.id())).await?;
        Ok(fleet.map(|fleet| (fleet, kept.tenant)))
    }

    fn devices(&self) -> u32 {
        self.devices.unwrap_or(if self.failover { 1 } else { 5 })
    }

    async fn start_fleet(&self, config: &Config, node: &Node, tenant: TenantId) -> anyhow::Result<Fleet> {
        let program = node_program()?;
        let dir = config.data_dir.join("fleet");
        crate::ca::ensure_private_dir(&dir)?;
        let codes = dir.join("codes");
        write_private(&codes, self.codes(node, tenant).await?.as_bytes())?;
        let mut command = Command::new(&program);
        command.arg("--data-dir").arg(&dir).args(["--log", "warn", "simulate", "--with-parent", "--json", "--codes"]);
        command.arg(&codes);
        match self.profile_file(&dir)? {
            Some(profile) => command.arg("--profile").arg(profile),
            None if self.instant => command.arg("--instant"),
            None => &mut command,
        };
        if let Some(seed) = self.seed {
            command.arg("--seed").arg(seed.to_string());
        }
        if let Some(file) = &self.radio_log {
            command.arg("--radio-log").arg(file);
        }
        // Ctrl-C in a terminal goes to the whole group; the fleet is told by us.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let stdout = child.stdout.take().context("the fleet has no output")?;
        let lifeline = child.stdin.take();
        Ok(Fleet { child, lifeline, lines: BufReader::new(stdout).lines() })
    }

    /// The profile that was named, or one made of `--window`.
    fn profile_file(&self, dir: &Path) -> anyhow::Result<Option<PathBuf>> {
        let file = dir.join("profile.toml");
        if self.failover && self.profile.is_none() {
            std::fs::write(&file, failover::SLOW_SIM)?;
            return Ok(Some(file));
        }
        let Some(window) = self.window else { return Ok(self.profile.clone()) };
        let sim = if self.instant {
            "depth = 16\nlatency = { min_ms = 0, mean_ms = 0, max_ms = 0 }\ndelivery = { min_ms = 0, mean_ms = 0, max_ms = 0 }\n"
        } else {
            ""
        };
        std::fs::write(&file, format!("[[group]]\nwindow = {window}\n[[group.sim]]\n{sim}"))?;
        Ok(Some(file))
    }

    /// Enrolment codes for the devices that are not there yet.
    async fn codes(&self, node: &Node, tenant: TenantId) -> anyhow::Result<String> {
        let mut enrolled = 0;
        let mut after = None;
        loop {
            let filter = DeviceFilter { state: Some(DeviceState::Active), after, limit: crate::fleet::LIMIT_MAX };
            let page = node.api.devices.list(tenant, filter).await?;
            enrolled += page.iter().filter(|device| device.model == "simulated").count() as u32;
            after = page.last().map(|device| device.id);
            if page.len() < crate::fleet::LIMIT_MAX as usize {
                break;
            }
        }
        let mut codes = String::new();
        for _ in enrolled..self.devices() {
            codes.push_str(&enrollment_code(node, tenant).await?);
            codes.push('\n');
        }
        Ok(codes)
    }

    async fn announce(&self, node: &Node, kept: &Kept, fleet_pid: Option<u32>) -> anyhow::Result<()> {
        let url = format!("http://{}", node.http_addr);
        let code = enrollment_code(node, kept.tenant).await?;
        if self.json {
            let line = json!({"url": url, "key": kept.key, "enroll_uri": code, "pid": std::process::id(),
                "fleet_pid": fleet_pid, "tenant": kept.tenant, "quic": node.quic_addr.to_string()});
            return print(&format!("{line}\n"));
        }
        print(&format!(
            "{qr}\nScan it with a phone, or: {NODE_PROGRAM} enroll '{code}'\n\n\
            {devices} simulated gateways are online.\n\n  url   {url}     documentation: {url}/docs\n  key   {key}\n\n\
            Send a message:\n\n  curl -s {url}/v1/messages -H 'Authorization: Bearer {key}' \\\n    \
            -H 'Content-Type: application/json' -d '{{\"to\": \"+255712345678\", \"text\": \"Hello\"}}'\n\n\
            Ctrl-C ends everything.\n",
            qr = qr::text(&code)?,
            devices = self.devices(),
            key = kept.key,
        ))?;
        if self.failover { print(&failover::invitation(&url, &kept.key, fleet_pid)) } else { Ok(()) }
    }
}

async fn enrollment_code(node: &Node, tenant: TenantId) -> anyhow::Result<String> {
    let new = NewEnrollment { tenant, ttl_s: Some(TTL_MAX_S), device_name: String::new(), actor: "cli".to_owned() };
    let (_, code) = node.api.enrollments.create(new, node.api.now_ms()).await?;
    Ok(code.to_text()?)
}

/// The demonstration's tenant and key: those of the last time, or new ones.
async fn keep(config: &Config, node: &Node) -> anyhow::Result<Kept> {
    let file = config.data_dir.join("demo.json");
    if let Some(bytes) = read_private(&file)? {
        let damaged = || format!("{} is damaged: delete it, and its data folder with it", file.display());
        return serde_json::from_slice(&bytes).with_context(damaged);
    }
    let catalog = &*node.api.stores.catalog;
    let now_ms = node.api.now_ms();
    let by = By { actor: "cli".to_owned(), at_ms: now_ms };
    let id = TenantId::new(now_ms, rand::random());
    let tenant = Tenant { id, name: TENANT_NAME.to_owned(), disabled: false, created_ms: now_ms };
    tenants::create(catalog, by.clone(), tenant).await?;
    let secret = Secret::new(rand::random());
    let key = ApiKey {
        id: KeyId::new(now_ms, rand::random()),
        tenant: Some(id),
        name: "demo".to_owned(),
        scopes: Scopes::ADMIN,
        rate_per_min: None,
        disabled: false,
        created_ms: now_ms,
        last_used_ms: None,
    };
    keys::create(catalog, by, key, secret.hash()).await?;
    let kept = Kept { tenant: id, key: secret.expose().to_owned() };
    write_private(&file, &serde_json::to_vec(&kept)?)?;
    Ok(kept)
}

/// The other process.
struct Fleet {
    child: Child,
    /// Its end tells the fleet to finish. Not left in `child`, since waiting for the process would close it.
    lifeline: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Fleet {
    /// Returns when all devices are connected.
    async fn online(&mut self) -> anyhow::Result<()> {
        #[derive(Deserialize)]
        struct Said {
            event: String,
            #[serde(default)]
            failed: u64,
        }
        while let Some(line) = self.lines.next_line().await? {
            let Ok(said) = serde_json::from_str::<Said>(&line) else { continue };
            match said.event.as_str() {
                "enrolled" if said.failed > 0 => bail!("{} simulated gateways could not enrol", said.failed),
                "online" => return Ok(()),
                _ => {}
            }
        }
        let ended = self.child.wait().await?;
        bail!("{NODE_PROGRAM} has ended before its gateways were online ({ended})");
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        drop(self.lifeline.take());
        match tokio::time::timeout(FLEET_STOP, self.child.wait()).await {
            Ok(ended) => anyhow::ensure!(ended?.success(), "{NODE_PROGRAM} did not end well"),
            Err(_) => {
                tracing::warn!("{NODE_PROGRAM} does not end, and is killed");
                self.child.kill().await?;
            }
        }
        Ok(())
    }
}

/// Beside this program, where a build or a package puts both.
fn node_program() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's own file")?;
    let beside = own.with_file_name(NODE_PROGRAM);
    if beside.is_file() {
        return Ok(beside);
    }
    bail!("{} is not there: build or install {NODE_PROGRAM} beside this program, or use --devices 0", beside.display())
}

/// The usual port, or any that is free.
fn free_tcp(usual: SocketAddr) -> SocketAddr {
    if TcpListener::bind(usual).is_ok() { usual } else { SocketAddr::new(usual.ip(), 0) }
}

/// An address with its port, which is free now.
fn settled(addr: SocketAddr) -> SocketAddr {
    TcpListener::bind(addr).and_then(|listener| listener.local_addr()).unwrap_or(addr)
}

fn free_udp(usual: SocketAddr) -> SocketAddr {
    // The fallback of the devices' links is on the same port.
    if UdpSocket::bind(usual).is_ok() && TcpListener::bind(usual).is_ok() {
        usual
    } else {
        SocketAddr::new(usual.ip(), 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_left_to_whoever_has_it() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let usual = taken.local_addr().unwrap();
        assert_eq!(free_tcp(usual).port(), 0);
        drop(taken);
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(free_udp(taken.local_addr().unwrap()).port(), 0);
    }
}
