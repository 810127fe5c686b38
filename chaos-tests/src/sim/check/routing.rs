//! What is promised about routes: limits, refusals for good, urgent before bulk, validity, and the ledger. Judged by what
//! clients have asked for and what modems and providers had, not by what the controllers make of it.

use std::collections::{BTreeMap, BTreeSet};

use flotilla_controller::domain::event::{Change, Changed};
use flotilla_controller::domain::facts;
use flotilla_controller::domain::message::{MessageState, Pin, Priority, Route};
use flotilla_controller::store::Batch;
use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, TenantId};
use flotilla_protocol::wire::Attempt;
use flotilla_routing::ledger::Ledger;
use flotilla_routing::settings::Limits;

use super::Checker;
use crate::sim::Ms;
use crate::sim::clock::UNIX_START_MS;

/// What clocks make of a minute: a segment is charged by its device's clock (up to 10 s off, held between dispatch and report),
/// and looked at by those of other leaders, which are up to 5 s off each and are set. So that of a minute's limit nothing more
/// than this holds in true time.
const SURE_MS: u64 = 60_000 - 10_000 - 2 * 5_000 - 8_000;
const DAY_MS: u64 = 86_400_000;
/// How late a message may go on the air: clocks, and what its modem had begun.
const LATE_MS: u64 = 15_000;
/// An urgent message that has waited so long, under a leader that has led so long, was in memory and could have gone.
const WAITED_MS: u64 = 20_000;

/// How codes of modems and of services begin.
const REFUSALS: [&str; 2] = ["cms-", "maker-"];

/// What a client has asked for.
#[derive(Debug, Clone, Copy)]
struct Asked {
    priority: Priority,
    /// True time, by the clock of the controller that took it.
    expires_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Promises {
    asked: BTreeMap<MessageId, Asked>,
    limits: BTreeMap<Route, Limits>,
    /// Of an account, over all its senders.
    device_limits: BTreeMap<DeviceId, Limits>,
    /// What went out, by route: true time and segments.
    air: BTreeMap<Route, Vec<(Ms, u32)>>,
    /// Refused by the network for good, as the modem or provider has told.
    refused: BTreeSet<Attempt>,
    /// Urgent messages that wait, pinned ones too, with the time since when.
    urgent: BTreeMap<TenantId, BTreeMap<MessageId, Ms>>,
    /// So many of a tenant's class are in a shard's memory in any case; those beyond it may wait in the store.
    in_memory: usize,
    led_since: BTreeMap<(ShardId, Epoch), Ms>,
    /// The fold of each journal.
    ledgers: BTreeMap<ShardId, Ledger>,
}

impl Checker {
    /// A controller hands a client's wish to a shard.
    pub(in crate::sim) fn asked(&mut self, id: MessageId, priority: Priority, expires_ms: u64) {
        self.promises.asked.insert(id, Asked { priority, expires_ms });
    }

    /// How many messages of a class a shard sees at least.
    pub(in crate::sim) fn sees(&mut self, in_memory: usize) {
        self.promises.in_memory = in_memory;
    }

    /// What is set for a route.
    pub(in crate::sim) fn limited(&mut self, route: Route, limits: &Limits) {
        self.promises.limits.insert(route, limits.clone());
    }

    /// What is set for all routes of an account together.
    pub(in crate::sim) fn limited_as_a_whole(&mut self, device: DeviceId, limits: &Limits) {
        self.promises.device_limits.insert(device, limits.clone());
    }

    pub(super) fn is_account(&self, device: DeviceId) -> bool {
        self.promises.device_limits.contains_key(&device)
    }

    /// The network has refused an attempt for good, or given it up for good.
    pub(in crate::sim) fn refused_for_good(&mut self, attempt: Attempt) {
        self.promises.refused.insert(attempt);
    }

