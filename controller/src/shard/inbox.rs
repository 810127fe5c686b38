//! The mailbox of a shard, and what must outlive its actor.
//!
//! Senders push under a lock and wake the actor once; it takes everything there is in one go, which is far cheaper than an
//! actor message each. Bounds: accepted messages hold permits; a device has at most its window of attempts under way, and
//! its session reads no faster than its own limits allow.
//!
//! What tenants have set meanwhile, and what devices tell about their state, is kept too, the newest of each: the next actor
//! gets it after what it starts from. Of routes whose devices are away only what comes while no actor is at work: each reads
//! them when it starts.
//!
//! The sessions are here because they outlive a restart of the actor. A new actor knows nothing of what the devices have
//! told the old one, so every session is asked to tell it again ([`Down::Resume`]), and of what comes before the answer
//! only that is let through which can be understood without it:
//! - reports, as long as none is missing before them (else a later acknowledgement would cover a report that was lost with
//!   the old actor);
//! - no lists of held attempts: the reports that belong to such a list may have gone to the old actor.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, TenantId};
use flotilla_protocol::wire::{Down, Held, Report, Telemetry};
use flotilla_routing::settings::TenantRouting;
use flotilla_routing::table::KnownRoute;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, oneshot, watch};

use super::handle::{AcceptError, DeviceSink, ShardError};
use crate::domain::Now;
use crate::domain::shard::{AcceptRequest, Acceptance, CancelOutcome, Input, Link, Machine, RouteSim, ShardStatus};

/// What callers are told to wait for a shard that starts.
const STARTING_RETRY_MS: u64 = 500;

/// What a shard is asked.
pub(super) enum Command {
    Accept {
        request: AcceptRequest,
        reply: oneshot::Sender<Result<Acceptance, AcceptError>>,
        permit: OwnedSemaphorePermit,
    },
    Cancel {
        tenant: TenantId,
        message: MessageId,
        reply: oneshot::Sender<Result<CancelOutcome, ShardError>>,
    },
    Status {
        reply: oneshot::Sender<ShardStatus>,
    },
    /// Looks at the machine, and answers by itself.
    Look(Look),
    Input(Input),
}

pub(super) type Look = Box<dyn FnOnce(&mut Machine, Now) + Send>;

/// Why nothing can be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Closed {
    /// The shard starts, or starts again.
    For { retry_after_ms: u64 },
    /// The disk is full; it tries again.
    Full,
    /// The shard is handed over or lost.
    Ever,
}

pub(super) struct Inbox {
    shard: ShardId,
    epoch: Epoch,
    /// False while the shard starts, or is given up: whoever can wait, does.
    serves: AtomicBool,
    /// Moves with `serves`.
    changes: watch::Sender<()>,
    state: Mutex<State>,
}

struct State {
    open: Result<(), Closed>,
    commands: Vec<Command>,
    /// Called when `commands` stops being empty.
    wake: Option<Box<dyn Fn() + Send>>,
    sessions: FxHashMap<DeviceId, Session>,
    /// The settings that tenants have changed under this leadership.
    tenants: FxHashMap<TenantId, Arc<TenantRouting>>,
    /// What the catalog has of routes, as far as no actor was told.
    routes: FxHashMap<TenantId, Vec<KnownRoute>>,
}

/// A device's link as its gateway session has described it.
struct Session {
    link: Link,
    sink: Arc<dyn DeviceSink>,
    /// The position of the next report that the actor needs; known from the first one that came.
    next: Option<u64>,
    /// The position of the first report that is not acknowledged.
    unacknowledged: Option<u64>,
    /// Lists of held attempts that the device was asked for, and those that it has completed.
    lists_asked: u32,
    lists_complete: u32,
    telemetry: Option<Box<Telemetry>>,
}

impl Inbox {
    /// Closed until the first actor begins.
    pub(super) fn new(shard: ShardId, epoch: Epoch, changes: watch::Sender<()>) -> Arc<Self> {
        let state = State {
            open: Err(Closed::For { retry_after_ms: STARTING_RETRY_MS }),
            commands: Vec::new(),
            wake: None,
            sessions: FxHashMap::default(),
            tenants: FxHashMap::default(),
            routes: FxHashMap::default(),
        };
        Arc::new(Self { shard, epoch, serves: AtomicBool::new(false), changes, state: Mutex::new(state) })
    }

    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(super) fn serves(&self) -> bool {
        self.serves.load(Ordering::Acquire)
    }

    fn set_serves(&self, serves: bool) {
        if self.serves.swap(serves, Ordering::AcqRel) != serves {
            self.changes.send_replace(());
        }
    }

    pub(super) fn push(&self, command: Command) -> Result<(), Closed> {
        self.state.lock().push(command)
    }

    /// Everything pushed since the last call, at most `limit`. The caller comes again after a full take.
    pub(super) fn take(&self, limit: usize) -> Vec<Command> {
        let mut state = self.state.lock();
        if state.commands.len() <= limit {
            return std::mem::take(&mut state.commands);
        }
        let rest = state.commands.split_off(limit);
        std::mem::replace(&mut state.commands, rest)
    }

