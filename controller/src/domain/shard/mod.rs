//! The heart: one shard's messages from acceptance to their end, as a machine without IO.
//!
//! [`Machine::handle`] takes an input and the time, [`Machine::drain`] gives the events to commit and the effects to release
//! once they are committed, [`Machine::next_deadline`] says when to come again. Events are applied as they are made
//! (docs/adr/0001). Nothing here reads a clock, draws a number, or waits.
//!
//! | module | what |
//! |---|---|
//! | `accept` | requests and their idempotency keys, cancelling |
//! | `dispatch` | which message goes next: serving the lanes, grants, going back to the queue |
//! | `links` | devices come, list what they hold, change, go |
//! | `reports` | what devices say about attempts, and inbound messages |
//! | `ends` | validity, leases, back-off: what time does |
//! | `residency` | which messages are in memory, and how the others come back |
//! | `insight` | what people and metrics see of the routes |
//! | `message`, `lanes`, `fleet`, `timers`, `keys`, `absent`, `slots` | the parts of the state |
//!
//! What holds at every moment: an attempt is journaled before its frame leaves; under `duplicates: never` a message with an
//! attempt that may have been sent is not dispatched again; a device has at most its window of attempts, and at most
//! `depth` of a SIM's are granted; a message that ended never changes again.

mod absent;
mod accept;
pub mod bench;
mod dispatch;
mod ends;
mod fleet;
mod insight;
mod io;
mod keys;
mod lanes;
mod links;
mod message;
mod reports;
mod residency;
mod settings;
mod slots;
mod tenants;
#[cfg(test)]
mod tests;
mod timers;

use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, TenantId};
use flotilla_protocol::wire::{Attempt, Down};
use flotilla_routing::choice::PlanRef;
use flotilla_routing::ledger::Ledger;
use flotilla_routing::settings::Tenants;
use flotilla_routing::table::{KnownRoute, Marked, Table, TableSettings};
use rustc_hash::FxHashMap;

use super::Now;
use super::event::{Change, Changed, Event, EventKind, Facts};
use super::facts;
use super::message::{MessageState, Pin, Priority, Submission};
use super::record::MessageRecord;
use dispatch::Left;
use fleet::Device;
use keys::Keys;
use lanes::{LaneKey, Lanes};
use message::Message;
use reports::Received;
use residency::{Residency, Stage};
use slots::{Slot, Slots};
use timers::{Timer, Timers};

pub use insight::RouteGlance;
pub use io::{
    AcceptRequest, Acceptance, CancelOutcome, Effect, Input, KeyReused, KnownKey, Link, Order, Output, RequestKey,
    RouteSim, ShardStatus, Token,
};
pub use reports::WHOLE;
pub use settings::{ATTEMPTS_MAX, SUBMISSIONS_MAX, ShardSettings};

/// What is served for one input; anything left is served with the next one.
const ROUNDS_MAX: u32 = 8;

/// How many open messages the store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenCount {
    pub tenant: TenantId,
    pub class: Priority,
    pub state: MessageState,
    pub messages: u64,
}

/// What a machine starts from: the rows, with everything in them that was ever committed.
#[derive(Debug)]
pub struct Restored {
    pub shard: ShardId,
    pub epoch: Epoch,
    /// The last committed sequence; 0 for none.
    pub last_seq: u64,
    /// All messages in the states `dispatching` and `unknown`.
    pub in_flight: Vec<MessageRecord>,
    pub open: Vec<OpenCount>,
    /// The position of the last inbound message of each device.
    pub inbound: Vec<(DeviceId, u64)>,
    /// What the tenants have set; those without an entry have the defaults.
    pub tenants: Tenants,
    /// What the catalog has of their routes, and of those of messages in flight: their devices may be away.
    pub routes: Vec<KnownRoute>,
    /// The fold of everything that was ever committed.
    pub ledger: Ledger,
}

