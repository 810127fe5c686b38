//! A whole cluster as processes: three members of etcd, a PostgreSQL, three controllers and fleets, all on loopback, with
//! relays between them that can be cut.
//!
//! `site` starts them, `load` sends through `nodes` and keeps a `history`, `faults` breaks things as a seed says, `failover`
//! measures what clients see of a kill or a drain, and `check` compares everything at the end.
//!
//! Parts of the network are cut by `relay`, not by network namespaces: see there why.

pub mod check;
pub mod failover;
pub mod faults;
pub mod history;
pub mod load;
pub mod nodes;
pub mod relay;
pub mod site;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::check::Checked;
use self::failover::Measured;
use self::faults::{Fault, Inflicted};
use self::history::History;
use self::load::{Load, Request};
use self::site::{Plan, Site, Tenants};
use crate::fleet;
use crate::invariants::Violation;
use crate::process::Programs;

const SHARDS: u16 = 12;

#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub programs: Programs,
    /// Logs and data; kept by the caller when something was found.
    pub folder: PathBuf,
    pub tenants: usize,
    pub devices_per_tenant: usize,
    pub fleets: usize,
    pub messages_per_s: f64,
    /// Seconds after its acceptance by which a message has ended.
    pub valid_for_s: u64,
    pub faults: Vec<Fault>,
}

/// What a run saw.
#[derive(Debug)]
pub struct Outcome {
    pub checked: Checked,
    pub faults: usize,
    pub requests: usize,
    pub repeated: usize,
    pub slowest: Duration,
    pub took: Duration,
}

const INBOUND_PER_HOUR: u32 = 400;

/// Quick SIMs that never fail.
const PROBED_PROFILE: &str = r#"
[[group]]
count = 1
window = 64
[[group.sim]]
depth = 8
latency = { min_ms = 2, mean_ms = 10, max_ms = 100 }
delivery = { min_ms = 5, mean_ms = 50, max_ms = 500 }
"#;

/// Faults under load, then every check. `None` when this machine lacks etcd or PostgreSQL.
pub async fn run(options: &Options) -> anyhow::Result<Option<Outcome>> {
    let began = Instant::now();
    let plan = Plan {
        programs: options.programs.clone(),
        folder: options.folder.clone(),
        seed: options.seed,
        shards: SHARDS,
        tenants: Tenants::Count(options.tenants),
        devices_per_tenant: options.devices_per_tenant,
        fleets: options.fleets,
        profile: fleet::troubled(INBOUND_PER_HOUR),
    };
    let Some(mut site) = Site::start(plan).await? else { return Ok(None) };
    println!("the cluster is up after {:.1?}", began.elapsed());
    let outcome = under_faults(&mut site, options, began).await;
    site.keep_logs();
    outcome.map(Some)
}

async fn under_faults(site: &mut Site, options: &Options, began: Instant) -> anyhow::Result<Outcome> {
    let history = Arc::new(History::create(options.folder.join("history"))?);
    let load =
        load::Options { seed: options.seed, messages_per_s: options.messages_per_s, valid_for_s: options.valid_for_s };
    let load = Load::start(&site.tenants, &history, &load);
    let inflicted = faults::inflict_all(site, &options.faults).await;
    let seen = load.finish().await?;
    let inflicted = inflicted?;
    println!("{}", clients_view(&inflicted, &seen.requests));
    check::wait_for_the_end(site, options.valid_for_s).await.context("waiting for the last messages")?;
    let mut checked = finish(site, &history).await?;
    checked.violations.extend(seen.failures.into_iter().map(|detail| Violation::NotAnswered { detail }));
    Ok(Outcome {
        checked,
        faults: inflicted.len(),
        requests: seen.requests.len(),
        repeated: seen.requests.iter().filter(|request| request.attempts > 1).count(),
        slowest: seen.requests.iter().map(|request| request.took).max().unwrap_or_default(),
        took: began.elapsed(),
    })
}

/// Ends the fleets, checks everything, ends the controllers.
async fn finish(site: &mut Site, history: &History) -> anyhow::Result<Checked> {
    history.sync()?;
    let stored = check::wait_for_inbound(site).await?;
    for fleet in &mut site.fleets {
        fleet.stop().await?;
    }
    let mut checked = check::all(site, &history::read(history.path())?, &stored).await?;
    checked.violations.extend(check::statistics_come_back(site).await?);
    site.stop().await?;
    Ok(checked)
}

/// For each fault: how its time looked to clients.
fn clients_view(inflicted: &[Inflicted], requests: &[Request]) -> String {
    let mut text = format!("{:<44}{:>8}{:>10}{:>10}{:>13}\n", "while", "s", "requests", "repeated", "slowest, ms");
    for Inflicted { fault, began, ended } in inflicted {
        let within =
            || requests.iter().filter(|request| request.began <= *ended && request.began + request.took >= *began);
        let repeated = within().filter(|request| request.attempts > 1).count();
        let slowest = within().map(|request| request.took.as_millis()).max().unwrap_or(0);
        let (took, count) = ((*ended - *began).as_secs_f64(), within().count());
        text += &format!("{:<44}{took:>8.1}{count:>10}{repeated:>10}{slowest:>13}\n", fault.to_string());
    }
    text.truncate(text.trim_end().len());
    text
}

/// Only the measurement of kills and drains, and the checks of its own messages.
pub async fn failover(
    options: &Options,
    measurement: &failover::Options,
) -> anyhow::Result<Option<(Measured, Checked)>> {
    let plan = Plan {
        programs: options.programs.clone(),
        folder: options.folder.clone(),
        seed: options.seed,
        shards: SHARDS,
        tenants: Tenants::OneInEachShard,
        devices_per_tenant: options.devices_per_tenant,
        fleets: options.fleets,
        profile: PROBED_PROFILE.to_owned(),
    };
    let Some(mut site) = Site::start(plan).await? else { return Ok(None) };
    println!("the cluster is up");
    let done = measured(&mut site, options, measurement).await;
    site.keep_logs();
    done.map(Some)
}

async fn measured(
    site: &mut Site,
    options: &Options,
    measurement: &failover::Options,
) -> anyhow::Result<(Measured, Checked)> {
    let history = Arc::new(History::create(options.folder.join("history"))?);
    let mut rng = StdRng::seed_from_u64(options.seed);
    let measured = failover::measure(site, &history, measurement, &mut rng).await?;
    println!("{}", measured.table());
    check::wait_for_the_end(site, measurement.valid_for_s).await.context("waiting for the last messages")?;
    let mut checked = finish(site, &history).await?;
    let failures = measured.failures.iter().cloned();
    checked.violations.extend(failures.map(|detail| Violation::NotAnswered { detail }));
    Ok((measured, checked))
}
