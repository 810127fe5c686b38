//! Wiring: from a parsed command line to running parts.

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::CommandFactory;
use flotilla_protocol::enroll_code::EnrollCode;
use flotilla_protocol::id::Epoch;
use flotilla_protocol::wire::{DeviceInfo, Hello, PROTOCOL};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

use crate::agent::{self, AgentHandle, Exit, Parts, machine};
use crate::cli::{Cli, Command, ScriptedModem, Simulate};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, ConfigError, kernel, read};
use crate::enroll::enroll;
use crate::fleet::{self, Fleet, Member, Shared, software};
use crate::identity::{Identity, IdentityStore, SoftwareKeys};
use crate::link::{Links, Transport};
use crate::netwatch;
use crate::outbox::{self, Options, Outbox};
use crate::radio::modem::{Modem, scripted};
use crate::radio::simulated::{FleetProfile, Setup, SimulatedRadio};
use crate::radio::{Radio, RadioLog, RadioSet};
use crate::selftest::{self, Check, Verdict};
use crate::status::{self, NodeStatus, StatusError};
use crate::telemetry::{self, RemoteLog};

/// Before a node whose radio is gone starts it again.
const RADIO_PAUSE: Duration = Duration::from_secs(2);
const ONLINE_LOOK: Duration = Duration::from_millis(100);

/// Does what the command line says. `Ok(false)` is an answer that is not good news, such as a failed check.
pub async fn run(cli: Cli) -> anyhow::Result<bool> {
    if let Command::Completions { shell } = cli.command {
        clap_complete::generate(shell, &mut Cli::command(), "flotilla-node", &mut std::io::stdout());
        return Ok(true);
    }
    let mut config = Config::load(cli.config.as_deref())?;
    if let Some(data_dir) = cli.data_dir {
        config.data_dir = data_dir;
    }
    if let Some(level) = cli.log {
        config.log.level = level;
    }
    config.log.format = cli.log_format.unwrap_or(config.log.format);
    let remote_log = RemoteLog::default();
    let wanted = matches!(cli.command, Command::Run).then(|| remote_log.clone());
    telemetry::start(&config.log, wanted).map_err(anyhow::Error::msg)?;
    match cli.command {
        Command::Enroll { code, yes, name, json } => {
            config.name = name.or(config.name);
            enroll_here(&config, &code, yes, json).await.map(|()| true)
        }
        Command::Run => run_node(&config, &remote_log).await.map(|()| true),
        Command::Selftest { json } => selftest_here(&config, json).await,
        Command::Status { json } => show_status(&config.data_dir, json).await.map(|()| true),
        Command::Simulate(options) => simulate(&config, &options).await.map(|()| true),
        Command::ScriptedModem(options) => scripted_modem(options).await.map(|()| true),
        Command::Completions { .. } => Ok(true),
    }
}

fn identity_store(data_dir: &Path) -> IdentityStore {
    IdentityStore::new(data_dir.join("identity"), Arc::new(SoftwareKeys))
}

fn device_info(config: &Config) -> DeviceInfo {
    DeviceInfo {
        name: config.display_name(),
        model: std::env::consts::ARCH.into(),
        os: format!("{} {}", std::env::consts::OS, kernel("osrelease")),
        software: software(),
    }
}

// --- enroll -------------------------------------------------------------------------------------------------------

async fn enroll_here(config: &Config, code: &str, yes: bool, json: bool) -> anyhow::Result<()> {
    let text = match code {
        "-" => std::io::stdin().lock().lines().next().context("no code on standard input")??,
        code => code.to_owned(),
    };
    let code = EnrollCode::parse(&text)?;
    if !yes && !confirm(&code)? {
        bail!("not enrolled");
    }
    let links = Links::bind(1)?;
    let store = identity_store(&config.data_dir);
    let identity = enroll(&links, &store, &code, &device_info(config)).await?;
    links.close().await;
    let Identity { device, tenant, tenant_name, controllers, .. } = &identity;
    let not_after_s = identity.credential.not_after_s;
    if json {
        let value = serde_json::json!({
            "device": device, "tenant": tenant, "tenant_name": tenant_name, "controllers": controllers,
            "certificate_not_after_s": not_after_s,
        });
        println!("{value}");
    } else {
        println!("Enrolled as {device} of {tenant_name}. Start it with `flotilla-node run`.");
    }
    Ok(())
}

