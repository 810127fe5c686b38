//! `serve`: a controller until it is told to stop.

use std::io::IsTerminal;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app::{self, Node, root_key};
use crate::config::{self, Config, Sources};
use crate::telemetry;

/// What a shell reports for a program that Ctrl-C has ended.
const INTERRUPTED: i32 = 130;

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  flotilla serve --data-dir /var/lib/flotilla --http 127.0.0.1:8080 --quic 0.0.0.0:7443\n\n\
    Ctrl-C or SIGTERM: requests under way are answered, links are closed, then it ends. A second one ends it at once;\n\
    what was acknowledged is safe either way."
)]
pub(super) struct Serve {
    #[command(flatten)]
    sources: Sources,
}

impl Serve {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let config = config::load(&self.sources)?;
        telemetry::logs(&config.log)?;
        let mut stop = StopSignals::listen()?;
        let mut node = app::start(&config).await?;
        announce(&config, &node)?;
        tokio::select! {
            () = stop.next() => {}
            error = node.failed() => {
                down(node, &mut stop).await;
                return Err(error);
            }
        }
        down(node, &mut stop).await;
        Ok(())
    }
}

/// The key itself only goes to a person's screen: logs travel.
fn announce(config: &Config, node: &Node) -> anyhow::Result<()> {
    let Some(file) = &node.new_root_key else { return Ok(()) };
    tracing::info!(file = %file.display(), "made the root key; show it with `flotilla root-key`");
    if std::io::stderr().is_terminal() {
        let key = root_key::read(config)?;
        eprintln!("\nroot key of this installation (also in {}):\n  {}\n", file.display(), key.expose());
    }
    Ok(())
}

/// Shuts the node down, unless somebody loses patience.
pub(super) async fn down(node: Node, stop: &mut StopSignals) {
    tokio::select! {
        () = node.shutdown() => {}
        () = stop.next() => {
            tracing::warn!("ended at once");
            std::process::exit(INTERRUPTED);
        }
    }
}

/// Ctrl-C and SIGTERM.
pub(super) struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    pub(super) fn listen() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
