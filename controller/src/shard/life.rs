//! The life of one led shard, without IO: what to do when the store has answered, a commit has ended, the inbox has something,
//! time has passed. Its actor does the [`Act`]s with tokio and a real store, the simulation of `chaos-tests` with neither.
//!
//! A life has runs: each begins with what the store says, and ends when a commit is refused or stays unclear, since the
//! memory is ahead of the store then. What belongs to an earlier run is dropped when it comes.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use flotilla_routing::ledger::Ledger;
use flotilla_routing::table::Notice;
use tokio::sync::watch;

use super::handle::{AcceptError, ShardError, ShardHandle};
use super::inbox::{Closed, Inbox};
use super::running::{Refusal, Running};
use crate::domain::Now;
use crate::domain::shard::{Effect, Input, Machine, Restored, ShardSettings};
use crate::store::{Batch, CommitError};

/// The pause before starting again: doubles from the first to the second.
const RESTART_MIN: Duration = Duration::from_millis(100);
const RESTART_MAX: Duration = Duration::from_secs(10);

/// What the owner of a life has to do. Results are given back with the run.
#[derive(Debug)]
pub enum Act {
    /// Take the shard, read what it starts from, call [`Life::started`].
    Restore { run: u64 },
    /// Call [`Life::start`] after this pause, unless the run is another one by then.
    StartAfter { run: u64, pause: Duration },
    /// Commit it, whatever happens to this life meanwhile, and call [`Life::committed`].
    Commit { run: u64, batch: Batch },
    /// Answer a read of the machine by [`Life::input`].
    Read { run: u64, read: Effect },
    /// Tell whoever watches.
    Tell(Vec<Notice>),
    /// Call [`Life::input`] with a tick at this time of the monotonic clock; earlier wishes of later times are void.
    WakeAt { run: u64, mono_ms: u64 },
    /// It is over.
    Stop(Ending),
}

/// Why a life is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Another leader has the shard.
    Fenced { by: Epoch },
    /// Handed over on purpose: everything is committed.
    Drained,
}

/// Why a run did not begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotStarted {
    Fenced {
        by: Epoch,
    },
    /// The store cannot be used now.
    Trouble {
        disk_full: bool,
    },
}

/// Why new messages are refused for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Behind {
    pub retry_after_ms: u64,
}

pub struct Life {
    settings: ShardSettings,
    inbox: Arc<Inbox>,
    run: u64,
    running: Option<Running>,
    /// What was asked for with [`Act::WakeAt`].
    wake_at_ms: Option<u64>,
    /// Starts since the last successful commit.
    failures: u32,
    draining: bool,
}

impl Life {
    /// Nothing happens before [`Life::start`]. The handle stays valid through all runs.
    pub fn new(shard: ShardId, epoch: Epoch, settings: ShardSettings) -> (Self, ShardHandle) {
        let inbox = Inbox::new(shard, epoch, watch::Sender::new(()));
        let handle = ShardHandle::new(Arc::clone(&inbox));
        (Self::of(inbox, settings), handle)
    }

    pub(super) fn of(inbox: Arc<Inbox>, settings: ShardSettings) -> Self {
        Self { settings, inbox, run: 0, running: None, wake_at_ms: None, failures: 0, draining: false }
    }

    pub fn shard(&self) -> ShardId {
        self.inbox.shard()
    }

    pub fn epoch(&self) -> Epoch {
        self.inbox.epoch()
    }

    /// The present run: results of others come too late.
    pub fn run(&self) -> u64 {
        self.run
    }

    /// It takes messages and reports.
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// What it knows of its routes, while everything that it has decided is committed.
    pub fn ledger_at_rest(&self) -> Option<&Ledger> {
        self.running.as_ref().filter(|running| running.is_idle()).map(Running::ledger)
    }

    /// What the commit under way holds back.
    pub fn held_back(&self) -> &[Effect] {
        self.running.as_ref().map_or(&[], Running::held_back)
    }

    pub fn start(&mut self) -> Vec<Act> {
        self.next_run();
        vec![Act::Restore { run: self.run }]
    }

    /// `wake` is called, from anywhere, when the inbox has something: then call [`Life::work`].
    pub fn started(
        &mut self,
        run: u64,
        result: Result<Restored, NotStarted>,
        wake: Box<dyn Fn() + Send>,
        now: Now,
        behind: Option<Behind>,
    ) -> Vec<Act> {
        if run != self.run || self.running.is_some() {
            return Vec::new();
        }
        let restored = match result {
            Ok(restored) => restored,
            Err(NotStarted::Fenced { by }) => return self.leave(Ending::Fenced { by }),
            Err(NotStarted::Trouble { disk_full }) => {
                if !self.draining {
                    self.close_for_a_while(disk_full, true);
                }
                return self.start_again();
            }
        };
        let mut running = Running::new(Machine::new(self.settings.clone(), restored, now));
        for link in self.inbox.open(wake) {
            running.handle(link, now);
        }
        self.running = Some(running);
        self.work(now, behind)
    }

