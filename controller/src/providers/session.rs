//! The session of one provider account: towards the shard it acts as a device's session does, towards the maker it sends
//! requests.
//!
//! Parent: `supervisor`. Restart policy: the supervisor begins a new session after a pause that doubles with each failure in a
//! row; what this one had submitted without an answer is in doubt then. Requests under way outlive the session: they keep the
//! maker's ids, so that a later report settles the doubt. The mailbox is bounded by its senders: frames by the shard's
//! window, answers by the requests under way, callbacks by the rate of the account.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_protocol::id::{DeviceId, Epoch, ProviderId, SenderId, SimId, TenantId};
use flotilla_protocol::wire::{Down, ErrorClass, NotSent};
use flotilla_providers::{Balance, Outgoing, Receipt, ReceiptState, Refusal, Submitted};
use flotilla_routing::Micros;
use flotilla_routing::route::RouteKind;
use flotilla_routing::settings::RouteSettings;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use url::Url;

use super::account::{NotedBalance, NotedPrice, Provider};
use super::accounts::Accounts;
use super::agent::{Agent, Batch, Config, Job, ToShard};
use super::carrier::Carrier;
use super::kind::Kind;
use super::line::{Line, Told};
use super::live::{LiveState, Shared, Turn};
use super::news::{News, inbound_message};
use super::polls::Polls;
use super::references::{ID_BYTES_MAX, Known, References, reference};
use super::smpp_line::{SmppLine, SmppTold, settings_of};
use crate::clock::Clock;
use crate::domain::Now;
use crate::gateway::{FleetEvent, FleetEvents, ShardDoor};
use crate::shard::{DeviceSink, Link, RouteSim};

/// Between two looks at the balance, and at least after an error that may be about credit.
const BALANCE_EVERY: Duration = Duration::from_secs(600);
const BALANCE_PAUSE: Duration = Duration::from_secs(60);
/// Tests do not wait for it.
const POLL_EVERY: Duration = Duration::from_millis(if cfg!(test) { 20 } else { 15_000 });
/// Ids of submitted messages in memory: a report that comes quickly needs no look into the store.
const SUBMITTED_MAX: usize = 20_000;
/// Reports that came before the answer to what they are about.
const EARLY_MAX: usize = 1_000;

/// What all sessions stand on.
pub(super) struct Parts {
    pub(super) accounts: Accounts,
    pub(super) references: References,
    pub(super) carrier: Carrier,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) events: Arc<dyn FleetEvents>,
    pub(super) public_url: Option<Url>,
    /// The last session's number.
    pub(super) numbers: AtomicU64,
}

pub(super) struct Args {
    pub(super) parts: Arc<Parts>,
    pub(super) provider: Arc<Provider>,
    pub(super) door: Arc<dyn ShardDoor>,
    pub(super) live: Shared,
}

pub(super) enum Message {
    Frames(Vec<Down>),
    Answered(Box<Answered>),
    News(Box<News>),
    Polled {
        asked: Vec<Box<str>>,
        receipts: Vec<Receipt>,
    },
    Pollable(Vec<(Box<str>, Known, u64)>),
    Account(Arc<Provider>),
    Balance(Balance),
    /// The deadline of the agent.
    Wake,
    /// Time to ask the maker for news.
    Poll,
    /// Time to write down what was noted.
    Upkeep,
    /// Whether an SMSC has let us in, and why not.
    Bound {
        bound: bool,
        why: Option<String>,
    },
    /// An SMSC's answer that came after its time.
    Late(Known, Submitted),
    /// Takes no more work, and ends when there is none.
    Drain,
}

/// What became of a batch.
pub(super) struct Answered {
    batch: Batch,
    told: Told,
    /// The maker's ids, by place in the batch and segment.
    ids: Vec<(usize, Box<str>, Option<u8>)>,
}

/// How requests go out.
enum Way {
    Http(Arc<Line>),
    Smpp(SmppLine),
    /// Settings that were good once and are not for this program.
    Broken(String),
}

impl Way {
    fn line(&self) -> Option<Arc<Line>> {
        match self {
            Self::Http(line) => Some(Arc::clone(line)),
            Self::Smpp(_) | Self::Broken(_) => None,
        }
    }
}

/// Reports of a callback that wait for the answers of requests under way.
struct Early {
    unknown: Vec<Receipt>,
    /// The last batch at that time: when it and all before are answered, nobody will ever know.
    batch: u64,
    position: u64,
    reply: Option<oneshot::Sender<()>>,
}

