//! An open message in memory: what is needed to dispatch it and to make its later events, and nothing else. The text goes
//! when it is sent, the trace is in the rows, and what many messages share (tenant, campaign, class, pin) is in their lane.

use flotilla_protocol::id::MessageId;
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms;
use flotilla_protocol::wire::{Alphabet, Attempt, Body, ErrorClass, TextEncoding};
use flotilla_routing::Micros;
use flotilla_routing::choice::{Classify, sender_hash};
use flotilla_routing::fact::{Charge, recipient_hash};

use super::io::Order;
use super::slots::Slot;
use crate::domain::Now;
use crate::domain::callback::callback_line;
use crate::domain::event::Change;
use crate::domain::message::{Duplicates, MessageState, Priority, Route, Submission};
use crate::domain::record::{MessageRecord, Step};

#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) id: MessageId,
    pub(super) lane: Slot,
    pub(super) order: Order,
    pub(super) to: Msisdn,
    pub(super) body: Body,
    pub(super) encoding: TextEncoding,
    pub(super) flash: bool,
    pub(super) segments: u8,
    pub(super) duplicates: Duplicates,
    /// The text is not GSM-7.
    pub(super) unicode: bool,
    pub(super) accepted_ms: u64,
    pub(super) callback: u8,
    pub(super) expires_ms: u64,
    /// What few messages have.
    wishes: Option<Box<Wishes>>,

    // What events change; equal to the fold of the journal.
    pub(super) state: MessageState,
    pub(super) attempt: u16,
    pub(super) route: Option<Route>,
    pub(super) next_try_ms: u64,
    pub(super) dispatched_ms: u64,
    pub(super) sent_ms: u64,
    pub(super) segments_delivered: u32,
    /// Transient errors so far.
    pub(super) retries: u8,
    pub(super) lost: bool,
    /// The last attempt is charged: its segments have left, or may have.
    pub(super) charged: bool,
    /// What its attempts have cost.
    pub(super) spent: Micros,
    /// Time of the last event.
    pub(super) at_ms: u64,

    // What a restart forgets.
    /// Since when it could have gone, by the monotonic clock: patience with the steps of its plan counts from there.
    pub(super) since_ms: u64,
    /// While it waits for its back-off to end: when, by the monotonic clock.
    pub(super) wake_ms: Option<u64>,
    /// It waits because no route with room suited it, and is among those of its target that other room is offered to.
    pub(super) aside: bool,
    /// The last attempt's SIM is avoided until then (monotonic).
    pub(super) avoid_until_ms: u64,
    /// Somebody wants it cancelled; a device may be sending it.
    pub(super) cancel_asked: bool,
    /// The open attempt was dispatched by this machine: whoever has wanted it cancelled since then has told this machine.
    pub(super) dispatched_here: bool,
}

/// What a client has asked for about the way.
#[derive(Clone, Debug)]
struct Wishes {
    sender: Option<Box<str>>,
    sender_hash: Option<u64>,
    plan: Option<Box<str>>,
    tags: Box<[Box<str>]>,
    max_cost: Option<Micros>,
}

impl Wishes {
    fn of(submission: &Submission) -> Option<Box<Self>> {
        let Submission { sender, plan, tags, max_cost, .. } = submission;
        if sender.is_none() && plan.is_none() && tags.is_empty() && max_cost.is_none() {
            return None;
        }
        Some(Box::new(Self {
            sender: sender.clone(),
            sender_hash: sender.as_deref().map(sender_hash),
            plan: plan.clone(),
            tags: tags.as_slice().into(),
            max_cost: *max_cost,
        }))
    }
}

/// Whether a route has to take more than GSM-7. Text in ASCII is decided without planning it.
pub(super) fn is_unicode(submission: &Submission) -> bool {
    let Body::Text(text) = &submission.body else { return false };
    match submission.encoding.alphabet {
        Alphabet::Gsm7 => false,
        Alphabet::Ucs2 => true,
        Alphabet::Auto if text.is_ascii() && !text.contains('`') => false,
        Alphabet::Auto => {
            let options = sms::EncodeOptions { segments_max: u8::MAX, ..submission.encoding.into() };
            sms::plan(text, &options).is_ok_and(|plan| plan.encoding == sms::Encoding::Ucs2)
        }
    }
}

impl Message {
    pub(super) fn accepted(submission: &Submission, at_ms: u64, order: Order, lane: Slot) -> Self {
        let scheduled = submission.due_ms > at_ms;
        Self {
            id: submission.id,
            lane,
            order,
            to: submission.to,
            body: submission.body.clone(),
            encoding: submission.encoding,
            flash: submission.flash,
            segments: submission.segments,
            duplicates: submission.duplicates,
            unicode: is_unicode(submission),
            wishes: Wishes::of(submission),
            accepted_ms: submission.accepted_ms,
            callback: callback_line(submission.callback_url.as_deref()),
            expires_ms: submission.expires_ms,
            state: if scheduled { MessageState::Scheduled } else { MessageState::Queued },
            attempt: 0,
            route: None,
            next_try_ms: submission.due_ms,
            dispatched_ms: 0,
            sent_ms: 0,
            segments_delivered: 0,
            retries: 0,
            lost: false,
            charged: false,
            spent: Micros::ZERO,
            at_ms,
            since_ms: 0,
            wake_ms: None,
            aside: false,
            avoid_until_ms: 0,
            cancel_asked: false,
            dispatched_here: false,
        }
    }

