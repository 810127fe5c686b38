//! What is done to a cluster while clients send: drawn from a seed, printed before it begins, and one at a time, though often
//! before the last one is over.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use reqwest::StatusCode;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::nodes::Call;
use super::site::{CONTROLLERS, Site, name};

const API_DEADLINE: Duration = Duration::from_secs(60);
/// A controller hands its shards over, finishes requests, and writes what it has.
const STOP_DEADLINE: Duration = Duration::from_secs(90);
/// Two leases of 2 s and what a busy machine adds.
const BEYOND_THE_LEASE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `kill -9`, and started again.
    KillController,
    /// SIGSTOP until others lead its shards, then SIGCONT: it wakes up with commits in its hands.
    PauseController,
    KillEtcdLeader,
    PauseEtcdLeader,
    StopAllEtcd,
    RestartPostgresFast,
    CrashPostgres,
    KillFleet,
    /// SIGTERM and start, one controller after the other.
    RollingRestart,
    Drain,
    MoveShards,
    CutFromEtcd,
    CutFromPostgres,
    CutFromDevices,
    CutFromPeers,
}

pub const KINDS: [Kind; 15] = [
    Kind::KillController,
    Kind::PauseController,
    Kind::KillEtcdLeader,
    Kind::PauseEtcdLeader,
    Kind::StopAllEtcd,
    Kind::RestartPostgresFast,
    Kind::CrashPostgres,
    Kind::KillFleet,
    Kind::RollingRestart,
    Kind::Drain,
    Kind::MoveShards,
    Kind::CutFromEtcd,
    Kind::CutFromPostgres,
    Kind::CutFromDevices,
    Kind::CutFromPeers,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// A controller or a fleet, whichever the kind is about.
    pub victim: usize,
    pub lasts: Duration,
    /// Between the end of the last one and this one.
    pub after: Duration,
    /// Whether the cluster has to be well before it begins.
    pub waits: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, victim, lasts, .. } = self;
        match kind {
            Kind::KillEtcdLeader | Kind::PauseEtcdLeader | Kind::StopAllEtcd => write!(f, "{kind:?} for {lasts:.1?}"),
            Kind::RestartPostgresFast | Kind::CrashPostgres => write!(f, "{kind:?}, down for {lasts:.1?}"),
            Kind::RollingRestart | Kind::MoveShards => write!(f, "{kind:?}"),
            Kind::KillFleet => write!(f, "{kind:?} {victim}, down for {lasts:.1?}"),
            _ => write!(f, "{kind:?} c{victim} for {lasts:.1?}"),
        }
    }
}

/// Each round has every kind once, in an order of its own.
pub fn schedule(seed: u64, rounds: usize, kinds: &[Kind], fleets: usize) -> Vec<Fault> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut faults = Vec::new();
    for _ in 0..rounds {
        let mut round = kinds.to_vec();
        round.shuffle(&mut rng);
        faults.extend(round.into_iter().map(|kind| draw(kind, fleets, &mut rng)));
    }
    faults
}

fn draw(kind: Kind, fleets: usize, rng: &mut StdRng) -> Fault {
    let lasts_ms = match kind {
        Kind::KillController | Kind::KillFleet => rng.random_range(100..3_000),
        Kind::PauseController | Kind::CutFromEtcd => rng.random_range(5_000..7_000),
        Kind::StopAllEtcd => rng.random_range(2_000..6_000),
        Kind::RollingRestart | Kind::MoveShards => 0,
        _ => rng.random_range(500..4_000),
    };
    let victims = if kind == Kind::KillFleet { fleets } else { CONTROLLERS };
    Fault {
        kind,
        victim: rng.random_range(0..victims),
        lasts: Duration::from_millis(lasts_ms),
        after: Duration::from_millis(rng.random_range(200..1_200)),
        waits: rng.random_bool(0.7),
    }
}

/// When it happened, for the clients' view of it.
#[derive(Debug, Clone, Copy)]
pub struct Inflicted {
    pub fault: Fault,
    pub began: Instant,
    pub ended: Instant,
}

