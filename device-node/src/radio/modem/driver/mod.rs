//! The task that owns a modem: opens its port, serves it, and opens it again when it was lost.
//!
//! One [`session::Session`] lasts from the opening of the port to its failure. Orders are answered between sessions too:
//! a job is refused as not sent, so that it can move to another SIM at once.

mod receiving;
mod sending;
mod session;
mod setup;
mod watching;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;

use flotilla_protocol::wire::{NotSent, SimState};
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep_until};

use super::channel::{Channel, ChannelError, Opener};
use super::inbox::{Inbox, Source};
use super::pin::PinGuard;
use super::settings::{Pin, Timing};
use super::spool::Spool;
use super::status::Status;
use crate::clock::Clock;
use crate::radio::{RadioEvent, SendJob, SendOutcome};

/// Sessions without a single answer, after which the modem is told blindly to start anew.
const MUTE_SESSIONS_MAX: u32 = 3;

/// What the agent wants of a modem.
#[derive(Debug)]
pub(super) enum Order {
    Send(SendJob),
    Stored(u64),
    Ussd { request: u32, code: String },
}

pub(super) struct Driver {
    pub(super) label: String,
    pub(super) slot: u8,
    pub(super) pin: Option<Pin>,
    pub(super) timing: Timing,
    pub(super) opener: Box<dyn Opener>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) status: Status,
    pub(super) inbox: Inbox,
    pub(super) spool: Spool,
    pub(super) guard: PinGuard,
}

/// Why a session is over.
#[derive(Debug, thiserror::Error)]
enum End {
    /// Nobody wants this modem any more.
    #[error("the agent has gone")]
    Closed,
    #[error(transparent)]
    Lost(#[from] ChannelError),
    /// It was told to start anew, after it had stopped answering.
    #[error("the modem was reset since it did not answer")]
    Reset,
    /// It has started anew by itself, or has another SIM.
    #[error("the modem has to be set up again")]
    Renewed,
}

impl End {
    /// The port is not there: the modem is unplugged.
    fn is_absent(&self) -> bool {
        matches!(self, Self::Lost(ChannelError::Gone(error)) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl Driver {
    /// Ends when the agent has dropped its side.
    pub(super) async fn run(mut self) {
        let (mut backoff, mut mute, mut was_absent) = (self.timing.reopen, 0, false);
        loop {
            let mut answered = false;
            let Err(end) = self.serve(&mut answered, mute >= MUTE_SESSIONS_MAX).await;
            let absent = end.is_absent();
            // A port that is not there says nothing about the modem: one that comes back must not begin with a reset.
            mute = if answered || absent || mute >= MUTE_SESSIONS_MAX { 0 } else { mute + 1 };
            if answered {
                backoff = self.timing.reopen;
            }
            let backoff_max = if absent { self.timing.reopen_absent_max } else { self.timing.reopen_max };
            backoff = backoff.min(backoff_max);
            let (state, pause) = match &end {
                End::Closed => return,
                End::Renewed => (None, Duration::ZERO),
                End::Reset => (Some(SimState::Faulty), self.timing.reset),
                End::Lost(_) if absent => (Some(SimState::Absent), backoff),
                End::Lost(_) => (Some(SimState::Faulty), backoff),
            };
            // Said once, not every few seconds until somebody plugs it in.
            if !(absent && was_absent) {
                tracing::warn!(modem = self.label, slot = self.slot, reason = %Reason(&end), "modem session over");
            }
            was_absent = absent;
            if let Some(state) = state {
                self.status.set_state(state).await;
                backoff = (backoff * 2).min(backoff_max);
            }
            if self.wait(pause).await.is_err() {
                return;
            }
        }
    }

    async fn serve(&mut self, answered: &mut bool, reset_first: bool) -> Result<Infallible, End> {
        let port = self.opener.open().map_err(ChannelError::Gone)?;
        let mut channel = Channel::new(port, self.timing);
        if reset_first {
            channel.reset().await?;
            return Err(End::Reset);
        }
        session::Session::start(self, channel, answered).await?.run().await
    }

    /// Lets time pass, and refuses what is ordered meanwhile.
    async fn wait(&mut self, pause: Duration) -> Result<(), End> {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = sleep_until(until) => return Ok(()),
                order = self.orders.recv() => match order.ok_or(End::Closed)? {
                    Order::Send(job) => self.refuse(&job, NotSent::SimNotReady).await,
                    Order::Ussd { request, .. } => self.answer_ussd(request, Err("the modem is not connected")).await,
                    // Nothing in the modem can be deleted now; it is read again later and known by its digest.
                    Order::Stored(token) => self.forget_spooled(token).await,
                },
            }
        }
    }

    async fn forget_spooled(&mut self, token: u64) {
        for source in self.inbox.stored(token) {
            if let Source::Spool(key) = source
                && let Err(error) = self.spool.remove(key).await
            {
                tracing::warn!(modem = self.label, %error, "a received message stays in the spool");
            }
        }
    }

    async fn refuse(&self, job: &SendJob, reason: NotSent) {
        let outcome = SendOutcome::NotSent(reason);
        self.status.emit(RadioEvent::Result { attempt: job.attempt, outcome }).await;
    }

    async fn answer_ussd(&self, request: u32, result: Result<String, &str>) {
        let result = result.map_err(str::to_owned);
        self.status.emit(RadioEvent::Ussd { request, result }).await;
    }
}

/// An error with its source, once.
struct Reason<'a>(&'a End);

impl std::fmt::Display for Reason<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        match self.0 {
            End::Lost(ChannelError::Gone(error)) => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}
