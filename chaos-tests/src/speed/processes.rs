//! The servers that installations share, and what the kernel says about processes.

use std::path::Path;

use anyhow::{Context, ensure};
use flotilla_cluster::testing::EtcdServers;
use flotilla_controller::store::postgres::own::{OwnError, OwnServer};

use super::{Kind, Options};

/// Only what some installation needs is started.
pub(super) struct Servers {
    pub(super) etcd: Option<EtcdServers>,
    postgres: Option<OwnServer>,
}

impl Servers {
    pub(super) async fn start(options: &Options) -> anyhow::Result<Option<Self>> {
        let mut servers = Self { etcd: None, postgres: None };
        if options.kinds.iter().any(|kind| *kind != Kind::Sqlite) {
            let folder = options.folder.clone();
            servers.postgres = match tokio::task::spawn_blocking(move || OwnServer::start_in(&folder, &[])).await? {
                Ok(server) => Some(server),
                Err(error @ (OwnError::Missing | OwnError::NoUser)) => {
                    ensure!(std::env::var_os("FLOTILLA_TESTS_REQUIRE_ALL").is_none_or(|value| value != "1"), "{error}");
                    eprintln!("skipped: {error}");
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
        }
        if options.kinds.contains(&Kind::Cluster) {
            let Some(etcd) = EtcdServers::start(1).await else { return Ok(None) };
            servers.etcd = Some(etcd);
        }
        Ok(Some(servers))
    }

    fn postgres(&self) -> anyhow::Result<&OwnServer> {
        self.postgres.as_ref().context("PostgreSQL was not started")
    }

    /// Makes a database of its own; its URL.
    pub(super) fn database(&self, kind: Kind) -> anyhow::Result<String> {
        let postgres = self.postgres()?;
        postgres.sql("postgres", &format!("CREATE DATABASE speed_{kind}"))?;
        Ok(postgres.url(&format!("speed_{kind}")))
    }

    pub(super) fn connections(&self, kind: Kind) -> anyhow::Result<f64> {
        let count = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = 'speed_{kind}'");
        Ok(self.postgres()?.sql("postgres", &count)?.parse()?)
    }

    /// Processor time of PostgreSQL's processes, those that have ended among them. Seconds.
    pub(super) fn postgres_cpu_s(&self) -> anyhow::Result<f64> {
        let Some(postgres) = &self.postgres else { return Ok(0.0) };
        let main = postgres.pid()?;
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children"))?;
        // One that has just ended is counted in the main process.
        let running =
            children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter_map(|pid| cpu_s(pid, 2).ok());
        Ok(cpu_s(main, 4)? + running.sum::<f64>())
    }
}

/// Processor time of a process: the first two fields are its own in user and kernel mode, the next two those of ended children.
pub(super) fn cpu_s(pid: u32, fields: usize) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name may hold spaces; fields are counted behind its closing parenthesis.
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = rest.split_whitespace().skip(11).take(fields).filter_map(|n| n.parse::<u64>().ok()).sum();
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

pub(super) fn resident_mb(pid: u32) -> anyhow::Result<f64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split_whitespace().nth(1).context("statm has no second field")?.parse()?;
    Ok(pages as f64 * rustix::param::page_size() as f64 / 1e6)
}

pub(super) fn open_files(pid: u32) -> anyhow::Result<f64> {
    let folder = format!("/proc/{pid}/fd");
    Ok(std::fs::read_dir(Path::new(&folder))?.count() as f64)
}
