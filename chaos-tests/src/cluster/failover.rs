//! How long a client waits when a controller is killed or drained: every shard has a tenant whose client sends all the time,
//! one request after the other, through controllers that live. What counts is the time from the kill to the first answer to
//! a request that was begun after it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use rand::RngExt;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::faults;
use super::history::History;
use super::load;
use super::nodes::Nodes;
use super::site::{CONTROLLERS, Site, name};

/// Sooner than the controllers themselves give up: another one may know the new leader already.
const ATTEMPT_MAX: Duration = Duration::from_secs(1);
const PROBE_DEADLINE: Duration = Duration::from_secs(60);
/// Shards begin to come back after this long; the next kill is to find them at rest or not, as it happens.
const SETTLE: Duration = Duration::from_secs(3);

/// One answered probe.
#[derive(Debug, Clone, Copy)]
struct Probe {
    began: Instant,
    /// Of the attempt that was answered.
    attempt_began: Instant,
    ended: Instant,
    attempts: u32,
}

struct Prober {
    last: watch::Receiver<Option<Probe>>,
    all: Arc<Mutex<Vec<Probe>>>,
}

pub struct Probers {
    probers: Vec<Prober>,
    tasks: JoinSet<anyhow::Result<()>>,
    stop: watch::Sender<bool>,
}

/// Milliseconds, of all kills or drains together.
#[derive(Debug, Default)]
pub struct Measured {
    pub kills: usize,
    pub drains: usize,
    pub probes: usize,
    /// From a kill to the first answer, each tenant whose shard the dead one led.
    pub kill_outage: Vec<f64>,
    /// From a kill until all devices of such a tenant are online elsewhere.
    pub devices_back: Vec<f64>,
    /// The slowest request of each other tenant in that time.
    pub kill_others: Vec<f64>,
    /// The slowest request of each tenant whose shard was drained away.
    pub drain_slowest: Vec<f64>,
    /// Requests that were repeated during drains.
    pub drain_repeated: usize,
    /// Requests that failed in spite of repeats.
    pub failures: Vec<String>,
}

impl Probers {
    pub fn start(site: &Site, history: &Arc<History>, pause: Duration, valid_for_s: u64) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (mut probers, mut tasks) = (Vec::new(), JoinSet::new());
        for (tenant, at) in site.tenants.iter().enumerate() {
            let (told, last) = watch::channel(None);
            let all = Arc::new(Mutex::new(Vec::new()));
            probers.push(Prober { last, all: Arc::clone(&all) });
            let nodes = at.nodes.impatient(ATTEMPT_MAX);
            let (history, stopped, seed) = (Arc::clone(history), stopped.clone(), site.plan.seed);
            tasks.spawn(async move {
                for number in 0u64.. {
                    if *stopped.borrow() {
                        break;
                    }
                    let key = format!("probe-{seed}-{tenant}-{number}");
                    let probe = probe(&nodes, &history, tenant, &key, valid_for_s).await?;
                    all.lock().unwrap_or_else(PoisonError::into_inner).push(probe);
                    told.send_replace(Some(probe));
                    tokio::time::sleep_until((probe.began + pause).into()).await;
                }
                Ok(())
            });
        }
        Self { probers, tasks, stop }
    }

    /// Waits for the first answer to an attempt that was begun after a moment, of some tenants.
    async fn first_after(&mut self, moment: Instant, tenants: &[usize]) -> anyhow::Result<Vec<Probe>> {
        let mut first = Vec::new();
        for tenant in tenants {
            let last = &mut self.probers[*tenant].last;
            let later = |probe: &Option<Probe>| probe.is_some_and(|probe| probe.attempt_began >= moment);
            last.wait_for(later).await.context("a prober has ended")?;
            let all = self.probers[*tenant].all.lock().unwrap_or_else(PoisonError::into_inner);
            first.extend(all.iter().find(|probe| probe.attempt_began >= moment));
        }
        Ok(first)
    }

    /// The slowest request of each tenant that was under way in some time, and how many were repeated.
    fn slowest(&self, from: Instant, to: Instant, tenants: &[usize]) -> (Vec<f64>, usize) {
        let (mut slowest, mut repeated) = (Vec::new(), 0);
        for tenant in tenants {
            let all = self.probers[*tenant].all.lock().unwrap_or_else(PoisonError::into_inner);
            let within = || all.iter().rev().take_while(|probe| probe.ended >= from).filter(|probe| probe.began <= to);
            slowest.extend(within().map(|probe| ms(probe.ended - probe.began)).reduce(f64::max));
            repeated += within().filter(|probe| probe.attempts > 1).count();
        }
        (slowest, repeated)
    }

    async fn finish(mut self, measured: &mut Measured) -> anyhow::Result<()> {
        self.stop.send_replace(true);
        while let Some(done) = self.tasks.join_next().await {
            if let Err(error) = done? {
                measured.failures.push(format!("{error:#}"));
            }
        }
        let count = |prober: &Prober| prober.all.lock().unwrap_or_else(PoisonError::into_inner).len();
        measured.probes = self.probers.iter().map(count).sum();
        Ok(())
    }
}

async fn probe(nodes: &Nodes, history: &History, tenant: usize, key: &str, valid_for_s: u64) -> anyhow::Result<Probe> {
    let began = Instant::now();
    let to = ["+255712345678".to_owned()];
    let answer = load::send(nodes, history, tenant, &to, valid_for_s, key, PROBE_DEADLINE).await?;
    let ended = began + answer.took;
    Ok(Probe { began, attempt_began: ended - answer.last_attempt, ended, attempts: answer.attempts })
}