/// A message that was submitted, while it is fresh.
#[derive(Clone)]
struct Fresh {
    known: Known,
    country: Option<Box<str>>,
}

pub(super) struct State {
    parts: Arc<Parts>,
    provider: Arc<Provider>,
    way: Way,
    /// That of `way`, for tasks beside.
    line: Arc<Mutex<Option<Arc<Line>>>>,
    /// An SMSC has let us in; other makers need no leave.
    bound: bool,
    door: Arc<dyn ShardDoor>,
    live: Shared,
    agent: Agent,
    session: u64,
    slots: Slots,
    /// What the shard was told last of whether it is fit for work.
    ready: bool,
    draining: bool,
    /// The window has changed: a new link, when nothing is under way.
    relink: bool,
    submitted: FxHashMap<Box<str>, Fresh>,
    submitted_order: VecDeque<Box<str>>,
    early: Vec<Early>,
    /// Callbacks whose reports are not durable yet, by the position of the last one.
    waiting: Vec<(u64, oneshot::Sender<()>)>,
    polls: Polls,
    /// The maker is being asked.
    polling: bool,
    /// The shard has been told that it is over.
    ended: bool,
    noted_dirty: bool,
    look_at_balance: Arc<Notify>,
    wake: Option<(u64, JoinHandle<()>)>,
    gauge: usize,
    tasks: Tasks,
}

#[derive(Default)]
struct Tasks(CancellationToken);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Numbers of the senders towards the shard; given once in a session, so that a frame on its way never means another one.
#[derive(Default)]
struct Slots {
    slots: Vec<(SenderId, u8, Box<str>, Arc<RouteSettings>)>,
    next: u8,
}

impl Slots {
    fn set(&mut self, provider: &Provider) {
        let former = std::mem::take(&mut self.slots);
        for (id, settings) in provider.routes() {
            let known = former.iter().find(|(known, ..)| *known == id).map(|(_, slot, ..)| *slot);
            let taken = |slot: u8| former.iter().any(|(_, used, ..)| *used == slot);
            let slot = known.unwrap_or_else(|| {
                // There are far fewer senders than slots.
                while taken(self.next) || self.slots.iter().any(|(_, used, ..)| *used == self.next) {
                    self.next = self.next.wrapping_add(1);
                }
                let slot = self.next;
                self.next = self.next.wrapping_add(1);
                slot
            });
            let from = settings.sender.clone().unwrap_or_default();
            self.slots.push((id, slot, from, settings));
        }
    }

    fn numbers(&self) -> Vec<u8> {
        self.slots.iter().map(|(_, slot, ..)| *slot).collect()
    }

    fn from(&self, slot: u8) -> Box<str> {
        self.slots.iter().find(|(_, known, ..)| *known == slot).map(|(_, _, from, _)| from.clone()).unwrap_or_default()
    }

    /// The sender that a received message was sent to; the first one for a name or number that is none of them.
    fn of(&self, to: &str) -> u8 {
        let plain = |text: &str| text.trim_start_matches('+').to_ascii_lowercase();
        let found = self.slots.iter().find(|(_, _, from, _)| plain(from) == plain(to));
        found.or(self.slots.first()).map_or(0, |(_, slot, ..)| *slot)
    }

    fn sims(&self, ready: bool, window: u16) -> Vec<RouteSim> {
        let sim = |(id, slot, _, settings): &(SenderId, u8, Box<str>, Arc<RouteSettings>)| RouteSim {
            slot: *slot,
            sim: SimId::from_bytes(id.to_bytes()),
            depth: u8::try_from(window).unwrap_or(u8::MAX),
            ready,
            settings: Arc::clone(settings),
        };
        self.slots.iter().map(sim).collect()
    }
}

/// The shard's way to the session.
struct Sink(ActorRef<Message>);

impl DeviceSink for Sink {
    fn send(&self, frames: Vec<Down>) {
        // An actor that is gone has ended the session.
        let _ = self.0.cast(Message::Frames(frames));
    }
}

pub(super) struct Session;

