//! Starts and stops shards as the coordinator says, and starts those again that fail.
//!
//! Parent: none; the node holds a [`ShardSupervisor`]. Children: a [`ShardActor`] per led shard, not registered under a name.
//! Restart policy: a shard that panics comes back after a pause that doubles with each panic in a row, under the same epoch
//! and with the same inbox, so that handles stay valid. One that was fenced is let go. When the coordinator itself fails,
//! the shards go on under the epochs they have; whoever takes one over fences it.
//!
//! The followers hear of a gain before the shard's actor begins, of a loss at once, and a drained shard is released only when
//! they have stored everything of it, so that the next leader finds it up to date.
//!
//! Mailbox: leadership changes (few), supervision events, the node's shutdown.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use flotilla_cluster::{CoordinationError, Coordinator, Leadership};
use flotilla_protocol::id::{Epoch, ShardId};
use ractor::{Actor, ActorProcessingErr, ActorRef, SpawnErr, SupervisionEvent};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::actor::{self, DRAINED, ShardActor};
use super::handle::ShardHandle;
use super::inbox::{Closed, Inbox};
use super::{ShardDeps, Shards};

/// The pause after a panic: doubles from the first to the second.
const RESTART_MIN: Duration = Duration::from_millis(200);
const RESTART_MAX: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
#[error("the shards cannot be started: {0}")]
pub struct StartError(#[from] SpawnErr);

/// The shards of this node, led as long as this lives.
pub struct ShardSupervisor {
    shards: Shards,
    supervisor: ActorRef<Message>,
    task: JoinHandle<()>,
}

impl ShardSupervisor {
    /// Begins to follow the coordinator. Returns at once: a shard answers `Busy` until it has started.
    pub async fn start(deps: ShardDeps, coordinator: impl Coordinator) -> Result<Self, StartError> {
        let shards = Shards::new(deps.journal.shards());
        let (released, releases) = mpsc::unbounded_channel();
        let args = Args { deps: Arc::new(deps), shards: shards.clone(), released };
        let (supervisor, task) = Actor::spawn(None, SupervisorActor, args).await?;
        tokio::spawn(follow(coordinator, supervisor.clone(), releases));
        Ok(Self { shards, supervisor, task })
    }

    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Like the end of the process: nothing is finished.
    #[cfg(test)]
    pub(super) fn kill(self) {
        self.supervisor.kill();
    }

    /// Takes no more messages, finishes the commits that are under way, and stops. Devices keep what is not acknowledged.
    pub async fn shutdown(self) {
        let (done, wait) = oneshot::channel();
        if self.supervisor.cast(Message::Shutdown { done }).is_ok() {
            // An error means that it has stopped already.
            let _ = wait.await;
        }
        let _ = self.task.await;
    }
}

struct Args {
    deps: Arc<ShardDeps>,
    shards: Shards,
    released: mpsc::UnboundedSender<ShardId>,
}

enum Message {
    Leadership(Leadership),
    Restart(ShardId, Epoch),
    /// The followers have stored everything of a drained shard.
    HandedOver(ShardId, Epoch),
    Shutdown {
        done: oneshot::Sender<()>,
    },
}

struct State {
    deps: Arc<ShardDeps>,
    shards: Shards,
    released: mpsc::UnboundedSender<ShardId>,
    led: HashMap<ShardId, Led>,
    shutdown: Option<oneshot::Sender<()>>,
}

struct Led {
    inbox: Arc<Inbox>,
    /// None between a panic and the next start.
    actor: Option<ActorRef<actor::Message>>,
    panics: u32,
    draining: bool,
    /// Its last commit is made; the followers come to their end.
    handing_over: bool,
}

struct SupervisorActor;

impl Actor for SupervisorActor {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, _myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        let state = State {
            deps: args.deps,
            shards: args.shards,
            released: args.released,
            led: HashMap::new(),
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
            Message::Leadership(Leadership::Gained { shard, epoch }) => state.gained(&myself, shard, epoch).await,
            Message::Leadership(Leadership::Drain { shard }) => state.drain(&myself, shard),
            Message::Leadership(Leadership::Lost { shard }) => state.lost(shard),
            Message::Restart(shard, epoch) => state.restart(&myself, shard, epoch).await,
            Message::HandedOver(shard, epoch) => state.handed_over(&myself, shard, epoch),
            Message::Shutdown { done } => state.shut_down(&myself, done),
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
            SupervisionEvent::ActorTerminated(who, _, reason) => {
                state.stopped(&myself, who.get_id(), reason.as_deref());
            }
            _ => {}
        }
        std::future::ready(Ok(())).await
    }
}

impl State {
    async fn gained(&mut self, myself: &ActorRef<Message>, shard: ShardId, epoch: Epoch) {
        if self.shutdown.is_some() {
            return;
        }
        // A gain while it is led: leadership was lost and won again faster than we heard of it.
        self.lost(shard);
        self.deps.followers.coming(shard, epoch);
        let inbox = Inbox::new(shard, epoch, self.shards.changer());
        self.shards.set(shard, Some(ShardHandle::new(Arc::clone(&inbox))));
        self.led.insert(shard, Led { inbox, actor: None, panics: 0, draining: false, handing_over: false });
        self.spawn(myself, shard).await;
    }

    async fn restart(&mut self, myself: &ActorRef<Message>, shard: ShardId, epoch: Epoch) {
        let waits = |led: &Led| led.actor.is_none() && !led.handing_over && led.inbox.epoch() == epoch;
        let waits = self.led.get(&shard).is_some_and(waits);
        if waits && self.shutdown.is_none() {
            self.spawn(myself, shard).await;
        }
    }

