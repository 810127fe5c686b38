//! `bench e2e`: accepted by HTTP, durable, dispatched over mutual TLS, reported, delivered and counted.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::accept::message;
use super::bulk::upload;
use super::disk;
use super::report::{Report, median};
use super::subject::Subject;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct EndToEndOptions {
    /// Simulated devices, whose radios answer at once
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) devices: u32,
    /// Messages a device may hold
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(super) window: u16,
    /// Messages of each round
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    pub(super) messages: u64,
    /// Rounds of each kind; the median is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) rounds: u32,
    /// Connections of the rounds with single requests
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) connections: u32,
}

/// A round that makes no progress for so long has failed.
const STALL: Duration = Duration::from_secs(30);

pub(super) async fn run(options: EndToEndOptions) -> anyhow::Result<Report> {
    let subject = Subject::start(options.devices, Some(options.window)).await?;
    let mut report = Report::new("e2e");
    let (mut bulk, mut single, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    let mut expected = 0;
    for _ in 0..options.rounds {
        let (start, before) = (Instant::now(), subject.cpu_s()?);
        upload(&mut subject.connect().await?, &subject.key, options.messages).await?;
        expected += options.messages;
        delivered(&subject, expected).await?;
        bulk.push(options.messages as f64 / start.elapsed().as_secs_f64());
        cpu.push((subject.cpu_s()? - before) * 1e6 / options.messages as f64);

        let start = Instant::now();
        expected += singles(&subject, &options).await?;
        delivered(&subject, expected).await?;
        single.push(options.messages as f64 / start.elapsed().as_secs_f64());
    }
    report.figure("delivered and counted, by bulk upload", median(&mut bulk), "/s");
    report.figure("delivered and counted, by single requests", median(&mut single), "/s");
    report.figure("controller CPU per message, bulk", median(&mut cpu), "us");
    report.figure("controller memory at the end", subject.resident_bytes()? as f64 / 1e6, "MB");
    disk::add_to(&mut report, &subject.folder())?;
    report.note(format!(
        "{} devices with a window of {} in a process of their own; {} messages a round, {} rounds",
        options.devices, options.window, options.messages, options.rounds
    ));
    subject.stop().await?;
    Ok(report)
}

async fn singles(subject: &Subject, options: &EndToEndOptions) -> anyhow::Result<u64> {
    let each = options.messages / u64::from(options.connections);
    let mut tasks = JoinSet::new();
    for n in 0..options.connections {
        let (mut connection, request) = (subject.connect().await?, message(&subject.key, n));
        tasks.spawn(async move {
            for _ in 0..each {
                let (status, body) = connection.exchange(&request).await?;
                anyhow::ensure!(status == 202, "answered {status}: {}", String::from_utf8_lossy(body));
            }
            Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(each * u64::from(options.connections))
}

/// Waits until the aggregates have counted `expected` deliveries since the start.
async fn delivered(subject: &Subject, expected: u64) -> anyhow::Result<()> {
    let mut last = (0, Instant::now());
    loop {
        let stats = subject.get("/v1/stats?step=total").await?;
        let count = count_delivered(&stats);
        if count >= expected {
            anyhow::ensure!(count == expected, "{count} deliveries are counted for {expected} messages");
            return Ok(());
        }
        if count > last.0 {
            last = (count, Instant::now());
        }
        anyhow::ensure!(last.1.elapsed() < STALL, "stuck at {count} of {expected} deliveries");
        // The pace of the questions, not a wait for their answer: each answer costs the controller a query.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn count_delivered(stats: &serde_json::Value) -> u64 {
    stats["rows"].as_array().map_or(0, |rows| rows.iter().filter_map(|row| row["delivered"].as_u64()).sum())
}
