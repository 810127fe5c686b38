//! Events and records as the first format has them, frozen: journals and rows that were written before messages had routes of
//! providers, charges and reasons. What this module takes from the domain (`Failure`, `Inbound`, ids) has not changed
//! since; whoever changes one of those copies its former shape to here first. The golden bytes notice.

use flotilla_protocol::id::{DeviceId, MessageId, SimId, TenantId};
use flotilla_protocol::number::{Msisdn, Region};
use flotilla_protocol::wire::{Body, TextEncoding};
use flotilla_routing::Micros;
use flotilla_routing::choice::Why;
use serde::Deserialize;

use crate::domain::event::{self, Idempotency, Inbound};
use crate::domain::message::{self, Duplicates, Failure, MessageState, Pin, Priority};
use crate::domain::record;

#[derive(Deserialize)]
pub(super) struct Event {
    at_ms: u64,
    kind: EventKind,
}

#[derive(Deserialize)]
enum EventKind {
    Accepted(Box<Accepted>),
    Changed(Changed),
    Inbound(Box<Inbound>),
}

#[derive(Deserialize)]
struct Accepted {
    submission: Submission,
    idempotency: Option<Idempotency>,
}

#[derive(Deserialize)]
struct Changed {
    message: MessageId,
    tenant: TenantId,
    facts: Facts,
    change: Change,
}

#[derive(Deserialize)]
struct Facts {
    accepted_ms: u64,
    segments: u8,
    priority: Priority,
    region: Option<Region>,
    campaign: Box<str>,
}

#[derive(Deserialize)]
enum Change {
    Due,
    Dispatched { attempt: u16, route: Route, session: u64 },
    Returned { attempt: u16, route: Route, why: Failure, retry_ms: u64 },
    Doubted { attempt: u16, route: Route, lost: bool },
    Sent { attempt: u16, route: Route, sent_ms: u64 },
    SegmentDelivered { attempt: u16, route: Route, segment: u8 },
    Delivered { attempt: u16, route: Route, sent_ms: u64, delivered_ms: u64 },
    Failed { attempt: u16, route: Option<Route>, why: Failure },
    Expired { attempt: u16, route: Option<Route>, why: Failure },
    Cancelled,
}

#[derive(Clone, Copy, Deserialize)]
struct Route {
    device: DeviceId,
    sim: SimId,
}

#[derive(Deserialize)]
struct Submission {
    id: MessageId,
    tenant: TenantId,
    accepted_ms: u64,
    to: Msisdn,
    body: Body,
    encoding: TextEncoding,
    flash: bool,
    segments: u8,
    priority: Priority,
    duplicates: Duplicates,
    pin: Pin,
    due_ms: u64,
    expires_ms: u64,
    campaign: Box<str>,
    tags: Vec<Box<str>>,
    client_ref: Option<Box<str>>,
}

#[derive(Deserialize)]
pub(super) struct MessageRecord {
    submission: Submission,
    state: MessageState,
    order: (u64, u32),
    attempt: u16,
    route: Option<Route>,
    session: u64,
    next_try_ms: u64,
    sent_ms: Option<u64>,
    delivered_ms: Option<u64>,
    lost: bool,
    segments_delivered: u32,
    failure: Option<Failure>,
    updated_ms: u64,
    trace: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    at_ms: u64,
    state: MessageState,
    attempt: u16,
    route: Option<Route>,
    failure: Option<Failure>,
    segment: Option<u8>,
    device_ms: Option<u64>,
}

impl From<Route> for message::Route {
    fn from(Route { device, sim }: Route) -> Self {
        Self::sim(device, sim)
    }
}

impl From<Event> for event::Event {
    fn from(event: Event) -> Self {
        let kind = match event.kind {
            EventKind::Accepted(accepted) => event::EventKind::Accepted(Box::new(event::Accepted {
                submission: accepted.submission.into(),
                idempotency: accepted.idempotency,
            })),
            EventKind::Changed(Changed { message, tenant, facts, change }) => {
                event::EventKind::Changed(event::Changed {
                    message,
                    tenant,
                    facts: facts.into(),
                    change: change.into(),
                    charge: None,
                })
            }
            EventKind::Inbound(inbound) => event::EventKind::Inbound(inbound),
        };
        Self { at_ms: event.at_ms, kind }
    }
}

impl From<Facts> for event::Facts {
    fn from(Facts { accepted_ms, segments, priority, region, campaign }: Facts) -> Self {
        Self { accepted_ms, segments, priority, region, campaign, callback: 0 }
    }
}

impl From<Change> for event::Change {
    fn from(change: Change) -> Self {
        // At that time only a delivery report could say that the network had given up.
        let undelivered = |why: &Failure| why.code.starts_with("tp-status-");
        match change {
            Change::Due => Self::Due,
            Change::Dispatched { attempt, route, session } => {
                Self::Dispatched { attempt, route: route.into(), session, why: Why::default() }
            }
            Change::Returned { attempt, route, why, retry_ms } => {
                Self::Returned { attempt, route: route.into(), why, retry_ms, undelivered: false }
            }
            Change::Doubted { attempt, route, lost } => Self::Doubted { attempt, route: route.into(), lost },
            Change::Sent { attempt, route, sent_ms } => {
                Self::Sent { attempt, route: route.into(), sent_ms, took_ms: 0 }
            }
            Change::SegmentDelivered { attempt, route, segment } => {
                Self::SegmentDelivered { attempt, route: route.into(), segment }
            }
            Change::Delivered { attempt, route, sent_ms, delivered_ms } => {
                Self::Delivered { attempt, route: route.into(), sent_ms, delivered_ms }
            }
            Change::Failed { attempt, route, why } => {
                Self::Failed { attempt, route: route.map(Into::into), undelivered: undelivered(&why), why }
            }
            Change::Expired { attempt, route, why } => Self::Expired { attempt, route: route.map(Into::into), why },
            Change::Cancelled => Self::Cancelled,
        }
    }
}

impl From<Submission> for message::Submission {
    fn from(old: Submission) -> Self {
        Self {
            id: old.id,
            tenant: old.tenant,
            accepted_ms: old.accepted_ms,
            to: old.to,
            body: old.body,
            encoding: old.encoding,
            flash: old.flash,
            segments: old.segments,
            priority: old.priority,
            duplicates: old.duplicates,
            pin: old.pin,
            due_ms: old.due_ms,
            expires_ms: old.expires_ms,
            campaign: old.campaign,
            tags: old.tags,
            client_ref: old.client_ref,
            sender: None,
            plan: None,
            max_cost: None,
            callback_url: None,
        }
    }
}

impl From<MessageRecord> for record::MessageRecord {
    fn from(old: MessageRecord) -> Self {
        Self {
            submission: old.submission.into(),
            state: old.state,
            order: old.order,
            attempt: old.attempt,
            route: old.route.map(Into::into),
            session: old.session,
            next_try_ms: old.next_try_ms,
            sent_ms: old.sent_ms,
            delivered_ms: old.delivered_ms,
            lost: old.lost,
            segments_delivered: old.segments_delivered,
            failure: old.failure,
            updated_ms: old.updated_ms,
            trace: old.trace.into_iter().map(Into::into).collect(),
            cost: Micros::ZERO,
            charged: false,
        }
    }
}

impl From<Step> for record::Step {
    fn from(old: Step) -> Self {
        Self {
            at_ms: old.at_ms,
            state: old.state,
            attempt: old.attempt,
            route: old.route.map(Into::into),
            failure: old.failure,
            segment: old.segment,
            device_ms: old.device_ms,
            why: None,
            cost: Micros::ZERO,
        }
    }
}
