//! What devices say about attempts, and the messages that they receive.
//!
//! A report is a fact: it counts whichever link it came over, and once (a repeated one changes nothing). It is acknowledged
//! when it is dealt with and committed. One about a message that is not in memory waits until that is read.
//!
//! | report | then |
//! |---|---|
//! | sent | `sent`; also when the attempt had been taken back meanwhile and no other was made |
//! | not sent | back to the queue at once, elsewhere: the SIM rests; cancelled, if that was asked |
//! | failed, permanent | `failed` |
//! | failed, route | back to the queue; the SIM rests, and this message avoids it for a while |
//! | failed, transient | back to the queue after 0, 5 min, 30 min, 2 h; then `failed` |
//! | failed after some segments had left | under `duplicates: never` `failed`: a repetition would send those twice |
//! | unknown | `never`: `unknown` until a later report settles it or the validity ends; `allowed`: back at once, elsewhere |
//! | delivered | `delivered` with the last segment |
//! | undelivered, permanent | `failed` |
//! | undelivered, otherwise | the network has given up: on to the next route as after a failure, unless segments of it were or may still be delivered: then `failed`, and its reason names the segment |
//!
//! The first report after which segments have left, or may have, charges them: once per attempt.

use std::collections::VecDeque;

use flotilla_protocol::id::{DeviceId, InboundId, SimId};
use flotilla_protocol::wire::{
    Attempt, Down, ErrorClass, ErrorDomain, InboundMessage, NotSent, Report, ReportKind, SendError,
};
use flotilla_routing::route::RouteKind;
use rustc_hash::FxHashSet;

use super::dispatch::{Back, Left, failure};
use super::slots::Slot;
use super::{Machine, Now};
use crate::domain::event::{Change, Event, EventKind, Inbound};
use crate::domain::facts::codes;
use crate::domain::message::{Duplicates, Failure, MessageState, Route, SEGMENTS_MAX};

/// In place of a segment in an account's report: it is about all of them.
pub const WHOLE: u8 = u8::MAX;

/// A device keeps what it has received for so long at most; one that says more has a wrong clock.
const INBOUND_AGE_MS_MAX: u64 = 30 * 86_400_000;

/// How long a message that may be repeated keeps away from the account that did not answer, when there are others.
const AVOID_UNKNOWN_MS: u64 = 30_000;

impl Machine {
    pub(super) fn reports(&mut self, id: DeviceId, session: u64, reports: Vec<Report>, now: Now) {
        for report in reports {
            let Some(device) = self.devices.get_mut(&id) else { return };
            let position = report.position;
            if device.session == Some(session) && !device.log.admit(position) {
                continue;
            }
            if !self.take_report(id, session, report, true, now)
                && let Some(device) = self.devices.get_mut(&id)
            {
                device.log.refuse(position);
            }
        }
        self.touch(id);
    }

    /// A report that had to wait is dealt with.
    pub(super) fn reported(&mut self, id: DeviceId, session: u64, position: u64) {
        let Some(device) = self.devices.get_mut(&id).filter(|device| device.session == Some(session)) else { return };
        if device.log.release(position) {
            device.send(Down::Resume);
        }
        self.touch(id);
    }

    /// False when there is no room to hold it.
    pub(super) fn take_report(&mut self, id: DeviceId, session: u64, report: Report, may_load: bool, now: Now) -> bool {
        let Some(attempt) = attempt_of(&report.kind) else {
            if let ReportKind::Inbound(message) = report.kind {
                self.take_inbound(id, report.position, report.at_ms, message, now);
            }
            return true;
        };
        let ends_flight = !matches!(report.kind, ReportKind::Delivered { .. } | ReportKind::Undelivered { .. });
        let flight = if ends_flight { self.land(id, attempt, now) } else { None };
        let Some(tenant) = self.devices.get(&id).map(|device| device.tenant) else { return true };
        let slot = self.ids.get(&attempt.message).copied();
        match slot {
            Some(slot) if self.tenant_of(slot) == Some(tenant) => self.settle_report(slot, id, attempt, &report, now),
            Some(_) => {}
            // It was in memory when it was dispatched: it has ended.
            None if flight.is_some_and(|flight| flight.message.is_some()) => {}
            None if may_load => return self.load_for_report(tenant, (id, session), attempt.message, report),
            None => {}
        }
        self.forget_if_idle(id);
        true
    }

