//! A machine with a store behind it. Every drained batch is folded into records as the rows follower does; reads of the store
//! are answered from them; a restart forgets everything else. After each step the machine's memory must equal the fold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{
    Attempt, Body, Dispatch, Down, ErrorClass, ErrorDomain, Held, Report, ReportKind, SendError, TextEncoding,
};
use flotilla_routing::fact::Charge;
use flotilla_routing::ledger::Ledger;
use flotilla_routing::settings::{TenantRouting, Tenants};
use flotilla_routing::table::{KnownRoute, Notice};

use crate::domain::Now;
use crate::domain::event::{Change, EventKind, Inbound};
use crate::domain::facts;
use crate::domain::message::{Duplicates, MessageState, Pin, Priority, RouteKind, Submission};
use crate::domain::record::{MessageRecord, Step};
use crate::domain::shard::message::Message;
use crate::domain::shard::{
    AcceptRequest, CancelOutcome, Effect, Input, KnownKey, Link, Machine, OpenCount, Output, RequestKey, Restored,
    RouteSim, ShardSettings, Token,
};

pub(super) const START_MS: u64 = 1_700_000_000_000;
pub(super) const HOUR_MS: u64 = 3_600_000;

pub(super) fn tenant(n: u8) -> TenantId {
    TenantId::from_bytes([n; 16])
}

pub(super) fn device(n: u8) -> DeviceId {
    DeviceId::from_bytes([n; 16])
}

pub(super) fn sim(n: u8) -> SimId {
    SimId::from_bytes([n; 16])
}

pub(super) fn route_sim(n: u8, depth: u8) -> RouteSim {
    RouteSim { slot: n % 2, sim: sim(n), depth, ready: true, settings: Arc::default() }
}

pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) settings: ShardSettings,
    pub(super) now: Now,
    pub(super) records: BTreeMap<MessageId, MessageRecord>,
    pub(super) inbound: Vec<Inbound>,
    /// How many records are open.
    open: u64,
    keys: HashMap<(TenantId, [u8; 16]), KnownKey>,
    pub(super) seq: u64,
    epoch: u64,
    pub(super) frames: BTreeMap<DeviceId, Vec<Down>>,
    pub(super) notices: Vec<Notice>,
    pub(super) replies: HashMap<Token, Reply>,
    next: u64,
    positions: BTreeMap<DeviceId, u64>,
    pub(super) sessions: BTreeMap<DeviceId, u64>,
    pub(super) charges: Vec<Charge>,
    /// The fold of what is committed, as the follower keeps it.
    pub(super) ledger: Ledger,
    /// What tenant 1 has set, for the next start.
    pub(super) routing: Option<Arc<TenantRouting>>,
    /// What the catalog has of routes, for the next start.
    pub(super) catalog: Vec<KnownRoute>,
    /// Reads that the test answers itself.
    pub(super) reads: Vec<Effect>,
    pub(super) hold_reads: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    Accepted { ids: Vec<MessageId>, replayed: bool },
    KeyReused,
    Cancelled(CancelOutcome),
}

impl Rig {
    pub(super) fn new() -> Self {
        Self::with(ShardSettings::default())
    }

    pub(super) fn with(settings: ShardSettings) -> Self {
        let now = Now { unix_ms: START_MS, mono_ms: 1_000_000 };
        let restored = Restored {
            shard: ShardId(0),
            epoch: Epoch(1),
            last_seq: 0,
            in_flight: vec![],
            open: vec![],
            inbound: vec![],
            tenants: Tenants::default(),
            routes: vec![],
            ledger: Ledger::default(),
        };
        Self {
            machine: Machine::new(settings.clone(), restored, now),
            settings,
            now,
            records: BTreeMap::new(),
            inbound: vec![],
            open: 0,
            keys: HashMap::new(),
            seq: 0,
            epoch: 1,
            frames: BTreeMap::new(),
            notices: Vec::new(),
            replies: HashMap::new(),
            next: 0,
            positions: BTreeMap::new(),
            sessions: BTreeMap::new(),
            charges: vec![],
            ledger: Ledger::default(),
            routing: None,
            catalog: vec![],
            reads: vec![],
            hold_reads: false,
        }
    }

