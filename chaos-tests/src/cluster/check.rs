//! What has to hold when everything is over: each tenant's promises, radios and listings, and the statistics.

use std::collections::{BTreeMap, HashSet};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::history::{self, Promise};
use super::nodes::{Call, Nodes};
use super::site::Site;
use crate::client::Listed;
use crate::invariants::{self, Violation};
use crate::radio_log::Received;

const ANSWER_DEADLINE: Duration = Duration::from_secs(60);
const REBUILD_DEADLINE: Duration = Duration::from_secs(120);
/// Behind the validity of the last message, for what follows it.
const END_GRACE: Duration = Duration::from_secs(60);
const POLL_PAUSE: Duration = Duration::from_millis(300);

/// What was counted on the way.
#[derive(Debug, Default)]
pub struct Checked {
    pub promised: usize,
    pub hand_overs: usize,
    pub received: usize,
    pub states: BTreeMap<String, usize>,
    pub violations: Vec<Violation>,
}

fn sum(totals: &Value, counter: &str) -> u64 {
    totals["rows"].as_array().map_or(0, |rows| rows.iter().filter_map(|row| row[counter].as_u64()).sum())
}

/// A tenant's counters, once they are whole and up to date.
async fn totals(nodes: &Nodes) -> anyhow::Result<Value> {
    let until = Instant::now() + REBUILD_DEADLINE;
    loop {
        let totals = nodes.ask(&Call::get("/v1/stats?step=total"), ANSWER_DEADLINE).await?;
        if totals["complete"] == true && totals["fresh"] == true {
            return Ok(totals);
        }
        ensure!(Instant::now() < until, "the statistics stay incomplete: {totals}");
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// Waits until no message of any tenant is open any more, or until every deadline has passed.
pub async fn wait_for_the_end(site: &mut Site, valid_for_s: u64) -> anyhow::Result<()> {
    let until = Instant::now() + Duration::from_secs(valid_for_s) + END_GRACE;
    for tenant in site.tenants.clone() {
        loop {
            site.check_alive()?;
            let totals = totals(&tenant.nodes).await?;
            let ended = ["delivered", "failed", "expired", "cancelled"].map(|state| sum(&totals, state)).iter().sum();
            if sum(&totals, "accepted") <= ended || Instant::now() >= until {
                break;
            }
            tokio::time::sleep(POLL_PAUSE).await;
        }
    }
    Ok(())
}

/// What devices have stored by now; returns when it is listed, or should have been. Later ones may still be on their way when
/// the fleets are stopped.
pub async fn wait_for_inbound(site: &Site) -> anyhow::Result<Vec<Received>> {
    let (_, stored) = site.radios()?;
    let until = Instant::now() + END_GRACE;
    loop {
        let mut shown = HashSet::new();
        for tenant in &site.tenants {
            shown.extend(inbound(&tenant.nodes).await?);
        }
        if stored.iter().all(|message| shown.contains(message)) || Instant::now() >= until {
            return Ok(stored);
        }
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// All invariants. The fleets have to be stopped before: then nothing moves any more.
pub async fn all(site: &Site, history: &[Promise], stored: &[Received]) -> anyhow::Result<Checked> {
    let (hand_overs, _) = site.radios()?;
    let mut checked = Checked { hand_overs: hand_overs.len(), received: stored.len(), ..Checked::default() };
    checked.violations = invariants::nothing_is_sent_twice(&hand_overs);
    let mut shown = Vec::new();
    for (number, tenant) in site.tenants.iter().enumerate() {
        let promises = history::of_tenant(history, number);
        checked.promised += promises.len();
        let listed = messages(&tenant.nodes).await?;
        for message in &listed {
            *checked.states.entry(message.state.clone()).or_default() += 1;
        }
        let inbound = inbound(&tenant.nodes).await?;
        let totals = totals(&tenant.nodes).await?;
        let violations = &mut checked.violations;
        violations.extend(invariants::promises_are_kept(&promises, &listed));
        violations.extend(invariants::deliveries_are_real(&listed, &hand_overs));
        violations.extend(invariants::aggregates_are_exact(&totals, &listed));
        violations.extend(inbound_counted(&totals, inbound.len()));
        shown.extend(inbound);
    }
    checked.violations.extend(invariants::inbound_arrives_once(stored, &shown));
    Ok(checked)
}

/// The statistics once more, after the controllers have lost what they kept of them.
pub async fn statistics_come_back(site: &mut Site) -> anyhow::Result<Vec<Violation>> {
    for (number, controller) in site.controllers.iter_mut().enumerate() {
        controller.stop().await?;
        let folder = site.plan.folder.join(super::site::name(number)).join("stats");
        ensure!(folder.is_dir(), "no statistics at {}", folder.display());
        std::fs::remove_dir_all(&folder)?;
    }
    site.controllers.iter_mut().try_for_each(|controller| controller.start())?;
    site.all_ready().await?;
    site.all_led().await?;
    let mut violations = Vec::new();
    for tenant in &site.tenants {
        let (listed, inbound) = (messages(&tenant.nodes).await?, inbound(&tenant.nodes).await?);
        let totals = totals(&tenant.nodes).await?;
        violations.extend(invariants::aggregates_are_exact(&totals, &listed));
        violations.extend(inbound_counted(&totals, inbound.len()));
    }
    Ok(violations)
}

fn inbound_counted(totals: &Value, listed: usize) -> Option<Violation> {
    let (aggregates, store) = (sum(totals, "inbound"), listed as u64);
    (aggregates != store).then(|| Violation::Miscounted { counter: "inbound".into(), aggregates, store })
}

async fn messages(nodes: &Nodes) -> anyhow::Result<Vec<Listed>> {
    let items = nodes.list("/v1/messages", ANSWER_DEADLINE).await?;
    items.into_iter().map(|item| serde_json::from_value(item).context("reading a message")).collect()
}

async fn inbound(nodes: &Nodes) -> anyhow::Result<Vec<Received>> {
    let items = nodes.list("/v1/inbound", ANSWER_DEADLINE).await?;
    let field = |item: &Value, name: &str| item[name].as_str().map(str::to_owned);
    let read = |item: &Value| Some(Received { device: field(item, "device")?, from: field(item, "from")? });
    items.iter().map(|item| read(item).context("an inbound message without device or sender")).collect()
}