    /// A report about a message in memory.
    fn settle_report(&mut self, slot: Slot, id: DeviceId, attempt: Attempt, report: &Report, now: Now) {
        let Some(message) = self.messages.get(slot) else { return };
        let Some(route) = message.route.filter(|route| route.device == id && message.attempt == attempt.number) else {
            return;
        };
        let in_flight = message.is_in_flight();
        let may_be_sent = in_flight || (message.state == MessageState::Queued && !message.cancel_asked);
        let may_be_given_up = may_be_sent || message.state == MessageState::Sent;
        let at_ms = report.at_ms.clamp(message.dispatched_ms.min(now.unix_ms), now.unix_ms);
        match &report.kind {
            ReportKind::Sent { .. } if may_be_sent => self.sent(slot, route, at_ms, now),
            ReportKind::NotSent { reason, .. } if in_flight => self.not_sent(slot, route, *reason, now),
            ReportKind::Failed { error, segments_sent, .. } if in_flight => {
                self.failed(slot, route, error, *segments_sent, now);
            }
            ReportKind::Unknown { .. } if in_flight => self.unknown(slot, route, now),
            ReportKind::Delivered { segment, .. } if may_be_given_up => {
                self.delivered(slot, route, *segment, at_ms, now)
            }
            ReportKind::Undelivered { segment, error, .. } if may_be_given_up => {
                self.undelivered(slot, route, *segment, error, at_ms, now);
            }
            _ => {}
        }
    }

    fn sent(&mut self, slot: Slot, route: Route, sent_ms: u64, now: Now) {
        let Some(message) = self.messages.get(slot) else { return };
        self.routes.succeeded(route.sim, now);
        let took_ms = sent_ms.saturating_sub(message.dispatched_ms);
        let left = Some(Left { segments: message.segments, at_ms: sent_ms });
        self.record_left(slot, Change::Sent { attempt: message.attempt, route, sent_ms, took_ms }, left, now);
    }

    fn not_sent(&mut self, slot: Slot, route: Route, reason: NotSent, now: Now) {
        let (code, text) = match reason {
            NotSent::Cancelled => return self.called_back(slot, now),
            NotSent::LeaseOver => ("not-sent-lease-over", "the device had no time left to send it"),
            NotSent::StaleEpoch => ("not-sent-stale-epoch", "the device follows a later leader"),
            NotSent::OutboxFull => ("not-sent-outbox-full", "the device's outbox is full"),
            NotSent::NoSuchSim => ("not-sent-no-such-sim", "the SIM is not in the device"),
            NotSent::SimNotReady => ("not-sent-sim-not-ready", "the SIM is not ready"),
        };
        self.routes.pause(route.sim, now);
        self.give_back(slot, failure(ErrorClass::Route, code, text), 0, now);
    }

    /// The device has dropped the attempt because it was told to.
    fn called_back(&mut self, slot: Slot, now: Now) {
        let Some(message) = self.messages.get(slot) else { return };
        // It repeats an answer from before the store was set back to an older copy: there, the same number was another attempt,
        // and nobody knew what it was for.
        if message.dispatched_here && !message.cancel_asked {
            let why = failure(
                ErrorClass::Route,
                codes::NUMBER_USED,
                "the device has dropped an attempt of this number before",
            );
            return self.give_back(slot, why, 0, now);
        }
        // Only who wants the message cancelled asks that of an attempt that still counts. A restart forgets who it was.
        self.record(slot, Change::Cancelled, now);
    }

    fn failed(&mut self, slot: Slot, route: Route, error: &SendError, segments_sent: u8, now: Now) {
        let Some(message) = self.messages.get(slot) else { return };
        let segments = segments_sent.min(message.segments);
        let left = (segments > 0).then_some(Left { segments, at_ms: now.unix_ms });
        let partly_sent = segments > 0 && message.duplicates == Duplicates::Never;
        let attempt = message.attempt;
        let mut why = failure_of(error);
        let delay_ms = self.another_try(slot, error.class, now).filter(|_| !partly_sent);
        if error.class == ErrorClass::Route {
            self.routes.pause(route.sim, now);
        }
        match delay_ms {
            Some(delay_ms) => self.take_back(slot, Back { why, delay_ms, left, undelivered: false }, now),
            None => {
                if partly_sent {
                    why.text = format!("{segments} segments had left; {}", why.text).into();
                }
                let change = Change::Failed { attempt, route: Some(route), why, undelivered: false };
                self.record_left(slot, change, left, now);
            }
        }
    }

