//! Routing under faults, on real processes: a controller, twenty simulated devices of mixed health in four processes, and two
//! provider accounts on test servers that misbehave. Devices are killed, providers cut off and the controller killed while
//! clients send. Afterwards every promise is checked against what radios and providers really had, and the report says where
//! messages went and how long they took to get away from what failed.

mod failover;
mod faults;
mod fleet;
mod report;
mod site;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use crate::client::{Client, Listed};
use crate::invariants::{self, Violation};
use crate::process::Programs;
use crate::promises::Promises;
use crate::radio_log::{self, HandOver};
use site::Site;

pub use failover::{Failover, Move};
pub use faults::{Fault, What};
pub use report::Report;

#[derive(Debug, Clone)]
pub struct Options {
    pub messages: usize,
    /// How fast clients send.
    pub messages_per_s: f64,
    /// Every message ends by then: seconds after its acceptance.
    pub valid_for_s: u64,
    /// How often all faults are gone through.
    pub rounds: usize,
    pub seed: u64,
    pub programs: Programs,
    /// Logs and data; kept by the caller when something was found.
    pub folder: PathBuf,
}

/// What a run saw.
#[derive(Debug)]
pub struct Outcome {
    pub promised: usize,
    pub faults: Vec<Fault>,
    pub report: Report,
    pub violations: Vec<Violation>,
    /// What took how long, in order.
    pub phases: Phases,
}

/// The parts of a run, with their times.
#[derive(Debug)]
pub struct Phases {
    since: Instant,
    ended: Vec<(&'static str, Duration)>,
}

impl Phases {
    fn begin() -> Self {
        Self { since: Instant::now(), ended: Vec::new() }
    }

    fn ended(&mut self, what: &'static str) {
        let now = Instant::now();
        self.ended.push((what, now - std::mem::replace(&mut self.since, now)));
    }
}

impl fmt::Display for Phases {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Duration = self.ended.iter().map(|(_, took)| *took).sum();
        let parts: Vec<String> =
            self.ended.iter().map(|(what, took)| format!("{what} {:.1}", took.as_secs_f64())).collect();
        write!(f, "{:.0} s: {}", all.as_secs_f64(), parts.join(", "))
    }
}

/// A message as the installation tells it in the end.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Told {
    pub id: String,
    pub state: String,
    pub attempts: u16,
    pub expires_at: Moment,
    pub updated_at: Moment,
    #[serde(default)]
    pub error: Option<ToldError>,
}

/// Unix milliseconds; in JSON an RFC 3339 time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Moment(pub u64);

impl TryFrom<String> for Moment {
    type Error = jiff::Error;

    fn try_from(text: String) -> Result<Self, jiff::Error> {
        Ok(Self(text.parse::<jiff::Timestamp>()?.as_millisecond().unsigned_abs()))
    }
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ToldError {
    pub class: String,
    pub code: String,
}

const RECIPIENTS_PER_REQUEST: usize = 10;
const SENDERS: usize = 8;
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);
/// Behind a message's validity, for the controller to see that it has ended.
const END_LATE_MS: u64 = 15_000;

pub async fn run(options: &Options) -> anyhow::Result<Outcome> {
    let mut phases = Phases::begin();
    let mut site = Site::start(options).await?;
    phases.ended("start");
    let (progress, seen) = watch::channel(0);
    let sending = tokio::spawn(send_all(site.client.clone(), options.clone(), progress));
    let faults = faults::strike(&mut site, options, seen).await?;
    phases.ended("faults");
    let promises = sending.await??;
    phases.ended("the rest of sending");
    site.wait_for_the_end(options).await?;
    phases.ended("until all have ended");
    let told: Vec<Told> = site.client.list_all_as().await?;
    let hand_overs = hand_overs(&site)?;
    let report = report::make(&site, &told, &hand_overs, &faults).await?;
    phases.ended("report");
    let violations = check(&site, &promises, &told, &hand_overs).await?;
    phases.ended("checks");
    site.stop().await?;
    phases.ended("stop");
    Ok(Outcome { promised: promises.len(), faults, report, violations, phases })
}

/// What left, from those who know: the radios' logs and the providers. Accounts have the names that the installation gave them.
fn hand_overs(site: &Site) -> anyhow::Result<Vec<HandOver>> {
    let mut all = radio_log::read_all(&site.radio_logs())?;
    for provider in &site.providers {
        let named = |one: HandOver| HandOver { device: provider.id.clone(), ..one };
        all.extend(provider.server.hand_overs().into_iter().map(named));
    }
    Ok(all)
}

