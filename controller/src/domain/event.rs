//! What a shard's journal holds. These types are the disk format: variants and fields only grow at the end of a new
//! format version, and the golden bytes in the tests keep the old ones readable.
//!
//! Each change carries the few facts of its message that followers need, so that none of them has to look it up.

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{DeviceId, InboundId, MessageId, SimId, TenantId};
use flotilla_protocol::number::{Msisdn, Region};
use flotilla_routing::choice::Why;
use flotilla_routing::fact::Charge;
use serde::{Deserialize, Serialize};

use super::callback::callback_line;
use super::message::{Failure, Priority, Route, Submission};

/// One entry of a shard's history.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The leader's wall clock when it decided, Unix milliseconds; within a message it never goes back.
    pub at_ms: u64,
    pub kind: EventKind,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum EventKind {
    Accepted(Box<Accepted>),
    Changed(Changed),
    Inbound(Box<Inbound>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    pub submission: Submission,
    pub idempotency: Option<Idempotency>,
}

/// Ties the messages of one request to the key its client chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Idempotency {
    /// First half of SHA-256 over the client's key.
    pub key: [u8; 16],
    /// First half of SHA-256 over the request: the same key with another request is an error.
    pub request: [u8; 16],
    /// Place of this message among those of the request, and how many there are.
    pub index: u16,
    pub count: u16,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Changed {
    pub message: MessageId,
    pub tenant: TenantId,
    pub facts: Facts,
    pub change: Change,
    /// The attempt's segments have left with this change, or may have: once per attempt. Boxed, since few changes have one.
    pub charge: Option<Box<Charge>>,
}

/// What followers need to know of a message to count its changes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    pub accepted_ms: u64,
    pub segments: u8,
    pub priority: Priority,
    pub region: Option<Region>,
    pub campaign: Box<str>,
    /// Its client wants to hear of it (`callback_url`): in which line, see [`callback_line`]; 0 when not.
    pub callback: u8,
}

impl Facts {
    pub fn of(submission: &Submission) -> Self {
        Self {
            accepted_ms: submission.accepted_ms,
            segments: submission.segments,
            priority: submission.priority,
            region: submission.to.region(),
            campaign: submission.campaign.clone(),
            callback: callback_line(submission.callback_url.as_deref()),
        }
    }
}

/// The steps of a message's life after its acceptance.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Change {
    /// `scheduled -> queued`: its time has come.
    Due,
    /// `queued -> dispatching`: the intent, durable before the frame leaves.
    Dispatched { attempt: u16, route: Route, session: u64, why: Why },
    /// `dispatching | unknown | sent -> queued`: this attempt has not reached its recipient and never will, or may be repeated.
    /// `undelivered`: it had left, and the network has given it up.
    Returned { attempt: u16, route: Route, why: Failure, retry_ms: u64, undelivered: bool },
    /// `dispatching -> unknown`, or `unknown` once more when it becomes final: `lost` says that the device has reported that
    /// it does not know either. Without it the device's next list of what it holds can still clear the doubt.
    Doubted { attempt: u16, route: Route, lost: bool },
    /// `dispatching | unknown -> sent`. The time is the device's, held between the dispatch and now; `took_ms` is how long after
    /// its dispatch that was.
    Sent { attempt: u16, route: Route, sent_ms: u64, took_ms: u64 },
    /// One of several segments is delivered, others are missing; the state stays.
    SegmentDelivered { attempt: u16, route: Route, segment: u8 },
    /// `sent -> delivered`: the report of the last missing segment, instead of its `SegmentDelivered`. `sent_ms` as in `Sent`,
    /// which always comes before: where the delivery report was the first sign of life, both are written together.
    Delivered { attempt: u16, route: Route, sent_ms: u64, delivered_ms: u64 },
    /// `-> failed`. `undelivered`: it had left, and the network has given it up.
    Failed { attempt: u16, route: Option<Route>, why: Failure, undelivered: bool },
    /// `-> expired`: validity over, by state: never sent, in doubt, or sent without a delivery report.
    Expired { attempt: u16, route: Option<Route>, why: Failure },
    /// `-> cancelled`.
    Cancelled,
}

/// A message that a gateway received.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Inbound {
    pub id: InboundId,
    pub tenant: TenantId,
    pub device: DeviceId,
    pub sim: SimId,
    /// Position of its report: inbound messages of a device are taken once each, in this order.
    pub position: u64,
    pub from: Address,
    pub to: Option<Msisdn>,
    pub text: Box<str>,
    pub segments: u8,
    /// When the network took it (TP-SCTS), and when the device had it whole. Unix milliseconds.
    pub sent_ms: Option<u64>,
    pub received_ms: u64,
}

impl std::fmt::Debug for Inbound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inbound").field("id", &self.id).field("device", &self.device).finish_non_exhaustive()
    }
}
