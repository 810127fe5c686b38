//! A machine with a disk, a radio and a controller of strings and vectors. It checks the invariants at every step.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{Epoch, InboundId, MessageId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{
    Attempt, Body, Dispatch, Held, Report, ReportKind, Settings, SimHealth, SimInfo, SimState, TextEncoding, Up,
    Welcome,
};

use crate::agent::machine::{Config, Machine, Order};
use crate::clock::Now;
use crate::outbox::{Limits, Record, State};
use crate::radio::{Delivery, RadioEvent, ReportKey, SendJob, SendOutcome};

pub(super) const LEASE_MS: u64 = 5_000;
/// The controller's clock has another origin.
const CONTROLLER_AHEAD_MS: u64 = 700_000;

#[expect(non_snake_case, reason = "it stands for a constant, which can not be parsed at compile time")]
pub(super) fn RECIPIENT() -> Msisdn {
    Msisdn::from_u64(255_700_000_001).unwrap()
}

pub(super) fn attempt(number: u8) -> Attempt {
    Attempt { message: MessageId::new(1_700_000_000_000, [number; 10]), number: 1 }
}

pub(super) fn sim(slot: u8, state: SimState) -> SimInfo {
    let operator = String::new();
    SimInfo { slot, state, iccid: None, imsi: None, msisdn: None, home: None, operator, depth: 1 }
}

pub(super) struct World {
    pub machine: Machine,
    pub now: Now,
    pub on_radio: Vec<SendJob>,
    pub frames: Vec<Up>,
    pub stored: usize,
    pub epoch: u64,
    /// What is on the disk.
    disk: Vec<Record>,
    flying: Vec<Record>,
    handed_over: BTreeSet<Attempt>,
    /// The controller's durable memory: reports by position.
    pub seen: BTreeMap<u64, Report>,
    linked: bool,
    /// The next position when the link came up.
    linked_at: u64,
    listed: Option<Vec<Held>>,
    /// Welcomes and resumes that no list has answered yet.
    lists_owed: usize,
    unread: Vec<ReportKind>,
    inbound: u8,
}

impl World {
    pub(super) fn new() -> Self {
        let now = Now { boot_ms: 1_000_000, unix_ms: 1_700_000_000_000 };
        let config = Config { window: 8, ..Config::default() };
        let machine = Machine::fresh(config, State::new(Limits::default()), vec![sim(0, SimState::Ready)], now);
        let mut world = Self {
            machine,
            now,
            on_radio: Vec::new(),
            frames: Vec::new(),
            stored: 0,
            epoch: 1,
            disk: Vec::new(),
            flying: Vec::new(),
            handed_over: BTreeSet::new(),
            seen: BTreeMap::new(),
            linked: false,
            linked_at: 0,
            listed: None,
            lists_owed: 0,
            unread: Vec::new(),
            inbound: 0,
        };
        world.pump();
        world
    }

    pub(super) fn connected() -> Self {
        let mut world = Self::new();
        world.connect(1);
        world.commit();
        world
    }

    pub(super) fn welcome(&self, epoch: u64) -> Welcome {
        Welcome {
            epoch: Epoch(epoch),
            device_ms: self.now.boot_ms,
            controller_ms: self.now.boot_ms + CONTROLLER_AHEAD_MS,
            sims: Vec::new(),
            settings: Settings::default(),
            controllers: vec!["controller:1".into()],
        }
    }

    pub(super) fn connect(&mut self, epoch: u64) {
        self.epoch = self.epoch.max(epoch);
        let welcome = self.welcome(self.epoch);
        self.listed = None;
        self.lists_owed = 1;
        self.linked = true;
        self.linked_at = self.machine.state().next_position();
        self.machine.link_up(&welcome, self.now).unwrap();
        self.pump();
    }

    pub(super) fn resume(&mut self) {
        self.listed = None;
        self.lists_owed += 1;
        self.linked_at = self.machine.state().next_position();
        self.machine.resume();
        self.pump();
    }

    pub(super) fn disconnect(&mut self) {
        self.linked = false;
        self.machine.link_down();
        self.pump();
    }

    pub(super) fn dispatch(&mut self, attempt: Attempt, change: impl FnOnce(&mut Dispatch)) {
        let mut dispatch = Dispatch {
            attempt,
            epoch: Epoch(self.epoch),
            slot: 0,
            to: RECIPIENT(),
            body: Body::Text("hello".into()),
            encoding: TextEncoding::default(),
            flash: false,
            report: true,
            validity_s: 3600,
            sent_ms: self.now.boot_ms + CONTROLLER_AHEAD_MS,
            send_within_ms: LEASE_MS as u32,
            granted: true,
        };
        change(&mut dispatch);
        self.machine.dispatch(dispatch, self.now);
        self.pump();
    }

    pub(super) fn go(&mut self, attempt: Attempt, within_ms: u32) {
        self.machine.go(&[attempt], self.now.boot_ms + CONTROLLER_AHEAD_MS, within_ms, self.now);
        self.pump();
    }

    pub(super) fn cancel(&mut self, attempt: Attempt) {
        self.machine.cancel(&[attempt], self.now);
        self.pump();
    }

    pub(super) fn answer(&mut self, attempt: Attempt, outcome: SendOutcome) {
        self.on_radio.retain(|job| job.attempt != attempt);
        self.event(RadioEvent::Result { attempt, outcome });
    }

    pub(super) fn status_report(&mut self, key: ReportKey) {
        self.event(RadioEvent::StatusReport { slot: 0, key, delivery: Delivery::Delivered, token: 0 });
    }

    pub(super) fn inbound(&mut self, digest: u64) {
        let from = Address::Short("12345".into());
        let text = "hi".into();
        self.event(RadioEvent::Inbound { slot: 0, from, text, segments: 1, sent_ms: None, digest, token: 0 });
    }

