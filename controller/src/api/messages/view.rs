//! Messages as the API shows them.

use data_encoding::BASE64;
use flotilla_protocol::id::{DeviceId, InboundId, MessageId, ProviderId, SenderId, SimId};
use flotilla_protocol::wire::{Body, ErrorClass};
use flotilla_routing::Micros;
use flotilla_routing::choice::{Because, Why};
use flotilla_routing::route::RouteIds;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::time::Time;
use crate::domain::event::Inbound;
use crate::domain::message::{Duplicates, Failure, MessageState, Pin, Priority};
use crate::domain::record::{MessageRecord, Step};

/// A message and how far it has come.
#[derive(Serialize, ToSchema)]
#[schema(title = "Message")]
pub struct MessageView<'a> {
    #[schema(value_type = String, example = "msg_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub id: MessageId,
    /// `scheduled, queued, dispatching, unknown, sent`; final: `delivered, failed, expired, cancelled`. `unknown`: an attempt
    /// may or may not have reached the network, and only its device can tell.
    #[schema(example = "delivered")]
    pub state: &'static str,
    #[schema(example = "+255712345678")]
    pub to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "Your code is 4711")]
    pub text: Option<&'a str>,
    /// 8-bit data in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    #[schema(example = 1)]
    pub segments: u8,
    /// Segments of the last attempt that have their delivery report.
    pub segments_delivered: u32,
    #[schema(value_type = super::request::PrioritySchema)]
    pub priority: Priority,
    #[schema(value_type = super::request::DuplicatesSchema)]
    pub duplicates: Duplicates,
    pub flash: bool,
    /// Where the last attempt was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub device: Option<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "sim_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub sim: Option<SimId>,
    /// The provider account of the last attempt, instead of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "prv_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub provider: Option<ProviderId>,
    /// Its sender, instead of a SIM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "snd_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub sender: Option<SenderId>,
    /// The SIM or device that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only_by: Option<String>,
    /// The sender name or number that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "BANK")]
    pub from: Option<&'a str>,
    /// The plan that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "sims-first")]
    pub route: Option<&'a str>,
    /// What it may cost, in the tenant's currency.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "0.05")]
    pub max_cost: Option<Micros>,
    /// What its attempts have cost, in the tenant's currency.
    #[schema(value_type = String, example = "0.012")]
    pub cost: Micros,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub callback_url: Option<&'a str>,
    /// Attempts made so far.
    pub attempts: u16,
    #[serde(skip_serializing_if = "str::is_empty")]
    pub campaign: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub tags: &'a [Box<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ref: Option<&'a str>,
    #[schema(value_type = String, example = "2026-11-20T14:00:00.000Z")]
    pub accepted_at: Time,
    /// Not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub send_at: Option<Time>,
    #[schema(value_type = String, example = "2026-11-21T14:00:00.000Z")]
    pub expires_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sent_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub delivered_at: Option<Time>,
    #[schema(value_type = String)]
    pub updated_at: Time,
    /// Why the last attempt, or the message, did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureView<'a>>,
    /// Every transition; only when one message is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<Vec<StepView<'a>>>,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Failure")]
pub struct FailureView<'a> {
    /// `permanent`: nobody can deliver it; `route`: this SIM can not send; `transient`: worth another try.
    #[schema(example = "transient")]
    pub class: &'static str,
    #[schema(example = "cms-38")]
    pub code: &'a str,
    #[schema(example = "network out of order")]
    pub detail: &'a str,
}

/// One transition of a message.
#[derive(Serialize, ToSchema)]
#[schema(title = "Step")]
pub struct StepView<'a> {
    #[schema(value_type = String)]
    pub at: Time,
    pub state: &'static str,
    pub attempt: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub device: Option<DeviceId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sim: Option<SimId>,
    /// The provider account, instead of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub provider: Option<ProviderId>,
    /// Its sender, instead of a SIM.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sender: Option<SenderId>,
    /// Why this route was chosen, for a dispatch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<WhyView<'a>>,
    /// The segment, for the report of a single one; counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub segment: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<FailureView<'a>>,
}

/// Why a route was chosen.
#[derive(Serialize, ToSchema)]
#[schema(title = "Why")]
pub struct WhyView<'a> {
    /// The rule that chose the plan; none for the tenant's default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "codes")]
    pub rule: Option<&'a str>,
    /// The step of the plan, from 1; 0 for a message that names its SIM or device.
    #[schema(example = 1)]
    pub step: u8,
    /// The route's score, 0 to 100.
    #[schema(example = 87)]
    pub score: u8,
    /// Routes of the step that had room.
    #[schema(example = 12)]
    pub room: u32,
    /// `score`: the better one of two, or the only one; `sticky`: the recipient knows it; `pinned`: it was asked for; `probe`:
    /// to see whether it works again; `learned`: drawn by what was delivered; `fallback`: the steps before it could not, or
    /// kept the message waiting too long.
    #[schema(example = "score")]
    pub because: &'static str,
}