    pub(super) fn unique(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// One input, and everything that follows from it.
    pub(super) fn input(&mut self, input: Input) {
        self.machine.handle(input, self.now);
        self.settle();
    }

    pub(super) fn settle(&mut self) {
        loop {
            let output = self.machine.drain();
            if output.events.is_empty() && output.effects.is_empty() {
                break;
            }
            self.commit(&output);
            self.release(output);
        }
        self.check_fold();
    }

    /// What the journal and the rows follower do.
    pub(super) fn commit(&mut self, output: &Output) {
        if output.events.is_empty() {
            return;
        }
        assert_eq!(output.seq, self.seq + 1, "sequences have no gap");
        self.seq = output.seq;
        for (index, event) in output.events.iter().enumerate() {
            facts::of_event(event, |fact| {
                self.ledger.apply(&fact);
            });
            match &event.kind {
                EventKind::Accepted(accepted) => {
                    let submission = accepted.submission.clone();
                    if let Some(key) = accepted.idempotency {
                        let known = self.keys.entry((submission.tenant, key.key));
                        let known = known.or_insert(KnownKey { request: key.request, ids: vec![] });
                        known.ids.push(submission.id);
                    }
                    let record = MessageRecord::accepted(submission, event.at_ms, (output.seq, index as u32));
                    assert!(self.records.insert(record.submission.id, record).is_none(), "accepted once");
                    self.open += 1;
                }
                EventKind::Changed(changed) => {
                    if let Change::Returned { why, .. } = &changed.change {
                        assert_ne!(why.class, ErrorClass::Permanent, "no_permanent_failure_is_retried");
                    }
                    let record = self.records.get_mut(&changed.message).expect("a change follows the acceptance");
                    assert!(record.is_open(), "{} changed after its end: {:?}", changed.message, changed.change);
                    assert!(event.at_ms >= record.updated_ms, "times of a message do not go back");
                    record.apply(event.at_ms, &changed.change);
                    if let Some(charge) = &changed.charge {
                        assert!(!record.charged, "charged_once: {} {:?}", changed.message, changed.change);
                        record.charge(charge);
                        self.charges.push(**charge);
                    }
                    self.open -= u64::from(!record.is_open());
                }
                EventKind::Inbound(inbound) => self.inbound.push((**inbound).clone()),
            }
        }
    }

    pub(super) fn release(&mut self, output: Output) {
        for effect in output.effects {
            match effect {
                Effect::Accepted { token, result } => {
                    let reply = match result {
                        Ok(acceptance) => {
                            Reply::Accepted { ids: acceptance.ids.to_vec(), replayed: acceptance.replayed }
                        }
                        Err(_) => Reply::KeyReused,
                    };
                    self.replies.insert(token, reply);
                }
                Effect::Cancelled { token, outcome } => {
                    self.replies.insert(token, Reply::Cancelled(outcome));
                }
                Effect::Send { device, session, frames } => {
                    if self.sessions.get(&device) == Some(&session) {
                        self.frames.entry(device).or_default().extend(frames);
                    }
                }
                Effect::Tell(notices) => self.notices.extend(notices),
                read if self.hold_reads => self.reads.push(read),
                read => self.answer(read),
            }
        }
    }

    /// Answers a read of the store.
    pub(super) fn answer(&mut self, read: Effect) {
        let input = match read {
            Effect::Load { tenant, message } => {
                let record = self.records.get(&message).filter(|record| record.submission.tenant == tenant);
                Input::Loaded { message, record: record.cloned().map(Box::new) }
            }
            Effect::FindKey { token, tenant, key } => {
                Input::KeyFound { token, known: self.keys.get(&(tenant, key)).cloned() }
            }
            Effect::Refill { tenant, class, after, limit } => {
                let mut records = self.select(|record| {
                    record.state == MessageState::Queued
                        && record.submission.tenant == tenant
                        && record.submission.priority == class
                        && record.order > after
                });
                records.sort_by_key(|record| record.order);
                records.truncate(limit);
                Input::Refilled { tenant, class, records }
            }
            Effect::FetchDue { until_ms, limit } => {
                let mut records =
                    self.select(|record| record.state == MessageState::Scheduled && record.next_try_ms <= until_ms);
                records.sort_by_key(|record| record.next_try_ms);
                records.truncate(limit);
                Input::Due { records }
            }
            Effect::FetchOverdue { now_ms, limit } => {
                let mut records = self.select(|record| record.is_open() && record.submission.expires_ms <= now_ms);
                records.sort_by_key(|record| record.submission.expires_ms);
                records.truncate(limit);
                Input::Overdue { records }
            }
            _ => unreachable!("not a read"),
        };
        self.machine.handle(input, self.now);
    }

    fn select(&self, matches: impl Fn(&MessageRecord) -> bool) -> Vec<MessageRecord> {
        self.records.values().filter(|record| matches(record)).cloned().collect()
    }

    /// The process dies, and another one starts from the store. Links are gone.
    pub(super) fn restart(&mut self) {
        let mut open: HashMap<_, u64> = HashMap::new();
        for record in self.records.values().filter(|record| record.is_open()) {
            let submission = &record.submission;
            *open.entry((submission.tenant, submission.priority, record.state)).or_default() += 1;
        }
        let counts =
            open.into_iter().map(|((tenant, class, state), messages)| OpenCount { tenant, class, state, messages });
        let mut inbound: BTreeMap<DeviceId, u64> = BTreeMap::new();
        for message in &self.inbound {
            inbound.insert(message.device, message.position);
        }
        self.epoch += 1;
        let tenants = self.routing.iter().map(|routing| (tenant(1), Arc::clone(routing))).collect();
        let restored = Restored {
            shard: ShardId(0),
            epoch: Epoch(self.epoch),
            last_seq: self.seq,
            in_flight: self.select(|r| matches!(r.state, MessageState::Dispatching | MessageState::Unknown)),
            open: counts.collect(),
            inbound: inbound.into_iter().collect(),
            tenants,
            routes: self.catalog.clone(),
            ledger: self.ledger.clone(),
        };
        self.machine = Machine::new(self.settings.clone(), restored, self.now);
        self.reads.clear();
        self.frames.clear();
        self.sessions.clear();
        self.settle();
    }

    /// Memory is what the journal says.
    pub(super) fn check_fold(&self) {
        let mut by_stage = 0;
        for (slot, message) in self.machine.messages.iter() {
            assert_eq!(self.machine.ids.get(&message.id), Some(&slot));
            let record = &self.records[&message.id];
            assert!(same(message, record), "memory_is_the_fold: {message:?} {record:?}");
            by_stage += 1;
        }
        assert_eq!(by_stage, self.machine.ids.len());
        assert!(self.machine.routes.ledger() == &self.ledger, "the_ledger_is_the_fold");
        assert_eq!(self.machine.totals.open(), self.open, "totals_count_every_open_message");
    }

    /// Time passes, in steps no longer than the machine's deadlines.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.mono_ms + ms;
        while self.now.mono_ms < end {
            let deadline = self.machine.next_deadline(self.now).unwrap_or(end);
            let step = deadline.clamp(self.now.mono_ms + 1, end) - self.now.mono_ms;
            self.now.mono_ms += step;
            self.now.unix_ms += step;
            self.input(Input::Tick);
        }
    }

