//! A message with its history: what a row holds, what the API shows, what a new leader starts from.

use flotilla_routing::Micros;
use flotilla_routing::choice::Why;
use flotilla_routing::fact::Charge;
use serde::{Deserialize, Serialize};

use super::event::Change;
use super::message::{Failure, MessageState, Route, Submission};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MessageRecord {
    pub submission: Submission,
    pub state: MessageState,
    /// Place of its acceptance in the shard's order: journal sequence, then index in the batch.
    pub order: (u64, u32),
    /// Number of the last attempt; 0 before the first.
    pub attempt: u16,
    /// Where the last attempt was made, and on which session.
    pub route: Option<Route>,
    pub session: u64,
    /// Not before this time (Unix ms): the schedule, later the back-off.
    pub next_try_ms: u64,
    pub sent_ms: Option<u64>,
    pub delivered_ms: Option<u64>,
    /// The attempt is in doubt for good: its device does not know either.
    pub lost: bool,
    /// Bit n: segment n of the last attempt is delivered.
    pub segments_delivered: u32,
    pub failure: Option<Failure>,
    pub updated_ms: u64,
    /// Every transition. Bounded by what a shard allows a message: attempts, and segments of each.
    pub trace: Vec<Step>,
    /// What its attempts have cost.
    pub cost: Micros,
    /// The last attempt is charged: its segments have left, or may have.
    pub charged: bool,
}

/// One transition of a message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    pub at_ms: u64,
    pub state: MessageState,
    pub attempt: u16,
    pub route: Option<Route>,
    pub failure: Option<Failure>,
    /// The segment, for the report of a single one.
    pub segment: Option<u8>,
    /// When it happened by the device's account (Unix ms), for `sent` and `delivered`.
    pub device_ms: Option<u64>,
    /// Why this route was chosen, for a dispatch.
    pub why: Option<Why>,
    /// What the segments cost that have left with this step, or may have.
    pub cost: Micros,
}

impl MessageRecord {
    pub fn accepted(submission: Submission, at_ms: u64, order: (u64, u32)) -> Self {
        let state = if submission.due_ms > at_ms { MessageState::Scheduled } else { MessageState::Queued };
        let cost = Micros::ZERO;
        let first = Step {
            at_ms,
            state,
            attempt: 0,
            route: None,
            failure: None,
            segment: None,
            device_ms: None,
            why: None,
            cost,
        };
        Self {
            next_try_ms: submission.due_ms,
            submission,
            state,
            order,
            attempt: 0,
            route: None,
            session: 0,
            sent_ms: None,
            delivered_ms: None,
            lost: false,
            segments_delivered: 0,
            failure: None,
            updated_ms: at_ms,
            trace: vec![first],
            cost: Micros::ZERO,
            charged: false,
        }
    }

    pub fn is_open(&self) -> bool {
        !self.state.is_final()
    }

    /// The last attempt's segments have left with the last change, or may have.
    pub fn charge(&mut self, charge: &Charge) {
        self.cost = self.cost.saturating_add(charge.cost);
        self.charged = true;
        if let Some(step) = self.trace.last_mut() {
            step.cost = charge.cost;
        }
    }

    /// Takes one change of the journal. Which changes may follow which is decided before they are written, not here.
    pub fn apply(&mut self, at_ms: u64, change: &Change) {
        let mut step = Step {
            at_ms,
            state: self.state,
            attempt: self.attempt,
            route: None,
            failure: None,
            segment: None,
            device_ms: None,
            why: None,
            cost: Micros::ZERO,
        };
        match change {
            Change::Due => self.state = MessageState::Queued,
            Change::Dispatched { attempt, route, session, why } => {
                self.state = MessageState::Dispatching;
                self.attempt = *attempt;
                self.route = Some(*route);
                self.session = *session;
                self.segments_delivered = 0;
                self.lost = false;
                self.charged = false;
                step.route = Some(*route);
                step.why = Some(why.clone());
            }
            Change::Returned { route, why, retry_ms, .. } => {
                self.state = MessageState::Queued;
                self.next_try_ms = *retry_ms;
                self.sent_ms = None;
                self.failure = Some(why.clone());
                step.route = Some(*route);
                step.failure = Some(why.clone());
            }
            Change::Doubted { route, lost, .. } => {
                self.state = MessageState::Unknown;
                self.lost = *lost;
                step.route = Some(*route);
            }
            Change::Sent { route, sent_ms, .. } => {
                self.state = MessageState::Sent;
                self.sent_ms = Some(*sent_ms);
                self.failure = None;
                step.route = Some(*route);
                step.device_ms = Some(*sent_ms);
            }
            Change::SegmentDelivered { route, segment, .. } => {
                self.segments_delivered |= 1u32.checked_shl(u32::from(*segment)).unwrap_or(0);
                step.route = Some(*route);
                step.segment = Some(*segment);
            }
            Change::Delivered { route, sent_ms, delivered_ms, .. } => {
                self.state = MessageState::Delivered;
                self.sent_ms = Some(*sent_ms);
                self.delivered_ms = Some(*delivered_ms);
                self.failure = None;
                step.route = Some(*route);
                step.device_ms = Some(*delivered_ms);
            }
            Change::Failed { route, why, .. } | Change::Expired { route, why, .. } => {
                self.state = match change {
                    Change::Failed { .. } => MessageState::Failed,
                    _ => MessageState::Expired,
                };
                self.failure = Some(why.clone());
                step.route = *route;
                step.failure = Some(why.clone());
            }
            Change::Cancelled => self.state = MessageState::Cancelled,
        }
        step.state = self.state;
        step.attempt = self.attempt;
        self.updated_ms = self.updated_ms.max(at_ms);
        self.trace.push(step);
    }
}
