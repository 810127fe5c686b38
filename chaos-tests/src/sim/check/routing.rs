//! What is promised about routes: refusals for good, urgent before bulk, validity, and the ledger. Judged by what
//! clients have asked for and what modems and providers had, not by what the controllers make of it.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_controller::domain::event::{Change, Changed};
use flotilla_controller::domain::facts;
use flotilla_controller::domain::message::{MessageState, Pin, Priority, Route, Submission};
use flotilla_controller::store::Batch;
use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, TenantId};
use flotilla_protocol::wire::Attempt;
use flotilla_routing::ledger::Ledger;

use super::{Checker, Writer};
use crate::sim::Ms;
use crate::sim::clock::UNIX_START_MS;
use crate::sim::site::Way;

/// How late a message may go on the air: clocks, and what its modem had begun.
const LATE_MS: u64 = 15_000;
/// An urgent message that has waited so long, under a leader that has led so long, was in memory and could have gone.
const WAITED_MS: u64 = 20_000;

/// How codes of modems and of services begin.
const REFUSALS: [&str; 2] = ["cms-", "maker-"];

/// What a client has asked for.
#[derive(Debug, Clone)]
pub(super) struct Asked {
    priority: Priority,
    /// True time, by the clock of the controller that took it.
    expires_ms: u64,
    /// The plans that it may follow.
    pub(super) ways: Vec<Way>,
}

#[derive(Debug, Default)]
pub(super) struct Promises {
    asked: BTreeMap<MessageId, Asked>,
    /// Refused by the network for good, as the modem or provider has told.
    refused: BTreeSet<Attempt>,
    /// Taken, and given up by the network for good.
    given_up: BTreeSet<Attempt>,
    /// Urgent messages that wait, pinned ones too, with the time since when.
    urgent: BTreeMap<TenantId, BTreeMap<MessageId, Ms>>,
    /// So many of a tenant's class are in a shard's memory in any case; those beyond it may wait in the store.
    in_memory: usize,
    led_since: BTreeMap<(ShardId, Epoch), Ms>,
    /// The fold of each journal.
    ledgers: BTreeMap<ShardId, Ledger>,
}

impl Promises {
    pub(super) fn asked(&self, id: MessageId) -> Option<&Asked> {
        self.asked.get(&id)
    }

    pub(super) fn priority_of(&self, id: MessageId) -> Option<Priority> {
        self.asked(id).map(|asked| asked.priority)
    }
}

impl Checker {
    /// A controller hands a client's wish to a shard.
    pub(in crate::sim) fn asked(&mut self, submission: &Submission, ways: &[Way]) {
        let Submission { id, priority, expires_ms, .. } = *submission;
        self.promises.asked.insert(id, Asked { priority, expires_ms, ways: ways.to_vec() });
    }

    /// How many messages of a class a shard sees at least.
    pub(in crate::sim) fn sees(&mut self, in_memory: usize) {
        self.promises.in_memory = in_memory;
    }

    pub(super) fn is_account(&self, device: DeviceId) -> bool {
        self.air.is_account(device)
    }

    /// The network has given up for good what it had taken.
    pub(in crate::sim) fn given_up_for_good(&mut self, attempt: Attempt) {
        self.promises.given_up.insert(attempt);
    }

    /// The network has refused an attempt for good.
    pub(in crate::sim) fn refused_for_good(&mut self, attempt: Attempt) {
        self.promises.refused.insert(attempt);
    }

    /// Nothing leaves us after its validity.
    pub(super) fn in_time(&mut self, attempt: Attempt, now: Ms) {
        let id = attempt.message;
        let expires_ms = self.promises.asked(id).map(|asked| asked.expires_ms);
        if let Some(expires_ms) = expires_ms.filter(|expires_ms| UNIX_START_MS + now > expires_ms + LATE_MS) {
            let late_ms = UNIX_START_MS + now - expires_ms;
            self.violated("ends_by_its_validity", || format!("{id} leaves {late_ms} ms after it"));
        }
    }