/// What is wanted of a measurement.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    pub kills: usize,
    pub drains: usize,
    pub probe_pause: Duration,
    pub valid_for_s: u64,
}

pub async fn measure(
    site: &mut Site,
    history: &Arc<History>,
    options: &Options,
    rng: &mut StdRng,
) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let mut probers = Probers::start(site, history, options.probe_pause, options.valid_for_s);
    for number in 0..options.kills {
        // A lease may be fresh or nearly over when its owner dies.
        tokio::time::sleep(SETTLE + Duration::from_millis(rng.random_range(0..2_000))).await;
        let line = kill(site, &mut probers, &mut measured).await.with_context(|| format!("kill {number}"))?;
        println!("kill {}: {line}", number + 1);
    }
    for number in 0..options.drains {
        tokio::time::sleep(SETTLE).await;
        let line = drain(site, &probers, &mut measured).await.with_context(|| format!("drain {number}"))?;
        println!("drain {}: {line}", number + 1);
    }
    probers.finish(&mut measured).await?;
    Ok(measured)
}

/// Who leads most shards, and the tenants of these and of the others. A shard has one tenant here.
fn busiest(site: &Site, leaders: &[usize]) -> (usize, Vec<usize>, Vec<usize>) {
    let led = |node: usize| leaders.iter().filter(|leader| **leader == node).count();
    let busiest = (0..CONTROLLERS).max_by_key(|node| led(*node)).unwrap_or(0);
    let (its, others) =
        (0..site.tenants.len()).partition(|tenant| leaders[usize::from(site.tenants[*tenant].shard)] == busiest);
    (busiest, its, others)
}

async fn kill(site: &mut Site, probers: &mut Probers, measured: &mut Measured) -> anyhow::Result<String> {
    let everybody: Vec<usize> = (0..site.tenants.len()).collect();
    site.online(&everybody, PROBE_DEADLINE).await?;
    // Just before the kill: shards come back to the one that was killed last.
    let (victim, its, others) = busiest(site, &site.all_led().await?);
    let killed = Instant::now();
    site.controllers[victim].kill().await?;
    site.leave_out(victim, true);
    let devices = site.online(&its, PROBE_DEADLINE);
    let (devices, first) = tokio::join!(devices, probers.first_after(killed, &its));
    let (devices, first) = (devices?, first?);
    let outages: Vec<f64> = first.iter().map(|probe| ms(probe.ended - killed)).collect();
    let last = first.iter().map(|probe| probe.ended).max().unwrap_or(killed);
    let (slowest, _) = probers.slowest(killed, last, &others);
    let line = format!(
        "c{victim} with {} shards; they accept again after {:.0} to {:.0} ms, devices are back after {:.0} ms at the latest",
        its.len(),
        outages.iter().copied().fold(f64::INFINITY, f64::min),
        outages.iter().copied().fold(0.0, f64::max),
        devices.iter().map(|took| ms(*took)).fold(0.0, f64::max),
    );
    measured.kills += 1;
    measured.kill_outage.extend(outages);
    measured.devices_back.extend(devices.into_iter().map(ms));
    measured.kill_others.extend(slowest);
    site.controllers[victim].start()?;
    site.ready(victim).await?;
    site.leave_out(victim, false);
    Ok(line)
}

async fn drain(site: &mut Site, probers: &Probers, measured: &mut Measured) -> anyhow::Result<String> {
    let (victim, its, _) = busiest(site, &site.all_led().await?);
    ensure!(!its.is_empty(), "{} leads nothing", name(victim));
    let began = Instant::now();
    faults::drain(site, victim, Duration::from_secs(1)).await?;
    let ended = Instant::now();
    let (slowest, repeated) = probers.slowest(began, ended, &its);
    let worst = slowest.iter().copied().fold(0.0, f64::max);
    measured.drains += 1;
    measured.drain_slowest.extend(slowest);
    measured.drain_repeated += repeated;
    Ok(format!("c{victim} with {} shards; no request took longer than {worst:.0} ms, {repeated} repeated", its.len()))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The value that a share of all does not exceed.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (share * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Measured {
    /// A table for people, milliseconds.
    pub fn table(&self) -> String {
        let rows = [
            ("killed: first answer, its shards", &self.kill_outage),
            ("killed: its devices online elsewhere", &self.devices_back),
            ("killed: slowest request, other shards", &self.kill_others),
            ("drained: slowest request, its shards", &self.drain_slowest),
        ];
        let mut text = format!("{:<40}{:>7}{:>8}{:>8}{:>8}{:>8}\n", "ms", "n", "p50", "p90", "p99", "max");
        for (what, values) in rows.into_iter().filter(|(_, values)| !values.is_empty()) {
            let [p50, p90, p99, max] = [0.5, 0.9, 0.99, 1.0].map(|share| quantile(values, share));
            text += &format!("{what:<40}{:>7}{p50:>8.0}{p90:>8.0}{p99:>8.0}{max:>8.0}\n", values.len());
        }
        text += &format!(
            "{} kills, {} drains, {} requests, {} of them repeated during drains, {} failed after all repeats",
            self.kills,
            self.drains,
            self.probes,
            self.drain_repeated,
            self.failures.len()
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!([0.5, 0.99, 1.0].map(|share| quantile(&values, share)), [50.0, 99.0, 100.0]);
        assert_eq!(quantile(&[7.0], 0.5), 7.0);
        assert!(quantile(&[], 0.5).is_nan());
    }
}
