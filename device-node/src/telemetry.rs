//! Logs of the process: text or JSON on standard error, and what a controller asked for over the link.

use std::fmt::Write;
use std::sync::{Arc, OnceLock};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

use crate::agent::AgentHandle;
use crate::config::{LogConfig, LogFormat};

const OWN_TARGETS: &str = "flotilla";

/// Where the lines for a controller go, once there is an agent.
#[derive(Clone, Default)]
pub struct RemoteLog(Arc<OnceLock<AgentHandle>>);

impl RemoteLog {
    pub fn connect(&self, agent: AgentHandle) {
        // A second agent of this process has no log of its own.
        let _ = self.0.set(agent);
    }
}

/// Starts logging for the process. Without `remote` nothing below the configured level costs anything.
pub fn start(config: &LogConfig, remote: Option<RemoteLog>) -> Result<(), String> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| format!("`log.level`: {error}"))?;
    let wanted = |metadata: &Metadata<'_>| metadata.target().starts_with(OWN_TARGETS);
    let remote = remote.map(|remote| remote.with_filter(filter_fn(wanted).with_max_level_hint(LevelFilter::DEBUG)));
    let base = tracing_subscriber::registry().with(remote);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let started = match config.format {
        LogFormat::Text => base.with(lines.with_filter(filter)).try_init(),
        LogFormat::Json => base.with(lines.json().with_filter(filter)).try_init(),
    };
    started.map_err(|error| error.to_string())
}

impl<S: Subscriber> Layer<S> for RemoteLog {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let Some(agent) = self.0.get() else { return };
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        agent.log(number(*metadata.level()), metadata.target(), &line.0);
    }
}

fn number(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

#[derive(Default)]
struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let gap = if self.0.is_empty() { "" } else { " " };
        // Writing to a string does not fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{gap}{value:?}"),
            name => write!(self.0, "{gap}{name}={value:?}"),
        };
    }
}