    // Clients.

    pub(super) fn submission(&mut self) -> Submission {
        let n = self.unique();
        let mut random = [0; 10];
        random[2..].copy_from_slice(&n.to_be_bytes());
        Submission {
            id: MessageId::new(self.now.unix_ms, random),
            tenant: tenant(1),
            accepted_ms: self.now.unix_ms,
            to: Msisdn::from_u64(255_712_345_678).unwrap(),
            body: Body::Text("hello".into()),
            encoding: TextEncoding::default(),
            flash: false,
            segments: 1,
            priority: Priority::Normal,
            duplicates: Duplicates::Never,
            pin: Pin::Any,
            due_ms: self.now.unix_ms,
            expires_ms: self.now.unix_ms + 24 * HOUR_MS,
            campaign: "".into(),
            tags: vec![],
            client_ref: None,
            sender: None,
            plan: None,
            max_cost: None,
            callback_url: None,
        }
    }

    pub(super) fn accept(&mut self, change: impl FnOnce(&mut Submission)) -> MessageId {
        let mut submission = self.submission();
        change(&mut submission);
        let id = submission.id;
        let reply = self.request(None, vec![submission]);
        assert_eq!(reply, Some(Reply::Accepted { ids: vec![id], replayed: false }));
        id
    }

    pub(super) fn request(&mut self, idempotency: Option<RequestKey>, submissions: Vec<Submission>) -> Option<Reply> {
        let token = self.unique();
        let tenant = submissions.first().map_or(tenant(1), |submission| submission.tenant);
        self.input(Input::Accept { token, request: AcceptRequest { tenant, idempotency, submissions } });
        self.replies.get(&token).cloned()
    }

