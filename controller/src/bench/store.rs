//! `bench store`: the journal and the rows alone, on the disk that the folder is on.

use std::path::PathBuf;
use std::time::Duration;

use super::report::Report;
use crate::store::bench::{BenchOptions, EngineBench, bench_store};
use crate::store::postgres::{self, own::OwnServer};

#[derive(Debug, Clone, clap::Args)]
pub(super) struct StoreOptions {
    /// Measure on the disk of this folder; the temporary folder's otherwise
    #[arg(long, value_name = "DIR")]
    pub(super) folder: Option<PathBuf>,
    /// Length of each measurement, seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(super) seconds: u64,
    /// Measure PostgreSQL too, taking turns: a server of our own on the same disk
    #[arg(long)]
    pub(super) postgres: bool,
    /// The same, but with this empty database
    #[arg(long, value_name = "URL", conflicts_with = "postgres")]
    pub(super) database: Option<String>,
    /// How often everything is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=25))]
    pub(super) rounds: u8,
}

pub(super) async fn run(options: StoreOptions) -> anyhow::Result<Report> {
    let mut builder = tempfile::Builder::new();
    let builder = builder.prefix("flotilla-bench-");
    let folder = match options.folder {
        Some(folder) => builder.tempdir_in(folder)?,
        None => builder.tempdir()?,
    };
    let server = options.postgres.then(|| OwnServer::start_in(folder.path(), &[])).transpose()?;
    let database = match &server {
        Some(server) => Some(server.database()?),
        None => options.database,
    };
    // What is written here is dated long ago.
    let postgres = database.map(|url| postgres::Options { retention_days: 0, ..postgres::Options::new(&url) });
    let settings = BenchOptions {
        each: Duration::from_secs(options.seconds),
        rounds: options.rounds.into(),
        postgres,
        ..BenchOptions::default()
    };
    let found = bench_store(folder.path(), &settings).await?;
    let mut report = Report::new("store");
    for engine in found.engines {
        tell(&mut report, engine);
    }
    report.figure("disk: fdatasync of 4 KiB, median", found.fdatasync.p50_us as f64, "us");
    report.figure("disk: fdatasync of 4 KiB, p99", found.fdatasync.p99_us as f64, "us");
    report.note(format!("{} shards commit at the same time", settings.writers));
    report.note(format!("median of {} rounds; CPU is this process's, a server's is not in it", settings.rounds));
    Ok(report)
}

fn tell(report: &mut Report, found: EngineBench) {
    let engine = found.engine;
    for commit in found.commits {
        let name = |what: &str| format!("{engine}, batches of {}: {what}", commit.batch_events);
        report.figure(name("durable events"), commit.events_per_s, "/s");
        report.figure(name("commit, p50"), commit.latency.p50_us as f64 / 1e3, "ms");
        report.figure(name("commit, p99"), commit.latency.p99_us as f64 / 1e3, "ms");
        report.figure(name("CPU per event"), commit.cpu_us_per_event, "us");
    }
    for rows in found.rows {
        report.figure(format!("{engine}, rows, {}", rows.what), rows.rows_per_s, "/s");
        report.figure(format!("{engine}, rows, {}: CPU per row", rows.what), rows.cpu_us_per_row, "us");
    }
}