/// One shard.
#[derive(Debug)]
pub struct Machine {
    settings: ShardSettings,
    shard: ShardId,
    epoch: Epoch,
    /// The sequence of the batch that is being collected.
    seq: u64,
    events: Vec<Event>,
    effects: Vec<Effect>,

    messages: Slots<Message>,
    ids: FxHashMap<MessageId, Slot>,
    lanes: Lanes,
    routes: Table,
    /// What the table wants served again, between two looks.
    marked: Vec<Marked>,
    devices: FxHashMap<DeviceId, Device>,
    /// Devices with something to drain.
    touched: Vec<DeviceId>,
    timers: Timers,
    residency: Residency,
    totals: Totals,

    keys: Keys,
    /// Requests whose keys are being looked up.
    undecided: FxHashMap<Token, AcceptRequest>,
    /// Until then (monotonic) keys that are not in memory are looked up in the store: whoever asks may have looked there
    /// before this machine's predecessor had committed.
    look_up_until_ms: u64,
    inbound: FxHashMap<DeviceId, u64>,
    received: Received,
    /// When the rules of a tenant choose other plans (Unix ms).
    reclassify_ms: FxHashMap<TenantId, u64>,
    /// Times that messages were set aside until a limit or a pause lets them go; since the last glance.
    waits: u64,
}

/// How many messages are open, in memory or not, by class and state.
#[derive(Debug, Default)]
struct Totals([[u64; 10]; 4]);

impl Totals {
    fn add(&mut self, class: Priority, state: MessageState, messages: u64) {
        self.0[class as usize][usize::from(state.code())] += messages;
    }

    fn remove(&mut self, class: Priority, state: MessageState) {
        let count = &mut self.0[class as usize][usize::from(state.code())];
        *count = count.saturating_sub(1);
    }

    fn of(&self, class: Priority, state: MessageState) -> u64 {
        self.0[class as usize][usize::from(state.code())]
    }

    fn of_state(&self, state: MessageState) -> u64 {
        Priority::ALL.into_iter().map(|class| self.of(class, state)).sum()
    }

    fn open(&self) -> u64 {
        self.0.iter().flatten().sum()
    }
}

impl Machine {
    pub fn new(settings: ShardSettings, restored: Restored, now: Now) -> Self {
        let table = TableSettings {
            pause_min_ms: settings.pause_min_ms,
            pause_max_ms: settings.pause_max_ms,
            ..TableSettings::default()
        };
        let mut machine = Self {
            shard: restored.shard,
            epoch: restored.epoch,
            seq: restored.last_seq + 1,
            events: Vec::new(),
            effects: Vec::new(),
            messages: Slots::default(),
            ids: FxHashMap::default(),
            lanes: Lanes::default(),
            routes: Table::new(table, restored.ledger),
            marked: Vec::new(),
            devices: FxHashMap::default(),
            touched: Vec::new(),
            timers: Timers::default(),
            residency: Residency::default(),
            totals: Totals::default(),
            keys: Keys::new(settings.keys_ms, settings.keys_max),
            undecided: FxHashMap::default(),
            look_up_until_ms: now.mono_ms + settings.look_up_ms,
            inbound: restored.inbound.into_iter().collect(),
            received: Received::default(),
            reclassify_ms: FxHashMap::default(),
            waits: 0,
            settings,
        };
        for (tenant, routing) in restored.tenants {
            machine.set_tenant(tenant, routing, now);
        }
        // Before what is in flight: that is charged by them.
        machine.routes.know(&restored.routes, now);
        for count in &restored.open {
            machine.totals.add(count.class, count.state, count.messages);
        }
        for record in restored.in_flight {
            machine.adopt(record, None, now);
        }
        for count in &restored.open {
            if count.state == MessageState::Queued && count.messages > 0 {
                machine.begin_refill(count.tenant, count.class);
            }
        }
        machine.advance(now);
        machine
    }

