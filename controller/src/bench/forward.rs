//! `bench forward`: what it costs when a request comes to a controller that does not lead its tenant's shard.
//!
//! Two controllers over one store in this process, with a real link between them. The same requests go to the leader and to
//! the other one, in turns, so that the difference is the way between them and nothing else. They share the machine with the
//! load generator, which makes the difference look larger than it is between two machines without one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use flotilla_cluster::NodeName;
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::accept::message;
use super::client::{Connection, request};
use super::report::Report;
use crate::app::{self, Node, Shared, root_key};
use crate::config::Config;
use crate::peer::local::LocalCluster;
use crate::secrets::ClusterKeys;
use crate::store::sqlite;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct ForwardOptions {
    /// Requests of each kind and each way, one after the other
    #[arg(long, default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    requests: u32,
    /// Turns of each kind and each way
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Connections of the round that measures throughput
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    connections: u32,
}

const SHARDS: u16 = 4;
const LATENCY_MAX_NS: u64 = 60_000_000_000;

pub(super) async fn run(options: ForwardOptions) -> anyhow::Result<Report> {
    let folder = tempfile::Builder::new().prefix("flotilla-bench-").tempdir()?;
    let [leader, other] = start(folder.path()).await?;
    let key = tenant_key(&leader, &root_key::read(&config(folder.path(), 1))?).await?;
    let read = request("GET", "/v1/devices", &key, "application/json", b"");
    let send = message(&key, 1);
    let mut report = Report::new("forward");
    for (name, bytes, expected) in [("GET /v1/devices", &read, 200), ("durable message", &send, 202)] {
        let (mut at_leader, mut at_other) = (new_histogram()?, new_histogram()?);
        // The first ones warm everything up, and do not count.
        one_by_one(&leader, bytes, expected, 100, &mut new_histogram()?).await?;
        one_by_one(&other, bytes, expected, 100, &mut new_histogram()?).await?;
        let each = options.requests / options.rounds;
        for _ in 0..options.rounds {
            one_by_one(&leader, bytes, expected, each, &mut at_leader).await?;
            one_by_one(&other, bytes, expected, each, &mut at_other).await?;
        }
        for (quantile, word) in [(0.5, "p50"), (0.99, "p99")] {
            let us = |of: &Histogram<u64>| of.value_at_quantile(quantile) as f64 / 1e3;
            let (direct, forwarded) = (us(&at_leader), us(&at_other));
            report.figure(format!("{name}, at the leader, {word}"), direct, "us");
            report.figure(format!("{name}, forwarded, {word}"), forwarded, "us");
            report.figure(format!("{name}, forwarding adds, {word}"), forwarded - direct, "us");
        }
    }
    for (name, node) in [("at the leader", &leader), ("forwarded", &other)] {
        let rate = together(node, &send, 202, options.connections, options.requests).await?;
        report.figure(format!("durable messages over {} connections, {name}", options.connections), rate, "/s");
    }
    report.note("both controllers, the store and the load generator share this machine and process");
    other.shutdown().await;
    leader.shutdown().await;
    Ok(report)
}

fn new_histogram() -> anyhow::Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(100, LATENCY_MAX_NS, 3)?)
}

fn name(number: u8) -> anyhow::Result<NodeName> {
    Ok(NodeName::parse(&format!("c{number}"))?)
}

fn key_file(folder: &Path) -> PathBuf {
    folder.join("cluster.key")
}

fn config(folder: &Path, number: u8) -> Config {
    let mut config = Config { data_dir: folder.join(format!("c{number}")), ..Config::default() };
    let free = ([127, 0, 0, 1], 0).into();
    (config.http.addr, config.quic.addr, config.cluster.peer_addr) = (free, free, free);
    config.cluster.node = Some(format!("c{number}"));
    config.cluster.key_file = Some(key_file(folder));
    config
}

/// Two controllers; the first one leads everything.
async fn start(folder: &Path) -> anyhow::Result<[Node; 2]> {
    let options = sqlite::Options { shards: SHARDS, ..sqlite::Options::default() };
    let store_dir = folder.join("store");
    let open = move || sqlite::open(&store_dir, &options);
    let stores = tokio::task::spawn_blocking(open).await??;
    let cluster = LocalCluster::new(&stores.journal.epochs().await?);
    let shared = Shared { stores, cluster };
    ClusterKeys::read_or_create(&key_file(folder))?;
    let first = app::start_together(&config(folder, 1), &shared).await?;
    let second = app::start_together(&config(folder, 2), &shared).await?;
    shared.cluster.place_all(&name(1)?);
    let mut changes = first.api.shards.changes();
    while first.api.shards.all().iter().filter(|shard| shard.serves()).count() < usize::from(SHARDS) {
        changes.changed().await?;
    }
    Ok([first, second])
}

async fn tenant_key(node: &Node, root: &crate::fleet::keys::Secret) -> anyhow::Result<String> {
    let mut connection = Connection::open(node.http_addr).await?;
    let post = |path: &str, tenant: &str, body: Value| {
        let body = body.to_string();
        format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\n{tenant}content-type: application/json\r\n\
             content-length: {}\r\n\r\n{body}",
            root.expose(),
            body.len()
        )
    };
    let (_, created) = connection.exchange(post("/v1/tenants", "", json!({"name": "Bench"})).as_bytes()).await?;
    let created: Value = serde_json::from_slice(created)?;
    let tenant = format!("x-tenant: {}\r\n", created["id"].as_str().context("no tenant was made")?);
    let body = json!({"name": "bench", "scopes": ["admin"], "rate_per_min": 0});
    let (_, made) = connection.exchange(post("/v1/keys", &tenant, body).as_bytes()).await?;
    let made: Value = serde_json::from_slice(made)?;
    Ok(made["secret"].as_str().context("no key was made")?.to_owned())
}

async fn one_by_one(
    node: &Node,
    bytes: &[u8],
    expected: u16,
    count: u32,
    into: &mut Histogram<u64>,
) -> anyhow::Result<()> {
    let mut connection = Connection::open(node.http_addr).await?;
    for _ in 0..count {
        let begin = Instant::now();
        let (status, body) = connection.exchange(bytes).await?;
        anyhow::ensure!(status == expected, "answered {status}: {}", String::from_utf8_lossy(body));
        into.saturating_record(begin.elapsed().as_nanos() as u64);
    }
    Ok(())
}

/// As many as go over so many connections; per second.
async fn together(node: &Node, bytes: &[u8], expected: u16, connections: u32, count: u32) -> anyhow::Result<f64> {
    let (begin, mut tasks) = (Instant::now(), JoinSet::new());
    let each = count.div_ceil(connections);
    for _ in 0..connections {
        let (mut connection, bytes) = (Connection::open(node.http_addr).await?, bytes.to_vec());
        tasks.spawn(async move {
            for _ in 0..each {
                let (status, _) = connection.exchange(&bytes).await?;
                anyhow::ensure!(status == expected, "answered {status}");
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let taken: Duration = begin.elapsed();
    Ok(f64::from(each * connections) / taken.as_secs_f64())
}
