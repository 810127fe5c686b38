//! One device: its machine, and the task that drives it between line, outbox and radio.
//!
//! Whoever starts an agent polls its future and starts it anew when it ends with [`Exit::RadioGone`]. Everything that
//! must survive is in the outbox, so an agent may be dropped at any instant.

mod drive;
mod lease;
mod line;
pub mod machine;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flotilla_protocol::wire::{DeviceInfo, SimHealth, SimInfo, SimState};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::identity::IdentityStore;
use crate::link::Links;
use crate::outbox::{DeviceError, Outbox, OutboxDown, State};
use crate::radio::Radio;

pub use drive::run;
pub use line::LineStatus;

/// State of the machine's power, where it is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Power {
    pub battery_percent: Option<u8>,
    pub charging: Option<bool>,
}

/// What an agent is made of.
pub struct Parts {
    pub clock: Arc<dyn Clock>,
    pub links: Links,
    pub outbox: Outbox,
    pub identities: IdentityStore,
    pub info: DeviceInfo,
    pub radio: Box<dyn Radio>,
    pub config: machine::Config,
    pub power: Option<Arc<dyn Fn() -> Power + Send + Sync>>,
    /// Counts the connected devices of a process.
    pub presence: Option<Arc<AtomicUsize>>,
    /// For jitter and the ids of inbound messages.
    pub seed: u64,
}

/// Why an agent has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    Stopped,
    /// The device may never connect again: it has to be enrolled anew.
    Revoked {
        detail: String,
    },
    /// Its radio is gone for good: start it again with a new one.
    RadioGone,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("this device is not enrolled: run `flotilla-node enroll` with a code first")]
    NotEnrolled,
    #[error(transparent)]
    Identity(#[from] crate::identity::IdentityError),
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error(transparent)]
    Outbox(#[from] OutboxDown),
}

/// What `status` shows of one device.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AgentStatus {
    pub device: String,
    pub tenant: String,
    pub tenant_name: String,
    pub line: LineStatus,
    pub sims: Vec<SimStatus>,
    /// Attempts without a result.
    pub attempts_open: usize,
    /// Reports without an acknowledgement.
    pub reports_open: usize,
    /// Sent attempts that wait for status reports.
    pub awaiting: usize,
    pub outbox_full: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SimStatus {
    pub slot: u8,
    pub state: SimState,
    pub operator: String,
    pub signal_dbm: Option<i16>,
    /// The controller's id for it, once connected.
    pub sim: Option<String>,
}

impl SimStatus {
    fn new(sim: &SimInfo, health: Option<&SimHealth>, id: Option<String>) -> Self {
        let operator = health.map(|health| &health.operator).filter(|operator| !operator.is_empty());
        Self {
            slot: sim.slot,
            state: sim.state,
            operator: operator.unwrap_or(&sim.operator).clone(),
            signal_dbm: health.and_then(|health| health.signal_dbm),
            sim: id,
        }
    }
}

enum Command {
    Status(oneshot::Sender<AgentStatus>),
    Reconnect,
    NetworkChanged,
    Log { level: u8, target: String, line: String },
    Stop,
}

/// How others reach a running agent. All of them may be gone: the agent runs on.
#[derive(Clone)]
pub struct AgentHandle(mpsc::Sender<Command>);

/// The other end of an [`AgentHandle`], for [`run`].
pub struct Commands(mpsc::Receiver<Command>);

const COMMANDS_MAX: usize = 32;

pub fn handle() -> (AgentHandle, Commands) {
    let (sender, receiver) = mpsc::channel(COMMANDS_MAX);
    (AgentHandle(sender), Commands(receiver))
}

impl AgentHandle {
    /// `None` when the agent has ended.
    pub async fn status(&self) -> Option<AgentStatus> {
        let (sender, receiver) = oneshot::channel();
        self.0.send(Command::Status(sender)).await.ok()?;
        receiver.await.ok()
    }

    /// Connects anew, at once: the network has changed.
    pub async fn reconnect(&self) {
        // An agent that has ended needs no link.
        let _ = self.0.send(Command::Reconnect).await;
    }

    /// The process has new sockets. A link over QUIC moves with them, one over TCP connects anew.
    pub async fn network_changed(&self) {
        // An agent that has ended needs no link.
        let _ = self.0.send(Command::NetworkChanged).await;
    }

    /// Offers a line of the log; dropped when nobody wants it or the agent is busy. Levels: 1 error to 5 trace.
    pub fn log(&self, level: u8, target: &str, line: &str) {
        let _ = self.0.try_send(Command::Log { level, target: target.to_owned(), line: line.to_owned() });
    }

    /// Finishes what is under way and ends.
    pub async fn stop(&self) {
        let _ = self.0.send(Command::Stop).await;
    }
}

fn fresh_or(state: Option<State>, outbox: &Outbox) -> (State, bool) {
    let fresh = state.is_none();
    (state.unwrap_or_else(|| State::new(outbox.limits())), fresh)
}

/// Counted while it lives.
struct Present(Arc<AtomicUsize>);

impl Present {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count.clone())
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
