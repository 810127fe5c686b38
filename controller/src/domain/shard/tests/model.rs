//! Random lives: clients, devices that behave as the protocol says, links that break, clocks that jump, a controller that dies
//! with or without its last batch. After every step the named invariants hold, and at the end every message has ended.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use flotilla_protocol::id::MessageId;
use flotilla_protocol::wire::{Attempt, Down, ErrorClass, Held, NotSent, Report, ReportKind};
use flotilla_routing::choice::Choice;
use flotilla_routing::settings::{Limits, RouteSettings};
use proptest::prelude::*;

use super::rig::*;
use crate::domain::event::{Change, EventKind};
use crate::domain::message::{Duplicates, MessageState, Pin, Priority, RouteKind};
use crate::domain::shard::residency::Stage;
use crate::domain::shard::{Effect, Input, RouteSim, ShardSettings};

const PHONES: u8 = 3;
/// The last one is no phone: an account, which forgets everything when its process dies.
const ACCOUNT: u8 = 2;
/// Segments that the first SIM and the account may send in the month of the test.
const BUDGETS: [(u8, u32); 2] = [(0, 12), (ACCOUNT, 20)];
const WINDOW: u16 = 4;
const VALIDITY_MS: u64 = 20 * 60_000;

#[derive(Clone, Debug)]
enum Step {
    Accept {
        class: u8,
        allowed: bool,
        segments: u8,
        pin: u8,
        campaign: u8,
        delay_ms: u64,
        validity_ms: u64,
    },
    Cancel(u8),
    /// The link comes up anew; the old one may not have been seen to go.
    Connect(u8),
    /// Frames on their way are lost in both directions.
    LinkLost {
        phone: u8,
        noticed: bool,
    },
    /// The device's process dies: what is being sent has an unknown end.
    PhoneDies(u8),
    DownFrames(u8, u8),
    UpFrames(u8, u8),
    HandOver(u8),
    RadioResult {
        phone: u8,
        outcome: u8,
    },
    NetworkReport {
        phone: u8,
        which: u8,
        good: bool,
    },
    SimReady {
        phone: u8,
        ready: bool,
    },
    Drain {
        phone: u8,
        drained: bool,
    },
    Pass(u64),
    WallJump(i64),
    /// Commits lag: inputs collect, nothing is released.
    Lag(bool),
    /// Reads of the store are answered later, and in another order.
    HoldReads(bool),
    /// The controller dies; what was not committed is gone.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let phone = 0..PHONES;
    prop_oneof![
        8 => (0..4u8, any::<bool>(), 1..4u8, 0..6u8, 0..3u8, prop_oneof![3 => Just(0), 1 => 0..900_000u64], 1_000..VALIDITY_MS)
            .prop_map(|(class, allowed, segments, pin, campaign, delay_ms, validity_ms)| Step::Accept {
                class, allowed, segments, pin, campaign, delay_ms, validity_ms
            }),
        1 => any::<u8>().prop_map(Step::Cancel),
        3 => phone.clone().prop_map(Step::Connect),
        1 => (phone.clone(), any::<bool>()).prop_map(|(phone, noticed)| Step::LinkLost { phone, noticed }),
        1 => phone.clone().prop_map(Step::PhoneDies),
        8 => (phone.clone(), 1..6u8).prop_map(|(phone, n)| Step::DownFrames(phone, n)),
        8 => (phone.clone(), 1..6u8).prop_map(|(phone, n)| Step::UpFrames(phone, n)),
        6 => phone.clone().prop_map(Step::HandOver),
        6 => (phone.clone(), any::<u8>()).prop_map(|(phone, outcome)| Step::RadioResult { phone, outcome }),
        4 => (phone.clone(), any::<u8>(), any::<bool>()).prop_map(|(phone, which, good)| Step::NetworkReport { phone, which, good }),
        1 => (phone.clone(), any::<bool>()).prop_map(|(phone, ready)| Step::SimReady { phone, ready }),
        1 => (phone, any::<bool>()).prop_map(|(phone, drained)| Step::Drain { phone, drained }),
        4 => prop_oneof![1..2_000u64, 2_000..90_000u64].prop_map(Step::Pass),
        1 => (-600_000..600_000i64).prop_map(Step::WallJump),
        2 => any::<bool>().prop_map(Step::Lag),
        2 => any::<bool>().prop_map(Step::HoldReads),
        1 => Just(Step::Restart),
    ]
}