pub async fn inflict_all(site: &mut Site, faults: &[Fault]) -> anyhow::Result<Vec<Inflicted>> {
    let mut done = Vec::new();
    for fault in faults {
        tokio::time::sleep(fault.after).await;
        if fault.waits {
            site.all_ready().await?;
            site.all_led().await?;
        }
        site.check_alive()?;
        println!("{fault}{}", if fault.waits { "" } else { " (without waiting for the last one's end)" });
        let began = Instant::now();
        inflict(site, *fault).await.with_context(|| fault.to_string())?;
        done.push(Inflicted { fault: *fault, began, ended: Instant::now() });
    }
    site.all_ready().await?;
    site.all_led().await?;
    Ok(done)
}

async fn inflict(site: &mut Site, Fault { kind, victim, lasts, .. }: Fault) -> anyhow::Result<()> {
    match kind {
        Kind::KillController => {
            site.controllers[victim].kill().await?;
            tokio::time::sleep(lasts).await;
            site.controllers[victim].start()
        }
        Kind::PauseController => pause_controller(site, victim, lasts).await,
        Kind::KillFleet => {
            site.fleets[victim].kill().await?;
            tokio::time::sleep(lasts).await;
            site.fleets[victim].start()
        }
        Kind::KillEtcdLeader => {
            let leader = site.etcd.leader().await;
            site.etcd.kill(leader);
            tokio::time::sleep(lasts).await;
            site.etcd.restart(leader);
            site.etcd.ready(leader).await;
            Ok(())
        }
        Kind::PauseEtcdLeader => {
            let leader = site.etcd.leader().await;
            site.etcd.pause(leader);
            tokio::time::sleep(lasts).await;
            site.etcd.resume(leader);
            Ok(())
        }
        Kind::StopAllEtcd => {
            let members = site.etcd.endpoints().len();
            (0..members).for_each(|member| site.etcd.kill(member));
            tokio::time::sleep(lasts).await;
            (0..members).for_each(|member| site.etcd.restart(member));
            for member in 0..members {
                site.etcd.ready(member).await;
            }
            Ok(())
        }
        Kind::RestartPostgresFast => restart_postgres(site, lasts).await,
        Kind::CrashPostgres => {
            site.with_postgres(move |postgres| {
                postgres.crash()?;
                std::thread::sleep(lasts);
                Ok(postgres.restart()?)
            })
            .await
        }
        Kind::RollingRestart => rolling_restart(site).await,
        Kind::Drain => drain(site, victim, lasts).await,
        Kind::MoveShards => move_shards(site, victim).await,
        Kind::CutFromEtcd => {
            site.ways[victim].etcd.iter().for_each(|relay| relay.cut(true));
            let others = led_by_others(site, victim, lasts).await;
            site.ways[victim].etcd.iter().for_each(|relay| relay.cut(false));
            others
        }
        Kind::CutFromPostgres => {
            site.ways[victim].postgres.cut(true);
            tokio::time::sleep(lasts).await;
            site.ways[victim].postgres.cut(false);
            Ok(())
        }
        Kind::CutFromDevices => {
            site.ways[victim].devices.cut(true);
            tokio::time::sleep(lasts).await;
            site.ways[victim].devices.cut(false);
            Ok(())
        }
        Kind::CutFromPeers => {
            site.ways[victim].peers.cut(true);
            tokio::time::sleep(lasts).await;
            site.ways[victim].peers.cut(false);
            Ok(())
        }
    }
}

/// Waits at least as long as said, and until nothing is led by the victim any more, as the others see it.
async fn led_by_others(site: &Site, victim: usize, lasts: Duration) -> anyhow::Result<()> {
    let began = Instant::now();
    site.root.leave_out(victim, true);
    tokio::time::sleep(lasts.max(BEYOND_THE_LEASE)).await;
    let led = site.led_by(|leader| leader != victim).await.map(drop);
    site.root.leave_out(victim, false);
    tracing::info!(took = ?began.elapsed(), "others lead what was led by {}", name(victim));
    led
}

