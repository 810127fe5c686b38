//! A shard at work: its machine, who waits for replies, and the commit that is under way.
//!
//! One commit at a time; what comes meanwhile is applied and collects for the next. The effects of a batch are released when
//! it is durable, and those of inputs that made no events with the batch after which they were made (docs/adr/0001).

use flotilla_routing::ledger::Ledger;
use rustc_hash::FxHashMap;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::handle::{AcceptError, ShardError};
use super::inbox::{Command, Inbox};
use crate::domain::Now;
use crate::domain::event::Event;
use crate::domain::shard::{Acceptance, CancelOutcome, Effect, Input, Machine, Token};

/// A batch collects until it has so many events; the rest of the inbox waits.
const EVENTS_MAX: usize = 8_192;
/// Commands taken from the inbox at once.
const COMMANDS_MAX: usize = 256;

pub(super) struct Running {
    machine: Machine,
    waiting: FxHashMap<Token, Waiting>,
    next_token: Token,
    /// The effects of the batch that is being committed.
    committing: Option<Vec<Effect>>,
}

enum Waiting {
    Accept { reply: oneshot::Sender<Result<Acceptance, AcceptError>>, _permit: OwnedSemaphorePermit },
    Cancel { reply: oneshot::Sender<Result<CancelOutcome, ShardError>> },
}

/// A batch to be committed.
pub(super) struct ToCommit {
    pub(super) seq: u64,
    pub(super) events: Vec<Event>,
}

/// How those who wait are told that nothing came of it.
#[derive(Clone)]
pub(super) struct Refusal {
    pub(super) accept: AcceptError,
    pub(super) other: ShardError,
}

impl Refusal {
    fn tell(self, waiting: Waiting) {
        match waiting {
            Waiting::Accept { reply, .. } => drop(reply.send(Err(self.accept))),
            Waiting::Cancel { reply } => drop(reply.send(Err(self.other))),
        }
    }

    pub(super) fn tell_command(self, command: Command) {
        match command {
            Command::Accept { reply, .. } => drop(reply.send(Err(self.accept))),
            Command::Cancel { reply, .. } => drop(reply.send(Err(self.other))),
            Command::Status { .. } | Command::Look(_) | Command::Input(_) => {}
        }
    }
}

impl Running {
    pub(super) fn new(machine: Machine) -> Self {
        Self { machine, waiting: FxHashMap::default(), next_token: 0, committing: None }
    }

    /// Feeds the machine from the inbox, until that is empty or the batch is large enough. New messages are refused while
    /// `behind`.
    pub(super) fn take_inbox(&mut self, inbox: &Inbox, now: Now, behind: Option<&Refusal>) {
        while self.machine.undrained() < EVENTS_MAX {
            let commands = inbox.take(COMMANDS_MAX);
            if commands.is_empty() {
                return;
            }
            for command in commands {
                self.take_command(command, now, behind);
            }
        }
    }

    pub(super) fn take_command(&mut self, command: Command, now: Now, behind: Option<&Refusal>) {
        match (command, behind) {
            (command @ Command::Accept { .. }, Some(refusal)) => refusal.clone().tell_command(command),
            (Command::Accept { request, reply, permit }, None) => {
                let token = self.wait(Waiting::Accept { reply, _permit: permit });
                self.machine.handle(Input::Accept { token, request }, now);
            }
            (Command::Cancel { tenant, message, reply }, _) => {
                let token = self.wait(Waiting::Cancel { reply });
                self.machine.handle(Input::Cancel { token, tenant, message }, now);
            }
            (Command::Status { reply }, _) => drop(reply.send(self.machine.status())),
            (Command::Look(look), _) => look(&mut self.machine, now),
            (Command::Input(input), _) => self.machine.handle(input, now),
        }
    }

    pub(super) fn handle(&mut self, input: Input, now: Now) {
        self.machine.handle(input, now);
    }

    pub(super) fn next_deadline(&self, now: Now) -> Option<u64> {
        self.machine.next_deadline(now)
    }

    /// What can be done now with what has collected: a batch to commit, or effects to release at once.
    pub(super) fn flush(&mut self) -> (Option<ToCommit>, Vec<Effect>) {
        if self.committing.is_some() {
            return (None, Vec::new());
        }
        let output = self.machine.drain();
        if output.events.is_empty() {
            return (None, output.effects);
        }
        self.committing = Some(output.effects);
        (Some(ToCommit { seq: output.seq, events: output.events }), Vec::new())
    }

    /// The batch is durable: its effects.
    pub(super) fn committed(&mut self) -> Vec<Effect> {
        self.committing.take().unwrap_or_default()
    }

    pub(super) fn ledger(&self) -> &Ledger {
        self.machine.ledger()
    }

    /// What the commit under way holds back.
    pub(super) fn held_back(&self) -> &[Effect] {
        self.committing.as_deref().unwrap_or_default()
    }

    /// Everything that was taken is committed.
    pub(super) fn is_idle(&self) -> bool {
        self.committing.is_none() && self.machine.undrained() == 0
    }

    pub(super) fn accepted(&mut self, token: Token, result: Result<Acceptance, AcceptError>) {
        if let Some(Waiting::Accept { reply, .. }) = self.waiting.remove(&token) {
            let _ = reply.send(result);
        }
    }

    pub(super) fn cancelled(&mut self, token: Token, outcome: CancelOutcome) {
        if let Some(Waiting::Cancel { reply }) = self.waiting.remove(&token) {
            let _ = reply.send(Ok(outcome));
        }
    }

    /// Ends without the commit that is under way. Those in it are not answered when its outcome is not known: they learn
    /// that from the silence.
    pub(super) fn refuse_all(mut self, refusal: &Refusal, outcome_known: bool) {
        if !outcome_known {
            for effect in self.committing.take().unwrap_or_default() {
                if let Effect::Accepted { token, .. } | Effect::Cancelled { token, .. } = effect {
                    self.waiting.remove(&token);
                }
            }
        }
        for waiting in self.waiting.into_values() {
            refusal.clone().tell(waiting);
        }
    }

    fn wait(&mut self, waiting: Waiting) -> Token {
        self.next_token += 1;
        self.waiting.insert(self.next_token, waiting);
        self.next_token
    }
}