impl Actor for Session {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let mut state = State::new(args, &myself);
        state.link(&myself);
        state.start_tasks(&myself);
        state.publish(Turn::Up, "");
        std::future::ready(Ok(state)).await
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.parts.clock.now();
        match message {
            Message::Frames(frames) => frames.into_iter().for_each(|frame| state.agent.handle(frame, now)),
            Message::Answered(answered) => state.answered(*answered, now),
            Message::News(news) => state.news(*news, now),
            Message::Polled { asked, receipts } => state.polled(&asked, receipts, now),
            Message::Pollable(known) => state.pollable(known, now),
            Message::Account(provider) => state.configure(&myself, provider, now),
            Message::Balance(balance) => state.balance(balance, now),
            Message::Wake => state.wake = None,
            Message::Poll => state.poll(&myself, now),
            Message::Upkeep => state.keep_noted(),
            Message::Bound { bound, why } => state.bound(bound, why, now),
            Message::Late(known, result) => {
                // Of a longer message it says nothing about the whole.
                if known.segments == 1 {
                    state.agent.answered_late(known.attempt, 1, &result, now);
                }
            }
            Message::Drain => state.drain(now),
        }
        state.pump(&myself);
        std::future::ready(Ok(())).await
    }

    async fn post_stop(&self, _myself: ActorRef<Message>, state: &mut State) -> Result<(), ActorProcessingErr> {
        state.end();
        std::future::ready(Ok(())).await
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        _event: SupervisionEvent,
        _state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        std::future::ready(Ok(())).await
    }
}

/// A session that panicked has not said that it is over, and the shard would go on giving it work.
impl Drop for State {
    fn drop(&mut self) {
        self.leave();
    }
}

impl State {
    fn leave(&mut self) {
        if !std::mem::replace(&mut self.ended, true) {
            self.door.device_down(self.device(), self.session);
        }
    }

    fn new(args: Args, myself: &ActorRef<Message>) -> Self {
        let Args { parts, provider, door, live } = args;
        let now = parts.clock.now();
        let mut slots = Slots::default();
        slots.set(&provider);
        let config = config_of(&parts, &provider);
        let agent = Agent::new(config, door.epoch(), slots.numbers(), now);
        let way = way_of(&parts, &provider, myself);
        let polls = Polls::new(&provider, parts.public_url.is_some());
        Self {
            bound: !matches!(way, Way::Smpp(_)),
            parts,
            line: Arc::new(Mutex::new(way.line())),
            way,
            door,
            live,
            agent,
            session: 0,
            slots,
            ready: false,
            draining: false,
            relink: false,
            submitted: FxHashMap::default(),
            submitted_order: VecDeque::new(),
            early: Vec::new(),
            waiting: Vec::new(),
            polls,
            polling: false,
            ended: false,
            noted_dirty: false,
            look_at_balance: Arc::new(Notify::new()),
            wake: None,
            gauge: 0,
            tasks: Tasks::default(),
            provider,
        }
    }

    fn device(&self) -> DeviceId {
        DeviceId::from_bytes(self.provider.id.to_bytes())
    }

    fn tenant(&self) -> TenantId {
        self.provider.tenant
    }

