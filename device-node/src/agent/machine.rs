//! What a device decides: when an attempt goes to a radio, what is reported, what is refused. Pure: no clock, no IO.
//!
//! Every input is decided and applied at once; the records that say so are taken by the driver with [`Machine::take`],
//! made durable, and only after [`Machine::committed`] do orders to radios, reports and everything else that depends on
//! them come out. At the moment of release the lease is looked at once more: a disk that stalled for a minute must not
//! make a dead grant come alive.
//!
//! Invariants: an attempt goes to a radio at most once, ever; every attempt that arrived gets exactly one result; a
//! report leaves only when it is durable; what has neither a result that was sent nor an entry in `Holding` never arrived.

mod grants;
mod reports;

use std::collections::VecDeque;

use flotilla_protocol::id::{Epoch, InboundId};
use flotilla_protocol::wire::{Attempt, Dispatch, InboundMessage, NotSent, SimHealth, SimInfo, SimState, Up, Welcome};
use rustc_hash::FxHashSet;

use super::lease::LeaseClock;
use crate::clock::Now;
use crate::outbox::{Job, Outcome, Record, State};
use crate::radio::{RadioEvent, SendJob, SendOutcome};

/// Bounds of one device's work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Attempts taken in before their results are reported; told to the controller, which keeps below it.
    pub window: u16,
    /// Unacknowledged reports beyond which no new work is taken.
    pub reports_max: usize,
    /// An acknowledgement is written along with other records, or after this long.
    pub ack_delay_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { window: 64, reports_max: 20_000, ack_delay_ms: 2_000 }
    }
}

/// An order to a radio.
#[derive(Clone, Debug, PartialEq)]
pub enum Order {
    Send(SendJob),
    Stored { slot: u8, token: u64 },
}

/// A controller whose epoch is behind what this device has obeyed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the controller's epoch {offered} is older than {seen}")]
pub struct StaleController {
    pub offered: Epoch,
    pub seen: Epoch,
}

/// Released when the records before it are durable.
#[derive(Debug)]
enum Pending {
    HandOver { attempt: Attempt, deadline_ms: u64 },
    Stored { slot: u8, token: u64 },
    Frame(Up),
}

#[derive(Debug)]
struct Slot {
    sim: SimInfo,
    health: Option<SimHealth>,
    /// Decided or handed over, without a result.
    busy: u8,
    /// Granted, waiting for the radio, with the end of the lease.
    queue: VecDeque<(Attempt, u64)>,
}

/// Records on their way to the disk, and what they hold back.
#[derive(Debug, Default)]
struct Stage {
    records: Vec<Record>,
    held_back: Vec<Pending>,
}

#[derive(Debug)]
pub struct Machine {
    config: Config,
    state: State,
    slots: Vec<Slot>,
    lease: LeaseClock,
    link: Option<reports::Uplink>,
    /// Attempts that are with a radio right now. Never again handed over, whatever else happens.
    on_radio: FxHashSet<Attempt>,
    /// Status reports that came before the result of what they are about.
    early: Vec<reports::Early>,
    staged: Stage,
    /// What the commit in flight holds back.
    in_flight: Option<Vec<Pending>>,
    /// Reports below this position are durable.
    durable_position: u64,
    /// Reports below this will be, once the commit in flight is.
    flying_position: u64,
    /// Since when lazy records wait.
    lazy_since_ms: Option<u64>,
    orders: VecDeque<Order>,
    outbox_full: bool,
    now: Now,
}

impl Machine {
    /// Takes over what an earlier life has left: whatever was about to be handed over then is in doubt now.
    pub fn new(config: Config, state: State, sims: Vec<SimInfo>, now: Now) -> Self {
        let position = state.next_position();
        let mut machine = Self {
            config,
            state,
            slots: Vec::new(),
            lease: LeaseClock::default(),
            link: None,
            on_radio: FxHashSet::default(),
            early: Vec::new(),
            staged: Stage::default(),
            in_flight: None,
            durable_position: position,
            flying_position: position,
            lazy_since_ms: None,
            orders: VecDeque::new(),
            outbox_full: false,
            now,
        };
        machine.set_sims(sims);
        let open = machine.state.open_attempts();
        let doubtful: Vec<Attempt> = open.iter().filter(|open| open.sending).map(|open| open.job.attempt).collect();
        for attempt in doubtful {
            machine.record(Record::Unknown { attempt, at_ms: now.unix_ms });
        }
        machine
    }