    pub(super) fn restored(record: MessageRecord, lane: Slot) -> Self {
        let transient = |step: &&Step| {
            step.state == MessageState::Queued
                && step.failure.as_ref().is_some_and(|why| why.class == ErrorClass::Transient)
        };
        let retries = record.trace.iter().filter(transient).count() as u8;
        let dispatched = record.trace.iter().rev().find(|step| step.state == MessageState::Dispatching);
        let mut message = Self::accepted(&record.submission, record.updated_ms, record.order, lane);
        message.state = record.state;
        message.attempt = record.attempt;
        message.route = record.route;
        message.next_try_ms = record.next_try_ms;
        message.dispatched_ms = dispatched.map_or(0, |step| step.at_ms);
        message.sent_ms = record.sent_ms.unwrap_or(0);
        message.segments_delivered = record.segments_delivered;
        message.retries = retries;
        message.lost = record.lost;
        message.charged = record.charged;
        message.spent = record.cost;
        if message.state == MessageState::Sent {
            message.forget_text();
        }
        message
    }

    /// The counterpart of [`MessageRecord::apply`].
    pub(super) fn apply(&mut self, at_ms: u64, change: &Change) {
        self.at_ms = self.at_ms.max(at_ms);
        match change {
            Change::Due => self.state = MessageState::Queued,
            Change::Dispatched { attempt, route, .. } => {
                self.state = MessageState::Dispatching;
                self.attempt = *attempt;
                self.route = Some(*route);
                self.dispatched_ms = at_ms;
                self.segments_delivered = 0;
                self.lost = false;
                self.charged = false;
                self.dispatched_here = true;
            }
            Change::Returned { why, retry_ms, .. } => {
                self.state = MessageState::Queued;
                self.next_try_ms = *retry_ms;
                self.retries += u8::from(why.class == ErrorClass::Transient);
            }
            Change::Doubted { lost, .. } => {
                self.state = MessageState::Unknown;
                self.lost = *lost;
            }
            Change::Sent { sent_ms, .. } => {
                self.state = MessageState::Sent;
                self.sent_ms = *sent_ms;
                self.forget_text();
            }
            Change::SegmentDelivered { segment, .. } => self.segments_delivered |= 1 << segment,
            Change::Delivered { .. } => self.state = MessageState::Delivered,
            Change::Failed { .. } => self.state = MessageState::Failed,
            Change::Expired { .. } => self.state = MessageState::Expired,
            Change::Cancelled => self.state = MessageState::Cancelled,
        }
    }

    /// The counterpart of [`MessageRecord::charge`].
    pub(super) fn charge(&mut self, charge: &Charge) {
        self.charged = true;
        self.spent = self.spent.saturating_add(charge.cost);
    }

    /// What is reserved for its present attempt: its segments, until they are charged, and whom it is for.
    pub(super) fn weight(&self) -> (u8, u64) {
        (if self.charged { 0 } else { self.segments }, recipient_hash(self.to.as_u64()))
    }

    /// Since when it could have gone (monotonic), as far as the wall clock can tell when it comes into memory. One that was tried
    /// before counts from its acceptance: it need not have patience with the first steps of its plan again.
    pub(super) fn waits_since(&self, now: Now) -> u64 {
        let from_ms = if self.attempt == 0 { self.next_try_ms } else { self.accepted_ms };
        now.mono_ms.saturating_sub(now.unix_ms.saturating_sub(from_ms))
    }

    pub(super) fn sender(&self) -> Option<u64> {
        self.wishes.as_ref().and_then(|wishes| wishes.sender_hash)
    }

    pub(super) fn max_cost(&self) -> Option<Micros> {
        self.wishes.as_ref().and_then(|wishes| wishes.max_cost)
    }

    /// What the tenant's rules look at; while the text is here.
    pub(super) fn classify(&self, class: Priority) -> Classify<'_> {
        let wishes = self.wishes.as_deref();
        let text = if let Body::Text(text) = &self.body { text.as_str() } else { "" };
        Classify {
            to: self.to,
            text,
            sender: wishes.and_then(|wishes| wishes.sender.as_deref()),
            class,
            tags: wishes.map_or(&[], |wishes| &wishes.tags),
            message: self.id,
            plan: wishes.and_then(|wishes| wishes.plan.as_deref()),
        }
    }

    /// An attempt is open: on a device, on its way there, or in doubt.
    pub(super) fn is_in_flight(&self) -> bool {
        matches!(self.state, MessageState::Dispatching | MessageState::Unknown)
    }

    /// Whether this is its open attempt.
    pub(super) fn has(&self, attempt: Attempt) -> bool {
        self.is_in_flight() && self.id == attempt.message && self.attempt == attempt.number
    }

    fn forget_text(&mut self) {
        self.body = Body::Text(String::new());
    }
}