impl<'a> WhyView<'a> {
    fn of(why: &'a Why) -> Self {
        let because = match why.because {
            Because::Score => "score",
            Because::Sticky => "sticky",
            Because::Pinned => "pinned",
            Because::Probe => "probe",
            Because::Learned => "learned",
            Because::Fallback => "fallback",
        };
        Self { rule: why.rule.as_deref(), step: why.step, score: why.score, room: why.room, because }
    }
}

impl<'a> MessageView<'a> {
    pub fn short(record: &'a MessageRecord) -> Self {
        let submission = &record.submission;
        let RouteIds { device, sim, provider, sender } = RouteIds::of(record.route);
        let (text, data, port) = match &submission.body {
            Body::Text(text) => (Some(text.as_str()), None, None),
            Body::Data { bytes, port } => (None, Some(BASE64.encode(bytes)), *port),
        };
        let only_by = match submission.pin {
            Pin::Any => None,
            Pin::Sim(sim) => Some(sim.to_string()),
            Pin::Device(device) => Some(device.to_string()),
        };
        Self {
            id: submission.id,
            state: record.state.as_str(),
            to: submission.to.to_string(),
            text,
            data,
            port,
            segments: submission.segments,
            segments_delivered: match record.state {
                MessageState::Delivered => submission.segments.into(),
                _ => record.segments_delivered.count_ones(),
            },
            priority: submission.priority,
            duplicates: submission.duplicates,
            flash: submission.flash,
            device,
            sim,
            provider,
            sender,
            only_by,
            from: submission.sender.as_deref(),
            route: submission.plan.as_deref(),
            max_cost: submission.max_cost,
            cost: record.cost,
            callback_url: submission.callback_url.as_deref(),
            attempts: record.attempt,
            campaign: &submission.campaign,
            tags: &submission.tags,
            client_ref: submission.client_ref.as_deref(),
            accepted_at: Time(submission.accepted_ms),
            send_at: (submission.due_ms > submission.accepted_ms).then_some(Time(submission.due_ms)),
            expires_at: Time(submission.expires_ms),
            sent_at: record.sent_ms.map(Time),
            delivered_at: record.delivered_ms.map(Time),
            updated_at: Time(record.updated_ms),
            error: record.failure.as_ref().map(FailureView::of),
            trace: None,
        }
    }

    pub fn whole(record: &'a MessageRecord) -> Self {
        Self { trace: Some(record.trace.iter().map(StepView::of).collect()), ..Self::short(record) }
    }
}

impl<'a> FailureView<'a> {
    fn of(failure: &'a Failure) -> Self {
        let class = match failure.class {
            ErrorClass::Permanent => "permanent",
            ErrorClass::Route => "route",
            ErrorClass::Transient => "transient",
        };
        Self { class, code: &failure.code, detail: &failure.text }
    }
}

impl<'a> StepView<'a> {
    fn of(step: &'a Step) -> Self {
        let RouteIds { device, sim, provider, sender } = RouteIds::of(step.route);
        Self {
            at: Time(step.at_ms),
            state: step.state.as_str(),
            attempt: step.attempt,
            device,
            sim,
            provider,
            sender,
            why: step.why.as_ref().map(WhyView::of),
            segment: step.segment.map(|segment| u16::from(segment) + 1),
            error: step.failure.as_ref().map(FailureView::of),
        }
    }
}

/// A message that one of the tenant's gateways received.
#[derive(Serialize, ToSchema)]
#[schema(title = "Inbound")]
pub struct InboundView<'a> {
    #[schema(value_type = String, example = "inb_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub id: InboundId,
    #[schema(value_type = String, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub device: DeviceId,
    #[schema(value_type = String, example = "sim_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    pub sim: SimId,
    /// A number, a short code or a name.
    #[schema(example = "+255712345678")]
    pub from: String,
    /// The SIM's own number, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    #[schema(example = "STOP")]
    pub text: &'a str,
    pub segments: u8,
    /// When the network took it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub sent_at: Option<Time>,
    #[schema(value_type = String, example = "2026-11-20T14:00:00.000Z")]
    pub received_at: Time,
}

impl<'a> InboundView<'a> {
    pub fn of(inbound: &'a Inbound) -> Self {
        Self {
            id: inbound.id,
            device: inbound.device,
            sim: inbound.sim,
            from: inbound.from.to_string(),
            to: inbound.to.map(|to| to.to_string()),
            text: &inbound.text,
            segments: inbound.segments,
            sent_at: inbound.sent_ms.map(Time),
            received_at: Time(inbound.received_ms),
        }
    }
}