    /// Takes one input. What follows from it is in the next [`Machine::drain`].
    pub fn handle(&mut self, input: Input, now: Now) {
        self.advance(now);
        match input {
            Input::Accept { token, request } => self.accept(token, request, now),
            Input::KeyFound { token, known } => self.key_found(token, known, now),
            Input::Cancel { token, tenant, message } => self.cancel(token, tenant, message, now),
            Input::DeviceUp(link) => self.device_up(*link, now),
            Input::DeviceChanged { device, session, sims, accepts_work } => {
                self.device_changed(device, session, &sims, accepts_work, now);
            }
            Input::DeviceDown { device, session } => self.device_down(device, session, now),
            Input::Reports { device, session, reports } => self.reports(device, session, reports, now),
            Input::Held { device, session, held, last } => self.held(device, session, &held, last, now),
            Input::Loaded { message, record } => self.loaded(message, record, now),
            Input::Refilled { tenant, class, records } => self.refilled(tenant, class, records, now),
            Input::Due { records } => self.fetched_due(records, now),
            Input::Overdue { records } => self.fetched_overdue(records, now),
            Input::Telemetry { device, session, telemetry } => self.telemetry(device, session, &telemetry, now),
            Input::Tenant { tenant, routing } => self.set_tenant(tenant, routing, now),
            Input::Routes { routes } => self.routes.know(&routes, now),
            Input::Tick => {}
        }
        // What is served may make room elsewhere: an attempt that expires in its queue, a wait that ends.
        for _ in 0..ROUNDS_MAX {
            self.follow_routes(now);
            if !self.serve(now) {
                break;
            }
        }
        let (messages, lanes, reclassify_ms) = (&self.messages, &self.lanes, &self.reclassify_ms);
        self.timers.sweep(|at_ms, timer| match timer {
            Timer::Due(slot) | Timer::Expires(slot) | Timer::Lease(slot) => messages.get(*slot).is_some(),
            // A message is roused before its time, and sleeps again, as often as others make room.
            Timer::Wake(slot) => messages.get(*slot).is_some_and(|message| message.wake_ms == Some(at_ms)),
            Timer::Serve(target) => lanes.has_target(*target),
            Timer::Reclassify(tenant) => reclassify_ms.contains_key(tenant),
        });
    }

    /// Everything since the last call. The events are one journal batch; the effects may go once it is committed.
    pub fn drain(&mut self) -> Output {
        for id in std::mem::take(&mut self.touched) {
            let Some(device) = self.devices.get_mut(&id) else { continue };
            device.touched = false;
            let frames = device.take_frames();
            if let Some(session) = device.session.filter(|_| !frames.is_empty()) {
                self.effects.push(Effect::Send { device: id, session, frames });
            }
        }
        let notices = self.routes.take_notices();
        if !notices.is_empty() {
            self.effects.push(Effect::Tell(notices));
        }
        let seq = self.seq;
        self.seq += u64::from(!self.events.is_empty());
        Output { seq, events: std::mem::take(&mut self.events), effects: std::mem::take(&mut self.effects) }
    }

    /// Events since the last [`Machine::drain`].
    pub fn undrained(&self) -> usize {
        self.events.len()
    }

    /// When to call again at the latest, by the monotonic clock.
    pub fn next_deadline(&self, now: Now) -> Option<u64> {
        let (wall, mono) = self.next_fetch();
        let wall = wall.map(|at| now.mono_ms + at.saturating_sub(now.unix_ms).min(timers::WALL_CHECK_MS));
        let routes = self.routes.next_deadline();
        [wall, mono, routes, self.timers.deadline(now.unix_ms, now.mono_ms)].into_iter().flatten().min()
    }

    /// The fold of all its events, those of the batch under way among them.
    pub fn ledger(&self) -> &Ledger {
        self.routes.ledger()
    }

