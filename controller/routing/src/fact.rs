//! What the journal says about routes. Limits, health and money are folds of these facts, by the same code while a shard runs
//! and when it is started again, so that they are exact over restarts and hand-overs.

use flotilla_protocol::id::TenantId;
use flotilla_protocol::number::Region;
use flotilla_protocol::wire::ErrorClass;
use serde::{Deserialize, Serialize};

use crate::Micros;
use crate::route::Route;

/// Segments that have reached a network, or may have. Journaled with the change that makes it so, once per attempt: on `sent`,
/// on the first doubt, on a failure after segments had left. Until then an attempt in flight is reserved instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Charge {
    pub route: Route,
    pub segments: u8,
    /// When they left (Unix ms): the device's account of it, held between dispatch and now. Of segments that may leave later,
    /// and of which nobody may ever tell, the latest time: at most [`crate::ledger::AHEAD_MS`] after now.
    pub at_ms: u64,
    /// A hash of the recipient, for limits by recipient; see [`recipient_hash`].
    pub recipient: u64,
    pub cost: Micros,
    /// The calendar day of `at_ms` in the route's time zone, and in the tenant's: days since 1970-01-01. In here, because whoever
    /// folds the journal does not know the settings of that time.
    pub day: i32,
    pub tenant_day: i32,
    /// How far the tenant's limit by recipient looked back when this was charged; 0 without one, and then nothing is kept by
    /// recipient for it.
    pub recipient_window_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fact {
    Charged {
        tenant: TenantId,
        charge: Charge,
    },
    /// How an attempt went on a route, at this time (Unix ms).
    Outcome {
        route: Route,
        at_ms: u64,
        outcome: Outcome,
        /// The recipient's country, for what is learned by destination.
        region: Option<Region>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Outcome {
    /// Handed to the network so long after its dispatch.
    Sent { took_ms: u64 },
    /// All segments delivered so long after they were sent.
    Delivered { took_ms: u64 },
    /// It did not leave the route. `Permanent` is the message's fault, not the route's.
    Failed { class: ErrorClass },
    /// It left, and the network has given it up.
    Undelivered { class: ErrorClass },
    /// Nobody knows whether it left.
    Doubted,
    /// Sent, and no delivery report came within its validity.
    NoReport,
}

/// Never changes: it is in the journal. SplitMix64's finaliser over the digits as a number.
pub const fn recipient_hash(msisdn: u64) -> u64 {
    let mut x = msisdn.wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
