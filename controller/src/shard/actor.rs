//! The actor of one led shard: starts the machine from the store, feeds it, commits what it decides, releases what that permits.
//!
//! Parent: the supervisor, which starts it again after a panic. A refused or uncertain commit is no panic: the actor throws
//! the machine away and starts from the store itself, with back-off; callers are told to come again. A fenced shard stops.
//!
//! Mailbox: one `Inbox` message however much is in the inbox (its bounds are there), one per commit, one per deadline,
//! and one per read of the store, of which the machine has a bounded number under way.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

use super::ShardDeps;
use super::handle::{AcceptError, ShardError};
use super::inbox::{Closed, Inbox};
use super::reads::{self, StartError};
use super::running::{Refusal, Running, ToCommit};
use crate::domain::shard::{Effect, Input, Machine, Restored};
use crate::store::{Batch, CommitError, Journal, StoreError};

/// Reads of the store at a time.
const READS_MAX: usize = 8;
/// The pause before starting again: doubles from the first to the second.
const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);
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
    Start,
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
    run: u64,
    running: Option<Running>,
    /// The tasks of the present run; they end with it.
    tasks: Tasks,
    reads: Arc<Semaphore>,
    deadline: Option<Deadline>,
    /// Starts since the last successful commit.
    failures: u32,
    draining: bool,
}

#[derive(Default)]
struct Tasks(CancellationToken);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

struct Deadline {
    at_ms: u64,
    task: JoinHandle<()>,
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct ShardActor;

impl Actor for ShardActor {
    type Msg = Message;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Message>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.cast(Message::Start)?;
        let state = State {
            deps: args.deps,
            inbox: args.inbox,
            run: 0,
            running: None,
            tasks: Tasks::default(),
            reads: Arc::new(Semaphore::new(READS_MAX)),
            deadline: None,
            failures: 0,
            draining: false,
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
            Message::Start => state.start(&myself),
            Message::Started { run, result } if run == state.run => state.started(&myself, *result),
            Message::Inbox => state.work(&myself),
            Message::Committed { run, result } if run == state.run => state.committed(&myself, result),
            Message::Read { run, input } if run == state.run => state.input(&myself, input),
            Message::Deadline { run } if run == state.run => {
                state.deadline = None;
                state.input(&myself, Input::Tick);
            }
            Message::Drain => state.drain(&myself),
            Message::Started { .. } | Message::Committed { .. } | Message::Read { .. } | Message::Deadline { .. } => {}
        }
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

    /// Ends the tasks of the present run, and its results count no more.
    fn next_run(&mut self) -> CancellationToken {
        self.run += 1;
        self.tasks = Tasks::default();
        self.tasks.0.clone()
    }

    fn start(&mut self, myself: &ActorRef<Message>) {
        let cancel = self.next_run();
        let (deps, run) = (Arc::clone(&self.deps), self.run);
        let (shard, epoch) = (self.shard(), self.inbox.epoch());
        let myself = myself.clone();
        tokio::spawn(cancel.run_until_cancelled_owned(async move {
            let result = Box::new(reads::restore(&deps, shard, epoch).await);
            let _ = myself.cast(Message::Started { run, result });
        }));
    }

    fn started(&mut self, myself: &ActorRef<Message>, result: Result<Restored, StartError>) {
        let restored = match result {
            Ok(restored) => restored,
            Err(StartError::Take(CommitError::Fenced { epoch, .. })) => return self.fenced(myself, epoch),
            Err(error) => {
                tracing::warn!(shard = %self.shard(), error = &error as &dyn std::error::Error, "the shard cannot start");
                let full = matches!(error, StartError::Take(CommitError::Full) | StartError::Read(StoreError::Full));
                if !self.draining {
                    self.close_for_a_while(full, true);
                }
                return self.start_again(myself);
            }
        };
        let now = self.deps.clock.now();
        let in_flight = restored.in_flight.len();
        let mut running = Running::new(Machine::new(self.deps.settings.clone(), restored, now));
        let waker = myself.clone();
        let links = self.inbox.open(Box::new(move || {
            // An actor that has stopped needs no waking.
            let _ = waker.cast(Message::Inbox);
        }));
        tracing::debug!(shard = %self.shard(), epoch = %self.inbox.epoch(), in_flight, links = links.len(), "the shard leads");
        for link in links {
            running.handle(link, now);
        }
        self.running = Some(running);
        self.work(myself);
    }