    /// Segments of an attempt go out on a route.
    pub(in crate::sim) fn goes_out(&mut self, attempt: Attempt, route: Route, segments: u8, now: Ms) {
        // What is with a service is out of our hands: it was judged when it left.
        if !route.is_provider() {
            self.in_time(attempt, now);
        }
        let sent = self.promises.air.entry(route).or_default();
        sent.push((now, u32::from(segments)));
        let limits = self.promises.limits.get(&route);
        if let Some(detail) = limits.and_then(|limits| over_budget(sent, limits, now)) {
            self.violated("budget_never_exceeded", || format!("{:?}: {detail}", route.sim));
        }
        let Some(limits) = self.promises.device_limits.get(&route.device) else { return };
        let of_device = self.promises.air.iter().filter(|(one, _)| one.device == route.device);
        let sent: Vec<(Ms, u32)> = of_device.flat_map(|(_, sent)| sent.iter().copied()).collect();
        if let Some(detail) = over_budget(&sent, limits, now) {
            self.violated("budget_never_exceeded", || format!("all of {}: {detail}", route.device));
        }
    }

    /// Nothing leaves us after its validity.
    pub(super) fn in_time(&mut self, attempt: Attempt, now: Ms) {
        let id = attempt.message;
        let asked = self.promises.asked.get(&id).copied();
        if let Some(asked) = asked.filter(|asked| UNIX_START_MS + now > asked.expires_ms + LATE_MS) {
            let late_ms = UNIX_START_MS + now - asked.expires_ms;
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
    pub(super) fn may_change(&mut self, changed: &Changed, led_since: Ms, now: Ms) {
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
            Change::Dispatched { route, .. } if now > led_since + WAITED_MS => {
                self.overtaken(changed.message, *route, now);
            }
            _ => {}
        }
    }

    /// A message goes on a route: was it the turn of an urgent one?
    fn overtaken(&mut self, id: MessageId, route: Route, now: Ms) {
        let priority = |id: &MessageId| self.promises.asked.get(id).map(|asked| asked.priority);
        if priority(&id) != Some(Priority::Bulk) {
            return;
        }
        let Some(bulk) = self.messages.get(&id) else { return };
        let submission = &bulk.record.submission;
        let waiting = self.promises.urgent.get(&submission.tenant);
        let waiting = waiting.filter(|waiting| waiting.len() <= self.promises.in_memory).into_iter().flatten();
        let sooner = waiting.filter(|(_, since)| now > **since + WAITED_MS).find(|(urgent, _)| {
            // The same route would have taken it.
            self.messages.get(urgent).is_some_and(|one| {
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
        if self.promises.asked.get(&id).is_none_or(|asked| asked.priority != Priority::Urgent) {
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

/// What is over its limit now, after all that went out.
fn over_budget(sent: &[(Ms, u32)], limits: &Limits, now: Ms) -> Option<String> {
    let sum = |from: Ms| sent.iter().filter(|(at, _)| *at > from).map(|(_, segments)| segments).sum::<u32>();
    let of_minute = sum(now.saturating_sub(SURE_MS));
    if let Some(limit) = limits.per_minute.filter(|limit| of_minute > *limit) {
        return Some(format!("{of_minute} segments in {SURE_MS} ms, {limit} a minute"));
    }
    let day = |at: Ms| (UNIX_START_MS + at) / DAY_MS;
    let of_day: u32 = sent.iter().filter(|(at, _)| day(*at) == day(now)).map(|(_, segments)| segments).sum();
    // Around midnight clocks do not agree about the day.
    let clear = |at: Ms| day(at.saturating_sub(30_000)) == day(at + 30_000);
    limits
        .per_day
        .filter(|limit| of_day > *limit && sent.iter().all(|(at, _)| clear(*at)))
        .map(|limit| format!("{of_day} segments on a day, {limit} a day"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn budgets_are_counted_in_true_time() {
        let minute = Limits { per_minute: Some(2), ..Limits::default() };
        let near = [(100_000, 1), (110_000, 1), (120_000, 1)];
        assert!(over_budget(&near, &minute, 120_000).is_some());
        let far = [(100_000, 1), (110_000, 1), (100_000 + SURE_MS, 1)];
        assert!(over_budget(&far, &minute, 100_000 + SURE_MS).is_none());
        let day = Limits { per_day: Some(2), ..Limits::default() };
        assert!(over_budget(&near, &day, 120_000).is_some());
        assert!(over_budget(&near[..2], &day, 110_000).is_none());
    }
}