    fn maker(&self) -> &'static str {
        self.provider.capabilities().name
    }

    /// Tells the shard that it is there, under a number of its own.
    fn link(&mut self, myself: &ActorRef<Message>) {
        self.session = self.parts.numbers.fetch_add(1, Ordering::Relaxed) + 1;
        self.ready = self.is_ready();
        self.agent.link_up();
        let window = self.agent.config().window;
        let link = Link {
            kind: RouteKind::Provider,
            device: self.device(),
            tenant: self.tenant(),
            session: self.session,
            window,
            epoch_seen: Epoch::default(),
            sims: self.slots.sims(self.ready, window),
            accepts_work: !self.draining,
        };
        self.door.device_up(link, Arc::new(Sink(myself.clone())));
        // The list that it owes; there is nothing else yet.
        self.tell_shard();
    }

    fn tell_shard(&mut self) {
        while let Some(news) = self.agent.to_shard() {
            match news {
                ToShard::Reports(reports) => self.door.reports(self.device(), self.session, reports),
                ToShard::Held(held) => self.door.held(self.device(), self.session, held, true),
            }
        }
    }

    /// Everything that may follow from anything.
    fn pump(&mut self, myself: &ActorRef<Message>) {
        let now = self.parts.clock.now();
        self.agent.expire(now);
        self.tell_fitness();
        while let Some(batch) = self.agent.next_batch(now) {
            self.submit(myself, batch);
        }
        self.tell_shard();
        let acknowledged = self.agent.acknowledged();
        for (_, reply) in self.waiting.extract_if(.., |(position, _)| *position <= acknowledged) {
            // Whoever asked may have given up.
            let _ = reply.send(());
        }
        if self.agent.is_idle() {
            if self.draining {
                myself.stop(None);
            } else if std::mem::take(&mut self.relink) {
                self.door.device_down(self.device(), self.session);
                self.agent.set_accepts(true, now);
                self.link(myself);
            }
        }
        self.wake_at(myself, now);
        self.show();
    }

    fn is_ready(&self) -> bool {
        self.bound && !self.agent.is_paused() && !self.draining && !self.relink
    }

    /// The shard gives no work to an account that cannot take it.
    fn tell_fitness(&mut self) {
        let ready = self.is_ready();
        if ready != self.ready {
            self.ready = ready;
            self.tell_change();
        }
    }

    fn tell_change(&self) {
        let window = self.agent.config().window;
        let accepts_work = !self.draining && !self.relink;
        let sims = self.slots.sims(self.ready, window);
        self.door.device_changed(self.device(), self.session, sims, accepts_work);
    }

    fn wake_at(&mut self, myself: &ActorRef<Message>, now: Now) {
        let Some(at_ms) = self.agent.next_deadline(now) else { return };
        if self.wake.as_ref().is_some_and(|(set, _)| *set <= at_ms) {
            return;
        }
        if let Some((_, earlier)) = self.wake.take() {
            earlier.abort();
        }
        let pause = Duration::from_millis(at_ms.saturating_sub(now.mono_ms).max(1));
        let myself = myself.clone();
        let task = tokio::spawn(async move {
            sleep(pause).await;
            let _ = myself.cast(Message::Wake);
        });
        self.wake = Some((at_ms, task));
    }

    fn show(&mut self) {
        let (waiting, in_flight) = (self.agent.waiting(), self.agent.in_flight());
        let mut live = self.live.lock();
        (live.waiting, live.in_flight, live.paused) = (waiting, in_flight, self.agent.is_paused());
        live.early = self.early.len();
        drop(live);
        let gauge = metrics::gauge!("flotilla_provider_in_flight", "maker" => self.maker());
        gauge.increment(in_flight as f64 - self.gauge as f64);
        self.gauge = in_flight;
    }

    fn submit(&self, myself: &ActorRef<Message>, batch: Batch) {
        let sender = self.slots.from(batch.slot);
        let deadline_ms = batch.jobs.iter().map(|job| job.deadline_ms).min().unwrap_or_default();
        let within = Duration::from_millis(deadline_ms.saturating_sub(self.parts.clock.now().mono_ms));
        let outgoing: Vec<Outgoing> = batch.jobs.iter().map(|job| outgoing(job, &sender)).collect();
        let mut report = Report { myself: myself.clone(), answered: Some(Box::new(Answered::nothing(batch))) };
        let references = self.parts.references.clone();
        match &self.way {
            Way::Http(line) => drop(tokio::spawn(submit(Arc::clone(line), references, outgoing, deadline_ms, report))),
            Way::Smpp(line) => {
                // One message: so many SMPP makers take in one request.
                let told = outgoing.into_iter().next().map(|outgoing| line.submit(outgoing, within));
                drop(tokio::spawn(submit_smpp(self.provider.id, told, references, report)));
            }
            Way::Broken(why) => {
                if let Some(answered) = &mut report.answered {
                    let code = format!("{}-settings", self.maker()).into();
                    let refusal =
                        Refusal { class: ErrorClass::Route, code, text: why.as_str().into(), retry_after_ms: None };
                    let results = vec![Submitted::Refused(refusal); answered.batch.jobs.len()];
                    answered.told = Told { results, ..Told::default() };
                }
            }
        }
    }

    fn bound(&mut self, bound: bool, why: Option<String>, now: Now) {
        self.bound = bound || !matches!(self.way, Way::Smpp(_));
        let mut live = self.live.lock();
        let turn = match (bound, why.clone()) {
            (true, _) => live.answered(),
            (false, Some(why)) => live.silent(why, now.unix_ms),
            (false, None) => None,
        };
        drop(live);
        if !self.bound {
            self.agent.turn_away_waiting(now);
        }
        if let Some(turn) = turn {
            self.publish(turn, why.as_deref().unwrap_or_default());
        }
    }

    fn answered(&mut self, answered: Answered, now: Now) {
        let Answered { batch, told, ids } = answered;
        if told.late {
            return self.agent.not_submitted(batch.number, NotSent::LeaseOver, now);
        }
        self.note_answer(&told, now);
        for (place, id, segment) in ids {
            let Some(job) = batch.jobs.get(place) else { continue };
            let known = Known { attempt: job.attempt, segments: job.segments, segment };
            let country = job.to.region().map(|region| region.as_str().into());
            self.polls.sent(&id, known, now.unix_ms);
            self.remember(id, Fresh { known, country });
        }
        for (result, job) in told.results.iter().zip(&batch.jobs) {
            if let Submitted::Accepted { price: Some(price), .. } = result {
                self.note_price(job.to.region().map(|region| region.as_str().into()), price, now);
            }
        }
        self.agent.submitted(batch.number, &told.results, told.left, now);
        self.retry_early(now);
    }

    fn note_answer(&mut self, told: &Told, now: Now) {
        let mut credit = false;
        let mut live = self.live.lock();
        for result in &told.results {
            match result {
                Submitted::Accepted { .. } => live.counters.accepted += 1,
                Submitted::Refused(refusal) => {
                    live.counters.refused += 1;
                    credit |= refusal.class == ErrorClass::Route;
                    live.last_error = Some((format!("{}: {}", refusal.code, refusal.text), now.unix_ms));
                }
                Submitted::Unclear(why) => {
                    live.counters.unclear += 1;
                    live.last_error = Some((why.to_string(), now.unix_ms));
                }
            }
        }
        let turn = match &told.silent {
            Some(why) => live.silent(why.clone(), now.unix_ms),
            None => live.answered(),
        };
        drop(live);
        if credit && told.silent.is_none() {
            self.look_at_balance.notify_one();
        }
        if let Some(turn) = turn {
            self.publish(turn, told.silent.as_deref().unwrap_or_default());
        }
    }

    fn publish(&self, turn: Turn, reason: &str) {
        let provider = self.provider.id;
        let event = match turn {
            Turn::Up => FleetEvent::ProviderUp { provider },
            Turn::Down => FleetEvent::ProviderDown { provider, reason: reason.to_owned() },
        };
        self.parts.events.publish(self.tenant(), event);
    }

    fn remember(&mut self, id: Box<str>, fresh: Fresh) {
        self.submitted_order.push_back(id.clone());
        self.submitted.insert(id, fresh);
        if self.submitted_order.len() > SUBMITTED_MAX
            && let Some(oldest) = self.submitted_order.pop_front()
        {
            self.submitted.remove(&oldest);
        }
    }

    /// What a callback has told. Reports about what nobody knows yet wait until the requests under way are answered.
    fn news(&mut self, news: News, now: Now) {
        if !self.agent.has_room() || self.draining || self.early.len() >= EARLY_MAX {
            // Nobody is told that it was taken, so the maker repeats it.
            return;
        }
        let mut position = 0;
        let mut unknown = Vec::new();
        for (known, receipt) in news.receipts {
            match known.or_else(|| self.fresh(&receipt)) {
                Some(known) => position = position.max(self.receipt(known, &receipt, now)),
                None => unknown.push(receipt),
            }
        }
        for inbound in news.inbound {
            let slot = self.slots.of(&inbound.to);
            let message = inbound_message(self.provider.id, slot, inbound, now.unix_ms);
            self.live.lock().counters.inbound += 1;
            position = self.agent.inbound(message, now.unix_ms);
        }
        let batch = self.agent.batches().max().unwrap_or(0);
        self.early.push(Early { unknown, batch, position, reply: news.reply });
        self.retry_early(now);
    }

    fn retry_early(&mut self, now: Now) {
        if self.early.is_empty() {
            return;
        }
        let first = self.agent.batches().min().unwrap_or(u64::MAX);
        for mut early in std::mem::take(&mut self.early) {
            for receipt in std::mem::take(&mut early.unknown) {
                match self.fresh(&receipt) {
                    Some(known) => early.position = early.position.max(self.receipt(known, &receipt, now)),
                    None if first <= early.batch => early.unknown.push(receipt),
                    // From another life of the account, or older than what is remembered.
                    None => self.live.lock().counters.unknown_reports += 1,
                }
            }
            if !early.unknown.is_empty() {
                self.early.push(early);
            } else if let Some(reply) = early.reply {
                self.waiting.push((early.position, reply));
            }
        }
    }

    fn fresh(&self, receipt: &Receipt) -> Option<Known> {
        self.submitted.get(receipt.id.as_deref()?).map(|fresh| fresh.known)
    }

    /// Answers the position of its last report, 0 when there is nothing to report.
    fn receipt(&mut self, known: Known, receipt: &Receipt, now: Now) -> u64 {
        let fresh = receipt.id.as_deref().and_then(|id| self.submitted.get(id)).cloned();
        if let (Some(price), Some(fresh)) = (&receipt.price, fresh) {
            self.note_price(fresh.country, price, now);
        }
        if let Some(id) = receipt.id.as_deref().filter(|_| receipt.state != ReceiptState::Pending) {
            // Told by a callback: there is nothing left to ask.
            self.polls.settle(id);
        }
        let at_ms = receipt.at_ms.unwrap_or(now.unix_ms);
        let Known { attempt, segments, segment } = known;
        let segment = receipt.segment.or(segment);
        let undelivered = |state: &mut Self, refusal: &Refusal| {
            state.live.lock().counters.undelivered += 1;
            state.agent.undelivered(attempt, segment, refusal, at_ms)
        };
        match &receipt.state {
            ReceiptState::Pending => 0,
            ReceiptState::Delivered => {
                self.live.lock().counters.delivered += 1;
                self.agent.delivered(attempt, segments, segment, at_ms)
            }
            ReceiptState::Failed(refusal) => undelivered(self, refusal),
            ReceiptState::Expired => {
                let code = format!("{}-expired", self.maker()).into();
                let text = "the provider has let it expire".into();
                undelivered(self, &Refusal { class: ErrorClass::Transient, code, text, retry_after_ms: None })
            }
        }
    }

    fn note_price(&mut self, country: Option<Box<str>>, price: &(u64, Box<str>), now: Now) {
        let Some(country) = country else { return };
        let noted = NotedPrice { amount: Micros(price.0), currency: price.1.clone(), at_ms: now.unix_ms };
        self.live.lock().noted.prices.insert(country, noted);
        self.noted_dirty = true;
    }

    fn balance(&mut self, balance: Balance, now: Now) {
        let noted = NotedBalance { micros: balance.micros, currency: balance.currency, at_ms: now.unix_ms };
        let gauge = metrics::gauge!(
            "flotilla_provider_balance", "maker" => self.maker(), "provider" => self.provider.id.to_string()
        );
        gauge.set(noted.micros as f64 / 1e6);
        let low = self.provider.settings.low_balance.map(|low| i64::try_from(low.0).unwrap_or(i64::MAX));
        let mut live = self.live.lock();
        let is_low = live.falls_low(noted.micros, low);
        live.noted.balance = Some(noted.clone());
        drop(live);
        self.noted_dirty = true;
        self.keep_noted();
        if is_low {
            let event = FleetEvent::ProviderLowBalance { provider: self.provider.id, balance: noted };
            self.parts.events.publish(self.tenant(), event);
        }
    }

    fn keep_noted(&mut self) {
        if !std::mem::take(&mut self.noted_dirty) {
            return;
        }
        let (accounts, id, noted) = (self.parts.accounts.clone(), self.provider.id, self.live.lock().noted.clone());
        tokio::spawn(async move {
            if let Err(error) = accounts.note(id, noted).await {
                tracing::debug!(provider = %id, %error, "balance and prices are not written down");
            }
        });
    }

    fn configure(&mut self, myself: &ActorRef<Message>, provider: Arc<Provider>, now: Now) {
        if provider.version <= self.provider.version {
            return;
        }
        let config = config_of(&self.parts, &provider);
        self.relink |= config.window != self.agent.config().window;
        self.slots.set(&provider);
        self.end_way();
        self.way = way_of(&self.parts, &provider, myself);
        *self.line.lock() = self.way.line();
        self.bound = !matches!(self.way, Way::Smpp(_));
        self.provider = provider;
        self.agent.configure(config, self.slots.numbers(), now);
        if self.relink {
            // Everything comes to an end before the shard hears of another window.
            self.agent.set_accepts(false, now);
        }
        self.tell_change();
    }

    fn drain(&mut self, now: Now) {
        self.draining = true;
        self.agent.set_accepts(false, now);
    }

    fn pollable(&mut self, known: Vec<(Box<str>, Known, u64)>, now: Now) {
        known.into_iter().for_each(|(id, known, sent_ms)| self.polls.restored(&id, known, sent_ms, now.unix_ms));
    }

    fn poll(&mut self, myself: &ActorRef<Message>, now: Now) {
        let Way::Http(line) = &self.way else { return };
        if self.polling {
            return;
        }
        let asked = self.polls.due(line.maker().poll_max(), now.unix_ms);
        if asked.is_empty() {
            return;
        }
        let (line, myself) = (Arc::clone(line), myself.clone());
        self.polling = true;
        tokio::spawn(self.tasks.0.clone().run_until_cancelled_owned(async move {
            let receipts = line.poll(&asked).await;
            let _ = myself.cast(Message::Polled { asked, receipts });
        }));
    }

    fn polled(&mut self, asked: &[Box<str>], receipts: Vec<Receipt>, now: Now) {
        self.polling = false;
        let mut settled = Vec::new();
        for receipt in receipts {
            // An answer about what was not asked is none.
            let Some(id) = receipt.id.as_ref().filter(|id| asked.contains(id)).cloned() else { continue };
            let Some(known) = self.polls.known(&id).or_else(|| self.fresh(&receipt)) else { continue };
            if receipt.state != ReceiptState::Pending && self.polls.settle(&id) {
                settled.push(id);
            }
            self.receipt(known, &receipt, now);
        }
        if settled.is_empty() {
            return;
        }
        let (references, id) = (self.parts.references.clone(), self.provider.id);
        tokio::spawn(async move {
            if let Err(error) = references.settle(id, settled).await {
                tracing::debug!(provider = %id, %error, "settled messages will be asked about once more");
            }
        });
    }

    /// Balance and polls, as long as the session lasts.
    fn start_tasks(&self, myself: &ActorRef<Message>) {
        let capabilities = self.provider.capabilities();
        if capabilities.balance {
            let (wanted, stop, live) = (Arc::clone(&self.look_at_balance), self.tasks.0.clone(), myself.clone());
            let line = Arc::clone(&self.line);
            tokio::spawn(stop.run_until_cancelled_owned(look_at_balance(line, wanted, live)));
        }
        if capabilities.polls {
            let (references, id, session) = (self.parts.references.clone(), self.provider.id, myself.clone());
            tokio::spawn(self.tasks.0.clone().run_until_cancelled_owned(poll_now_and_then(references, id, session)));
        }
    }

    fn end_way(&self) {
        if let Way::Smpp(line) = &self.way {
            line.end();
        }
    }

    fn end(&mut self) {
        self.end_way();
        self.leave();
        let gauge = metrics::gauge!("flotilla_provider_in_flight", "maker" => self.maker());
        gauge.decrement(self.gauge as f64);
        if let Some((_, wake)) = self.wake.take() {
            wake.abort();
        }
        self.keep_noted();
        self.publish(Turn::Down, "the account is not at work on this controller any more");
    }
}

