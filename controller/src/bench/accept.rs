//! `bench accept`: single messages over kept-alive connections, each answered only when it is durable.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::client::request;
use super::disk;
use super::report::{Report, median};
use super::subject::Subject;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct AcceptOptions {
    /// Kept-alive connections, one request at a time on each
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) connections: u32,
    /// Length of each round, seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) seconds: u64,
    /// Rounds of each kind; the median is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) rounds: u32,
    /// Rate of the latency round, requests per second
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(super) paced_rate: u32,
}

/// Longer ones are counted as this long.
const LATENCY_MAX_US: u64 = 60_000_000;

pub(super) async fn run(options: AcceptOptions) -> anyhow::Result<Report> {
    let subject = Subject::start(0, None).await?;
    let mut report = Report::new("accept");
    let floor = request("GET", "/healthz", &subject.key, "application/json", b"");
    let length = Duration::from_secs(options.seconds);
    let (mut durable, mut http) = (Vec::new(), Vec::new());
    let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3)?;
    // First, while the followers have nothing to catch up with.
    paced(&subject, &options, &mut latencies).await?;
    for round in 0..options.rounds {
        let (count, taken) = flat_out(&subject, options.connections, length, 200, |_| floor.clone()).await?;
        http.push(count as f64 / taken);
        let key = subject.key.clone();
        let (count, taken) =
            flat_out(&subject, options.connections, length, 202, |n| message(&key, round * 64 + n)).await?;
        durable.push(count as f64 / taken);
    }
    let (durable, http) = (median(&mut durable), median(&mut http));
    report.figure(format!("durable messages over {} connections", options.connections), durable, "/s");
    report.figure("same connections, GET /healthz (floor)", http, "/s");
    report.figure("durable messages : floor", durable / http, "ratio");
    for (name, quantile) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let value = latencies.value_at_quantile(quantile) as f64 / 1000.0;
        report.figure(format!("latency at {}/s, {name}", options.paced_rate), value, "ms");
    }
    disk::add_to(&mut report, &subject.folder())?;
    report.note(format!("{} rounds of {} s each; no device online", options.rounds, options.seconds));
    subject.stop().await?;
    Ok(report)
}

pub(super) fn message(key: &str, n: u32) -> Vec<u8> {
    let body = format!(r#"{{"to":"+25571{:07}","text":"Your code is {:06}"}}"#, n % 10_000_000, n % 1_000_000);
    request("POST", "/v1/messages", key, "application/json", body.as_bytes())
}

/// Every connection sends as fast as it is answered. Gives how many were answered, and the seconds taken.
async fn flat_out(
    subject: &Subject,
    connections: u32,
    length: Duration,
    expected: u16,
    make: impl Fn(u32) -> Vec<u8>,
) -> anyhow::Result<(u64, f64)> {
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for n in 0..connections {
        let (mut connection, request) = (subject.connect().await?, make(n));
        tasks.spawn(async move {
            let mut count = 0u64;
            while start.elapsed() < length {
                let (status, body) = connection.exchange(&request).await?;
                anyhow::ensure!(status == expected, "answered {status}: {}", String::from_utf8_lossy(body));
                count += 1;
            }
            Ok(count)
        });
    }
    let mut count = 0;
    while let Some(done) = tasks.join_next().await {
        count += done??;
    }
    Ok((count, start.elapsed().as_secs_f64()))
}

/// A fixed rate, shared over the connections. A request that starts late is charged from when it was due, so that a
/// stall of the server is not hidden by the generator's waiting (no coordinated omission).
async fn paced(subject: &Subject, options: &AcceptOptions, into: &mut Histogram<u64>) -> anyhow::Result<()> {
    let gap = Duration::from_secs_f64(f64::from(options.connections) / f64::from(options.paced_rate));
    let rounds = (options.seconds as f64 / gap.as_secs_f64()) as u64;
    let mut tasks = JoinSet::new();
    for n in 0..options.connections {
        let (mut connection, request) = (subject.connect().await?, message(&subject.key, n));
        tasks.spawn(async move {
            let mut latencies = Histogram::<u64>::new_with_bounds(1, LATENCY_MAX_US, 3)?;
            let first = tokio::time::Instant::now() + gap.mul_f64(f64::from(n) / 64.0 % 1.0);
            let mut ticks = tokio::time::interval_at(first, gap);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
            for _ in 0..rounds {
                let due = ticks.tick().await;
                let (status, _) = connection.exchange(&request).await?;
                anyhow::ensure!(status == 202, "answered {status}");
                latencies.saturating_record(due.elapsed().as_micros() as u64);
            }
            Ok(latencies)
        });
    }
    while let Some(done) = tasks.join_next().await {
        into.add(done??)?;
    }
    Ok(())
}