    pub(super) fn cancel(&mut self, message: MessageId) -> CancelOutcome {
        let token = self.unique();
        self.input(Input::Cancel { token, tenant: tenant(1), message });
        match self.replies.get(&token) {
            Some(Reply::Cancelled(outcome)) => *outcome,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn state(&self, message: MessageId) -> MessageState {
        self.records[&message].state
    }

    pub(super) fn code(&self, message: MessageId) -> &str {
        self.records[&message].failure.as_ref().map_or("", |failure| &failure.code)
    }

    // Devices.

    /// A device of tenant 1 comes and holds nothing.
    pub(super) fn up(&mut self, n: u8, window: u16, sims: &[RouteSim]) {
        self.connect(n, window, sims);
        self.held(n, vec![]);
    }

    pub(super) fn connect(&mut self, n: u8, window: u16, sims: &[RouteSim]) {
        self.connect_as(RouteKind::Sim, n, window, sims);
    }

    /// An account of tenant 1 comes and holds nothing.
    pub(super) fn account_up(&mut self, n: u8, window: u16) {
        self.connect_as(RouteKind::Provider, n, window, &[route_sim(n, 1)]);
        self.held(n, vec![]);
    }

    pub(super) fn set_routing(&mut self, routing: TenantRouting) {
        let routing = Arc::new(routing);
        self.routing = Some(Arc::clone(&routing));
        self.input(Input::Tenant { tenant: tenant(1), routing });
    }

    pub(super) fn connect_as(&mut self, kind: RouteKind, n: u8, window: u16, sims: &[RouteSim]) {
        let session = self.unique();
        self.sessions.insert(device(n), session);
        self.frames.remove(&device(n));
        self.input(Input::DeviceUp(Box::new(Link {
            device: device(n),
            tenant: tenant(1),
            session,
            window,
            epoch_seen: Epoch(self.epoch),
            sims: sims.to_vec(),
            accepts_work: true,
            kind,
        })));
    }

    pub(super) fn held(&mut self, n: u8, held: Vec<Held>) {
        let session = self.sessions[&device(n)];
        self.input(Input::Held { device: device(n), session, held, last: true });
    }

    pub(super) fn down(&mut self, n: u8) {
        let session = self.sessions.remove(&device(n)).expect("it is up");
        self.input(Input::DeviceDown { device: device(n), session });
    }

    pub(super) fn report(&mut self, n: u8, kind: ReportKind) {
        let position = self.positions.entry(device(n)).or_default();
        *position += 1;
        let report = Report { position: *position, at_ms: self.now.unix_ms, kind };
        let session = self.sessions[&device(n)];
        self.input(Input::Reports { device: device(n), session, reports: vec![report] });
    }

    pub(super) fn take_frames(&mut self, n: u8) -> Vec<Down> {
        let frames = self.frames.remove(&device(n)).unwrap_or_default();
        frames.into_iter().filter(|frame| !matches!(frame, Down::AckReports { .. })).collect()
    }

    /// The only frame since the last look, which is a dispatch.
    pub(super) fn dispatched(&mut self, n: u8) -> Dispatch {
        match self.take_frames(n).as_slice() {
            [Down::Dispatch(dispatch)] => dispatch.clone(),
            other => panic!("{other:?}"),
        }
    }
}

pub(super) fn attempt(message: MessageId, number: u16) -> Attempt {
    Attempt { message, number }
}

pub(super) fn error(class: ErrorClass) -> SendError {
    SendError { class, domain: ErrorDomain::Cms, code: 38, text: "network out of order".into() }
}

/// Whether memory and fold agree on everything that events decide.
fn same(message: &Message, record: &MessageRecord) -> bool {
    let transient = |step: &&Step| {
        step.state == MessageState::Queued
            && step.failure.as_ref().is_some_and(|why| why.class == ErrorClass::Transient)
    };
    let dispatched = record.trace.iter().rev().find(|step| step.state == MessageState::Dispatching);
    let text_kept = matches!(&message.body, Body::Text(text) if !text.is_empty());
    message.order == record.order
        && message.state == record.state
        && message.charged == record.charged
        && message.spent == record.cost
        && message.attempt == record.attempt
        && message.route == record.route
        && message.next_try_ms == record.next_try_ms
        && message.dispatched_ms == dispatched.map_or(0, |step| step.at_ms)
        && message.sent_ms == record.sent_ms.unwrap_or(0)
        && message.segments_delivered == record.segments_delivered
        && usize::from(message.retries) == record.trace.iter().filter(transient).count()
        && message.lost == record.lost
        && text_kept == (record.state != MessageState::Sent)
}