    /// Folds a batch. Since when its leader has led, by its batches.
    pub(super) fn folded(&mut self, batch: &Batch, now: Ms) -> Ms {
        let ledger = self.promises.ledgers.entry(batch.shard).or_default();
        for event in batch.events.iter() {
            facts::of_event(event, |fact| {
                ledger.apply(&fact);
            });
        }
        *self.promises.led_since.entry((batch.shard, batch.epoch)).or_insert(now)
    }

    /// Whether a change may be made, before it is.
    pub(super) fn may_change(&mut self, at_ms: u64, changed: &Changed, leader: (ShardId, Writer, Ms), now: Ms) {
        let led_since = leader.2;
        let attempt = |number: &u16| Attempt { message: changed.message, number: *number };
        match &changed.change {
            // Only the gateway's own word: a doubt may have come before it.
            Change::Returned { attempt: number, why, .. }
                if REFUSALS.iter().any(|refusal| why.code.starts_with(refusal))
                    && self.promises.refused.contains(&attempt(number)) =>
            {
                self.violated("no_permanent_failure_retried", || {
                    format!("{}/{number} was refused for good, and goes back to the queue", changed.message)
                });
            }
            Change::Returned { attempt: number, undelivered: true, .. }
                if self.promises.given_up.contains(&attempt(number)) =>
            {
                self.violated("no_permanent_failure_retried", || {
                    format!("{}/{number} was given up for good, and goes back to the queue", changed.message)
                });
            }
            Change::Dispatched { attempt: number, route, .. } => {
                self.given_work(attempt(number), *route, at_ms);
                self.goes_by_its_plan(changed, leader, now);
                if now > led_since + WAITED_MS {
                    self.overtaken(changed.message, *route, now);
                }
            }
            _ => {}
        }
    }

    /// A message goes on a route: was it the turn of an urgent one?
    fn overtaken(&mut self, id: MessageId, route: Route, now: Ms) {
        if self.promises.priority_of(id) != Some(Priority::Bulk) {
            return;
        }
        let Some(bulk) = self.messages.get(&id) else { return };
        let submission = &bulk.record.submission;
        let waiting = self.promises.urgent.get(&submission.tenant);
        let waiting = waiting.filter(|waiting| waiting.len() <= self.promises.in_memory).into_iter().flatten();
        let sooner = waiting.filter(|(_, since)| now > **since + WAITED_MS).find(|(urgent, _)| {
            // The same route would have taken it.
            let asked = self.promises.asked(**urgent);
            let by_plan =
                asked.is_some_and(|asked| asked.ways.iter().all(|way| way.iter().flatten().any(|one| *one == route)));
            by_plan
                && self.messages.get(urgent).is_some_and(|one| {
                    let urgent = &one.record.submission;
                    urgent.pin == Pin::Any && urgent.segments <= submission.segments && one.record.attempt == 0
                })
        });
        let sooner = sooner.map(|(urgent, since)| (*urgent, now - since));
        if let Some((urgent, waited_ms)) = sooner {
            self.violated("urgent_before_bulk", || {
                format!("{id} takes {:?} while {urgent} has waited for {waited_ms} ms", route.sim)
            });
        }
    }

    /// Keeps account of urgent messages that wait; after the messages have changed.
    pub(super) fn note_waiting(&mut self, id: MessageId, now: Ms) {
        if self.promises.priority_of(id) != Some(Priority::Urgent) {
            return;
        }
        let Some(tracked) = self.messages.get(&id) else { return };
        let (submission, state) = (&tracked.record.submission, tracked.record.state);
        let of_tenant = self.promises.urgent.entry(submission.tenant).or_default();
        if state == MessageState::Queued {
            of_tenant.entry(id).or_insert(now);
        } else {
            of_tenant.remove(&id);
        }
    }

    /// What a leader that has come to rest knows of its routes.
    pub(in crate::sim) fn ledger_is(&mut self, shard: ShardId, live: &Ledger) {
        let same = self.promises.ledgers.get(&shard).map_or(*live == Ledger::default(), |folded| folded == live);
        if !same {
            self.violated("ledger_equals_journal", || format!("shard {shard}: its leader counts otherwise"));
        }
    }
}
