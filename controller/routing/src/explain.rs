//! Why a message takes the route that it takes, or none: for people, for a message that need not exist.
//!
//! The words here are those of the API. Codes are stable; everything is as of one moment.

use serde::Serialize;
use utoipa::ToSchema;

use crate::Micros;
use crate::choice::Because;
use crate::health::Reason;
use crate::learn::Seen;
use crate::limits::Limit;
use crate::route::RouteIds;
use crate::rules::Unmet;
use crate::table::{Obstacle, Parts};

/// Routes that an explanation shows at most.
pub const ROUTES_MAX: usize = 50;

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Explanation {
    /// The rules in order, up to the one that fits. None were asked when the message names its plan or its route.
    pub rules: Vec<RuleTried>,
    /// The plan that the message follows; none when it is pinned to a SIM or device, or names a plan that does not exist.
    pub plan: Option<String>,
    /// What holds the message back whatever the route: a limit of the tenant, of the recipient, its own `max_cost`.
    pub held: Option<Outcome>,
    pub steps: Vec<StepSeen>,
    /// At most 50, by step, the best first.
    pub routes: Vec<RouteSeen>,
    /// Routes that are not shown.
    pub routes_left_out: usize,
    /// What would be done now.
    pub choice: Outcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RuleTried {
    pub name: String,
    /// The first condition that does not hold; none when the rule fits.
    pub unmet: Option<Unmet>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct StepSeen {
    /// From 1.
    pub step: u8,
    /// Routes with room for messages of this priority.
    pub with_room: u32,
    /// Routes that will have room within the step's patience.
    pub busy: u32,
    /// How long a message of this priority waits for a busy step, milliseconds.
    pub patience_ms: u64,
    pub cheapest: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RouteSeen {
    #[serde(flatten)]
    pub route: RouteIds,
    /// The step that means it, from 1; 0 for a pinned message.
    pub step: u8,
    /// It has room and suits the message.
    pub eligible: bool,
    /// What is in the way.
    pub reasons: Vec<ReasonSeen>,
    /// 0 to 100, the sum of the parts.
    pub score: u8,
    pub parts: Parts,
    /// What has taken points from its health.
    pub health_reasons: Vec<Reason>,
    /// What the message would cost.
    pub cost: Micros,
    /// It would be the one message that shows whether the route works again.
    pub probe: bool,
    /// Of a hundred such messages, those in whose comparisons it takes part.
    pub weight: u8,
    /// The recipient had its last message from it.
    pub sticky: bool,
    /// Where weights learn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learned: Option<Drawn>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct ReasonSeen {
    pub code: Obstacle,
    /// Which limit, where it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Limit>,
    /// When it is over, where that is known (Unix ms).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until_unix_ms: Option<u64>,
}

/// A draw from what a route has delivered to the recipient's country.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Drawn {
    /// 0 to 1: the share of deliveries that was drawn for this message.
    pub draw: f32,
    #[serde(flatten)]
    pub seen: Seen,
}

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// It would go now.
    Take {
        #[serde(flatten)]
        route: RouteIds,
        /// From 1; 0 for a pinned message.
        step: u8,
        score: u8,
        because: BecauseSeen,
    },
    /// No route has room, for it and its like: until one has, or until this time (Unix ms) at the latest.
    Wait { until_unix_ms: Option<u64> },
    /// There is room, and not for this message before this time (Unix ms).
    Unfit { until_unix_ms: u64 },
    /// It would fail.
    Refuse { code: String, text: String },
}

/// As [`Because`], in the words of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BecauseSeen {
    Score,
    Sticky,
    Pinned,
    Probe,
    Learned,
    Fallback,
}

impl From<Because> for BecauseSeen {
    fn from(because: Because) -> Self {
        match because {
            Because::Score => Self::Score,
            Because::Sticky => Self::Sticky,
            Because::Pinned => Self::Pinned,
            Because::Probe => Self::Probe,
            Because::Learned => Self::Learned,
            Because::Fallback => Self::Fallback,
        }
    }
}