    /// Opens for a new actor, and answers what it has to know first: changed settings, and the links that are up. Each device is asked to tell
    /// again what it has told before.
    pub(super) fn open(&self, wake: Box<dyn Fn() + Send>) -> Vec<Input> {
        let mut state = self.state.lock();
        state.open = Ok(());
        state.commands.clear();
        state.wake = Some(wake);
        let tenant = |(tenant, routing): (&TenantId, &Arc<TenantRouting>)| Input::Tenant {
            tenant: *tenant,
            routing: Arc::clone(routing),
        };
        let mut inputs: Vec<Input> = state.tenants.iter().map(tenant).collect();
        inputs.extend(std::mem::take(&mut state.routes).into_values().map(|routes| Input::Routes { routes }));
        for session in state.sessions.values_mut() {
            session.lists_asked += 1;
            session.next = session.unacknowledged;
            session.sink.send(vec![Down::Resume]);
            let (device, number) = (session.link.device, session.link.session);
            inputs.push(Input::DeviceUp(Box::new(session.link.clone())));
            if let Some(telemetry) = &session.telemetry {
                inputs.push(Input::Telemetry { device, session: number, telemetry: telemetry.clone() });
            }
        }
        drop(state);
        self.set_serves(true);
        inputs
    }

    /// Nothing is taken any more; answers what waits.
    pub(super) fn close(&self, why: Closed) -> Vec<Command> {
        let mut state = self.state.lock();
        state.open = Err(why);
        state.wake = None;
        let waiting = std::mem::take(&mut state.commands);
        drop(state);
        // A full disk is an answer that somebody should see.
        self.set_serves(why == Closed::Full);
        waiting
    }

    /// Hands frames to the sessions they are for.
    pub(super) fn deliver(&self, frames: impl IntoIterator<Item = (DeviceId, u64, Vec<Down>)>) {
        let mut state = self.state.lock();
        for (device, number, frames) in frames {
            let Some(session) = state.session(device, number) else { continue };
            for frame in &frames {
                match frame {
                    Down::AckReports { position } => {
                        session.unacknowledged = session.unacknowledged.max(Some(position + 1));
                    }
                    Down::Resume => session.lists_asked += 1,
                    _ => {}
                }
            }
            session.sink.send(frames);
        }
    }

    pub(super) fn device_up(&self, link: Link, sink: Arc<dyn DeviceSink>) {
        let mut state = self.state.lock();
        if state.sessions.get(&link.device).is_some_and(|known| known.link.session > link.session) {
            return;
        }
        let input = Input::DeviceUp(Box::new(link.clone()));
        let session = Session {
            link,
            sink,
            next: None,
            unacknowledged: None,
            lists_asked: 1,
            lists_complete: 0,
            telemetry: None,
        };
        state.sessions.insert(session.link.device, session);
        state.push_input(input);
    }

    pub(super) fn device_changed(&self, device: DeviceId, number: u64, sims: Vec<RouteSim>, accepts_work: bool) {
        let mut state = self.state.lock();
        let Some(session) = state.session(device, number) else { return };
        session.link.sims.clone_from(&sims);
        session.link.accepts_work = accepts_work;
        state.push_input(Input::DeviceChanged { device, session: number, sims, accepts_work });
    }

    pub(super) fn device_down(&self, device: DeviceId, number: u64) {
        let mut state = self.state.lock();
        if state.session(device, number).is_none() {
            return;
        }
        state.sessions.remove(&device);
        state.push_input(Input::DeviceDown { device, session: number });
    }

    pub(super) fn telemetry(&self, device: DeviceId, number: u64, telemetry: Telemetry) {
        let mut state = self.state.lock();
        let Some(session) = state.session(device, number) else { return };
        let telemetry = Box::new(telemetry);
        session.telemetry = Some(telemetry.clone());
        state.push_input(Input::Telemetry { device, session: number, telemetry });
    }

    /// The newest settings of a tenant; kept for every actor to come.
    pub(super) fn tenant(&self, tenant: TenantId, routing: Arc<TenantRouting>) {
        let mut state = self.state.lock();
        state.tenants.insert(tenant, Arc::clone(&routing));
        state.push_input(Input::Tenant { tenant, routing });
    }

    pub(super) fn routes(&self, tenant: TenantId, routes: Vec<KnownRoute>) {
        let mut state = self.state.lock();
        if state.open.is_ok() {
            state.push_input(Input::Routes { routes });
        } else {
            state.routes.insert(tenant, routes);
        }
    }

    pub(super) fn reports(&self, device: DeviceId, number: u64, mut reports: Vec<Report>) {
        let mut state = self.state.lock();
        let open = state.open.is_ok();
        let Some(session) = state.session(device, number) else { return };
        reports.retain(|report| session.admit(report.position, open));
        if !reports.is_empty() {
            state.push_input(Input::Reports { device, session: number, reports });
        }
    }

    pub(super) fn held(&self, device: DeviceId, number: u64, held: Vec<Held>, last: bool) {
        let mut state = self.state.lock();
        let Some(session) = state.session(device, number) else { return };
        let wanted = session.lists_complete + 1 == session.lists_asked;
        session.lists_complete += u32::from(last);
        if wanted {
            state.push_input(Input::Held { device, session: number, held, last });
        }
    }
}

impl State {
    fn session(&mut self, device: DeviceId, number: u64) -> Option<&mut Session> {
        self.sessions.get_mut(&device).filter(|session| session.link.session == number)
    }

    fn push(&mut self, command: Command) -> Result<(), Closed> {
        self.open?;
        self.commands.push(command);
        if self.commands.len() == 1
            && let Some(wake) = &self.wake
        {
            wake();
        }
        Ok(())
    }

    /// What devices say to a closed inbox is dropped: the next actor asks them again.
    fn push_input(&mut self, input: Input) {
        let _ = self.push(Command::Input(input));
    }
}

impl Session {
    /// Whether a report may go to the actor: none before it is missing there.
    fn admit(&mut self, position: u64, open: bool) -> bool {
        let next = *self.next.get_or_insert(position);
        self.unacknowledged.get_or_insert(position);
        if open && position == next {
            self.next = Some(next + 1);
        }
        open && position <= next
    }
}