/// The person decides who will own this device, before anything is said to anybody.
fn confirm(code: &EnrollCode) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() {
        bail!("there is nobody to ask: repeat with --yes if {} at {} is right", code.tenant_name, code.controllers[0]);
    }
    println!("Owner:       {}", code.tenant_name);
    println!("Controller:  {}", code.controllers.join(", "));
    print!("The owner will send messages through this machine's SIMs. Enrol? [y/N] ");
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

// --- run ----------------------------------------------------------------------------------------------------------

async fn run_node(config: &Config, remote_log: &RemoteLog) -> anyhow::Result<()> {
    let store = identity_store(&config.data_dir);
    let identity =
        store.load()?.context("this machine is not enrolled: run `flotilla-node enroll` with a code first")?;
    let outbox = Outbox::open(&config.data_dir, Options::default())?;
    let links = Links::bind(1)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let seed = announced_seed(config.seed);
    let (handle, mut commands) = agent::handle();
    remote_log.connect(handle.clone());
    let _status = Aborted(tokio::spawn(serve_status(config.data_dir.clone(), vec![handle.clone()])));
    let _watch = identity.controllers.first().map(|controller| {
        Aborted(tokio::spawn(netwatch::watch(links.clone(), handle.clone(), clock.clone(), controller.clone())))
    });
    let _stop = Aborted(tokio::spawn(stop_on_signal(vec![handle])));
    tracing::info!(device = %identity.device, owner = identity.tenant_name, "starting");
    let exit = loop {
        let parts = Parts {
            clock: clock.clone(),
            links: links.clone(),
            outbox: outbox.clone(),
            identities: store.clone(),
            info: device_info(config),
            radio: radios(config, &identity, &clock, seed)?,
            config: machine::Config { window: config.window, ..machine::Config::default() },
            power: None,
            presence: None,
            seed: rand::random(),
        };
        match agent::run(parts, &mut commands).await? {
            Exit::RadioGone => tokio::time::sleep(RADIO_PAUSE).await,
            exit => break exit,
        }
    };
    links.close().await;
    close(outbox).await?;
    match exit {
        Exit::Revoked { detail } => bail!("this device is revoked ({detail}): ask for a new code and enrol it again"),
        Exit::Stopped | Exit::RadioGone => Ok(()),
    }
}

fn radios(config: &Config, identity: &Identity, clock: &Arc<dyn Clock>, seed: u64) -> anyhow::Result<Box<dyn Radio>> {
    let mut radios: Vec<Box<dyn Radio>> = Vec::new();
    for (modem, slot) in config.modem.iter().zip(0u8..) {
        let folder = config.data_dir.join("modems").join(modem.folder_name());
        radios.push(Box::new(Modem::start(modem, slot, &folder, clock.clone())?));
    }
    if !config.simulated.is_empty() {
        radios.push(Box::new(SimulatedRadio::new(Setup {
            device: identity.device,
            first_slot: radios.len() as u8,
            sims: config.simulated.clone().into(),
            seed,
            clock: clock.clone(),
            log: None,
        })));
    }
    if radios.is_empty() {
        return Err(ConfigError::NoRadio.into());
    }
    Ok(Box::new(RadioSet::new(radios)))
}

fn announced_seed(given: Option<u64>) -> u64 {
    let seed = given.unwrap_or_else(rand::random);
    tracing::debug!(seed, "chance of simulated SIMs");
    seed
}

async fn serve_status(data_dir: PathBuf, agents: Vec<AgentHandle>) {
    if let Err(error) = status::serve(data_dir, agents).await {
        tracing::warn!(%error, "`flotilla-node status` will not work");
    }
}

async fn stop_on_signal(agents: Vec<AgentHandle>) {
    if let Err(error) = stop_signal().await {
        tracing::warn!(%error, "signals can not be received");
        return;
    }
    tracing::info!("stopping");
    for agent in agents {
        agent.stop().await;
    }
}

async fn stop_signal() -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn close(outbox: Outbox) -> anyhow::Result<()> {
    Ok(tokio::task::spawn_blocking(move || outbox.close()).await?)
}

// --- simulate -----------------------------------------------------------------------------------------------------