/// A device as the protocol wants it: an outbox that survives, a radio, a link.
#[derive(Default)]
struct Phone {
    connected: bool,
    /// Attempts without a result.
    outbox: BTreeMap<Attempt, Entry>,
    /// Results that are known for ever, so that an attempt is never sent twice.
    done: HashMap<Attempt, bool>,
    reports: Vec<Report>,
    positions: u64,
    up: VecDeque<UpFrame>,
    down: VecDeque<Down>,
    ready: bool,
    drained: bool,
}

#[derive(Clone, Copy)]
struct Entry {
    /// The end of its lease, when it was granted.
    granted_until: Option<u64>,
    sending: bool,
    segments: u8,
}

enum UpFrame {
    Report(Report),
    Holding(Vec<Held>),
}

impl Phone {
    fn report(&mut self, at_ms: u64, kind: ReportKind) {
        self.positions += 1;
        let report = Report { position: self.positions, at_ms, kind };
        self.reports.push(report.clone());
        if self.connected {
            self.up.push_back(UpFrame::Report(report));
        }
    }

    fn tell_again(&mut self) {
        self.up.extend(self.reports.iter().cloned().map(UpFrame::Report));
        let held = self.outbox.iter().map(|(attempt, entry)| Held { attempt: *attempt, sending: entry.sending });
        self.up.push_back(UpFrame::Holding(held.collect()));
    }

    fn lose_link(&mut self) {
        self.connected = false;
        self.up.clear();
        self.down.clear();
    }
}

struct Model {
    rig: Rig,
    phones: Vec<Phone>,
    messages: Vec<MessageId>,
    /// How often a radio got each message.
    on_air: HashMap<MessageId, u32>,
    lag: bool,
}

impl Model {
    fn new() -> Self {
        let settings = ShardSettings {
            queued_max: 10,
            queued_min: 3,
            page: 4,
            sent_max: 4,
            far_ms: 60_000,
            loads_max: 2,
            look_up_ms: 0,
            ..ShardSettings::default()
        };
        Self {
            rig: Rig::with(settings),
            phones: (0..PHONES).map(|_| Phone { ready: true, ..Phone::default() }).collect(),
            messages: vec![],
            on_air: HashMap::new(),
            lag: false,
        }
    }

    fn input(&mut self, input: Input) {
        let waiting = self.waiting();
        let events = self.rig.machine.undrained();
        self.rig.machine.handle(input, self.rig.now);
        self.check_order(&waiting, events);
        self.check_machine();
        if !self.lag {
            self.settle();
        }
    }

    fn settle(&mut self) {
        self.rig.settle();
        for n in 0..PHONES {
            let frames = self.rig.frames.remove(&device(n)).unwrap_or_default();
            let phone = &mut self.phones[usize::from(n)];
            if phone.connected {
                phone.down.extend(frames);
            }
        }
        self.check_machine();
    }

    /// Ready messages that any SIM may take, with their classes and segments.
    fn waiting(&self) -> Vec<(MessageId, Priority, u8)> {
        let machine = &self.rig.machine;
        let ready = machine.messages.iter().filter(|(_, message)| Stage::of(message) == Some(Stage::Ready));
        let free = ready.filter(|(_, message)| message.avoid_until_ms <= self.rig.now.mono_ms);
        let keyed = free.map(|(_, message)| (message, &machine.lanes.get(message.lane).key));
        let any = keyed.filter(|(_, key)| key.pin == Pin::Any);
        any.map(|(message, key)| (message.id, key.class, message.segments)).collect()
    }

    /// `urgent_goes_first`: while a message of a higher class was ready and still is, none of a lower class was dispatched,
    /// unless it was shorter and took what was left of a budget.
    fn check_order(&self, before: &[(MessageId, Priority, u8)], events: usize) {
        let after = self.waiting();
        let passed_over: Vec<_> = before.iter().filter(|entry| after.contains(entry)).collect();
        for event in &self.rig.machine.events[events..] {
            if let EventKind::Changed(changed) = &event.kind
                && let Change::Dispatched { .. } = &changed.change
            {
                let fits = |(_, class, segments): &&&(MessageId, Priority, u8)| {
                    *class < changed.facts.priority && *segments <= changed.facts.segments
                };
                let first = passed_over.iter().find(fits);
                assert!(first.is_none(), "{:?} before {first:?}", changed.facts.priority);
            }
        }
    }