    /// Takes what is in the inbox and lets follow what follows.
    fn work(&mut self, myself: &ActorRef<Message>) {
        let now = self.deps.clock.now();
        let behind = self.behind();
        let Some(running) = &mut self.running else { return };
        running.take_inbox(&self.inbox, now, behind.as_ref());
        self.follow_up(myself);
    }

    fn input(&mut self, myself: &ActorRef<Message>, input: Input) {
        let now = self.deps.clock.now();
        let Some(running) = &mut self.running else { return };
        running.handle(input, now);
        self.follow_up(myself);
    }

    /// Commits and releases what can be, and sets the timer.
    fn follow_up(&mut self, myself: &ActorRef<Message>) {
        let Some(running) = &mut self.running else { return };
        let (batch, effects) = running.flush();
        self.release(myself, effects);
        if let Some(batch) = batch {
            self.commit(myself, batch);
        }
        self.set_timer(myself);
        if self.draining && self.running.as_ref().is_none_or(Running::is_idle) {
            self.drained(myself);
        }
    }

    fn commit(&self, myself: &ActorRef<Message>, batch: ToCommit) {
        let (shard, epoch, seq) = (self.shard(), self.inbox.epoch(), batch.seq);
        let batch = Batch { shard, epoch, seq, events: batch.events.into() };
        let (journal, run, myself) = (Arc::clone(&self.deps.journal), self.run, myself.clone());
        let commit = journal.commit(batch);
        // Not ended with the run: whether it arrives is not ours to decide any more.
        tokio::spawn(async move {
            let result = match commit.await {
                Err(CommitError::Unknown(why)) => ask_outcome(&*journal, shard, epoch, seq, why).await,
                result => result,
            };
            let _ = myself.cast(Message::Committed { run, result });
        });
    }

    fn committed(&mut self, myself: &ActorRef<Message>, result: Result<(), CommitError>) {
        let Some(running) = &mut self.running else { return };
        match result {
            Ok(()) => {
                self.failures = 0;
                let effects = running.committed();
                self.release(myself, effects);
                self.work(myself);
            }
            Err(CommitError::Fenced { epoch, .. }) => self.fenced(myself, epoch),
            Err(error) => {
                tracing::error!(shard = %self.shard(), %error, "a commit failed; the shard starts again from the store");
                self.abandon(myself, &error);
            }
        }
    }

    /// The memory is ahead of the store for good: it goes, and whoever waits is told.
    fn abandon(&mut self, myself: &ActorRef<Message>, error: &CommitError) {
        self.close_for_a_while(*error == CommitError::Full, !matches!(error, CommitError::Unknown(_)));
        self.start_again(myself);
    }

    fn close_for_a_while(&mut self, full: bool, outcome_known: bool) {
        let retry_after_ms = self.restart_pause().as_millis() as u64;
        let closed = if full { Closed::Full } else { Closed::For { retry_after_ms } };
        let refusal = Refusal { accept: closed.into(), other: closed.into() };
        self.close(closed, &refusal, outcome_known);
    }

    fn start_again(&mut self, myself: &ActorRef<Message>) {
        if self.draining {
            return self.drained(myself);
        }
        let pause = self.restart_pause();
        self.failures += 1;
        let cancel = self.next_run();
        let myself = myself.clone();
        tokio::spawn(cancel.run_until_cancelled_owned(async move {
            sleep(pause).await;
            let _ = myself.cast(Message::Start);
        }));
    }

    fn restart_pause(&self) -> Duration {
        (RESTART_MIN * (1 << self.failures.min(10))).min(RESTART_MAX)
    }

    fn close(&mut self, closed: Closed, refusal: &Refusal, outcome_known: bool) {
        self.deadline = None;
        for command in self.inbox.close(closed) {
            refusal.clone().tell_command(command);
        }
        if let Some(running) = self.running.take() {
            running.refuse_all(refusal, outcome_known);
        }
    }