async fn simulate(config: &Config, options: &Simulate) -> anyhow::Result<()> {
    let profile = match &options.profile {
        Some(path) => FleetProfile::parse(&read(path)?).with_context(|| path.display().to_string())?,
        None if options.instant => FleetProfile::instant(),
        None => FleetProfile::default(),
    };
    let data_dir = &config.data_dir;
    let links = Links::bind(usize::from(options.sockets))?;
    if let Some(path) = &options.codes {
        let codes = codes(path)?;
        let (enrolled, failed) = fleet::enroll_all(&links, data_dir, codes).await;
        for (token, error) in &failed {
            tracing::error!(%token, %error, "not enrolled");
        }
        event(options.json, "enrolled", &[("devices", enrolled), ("failed", failed.len())]);
    }
    let stores = fleet::enrolled(data_dir)?;
    if stores.is_empty() {
        bail!("no device is enrolled in {}: give their codes with --codes", data_dir.display());
    }
    let outbox = Outbox::open(data_dir, Options::fleet())?;
    let radio_log = options.radio_log.as_deref().map(RadioLog::open).transpose()?.map(Arc::new);
    let seed = options.seed.or(config.seed).unwrap_or_else(rand::random);
    eprintln!("seed {seed}");
    let presence = Arc::new(AtomicUsize::new(0));
    let shared = Shared {
        links: links.clone(),
        outbox: outbox.clone(),
        profile: Arc::new(profile),
        radio_log,
        presence: presence.clone(),
        seed,
    };
    let members: Vec<Member> = stores.into_iter().enumerate().map(|(number, store)| Member { number, store }).collect();
    let count = members.len();
    let mut fleet = Fleet::start(&shared, members);
    let _status = Aborted(tokio::spawn(serve_status(data_dir.clone(), fleet.agents.clone())));
    let json = options.json;
    let _online = Aborted(tokio::spawn(async move {
        while presence.load(Ordering::Relaxed) < count {
            tokio::time::sleep(ONLINE_LOOK).await;
        }
        event(json, "online", &[("devices", count)]);
    }));
    let ended = tokio::select! {
        ended = fleet.wait() => Some(ended),
        stopped = stop_signal() => { stopped?; None }
        () = parent_gone(), if options.with_parent => None,
    };
    match ended {
        Some(ended) => ended?,
        None => fleet.stop().await?,
    }
    drop(shared);
    links.close().await;
    close(outbox).await
}

fn codes(path: &Path) -> anyhow::Result<Vec<EnrollCode>> {
    let lines: Box<dyn BufRead> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin().lock()),
        _ => Box::new(std::io::BufReader::new(std::fs::File::open(path).with_context(|| path.display().to_string())?)),
    };
    let mut codes = Vec::new();
    for (number, line) in lines.lines().enumerate() {
        let line = line?;
        if !line.trim().is_empty() {
            codes.push(EnrollCode::parse(&line).with_context(|| format!("line {} of the codes", number + 1))?);
        }
    }
    Ok(codes)
}

fn event(json: bool, name: &str, numbers: &[(&str, usize)]) {
    let mut value = serde_json::Map::from_iter([("event".to_owned(), name.into())]);
    value.extend(numbers.iter().map(|(key, number)| ((*key).to_owned(), (*number).into())));
    if json {
        println!("{}", serde_json::Value::Object(value));
    } else {
        let words: Vec<String> = numbers.iter().map(|(key, number)| format!("{number} {key}")).collect();
        println!("{name}: {}", words.join(", "));
    }
}

async fn parent_gone() {
    let mut stdin = tokio::io::stdin();
    let mut buffer = [0; 256];
    while !matches!(stdin.read(&mut buffer).await, Ok(0) | Err(_)) {}
}

// --- scripted-modem -----------------------------------------------------------------------------------------------

async fn scripted_modem(options: ScriptedModem) -> anyhow::Result<()> {
    let ScriptedModem { profile, transcript, link, report_delay_ms } = options;
    let options = scripted::ConsoleOptions { profile, transcript, link, report_delay_ms };
    let lines = tokio::io::BufReader::new(tokio::io::stdin());
    Ok(scripted::run_console(&options, lines, std::io::stdout()).await?)
}

// --- selftest, status ---------------------------------------------------------------------------------------------