    pub fn status(&self) -> ShardStatus {
        ShardStatus {
            shard: self.shard,
            epoch: self.epoch,
            queued: Priority::ALL.map(|class| self.totals.of(class, MessageState::Queued)),
            scheduled: self.totals.of_state(MessageState::Scheduled),
            in_flight: self.totals.of_state(MessageState::Dispatching),
            unknown: self.totals.of_state(MessageState::Unknown),
            sent: self.totals.of_state(MessageState::Sent),
            resident: self.messages.len(),
            devices: self.devices.values().filter(|device| device.session.is_some()).count(),
        }
    }

    /// Journals a change of a message in memory, and applies it.
    fn record(&mut self, slot: Slot, change: Change, now: Now) {
        self.record_left(slot, change, None, now);
    }

    /// The same, with a change after which segments of the present attempt have left, or may have: they are charged, unless
    /// they were before.
    fn record_left(&mut self, slot: Slot, change: Change, left: Option<Left>, now: Now) {
        let Some(message) = self.messages.get_mut(slot) else { return };
        let key = &self.lanes.get(message.lane).key;
        let (tenant, class) = (key.tenant, key.class);
        let at_ms = now.unix_ms.max(message.at_ms);
        let (state, stage) = (message.state, Stage::of(message));
        let charge = left
            .filter(|_| !message.charged)
            .zip(message.route)
            .map(|(left, route)| Box::new(self.routes.charge(route, tenant, left.segments, left.at_ms, message.to)));
        message.wake_ms = None;
        message.apply(at_ms, &change);
        if let Some(charge) = &charge {
            message.charge(charge);
            let attempt = Attempt { message: message.id, number: message.attempt };
            // Counted once: what is charged is not reserved any more, though it keeps its place.
            if let Some(device) = self.devices.get_mut(&charge.route.device)
                && let Some(flight) = device.flights.get_mut(&attempt).filter(|flight| flight.segments > 0)
            {
                self.routes.release(charge.route, tenant, flight.segments, flight.recipient, now);
                flight.segments = 0;
                self.routes.reserve(charge.route, tenant, 0, flight.recipient, now);
            }
        }
        let facts = Facts {
            accepted_ms: message.accepted_ms,
            segments: message.segments,
            priority: class,
            region: message.to.region(),
            campaign: key.campaign.clone(),
            callback: message.callback,
        };
        let changed = Changed { message: message.id, tenant, facts, change, charge };
        facts::of_changed(at_ms, &changed, |fact| {
            self.routes.fact(&fact, now);
        });
        self.events.push(Event { at_ms, kind: EventKind::Changed(changed) });
        let (after, stage_after) = (message.state, Stage::of(message));
        self.totals.remove(class, state);
        if let Some(stage) = stage {
            self.residency.leave(tenant, class, stage);
        }
        match stage_after {
            Some(stage) => {
                self.totals.add(class, after, 1);
                self.residency.enter(tenant, class, stage);
                if after == MessageState::Sent && state != after {
                    self.keep_sent(slot);
                }
            }
            None => self.remove(slot),
        }
        if stage == Some(Stage::Ready) {
            self.refill(tenant, class);
        }
    }

    /// Adds a frame for a device; it leaves with the batch.
    fn post(&mut self, id: DeviceId, frame: Down) {
        if let Some(device) = self.devices.get_mut(&id) {
            device.send(frame);
            self.touch(id);
        }
    }

    fn touch(&mut self, id: DeviceId) {
        if let Some(device) = self.devices.get_mut(&id)
            && !device.touched
        {
            device.touched = true;
            self.touched.push(id);
        }
    }

    fn retry_max_ms(&self) -> u64 {
        self.settings.retry_delays_ms.iter().copied().max().unwrap_or(0)
    }
}

/// Messages that are pinned to a route follow no plan.
fn lane_key(submission: &Submission, plan: impl FnOnce() -> PlanRef) -> LaneKey {
    LaneKey {
        tenant: submission.tenant,
        class: submission.priority,
        pin: submission.pin,
        plan: if submission.pin == Pin::Any { plan() } else { PlanRef::default() },
        campaign: submission.campaign.clone(),
    }
}