    /// As a link describes it.
    fn route(n: u8, ready: bool) -> RouteSim {
        let per_month = BUDGETS.iter().find(|(of, _)| *of == n).map(|(_, budget)| *budget);
        let limits = Limits { per_month, ..Limits::default() };
        let settings = Arc::new(RouteSettings { limits, ..RouteSettings::default() });
        RouteSim { ready, settings, ..route_sim(n, 1) }
    }

    /// `no_budget_is_exceeded`, by what was journaled.
    fn check_budgets(&self) {
        for (n, budget) in BUDGETS {
            let of = self.rig.charges.iter().filter(|charge| charge.route.sim == sim(n));
            let charged: u32 = of.map(|charge| u32::from(charge.segments)).sum();
            assert!(charged <= budget, "no_budget_is_exceeded: {charged} of {budget} on {n}");
        }
    }

    fn check_machine(&mut self) {
        self.check_budgets();
        let now = self.rig.now;
        let machine = &mut self.rig.machine;
        for (id, known) in &machine.devices {
            assert!(known.flights.len() <= usize::from(WINDOW), "window_is_kept: {id}");
            for sim in &known.sims {
                let granted = known.flights.values().filter(|flight| flight.sim == sim.sim);
                let granted = granted.filter(|flight| flight.grant == crate::domain::shard::fleet::Grant::Yes).count();
                assert_eq!(granted, usize::from(sim.granted), "grants_are_counted: {id}");
                let depth = if known.kind == RouteKind::Provider { usize::from(WINDOW) } else { 1 };
                assert!(granted <= depth, "depth_is_kept: {id}");
            }
        }
        let mut ready = vec![];
        for (_, message) in machine.messages.iter() {
            assert!(message.expires_ms > now.unix_ms, "validity_ends_it: {} {:?}", message.id, message.state);
            if Stage::of(message) == Some(Stage::Ready) {
                ready.push(machine.candidate(message, now));
            }
        }
        for candidate in ready {
            let choice = machine.routes.choose(&candidate, now);
            assert!(!matches!(choice, Choice::Take(..)), "nobody_waits_beside_a_free_route: {choice:?}");
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Accept { class, allowed, segments, pin, campaign, delay_ms, validity_ms } => {
                let mut submission = self.rig.submission();
                submission.priority = Priority::ALL[usize::from(class)];
                submission.duplicates = if allowed { Duplicates::Allowed } else { Duplicates::Never };
                submission.segments = segments;
                submission.pin = match pin {
                    0 => Pin::Sim(sim(0)),
                    1 => Pin::Device(device(1)),
                    _ => Pin::Any,
                };
                submission.campaign = ["", "a", "b"][usize::from(campaign)].into();
                submission.due_ms += delay_ms;
                submission.expires_ms += validity_ms;
                let tenant = submission.tenant;
                let request = crate::domain::shard::AcceptRequest {
                    tenant,
                    idempotency: None,
                    submissions: vec![submission.clone()],
                };
                let token = self.rig.unique();
                self.input(Input::Accept { token, request });
                self.messages.push(submission.id);
            }
            Step::Cancel(which) => {
                if let Some(message) = self.messages.get(usize::from(which) % self.messages.len().max(1)).copied() {
                    let token = self.rig.unique();
                    self.input(Input::Cancel { token, tenant: tenant(1), message });
                }
            }
            Step::Connect(n) => self.connect(n),
            Step::LinkLost { phone, noticed } => self.link_lost(phone, noticed),
            Step::PhoneDies(n) => {
                self.link_lost(n, true);
                let now_ms = self.rig.now.unix_ms;
                let phone = &mut self.phones[usize::from(n)];
                let sending: Vec<_> = phone.outbox.iter().filter(|(_, entry)| entry.sending).map(|(a, _)| *a).collect();
                for attempt in sending {
                    phone.outbox.remove(&attempt);
                    // A late report may still come of what an account has submitted.
                    phone.done.insert(attempt, n == ACCOUNT);
                    if n != ACCOUNT {
                        phone.report(now_ms, ReportKind::Unknown { attempt });
                    }
                }
                if n == ACCOUNT {
                    phone.outbox.clear();
                    phone.reports.clear();
                }
            }
            Step::DownFrames(n, count) => {
                for _ in 0..count {
                    let Some(frame) = self.phones[usize::from(n)].down.pop_front() else { break };
                    self.take_down(n, frame);
                }
            }
            Step::UpFrames(n, count) => {
                for _ in 0..count {
                    let Some(frame) = self.phones[usize::from(n)].up.pop_front() else { break };
                    self.take_up(n, frame);
                }
            }
            Step::HandOver(n) => self.hand_over(n),
            Step::RadioResult { phone, outcome } => self.radio_result(phone, outcome),
            Step::NetworkReport { phone, which, good } => self.network_report(phone, which, good),
            Step::SimReady { phone, ready } => {
                self.phones[usize::from(phone)].ready = ready;
                self.changed(phone);
            }
            Step::Drain { phone, drained } => {
                self.phones[usize::from(phone)].drained = drained;
                self.changed(phone);
            }
            Step::Pass(ms) => self.pass(ms),
            Step::WallJump(by_ms) => {
                self.rig.now.unix_ms = self.rig.now.unix_ms.saturating_add_signed(by_ms);
                self.input(Input::Tick);
            }
            Step::Lag(lag) => {
                self.lag = lag;
                if !lag {
                    self.settle();
                }
            }
            Step::HoldReads(hold) => {
                self.rig.hold_reads = hold;
                if !hold {
                    self.answer_reads();
                }
            }
            Step::Restart => {
                for phone in &mut self.phones {
                    phone.lose_link();
                }
                let known = &self.rig.records;
                self.messages.retain(|id| known.contains_key(id));
                self.rig.restart();
                self.settle();
            }
        }
    }