async fn selftest_here(config: &Config, json: bool) -> anyhow::Result<bool> {
    let mut checks = vec![selftest::folder(&config.data_dir), selftest::clock()];
    let (certificate, identity) = selftest::certificate(&identity_store(&config.data_dir));
    checks.push(certificate);
    if let Some(identity) = identity {
        match status::ask(&config.data_dir).await {
            Ok(status) => checks.extend(status.devices.iter().flat_map(selftest::running)),
            Err(StatusError::NotRunning(_)) => checks.extend(selftest_alone(config, &identity).await),
            Err(error) => checks.push(selftest::check("running node", Verdict::Failed, error.to_string())),
        }
    }
    let good = checks.iter().all(|check| check.verdict != Verdict::Failed);
    if json {
        println!("{}", serde_json::json!({ "ok": good, "checks": checks }));
        return Ok(good);
    }
    for check in &checks {
        let mark = match check.verdict {
            Verdict::Ok => "ok     ",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED ",
        };
        println!("{mark}  {}: {}", check.what, check.detail);
    }
    Ok(good)
}

/// Radios and controllers, where no node runs.
async fn selftest_alone(config: &Config, identity: &Identity) -> Vec<Check> {
    // Held to the end: a node would lose its session, and its modems, to this test.
    let _alone = match outbox::lock(&config.data_dir) {
        Ok(lock) => lock,
        Err(error) => return vec![selftest::check("running node", Verdict::Failed, error.to_string())],
    };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let sims = match radios(config, identity, &clock, announced_seed(config.seed)) {
        Ok(radio) => selftest::radios(radio).await,
        Err(error) => {
            let unasked = "not asked: without its radios this machine would tell them that its SIMs are gone";
            return vec![
                selftest::check("radios", Verdict::Failed, error.to_string()),
                selftest::check("controllers", Verdict::Warning, unasked),
            ];
        }
    };
    let mut checks: Vec<Check> = sims.iter().map(selftest::sim).collect();
    let info = device_info(config);
    let hello = Hello { protocol: PROTOCOL, info, device_ms: 0, window: 1, epoch_seen: Epoch(0), sims };
    checks.extend(selftest::controllers(identity, &hello).await);
    checks
}

async fn show_status(data_dir: &Path, json: bool) -> anyhow::Result<()> {
    let status = status::ask(data_dir).await?;
    if json {
        println!("{}", serde_json::to_string(&status)?);
    } else {
        print!("{}", status_text(&status));
    }
    Ok(())
}

const DEVICES_SHOWN: usize = 8;

fn status_text(status: &NodeStatus) -> String {
    let connected = status.devices.iter().filter(|device| device.line.connected).count();
    let (open, reports): (usize, usize) = (
        status.devices.iter().map(|device| device.attempts_open).sum(),
        status.devices.iter().map(|device| device.reports_open).sum(),
    );
    let mut lines = vec![format!(
        "flotilla-node {} (pid {}): {connected} of {} devices connected, {open} messages and {reports} reports open",
        status.version,
        status.pid,
        status.devices.len()
    )];
    for device in status.devices.iter().take(DEVICES_SHOWN) {
        let line = match (&device.line.controller, &device.line.last_error) {
            (Some(controller), _) => {
                let over = device.line.transport.map_or("", Transport::as_str);
                format!("connected to {controller} over {over}, {} ms", device.line.rtt_ms.unwrap_or(0))
            }
            (None, Some(error)) => format!("not connected: {error}"),
            (None, None) => "connecting".to_owned(),
        };
        lines.push(format!("{} of {}: {line}", device.device, device.tenant_name));
        for sim in &device.sims {
            let signal = sim.signal_dbm.map_or(String::new(), |dbm| format!(", {dbm} dBm"));
            lines.push(format!("  slot {}: {:?} {}{signal}", sim.slot, sim.state, sim.operator));
        }
    }
    if status.devices.len() > DEVICES_SHOWN {
        lines.push(format!("... and {} more; --json shows all", status.devices.len() - DEVICES_SHOWN));
    }
    lines.join("\n") + "\n"
}

/// An error with its causes. Many messages end with their cause already; it is not said twice.
pub fn told(error: &anyhow::Error) -> String {
    let add = |said: String, cause: String| if said.ends_with(&cause) { said } else { format!("{said}: {cause}") };
    error.chain().map(ToString::to_string).reduce(add).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let error = anyhow::Error::from(outbox::lock(&file).unwrap_err());
        let cause = error.root_cause().to_string();
        let text = told(&error.context("cannot start"));
        assert!(text.starts_with("cannot start: "), "{text}");
        assert_eq!(text.matches(&cause).count(), 1, "{text}");
    }
}
