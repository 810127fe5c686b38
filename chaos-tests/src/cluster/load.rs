//! Clients that send all the time, to whichever controller comes next, and keep what they were promised in the history.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::history::{History, Promise};
use super::nodes::{Answer, Call, Nodes};
use super::site::Tenant;

const SENDERS: usize = 12;
const RECIPIENTS_MAX: usize = 4;
/// Longer than any fault lasts: who is still refused then was refused for good.
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);

/// What a load needs to know.
#[derive(Debug, Clone)]
pub struct Options {
    pub seed: u64,
    pub messages_per_s: f64,
    pub valid_for_s: u64,
}

/// One request as its client saw it, its repeats included.
#[derive(Debug, Clone, Copy)]
pub struct Request {
    pub began: Instant,
    pub took: Duration,
    pub attempts: u32,
}

/// All that clients saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub requests: Vec<Request>,
    /// Requests that got no answer, or a wrong one, after all repeats.
    pub failures: Vec<String>,
}

pub struct Load {
    stop: watch::Sender<bool>,
    senders: JoinSet<anyhow::Result<()>>,
    seen: Arc<Mutex<Seen>>,
}

/// One message's request under its own key, answered for good and written into the history.
pub async fn send(
    nodes: &Nodes,
    history: &History,
    tenant: usize,
    to: &[String],
    valid_for_s: u64,
    key: &str,
    within: Duration,
) -> anyhow::Result<Answer> {
    let body = json!({ "to": to, "text": key, "valid_for_s": valid_for_s });
    let call = Call { idempotency: Some(key), ..Call::post("/v1/messages", body) };
    let answer = nodes.insist(&call, Instant::now() + within).await?;
    let messages = answer.value["messages"].as_array().context("no messages in the answer")?;
    let messages: Option<Vec<String>> = messages.iter().map(|m| m["id"].as_str().map(str::to_owned)).collect();
    let messages = messages.context("a message without id")?;
    anyhow::ensure!(messages.len() == to.len(), "{} ids for {} recipients", messages.len(), to.len());
    let unix_ms = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let took_ms = answer.took.as_millis() as u64;
    let (node, attempts, request) = (answer.node, answer.attempts, key.to_owned());
    history.add(&Promise { unix_ms, tenant, request, node, attempts, took_ms, messages })?;
    Ok(answer)
}

impl Load {
    pub fn start(tenants: &[Tenant], history: &Arc<History>, options: &Options) -> Self {
        let (stop, stopped) = watch::channel(false);
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut senders = JoinSet::new();
        for number in 0..SENDERS {
            let sender = Sender {
                number,
                tenants: tenants.iter().map(|tenant| tenant.nodes.clone()).collect(),
                history: Arc::clone(history),
                options: options.clone(),
                seen: Arc::clone(&seen),
                rng: StdRng::seed_from_u64(options.seed ^ (number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            };
            senders.spawn(sender.run(stopped.clone()));
        }
        Self { stop, senders, seen }
    }

    /// Lets every client finish its request.
    pub async fn finish(mut self) -> anyhow::Result<Seen> {
        self.stop.send_replace(true);
        while let Some(done) = self.senders.join_next().await {
            done??;
        }
        Ok(std::mem::take(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

struct Sender {
    number: usize,
    tenants: Vec<Nodes>,
    history: Arc<History>,
    options: Options,
    seen: Arc<Mutex<Seen>>,
    rng: StdRng,
}

impl Sender {
    async fn run(mut self, mut stopped: watch::Receiver<bool>) -> anyhow::Result<()> {
        let mean_recipients = (1 + RECIPIENTS_MAX) as f64 / 2.0;
        let pause = Duration::from_secs_f64(SENDERS as f64 * mean_recipients / self.options.messages_per_s);
        for request in 0u64.. {
            let next = Instant::now() + pause.mul_f64(self.rng.random_range(0.5..1.5));
            self.request(request).await;
            tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => break,
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
        Ok(())
    }

    async fn request(&mut self, request: u64) {
        let tenant = self.rng.random_range(0..self.tenants.len());
        let count = self.rng.random_range(1..=RECIPIENTS_MAX);
        let to: Vec<String> =
            (0..count).map(|_| format!("+25571{:07}", self.rng.random_range(0..10_000_000))).collect();
        let key = format!("chaos-{}-{}-{request}", self.options.seed, self.number);
        let (nodes, began) = (&self.tenants[tenant], Instant::now());
        let sent = send(nodes, &self.history, tenant, &to, self.options.valid_for_s, &key, REQUEST_DEADLINE).await;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match sent {
            Ok(Answer { attempts, took, .. }) => seen.requests.push(Request { began, took, attempts }),
            Err(error) => seen.failures.push(format!("{key} after {:.1?}: {error:#}", began.elapsed())),
        }
    }
}
