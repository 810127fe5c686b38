//! From a grant to the radio: waiting for a free place, the lease, the SIM's state.

use std::collections::VecDeque;

use flotilla_protocol::wire::{Attempt, NotSent, SimInfo, SimState, Up};

use super::{Machine, Order, Pending, Slot};
use crate::outbox::Record;
use crate::radio::SendJob;

impl Machine {
    /// May send until `deadline_ms`. A later grant of the same attempt replaces an earlier one.
    pub(super) fn grant(&mut self, attempt: Attempt, deadline_ms: u64) {
        let Some(open) = self.state.open(&attempt) else { return };
        if open.sending {
            return;
        }
        let number = open.job.slot;
        if deadline_ms <= self.now.boot_ms {
            self.forget_grant(attempt);
            return self.not_sent(attempt, NotSent::LeaseOver);
        }
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.sim.slot == number) else {
            return self.not_sent(attempt, NotSent::NoSuchSim);
        };
        if slot.sim.state != SimState::Ready {
            self.forget_grant(attempt);
            return self.not_sent(attempt, NotSent::SimNotReady);
        }
        match slot.queue.iter_mut().find(|(queued, _)| *queued == attempt) {
            Some((_, deadline)) => *deadline = deadline_ms,
            None => slot.queue.push_back((attempt, deadline_ms)),
        }
        self.fill_radio(number);
    }

    /// Decides hand-overs while the radio has places.
    fn fill_radio(&mut self, number: u8) {
        while let Some(slot) = self.slots.iter_mut().find(|slot| slot.sim.slot == number) {
            if slot.busy >= slot.sim.depth.max(1) {
                return;
            }
            let Some((attempt, deadline_ms)) = slot.queue.pop_front() else { return };
            // Cancelled or over meanwhile: an entry without an open attempt means nothing.
            if self.state.open(&attempt).is_none_or(|open| open.sending) {
                continue;
            }
            if deadline_ms <= self.now.boot_ms {
                self.not_sent(attempt, NotSent::LeaseOver);
                continue;
            }
            slot.busy += 1;
            self.record(Record::Sending(attempt));
            self.staged.held_back.push(Pending::HandOver { attempt, deadline_ms });
        }
    }

    /// The decision is durable: the last look at the lease and the SIM, then it goes.
    pub(super) fn hand_over(&mut self, attempt: Attempt, deadline_ms: u64) {
        let Some(open) = self.state.open(&attempt) else { return };
        let number = open.job.slot;
        let ready = self.slots.iter().any(|slot| slot.sim.slot == number && slot.sim.state == SimState::Ready);
        let refusal = match () {
            () if self.now.boot_ms >= deadline_ms => Some(NotSent::LeaseOver),
            () if !ready => Some(NotSent::SimNotReady),
            () => None,
        };
        if let Some(reason) = refusal {
            self.not_sent(attempt, reason);
            return self.slot_free(number);
        }
        let job = &open.job;
        let job = SendJob {
            attempt,
            slot: job.slot,
            to: job.to,
            body: job.body.clone(),
            encoding: job.encoding,
            flash: job.flash,
            report: job.report,
            validity_s: job.validity_s,
            hand_over_by_ms: deadline_ms,
        };
        assert!(self.on_radio.insert(attempt), "an attempt goes to a radio once");
        self.orders.push_back(Order::Send(job));
    }

    pub(super) fn slot_free(&mut self, number: u8) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.sim.slot == number) {
            slot.busy = slot.busy.saturating_sub(1);
        }
        self.fill_radio(number);
    }

    pub(super) fn expire_grants(&mut self) {
        let now = self.now.boot_ms;
        let mut over = Vec::new();
        for slot in &mut self.slots {
            slot.queue.retain(|(attempt, deadline)| {
                let alive = *deadline > now;
                if !alive {
                    over.push(*attempt);
                }
                alive
            });
        }
        for attempt in over {
            if self.state.open(&attempt).is_some_and(|open| !open.sending) {
                self.not_sent(attempt, NotSent::LeaseOver);
            }
        }
    }

    pub(super) fn set_sims(&mut self, sims: Vec<SimInfo>) {
        let mut old = std::mem::take(&mut self.slots);
        for sim in sims {
            let kept = old.iter().position(|slot| slot.sim.slot == sim.slot).map(|at| old.swap_remove(at));
            self.slots.push(match kept {
                Some(slot) => Slot { sim, ..slot },
                None => Slot { sim, health: None, busy: 0, queue: VecDeque::new() },
            });
        }
        // A slot that has gone may still owe results; its place is kept so that the count stays right.
        for slot in old.into_iter().filter(|slot| slot.busy > 0) {
            let sim = SimInfo { state: SimState::Absent, ..slot.sim };
            self.slots.push(Slot { sim, ..slot });
        }
    }

    /// A SIM that can not send holds nothing back: what waits for it goes elsewhere.
    pub(super) fn sims_changed(&mut self, sims: Vec<SimInfo>) {
        if self.sims() == sims {
            return;
        }
        self.set_sims(sims);
        let stranded: Vec<(Attempt, u8)> = self
            .state
            .open_attempts()
            .iter()
            .filter(|open| !open.sending)
            .map(|open| (open.job.attempt, open.job.slot))
            .collect();
        for (attempt, number) in stranded {
            match self.slots.iter().find(|slot| slot.sim.slot == number).map(|slot| slot.sim.state) {
                Some(SimState::Ready) => {}
                Some(_) => self.not_sent(attempt, NotSent::SimNotReady),
                None => self.not_sent(attempt, NotSent::NoSuchSim),
            }
        }
        for number in self.slots.iter().map(|slot| slot.sim.slot).collect::<Vec<u8>>() {
            self.fill_radio(number);
        }
        let sims = self.sims();
        self.queue_frame(Up::Sims { sims });
    }

    fn forget_grant(&mut self, attempt: Attempt) {
        for slot in &mut self.slots {
            slot.queue.retain(|(queued, _)| *queued != attempt);
        }
    }
}