async fn look_at_balance(line: Arc<Mutex<Option<Arc<Line>>>>, wanted: Arc<Notify>, session: ActorRef<Message>) {
    loop {
        // The session's own, so that both have one token.
        let present = line.lock().clone();
        let balance = match &present {
            Some(line) => line.balance().await,
            None => None,
        };
        if let Some(balance) = balance
            && session.cast(Message::Balance(balance)).is_err()
        {
            return;
        }
        let _ = session.cast(Message::Upkeep);
        let looked = Instant::now();
        tokio::select! {
            () = sleep(BALANCE_EVERY) => {}
            () = wanted.notified() => sleep_until(looked + BALANCE_PAUSE).await,
        }
    }
}

async fn poll_now_and_then(references: References, id: ProviderId, session: ActorRef<Message>) {
    loop {
        match references.newest(id, Polls::MAX).await {
            Ok(known) => {
                let _ = session.cast(Message::Pollable(known));
                break;
            }
            Err(error) => tracing::debug!(provider = %id, %error, "what was sent before is not known yet"),
        }
        sleep(POLL_EVERY).await;
    }
    loop {
        sleep(POLL_EVERY).await;
        if session.cast(Message::Poll).is_err() {
            return;
        }
    }
}

fn config_of(parts: &Parts, provider: &Provider) -> Config {
    let settings = &provider.settings;
    // An SMPP client paces by itself, by its own settings where those are given.
    let smpp =
        matches!(provider.kind, Kind::Smpp).then(|| settings_of(provider, parts.accounts.guard()).ok()).flatten();
    let window = smpp.as_ref().map_or(settings.window, |smpp| u16::try_from(smpp.window).unwrap_or(settings.window));
    let requests_per_s = settings.requests_per_second.filter(|_| smpp.is_none());
    Config { window, batch_max: provider.batch_max(), requests_per_s }
}