    fn answer_reads(&mut self) {
        while let Some(read) = self.rig.reads.pop() {
            self.rig.answer(read);
            self.check_machine();
            self.settle();
        }
    }

    fn connect(&mut self, n: u8) {
        let phone = &mut self.phones[usize::from(n)];
        phone.lose_link();
        phone.connected = true;
        phone.tell_again();
        let ready = phone.ready;
        let session = self.rig.unique();
        self.rig.sessions.insert(device(n), session);
        self.rig.frames.remove(&device(n));
        let route = Self::route(n, ready);
        let accepts_work = !self.phones[usize::from(n)].drained;
        self.input(Input::DeviceUp(Box::new(crate::domain::shard::Link {
            device: device(n),
            tenant: tenant(1),
            session,
            window: WINDOW,
            epoch_seen: flotilla_protocol::id::Epoch(0),
            sims: vec![route],
            accepts_work,
            kind: if n == ACCOUNT { RouteKind::Provider } else { RouteKind::Sim },
        })));
    }

    fn link_lost(&mut self, n: u8, noticed: bool) {
        self.phones[usize::from(n)].lose_link();
        self.rig.frames.remove(&device(n));
        if noticed && let Some(session) = self.rig.sessions.remove(&device(n)) {
            self.input(Input::DeviceDown { device: device(n), session });
        }
    }

    fn changed(&mut self, n: u8) {
        let phone = &self.phones[usize::from(n)];
        let Some(session) = self.rig.sessions.get(&device(n)).copied().filter(|_| phone.connected) else { return };
        let route = Self::route(n, phone.ready);
        let accepts_work = !phone.drained;
        self.input(Input::DeviceChanged { device: device(n), session, sims: vec![route], accepts_work });
    }

