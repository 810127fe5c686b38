//! What an outbox remembers, as records in the order in which they became true.
//!
//! A device's durable state is the fold of its records (see [`super::State`]). These are disk types: variants and fields only
//! ever grow at the end, within one `VERSION`; golden bytes in the tests keep that honest.

use flotilla_protocol::id::Epoch;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Attempt, Body, Dispatch, InboundMessage, NotSent, ReportKind, SendError, TextEncoding};
use serde::{Deserialize, Serialize};

/// Of the form of records and snapshots.
pub(super) const VERSION: u8 = 1;

/// All that is needed to send an attempt, without the lease: that one lives in memory only.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    pub attempt: Attempt,
    pub epoch: Epoch,
    pub slot: u8,
    pub to: Msisdn,
    pub body: Body,
    pub encoding: TextEncoding,
    pub flash: bool,
    pub report: bool,
    pub validity_s: u32,
}

impl From<Dispatch> for Job {
    fn from(dispatch: Dispatch) -> Self {
        let Dispatch { attempt, epoch, slot, to, body, encoding, flash, report, validity_s, .. } = dispatch;
        Self { attempt, epoch, slot, to, body, encoding, flash, report, validity_s }
    }
}

/// One fact about one device. Those that make a report give it the device's next position.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Record {
    /// The first record of a device: its first report will have this position.
    Started {
        position: u64,
    },
    Arrived(Box<Job>),
    /// The decision to hand over. From here on a crash leaves the attempt in doubt.
    Sending(Attempt),
    Sent {
        attempt: Attempt,
        at_ms: u64,
        segments: u8,
        references: Vec<u8>,
    },
    NotSent {
        attempt: Attempt,
        at_ms: u64,
        reason: NotSent,
    },
    Failed {
        attempt: Attempt,
        at_ms: u64,
        error: SendError,
        segments_sent: u8,
    },
    Unknown {
        attempt: Attempt,
        at_ms: u64,
    },
    Delivered {
        attempt: Attempt,
        at_ms: u64,
        segment: u8,
    },
    Undelivered {
        attempt: Attempt,
        at_ms: u64,
        segment: u8,
        error: SendError,
    },
    Inbound {
        at_ms: u64,
        digest: u64,
        message: InboundMessage,
    },
    /// The answer to a repeated dispatch whose result was acknowledged before.
    Again {
        at_ms: u64,
        kind: ReportKind,
    },
    /// Reports up to here are durable at a controller.
    Acked {
        position: u64,
    },
    EpochSeen(Epoch),
    Controllers(Vec<String>),
}

impl Record {
    /// True for what may wait for the next record that may not: losing it only repeats a report.
    pub fn is_lazy(&self) -> bool {
        matches!(self, Self::Acked { .. })
    }
}
