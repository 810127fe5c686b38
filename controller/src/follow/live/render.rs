//! An event of the journal as its tenant sees it.

use std::fmt;

use bytes::Bytes;
use flotilla_protocol::id::{DeviceId, InboundId, MessageId, SimId, TenantId};
use flotilla_protocol::wire::ErrorClass;
use flotilla_routing::route::RouteIds;
use serde::{Serialize, Serializer};

use crate::domain::event::{Change, Event, EventKind, Inbound};
use crate::domain::message::{Failure, MessageState, Route};

/// Kind and data, when the event is the tenant's and one that is shown.
pub(crate) fn render(tenant: TenantId, event: &Event) -> Option<(&'static str, Bytes)> {
    match &event.kind {
        EventKind::Accepted(accepted) if accepted.submission.tenant == tenant => {
            let submission = &accepted.submission;
            let state = match submission.due_ms > event.at_ms {
                true => MessageState::Scheduled,
                false => MessageState::Queued,
            };
            let client_ref = submission.client_ref.as_deref();
            let data = MessageData::new(submission.id, event.at_ms, state, &submission.campaign);
            Some(("message.accepted", json(&MessageData { client_ref, ..data })))
        }
        EventKind::Changed(changed) if changed.tenant == tenant => {
            let (kind, state, step) = of_change(&changed.change)?;
            let data = MessageData::new(changed.message, event.at_ms, state, &changed.facts.campaign);
            let data = MessageData {
                attempt: step.attempt,
                route: RouteIds::of(step.route),
                error: step.why.map(ErrorData::new),
                ..data
            };
            Some((kind, json(&data)))
        }
        EventKind::Inbound(inbound) if inbound.tenant == tenant => {
            Some(("inbound.received", json(&InboundData::new(inbound))))
        }
        _ => None,
    }
}

#[derive(Default)]
struct StepOf<'a> {
    attempt: Option<u16>,
    route: Option<Route>,
    why: Option<&'a Failure>,
}

fn of_change(change: &Change) -> Option<(&'static str, MessageState, StepOf<'_>)> {
    let on = |attempt: &u16, route: &Route| StepOf { attempt: Some(*attempt), route: Some(*route), why: None };
    Some(match change {
        Change::Due => ("message.queued", MessageState::Queued, StepOf::default()),
        Change::Dispatched { attempt, route, .. } => {
            ("message.dispatched", MessageState::Dispatching, on(attempt, route))
        }
        Change::Returned { attempt, route, why, .. } => {
            ("message.queued", MessageState::Queued, StepOf { why: Some(why), ..on(attempt, route) })
        }
        Change::Doubted { attempt, route, .. } => ("message.unknown", MessageState::Unknown, on(attempt, route)),
        Change::Sent { attempt, route, .. } => ("message.sent", MessageState::Sent, on(attempt, route)),
        // The state stays; the message tells how many of its segments are delivered.
        Change::SegmentDelivered { .. } => return None,
        Change::Delivered { attempt, route, .. } => ("message.delivered", MessageState::Delivered, on(attempt, route)),
        Change::Failed { attempt, route, why, .. } => {
            ("message.failed", MessageState::Failed, StepOf { attempt: Some(*attempt), route: *route, why: Some(why) })
        }
        Change::Expired { attempt, route, why } => (
            "message.expired",
            MessageState::Expired,
            StepOf { attempt: Some(*attempt), route: *route, why: Some(why) },
        ),
        Change::Cancelled => ("message.cancelled", MessageState::Cancelled, StepOf::default()),
    })
}

#[derive(Serialize)]
struct MessageData<'a> {
    id: MessageId,
    state: &'static str,
    at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    attempt: Option<u16>,
    #[serde(flatten)]
    route: RouteIds,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorData<'a>>,
    #[serde(skip_serializing_if = "str::is_empty")]
    campaign: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_ref: Option<&'a str>,
}

impl<'a> MessageData<'a> {
    fn new(id: MessageId, at_ms: u64, state: MessageState, campaign: &'a str) -> Self {
        Self {
            id,
            state: state.as_str(),
            at: Time(at_ms),
            attempt: None,
            route: RouteIds::default(),
            error: None,
            campaign,
            client_ref: None,
        }
    }
}

#[derive(Serialize)]
struct ErrorData<'a> {
    class: &'static str,
    code: &'a str,
    detail: &'a str,
}

impl<'a> ErrorData<'a> {
    fn new(why: &'a Failure) -> Self {
        let class = match why.class {
            ErrorClass::Permanent => "permanent",
            ErrorClass::Route => "route",
            ErrorClass::Transient => "transient",
        };
        Self { class, code: &why.code, detail: &why.text }
    }
}

#[derive(Serialize)]
struct InboundData<'a> {
    id: InboundId,
    from: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    to: Option<String>,
    text: &'a str,
    segments: u8,
    device: DeviceId,
    sim: SimId,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_at: Option<Time>,
    received_at: Time,
}

impl<'a> InboundData<'a> {
    fn new(inbound: &'a Inbound) -> Self {
        Self {
            id: inbound.id,
            from: inbound.from.to_string(),
            to: inbound.to.map(|to| to.to_string()),
            text: &inbound.text,
            segments: inbound.segments,
            device: inbound.device,
            sim: inbound.sim,
            sent_at: inbound.sent_ms.map(Time),
            received_at: Time(inbound.received_ms),
        }
    }
}

/// Unix milliseconds, written as the API writes time.
pub(super) struct Time(pub(super) u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = i64::try_from(self.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        write!(f, "{:.3}", at.unwrap_or(jiff::Timestamp::MAX))
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Cannot fail: the keys are texts and nothing above has a serializer of its own that fails.
fn json(data: &impl Serialize) -> Bytes {
    serde_json::to_vec(data).unwrap_or_default().into()
}