    /// Whether an error of this class allows another try, and after which pause; other routes come first then.
    fn another_try(&mut self, slot: Slot, class: ErrorClass, now: Now) -> Option<u64> {
        let message = self.messages.get_mut(slot)?;
        match class {
            ErrorClass::Permanent => None,
            ErrorClass::Route => {
                message.avoid_until_ms = now.mono_ms + self.settings.avoid_ms;
                Some(0)
            }
            ErrorClass::Transient => self.settings.retry_delays_ms.get(usize::from(message.retries)).copied(),
        }
    }

    /// It has left, and the network has given it up: nobody will get this attempt any more.
    fn undelivered(&mut self, slot: Slot, route: Route, segment: u8, error: &SendError, at_ms: u64, now: Now) {
        let Some(message) = self.messages.get(slot) else { return };
        let (attempt, state) = (message.attempt, message.state);
        let left = Some(Left { segments: message.segments, at_ms });
        // A report about one segment: the others may yet arrive.
        let whole = route.is_provider() && segment == WHOLE;
        let others = message.segments > 1 && message.duplicates == Duplicates::Never && !whole;
        let keeps_something = others || message.segments_delivered != 0;
        let mut why = failure_of(error);
        if state == MessageState::Queued && error.class != ErrorClass::Permanent {
            return self.given_up_late(slot, why, left, now);
        }
        let parts = given_up(message.segments, message.segments_delivered, (!whole).then_some(segment));
        match self.another_try(slot, error.class, now).filter(|_| !keeps_something) {
            Some(delay_ms) => self.take_back(slot, Back { why, delay_ms, left, undelivered: true }, now),
            None => {
                if let Some(parts) = parts {
                    why.text = format!("{parts}; {}", why.text).into();
                }
                let change = Change::Failed { attempt, route: Some(route), why, undelivered: true };
                self.record_left(slot, change, left, now);
            }
        }
    }

    /// The network has given up an attempt that was taken back before: it is queued and stays so.
    fn given_up_late(&mut self, slot: Slot, why: Failure, left: Option<Left>, now: Now) {
        let Some(message) = self.messages.get(slot).filter(|message| !message.charged) else { return };
        let Some(route) = message.route else { return };
        let (attempt, retry_ms, wake_ms) = (message.attempt, message.next_try_ms, message.wake_ms);
        self.record_left(slot, Change::Returned { attempt, route, why, retry_ms, undelivered: true }, left, now);
        if let Some(wake_ms) = wake_ms {
            self.sleep(slot, wake_ms.saturating_sub(now.mono_ms), now);
        }
    }

    /// Nobody knows whether the attempt has left: neither its device, nor the account that submitted it.
    pub(super) fn unknown(&mut self, slot: Slot, route: Route, now: Now) {
        let Some(message) = self.messages.get_mut(slot) else { return };
        let left = Some(Left { segments: message.segments, at_ms: now.unix_ms });
        match message.duplicates {
            Duplicates::Never if message.lost => {}
            Duplicates::Never => {
                let change = Change::Doubted { attempt: message.attempt, route, lost: true };
                self.record_left(slot, change, left, now);
            }
            Duplicates::Allowed => {
                let (code, text) = if route.is_provider() {
                    message.avoid_until_ms = now.mono_ms + AVOID_UNKNOWN_MS.min(self.settings.avoid_ms);
                    (codes::PROVIDER_UNKNOWN, "the provider's answer does not tell whether it was taken")
                } else {
                    (codes::UNKNOWN, "the device does not know whether it was sent")
                };
                let why = failure(ErrorClass::Route, code, text);
                self.take_back(slot, Back { why, delay_ms: 0, left, undelivered: false }, now);
            }
        }
    }