async fn check(
    site: &Site,
    promises: &Promises,
    told: &[Told],
    hand_overs: &[HandOver],
) -> anyhow::Result<Vec<Violation>> {
    let listed: Vec<Listed> = told.iter().map(|one| Listed { id: one.id.clone(), state: one.state.clone() }).collect();
    let mut violations = invariants::promises_are_kept(promises, &listed);
    violations.extend(invariants::nothing_is_sent_twice(hand_overs));
    violations.extend(invariants::deliveries_are_real(&listed, hand_overs));
    violations.extend(invariants::nothing_permanent_is_retried(hand_overs));
    violations.extend(invariants::budgets_are_kept(hand_overs, &site.per_minute));
    violations.extend(ends_in_time(told));
    let forged = site.providers.iter().map(|provider| provider.server.seen().forged_taken).sum();
    if forged > 0 {
        violations.push(Violation::ForgedReportTaken { times: forged });
    }
    violations.extend(invariants::aggregates_are_exact(&site.client.totals().await?, &listed));
    Ok(violations)
}

/// A message that is sent may still be delivered later; one that is not has ended with its validity.
fn ends_in_time(told: &[Told]) -> impl Iterator<Item = Violation> {
    let is_late = |one: &&Told| one.state != "delivered" && one.updated_at.0 > one.expires_at.0 + END_LATE_MS;
    let late = told.iter().filter(is_late);
    late.map(|one| Violation::EndedLate { message: one.id.clone(), state: one.state.clone() })
}

/// All clients: each request is repeated under its own key until it is answered.
async fn send_all(client: Client, options: Options, progress: watch::Sender<usize>) -> anyhow::Result<Promises> {
    let requests = options.messages.div_ceil(RECIPIENTS_PER_REQUEST);
    let (next, progress) = (Arc::new(AtomicUsize::new(0)), Arc::new(progress));
    let mut senders = JoinSet::new();
    for _ in 0..SENDERS {
        let (client, next, progress, options) = (client.clone(), next.clone(), progress.clone(), options.clone());
        let pause = Duration::from_secs_f64((SENDERS * RECIPIENTS_PER_REQUEST) as f64 / options.messages_per_s);
        let mut pace = interval(pause);
        pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
        senders.spawn(async move {
            let mut answered = Vec::new();
            loop {
                pace.tick().await;
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return anyhow::Ok(answered);
                }
                let first = number * RECIPIENTS_PER_REQUEST;
                let count = RECIPIENTS_PER_REQUEST.min(options.messages - first);
                let body = request(number, first..first + count, options.valid_for_s);
                let key = format!("routing-{}-{number}", options.seed);
                let ids = client.send_body(&body, &key, Instant::now() + REQUEST_DEADLINE).await?;
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

fn request(number: usize, recipients: std::ops::Range<usize>, valid_for_s: u64) -> serde_json::Value {
    let to: Vec<String> = recipients.map(|n| format!("+25571{:07}", n % 10_000_000)).collect();
    // Every eighth one has two segments.
    let text = if number % 8 == 3 { "two segments, ".repeat(14) } else { format!("routing {number}") };
    let priority = match number % 20 {
        0 => "urgent",
        7 | 13 => "bulk",
        _ => "normal",
    };
    json!({ "to": to, "text": text, "valid_for_s": valid_for_s, "priority": priority })
}

/// How many of each.
pub(crate) fn count<T: Ord>(items: impl Iterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    items.for_each(|item| *counts.entry(item).or_default() += 1);
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(state: &str, updated_s: u64) -> Told {
        let at = |s: u64| Moment(s * 1_000);
        Told {
            id: format!("{state}{updated_s}"),
            state: state.into(),
            attempts: 1,
            expires_at: at(60),
            updated_at: at(updated_s),
            error: None,
        }
    }

    #[test]
    fn what_ends_late_is_seen() {
        let all = [told("expired", 61), told("delivered", 900), told("expired", 76), told("failed", 59)];
        let late: Vec<_> = ends_in_time(&all).collect();
        assert_eq!(late, [Violation::EndedLate { message: "expired76".into(), state: "expired".into() }]);
    }

    #[test]
    fn requests_are_of_all_kinds() {
        let kinds = count((0..40).map(|n| request(n, 0..1, 60)["priority"].as_str().unwrap().to_owned()));
        assert_eq!(kinds, [("bulk".to_owned(), 4), ("normal".to_owned(), 34), ("urgent".to_owned(), 2)].into());
        assert!(request(3, 0..1, 60)["text"].as_str().unwrap().len() > 160);
    }
}