    fn take_down(&mut self, n: u8, frame: Down) {
        let now = self.rig.now;
        let phone = &mut self.phones[usize::from(n)];
        match frame {
            Down::Dispatch(dispatch) => {
                let known = phone.outbox.contains_key(&dispatch.attempt) || phone.done.contains_key(&dispatch.attempt);
                assert!(!known, "an attempt is dispatched once");
                let granted_until = dispatch.granted.then(|| dispatch.sent_ms + u64::from(dispatch.send_within_ms));
                let segments = self.rig.records[&dispatch.attempt.message].submission.segments;
                let entry = Entry { granted_until, sending: false, segments };
                phone.outbox.insert(dispatch.attempt, entry);
                assert!(phone.outbox.len() <= usize::from(WINDOW), "window_is_kept on the device");
            }
            Down::Go { attempts, sent_ms, send_within_ms } => {
                assert_ne!(n, ACCOUNT, "its attempts are granted as they come");
                for attempt in attempts {
                    if let Some(entry) = phone.outbox.get_mut(&attempt) {
                        entry.granted_until = Some(sent_ms + u64::from(send_within_ms));
                    }
                }
            }
            Down::Cancel { attempts } => {
                for attempt in attempts {
                    if phone.outbox.get(&attempt).is_some_and(|entry| !entry.sending) {
                        phone.outbox.remove(&attempt);
                        phone.done.insert(attempt, false);
                        phone.report(now.unix_ms, ReportKind::NotSent { attempt, reason: NotSent::Cancelled });
                    }
                }
            }
            Down::AckReports { position } => phone.reports.retain(|report| report.position > position),
            Down::Resume => phone.tell_again(),
            other => panic!("{other:?}"),
        }
    }

    fn take_up(&mut self, n: u8, frame: UpFrame) {
        let Some(session) = self.rig.sessions.get(&device(n)).copied() else { return };
        match frame {
            UpFrame::Report(report) => {
                self.input(Input::Reports { device: device(n), session, reports: vec![report] });
            }
            UpFrame::Holding(held) => self.input(Input::Held { device: device(n), session, held, last: true }),
        }
    }

    /// The radio takes the next granted attempt, if its lease holds.
    fn hand_over(&mut self, n: u8) {
        let now = self.rig.now;
        let phone = &mut self.phones[usize::from(n)];
        if phone.outbox.values().any(|entry| entry.sending) {
            return;
        }
        let granted = phone.outbox.iter().find_map(|(attempt, entry)| Some((*attempt, entry.granted_until?)));
        let Some((attempt, until)) = granted else { return };
        if now.mono_ms > until || !phone.ready {
            let reason = if phone.ready { NotSent::LeaseOver } else { NotSent::SimNotReady };
            phone.outbox.remove(&attempt);
            phone.done.insert(attempt, false);
            phone.report(now.unix_ms, ReportKind::NotSent { attempt, reason });
            return;
        }
        phone.outbox.get_mut(&attempt).unwrap().sending = true;
        let count = self.on_air.entry(attempt.message).or_default();
        *count += 1;
        let submission = &self.rig.records[&attempt.message].submission;
        // A refusal by the network is no sending: `radio_result` takes it back.
        assert!(submission.duplicates == Duplicates::Allowed || *count == 1, "never_sent_twice: {}", attempt.message);
    }

    fn radio_result(&mut self, n: u8, outcome: u8) {
        let now_ms = self.rig.now.unix_ms;
        let phone = &mut self.phones[usize::from(n)];
        let Some((attempt, entry)) = phone.outbox.iter().find(|(_, entry)| entry.sending).map(|(a, e)| (*a, *e)) else {
            return;
        };
        phone.outbox.remove(&attempt);
        let refused = |class| (ReportKind::Failed { attempt, error: error(class), segments_sent: 0 }, false);
        let (kind, left) = match outcome % 8 {
            0 => refused(ErrorClass::Permanent),
            1 => refused(ErrorClass::Route),
            2 => refused(ErrorClass::Transient),
            3 => (ReportKind::Failed { attempt, error: error(ErrorClass::Transient), segments_sent: 1 }, true),
            4 => (ReportKind::Unknown { attempt }, true),
            _ => (ReportKind::Sent { attempt, segments: entry.segments }, true),
        };
        if !left {
            *self.on_air.get_mut(&attempt.message).unwrap() -= 1;
        }
        phone.done.insert(attempt, left);
        phone.report(now_ms, kind);
    }

