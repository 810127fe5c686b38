//! What a link tells: receipts and messages, only when there is room; everything else in line.

use rusmpp::CommandId;
use tokio::sync::mpsc;

use super::{EVENTS_MAX, Link, Running, Settled, UNACKNOWLEDGED_MAX};
use crate::smpp::incoming::Incoming;
use crate::smpp::outcome::{Ack, Event, State};
use crate::smpp::pdu;
use crate::smpp::status;

impl Link {
    /// A receipt or a message. It is only taken when there is room for its event.
    pub(super) fn delivered(
        &mut self,
        running: &mut Running,
        command: CommandId,
        sequence: u32,
        deliver: &pdu::Deliver,
    ) {
        let events = self.shared.events.clone();
        let Some(permit) = events.try_reserve().ok().filter(|_| running.unacknowledged < UNACKNOWLEDGED_MAX) else {
            running.session.answer(command, sequence, status::RECEIVER_TEMPORARY);
            return;
        };
        let ack = |settle: &mpsc::UnboundedSender<Settled>, inbound| {
            let settled = Settled { command, sequence, status: status::RECEIVER_TEMPORARY, inbound };
            Ack { back: Some((settle.clone(), settled)) }
        };
        match self.receiver.take(deliver, self.now_ms()) {
            Incoming::Receipt { receipt, ids } => {
                running.unacknowledged += 1;
                permit.send(Event::Receipt { receipt, ids, ack: ack(&running.settle, None) });
            }
            Incoming::Message(inbound) => {
                running.unacknowledged += 1;
                let ack = ack(&running.settle, Some(inbound.id.clone()));
                permit.send(Event::Inbound { inbound, ack });
            }
            Incoming::Nothing => running.session.answer(command, sequence, status::OK),
            Incoming::Unreadable => {
                tracing::warn!(octets = deliver.message.len(), "a receipt cannot be read");
                running.session.answer(command, sequence, status::OK);
            }
        }
    }

    /// Messages of which segments are missing. Their segments have been answered already.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for inbound in self.receiver.expire(now_ms) {
            self.tell(Event::Inbound { inbound, ack: Ack { back: None } });
        }
    }

    pub(super) fn set_state(&mut self, state: State) {
        if let Some(state) = self.shared.board.set(self.role, state) {
            self.tell(Event::State(state));
        }
    }

    /// Without waiting: events stand in line until there is room. Of states only the last counts.
    pub(super) fn tell(&mut self, event: Event) {
        if matches!(event, Event::State(_)) {
            self.events.retain(|waiting| !matches!(waiting, Event::State(_)));
        }
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
        while let Ok(permit) = self.shared.events.try_reserve() {
            let Some(event) = self.events.pop_front() else { break };
            permit.send(event);
        }
    }
}
