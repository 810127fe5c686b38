//! A message as the choice sees it, and what is chosen.

use flotilla_protocol::id::{DeviceId, MessageId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use serde::{Deserialize, Serialize};

use crate::Micros;
use crate::fact::recipient_hash;
use crate::route::{Priority, Route};

/// Which single gateway a client has asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Pin {
    #[default]
    Any,
    Sim(SimId),
    Device(DeviceId),
}

/// Which plan of its tenant a message follows: an index into the present settings, valid until they change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanRef(pub u16);

/// What the rules look at, once, when a message comes into memory or the rules change.
#[derive(Clone, Copy, Debug)]
pub struct Classify<'a> {
    pub to: Msisdn,
    pub text: &'a str,
    pub sender: Option<&'a str>,
    pub class: Priority,
    pub tags: &'a [Box<str>],
    pub message: MessageId,
    /// The plan that the client has named.
    pub plan: Option<&'a str>,
}

/// What the choice looks at. Small: it is made for each try.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub message: MessageId,
    pub attempt: u16,
    pub tenant: TenantId,
    pub class: Priority,
    pub pin: Pin,
    pub plan: PlanRef,
    pub to: Msisdn,
    pub segments: u8,
    /// The text is not GSM-7.
    pub unicode: bool,
    /// The sender that the message names, by [`sender_hash`].
    pub sender: Option<u64>,
    /// The route that could not send it before: taken only when the message is pinned to it.
    pub avoid: Option<Route>,
    /// Since when it could have gone (monotonic): patience with the first steps of its plan counts from there.
    pub waits_since_ms: u64,
    pub max_cost: Option<Micros>,
    /// What its former attempts have cost.
    pub spent: Micros,
}

/// What stands for a sender's name or number in a [`Candidate`]: without case, spaces at its ends and a leading `+`.
pub fn sender_hash(sender: &str) -> u64 {
    let sender = sender.trim().trim_start_matches('+');
    sender.chars().flat_map(char::to_lowercase).fold(0, |hash, c| recipient_hash(hash ^ u64::from(c)))
}

#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    Take(Route, Why),
    /// No route that messages of this target and class may use has room now. The target is served again when one has, or at
    /// this time (monotonic) at the latest. With a time it may be this message's own patience with a step that is busy: one at
    /// the head of another lane that has waited longer may find room in a later step.
    Wait {
        until_ms: Option<u64>,
    },
    /// There is room, but this message cannot use it before this time (monotonic): its recipient's limit, the avoided route.
    Unfit {
        until_ms: u64,
    },
    /// It can never go: over its own `max_cost`, the tenant's monthly budget is spent and set to stop, no such plan.
    Refuse {
        code: &'static str,
        text: Box<str>,
    },
}

/// Why a route was chosen; kept in the message's trace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Why {
    /// The rule that chose the plan; none for the tenant's default.
    pub rule: Option<Box<str>>,
    /// The step of the plan, from 1; 0 for a pinned message.
    pub step: u8,
    /// The route's score, 0 to 100.
    pub score: u8,
    /// Routes of the step that had room.
    pub room: u32,
    pub because: Because,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Because {
    /// The better one of two, or the only one.
    #[default]
    Score,
    /// The recipient has had messages from it before.
    Sticky,
    /// The client asked for it.
    Pinned,
    /// One message to see whether the route works again.
    Probe,
    /// Drawn by what its routes have delivered.
    Learned,
    /// The steps before it had no usable route, or kept the message waiting too long.
    Fallback,
}
