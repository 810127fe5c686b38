//! A client of one account: its links and the handle to them.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ids::Keys;
use super::incoming::SharedKeys;
use super::link::{Link, Request};
use super::outcome::{Event, NotSent, State, SubmitOutcome};
use super::session::Role;
use super::settings::{Bind, Settings};
use crate::maker::{Judged, Outgoing};

/// Messages that may wait beside a window of them, so that a small window has some ahead.
const WAITING_EXTRA: usize = 8;

/// What the links of an account share.
pub(crate) struct Shared {
    pub(crate) settings: Arc<Settings>,
    pub(crate) keys: SharedKeys,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) board: Board,
}

impl Shared {
    pub(crate) fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How it stands with each link, and with the account as a whole.
pub(crate) struct Board {
    bind: Bind,
    links: Mutex<[State; 2]>,
    state: watch::Sender<State>,
    in_flight: AtomicUsize,
    window: AtomicUsize,
}

impl Board {
    fn new(bind: Bind, window: usize) -> Self {
        Self {
            bind,
            links: Mutex::new([State::Binding, State::Binding]),
            state: watch::Sender::new(State::Binding),
            in_flight: AtomicUsize::new(0),
            window: AtomicUsize::new(window),
        }
    }

    /// Sets the state of a link; gives the account's when that has changed.
    pub(crate) fn set(&self, role: Role, state: State) -> Option<State> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links[usize::from(role == Role::Receiver)] = state;
        let whole = match (self.bind, &links[0], &links[1]) {
            (Bind::Receiver, _, receiver) => receiver.clone(),
            (Bind::Transmitter | Bind::Transceiver, sender, _) => sender.clone(),
            // A pair can send while its receiver is away; receipts come later then.
            (Bind::Pair, State::Bound { .. }, receiver) => {
                State::Bound { receiving: matches!(receiver, State::Bound { .. }) }
            }
            (Bind::Pair, sender, _) => sender.clone(),
        };
        let changed = self.state.send_if_modified(|known| {
            let changed = *known != whole;
            known.clone_from(&whole);
            changed
        });
        changed.then_some(whole)
    }

    pub(crate) fn in_flight(&self, role: Role, count: usize) {
        if role != Role::Receiver {
            self.in_flight.store(count, Ordering::Relaxed);
        }
    }

    pub(crate) fn window(&self, role: Role, window: usize) {
        if role != Role::Receiver {
            self.window.store(window, Ordering::Relaxed);
        }
    }
}

/// An account's client. Clones share it; when the last one is gone, it unbinds and ends.
#[derive(Clone)]
pub struct Handle {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Request>,
    stop: CancellationToken,
    links: TaskTracker,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Starts a client. Events that are not read hold up receipts and messages, never submits.
pub fn start(settings: Settings, events: mpsc::Sender<Event>) -> Handle {
    start_seeded(settings, events, rand::random())
}

/// As [`start`]; the seed decides the jitter of pauses and the first reference of long messages.
pub fn start_seeded(settings: Settings, events: mpsc::Sender<Event>, seed: u64) -> Handle {
    let settings = Arc::new(settings);
    let shared = Arc::new(Shared {
        keys: Arc::new(Mutex::new(Keys::new(settings.message_ids))),
        board: Board::new(settings.bind, settings.window),
        events,
        settings: settings.clone(),
    });
    let (jobs, requests) = mpsc::channel(settings.window + WAITING_EXTRA);
    let (stop, links) = (CancellationToken::new(), TaskTracker::new());
    let mut requests = Some(requests);
    let roles: &[Role] = match settings.bind {
        Bind::Transmitter => &[Role::Transmitter],
        Bind::Receiver => &[Role::Receiver],
        Bind::Transceiver => &[Role::Transceiver],
        Bind::Pair => &[Role::Transmitter, Role::Receiver],
    };
    for (role, seed) in roles.iter().zip(seed..) {
        let jobs = if *role == Role::Receiver { None } else { requests.take() };
        links.spawn(Link::new(shared.clone(), *role, jobs, stop.clone(), seed).run());
    }
    links.close();
    Handle { inner: Arc::new(Inner { shared, jobs, stop, links }) }
}

impl Handle {
    /// Submits a message. It is in line when this returns; the future gives what became of it, and may be dropped.
    pub fn submit(&self, outgoing: Outgoing) -> impl Future<Output = SubmitOutcome> + Send + use<> {
        self.offer(outgoing, None)
    }

    /// As [`Handle::submit`]; nothing of it goes out after `deadline`, when the message may be sent by another route.
    pub fn submit_before(
        &self,
        outgoing: Outgoing,
        deadline: Instant,
    ) -> impl Future<Output = SubmitOutcome> + Send + use<> {
        self.offer(outgoing, Some(deadline))
    }

    fn offer(
        &self,
        outgoing: Outgoing,
        deadline: Option<Instant>,
    ) -> impl Future<Output = SubmitOutcome> + Send + use<> {
        let (reply, outcome) = oneshot::channel();
        let offered = self.inner.jobs.try_send(Request { outgoing, reply, since: Instant::now(), deadline });
        let refused = match offered {
            _ if !self.inner.shared.settings.may_send() => Some(NotSent::NotBound),
            Ok(()) => None,
            Err(mpsc::error::TrySendError::Full(_)) => Some(NotSent::Busy),
            Err(mpsc::error::TrySendError::Closed(_)) => Some(NotSent::Stopped),
        };
        async move {
            match refused {
                Some(refused) => SubmitOutcome::refused(refused.refusal()),
                None => outcome.await.unwrap_or_else(|_| SubmitOutcome::unclear("the client has failed")),
            }
        }
    }

    /// Submits without an answer now.
    pub fn in_flight(&self) -> usize {
        self.inner.shared.board.in_flight.load(Ordering::Relaxed)
    }

    /// Submits that may be without an answer at once; less than what is set while the SMSC is congested.
    pub fn window(&self) -> usize {
        self.inner.shared.board.window.load(Ordering::Relaxed)
    }

    pub fn state(&self) -> State {
        self.inner.shared.board.state.borrow().clone()
    }

    /// For waiting for a state.
    pub fn states(&self) -> watch::Receiver<State> {
        self.inner.shared.board.state.subscribe()
    }

    /// Takes nothing more, waits for the answers that are due, unbinds, and ends.
    pub async fn shutdown(&self) {
        self.inner.stop.cancel();
        self.inner.links.wait().await;
    }
}

/// Binds and unbinds: whether the account works. Ends with the account's own time limits.
pub async fn judge(settings: Settings) -> Judged {
    // Nobody reads it, so whatever the SMSC would deliver to this session it keeps.
    let (events, _unread) = mpsc::channel(1);
    let handle = start(settings, events);
    let mut states = handle.states();
    let decided = |state: &State| match state {
        State::Binding => false,
        State::Bound { receiving } => *receiving || handle.inner.shared.settings.bind != Bind::Pair,
        State::Refused { .. } | State::BackingOff { .. } | State::Stopped => true,
    };
    let judged = match states.wait_for(decided).await.map(|state| state.clone()) {
        Ok(State::Bound { .. }) => Judged::Works("the SMSC has accepted the session".into()),
        Ok(State::Refused { text, .. }) => Judged::Refused(text),
        Ok(State::BackingOff { reason, .. }) => Judged::Unclear(reason),
        Ok(State::Binding | State::Stopped) | Err(_) => Judged::Unclear("the client has ended".into()),
    };
    handle.shutdown().await;
    judged
}
