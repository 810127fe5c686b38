//! Has a session for each account that is enabled and whose tenant's shard is led here. An account that was disabled keeps one
//! that rests, for as long as its maker may tell of what was sent before; one at an SMSC does not, since somebody else may want
//! its bind. There are no others.
//!
//! Parent: none; [`super::Providers`] holds it. Children: a [`Session`] per account. Restart policy: a session that panics comes
//! back after a pause that doubles with each failure in a row. It is a reconciler: every `Reconcile` compares what is wanted
//! with what is there, whatever has happened before; it is told of changes, and looks every few seconds anyway.
//!
//! Mailbox: one `Reconcile` per change and per look, supervision events, the end.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ProviderId, TenantId};
use parking_lot::RwLock;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::account::Provider;
use super::live::{LiveState, Shared};
use super::news::News;
use super::session::{self, Args as SessionArgs, Parts, Session, new_live};
use crate::gateway::{ShardDoor, ShardDoors};

const RESTART_MIN: Duration = Duration::from_millis(200);
const RESTART_MAX: Duration = Duration::from_secs(30);
/// A failure so long after the one before is the first one again.
const FORGIVEN_AFTER_MS: u64 = 60_000;
/// Makers tell of messages for so long.
const HEARD_OF_MS: u64 = 3 * 86_400_000;
/// Longer than a maker waits for an answer to its callback, its repetition comes before ours.
const NEWS_DEADLINE: Duration = Duration::from_secs(5);

/// Why what a maker has told is not durable. The maker is to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no session of the account has taken it")]
pub struct NotTaken;

/// The sessions at work here. Cheap to clone.
#[derive(Clone, Default)]
pub struct Sessions(Arc<RwLock<FxHashMap<ProviderId, SessionHandle>>>);

#[derive(Clone)]
struct SessionHandle {
    actor: ActorRef<session::Message>,
    live: Shared,
}

impl Sessions {
    /// `None` while the account is not at work here.
    pub fn live(&self, id: ProviderId) -> Option<LiveState> {
        let live = self.0.read().get(&id).map(|session| session.live.lock().clone());
        live.filter(|live| !live.resting || live.in_flight > 0)
    }

    /// As a panic would.
    #[cfg(test)]
    pub(crate) fn kill(&self, id: ProviderId) {
        if let Some(session) = self.0.read().get(&id) {
            session.actor.kill();
        }
    }

    pub fn count(&self) -> usize {
        self.0.read().len()
    }

    /// Returns when the shard has made durable what it makes of the news.
    pub(super) async fn tell(&self, id: ProviderId, news: News) -> Result<(), NotTaken> {
        let (reply, taken) = oneshot::channel();
        let news = News { reply: Some(reply), ..news };
        let actor = self.0.read().get(&id).map(|session| session.actor.clone()).ok_or(NotTaken)?;
        actor.cast(session::Message::News(Box::new(news))).map_err(|_| NotTaken)?;
        timeout(NEWS_DEADLINE, taken).await.map_err(|_| NotTaken)?.map_err(|_| NotTaken)
    }
}

pub(super) struct Args {
    pub(super) parts: Arc<Parts>,
    pub(super) shards: Arc<dyn ShardDoors>,
    pub(super) sessions: Sessions,
}

pub(super) enum Message {
    /// With the tenants that are disabled.
    Reconcile(Arc<FxHashSet<TenantId>>),
    /// After the pause of one that has failed.
    Again,
    Shutdown(oneshot::Sender<()>),
}

pub(super) struct State {
    parts: Arc<Parts>,
    shards: Arc<dyn ShardDoors>,
    sessions: Sessions,
    running: FxHashMap<ProviderId, Running>,
    failures: FxHashMap<ProviderId, Failures>,
    disabled: Arc<FxHashSet<TenantId>>,
    shutdown: Option<oneshot::Sender<()>>,
}

struct Running {
    handle: SessionHandle,
    epoch: Epoch,
    version: u64,
    draining: bool,
}

#[derive(Clone, Copy, Default)]
struct Failures {
    in_a_row: u32,
    last_ms: u64,
    /// Not before this time (monotonic).
    again_ms: u64,
}

pub(super) struct Supervisor;

impl Actor for Supervisor {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let state = State {
            parts: args.parts,
            shards: args.shards,
            sessions: args.sessions,
            running: FxHashMap::default(),
            failures: FxHashMap::default(),
            disabled: Arc::default(),
            shutdown: None,
        };
        std::future::ready(Ok(state)).await
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match message {
            Message::Reconcile(disabled) => {
                state.disabled = disabled;
                state.reconcile(&myself).await;
            }
            Message::Again => state.reconcile(&myself).await,
            Message::Shutdown(done) => state.shut_down(&myself, done),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Message>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(who, error) => state.failed(&myself, who.get_id(), &error),
            SupervisionEvent::ActorTerminated(who, ..) => state.ended(&myself, who.get_id()),
            _ => {}
        }
        std::future::ready(Ok(())).await
    }
}

