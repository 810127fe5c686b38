//! The session of one provider account: towards the shard it acts as a device's session does, towards the maker it sends
//! requests.
//!
//! Parent: `supervisor`. Restart policy: the supervisor begins a new session after a pause that doubles with each failure in a
//! row; what this one had submitted without an answer is in doubt then. Requests under way outlive the session: they keep the
//! maker's ids, so that a later report settles the doubt. The mailbox is bounded by its senders: frames by the shard's
//! window, answers by the requests under way, callbacks by the rate of the account.
//!
//! The session of an account that was disabled *rests*: it takes no work and submits nothing, and hears of what it has sent.

mod parts;
mod slots;
mod submitting;
mod telling;
mod upkeep;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use flotilla_protocol::id::{DeviceId, Epoch, TenantId};
use flotilla_protocol::wire::Down;
use flotilla_providers::{Balance, Receipt, Submitted};
use flotilla_routing::route::RouteKind;
use parking_lot::Mutex;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::FxHashMap;
use tokio::sync::{Notify, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::account::Provider;
use super::accounts::Accounts;
use super::agent::{Agent, Config, ToShard};
use super::carrier::Carrier;
use super::kind::Kind;
use super::line::Line;
use super::live::{LiveState, Shared, Turn};
use super::news::News;
use super::polls::Polls;
use super::references::{Known, References};
use super::smpp_line::{SmppLine, settings_of};
use crate::clock::Clock;
use crate::domain::Now;
use crate::gateway::{FleetEvent, FleetEvents, ShardDoor};
use crate::shard::{DeviceSink, Link};
use parts::Parts as MessageParts;
use slots::Slots;
use submitting::Answered;
use telling::{Early, Fresh};

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
    resting: bool,
    /// The window has changed: a new link, when nothing is under way.
    relink: bool,
    submitted: FxHashMap<Box<str>, Fresh>,
    submitted_order: VecDeque<Box<str>>,
    early: Vec<Early>,
    parts_of: MessageParts,
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
        if !state.resting {
            state.publish(Turn::Up, "");
        }
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
            Message::Frames(frames) => {
                frames.into_iter().for_each(|frame| state.agent.handle(frame, now));
                state.room_again(now);
            }
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
        let resting = !provider.enabled;
        let mut agent = Agent::new(config, door.epoch(), slots.numbers(), now);
        agent.set_accepts(!resting, now);
        live.lock().resting = resting;
        let way = way_of(&parts, &provider, myself);
        let polls = Polls::new(&provider, parts.public_url.is_some());
        Self {
            bound: !matches!(way, Way::Smpp(_)),
            parts,
            line: Arc::new(Mutex::new(way.line().filter(|_| !resting))),
            way,
            door,
            live,
            agent,
            session: 0,
            slots,
            ready: false,
            draining: false,
            resting,
            relink: false,
            submitted: FxHashMap::default(),
            submitted_order: VecDeque::new(),
            early: Vec::new(),
            parts_of: MessageParts::default(),
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
            accepts_work: self.wants_work(),
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
                // Whoever has called back hears first that it was taken.
                if self.waiting.is_empty() && self.early.is_empty() {
                    myself.stop(None);
                }
            } else if std::mem::take(&mut self.relink) {
                self.door.device_down(self.device(), self.session);
                self.agent.set_accepts(!self.resting, now);
                self.link(myself);
            }
        }
        self.wake_at(myself, now);
        self.show();
    }

    fn wants_work(&self) -> bool {
        !self.draining && !self.resting && !self.relink
    }

    fn is_ready(&self) -> bool {
        self.bound && !self.agent.is_paused() && self.wants_work()
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
        let sims = self.slots.sims(self.ready, window);
        self.door.device_changed(self.device(), self.session, sims, self.wants_work());
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

    fn publish(&self, turn: Turn, reason: &str) {
        let provider = self.provider.id;
        let event = match turn {
            Turn::Up => FleetEvent::ProviderUp { provider },
            Turn::Down => FleetEvent::ProviderDown { provider, reason: reason.to_owned() },
        };
        self.parts.events.publish(self.tenant(), event);
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
        let resting = !provider.enabled;
        // Nobody asks for the balance of an account that rests.
        *self.line.lock() = self.way.line().filter(|_| !resting);
        self.bound = !matches!(self.way, Way::Smpp(_));
        self.provider = provider;
        self.agent.configure(config, self.slots.numbers(), now);
        // Everything comes to an end before the shard hears of another window.
        self.agent.set_accepts(!resting && !self.relink && !self.draining, now);
        self.turn(resting);
        self.tell_change();
    }

    /// Goes to rest, or back to work.
    fn turn(&mut self, resting: bool) {
        if std::mem::replace(&mut self.resting, resting) == resting {
            return;
        }
        self.live.lock().resting = resting;
        match resting {
            true => self.publish(Turn::Down, "the account is disabled"),
            false => self.publish(Turn::Up, ""),
        }
    }

    fn drain(&mut self, now: Now) {
        self.draining = true;
        self.agent.set_accepts(false, now);
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
        if !self.resting {
            self.publish(Turn::Down, "the account is not at work on this controller any more");
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

/// What a session begins to show.
pub(super) fn new_live(parts: &Parts, provider: &Provider) -> Shared {
    let now_ms = parts.clock.now().unix_ms;
    Arc::new(parking_lot::Mutex::new(LiveState::new(now_ms, provider.noted.clone())))
}

#[cfg(test)]
mod tests;