    /// For a device without any history. Positions begin at the wall clock, so that a device whose outbox was lost does not
    /// repeat positions that its controller has acknowledged.
    pub fn fresh(config: Config, mut state: State, sims: Vec<SimInfo>, now: Now) -> Self {
        let started = Record::Started { position: now.unix_ms.max(1) };
        state.apply(&started);
        let mut machine = Self::new(config, state, sims, now);
        machine.staged.records.insert(0, started);
        machine
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    pub fn sims(&self) -> Vec<SimInfo> {
        self.slots.iter().map(|slot| slot.sim.clone()).collect()
    }

    /// The last measurements, or what the inventory says where there are none. The state is always the inventory's: a
    /// modem that was unplugged measures nothing any more, and its last measurement said that it was ready.
    pub fn health(&self) -> Vec<SimHealth> {
        let of = |Slot { sim, health, .. }: &Slot| {
            let bare = || SimHealth { operator: sim.operator.clone(), ..SimHealth::default() };
            SimHealth { slot: sim.slot, state: sim.state, ..health.clone().unwrap_or_else(bare) }
        };
        self.slots.iter().map(of).collect()
    }

    pub fn set_outbox_full(&mut self, full: bool) {
        self.outbox_full = full;
    }

    // --- the link -------------------------------------------------------------------------------------------------

    /// Keeps the addresses of the controllers for the next start; an empty list says nothing.
    pub fn set_controllers(&mut self, controllers: &[String]) {
        if !controllers.is_empty() && controllers != self.state.controllers() {
            self.record(Record::Controllers(controllers.to_vec()));
        }
    }

    /// A controller has said welcome. No earlier grant counts any more: it learns what is held, and grants anew.
    pub fn link_up(&mut self, welcome: &Welcome, now: Now) -> Result<(), StaleController> {
        self.now = now;
        if welcome.epoch < self.state.epoch_seen() {
            return Err(StaleController { offered: welcome.epoch, seen: self.state.epoch_seen() });
        }
        self.see_epoch(welcome.epoch);
        self.set_controllers(&welcome.controllers);
        for slot in &mut self.slots {
            slot.queue.clear();
        }
        self.lease = LeaseClock::default();
        self.lease.add(welcome.device_ms, welcome.controller_ms);
        self.link = Some(reports::Uplink::new(&self.state));
        Ok(())
    }

    /// Grants that were given still count until their lease ends: that is what a lease is for.
    pub fn link_down(&mut self) {
        self.link = None;
    }

    /// The controller has forgotten what this link told it: everything unacknowledged again, and the list. Grants stay.
    pub fn resume(&mut self) {
        if let Some(link) = &mut self.link {
            link.restart(&self.state);
        }
    }

    pub fn pong(&mut self, device_ms: u64, controller_ms: u64) {
        self.lease.add(device_ms, controller_ms);
    }

    pub fn dispatch(&mut self, dispatch: Dispatch, now: Now) {
        self.now = now;
        let attempt = dispatch.attempt;
        if let Some(outcome) = self.state.finished(&attempt) {
            return self.answer_again(attempt, outcome);
        }
        let lease = || self.lease.deadline(dispatch.sent_ms, dispatch.send_within_ms);
        let deadline = if dispatch.granted { lease() } else { None };
        if self.state.open(&attempt).is_some() {
            if let Some(deadline) = deadline.filter(|_| dispatch.epoch >= self.state.epoch_seen()) {
                self.grant(attempt, deadline);
            }
            return;
        }
        if let Some(reason) = self.reason_to_refuse(&dispatch) {
            return self.not_sent(attempt, reason);
        }
        if dispatch.granted && deadline.is_none_or(|end| end <= now.boot_ms) {
            return self.not_sent(attempt, NotSent::LeaseOver);
        }
        self.see_epoch(dispatch.epoch);
        self.record(Record::Arrived(Box::new(Job::from(dispatch))));
        match deadline {
            Some(deadline) => self.grant(attempt, deadline),
            None => self.staged.held_back.push(Pending::Frame(Up::Accepted { attempt })),
        }
    }

    /// Grants what waits here. An attempt that never came is answered, so that nobody waits for it.
    pub fn go(&mut self, attempts: &[Attempt], sent_ms: u64, send_within_ms: u32, now: Now) {
        self.now = now;
        let deadline = self.lease.deadline(sent_ms, send_within_ms);
        for attempt in attempts {
            match (self.state.finished(attempt), deadline) {
                (Some(outcome), _) => self.answer_again(*attempt, outcome),
                (None, Some(deadline)) if self.state.open(attempt).is_some() => self.grant(*attempt, deadline),
                (None, _) => self.not_sent(*attempt, NotSent::LeaseOver),
            }
        }
    }

    pub fn cancel(&mut self, attempts: &[Attempt], now: Now) {
        self.now = now;
        for attempt in attempts {
            if let Some(outcome) = self.state.finished(attempt) {
                self.answer_again(*attempt, outcome);
            } else if self.state.open(attempt).is_none_or(|open| !open.sending) {
                self.not_sent(*attempt, NotSent::Cancelled);
            }
        }
    }

    pub fn acknowledged(&mut self, position: u64, now: Now) {
        self.now = now;
        // What was never sent can not be acknowledged, whatever the frame says.
        let sent = self.link.as_ref().map_or(0, reports::Uplink::sent_position);
        let position = position.min(sent);
        if position >= self.state.first_position() {
            self.record(Record::Acked { position });
            self.lazy_since_ms.get_or_insert(now.boot_ms);
        }
    }

    /// For frames that nothing depends on; dropped without a link.
    pub fn queue_frame(&mut self, frame: Up) {
        if let Some(link) = &mut self.link {
            link.queue(frame);
        }
    }

    // --- the radio ------------------------------------------------------------------------------------------------

    /// `fresh_id` is asked at most once, for an inbound message.
    pub fn radio(&mut self, event: RadioEvent, fresh_id: impl FnOnce() -> InboundId, now: Now) {
        self.now = now;
        match event {
            RadioEvent::Sims(sims) => self.sims_changed(sims),
            RadioEvent::Health(health) => {
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.sim.slot == health.slot) {
                    slot.health = Some(health);
                }
            }
            RadioEvent::Result { attempt, outcome } => self.result(attempt, outcome),
            RadioEvent::StatusReport { slot, key, delivery, token } => self.status_report(slot, key, delivery, token),
            RadioEvent::Inbound { slot, from, text, segments, sent_ms, digest, token } => {
                if !self.state.inbound_seen(digest) {
                    let message = InboundMessage { id: fresh_id(), slot, from, text, segments, sent_ms };
                    self.record(Record::Inbound { at_ms: now.unix_ms, digest, message });
                }
                self.staged.held_back.push(Pending::Stored { slot, token });
            }
            RadioEvent::Ussd { request, result } => self.queue_frame(Up::UssdReply { request, result }),
        }
    }

