//! The actor of one led shard: does what its `Life` decides, with tokio and the store. Starts the machine from the store,
//! feeds it, commits what it decides, releases what that permits.
//!
//! Parent: the supervisor, which starts it again after a panic. A refused or uncertain commit is no panic: the life throws
//! the machine away and starts from the store itself, with back-off; callers are told to come again. A fenced shard stops.
//!
//! Mailbox: one `Inbox` message however much is in the inbox (its bounds are there), one per commit, one per deadline,
//! and one per read of the store, of which the machine has a bounded number under way.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::ShardId;
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::ShardDeps;
use super::inbox::Inbox;
use super::life::{Act, Behind, Ending, Life, NotStarted};
use super::reads::{self, StartError};
use crate::domain::shard::{Effect, Input, Restored};
use crate::store::{Batch, CommitError, Journal, StoreError, outcome_of};

/// Reads of the store at a time.
const READS_MAX: usize = 8;
/// How long an unknown outcome is asked after before the shard starts again.
const ASK_FOR: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(50);
/// What clients are told to wait while the rows are too far behind.
const BEHIND_RETRY_MS: u64 = 1_000;

/// Why an actor stopped on purpose; other stops are not its own.
pub(super) const FENCED: &str = "fenced";
pub(super) const DRAINED: &str = "drained";

pub(super) struct Args {
    pub(super) deps: Arc<ShardDeps>,
    pub(super) inbox: Arc<Inbox>,
}

/// Results carry the run they belong to: what comes after a restart is dropped.
pub(super) enum Message {
    Start {
        run: u64,
    },
    Started {
        run: u64,
        result: Box<Result<Restored, StartError>>,
    },
    Inbox,
    Committed {
        run: u64,
        result: Result<(), CommitError>,
    },
    Read {
        run: u64,
        input: Input,
    },
    Deadline {
        run: u64,
    },
    /// Takes nothing more, commits what it has, stops.
    Drain,
}

pub(super) struct State {
    deps: Arc<ShardDeps>,
    inbox: Arc<Inbox>,
    life: Life,
    /// The run that the tasks belong to; they end with it.
    run: u64,
    tasks: Tasks,
    reads: Arc<Semaphore>,
    deadline: Option<Deadline>,
}

#[derive(Default)]
struct Tasks(CancellationToken);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Deadline(JoinHandle<()>);

impl Drop for Deadline {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(super) struct ShardActor;

impl Actor for ShardActor {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Start { run: 0 })?;
        let state = State {
            life: Life::of(Arc::clone(&args.inbox), args.deps.settings.clone()),
            deps: args.deps,
            inbox: args.inbox,
            run: 0,
            tasks: Tasks::default(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            deadline: None,
        };
        std::future::ready(Ok(state)).await
    }

    async fn handle(
        &self,
        myself: ActorRef<Message>,
        message: Message,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let now = state.deps.clock.now();
        let behind = state.behind();
        let acts = match message {
            Message::Start { run } if run == state.life.run() => state.life.start(),
            Message::Started { run, result } => state.started(&myself, run, *result),
            Message::Inbox => state.life.work(now, behind),
            Message::Committed { run, result } => state.committed(run, result),
            Message::Read { run, input } => state.life.input(run, input, now),
            Message::Deadline { run } => state.life.input(run, Input::Tick, now),
            Message::Drain => state.life.drain(now),
            Message::Start { .. } => Vec::new(),
        };
        state.perform(&myself, acts);
        std::future::ready(Ok(())).await
    }

    async fn handle_supervisor_evt(
        &self,
        _myself: ActorRef<Message>,
        _event: SupervisionEvent,
        _state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        // It has no children.
        std::future::ready(Ok(())).await
    }
}

impl State {
    fn shard(&self) -> ShardId {
        self.inbox.shard()
    }

    fn perform(&mut self, myself: &ActorRef<Message>, acts: Vec<Act>) {
        if self.run != self.life.run() {
            self.run = self.life.run();
            self.tasks = Tasks::default();
            self.deadline = None;
        }
        for act in acts {
            match act {
                Act::Restore { run } => self.restore(myself, run),
                Act::StartAfter { run, pause } => self.start_after(myself, run, pause),
                Act::Commit { run, batch } => self.commit(myself, run, batch),
                Act::Read { run, read } => self.read(myself, run, read),
                Act::Tell(notices) => notices.iter().for_each(|notice| self.deps.news.tell(notice)),
                Act::WakeAt { run, mono_ms } => self.wake_at(myself, run, mono_ms),
                Act::Stop(ending) => self.stop(myself, ending),
            }
        }
    }

    fn restore(&self, myself: &ActorRef<Message>, run: u64) {
        let (deps, myself) = (Arc::clone(&self.deps), myself.clone());
        let (shard, epoch) = (self.shard(), self.inbox.epoch());
        tokio::spawn(self.tasks.0.clone().run_until_cancelled_owned(async move {
            let result = Box::new(reads::restore(&deps, shard, epoch).await);
            let _ = myself.cast(Message::Started { run, result });
        }));
    }

