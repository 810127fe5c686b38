//! What sends: one trait over modems, phones and simulations.
//!
//! A radio is driven by one agent task. Orders (`send`, `ussd`, `stored`) never block; everything a radio has to say
//! comes out of `poll_event`. A radio with tasks of its own keeps a bounded `tokio::sync::mpsc::Receiver<RadioEvent>` and
//! polls that; one without (the simulated) keeps a timer.
//!
//! Promises of a radio:
//! - Each `send` is answered by exactly one `RadioEvent::Result`, also when the hardware is unplugged meanwhile.
//! - It never sends the same job twice, and never begins one after `SendJob::hand_over_by_ms`.
//! - An inbound message or a status report stays with the hardware until `stored` has been called with its token, so
//!   that a crash repeats it (with the same digest) instead of losing it.

mod log;
pub mod modem;
mod set;
pub mod simulated;

use std::task::{Context, Poll};

use flotilla_protocol::address::Address;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, Body, NotSent, SendError, SimHealth, SimInfo, TextEncoding};

pub use log::RadioLog;
pub use set::RadioSet;

/// One attempt to be put on the air.
#[derive(Clone, PartialEq)]
pub struct SendJob {
    /// Also the seed of whatever must differ between messages but be the same in all segments, such as the
    /// concatenation reference.
    pub attempt: Attempt,
    pub slot: u8,
    pub to: Msisdn,
    pub body: Body,
    pub encoding: TextEncoding,
    pub flash: bool,
    /// Ask for a status report of each segment.
    pub report: bool,
    /// For TP-VP: seconds from now.
    pub validity_s: u32,
    /// On [`crate::clock::Now::boot_ms`]: not begun by then, the answer is `NotSent(LeaseOver)`.
    pub hand_over_by_ms: u64,
}

impl std::fmt::Debug for SendJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SendJob").field("attempt", &self.attempt).field("slot", &self.slot).finish_non_exhaustive()
    }
}

/// How a job ended.
#[derive(Clone, Debug, PartialEq)]
pub enum SendOutcome {
    /// All segments are with the network.
    Sent {
        segments: u8,
        /// TP-MR of each segment, or empty when this radio names attempts in its status reports by itself.
        references: Vec<u8>,
    },
    /// Nothing of it reached the network, and nothing will.
    NotSent(NotSent),
    /// Refused; the first `segments_sent` had left before.
    Failed { error: SendError, segments_sent: u8 },
    /// Handed over, but whether the network took it can not be told: unplugged, no answer in time.
    Unknown,
}

/// Which segment a status report is about.
#[derive(Clone, Debug, PartialEq)]
pub enum ReportKey {
    /// As a network says it. The outbox finds the segment, also after a restart.
    Reference { to: Address, reference: u8 },
    /// From a radio that knows.
    Segment { attempt: Attempt, segment: u8 },
}

/// What became of a segment. Temporary states that the network will follow up are not reported at all.
#[derive(Clone, Debug, PartialEq)]
pub enum Delivery {
    Delivered,
    Undelivered(SendError),
}

/// What a radio says.
#[derive(Clone, PartialEq)]
pub enum RadioEvent {
    /// The whole inventory of this radio, whenever some of it has changed.
    Sims(Vec<SimInfo>),
    /// Fresh measurements of one SIM.
    Health(SimHealth),
    /// The one answer to a `send`.
    Result { attempt: Attempt, outcome: SendOutcome },
    StatusReport {
        slot: u8,
        key: ReportKey,
        delivery: Delivery,
        /// For `stored`.
        token: u64,
    },
    /// A complete message, reassembled.
    Inbound {
        slot: u8,
        from: Address,
        text: String,
        segments: u8,
        /// TP-SCTS, Unix milliseconds.
        sent_ms: Option<u64>,
        /// Of the raw PDUs: the same message read twice has the same one and is stored once.
        digest: u64,
        /// For `stored`.
        token: u64,
    },
    /// The one answer to a `ussd`.
    Ussd { request: u32, result: Result<String, String> },
}

impl std::fmt::Debug for RadioEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Sims(sims) => f.debug_tuple("Sims").field(&sims.len()).finish(),
            Self::Health(health) => f.debug_tuple("Health").field(&health.slot).finish(),
            Self::Result { attempt, outcome } => {
                f.debug_struct("Result").field("attempt", attempt).field("outcome", outcome).finish()
            }
            Self::StatusReport { slot, delivery, .. } => {
                f.debug_struct("StatusReport").field("slot", slot).field("delivery", delivery).finish_non_exhaustive()
            }
            Self::Inbound { slot, .. } => f.debug_struct("Inbound").field("slot", slot).finish_non_exhaustive(),
            Self::Ussd { request, .. } => f.debug_struct("Ussd").field("request", request).finish_non_exhaustive(),
        }
    }
}

/// A segment of an earlier life of the agent, without a status report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outstanding {
    pub attempt: Attempt,
    pub slot: u8,
    pub segment: u8,
}

/// One physical gateway: a modem, a phone, a simulation. It may hold several SIM slots; slot numbers are unique in a device.
pub trait Radio: Send + 'static {
    /// The inventory as known now. Slots that may still come up are listed as `Absent`.
    fn sims(&self) -> Vec<SimInfo>;

    /// Takes a job for one of its slots. At most `SimInfo::depth` of a slot are under way at once.
    fn send(&mut self, job: SendJob);

    /// Called once at the start, oldest first. A network remembers what it has to report; only a simulated one is told.
    fn resume(&mut self, _outstanding: Vec<Outstanding>) {}

    /// The event with this token is durable: the hardware may forget it.
    fn stored(&mut self, slot: u8, token: u64);

    /// Runs a USSD code.
    fn ussd(&mut self, request: u32, slot: u8, code: String);

    /// The next event. `None` says that this radio is gone for good and the agent has to be started anew; a
    /// modem that is unplugged is not gone, its SIM is `Absent`.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<RadioEvent>>;
}
