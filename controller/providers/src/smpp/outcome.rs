//! What became of a submit, and what a client tells.

use std::fmt;

use flotilla_protocol::wire::ErrorClass;
use tokio::sync::mpsc;

use super::ids::Candidate;
use super::link::Settled;
use super::status;
use crate::maker::{Inbound, Receipt, Refusal, Submitted};

/// Code of a message whose time was over before it went out, see [`super::Handle::submit_before`].
pub const LATE: &str = "smpp-late";

/// What became of one message.
#[derive(Clone, Debug, PartialEq)]
pub struct SubmitOutcome {
    /// For the message as a whole. `Accepted` only when all of it was; then its id is the first segment's.
    pub submitted: Submitted,
    /// The SMSC's ids as keys for receipts: by segment, or one for the whole message when [`Self::whole`] is set. None where
    /// a segment was not taken, or the SMSC has given no id.
    pub ids: Vec<Option<Box<str>>>,
    /// Segments that were taken, also when the message as a whole was not.
    pub segments_accepted: u8,
    /// Receipts are for the whole message, not for a segment.
    pub whole: bool,
}

impl SubmitOutcome {
    /// Certainly not taken, not even in part.
    pub fn refused(refusal: Refusal) -> Self {
        Self { submitted: Submitted::Refused(refusal), ids: Vec::new(), segments_accepted: 0, whole: false }
    }

    pub fn unclear(why: &str) -> Self {
        Self { submitted: Submitted::Unclear(why.into()), ids: Vec::new(), segments_accepted: 0, whole: false }
    }
}

/// Why a message did not go out at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotSent {
    NotBound,
    LinkLost,
    Stopped,
    Busy,
    Late,
}

impl NotSent {
    pub(crate) fn refusal(self) -> Refusal {
        let (class, code, text) = match self {
            Self::NotBound => (ErrorClass::Route, "smpp-not-bound", "there is no session with the SMSC"),
            Self::LinkLost => (ErrorClass::Route, "smpp-link-lost", "the session ended before the message went out"),
            Self::Stopped => (ErrorClass::Route, "smpp-stopped", "the account is being stopped"),
            Self::Busy => (ErrorClass::Transient, "smpp-busy", "too many messages wait for the SMSC"),
            Self::Late => (ErrorClass::Transient, LATE, "its time was over before it could go out"),
        };
        Refusal { class, code: code.into(), text: text.into(), retry_after_ms: None }
    }
}

/// How it stands with the SMSC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Connecting or binding, nothing has failed yet.
    Binding,
    Bound {
        /// Receipts and messages come too.
        receiving: bool,
    },
    /// The SMSC does not let this account in; it is tried again at long intervals. The code is that of the bind's answer.
    Refused {
        code: Box<str>,
        text: Box<str>,
        retry_in_ms: u64,
    },
    BackingOff {
        reason: Box<str>,
        failures: u32,
        retry_in_ms: u64,
    },
    Stopped,
}

/// News from the SMSC.
#[derive(Debug)]
pub enum Event {
    State(State),
    /// What became of a message, or of a segment of one. `receipt.id` is the likeliest key; `ids` has all that it could be,
    /// the likeliest first: the first one that is known, and may mean a message to its number, is right; without any it is of no
    /// message that went out here. Repetitions and old ones come too.
    Receipt {
        receipt: Receipt,
        ids: Vec<Candidate>,
        ack: Ack,
    },
    /// A message for us. After an interrupted answer it comes again with the same id.
    Inbound {
        inbound: Inbound,
        ack: Ack,
    },
    /// The answer to a segment (counted from 0) that came after its time; the message was reported as unclear.
    Late {
        reference: Box<str>,
        segment: u8,
        submitted: Submitted,
    },
    /// 0 (idle) to 100 (congested), of version 5.0. The client slows down by itself.
    Congestion(u8),
}

/// Who has an event says by this that it is kept; only then the SMSC may forget it. Dropped, it asks the SMSC to send it again.
pub struct Ack {
    pub(crate) back: Option<(mpsc::UnboundedSender<Settled>, Settled)>,
}

impl Ack {
    pub fn taken(mut self) {
        if let Some((link, settled)) = self.back.take() {
            // A link that is gone cannot be answered; the SMSC sends it again.
            let _ = link.send(Settled { status: status::OK, ..settled });
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Some((link, settled)) = self.back.take() {
            let _ = link.send(Settled { status: status::RECEIVER_TEMPORARY, ..settled });
        }
    }
}

impl fmt::Debug for Ack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ack")
    }
}