    pub fn poll_order(&mut self) -> Option<Order> {
        self.orders.pop_front()
    }

    // --- time -----------------------------------------------------------------------------------------------------

    pub fn tick(&mut self, now: Now) {
        self.now = now;
        self.expire_grants();
    }

    /// On [`Now::boot_ms`], when `tick` or `take` has something to do without any input.
    pub fn next_deadline(&self) -> Option<u64> {
        let grants = self.slots.iter().flat_map(|slot| slot.queue.iter().map(|(_, deadline)| *deadline)).min();
        let lazy =
            self.lazy_since_ms.filter(|_| self.in_flight.is_none()).map(|since| since + self.config.ack_delay_ms);
        grants.into_iter().chain(lazy).min()
    }

    // --- the outbox -----------------------------------------------------------------------------------------------

    /// The records of the next commit, when there is reason for one and none is in flight. The caller makes them durable
    /// and calls `committed`; if that fails, this machine must be thrown away.
    pub fn take(&mut self, now: Now) -> Option<Vec<Record>> {
        if self.in_flight.is_some() {
            return None;
        }
        if !self.is_commit_due(now) {
            // What is held back without urgent records depends on nothing but what is durable already.
            let held_back = std::mem::take(&mut self.staged.held_back);
            self.release(held_back, now);
            if !self.is_commit_due(now) {
                return None;
            }
        }
        self.lazy_since_ms = None;
        let Stage { records, held_back } = std::mem::take(&mut self.staged);
        self.in_flight = Some(held_back);
        self.flying_position = self.state.next_position();
        Some(records)
    }

