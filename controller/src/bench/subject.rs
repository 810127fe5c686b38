//! The installation under test: `flotilla demo` as a child process, with its fleet in a further one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::client::{Connection, request};

/// First line that `flotilla demo --json` prints.
#[derive(Deserialize)]
struct Announcement {
    url: String,
    key: String,
    pid: u32,
}

pub(super) struct Subject {
    pub(super) address: SocketAddr,
    pub(super) key: String,
    /// Of the controller.
    pub(super) pid: u32,
    child: Child,
    folder: tempfile::TempDir,
}

impl Subject {
    /// Starts an installation with `devices` simulated devices whose radios answer at once.
    pub(super) async fn start(devices: u32, sims_window: Option<u16>) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("flotilla-bench-").tempdir()?;
        let program = std::env::current_exe().context("finding this program's own file")?;
        let mut command = Command::new(program);
        command
            .args(["demo", "--json", "--instant", "--http", "127.0.0.1:0", "--quic", "127.0.0.1:0"])
            .arg("--devices")
            .arg(devices.to_string())
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "warn".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(window) = sims_window {
            command.arg("--window").arg(window.to_string());
        }
        let mut child = command.spawn().context("starting flotilla demo")?;
        let stdout = child.stdout.take().ok_or_else(|| anyhow!("no stdout"))?;
        let first = BufReader::new(stdout).lines().next_line().await?;
        let Some(line) = first else { bail!("flotilla demo ended before it was ready") };
        let Announcement { url, key, pid } = serde_json::from_str(&line).context("reading what demo announced")?;
        let address = url.trim_start_matches("http://").trim_end_matches('/').parse().context("reading its address")?;
        Ok(Self { address, key, pid, child, folder })
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.folder.path().to_path_buf()
    }

    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        Ok(Connection::open(self.address).await?)
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<serde_json::Value> {
        let mut connection = self.connect().await?;
        let bytes = request("GET", path, &self.key, "application/json", b"");
        let (status, body) = connection.exchange(&bytes).await?;
        if status != 200 {
            bail!("GET {path} answered {status}: {}", String::from_utf8_lossy(body));
        }
        Ok(serde_json::from_slice(body)?)
    }

    /// Resident memory of the controller, in bytes.
    pub(super) fn resident_bytes(&self) -> anyhow::Result<u64> {
        resident_bytes(self.pid)
    }

    /// Processor time the controller has used, in seconds.
    pub(super) fn cpu_s(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // The name may hold spaces; fields are counted behind its closing parenthesis.
        let rest = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
        let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| rustix::process::Pid::from_raw(pid as i32)) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        }
        let status = self.child.wait().await?;
        if !status.success() {
            bail!("flotilla demo ended with {status}");
        }
        Ok(())
    }
}

fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let statm = std::fs::read_to_string(format!("/proc/{pid}/statm"))?;
    let pages: u64 = statm.split_whitespace().nth(1).context("statm has no second field")?.parse()?;
    Ok(pages * rustix::param::page_size() as u64)
}