    fn started(&mut self, myself: &ActorRef<Message>, run: u64, result: Result<Restored, StartError>) -> Vec<Act> {
        if let Ok(restored) = &result {
            let in_flight = restored.in_flight.len();
            tracing::debug!(shard = %self.shard(), epoch = %self.inbox.epoch(), in_flight, "the shard leads");
        }
        let result = result.map_err(|error| match error {
            StartError::Take(CommitError::Fenced { epoch, .. }) => NotStarted::Fenced { by: epoch },
            error => {
                tracing::warn!(shard = %self.shard(), error = &error as &dyn std::error::Error, "the shard cannot start");
                let full = matches!(error, StartError::Take(CommitError::Full) | StartError::Read(StoreError::Full));
                NotStarted::Trouble { disk_full: full }
            }
        });
        let waker = myself.clone();
        let wake = Box::new(move || {
            // An actor that has stopped needs no waking.
            let _ = waker.cast(Message::Inbox);
        });
        self.life.started(run, result, wake, self.deps.clock.now(), self.behind())
    }

    fn start_after(&self, myself: &ActorRef<Message>, run: u64, pause: Duration) {
        let myself = myself.clone();
        tokio::spawn(self.tasks.0.clone().run_until_cancelled_owned(async move {
            sleep(pause).await;
            let _ = myself.cast(Message::Start { run });
        }));
    }

    fn commit(&self, myself: &ActorRef<Message>, run: u64, batch: Batch) {
        let (journal, myself) = (Arc::clone(&self.deps.journal), myself.clone());
        let asked = batch.clone();
        let commit = journal.commit(batch);
        // Not ended with the run: whether it arrives is not ours to decide any more.
        tokio::spawn(async move {
            let result = match commit.await {
                Err(CommitError::Unknown(why)) => ask_outcome(&*journal, &asked, why).await,
                result => result,
            };
            let _ = myself.cast(Message::Committed { run, result });
        });
    }

    fn committed(&mut self, run: u64, result: Result<(), CommitError>) -> Vec<Act> {
        if let Err(error) = &result
            && !matches!(error, CommitError::Fenced { .. })
        {
            tracing::error!(shard = %self.shard(), %error, "a commit failed; the shard starts again from the store");
        }
        self.life.committed(run, result, self.deps.clock.now(), self.behind())
    }

    fn read(&self, myself: &ActorRef<Message>, run: u64, read: Effect) {
        let cancel = self.tasks.0.clone();
        let (deps, room, myself) = (Arc::clone(&self.deps), Arc::clone(&self.reads), myself.clone());
        let shard = self.shard();
        tokio::spawn(cancel.run_until_cancelled_owned(async move {
            // The semaphore is never closed.
            let _room = room.acquire_owned().await;
            if let Some(input) = reads::answer(deps, shard, read).await {
                let _ = myself.cast(Message::Read { run, input });
            }
        }));
    }

    /// Takes the place of a timer that was set for later.
    fn wake_at(&mut self, myself: &ActorRef<Message>, run: u64, mono_ms: u64) {
        let now = self.deps.clock.now();
        let wait = Duration::from_millis(mono_ms.saturating_sub(now.mono_ms).max(1));
        let myself = myself.clone();
        self.deadline = Some(Deadline(tokio::spawn(async move {
            sleep(wait).await;
            let _ = myself.cast(Message::Deadline { run });
        })));
    }

    fn stop(&self, myself: &ActorRef<Message>, ending: Ending) {
        let reason = match ending {
            Ending::Fenced { by } => {
                tracing::warn!(shard = %self.shard(), epoch = %self.inbox.epoch(), %by, "another leader has the shard");
                FENCED
            }
            Ending::Drained => DRAINED,
        };
        myself.stop(Some(reason.to_owned()));
    }

    /// Whether new messages have to wait for the rows.
    fn behind(&self) -> Option<Behind> {
        let behind = self.deps.reader.lag().events > self.deps.lag_events_max;
        behind.then_some(Behind { retry_after_ms: BEHIND_RETRY_MS })
    }
}

/// Asks after a batch with an unknown outcome until the journal answers.
async fn ask_outcome(journal: &dyn Journal, asked: &Batch, why: String) -> Result<(), CommitError> {
    let until = Instant::now() + ASK_FOR;
    while Instant::now() < until {
        match timeout_at(until, journal.read(asked.shard, asked.seq - 1, 1)).await {
            Ok(Ok(found)) => return outcome_of(asked, found.first(), why),
            Ok(Err(_)) | Err(_) => sleep(ASK_EVERY).await,
        }
    }
    Err(CommitError::Unknown(why))
}
