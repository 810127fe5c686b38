//! A message as it was asked for, and the states it goes through.

use flotilla_protocol::id::{MessageId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Body, ErrorClass, TextEncoding};
use flotilla_routing::Micros;
use serde::{Deserialize, Serialize};

pub use flotilla_routing::choice::Pin;
pub use flotilla_routing::route::{Priority, Route, RouteKind};

/// A message has at most this many segments, so that the delivered ones fit a `u32`.
pub const SEGMENTS_MAX: u8 = 32;

/// What to do with an attempt that may or may not have reached the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// At most once: wait for the device that knows, until the message expires.
    #[default]
    Never,
    /// At least once: go on after the lease.
    Allowed,
}

/// What a client asked for, checked and complete. Never changes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Submission {
    pub id: MessageId,
    pub tenant: TenantId,
    pub accepted_ms: u64,
    pub to: Msisdn,
    pub body: Body,
    pub encoding: TextEncoding,
    pub flash: bool,
    /// 1..=SEGMENTS_MAX, planned by the same code that the device uses.
    pub segments: u8,
    pub priority: Priority,
    pub duplicates: Duplicates,
    pub pin: Pin,
    /// Not before this time (Unix ms); the time of acceptance where nothing was asked.
    pub due_ms: u64,
    /// Not after this time (Unix ms), and final by then.
    pub expires_ms: u64,
    /// Shares of capacity are fair between campaigns of a tenant; empty when none was named.
    pub campaign: Box<str>,
    pub tags: Vec<Box<str>>,
    pub client_ref: Option<Box<str>>,
    /// The sender name or number that the recipient is to see: routes that cannot show it are left out.
    pub sender: Option<Box<str>>,
    /// The plan that the client has named; otherwise the tenant's rules choose one.
    pub plan: Option<Box<str>>,
    /// What all attempts together may cost.
    pub max_cost: Option<Micros>,
    /// Where its events go, beside the tenant's webhooks.
    pub callback_url: Option<Box<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MessageState {
    Scheduled,
    Queued,
    Dispatching,
    /// An attempt is in doubt: only its device can tell whether it reached the network.
    Unknown,
    Sent,
    Delivered,
    Failed,
    Expired,
    Cancelled,
}

impl MessageState {
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Queued,
        Self::Dispatching,
        Self::Unknown,
        Self::Sent,
        Self::Delivered,
        Self::Failed,
        Self::Expired,
        Self::Cancelled,
    ];

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Delivered | Self::Failed | Self::Expired | Self::Cancelled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Dispatching => "dispatching",
            Self::Unknown => "unknown",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The number in rows and aggregates; never reused.
    pub const fn code(self) -> u8 {
        match self {
            Self::Scheduled => 1,
            Self::Queued => 2,
            Self::Dispatching => 3,
            Self::Unknown => 4,
            Self::Sent => 5,
            Self::Delivered => 6,
            Self::Failed => 7,
            Self::Expired => 8,
            Self::Cancelled => 9,
        }
    }

    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }
}

/// Why an attempt or a message did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub class: ErrorClass,
    /// Stable, for programs: `cms-38`, `tp-status-70`, `lease-over`, `validity-over`...
    pub code: Box<str>,
    /// For people; never a number or a text of the message.
    pub text: Box<str>,
}
