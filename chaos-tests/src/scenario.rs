//! One controller, some fleets, clients that send, and a hand that kills: then every invariant is checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::client::{Client, Listed};
use crate::fleet::{self, Fleet, radio_logs, troubled};
use crate::invariants::{self, Violation};
use crate::process::{Program, Programs};
use crate::promises::Promises;
use crate::radio_log;

#[derive(Debug, Clone)]
pub struct Options {
    pub messages: usize,
    pub controller_kills: usize,
    pub fleets: usize,
    pub devices_per_fleet: usize,
    pub fleet_kills: usize,
    /// Every message ends by then: seconds after its acceptance.
    pub valid_for_s: u64,
    pub seed: u64,
    pub programs: Programs,
    /// Logs and data; kept by the caller when something was found.
    pub folder: PathBuf,
}

/// What a run saw.
#[derive(Debug)]
pub struct Outcome {
    pub promised: usize,
    pub hand_overs: usize,
    /// How many messages ended in each state.
    pub states: Vec<(String, usize)>,
    pub controller_kills: usize,
    pub fleet_kills: usize,
    pub violations: Vec<Violation>,
    pub took: Duration,
}

const RECIPIENTS_PER_REQUEST: usize = 20;
const SENDERS: usize = 16;
const START_DEADLINE: Duration = Duration::from_secs(60);
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);
/// Behind the validity of the last message, for what follows it.
const END_GRACE: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(500);

pub async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(options.seed);
    let mut site = Site::start(options).await?;
    let (progress, seen) = watch::channel(0);
    let sending = tokio::spawn(send_all(site.client.clone(), options.clone(), progress));
    let (controller_kills, fleet_kills) = break_things(&mut site, options, seen, &mut rng).await?;
    let promises = sending.await??;
    let listed = site.wait_for_the_end(options).await?;

    let hand_overs = radio_log::read_all(&radio_logs(&site.folder, site.fleets.len()))?;
    let mut violations = invariants::promises_are_kept(&promises, &listed);
    violations.extend(invariants::nothing_is_sent_twice(&hand_overs));
    violations.extend(invariants::deliveries_are_real(&listed, &hand_overs));
    violations.extend(invariants::aggregates_are_exact(&site.client.totals().await?, &listed));
    site.restart_without_aggregates().await?;
    violations.extend(invariants::aggregates_are_exact(&site.complete_totals().await?, &listed));
    site.stop().await?;
    Ok(Outcome {
        promised: promises.len(),
        hand_overs: hand_overs.len(),
        states: count_states(&listed),
        controller_kills,
        fleet_kills,
        violations,
        took: start.elapsed(),
    })
}

fn count_states(listed: &[Listed]) -> Vec<(String, usize)> {
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for message in listed {
        *counts.entry(message.state.clone()).or_default() += 1;
    }
    counts.into_iter().collect()
}

/// All clients: each request is repeated under its own key until it is answered.
async fn send_all(client: Client, options: Options, progress: watch::Sender<usize>) -> anyhow::Result<Promises> {
    let requests = options.messages.div_ceil(RECIPIENTS_PER_REQUEST);
    let (next, progress) = (Arc::new(AtomicUsize::new(0)), Arc::new(progress));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (client, next, progress, options) = (client.clone(), next.clone(), progress.clone(), options.clone());
        senders.spawn(async move {
            let mut answered = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return anyhow::Ok(answered);
                }
                let key = format!("chaos-{}-{number}", options.seed);
                let count = RECIPIENTS_PER_REQUEST.min(options.messages - number * RECIPIENTS_PER_REQUEST);
                let to: Vec<String> = (0..count)
                    .map(|i| format!("+25571{:07}", (number * RECIPIENTS_PER_REQUEST + i) % 10_000_000))
                    .collect();
                let until = Instant::now() + REQUEST_DEADLINE;
                let ids = client.send(&to, &format!("chaos {number}"), options.valid_for_s, &key, until).await?;
                ensure!(ids.len() == count, "{} ids for {count} recipients", ids.len());
                progress.send_modify(|sum| *sum += count);
                answered.push((key, ids));
            }
        });
    }
    let mut promises = Promises::default();
    while let Some(done) = senders.join_next().await {
        for (key, ids) in done?? {
            promises.add(&key, &ids);
        }
    }
    Ok(promises)
}

/// What is killed, and after how many promises.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Controller,
    Fleet(usize),
}

async fn break_things(
    site: &mut Site,
    options: &Options,
    mut seen: watch::Receiver<usize>,
    rng: &mut StdRng,
) -> anyhow::Result<(usize, usize)> {
    let mut plan: Vec<(usize, Victim)> = Vec::new();
    // Kills of the controller are spread over the run; a fleet dies anywhere.
    for n in 0..options.controller_kills {
        let slice = options.messages / (options.controller_kills + 1);
        plan.push((slice * n + rng.random_range(slice / 4..=slice), Victim::Controller));
    }
    for _ in 0..options.fleet_kills {
        plan.push((rng.random_range(0..options.messages * 9 / 10), Victim::Fleet(rng.random_range(0..options.fleets))));
    }
    plan.sort_by_key(|(at, _)| *at);
    let mut kills = (0, 0);
    for (at, victim) in plan {
        // The sender half goes away only when all is sent.
        if seen.wait_for(|promised| *promised >= at).await.is_err() {
            break;
        }
        site.check_alive()?;
        let down = Duration::from_millis(rng.random_range(0..400));
        match victim {
            Victim::Controller => kills.0 += 1,
            Victim::Fleet(_) => kills.1 += 1,
        }
        site.kill_and_restart(victim, down).await?;
        tracing::info!(?victim, at, "killed and started again");
    }
    Ok(kills)
}

