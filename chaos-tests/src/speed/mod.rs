//! `chaos-tests speed`: what several controllers and PostgreSQL cost, against a single controller on the same machine.
//!
//! All installations run at the same time and take turns, so that a busy machine or a slow disk is the same for all of
//! them. Every tenant uploads through a controller that is chosen without regard to its shard, as a balancer does, and a
//! turn ends when the tenants' statistics have counted the delivery of every message.

mod installation;
mod processes;

use std::fmt;
use std::path::PathBuf;

use flotilla_controller::bench::disk;
use flotilla_controller::bench::report::{Report, median};

use crate::process::Programs;
use installation::{Installation, Turn};
use processes::Servers;

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// One controller with files in its folder
    Sqlite,
    /// One controller with PostgreSQL
    Postgres,
    /// Three controllers with etcd and PostgreSQL
    Cluster,
}

impl Kind {
    pub const ALL: [Self; 3] = [Self::Sqlite, Self::Postgres, Self::Cluster];

    fn controllers(self) -> usize {
        if self == Self::Cluster { 3 } else { 1 }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::Cluster => "cluster",
        })
    }
}

#[derive(Debug, Clone)]
pub struct Options {
    pub kinds: Vec<Kind>,
    pub shards: u16,
    pub tenants: usize,
    pub devices_per_tenant: usize,
    pub window: u16,
    /// Of each turn.
    pub messages: u64,
    pub rounds: u32,
    pub programs: Programs,
    pub folder: PathBuf,
}

/// `None` when this machine lacks etcd or PostgreSQL, which is said.
pub async fn run(options: &Options) -> anyhow::Result<Option<Report>> {
    let Some(servers) = Servers::start(options).await? else { return Ok(None) };
    let mut all = Vec::new();
    for kind in &options.kinds {
        all.push((Installation::start(*kind, options, &servers).await?, Vec::new()));
    }
    let (mut typical, mut worst) = (Vec::new(), 0.0_f64);
    for round in 0..options.rounds as usize {
        for (installation, turns) in &mut all {
            turns.push(installation.turn(round, options.messages, &servers).await?);
            let (us, slowest) = disk::fdatasync_us(&options.folder)?;
            typical.push(us);
            worst = worst.max(slowest);
        }
    }
    let mut report = Report::new("speed");
    let mut rates = Vec::new();
    for (installation, turns) in &mut all {
        rates.push((installation.kind, tell(&mut report, installation, turns, &servers)?));
        installation.stop().await?;
    }
    if let Some((_, single)) = rates.iter().find(|(kind, _)| *kind == Kind::Sqlite) {
        for (kind, rate) in rates.iter().filter(|(kind, _)| *kind != Kind::Sqlite) {
            report.figure(format!("{kind} : sqlite"), rate / single, "ratio");
        }
    }
    report.figure("disk: fdatasync of 4 KiB, median of all turns", median(&mut typical), "us");
    report.figure("disk: fdatasync of 4 KiB, worst", worst, "us");
    report.note(format!(
        "{} shards, {} tenants with {} devices each, {} messages a turn, {} turns each",
        options.shards, options.tenants, options.devices_per_tenant, options.messages, options.rounds
    ));
    report.note("controllers, servers, fleets and the load generator share this machine");
    Ok(Some(report))
}

/// Gives the rate that installations are compared by.
fn tell(report: &mut Report, installation: &Installation, turns: &[Turn], servers: &Servers) -> anyhow::Result<f64> {
    let kind = installation.kind;
    let of = |figure: fn(&Turn) -> f64| median(&mut turns.iter().map(figure).collect::<Vec<_>>());
    let accepted = of(|turn| turn.accepted_per_s);
    report.figure(format!("{kind}: start until every shard is led"), installation.start_ms, "ms");
    for (number, mb) in installation.idle_mb.iter().enumerate() {
        report.figure(format!("{kind}: memory of controller {number}, no tenants yet"), *mb, "MB");
    }
    report.figure(format!("{kind}: CPU when idle, all controllers"), installation.idle_cpu_percent, "% of a core");
    report.figure(format!("{kind}: accepted, durable"), accepted, "/s");
    let mut rate = accepted;
    if installation.has_devices() {
        rate = of(|turn| turn.delivered_per_s);
        report.figure(format!("{kind}: delivered and counted"), rate, "/s");
        report.figure(format!("{kind}: fleet CPU per message"), of(|turn| turn.fleet_us), "us");
    }
    report.figure(format!("{kind}: controllers' CPU per message"), of(|turn| turn.controllers_us), "us");
    if kind != Kind::Sqlite {
        report.figure(format!("{kind}: PostgreSQL's CPU per message"), of(|turn| turn.postgres_us), "us");
        report.figure(format!("{kind}: connections to PostgreSQL"), servers.connections(kind)?, "");
    }
    if kind == Kind::Cluster {
        report.figure(format!("{kind}: uploads that were forwarded"), of(|turn| turn.forwarded_percent), "%");
    }
    for (number, (mb, files)) in installation.memory_and_files()?.into_iter().enumerate() {
        report.figure(format!("{kind}: memory of controller {number} at the end"), mb, "MB");
        report.figure(format!("{kind}: open files of controller {number}"), files, "");
    }
    Ok(rate)
}