    fn network_report(&mut self, n: u8, which: u8, good: bool) {
        let now_ms = self.rig.now.unix_ms;
        let phone = &mut self.phones[usize::from(n)];
        let mut left: Vec<_> = phone.done.iter().filter(|(_, left)| **left).map(|(attempt, _)| *attempt).collect();
        left.sort();
        let Some(attempt) = left.get(usize::from(which) % left.len().max(1)).copied() else { return };
        let segment = which % 3;
        let class = [ErrorClass::Permanent, ErrorClass::Route, ErrorClass::Transient][usize::from(which / 3 % 3)];
        let is_whole = n == ACCOUNT || self.rig.records[&attempt.message].submission.segments == 1;
        if !good && is_whole {
            // The network has given the whole message up, for certain: nothing more will be heard of the attempt.
            phone.done.insert(attempt, false);
            *self.on_air.get_mut(&attempt.message).unwrap() -= 1;
        }
        phone.report(
            now_ms,
            match good {
                true => ReportKind::Delivered { attempt, segment },
                false => ReportKind::Undelivered { attempt, segment, error: error(class) },
            },
        );
    }

    fn pass(&mut self, ms: u64) {
        let end = self.rig.now.mono_ms + ms;
        while self.rig.now.mono_ms < end {
            let deadline = self.rig.machine.next_deadline(self.rig.now).unwrap_or(end);
            let by = deadline.clamp(self.rig.now.mono_ms + 1, end) - self.rig.now.mono_ms;
            self.rig.now.mono_ms += by;
            self.rig.now.unix_ms += by;
            self.input(Input::Tick);
        }
    }

    /// Everything heals, and time passes until no message can be open.
    fn finish(&mut self) {
        self.lag = false;
        self.settle();
        self.rig.hold_reads = false;
        self.answer_reads();
        for n in 0..PHONES {
            self.phones[usize::from(n)].ready = true;
            self.phones[usize::from(n)].drained = false;
            self.connect(n);
        }
        while self.phones.iter().any(|phone| !(phone.up.is_empty() && phone.down.is_empty() && phone.outbox.is_empty()))
        {
            for n in 0..PHONES {
                self.step(Step::UpFrames(n, 255));
                self.step(Step::DownFrames(n, 255));
                self.step(Step::HandOver(n));
                self.step(Step::RadioResult { phone: n, outcome: 7 });
                self.step(Step::UpFrames(n, 255));
            }
        }
        let last = self.rig.records.values().map(|record| record.submission.expires_ms).max().unwrap_or(0);
        self.pass(last.saturating_sub(self.rig.now.unix_ms) + 2 * self.rig.settings.overdue_every_ms);
        for id in &self.messages {
            assert!(self.rig.state(*id).is_final(), "every_message_ends: {id} {:?}", self.rig.state(*id));
        }
        assert_eq!(self.rig.machine.status().resident, 0);
        for n in 0..PHONES {
            for _ in 0..3 {
                self.step(Step::UpFrames(n, 255));
                self.step(Step::DownFrames(n, 255));
            }
            let open = self.phones[usize::from(n)].reports.len();
            assert_eq!(open, 0, "every_report_is_acknowledged: phone {n}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_no_message_is_lost_or_sent_twice(steps in prop::collection::vec(step(), 1..160)) {
        let mut model = Model::new();
        for step in steps {
            model.step(step);
        }
        model.finish();
    }
}

/// Delivered messages were on the air, and those that were cancelled or failed for good say so.
#[test]
fn the_model_itself_delivers() {
    let mut model = Model::new();
    model.step(Step::Connect(0));
    model.step(Step::UpFrames(0, 9));
    for _ in 0..5 {
        model.step(Step::Accept {
            class: 2,
            allowed: false,
            segments: 1,
            pin: 9,
            campaign: 0,
            delay_ms: 0,
            validity_ms: VALIDITY_MS,
        });
    }
    for _ in 0..5 {
        model.step(Step::DownFrames(0, 255));
        model.step(Step::HandOver(0));
        model.step(Step::RadioResult { phone: 0, outcome: 7 });
        model.step(Step::UpFrames(0, 255));
    }
    assert!(model.messages.iter().all(|id| model.rig.state(*id) == MessageState::Sent));
    assert!(model.rig.reads.iter().all(|read| !matches!(read, Effect::Send { .. })));
    for which in 0..5 {
        model.step(Step::NetworkReport { phone: 0, which: which * 3, good: true });
    }
    model.finish();
    assert!(model.messages.iter().all(|id| model.on_air[id] == 1 && model.rig.state(*id) == MessageState::Delivered));
}