/// The processes of a run.
struct Site {
    controller: Program,
    fleets: Vec<Program>,
    client: Client,
    data: PathBuf,
    folder: PathBuf,
}

impl Site {
    async fn start(options: &Options) -> anyhow::Result<Self> {
        let programs = &options.programs;
        let folder = options.folder.clone();
        let data = folder.join("controller");
        let (http, quic) = (free_tcp_address()?, free_udp_address()?);
        let arguments = ["serve", "--data-dir", path(&data)?, "--http", &http, "--quic", &quic];
        let mut controller = Program::new(&programs.controller, &arguments, folder.join("controller.log"));
        controller.start()?;
        let anonymous = Client::new(&format!("http://{http}"), "")?;
        anonymous.ready(START_DEADLINE).await.with_context(|| controller.log_tail())?;
        let root = anonymous.with_key(std::fs::read_to_string(data.join("root.key"))?.trim());
        let tenant = root.call(Method::POST, "/v1/tenants", Some(json!({ "name": "chaos" }))).await?;
        let body = json!({ "name": "chaos", "scopes": ["admin"], "rate_per_min": 0 });
        let tenant = tenant["id"].as_str().context("no id in the answer")?;
        let key = root.in_tenant(tenant).call(Method::POST, "/v1/keys", Some(body)).await?;
        let client = root.with_key(key["secret"].as_str().context("no secret in the answer")?);

        let mut site = Self { controller, fleets: Vec::new(), client, data, folder };
        for n in 0..options.fleets {
            site.add_fleet(programs, n, options).await?;
        }
        let (client, devices) = (site.client.clone(), options.fleets * options.devices_per_fleet);
        fleet::wait_until_online(&client, devices, || site.check_alive()).await?;
        Ok(site)
    }

    async fn add_fleet(&mut self, programs: &Programs, n: usize, options: &Options) -> anyhow::Result<()> {
        let names = (0..options.devices_per_fleet).map(|device| format!("fleet {n} device {device}"));
        let codes = fleet::invite(&self.client, names).await?;
        let profile = troubled(0);
        let fleet = Fleet { folder: &self.folder, number: n, codes: &codes, profile: &profile, seed: options.seed };
        self.fleets.push(fleet.start(programs)?);
        Ok(())
    }

    fn check_alive(&mut self) -> anyhow::Result<()> {
        self.controller.check_alive()?;
        self.fleets.iter_mut().try_for_each(Program::check_alive)
    }

    async fn kill_and_restart(&mut self, victim: Victim, down: Duration) -> anyhow::Result<()> {
        let program = match victim {
            Victim::Controller => &mut self.controller,
            Victim::Fleet(n) => &mut self.fleets[n],
        };
        program.kill().await?;
        tokio::time::sleep(down).await;
        program.start()
    }

    /// Waits until no message is open any more, or until every deadline has passed.
    async fn wait_for_the_end(&mut self, options: &Options) -> anyhow::Result<Vec<Listed>> {
        let until = Instant::now() + Duration::from_secs(options.valid_for_s) + END_GRACE;
        loop {
            self.check_alive()?;
            let stats = self.client.totals().await?;
            let sum = |name: &str| -> u64 {
                stats["rows"].as_array().map_or(0, |rows| rows.iter().filter_map(|row| row[name].as_u64()).sum())
            };
            let ended = sum("delivered") + sum("failed") + sum("expired") + sum("cancelled");
            if ended >= sum("accepted") || Instant::now() >= until {
                return self.client.list_all().await;
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    /// The aggregates have to come back from the store alone.
    async fn restart_without_aggregates(&mut self) -> anyhow::Result<()> {
        self.controller.stop().await?;
        let aggregates = self.data.join("stats");
        ensure!(aggregates.is_dir(), "no aggregates at {}", aggregates.display());
        std::fs::remove_dir_all(&aggregates)?;
        self.controller.start()?;
        self.client.ready(START_DEADLINE).await
    }

    async fn complete_totals(&mut self) -> anyhow::Result<serde_json::Value> {
        let until = Instant::now() + START_DEADLINE;
        loop {
            let totals = self.client.totals().await?;
            if totals["complete"] == true {
                return Ok(totals);
            }
            ensure!(Instant::now() < until, "the aggregates are not rebuilt");
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }

    async fn stop(&mut self) -> anyhow::Result<()> {
        for fleet in &mut self.fleets {
            fleet.stop().await?;
        }
        self.controller.stop().await
    }
}

pub(crate) fn path(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("the folder's name is not UTF-8")
}

pub(crate) fn free_tcp_address() -> anyhow::Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

pub(crate) fn free_udp_address() -> anyhow::Result<String> {
    // The controller takes the same port for TCP.
    loop {
        let address = std::net::UdpSocket::bind("127.0.0.1:0")?.local_addr()?;
        if std::net::TcpListener::bind(address).is_ok() {
            return Ok(address.to_string());
        }
    }
}