    fn delivered(&mut self, slot: Slot, route: Route, segment: u8, delivered_ms: u64, now: Now) {
        let Some(message) = self.messages.get(slot) else { return };
        let bit = 1u32.checked_shl(u32::from(segment)).unwrap_or(0);
        let segments = message.segments.min(SEGMENTS_MAX);
        if segment >= segments || message.segments_delivered & bit != 0 {
            return;
        }
        let all = u32::MAX >> (32 - u32::from(segments.max(1)));
        let attempt = message.attempt;
        if message.segments_delivered | bit != all {
            return self.record(slot, Change::SegmentDelivered { attempt, route, segment }, now);
        }
        if message.state != MessageState::Sent {
            self.sent(slot, route, delivered_ms, now);
        }
        let sent_ms = self.messages.get(slot).map_or(delivered_ms, |message| message.sent_ms);
        let delivered_ms = delivered_ms.max(sent_ms);
        self.record(slot, Change::Delivered { attempt, route, sent_ms, delivered_ms }, now);
    }

    /// Inbound messages come in the order of their positions, each once. Those of an account go by their ids: positions of a
    /// session begin at its controller's clock, which may be behind that of the session before.
    fn take_inbound(&mut self, id: DeviceId, position: u64, at_ms: u64, message: InboundMessage, now: Now) {
        let Some(device) = self.devices.get(&id) else { return };
        let last = self.inbound.entry(id).or_default();
        // A SIM that was taken out since has no slot any more; the text counts all the same.
        let sim = device.slot_sim(message.slot).unwrap_or(SimId::from_bytes([0; 16]));
        let is_new = match device.kind {
            RouteKind::Sim => position > *last,
            RouteKind::Provider => self.received.is_new(message.id),
        };
        if !is_new {
            return;
        }
        *last = position.max(*last);
        let inbound = Inbound {
            id: message.id,
            tenant: device.tenant,
            device: id,
            sim,
            position,
            from: message.from,
            to: None,
            text: message.text.into(),
            segments: message.segments,
            sent_ms: message.sent_ms,
            received_ms: at_ms.clamp(now.unix_ms.saturating_sub(INBOUND_AGE_MS_MAX), now.unix_ms),
        };
        self.events.push(Event { at_ms: now.unix_ms, kind: EventKind::Inbound(Box::new(inbound)) });
    }
}

/// Ids of the last messages that accounts have received. A maker repeats what it got no answer for in time; what it repeats
/// later than this knows is told twice, and kept once: rows take an id once.
#[derive(Debug, Default)]
pub(super) struct Received {
    known: FxHashSet<InboundId>,
    order: VecDeque<InboundId>,
}

impl Received {
    const MAX: usize = 4_096;

    fn is_new(&mut self, id: InboundId) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > Self::MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }
}

/// What a long message's end leaves its recipient with: no state says it. None of a single segment.
fn given_up(segments: u8, delivered: u32, segment: Option<u8>) -> Option<String> {
    if segments < 2 {
        return None;
    }
    let delivered = delivered.count_ones();
    Some(match segment {
        Some(segment) => {
            format!("segment {} of {segments} was given up, {delivered} delivered so far", u32::from(segment) + 1)
        }
        None => format!("all {segments} segments were given up, {delivered} delivered before"),
    })
}

fn attempt_of(kind: &ReportKind) -> Option<Attempt> {
    match kind {
        ReportKind::Sent { attempt, .. }
        | ReportKind::NotSent { attempt, .. }
        | ReportKind::Failed { attempt, .. }
        | ReportKind::Unknown { attempt }
        | ReportKind::Delivered { attempt, .. }
        | ReportKind::Undelivered { attempt, .. } => Some(*attempt),
        ReportKind::Inbound(_) => None,
    }
}

fn failure_of(error: &SendError) -> Failure {
    let domain = match error.domain {
        ErrorDomain::Cms => "cms",
        ErrorDomain::Cme => "cme",
        ErrorDomain::TpStatus => "tp-status",
        ErrorDomain::Android => "android",
        ErrorDomain::Device => "device",
        ErrorDomain::Provider => {
            let (code, text) = error.text.split_once(": ").unwrap_or((&error.text, ""));
            return Failure { class: error.class, code: code.into(), text: text.into() };
        }
    };
    let code = format!("{domain}-{}", error.code);
    Failure { class: error.class, code: code.into(), text: error.text.as_str().into() }
}