    pub fn committed(&mut self, now: Now) {
        let Some(held_back) = self.in_flight.take() else { return };
        self.durable_position = self.flying_position;
        self.release(held_back, now);
    }

    /// True while a commit is needed or under way.
    pub fn is_dirty(&self) -> bool {
        self.in_flight.is_some() || !self.staged.records.is_empty()
    }

    /// True while a radio owes results, or is about to.
    pub fn is_with_radio(&self) -> bool {
        self.slots.iter().any(|slot| slot.busy > 0)
    }

    fn is_commit_due(&self, now: Now) -> bool {
        let lazy_due = self.lazy_since_ms.is_some_and(|since| now.boot_ms >= since + self.config.ack_delay_ms);
        lazy_due || self.staged.records.iter().any(|record| !record.is_lazy())
    }

    fn release(&mut self, held_back: Vec<Pending>, now: Now) {
        self.now = now;
        for pending in held_back {
            match pending {
                Pending::HandOver { attempt, deadline_ms } => self.hand_over(attempt, deadline_ms),
                Pending::Stored { slot, token } => self.orders.push_back(Order::Stored { slot, token }),
                Pending::Frame(frame) => self.queue_frame(frame),
            }
        }
    }

    // --- decisions ------------------------------------------------------------------------------------------------

    /// Applies now, durable later.
    fn record(&mut self, record: Record) {
        self.state.apply(&record);
        self.staged.records.push(record);
    }

    fn see_epoch(&mut self, epoch: Epoch) {
        if epoch > self.state.epoch_seen() {
            self.record(Record::EpochSeen(epoch));
        }
    }

    fn not_sent(&mut self, attempt: Attempt, reason: NotSent) {
        self.record(Record::NotSent { attempt, at_ms: self.now.unix_ms, reason });
    }

    /// The result of a finished attempt is on its way, unless it was acknowledged: then the other side has lost it.
    fn answer_again(&mut self, attempt: Attempt, outcome: Outcome) {
        let on_its_way = self.state.reports_from(0).any(|report| reports::result_of(&report.kind) == Some(attempt));
        if !on_its_way {
            self.record(Record::Again { at_ms: self.now.unix_ms, kind: outcome.report(attempt) });
        }
    }

    fn reason_to_refuse(&self, dispatch: &Dispatch) -> Option<NotSent> {
        if dispatch.epoch < self.state.epoch_seen() {
            return Some(NotSent::StaleEpoch);
        }
        if self.outbox_full
            || self.state.open_len() >= usize::from(self.config.window)
            || self.state.reports_open() >= self.config.reports_max
        {
            return Some(NotSent::OutboxFull);
        }
        match self.slots.iter().find(|slot| slot.sim.slot == dispatch.slot) {
            None => Some(NotSent::NoSuchSim),
            Some(slot) if slot.sim.state != SimState::Ready => Some(NotSent::SimNotReady),
            Some(_) => None,
        }
    }

    fn result(&mut self, attempt: Attempt, outcome: SendOutcome) {
        if !self.on_radio.remove(&attempt) {
            tracing::warn!(message = %attempt.message, attempt.number, "a radio answered for what it does not have");
            return;
        }
        let Some(slot) = self.state.open(&attempt).map(|open| open.job.slot) else { return };
        let at_ms = self.now.unix_ms;
        self.record(match outcome {
            SendOutcome::Sent { segments, references } => Record::Sent { attempt, at_ms, segments, references },
            SendOutcome::NotSent(reason) => Record::NotSent { attempt, at_ms, reason },
            SendOutcome::Failed { error, segments_sent } => Record::Failed { attempt, at_ms, error, segments_sent },
            SendOutcome::Unknown => Record::Unknown { attempt, at_ms },
        });
        self.retry_early(slot);
        self.slot_free(slot);
    }
}

#[cfg(test)]
mod tests;
