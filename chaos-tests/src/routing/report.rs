//! Where the messages of a run went, what went wrong with them, and how long they took to get away from what failed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use reqwest::Method;
use tokio::task::JoinSet;

use super::failover::{Failover, Traced, failovers};
use super::faults::Fault;
use super::site::Site;
use super::{Told, count};
use crate::client::Client;
use crate::provider_server::Seen;
use crate::radio_log::{HandOver, Refused};

/// Traces that are asked for at once.
const READERS: usize = 8;

#[derive(Debug)]
pub struct Report {
    /// How messages ended.
    pub states: BTreeMap<String, usize>,
    /// By device or account.
    pub routes: Vec<(String, Hands)>,
    /// Messages by the attempt that was the last.
    pub attempts: BTreeMap<u16, usize>,
    /// Of messages that failed or expired: class and code.
    pub errors: BTreeMap<(String, String), usize>,
    /// Requests to providers and their reports, by what became of them.
    pub providers: Vec<(String, Seen)>,
    pub failovers: Vec<Failover>,
}

/// What a route was handed.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Hands {
    pub sent: usize,
    pub refused: BTreeMap<Refused, usize>,
}

pub(super) async fn make(
    site: &Site,
    told: &[Told],
    hand_overs: &[HandOver],
    faults: &[Fault],
) -> anyhow::Result<Report> {
    let ids = told.iter().map(|one| one.id.clone()).collect();
    let traces = traces(&site.client, ids, &site.folder.join("messages.ndjson")).await?;
    let ended_badly = told.iter().filter(|one| one.state == "failed" || one.state == "expired");
    let error = |one: &Told| one.error.as_ref().map(|error| (error.class.clone(), error.code.clone()));
    Ok(Report {
        states: count(told.iter().map(|one| one.state.clone())),
        routes: routes(site, hand_overs),
        attempts: count(told.iter().map(|one| one.attempts)),
        errors: count(ended_badly.map(|one| error(one).unwrap_or_else(|| ("none".into(), one.state.clone())))),
        providers: site.providers.iter().map(|one| (site.name_of(&one.id), one.server.seen())).collect(),
        failovers: failovers(&traces, faults),
    })
}

fn routes(site: &Site, hand_overs: &[HandOver]) -> Vec<(String, Hands)> {
    let mut by_route: BTreeMap<String, Hands> = BTreeMap::new();
    for one in hand_overs {
        let hands = by_route.entry(site.name_of(&one.device)).or_default();
        match one.refused {
            None => hands.sent += 1,
            Some(refused) => *hands.refused.entry(refused).or_default() += 1,
        }
    }
    by_route.into_iter().collect()
}

/// All that became of each of these messages; also written to `file`, a line for each, for whoever looks further.
async fn traces(client: &Client, ids: Vec<String>, file: &Path) -> anyhow::Result<Vec<Traced>> {
    let (ids, next) = (Arc::new(ids), Arc::new(AtomicUsize::new(0)));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (client, ids, next) = (client.clone(), Arc::clone(&ids), Arc::clone(&next));
        readers.spawn(async move {
            let mut read = Vec::new();
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                read.push(client.call(Method::GET, &format!("/v1/messages/{id}"), None).await?);
            }
            anyhow::Ok(read)
        });
    }
    let (mut all, mut lines) = (Vec::new(), BufWriter::new(File::create(file)?));
    while let Some(read) = readers.join_next().await {
        for message in read?? {
            writeln!(lines, "{message}")?;
            all.push(serde_json::from_value(message).context("reading a trace")?);
        }
    }
    lines.flush()?;
    Ok(all)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = |counts: &BTreeMap<String, usize>| {
            counts.iter().map(|(name, n)| format!("{name} {n}")).collect::<Vec<_>>().join(", ")
        };
        writeln!(f, "how messages ended: {}", pairs(&self.states))?;
        let attempts: Vec<String> = self.attempts.iter().map(|(attempt, n)| format!("{attempt}: {n}")).collect();
        writeln!(f, "by number of attempts: {}", attempts.join(", "))?;
        writeln!(f, "where they went (handed over, refused by class):")?;
        for (route, hands) in &self.routes {
            let refused: Vec<String> = hands.refused.iter().map(|(class, n)| format!("{class:?} {n}")).collect();
            writeln!(f, "  {route:<12} {:>7}   {}", hands.sent, refused.join(", "))?;
        }
        writeln!(f, "errors of messages that did not arrive (class, code):")?;
        for ((class, code), n) in &self.errors {
            writeln!(f, "  {n:>7} {class} {code}")?;
        }
        for (name, seen) in &self.providers {
            writeln!(f, "{name}, as it knows it itself:")?;
            for (what, n) in &seen.counts {
                writeln!(f, "  {n:>7} {what}")?;
            }
        }
        writeln!(f, "failover of messages that were on their way where something failed, ms:")?;
        self.failovers.iter().try_for_each(|failover| failover.fmt(f))?;
        Ok(())
    }
}