    async fn spawn(&mut self, myself: &ActorRef<Message>, shard: ShardId) {
        let Some(led) = self.led.get_mut(&shard) else { return };
        let args = actor::Args { deps: Arc::clone(&self.deps), inbox: Arc::clone(&led.inbox) };
        match Actor::spawn_linked(None, ShardActor, args, myself.get_cell()).await {
            Ok((actor, _)) => led.actor = Some(actor),
            Err(error) => {
                tracing::error!(%shard, %error, "the shard's actor did not start");
                self.restart_later(myself, shard);
            }
        }
    }

    fn restart_later(&mut self, myself: &ActorRef<Message>, shard: ShardId) {
        let Some(led) = self.led.get_mut(&shard) else { return };
        let pause = (RESTART_MIN * (1 << led.panics.min(10))).min(RESTART_MAX);
        led.panics += 1;
        led.actor = None;
        led.inbox.close(Closed::For { retry_after_ms: pause.as_millis() as u64 });
        let (myself, epoch) = (myself.clone(), led.inbox.epoch());
        tokio::spawn(async move {
            sleep(pause).await;
            let _ = myself.cast(Message::Restart(shard, epoch));
        });
    }

    /// Nothing of it may be used any more, wherever it is.
    fn lost(&mut self, shard: ShardId) {
        let Some(led) = self.led.remove(&shard) else { return };
        led.inbox.close(Closed::Ever);
        if let Some(actor) = led.actor {
            actor.kill();
        }
        self.shards.set(shard, None);
        self.deps.followers.lost(shard);
    }

    fn drain(&mut self, myself: &ActorRef<Message>, shard: ShardId) {
        let Some(led) = self.led.get_mut(&shard).filter(|led| !led.handing_over) else { return };
        led.draining = true;
        match &led.actor {
            Some(actor) if actor.cast(actor::Message::Drain).is_ok() => {}
            _ => self.hand_over(myself, shard),
        }
    }

    /// Nothing is committed here any more: the followers finish.
    fn hand_over(&mut self, myself: &ActorRef<Message>, shard: ShardId) {
        let Some(led) = self.led.get_mut(&shard).filter(|led| !led.handing_over) else { return };
        led.handing_over = true;
        led.actor = None;
        led.inbox.close(Closed::Ever);
        self.shards.set(shard, None);
        let (followers, myself, epoch) = (self.deps.followers.clone(), myself.clone(), led.inbox.epoch());
        tokio::spawn(async move {
            followers.drained(shard, epoch).await;
            let _ = myself.cast(Message::HandedOver(shard, epoch));
        });
    }

    fn handed_over(&mut self, myself: &ActorRef<Message>, shard: ShardId, epoch: Epoch) {
        // It may have been lost meanwhile, and gained again.
        if self.led.get(&shard).is_some_and(|led| led.handing_over && led.inbox.epoch() == epoch) {
            self.led.remove(&shard);
            // Nobody listens after the coordinator has stopped.
            let _ = self.released.send(shard);
        }
        self.end_shutdown(myself);
    }

    fn failed(&mut self, myself: &ActorRef<Message>, id: ractor::ActorId, error: &ActorProcessingErr) {
        let Some(shard) = self.shard_of(id) else { return };
        tracing::error!(%shard, %error, "a shard failed; it starts again from the store");
        if self.led.get(&shard).is_some_and(|led| led.draining) {
            self.hand_over(myself, shard);
        } else {
            self.restart_later(myself, shard);
        }
        self.end_shutdown(myself);
    }

    fn stopped(&mut self, myself: &ActorRef<Message>, id: ractor::ActorId, reason: Option<&str>) {
        if let Some(shard) = self.shard_of(id) {
            if reason == Some(DRAINED) {
                self.hand_over(myself, shard);
            } else {
                // Fenced, though the coordinator has not said so: it shall not count on us, and may let us have it anew.
                self.lost(shard);
                let _ = self.released.send(shard);
            }
        }
        self.end_shutdown(myself);
    }

    fn shard_of(&self, id: ractor::ActorId) -> Option<ShardId> {
        let is_it = |led: &Led| led.actor.as_ref().is_some_and(|actor| actor.get_id() == id);
        self.led.iter().find(|(_, led)| is_it(led)).map(|(shard, _)| *shard)
    }

    fn shut_down(&mut self, myself: &ActorRef<Message>, done: oneshot::Sender<()>) {
        self.shutdown = Some(done);
        for shard in self.led.keys().copied().collect::<Vec<_>>() {
            self.drain(myself, shard);
        }
        self.end_shutdown(myself);
    }

    fn end_shutdown(&mut self, myself: &ActorRef<Message>) {
        if self.led.is_empty()
            && let Some(done) = self.shutdown.take()
        {
            let _ = done.send(());
            myself.stop(None);
        }
    }
}

/// Carries the coordinator's changes to the supervisor, and the releases back, until either ends.
async fn follow(
    mut coordinator: impl Coordinator,
    supervisor: ActorRef<Message>,
    mut releases: mpsc::UnboundedReceiver<ShardId>,
) {
    loop {
        tokio::select! {
            change = coordinator.next() => match change {
                Ok(change) => {
                    if supervisor.cast(Message::Leadership(change)).is_err() {
                        return;
                    }
                }
                // Whatever it had given is told as lost before that.
                Err(CoordinationError::Stopped) => {
                    tracing::info!("the coordinator has stopped: nothing is led here any more");
                    return;
                }
                Err(error) => {
                    tracing::error!(%error, "the coordinator has failed; shards stay as they are");
                    return;
                }
            },
            released = releases.recv() => {
                let Some(shard) = released else { return };
                if let Err(error) = coordinator.released(shard).await {
                    tracing::warn!(%shard, %error, "the coordinator does not take a shard back");
                }
            }
        }
    }
}