    pub(super) fn sims(&mut self, sims: Vec<SimInfo>) {
        self.event(RadioEvent::Sims(sims));
    }

    pub(super) fn health(&mut self, health: SimHealth) {
        self.event(RadioEvent::Health(health));
    }

    fn event(&mut self, event: RadioEvent) {
        self.inbound = self.inbound.wrapping_add(1);
        let id = InboundId::new(self.now.unix_ms, [self.inbound; 10]);
        self.machine.radio(event, || id, self.now);
        self.pump();
    }

    pub(super) fn advance(&mut self, ms: u64) {
        self.advance_quietly(ms);
        self.machine.tick(self.now);
        self.pump();
    }

    /// As a suspended process sees it: nobody ticks.
    pub(super) fn advance_quietly(&mut self, ms: u64) {
        self.now.boot_ms += ms;
        self.now.unix_ms += ms;
    }

    /// Lets every commit land until there is none.
    pub(super) fn commit(&mut self) {
        self.pump();
        while !self.flying.is_empty() {
            self.land();
        }
    }

    /// Lets the commit in flight land.
    pub(super) fn land(&mut self) {
        if self.flying.is_empty() {
            return;
        }
        self.disk.append(&mut self.flying);
        self.machine.committed(self.now);
        self.pump();
    }

    /// A crash; the commit in flight may have reached the disk.
    pub(super) fn restart(&mut self, landed: bool) {
        if landed {
            self.disk.append(&mut self.flying);
        }
        self.flying.clear();
        self.on_radio.clear();
        self.linked = false;
        let mut state = State::new(Limits::default());
        self.disk.iter().for_each(|record| state.apply(record));
        let (config, sims) = (*self.machine.config(), vec![sim(0, SimState::Ready)]);
        self.machine = match self.disk.is_empty() {
            true => Machine::fresh(config, state, sims, self.now),
            false => Machine::new(config, state, sims, self.now),
        };
        self.pump();
    }

    pub(super) fn acknowledge_all(&mut self) {
        if let Some((position, _)) = self.seen.last_key_value() {
            self.machine.acknowledged(*position, self.now);
        }
        self.advance(self.machine.config().ack_delay_ms);
        self.commit();
    }

    /// Reports since the last call.
    pub(super) fn reports(&mut self) -> Vec<ReportKind> {
        std::mem::take(&mut self.unread)
    }

    pub(super) fn held(&self) -> Vec<Held> {
        self.listed.clone().unwrap()
    }

    /// What is on the disk: attempts that arrived, and how many results each attempt has.
    pub(super) fn on_disk(&self) -> (BTreeSet<Attempt>, BTreeMap<Attempt, usize>) {
        let mut arrived = BTreeSet::new();
        let mut results = BTreeMap::new();
        for record in &self.disk {
            match record {
                Record::Arrived(job) => drop(arrived.insert(job.attempt)),
                Record::Sent { attempt, .. }
                | Record::NotSent { attempt, .. }
                | Record::Failed { attempt, .. }
                | Record::Unknown { attempt, .. } => *results.entry(*attempt).or_default() += 1,
                _ => {}
            }
        }
        (arrived, results)
    }

    fn pump(&mut self) {
        if let Some(records) = self.machine.take(self.now) {
            assert!(self.flying.is_empty(), "one commit at a time");
            assert!(!records.is_empty(), "no empty commits");
            self.flying = records;
        }
        while let Some(order) = self.machine.poll_order() {
            match order {
                Order::Send(job) => self.handed_over(job),
                Order::Stored { .. } => self.stored += 1,
            }
        }
        while let Some(frame) = self.machine.poll_frame() {
            assert!(self.linked, "frames need a link");
            self.sent(frame);
        }
    }

    fn handed_over(&mut self, job: SendJob) {
        assert!(self.handed_over.insert(job.attempt), "the same attempt goes to a radio once");
        assert!(self.disk.contains(&Record::Sending(job.attempt)), "the decision is durable before");
        assert!(self.now.boot_ms < job.hand_over_by_ms, "the lease has not ended");
        let (_, results) = self.on_disk();
        assert!(!results.contains_key(&job.attempt), "nothing goes out after its result");
        self.on_radio.push(job);
    }

    fn sent(&mut self, frame: Up) {
        match &frame {
            Up::Report(report) => {
                let mut state = State::new(Limits::default());
                self.disk.iter().for_each(|record| state.apply(record));
                assert!(report.position < state.next_position(), "a report is durable before it leaves");
                if let Some(before) = self.seen.insert(report.position, report.clone()) {
                    assert_eq!(before, *report, "a position never changes its meaning");
                } else {
                    self.unread.push(report.kind.clone());
                }
            }
            Up::Holding { held, last } => {
                let first = self.machine.state().first_position();
                let sent = |position| self.seen.contains_key(&position);
                assert!((first..self.linked_at).all(sent), "older reports come before the list");
                assert!(*last, "few are held");
                assert!(self.lists_owed > 0, "listed once for each welcome and resume");
                self.lists_owed -= 1;
                self.listed = Some(held.clone());
                self.nothing_is_missing(held);
            }
            _ => {}
        }
        self.frames.push(frame);
    }

    /// Whatever arrived durably is reported or listed; the controller moves the rest.
    fn nothing_is_missing(&self, held: &[Held]) {
        let (arrived, _) = self.on_disk();
        for attempt in arrived.iter().chain(&self.handed_over) {
            let reported = self.seen.values().any(|report| super::reports::result_of(&report.kind) == Some(*attempt));
            let listed = held.iter().any(|held| held.attempt == *attempt);
            assert!(reported || listed, "an attempt is in neither");
        }
    }
}