fn way_of(parts: &Parts, provider: &Arc<Provider>, myself: &ActorRef<Message>) -> Way {
    if let Some(line) = line_of(parts, provider) {
        return Way::Http(line);
    }
    match settings_of(provider, parts.accounts.guard()) {
        Ok(settings) => {
            let references = parts.references.clone();
            Way::Smpp(SmppLine::start(settings, provider.id, references, myself.clone()))
        }
        Err(error) => Way::Broken(error.to_string()),
    }
}

/// `None` for an account that does not speak HTTP.
pub(super) fn line_of(parts: &Parts, provider: &Arc<Provider>) -> Option<Arc<Line>> {
    let (carrier, clock) = (parts.carrier.clone(), Arc::clone(&parts.clock));
    Line::new(carrier, clock, Arc::clone(provider), parts.public_url.as_ref()).map(Arc::new)
}

fn outgoing(job: &Job, sender: &str) -> Outgoing {
    Outgoing {
        reference: reference(job.attempt, job.segments),
        to: job.to,
        sender: sender.into(),
        text: job.text.clone(),
        unicode: job.unicode,
        flash: job.flash,
        segments: job.segments,
        validity_s: job.validity_s,
    }
}

impl Answered {
    /// What is true as long as nothing is known: everything in doubt.
    fn nothing(batch: Batch) -> Self {
        let told = Told { silent: Some("the request failed".to_owned()), ..Told::default() };
        Self { batch, told, ids: Vec::new() }
    }
}

