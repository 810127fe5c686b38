//! `bench bulk`: one NDJSON upload of many messages, answered when the last of them is durable.

use std::time::Instant;

use serde::Deserialize;

use super::client::Connection;
use super::disk;
use super::report::{Report, median};
use super::subject::Subject;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct BulkOptions {
    /// Messages in each upload
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(super) messages: u64,
    /// Uploads, each into a fresh installation; the median is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(super) rounds: u32,
}

#[derive(Deserialize)]
struct Answer {
    accepted: u64,
    rejected: u64,
}

pub(super) async fn run(options: BulkOptions) -> anyhow::Result<Report> {
    let mut report = Report::new("bulk");
    let (mut rates, mut memory, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let subject = Subject::start(0, None).await?;
        let before = subject.cpu_s()?;
        let start = Instant::now();
        upload(&mut subject.connect().await?, &subject.key, options.messages).await?;
        rates.push(options.messages as f64 / start.elapsed().as_secs_f64());
        cpu.push((subject.cpu_s()? - before) * 1e6 / options.messages as f64);
        memory.push(subject.resident_bytes()? as f64 / 1e6);
        if report.figures.is_empty() {
            disk::add_to(&mut report, &subject.folder())?;
        }
        subject.stop().await?;
    }
    report.figure("messages accepted, durable", median(&mut rates), "/s");
    report.figure("controller CPU per message, at the answer", median(&mut cpu), "us");
    report.figure("controller memory at the answer", median(&mut memory), "MB");
    report
        .note(format!("one upload of {} NDJSON lines, {} rounds; no device online", options.messages, options.rounds));
    Ok(report)
}

/// Streams `messages` lines with chunked encoding and checks that every one was accepted.
pub(super) async fn upload(connection: &mut Connection, key: &str, messages: u64) -> anyhow::Result<()> {
    const LINES_PER_PART: u64 = 1_000;
    let head = format!(
        "POST /v1/messages/bulk HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {key}\r\n\
         content-type: application/x-ndjson\r\ntransfer-encoding: chunked\r\n\r\n"
    );
    connection.send(head.as_bytes()).await?;
    // The generator prepares one part and sends it again and again, so that it stays out of the server's way.
    let mut lines = Vec::new();
    for n in 0..LINES_PER_PART {
        let line = format!("{{\"to\":\"+25571{:07}\",\"text\":\"Your code is {:06}\"}}\n", n * 7919 % 10_000_000, n);
        lines.extend_from_slice(line.as_bytes());
    }
    let part = chunk(&lines);
    let mut left = messages;
    while left >= LINES_PER_PART {
        connection.send(&part).await?;
        left -= LINES_PER_PART;
    }
    let rest: Vec<u8> = lines.split_inclusive(|b| *b == b'\n').take(left as usize).flatten().copied().collect();
    if !rest.is_empty() {
        connection.send(&chunk(&rest)).await?;
    }
    connection.send(b"0\r\n\r\n").await?;
    let (status, body) = connection.answer().await?;
    anyhow::ensure!(status == 200 || status == 202, "answered {status}: {}", String::from_utf8_lossy(body));
    let answer: Answer = serde_json::from_slice(body)?;
    anyhow::ensure!(
        answer.accepted == messages && answer.rejected == 0,
        "{} accepted and {} rejected of {messages}",
        answer.accepted,
        answer.rejected
    );
    Ok(())
}

fn chunk(bytes: &[u8]) -> Vec<u8> {
    let mut part = format!("{:x}\r\n", bytes.len()).into_bytes();
    part.extend_from_slice(bytes);
    part.extend_from_slice(b"\r\n");
    part
}