    /// Takes what is in the inbox and lets follow what follows. While `behind`, new messages are refused.
    pub fn work(&mut self, now: Now, behind: Option<Behind>) -> Vec<Act> {
        let Some(running) = &mut self.running else { return Vec::new() };
        let refusal = behind.map(|Behind { retry_after_ms }| Refusal {
            accept: AcceptError::Busy { retry_after_ms },
            other: ShardError::Busy { retry_after_ms },
        });
        running.take_inbox(&self.inbox, now, refusal.as_ref());
        self.follow_up(now)
    }

    /// The answer to a read, or a tick.
    pub fn input(&mut self, run: u64, input: Input, now: Now) -> Vec<Act> {
        let Some(running) = self.running.as_mut().filter(|_| run == self.run) else { return Vec::new() };
        if matches!(input, Input::Tick) {
            self.wake_at_ms = None;
        }
        running.handle(input, now);
        self.follow_up(now)
    }

    /// How the commit of this run ended.
    pub fn committed(
        &mut self,
        run: u64,
        result: Result<(), CommitError>,
        now: Now,
        behind: Option<Behind>,
    ) -> Vec<Act> {
        let Some(running) = self.running.as_mut().filter(|_| run == self.run) else { return Vec::new() };
        match result {
            Ok(()) => {
                self.failures = 0;
                let effects = running.committed();
                let mut acts = self.release(effects);
                acts.extend(self.work(now, behind));
                acts
            }
            Err(CommitError::Fenced { epoch, .. }) => self.leave(Ending::Fenced { by: epoch }),
            // The memory is ahead of the store for good: it goes, and whoever waits is told.
            Err(error) => {
                self.close_for_a_while(error == CommitError::Full, !matches!(error, CommitError::Unknown(_)));
                self.start_again()
            }
        }
    }

    /// Takes nothing more, commits what it has, stops.
    pub fn drain(&mut self, now: Now) -> Vec<Act> {
        self.draining = true;
        let Some(running) = &mut self.running else { return self.leave(Ending::Drained) };
        for command in self.inbox.close(Closed::Ever) {
            running.take_command(command, now, None);
        }
        self.follow_up(now)
    }

    /// Commits and releases what can be, and sees to the next deadline.
    fn follow_up(&mut self, now: Now) -> Vec<Act> {
        let run = self.run;
        let (shard, epoch) = (self.shard(), self.epoch());
        let Some(running) = &mut self.running else { return Vec::new() };
        let (batch, effects) = running.flush();
        let mut acts = self.release(effects);
        if let Some(batch) = batch {
            let batch = Batch { shard, epoch, seq: batch.seq, events: batch.events.into() };
            acts.push(Act::Commit { run, batch });
        }
        let deadline = self.running.as_ref().and_then(|running| running.next_deadline(now));
        // A wish for an earlier time is left alone.
        if let Some(mono_ms) = deadline.filter(|at| self.wake_at_ms.is_none_or(|set| *at < set)) {
            self.wake_at_ms = Some(mono_ms);
            acts.push(Act::WakeAt { run, mono_ms });
        }
        if self.draining && self.running.as_ref().is_none_or(Running::is_idle) {
            acts.extend(self.leave(Ending::Drained));
        }
        acts
    }

    /// Lets go what is durable.
    fn release(&mut self, effects: Vec<Effect>) -> Vec<Act> {
        let (mut frames, mut reads) = (Vec::new(), Vec::new());
        for effect in effects {
            let Some(running) = &mut self.running else { break };
            match effect {
                Effect::Accepted { token, result } => {
                    running.accepted(token, result.map_err(|_| AcceptError::KeyReused));
                }
                Effect::Cancelled { token, outcome } => running.cancelled(token, outcome),
                Effect::Send { device, session, frames: some } => frames.push((device, session, some)),
                Effect::Tell(notices) => reads.push(Act::Tell(notices)),
                read => reads.push(Act::Read { run: self.run, read }),
            }
        }
        if !frames.is_empty() {
            self.inbox.deliver(frames);
        }
        reads
    }

    fn close_for_a_while(&mut self, disk_full: bool, outcome_known: bool) {
        let retry_after_ms = self.restart_pause().as_millis() as u64;
        let closed = if disk_full { Closed::Full } else { Closed::For { retry_after_ms } };
        let refusal = Refusal { accept: closed.into(), other: closed.into() };
        self.close(closed, &refusal, outcome_known);
    }

    fn start_again(&mut self) -> Vec<Act> {
        if self.draining {
            return self.leave(Ending::Drained);
        }
        let pause = self.restart_pause();
        self.failures += 1;
        self.next_run();
        vec![Act::StartAfter { run: self.run, pause }]
    }

    fn restart_pause(&self) -> Duration {
        (RESTART_MIN * (1 << self.failures.min(10))).min(RESTART_MAX)
    }

    fn close(&mut self, closed: Closed, refusal: &Refusal, outcome_known: bool) {
        for command in self.inbox.close(closed) {
            refusal.clone().tell_command(command);
        }
        if let Some(running) = self.running.take() {
            running.refuse_all(refusal, outcome_known);
        }
    }

    fn leave(&mut self, ending: Ending) -> Vec<Act> {
        let refusal = Refusal { accept: AcceptError::NotLeading, other: ShardError::NotLeading };
        self.close(Closed::Ever, &refusal, true);
        self.next_run();
        vec![Act::Stop(ending)]
    }

    fn next_run(&mut self) {
        self.run += 1;
        self.wake_at_ms = None;
    }
}