    fn fenced(&mut self, myself: &ActorRef<Message>, by: Epoch) {
        tracing::warn!(shard = %self.shard(), epoch = %self.inbox.epoch(), by = %by, "another leader has the shard");
        self.leave(myself, FENCED);
    }

    fn drain(&mut self, myself: &ActorRef<Message>) {
        self.draining = true;
        let now = self.deps.clock.now();
        let Some(running) = &mut self.running else { return self.drained(myself) };
        for command in self.inbox.close(Closed::Ever) {
            running.take_command(command, now, None);
        }
        self.follow_up(myself);
    }

    fn drained(&mut self, myself: &ActorRef<Message>) {
        self.leave(myself, DRAINED);
    }

    fn leave(&mut self, myself: &ActorRef<Message>, reason: &str) {
        let refusal = Refusal { accept: AcceptError::NotLeading, other: ShardError::NotLeading };
        self.close(Closed::Ever, &refusal, true);
        self.next_run();
        myself.stop(Some(reason.to_owned()));
    }

    /// Lets go what is durable.
    fn release(&mut self, myself: &ActorRef<Message>, effects: Vec<Effect>) {
        let mut frames = Vec::new();
        for effect in effects {
            let Some(running) = &mut self.running else { return };
            match effect {
                Effect::Accepted { token, result } => {
                    running.accepted(token, result.map_err(|_| AcceptError::KeyReused));
                }
                Effect::Cancelled { token, outcome } => running.cancelled(token, outcome),
                Effect::Send { device, session, frames: some } => frames.push((device, session, some)),
                read => self.read(myself, read),
            }
        }
        if !frames.is_empty() {
            self.inbox.deliver(frames);
        }
    }

    fn read(&self, myself: &ActorRef<Message>, read: Effect) {
        let cancel = self.tasks.0.clone();
        let (deps, room, myself) = (Arc::clone(&self.deps), Arc::clone(&self.reads), myself.clone());
        let (shard, run) = (self.shard(), self.run);
        tokio::spawn(cancel.run_until_cancelled_owned(async move {
            // The semaphore is never closed.
            let _room = room.acquire_owned().await;
            if let Some(input) = reads::answer(deps, shard, read).await {
                let _ = myself.cast(Message::Read { run, input });
            }
        }));
    }

    /// Wakes the machine at its next deadline; a timer that is set for earlier is left alone.
    fn set_timer(&mut self, myself: &ActorRef<Message>) {
        let now = self.deps.clock.now();
        let Some(at_ms) = self.running.as_ref().and_then(|running| running.next_deadline(now)) else { return };
        if self.deadline.as_ref().is_some_and(|set| set.at_ms <= at_ms) {
            return;
        }
        let wait = Duration::from_millis(at_ms.saturating_sub(now.mono_ms).max(1));
        let (run, myself) = (self.run, myself.clone());
        let task = tokio::spawn(async move {
            sleep(wait).await;
            let _ = myself.cast(Message::Deadline { run });
        });
        self.deadline = Some(Deadline { at_ms, task });
    }

    /// Whether new messages have to wait for the rows.
    fn behind(&self) -> Option<Refusal> {
        let behind = self.deps.reader.lag().events > self.deps.lag_events_max;
        let retry_after_ms = BEHIND_RETRY_MS;
        behind.then_some(Refusal {
            accept: AcceptError::Busy { retry_after_ms },
            other: ShardError::Busy { retry_after_ms },
        })
    }
}

/// A batch with an unknown outcome is durable exactly when one of its sequence and epoch is there: another leader may have
/// gone on in its place.
async fn ask_outcome(
    journal: &dyn Journal,
    shard: ShardId,
    epoch: Epoch,
    seq: u64,
    why: String,
) -> Result<(), CommitError> {
    let until = Instant::now() + ASK_FOR;
    while Instant::now() < until {
        match timeout_at(until, journal.read(shard, seq - 1, 0)).await {
            Ok(Ok(found)) => match found.first() {
                Some(batch) if batch.epoch == epoch => return Ok(()),
                Some(batch) => return Err(CommitError::Fenced { shard, epoch: batch.epoch }),
                None => return Err(CommitError::Unavailable(why)),
            },
            Ok(Err(_)) | Err(_) => sleep(ASK_EVERY).await,
        }
    }
    Err(CommitError::Unknown(why))
}
