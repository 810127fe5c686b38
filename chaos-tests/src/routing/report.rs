//! Where the messages of a run went, what went wrong with them, and how long they took to get away from what failed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use serde::Deserialize;
use tokio::task::JoinSet;

use super::faults::{Fault, What};
use super::site::Site;
use super::{Moment, Told, count};
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

/// What one kind of fault did to the messages that were on a route just then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failover {
    pub what: What,
    pub times: usize,
    /// From the fault, or the dispatch when that was later, to the success on another route; sorted.
    pub moved_ms: Vec<u64>,
    /// Went on where they were when it was back, or stay in doubt: they may be on the air, and nothing repeats them.
    pub stayed: usize,
}

#[derive(Debug, Deserialize)]
struct Traced {
    trace: Vec<TraceStep>,
}

#[derive(Debug, Clone, Deserialize)]
struct TraceStep {
    at: Moment,
    state: String,
    attempt: u16,
    #[serde(default)]
    device: Option<String>,
    #[serde(default)]
    provider: Option<String>,
}

impl TraceStep {
    fn route(&self) -> Option<&str> {
        self.device.as_deref().or(self.provider.as_deref())
    }

    fn at_ms(&self) -> u64 {
        self.at.0
    }
}

pub(super) async fn make(
    site: &Site,
    told: &[Told],
    hand_overs: &[HandOver],
    faults: &[Fault],
) -> anyhow::Result<Report> {
    let wanted = told.iter().filter(|one| one.attempts > 1 || faults.iter().any(|fault| was_near(one, fault)));
    let traces = traces(&site.client, wanted.map(|one| one.id.clone()).collect()).await?;
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

/// The steps of each of these messages.
async fn traces(client: &Client, ids: Vec<String>) -> anyhow::Result<Vec<Vec<TraceStep>>> {
    let (ids, next) = (Arc::new(ids), Arc::new(AtomicUsize::new(0)));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        let (client, ids, next) = (client.clone(), Arc::clone(&ids), Arc::clone(&next));
        readers.spawn(async move {
            let mut read = Vec::new();
            while let Some(id) = ids.get(next.fetch_add(1, Ordering::Relaxed)) {
                let answer = client.call(reqwest::Method::GET, &format!("/v1/messages/{id}"), None).await?;
                let traced: Traced = serde_json::from_value(answer).context("reading a trace")?;
                read.push(traced.trace);
            }
            anyhow::Ok(read)
        });
    }
    let mut all = Vec::new();
    while let Some(read) = readers.join_next().await {
        all.extend(read??);
    }
    Ok(all)
}

fn failovers(traces: &[Vec<TraceStep>], faults: &[Fault]) -> Vec<Failover> {
    let mut by_kind: BTreeMap<What, Failover> = BTreeMap::new();
    for fault in faults.iter().filter(|fault| !fault.routes.is_empty()) {
        let new = Failover { what: fault.what, times: 0, moved_ms: Vec::new(), stayed: 0 };
        let failover = by_kind.entry(fault.what).or_insert(new);
        failover.times += 1;
        for trace in traces {
            match hit(trace, fault) {
                Some(Some(moved_ms)) => failover.moved_ms.push(moved_ms),
                Some(None) => failover.stayed += 1,
                None => {}
            }
        }
    }
    let mut all: Vec<Failover> = by_kind.into_values().collect();
    all.iter_mut().for_each(|failover| failover.moved_ms.sort_unstable());
    all
}

/// Whether an attempt of this message was under way on what failed: after how long the message was sent elsewhere, if it was.
fn hit(trace: &[TraceStep], fault: &Fault) -> Option<Option<u64>> {
    let away = |route: Option<&str>| route.is_some_and(|route| fault.routes.iter().any(|one| one == route));
    let under_way = trace.iter().enumerate().find_map(|(n, step)| {
        if step.state != "dispatching" || !away(step.route()) || step.at_ms() >= fault.to_ms {
            return None;
        }
        let next = trace[n + 1..].first();
        let sent =
            next.is_some_and(|next| next.attempt == step.attempt && matches!(&*next.state, "sent" | "delivered"));
        let over = next.is_some_and(|next| next.at_ms() < fault.from_ms);
        (!sent && !over).then(|| (n, step.at_ms().max(fault.from_ms)))
    });
    let (n, since_ms) = under_way?;
    let elsewhere = |step: &&TraceStep| matches!(&*step.state, "sent" | "delivered") && !away(step.route());
    Some(trace[n..].iter().find(elsewhere).map(|step| step.at_ms().saturating_sub(since_ms)))
}

/// Its only attempt was on what failed, perhaps just then.
fn was_near(one: &Told, fault: &Fault) -> bool {
    let route = one.device.as_ref().or(one.provider.as_ref());
    let meant = one.attempts == 1 && route.is_some_and(|route| fault.routes.contains(route));
    let sent_before = one.sent_at.is_some_and(|sent| sent.0 < fault.from_ms);
    meant && !sent_before && one.accepted_at.0 < fault.to_ms && one.updated_at.0 > fault.from_ms
}

/// The value below which so many percent are, of sorted ones.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let place = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    sorted.get(place).copied().unwrap_or_default()
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
        writeln!(f, "failover, ms from the fault to the success elsewhere:")?;
        for failover in &self.failovers {
            let ms = |percent| percentile(&failover.moved_ms, percent);
            writeln!(
                f,
                "  {} x {}: moved {}, p50 {}, p95 {}, max {}; stayed {}",
                failover.times,
                failover.what.name(),
                failover.moved_ms.len(),
                ms(50),
                ms(95),
                ms(100),
                failover.stayed,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(at_ms: u64, state: &str, attempt: u16, device: &str) -> TraceStep {
        TraceStep { at: Moment(at_ms), state: state.into(), attempt, device: Some(device.into()), provider: None }
    }

    #[test]
    fn percentiles_are_of_what_is_there() {
        assert_eq!(percentile(&[], 95), 0);
        assert_eq!(percentile(&[7], 50), 7);
        let hundred: Vec<u64> = (1..=100).collect();
        assert_eq!([50, 95, 100].map(|percent| percentile(&hundred, percent)), [50, 95, 100]);
    }

    #[test]
    fn a_message_is_hit_when_it_was_on_the_way_there() {
        let fault = Fault { what: What::DevicesKilled, routes: vec!["a".into()], from_ms: 1_000, to_ms: 9_000 };
        let moved = [
            step(900, "dispatching", 1, "a"),
            step(5_000, "queued", 1, "a"),
            step(5_010, "dispatching", 2, "b"),
            step(5_100, "sent", 2, "b"),
        ];
        assert_eq!(hit(&moved, &fault), Some(Some(4_100)));
        let later = [step(2_000, "dispatching", 1, "a"), step(5_000, "queued", 1, "a"), step(5_500, "sent", 2, "b")];
        assert_eq!(hit(&later, &fault), Some(Some(3_500)), "from its dispatch");
        assert_eq!(hit(&[step(900, "dispatching", 1, "a"), step(950, "sent", 1, "a")], &fault), None);
        assert_eq!(hit(&[step(900, "dispatching", 1, "a"), step(6_000, "unknown", 1, "a")], &fault), Some(None));
        assert_eq!(hit(&[step(900, "dispatching", 1, "b"), step(6_000, "unknown", 1, "b")], &fault), None);
        assert_eq!(hit(&[step(9_500, "dispatching", 1, "a")], &fault), None, "after it");
    }
}