/// Tells the session what became of a batch, also when its task panics.
struct Report {
    myself: ActorRef<Message>,
    answered: Option<Box<Answered>>,
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(answered) = self.answered.take() {
            // A session that has ended is not interested.
            let _ = self.myself.cast(Message::Answered(answered));
        }
    }
}

/// One request, from beginning to end. Goes on when its session ends: what it learns then is kept for later reports.
async fn submit(
    line: Arc<Line>,
    references: References,
    outgoing: Vec<Outgoing>,
    deadline_ms: u64,
    mut report: Report,
) {
    let Some(answered) = report.answered.as_mut() else { return };
    let jobs = &answered.batch.jobs;
    let told = line.submit(&outgoing, deadline_ms).await;
    let ids = told.results.iter().enumerate().filter_map(|(place, result)| match result {
        Submitted::Accepted { id: Some(id), .. } if id.len() <= ID_BYTES_MAX => Some((place, id.clone(), None)),
        _ => None,
    });
    let ids: Vec<(usize, Box<str>, Option<u8>)> = ids.collect();
    let capabilities = line.provider().capabilities();
    if !capabilities.echoes_reference || capabilities.polls {
        keep(&references, line.provider().id, jobs, &ids).await;
    }
    (answered.told, answered.ids) = (told, ids);
}

