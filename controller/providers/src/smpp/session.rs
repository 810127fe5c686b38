//! One session with an SMSC, without IO: what to send, what an answer means, what has a deadline.
//!
//! The driver feeds it frames, jobs and the time, and carries out its [`Effect`]s in order. Two things are exact here: never
//! more submits without an answer than the window, and what is known of a submit when the link ends. A submit whose octets
//! did not all leave was not taken; one that left whole is unclear.

mod answers;
mod open;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use rusmpp::pdus::SubmitSm;
use rusmpp::{CommandId, Pdu};
use rustc_hash::FxHashMap;

use self::open::{Open, Part};
use super::outcome::{NotSent, SubmitOutcome};
use super::pdu::{self, Deliver, Frame};
use super::rate::Rate;
use super::settings::{Settings, Version};
use super::status;
use crate::maker::Submitted;

/// Longest pause when the SMSC keeps throttling.
const THROTTLE_PAUSE_MS_MAX: u64 = 30_000;
/// A throttled segment of a long message is sent again: the others may have been taken already.
const RETRIES_MAX: u8 = 3;
/// Submits without an answer in time that are remembered, for answers that still come.
const LATE_MAX: usize = 1_024;
/// How long the SMSC may take to answer an unbind.
const UNBIND_MS: u64 = 3_000;
/// Of congestion_state (v5.0 section 4.8.4.18).
const NEARING_CONGESTION: u8 = 90;
const CONGESTED: u8 = 100;

/// What this session is bound as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Transmitter,
    Receiver,
    Transceiver,
}

impl Role {
    fn command(self) -> CommandId {
        match self {
            Self::Transmitter => CommandId::BindTransmitter,
            Self::Receiver => CommandId::BindReceiver,
            Self::Transceiver => CommandId::BindTransceiver,
        }
    }
}

