//! AT modems on serial ports (3GPP TS 27.005 and 27.007).
//!
//! Each `[[modem]]` is one [`Modem`] with one slot. A task of its own, [`driver`], holds the port and is spoken to through
//! two bounded channels; [`at`] is the modem's language and knows no IO, [`errors`] the one table of error codes.
//!
//! What is promised beyond [`Radio`]:
//! - Received TPDUs stay in the modem's storage, or, delivered directly, in a spool on disk, until the outbox has them.
//! - A PDU is handed over once. When its outcome stays open, it is reported as unknown and never repeated.
//! - A PIN that was refused is not tried again, also after a restart.

mod at;
mod channel;
mod driver;
mod errors;
mod inbox;
mod pin;
#[doc(hidden)]
pub mod scripted;
mod settings;
mod sim;
mod spool;
mod status;
mod ussd;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};

use flotilla_protocol::wire::{NotSent, SimInfo};
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use settings::{ModemConfig, ModemConfigError, Pin, PinError};

use channel::{Opener, SerialOpener};
use driver::{Driver, Order};
use inbox::Inbox;
use pin::PinGuard;
use settings::Timing;
use spool::Spool;
use status::{Status, unknown_sim};

use super::{Radio, RadioEvent, SendJob, SendOutcome};
use crate::clock::Clock;

/// Jobs, USSD codes and tokens that wait while a command runs. A storage of 255 places may be confirmed at once.
const ORDERS_MAX: usize = 1024;
const EVENTS_MAX: usize = 64;

/// Why a modem can not be started.
#[derive(Debug, thiserror::Error)]
#[error("the modem's folder {path} can not be used; it has to be writable")]
pub struct StartError {
    path: String,
    #[source]
    source: std::io::Error,
}

/// One modem: a [`Radio`] with one slot.
#[derive(Debug)]
pub struct Modem {
    slot: u8,
    sim: Arc<Mutex<SimInfo>>,
    orders: mpsc::Sender<Order>,
    events: mpsc::Receiver<RadioEvent>,
    /// Answers to what could not even be ordered.
    refusals: VecDeque<RadioEvent>,
}

impl Modem {
    /// Starts the modem's task on the current runtime. `dir` is this modem's own folder, for received messages that are
    /// under way. The port need not be there yet.
    pub fn start(config: &ModemConfig, slot: u8, dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let opener = SerialOpener { path: config.port.clone(), baud: config.baud };
        Self::start_with(config, slot, dir, clock, Box::new(opener), config.timing())
    }

    fn start_with(
        config: &ModemConfig,
        slot: u8,
        dir: &Path,
        clock: Arc<dyn Clock>,
        opener: Box<dyn Opener>,
        timing: Timing,
    ) -> Result<Self, StartError> {
        let spool = Spool::open(dir).map_err(|source| StartError { path: dir.display().to_string(), source })?;
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let (told, events) = mpsc::channel(EVENTS_MAX);
        let sim = Arc::new(Mutex::new(unknown_sim(slot)));
        let driver = Driver {
            label: config.label(),
            slot,
            pin: config.pin.clone(),
            timing,
            opener,
            clock,
            orders: ordered,
            status: Status::new(slot, told, sim.clone()),
            inbox: Inbox::new(slot, timing.parts.as_millis() as u64),
            spool,
            guard: PinGuard::new(dir),
        };
        tokio::spawn(driver.run());
        Ok(Self { slot, sim, orders, events, refusals: VecDeque::new() })
    }
}

impl Radio for Modem {
    fn sims(&self) -> Vec<SimInfo> {
        vec![self.sim.lock().clone()]
    }

    fn send(&mut self, job: SendJob) {
        let attempt = job.attempt;
        let reason = if job.slot == self.slot { NotSent::SimNotReady } else { NotSent::NoSuchSim };
        if job.slot != self.slot || self.orders.try_send(Order::Send(job)).is_err() {
            self.refusals.push_back(RadioEvent::Result { attempt, outcome: SendOutcome::NotSent(reason) });
        }
    }

    fn stored(&mut self, _slot: u8, token: u64) {
        if self.orders.try_send(Order::Stored(token)).is_err() {
            // It stays where it is, and is offered again under its digest after the next start.
            tracing::debug!(slot = self.slot, "a confirmation was dropped");
        }
    }

    fn ussd(&mut self, request: u32, _slot: u8, code: String) {
        if self.orders.try_send(Order::Ussd { request, code }).is_err() {
            let result = Err("the modem is busy; try again later".to_owned());
            self.refusals.push_back(RadioEvent::Ussd { request, result });
        }
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RadioEvent>> {
        match self.refusals.pop_front() {
            Some(refusal) => Poll::Ready(Some(refusal)),
            None => self.events.poll_recv(cx),
        }
    }
}

#[cfg(test)]
mod tests;