impl State {
    async fn reconcile(&mut self, myself: &ActorRef<Message>) {
        if self.shutdown.is_some() {
            return;
        }
        let mut wanted: FxHashMap<ProviderId, (Arc<Provider>, Arc<dyn ShardDoor>)> = FxHashMap::default();
        let now = self.parts.clock.now();
        for provider in self.parts.accounts.all() {
            if (provider.enabled || is_heard_of(&provider, now.unix_ms))
                && !self.disabled.contains(&provider.tenant)
                && let Some(door) = self.shards.of(provider.tenant)
            {
                wanted.insert(provider.id, (provider, door));
            }
        }
        for (id, running) in &mut self.running {
            match wanted.get(id) {
                // Another leadership is another shard: what this one has is nothing to it.
                Some((_, door)) if door.epoch() != running.epoch => running.handle.actor.stop(None),
                Some((provider, _)) if running.version < provider.version && !running.draining => {
                    running.version = provider.version;
                    let _ = running.handle.actor.cast(session::Message::Account(Arc::clone(provider)));
                }
                Some(_) => {}
                None if self.parts.accounts.known(*id).is_some_and(|known| self.shards.of(known.tenant).is_none()) => {
                    running.handle.actor.stop(None);
                }
                // Removed, or disabled long ago: it finishes what it has.
                None if !running.draining => {
                    running.draining = true;
                    let _ = running.handle.actor.cast(session::Message::Drain);
                }
                None => {}
            }
        }
        let now_ms = now.mono_ms;
        for (id, (provider, door)) in wanted {
            let rests = self.failures.get(&id).is_some_and(|failures| failures.again_ms > now_ms);
            if !self.running.contains_key(&id) && !rests {
                self.start(myself, provider, door).await;
            }
        }
        self.failures.retain(|_, failures| now_ms.saturating_sub(failures.last_ms) < 2 * FORGIVEN_AFTER_MS);
    }

    async fn start(&mut self, myself: &ActorRef<Message>, provider: Arc<Provider>, door: Arc<dyn ShardDoor>) {
        let live = new_live(&self.parts, &provider);
        let (id, version, epoch) = (provider.id, provider.version, door.epoch());
        let args = SessionArgs { parts: Arc::clone(&self.parts), provider, door, live: Arc::clone(&live) };
        match Actor::spawn_linked(None, Session, args, myself.get_cell()).await {
            Ok((actor, _)) => {
                let handle = SessionHandle { actor, live };
                self.sessions.0.write().insert(id, handle.clone());
                self.running.insert(id, Running { handle, epoch, version, draining: false });
            }
            Err(error) => {
                tracing::error!(provider = %id, %error, "a provider's session did not start");
                self.rest(myself, id);
            }
        }
    }

    fn failed(&mut self, myself: &ActorRef<Message>, actor: ActorId, error: &ActorProcessingErr) {
        let Some(id) = self.forget(actor) else { return };
        metrics::counter!("flotilla_provider_sessions_failed_total").increment(1);
        tracing::error!(provider = %id, %error, "a provider's session has failed; it begins again");
        self.rest(myself, id);
        self.end_shutdown(myself);
    }

    fn ended(&mut self, myself: &ActorRef<Message>, actor: ActorId) {
        if self.forget(actor).is_some() && self.shutdown.is_none() {
            // It may be wanted again already.
            let _ = myself.cast(Message::Again);
        }
        self.end_shutdown(myself);
    }

    fn forget(&mut self, actor: ActorId) -> Option<ProviderId> {
        let is_it = |running: &Running| running.handle.actor.get_id() == actor;
        let id = self.running.iter().find(|(_, running)| is_it(running)).map(|(id, _)| *id)?;
        self.running.remove(&id);
        self.sessions.0.write().remove(&id);
        Some(id)
    }

    fn rest(&mut self, myself: &ActorRef<Message>, id: ProviderId) {
        let now_ms = self.parts.clock.now().mono_ms;
        let failures = self.failures.entry(id).or_default();
        if now_ms.saturating_sub(failures.last_ms) > FORGIVEN_AFTER_MS {
            failures.in_a_row = 0;
        }
        let pause = (RESTART_MIN * (1 << failures.in_a_row.min(10))).min(RESTART_MAX);
        failures.in_a_row += 1;
        (failures.last_ms, failures.again_ms) = (now_ms, now_ms + pause.as_millis() as u64);
        let myself = myself.clone();
        tokio::spawn(async move {
            sleep(pause).await;
            let _ = myself.cast(Message::Again);
        });
    }

    fn shut_down(&mut self, myself: &ActorRef<Message>, done: oneshot::Sender<()>) {
        self.shutdown = Some(done);
        for running in self.running.values() {
            let _ = running.handle.actor.cast(session::Message::Drain);
        }
        self.end_shutdown(myself);
    }

    fn end_shutdown(&mut self, myself: &ActorRef<Message>) {
        if self.running.is_empty()
            && let Some(done) = self.shutdown.take()
        {
            let _ = done.send(());
            myself.stop(None);
        }
    }
}

/// Whether there may be news of what a disabled account has sent. The last change is at least as late as that which disabled it.
fn is_heard_of(provider: &Provider, now_ms: u64) -> bool {
    let capabilities = provider.capabilities();
    (capabilities.callbacks || capabilities.polls) && now_ms.saturating_sub(provider.changed_ms) < HEARD_OF_MS
}
