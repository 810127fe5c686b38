//! A program under test: started, killed without warning, and started again in the same place.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// The two programs, built beside the one that runs.
#[derive(Debug, Clone)]
pub struct Programs {
    pub controller: PathBuf,
    pub node: PathBuf,
}

impl Programs {
    /// For tests: has cargo build both, so that no stale program is tested. That takes minutes where they were only built with
    /// the features of tests, so the time is said: it is none of the test's own.
    pub fn built() -> anyhow::Result<Self> {
        let began = Instant::now();
        let Some(cargo) = std::env::var_os("CARGO") else { return Self::beside_this() };
        let mut build = std::process::Command::new(cargo);
        build.args(["build", "--quiet", "--locked", "--workspace", "--bins"]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let status = build.status().context("running cargo build")?;
        if !status.success() {
            bail!("cargo build ended with {status}");
        }
        println!("building the programs took {:.0} s", began.elapsed().as_secs_f64());
        Self::beside_this()
    }

    /// Finds `flotilla` and `flotilla-node` in the target folder that this program or test runs from.
    pub fn beside_this() -> anyhow::Result<Self> {
        let this = std::env::current_exe().context("finding this program's own file")?;
        // Tests run from `deps/`, programs from its parent.
        let folders = this.ancestors().skip(1).take(2);
        for folder in folders {
            let programs = Self { controller: folder.join("flotilla"), node: folder.join("flotilla-node") };
            if programs.controller.is_file() && programs.node.is_file() {
                return Ok(programs);
            }
        }
        bail!("flotilla and flotilla-node are not beside {}: run `cargo build --workspace` first", this.display())
    }
}

/// A command whose process the kernel kills when the thread that starts it ends, however that happens: a harness that is
/// killed leaves nothing behind. Without `setpriv` (util-linux) the process ends only with an orderly end of ours.
fn ends_with_us(file: &Path) -> Command {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let Some(setpriv) = std::env::split_paths(&path).map(|dir| dir.join("setpriv")).find(|file| file.is_file()) else {
        return Command::new(file);
    };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL", "--"]).arg(file);
    command
}

/// One program with its arguments; at most one running process.
#[derive(Debug)]
pub struct Program {
    file: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Option<Child>,
}

impl Program {
    pub fn new(file: &Path, arguments: &[&str], log: PathBuf) -> Self {
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        Self { file: file.to_owned(), arguments, log, child: None }
    }

    pub fn start(&mut self) -> anyhow::Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = ends_with_us(&self.file)
            .args(&self.arguments)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("starting {}", self.file.display()))?;
        self.child = Some(child);
        Ok(())
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill().await?;
        }
        Ok(())
    }

    /// Such as `STOP` and `CONT`.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|pid| Pid::from_raw(pid as i32));
        Ok(kill_process(pid.context("it does not run")?, signal)?)
    }

    /// Asks it to end and expects a clean exit.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        if self.child.is_none() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        let Some(mut child) = self.child.take() else { return Ok(()) };
        let status = child.wait().await?;
        if !status.success() {
            bail!("{} ended with {status}:\n{}", self.file.display(), self.log_tail());
        }
        Ok(())
    }

    /// Fails when the process has ended by itself: nobody killed it, so it is a finding.
    pub fn check_alive(&mut self) -> anyhow::Result<()> {
        if let Some(child) = &mut self.child
            && let Some(status) = child.try_wait()?
        {
            bail!("{} ended by itself with {status}:\n{}", self.file.display(), self.log_tail());
        }
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().and_then(Child::id)
    }

    pub fn log_tail(&self) -> String {
        const LINES: usize = 40;
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LINES)..].join("\n")
    }
}
