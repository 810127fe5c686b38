//! What the SMSC says, and what follows from it.

use super::open::Part;
use super::{
    CONGESTED, CloseReason, Effect, Flight, NEARING_CONGESTION, Phase, Queued, Session, THROTTLE_PAUSE_MS_MAX,
};
use crate::maker::Submitted;
use crate::smpp::pdu::{self, Frame};
use crate::smpp::status;

impl Session {
    pub(super) fn bind_answered(&mut self, frame: &Frame) {
        let Phase::Binding { sequence, .. } = self.phase else { return };
        if frame.sequence != sequence {
            return;
        }
        if frame.status != status::OK {
            return self.close(CloseReason::BindRefused(frame.status));
        }
        self.phase = Phase::Bound;
        self.effects.push_back(Effect::Bound { version: pdu::read_bind_version(&frame.body) });
    }

    pub(super) fn submit_answered(&mut self, frame: &Frame, now_ms: u64) {
        let answer = pdu::read_submit_answer(&frame.body);
        if let Some(congestion) = answer.congestion {
            self.congested(congestion);
        }
        let taken = frame.status == status::OK;
        if taken {
            self.throttled = 0;
        }
        if let Some(flight) = self.flights.remove(&frame.sequence) {
            if taken {
                self.settle(flight.key, flight.index, Part::Accepted(answer.id));
            } else {
                self.submit_refused(&flight, frame.status, now_ms);
            }
        } else if let Some((reference, segment)) = self.late.remove(&frame.sequence) {
            let submitted = if taken {
                Submitted::Accepted { id: answer.id, price: None }
            } else {
                Submitted::Refused(status::refusal(frame.status))
            };
            self.effects.push_back(Effect::Late { reference, segment, submitted });
        }
    }

    fn submit_refused(&mut self, flight: &Flight, status: u32, now_ms: u64) {
        let mut refusal = status::refusal(status);
        if matches!(status, status::THROTTLED | status::QUEUE_FULL) {
            let pause_ms = self.pause(now_ms);
            refusal.retry_after_ms = Some(pause_ms);
            let open = self.open.get_mut(&flight.key);
            let retry = open.and_then(|open| open.may_retry(flight.index).then_some(open.deadline_ms));
            if let Some(deadline_ms) = retry {
                let until_ms = (now_ms + pause_ms + self.settings.response_timeout_ms).min(deadline_ms);
                self.queue.push_front(Queued { key: flight.key, index: flight.index, until_ms });
                return;
            }
        }
        self.settle(flight.key, flight.index, Part::Refused(refusal));
        if status == status::INVALID_BIND_STATUS {
            self.close(CloseReason::NotBound);
        }
    }

    /// Answers that were under way when the pause began do not lengthen it.
    fn pause(&mut self, now_ms: u64) -> u64 {
        if self.paused_until_ms <= now_ms {
            let pause_ms = self.settings.throttle_pause_ms << self.throttled.min(10);
            self.paused_until_ms = now_ms + pause_ms.min(THROTTLE_PAUSE_MS_MAX.max(self.settings.throttle_pause_ms));
            self.throttled += 1;
        }
        self.paused_until_ms - now_ms
    }

    /// A generic_nack: what has this sequence was not understood, so it was not taken.
    pub(super) fn refused_as_unknown(&mut self, frame: &Frame, now_ms: u64) {
        let status = if frame.status == status::OK { status::INVALID_COMMAND_ID } else { frame.status };
        match self.phase {
            Phase::Binding { sequence, .. } if sequence == frame.sequence => {
                self.close(CloseReason::BindRefused(status));
            }
            Phase::Unbinding { sequence, .. } if sequence == frame.sequence => self.close(CloseReason::Unbound),
            _ => {
                if let Some(flight) = self.flights.remove(&frame.sequence) {
                    self.submit_refused(&flight, status, now_ms);
                }
            }
        }
    }

    pub(super) fn delivered(&mut self, frame: &Frame) {
        let (command, sequence) = (frame.command, frame.sequence);
        match pdu::read_deliver(command, &frame.body) {
            Some(deliver) => {
                self.effects.push_back(Effect::Deliver { command, sequence, deliver: Box::new(deliver) });
            }
            // Refused for good: what cannot be read now cannot be read when it comes again.
            None => self.answer(command, sequence, status::RECEIVER_REJECT),
        }
    }

    fn congested(&mut self, congestion: u8) {
        let band = |state: u8| (state >= NEARING_CONGESTION, state >= CONGESTED);
        if band(congestion) != band(self.congestion) {
            self.effects.push_back(Effect::Congestion(congestion.min(CONGESTED)));
        }
        self.congestion = congestion;
    }
}