/// A message to submit.
#[derive(Debug)]
pub(crate) struct Job {
    /// The driver's own.
    pub(crate) key: u64,
    pub(crate) reference: Box<str>,
    pub(crate) submits: Vec<SubmitSm>,
    /// From then on it has waited too long.
    pub(crate) queue_until_ms: u64,
    /// Nothing of it may go out from then on.
    pub(crate) deadline_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CloseReason {
    BindRefused(u32),
    BindTimeout,
    /// Silent for longer than the link test allows.
    Silent,
    /// The SMSC has unbound.
    UnboundByPeer,
    /// It says that we are not bound.
    NotBound,
    Garbage,
    /// We have unbound, and it has answered or not.
    Unbound,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Effect {
    Write(Vec<u8>),
    Bound {
        version: Option<Version>,
    },
    Done {
        key: u64,
        outcome: SubmitOutcome,
    },
    Late {
        reference: Box<str>,
        segment: u8,
        submitted: Submitted,
    },
    Deliver {
        command: CommandId,
        sequence: u32,
        deliver: Box<Deliver>,
    },
    Congestion(u8),
    /// After everything before it has been written.
    Close(CloseReason),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Unbound,
    Binding {
        sequence: u32,
        until_ms: u64,
    },
    Bound,
    /// Nothing new goes out; answers are waited for.
    Draining {
        until_ms: u64,
    },
    Unbinding {
        sequence: u32,
        until_ms: u64,
    },
    Closed,
}

#[derive(Debug)]
struct Flight {
    key: u64,
    index: usize,
    until_ms: u64,
    /// Where its last octet stands in all that was ever written.
    end: u64,
}

#[derive(Debug)]
struct Queued {
    key: u64,
    index: usize,
    until_ms: u64,
}

pub(crate) struct Session {
    settings: Arc<Settings>,
    role: Role,
    phase: Phase,
    effects: VecDeque<Effect>,
    next_sequence: u32,
    octets_out: u64,
    /// By sequence, so in the order of their deadlines.
    flights: BTreeMap<u32, Flight>,
    queue: VecDeque<Queued>,
    open: FxHashMap<u64, Open>,
    late: BTreeMap<u32, (Box<str>, u8)>,
    rate: Rate,
    paused_until_ms: u64,
    throttled: u32,
    congestion: u8,
    heard_ms: u64,
    /// The link test that has no answer yet.
    tested_until_ms: Option<u64>,
}

impl Session {
    pub(crate) fn new(settings: Arc<Settings>, role: Role, now_ms: u64) -> Self {
        let rate = Rate::new(settings.rate_per_s);
        Self {
            settings,
            role,
            phase: Phase::Unbound,
            effects: VecDeque::new(),
            next_sequence: 1,
            octets_out: 0,
            flights: BTreeMap::new(),
            queue: VecDeque::new(),
            open: FxHashMap::default(),
            late: BTreeMap::new(),
            rate,
            paused_until_ms: 0,
            throttled: 0,
            congestion: 0,
            heard_ms: now_ms,
            tested_until_ms: None,
        }
    }

    pub(crate) fn poll(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// Submits without an answer.
    pub(crate) fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// Submits that may be without an answer at once: the window, less while the SMSC is congested.
    pub(crate) fn window(&self) -> usize {
        match self.congestion {
            CONGESTED.. => 1,
            NEARING_CONGESTION.. => (self.settings.window / 2).max(1),
            _ => self.settings.window,
        }
    }

    /// Whether another job may come; more would only wait here.
    pub(crate) fn has_room(&self) -> bool {
        self.phase == Phase::Bound && self.queue.len() < self.settings.window
    }

    pub(crate) fn is_bound(&self) -> bool {
        matches!(self.phase, Phase::Bound | Phase::Draining { .. })
    }

    pub(crate) fn bind(&mut self, now_ms: u64) {
        let sequence = self.take_sequence();
        self.phase = Phase::Binding { sequence, until_ms: now_ms + self.settings.response_timeout_ms };
        let octets = pdu::encode_bind(self.role.command(), sequence, &self.settings);
        self.write(octets);
    }

    pub(crate) fn submit(&mut self, job: Job, now_ms: u64) {
        let Job { key, reference, submits, queue_until_ms, deadline_ms } = job;
        let refusal = match self.phase {
            Phase::Bound if deadline_ms <= now_ms => Some(NotSent::Late),
            Phase::Bound if queue_until_ms <= now_ms => Some(NotSent::Busy),
            Phase::Bound => None,
            Phase::Draining { .. } | Phase::Unbinding { .. } => Some(NotSent::Stopped),
            Phase::Unbound | Phase::Binding { .. } | Phase::Closed => Some(NotSent::NotBound),
        };
        if let Some(refusal) = refusal {
            self.effects.push_back(Effect::Done { key, outcome: SubmitOutcome::refused(refusal.refusal()) });
            return;
        }
        let until_ms = queue_until_ms.min(deadline_ms);
        self.queue.extend((0..submits.len()).map(|index| Queued { key, index, until_ms }));
        self.open.insert(key, Open::new(reference, submits, deadline_ms));
        self.finish(key);
        self.pump(now_ms);
    }

    /// Answers a deliver_sm or data_sm.
    pub(crate) fn answer(&mut self, command: CommandId, sequence: u32, status: u32) {
        if !matches!(self.phase, Phase::Closed) {
            self.write(pdu::encode_deliver_resp(command, status, sequence));
        }
    }

    /// Takes nothing more, waits for the answers that are due, unbinds.
    pub(crate) fn shutdown(&mut self, now_ms: u64) {
        match self.phase {
            Phase::Bound => {
                self.phase = Phase::Draining { until_ms: now_ms + self.settings.response_timeout_ms };
                self.drop_queue(NotSent::Stopped);
                self.pump(now_ms);
            }
            Phase::Unbound | Phase::Binding { .. } => self.close(CloseReason::Unbound),
            Phase::Draining { .. } | Phase::Unbinding { .. } | Phase::Closed => {}
        }
    }

    /// The link is gone after `written` octets have left. Ends every job.
    pub(crate) fn lost(&mut self, written: u64) {
        self.phase = Phase::Closed;
        self.drop_queue(NotSent::LinkLost);
        for (_, flight) in std::mem::take(&mut self.flights) {
            let part = if flight.end <= written {
                Part::Unclear("the session ended before the answer")
            } else {
                Part::Refused(NotSent::LinkLost.refusal())
            };
            self.settle(flight.key, flight.index, part);
        }
    }

    pub(crate) fn frame(&mut self, frame: &Frame, now_ms: u64) {
        if self.phase == Phase::Closed {
            return;
        }
        self.heard_ms = now_ms;
        self.tested_until_ms = None;
        match frame.command {
            CommandId::BindTransmitterResp | CommandId::BindReceiverResp | CommandId::BindTransceiverResp => {
                self.bind_answered(frame);
            }
            CommandId::SubmitSmResp => self.submit_answered(frame, now_ms),
            CommandId::GenericNack => self.refused_as_unknown(frame, now_ms),
            CommandId::DeliverSm | CommandId::DataSm => self.delivered(frame),
            CommandId::EnquireLink => self.write(pdu::encode(status::OK, frame.sequence, Pdu::EnquireLinkResp)),
            CommandId::Unbind => {
                self.write(pdu::encode(status::OK, frame.sequence, Pdu::UnbindResp));
                self.close(CloseReason::UnboundByPeer);
            }
            CommandId::UnbindResp if matches!(self.phase, Phase::Unbinding { .. }) => self.close(CloseReason::Unbound),
            // alert_notification and outbind have no answers; answers that nobody waits for are dropped.
            CommandId::AlertNotification | CommandId::Outbind => {}
            other if u32::from(other) & 0x8000_0000 != 0 => {}
            _ => self.write(pdu::encode(status::INVALID_COMMAND_ID, frame.sequence, Pdu::GenericNack)),
        }
        self.pump(now_ms);
    }

    /// The stream cannot be read any further.
    pub(crate) fn garbage(&mut self) {
        if self.phase != Phase::Closed {
            self.write(pdu::encode(status::INVALID_COMMAND_LENGTH, 0, Pdu::GenericNack));
            self.close(CloseReason::Garbage);
        }
    }

    /// Deadlines that have come.
    pub(crate) fn tick(&mut self, now_ms: u64) {
        match self.phase {
            Phase::Unbound | Phase::Closed => return,
            Phase::Binding { until_ms, .. } if until_ms <= now_ms => return self.close(CloseReason::BindTimeout),
            Phase::Unbinding { until_ms, .. } if until_ms <= now_ms => return self.close(CloseReason::Unbound),
            _ => {}
        }
        while let Some(flight) = self.flights.first_entry().filter(|flight| flight.get().until_ms <= now_ms) {
            let (sequence, flight) = flight.remove_entry();
            self.answer_is_late(sequence, &flight);
        }
        self.test_link(now_ms);
        self.pump(now_ms);
    }

    /// When [`Session::tick`] has something to do.
    pub(crate) fn next_deadline(&self) -> Option<u64> {
        let phase = match self.phase {
            Phase::Unbound | Phase::Closed => return None,
            Phase::Binding { until_ms, .. } | Phase::Unbinding { until_ms, .. } => return Some(until_ms),
            Phase::Bound => None,
            Phase::Draining { until_ms } => Some(until_ms),
        };
        let link = self.tested_until_ms.unwrap_or(self.heard_ms + self.settings.enquire_link_ms);
        let flight = self.flights.first_key_value().map(|(_, flight)| flight.until_ms);
        // A throttled segment stands in front with a later time than those behind it; no more than a window wait.
        let queued = self.queue.iter().map(|queued| queued.until_ms).min();
        let sendable = !self.queue.is_empty() && self.flights.len() < self.window();
        let send = sendable.then(|| self.paused_until_ms.max(self.rate.ready_at()));
        [phase, Some(link), flight, queued, send].into_iter().flatten().min()
    }

    fn test_link(&mut self, now_ms: u64) {
        match self.tested_until_ms {
            Some(until_ms) if until_ms <= now_ms => self.close(CloseReason::Silent),
            Some(_) => {}
            None if self.heard_ms + self.settings.enquire_link_ms <= now_ms => {
                self.tested_until_ms = Some(now_ms + self.settings.response_timeout_ms);
                let sequence = self.take_sequence();
                self.write(pdu::encode(status::OK, sequence, Pdu::EnquireLink));
            }
            None => {}
        }
    }

    fn answer_is_late(&mut self, sequence: u32, flight: &Flight) {
        if let Some(open) = self.open.get(&flight.key) {
            self.late.insert(sequence, (open.reference.clone(), flight.index as u8));
        }
        if self.late.len() > LATE_MAX {
            self.late.pop_first();
        }
        self.settle(flight.key, flight.index, Part::Unclear("the SMSC has not answered in time"));
    }

    /// Sends away who has waited too long, then writes submits while everything allows it; ends draining when nothing is left to wait for.
    fn pump(&mut self, now_ms: u64) {
        if let Phase::Draining { until_ms } = self.phase
            && (self.flights.is_empty() || until_ms <= now_ms)
        {
            let sequence = self.take_sequence();
            self.phase = Phase::Unbinding { sequence, until_ms: now_ms + UNBIND_MS };
            self.write(pdu::encode(status::OK, sequence, Pdu::Unbind));
        }
        while let Some(queued) = self.queue.iter().find(|queued| queued.until_ms <= now_ms) {
            let late = self.open.get(&queued.key).is_some_and(|open| open.deadline_ms <= now_ms);
            self.drop_job(queued.key, if late { NotSent::Late } else { NotSent::Busy });
        }
        while self.phase == Phase::Bound
            && self.flights.len() < self.window()
            && self.paused_until_ms.max(self.rate.ready_at()) <= now_ms
        {
            let Some(Queued { key, index, .. }) = self.queue.pop_front() else { break };
            let Some(submit) = self.open.get_mut(&key).and_then(|open| open.take_off(index)) else { continue };
            let sequence = self.take_sequence();
            self.write(pdu::encode(status::OK, sequence, submit));
            self.rate.take(now_ms);
            let until_ms = now_ms + self.settings.response_timeout_ms;
            self.flights.insert(sequence, Flight { key, index, until_ms, end: self.octets_out });
        }
    }

    fn settle(&mut self, key: u64, index: usize, part: Part) {
        let Some(open) = self.open.get_mut(&key) else { return };
        let refused = matches!(part, Part::Refused(_));
        open.settle(index, part);
        if refused {
            // The rest of the message is of no use without this segment.
            open.drop_waiting();
            self.queue.retain(|queued| queued.key != key);
        }
        self.finish(key);
    }

    fn finish(&mut self, key: u64) {
        if self.open.get(&key).is_some_and(Open::is_settled)
            && let Some(open) = self.open.remove(&key)
        {
            self.effects.push_back(Effect::Done { key, outcome: open.outcome() });
        }
    }

    fn drop_queue(&mut self, why: NotSent) {
        while let Some(queued) = self.queue.front() {
            self.drop_job(queued.key, why);
        }
    }

    /// What waits of a job goes no more; what is in flight of it is still waited for.
    fn drop_job(&mut self, key: u64, why: NotSent) {
        self.queue.retain(|queued| queued.key != key);
        if let Some(open) = self.open.get_mut(&key) {
            open.refuse(why.refusal());
        }
        self.finish(key);
    }

    fn close(&mut self, reason: CloseReason) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Closed;
            self.effects.push_back(Effect::Close(reason));
        }
    }

    fn take_sequence(&mut self) -> u32 {
        let sequence = self.next_sequence;
        self.next_sequence = if sequence >= pdu::SEQUENCE_MAX { 1 } else { sequence + 1 };
        sequence
    }

    fn write(&mut self, octets: Vec<u8>) {
        self.octets_out += octets.len() as u64;
        self.effects.push_back(Effect::Write(octets));
    }
}