async fn pause_controller(site: &Site, victim: usize, lasts: Duration) -> anyhow::Result<()> {
    site.controllers[victim].signal(Signal::STOP)?;
    let others = led_by_others(site, victim, lasts).await;
    site.controllers[victim].signal(Signal::CONT)?;
    others
}

/// As an operator does it: connections are ended, nothing is lost, and a new server comes.
async fn restart_postgres(site: &Site, lasts: Duration) -> anyhow::Result<()> {
    site.with_postgres(move |postgres| {
        let pid = i32::try_from(postgres.pid()?).ok().and_then(Pid::from_raw).context("PostgreSQL's process")?;
        kill_process(pid, Signal::INT)?;
        let until = Instant::now() + API_DEADLINE;
        while postgres.pid().is_ok() {
            ensure!(Instant::now() < until, "PostgreSQL does not stop");
            std::thread::sleep(Duration::from_millis(20));
        }
        std::thread::sleep(lasts);
        Ok(postgres.restart()?)
    })
    .await
}

async fn rolling_restart(site: &mut Site) -> anyhow::Result<()> {
    for number in 0..CONTROLLERS {
        let stopped = tokio::time::timeout(STOP_DEADLINE, site.controllers[number].stop()).await;
        stopped.with_context(|| format!("{} does not end after SIGTERM", name(number)))??;
        site.controllers[number].start()?;
        site.ready(number).await?;
        site.all_led().await?;
    }
    Ok(())
}

async fn post(site: &Site, path: &str, body: serde_json::Value) -> anyhow::Result<()> {
    site.root.ask(&Call::post(path, body), API_DEADLINE).await.map(drop)
}

/// A controller that was killed just before is not yet a member again: then it answers that there is no such one.
async fn until_member(site: &Site, victim: usize) -> anyhow::Result<()> {
    let until = Instant::now() + API_DEADLINE;
    loop {
        let cluster = site.cluster().await?;
        let members = cluster["members"].as_array().context("no members in the answer")?;
        if members.iter().any(|member| member["name"] == name(victim)) {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{} does not come back: {}", name(victim), StatusCode::NOT_FOUND);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

pub async fn drain(site: &Site, victim: usize, lasts: Duration) -> anyhow::Result<()> {
    until_member(site, victim).await?;
    post(site, &format!("/v1/cluster/nodes/{}/drain", name(victim)), json!({})).await?;
    site.led_by(|leader| leader != victim).await?;
    tokio::time::sleep(lasts).await;
    post(site, &format!("/v1/cluster/nodes/{}/resume", name(victim)), json!({})).await
}

/// Every third shard is tied to one controller, then all are set free.
async fn move_shards(site: &Site, to: usize) -> anyhow::Result<()> {
    until_member(site, to).await?;
    let moved: Vec<u16> = (0..site.plan.shards).step_by(3).collect();
    for shard in &moved {
        post(site, &format!("/v1/cluster/shards/{shard}/move"), json!({ "to": name(to) })).await?;
    }
    let until = Instant::now() + API_DEADLINE;
    loop {
        let leaders = site.leaders().await?;
        if moved.iter().all(|shard| leaders[usize::from(*shard)] == Some(to)) {
            break;
        }
        ensure!(Instant::now() < until, "shards {moved:?} do not move to {}: {leaders:?}", name(to));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for shard in &moved {
        post(site, &format!("/v1/cluster/shards/{shard}/move"), json!({ "to": null })).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule_with_every_kind_in_each_round() {
        let faults = schedule(7, 2, &KINDS, 2);
        assert_eq!(faults, schedule(7, 2, &KINDS, 2));
        assert_ne!(faults, schedule(8, 2, &KINDS, 2));
        for round in faults.chunks(KINDS.len()) {
            let mut kinds: Vec<Kind> = round.iter().map(|fault| fault.kind).collect();
            kinds.sort();
            assert_eq!(kinds, KINDS);
        }
        assert!(faults.iter().all(|fault| fault.kind != Kind::KillFleet || fault.victim < 2));
    }
}