/// One message to an SMSC, which is in line already.
async fn submit_smpp(
    provider: ProviderId,
    told: Option<impl Future<Output = SmppTold>>,
    references: References,
    mut report: Report,
) {
    let (Some(answered), Some(told)) = (report.answered.as_mut(), told) else { return };
    let SmppTold { told, ids } = told.await;
    let ids: Vec<_> = ids.into_iter().map(|(id, segment)| (0, id, segment)).collect();
    keep(&references, provider, &answered.batch.jobs, &ids).await;
    (answered.told, answered.ids) = (told, ids);
}

async fn keep(references: &References, provider: ProviderId, jobs: &[Job], ids: &[(usize, Box<str>, Option<u8>)]) {
    let known = |(place, id, segment): &(usize, Box<str>, Option<u8>)| {
        let job = jobs.get(*place)?;
        Some((id.clone(), Known { attempt: job.attempt, segments: job.segments, segment: *segment }))
    };
    references.keep(provider, ids.iter().filter_map(known).collect()).await;
}

/// What a session begins to show.
pub(super) fn new_live(parts: &Parts, provider: &Provider) -> Shared {
    let now_ms = parts.clock.now().unix_ms;
    Arc::new(parking_lot::Mutex::new(LiveState::new(now_ms, provider.noted.clone())))
}
