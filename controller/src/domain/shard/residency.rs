//! Which open messages are in memory, and how the others come back.
//!
//! In memory are all that are on devices or in doubt, and as many of the others as the settings allow. The rest is in the
//! store only:
//! - *queued* ones beyond the bound. Each tenant and class is a group; once one of its messages stays in the store, all
//!   later ones do, so that they come back in their order, page by page, when memory has become short of them;
//! - *scheduled* ones whose time is far away: they come a little ahead of it;
//! - *sent* ones, the oldest first: they come back when their report does.
//!
//! Whatever is in the store only must end too, so it is looked through for the end of its validity now and then.

use std::collections::VecDeque;

use flotilla_protocol::id::{DeviceId, MessageId, TenantId};
use flotilla_protocol::wire::Report;
use rustc_hash::FxHashMap;

use super::absent::{Absent, Read};
use super::io::{CancelOutcome, Effect, Order, Token};
use super::message::Message;
use super::slots::Slot;
use super::timers::Timer;
use super::{Machine, Now};
use crate::domain::message::{MessageState, Priority};
use crate::domain::record::MessageRecord;

#[derive(Debug, Default)]
pub(super) struct Residency {
    groups: FxHashMap<(TenantId, Priority), Group>,
    stages: [usize; 5],
    /// Sent messages in memory, the oldest first; with keys of some that have ended.
    sent: VecDeque<Slot>,
    loads: FxHashMap<MessageId, Load>,
    /// Loads that wait for their turn.
    loads_waiting: VecDeque<MessageId>,
    absent: Absent,
    due: DueFetch,
    overdue: OverdueFetch,
}

/// Where a message in memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Scheduled,
    /// Queued, in its lane.
    Ready,
    /// Queued, waiting for a back-off to end.
    Asleep,
    InFlight,
    Sent,
}

/// The queued messages of one tenant and class.
#[derive(Debug, Default)]
struct Group {
    ready: usize,
    /// There are more in the store: those after this order.
    stored_after: Option<Order>,
    refill: Option<Refill>,
}

#[derive(Debug)]
struct Refill {
    read: Read,
    /// The lowest order that went to the store meanwhile.
    spilled: Option<Order>,
}

#[derive(Debug)]
struct Load {
    tenant: TenantId,
    read: Option<Read>,
    reports: Vec<(DeviceId, u64, Report)>,
    cancels: Vec<Token>,
}

#[derive(Debug, Default)]
struct DueFetch {
    /// All messages that are due until then are in memory (Unix ms), as far as there was room on the last page.
    until_ms: u64,
    /// When to look again (Unix ms).
    next_ms: u64,
    read: Option<Read>,
}

#[derive(Debug, Default)]
struct OverdueFetch {
    /// When to look again (monotonic).
    next_ms: u64,
    read: Option<Read>,
}

impl Stage {
    pub(super) fn of(message: &Message) -> Option<Self> {
        Some(match message.state {
            MessageState::Scheduled => Self::Scheduled,
            MessageState::Queued if message.wake_ms.is_some() => Self::Asleep,
            MessageState::Queued => Self::Ready,
            MessageState::Dispatching | MessageState::Unknown => Self::InFlight,
            MessageState::Sent => Self::Sent,
            _ => return None,
        })
    }
}

impl Residency {
    pub(super) fn enter(&mut self, tenant: TenantId, class: Priority, stage: Stage) {
        self.stages[stage as usize] += 1;
        if stage == Stage::Ready {
            self.groups.entry((tenant, class)).or_default().ready += 1;
        }
    }

    pub(super) fn leave(&mut self, tenant: TenantId, class: Priority, stage: Stage) {
        self.stages[stage as usize] -= 1;
        if stage == Stage::Ready
            && let Some(group) = self.groups.get_mut(&(tenant, class))
        {
            group.ready -= 1;
        }
    }

    fn in_stage(&self, stage: Stage) -> usize {
        self.stages[stage as usize]
    }

    /// The messages of a group after an order are in the store only.
    fn spill(&mut self, tenant: TenantId, class: Priority, order: Order) {
        let before = match order {
            (seq, 0) => (seq.saturating_sub(1), u32::MAX),
            (seq, index) => (seq, index - 1),
        };
        let group = self.groups.entry((tenant, class)).or_default();
        group.stored_after = Some(group.stored_after.map_or(before, |after| after.min(before)));
        if let Some(refill) = &mut group.refill {
            refill.spilled = Some(refill.spilled.map_or(before, |spilled| spilled.min(before)));
        }
    }
}

impl Machine {
    /// Whether a newly queued message has to stay in the store.
    pub(super) fn must_spill(&self, tenant: TenantId, class: Priority) -> bool {
        let queued = self.residency.in_stage(Stage::Ready) + self.residency.in_stage(Stage::Asleep);
        let group = self.residency.groups.get(&(tenant, class));
        let ready = group.map_or(0, |group| group.ready);
        group.is_some_and(|group| group.stored_after.is_some())
            || (queued >= self.settings.queued_max && ready >= self.settings.queued_min)
    }

    pub(super) fn spill(&mut self, tenant: TenantId, class: Priority, order: Order) {
        self.residency.spill(tenant, class, order);
        self.refill(tenant, class);
    }

    /// Whether a message that is due then is in memory.
    pub(super) fn holds_scheduled(&self, due_ms: u64) -> bool {
        due_ms <= self.residency.due.until_ms
    }

    /// After a restart: all queued messages of a group are in the store.
    pub(super) fn begin_refill(&mut self, tenant: TenantId, class: Priority) {
        self.residency.groups.entry((tenant, class)).or_default().stored_after = Some((0, 0));
        self.refill(tenant, class);
    }

    /// Reads more of a group when memory gets short of it.
    pub(super) fn refill(&mut self, tenant: TenantId, class: Priority) {
        let limit = self.settings.page;
        let Some(group) = self.residency.groups.get_mut(&(tenant, class)) else { return };
        let Some(after) = group.stored_after else { return };
        if group.refill.is_none() && group.ready < limit.div_ceil(2) {
            group.refill = Some(Refill { read: self.residency.absent.begin(), spilled: None });
            self.effects.push(Effect::Refill { tenant, class, after, limit });
        }
    }

    pub(super) fn refilled(&mut self, tenant: TenantId, class: Priority, records: Vec<MessageRecord>, now: Now) {
        let limit = self.settings.page;
        let Some(group) = self.residency.groups.get_mut(&(tenant, class)) else { return };
        let Some(refill) = group.refill.take() else { return };
        let last = if records.len() < limit { None } else { records.last().map(|record| record.order) };
        group.stored_after = match (last, refill.spilled) {
            (Some(last), Some(spilled)) => Some(last.min(spilled)),
            (last, spilled) => last.or(spilled),
        };
        for record in records {
            if record.state == MessageState::Queued {
                self.adopt(record, Some(&refill.read), now);
            }
        }
        self.residency.absent.end(&refill.read);
        self.refill(tenant, class);
    }

    /// Takes a message of the store into memory, unless memory knows better.
    pub(super) fn adopt(&mut self, record: MessageRecord, read: Option<&Read>, now: Now) -> Option<Slot> {
        let id = record.submission.id;
        let is_old = read.is_some_and(|read| self.residency.absent.left_since(read, id));
        if !record.is_open() || self.ids.contains_key(&id) || is_old {
            return None;
        }
        let lane = self.join_lane(&record.submission, now);
        let refused =
            record.state == MessageState::Queued && record.failure.as_ref().is_some_and(crate::domain::facts::refused);
        let mut message = Message::restored(record, lane);
        let backoff = message.next_try_ms.saturating_sub(now.unix_ms);
        if refused {
            let since_ms = now.unix_ms.saturating_sub(message.at_ms);
            message.avoid_until_ms = now.mono_ms + self.settings.avoid_ms.saturating_sub(since_ms);
        }
        if message.state == MessageState::Queued && backoff > 0 {
            message.wake_ms = Some(now.mono_ms + backoff.min(self.retry_max_ms()));
        }
        let slot = self.settle(message, now);
        self.resume_flight(slot, now);
        Some(slot)
    }

    /// A message that was sent is queued again: its text is in the store only, so it goes there and comes back at once, unless
    /// memory is too full for that.
    pub(super) fn fetch_again(&mut self, slot: Slot) {
        let Some(message) = self.messages.get(slot) else { return };
        let (id, order) = (message.id, message.order);
        let key = &self.lanes.get(message.lane).key;
        let (tenant, class) = (key.tenant, key.class);
        let queued = self.residency.in_stage(Stage::Ready) + self.residency.in_stage(Stage::Asleep);
        self.remove(slot);
        if queued < 2 * self.settings.queued_max {
            self.load(tenant, id);
        } else {
            self.spill(tenant, class, order);
        }
    }

    /// Puts a message into memory, with its timers, and into its queue.
    pub(super) fn settle(&mut self, mut message: Message, now: Now) -> Slot {
        message.since_ms = message.waits_since(now);
        let (id, lane, state) = (message.id, message.lane, message.state);
        let (expires_ms, due_ms, wake_ms) = (message.expires_ms, message.next_try_ms, message.wake_ms);
        let stage = Stage::of(&message);
        let key = &self.lanes.get(lane).key;
        if let Some(stage) = stage {
            self.residency.enter(key.tenant, key.class, stage);
        }
        let slot = self.messages.insert(message);
        self.ids.insert(id, slot);
        self.timers.at_wall(expires_ms, Timer::Expires(slot));
        match (state, wake_ms) {
            (MessageState::Scheduled, _) => self.timers.at_wall(due_ms, Timer::Due(slot)),
            (MessageState::Queued, Some(wake_ms)) => self.timers.at_mono(wake_ms, Timer::Wake(slot)),
            (MessageState::Queued, None) => self.enqueue(slot, false),
            (MessageState::Sent, _) => self.keep_sent(slot),
            _ => {}
        }
        slot
    }

    /// A message goes out of memory: it has ended, or the store keeps it.
    pub(super) fn remove(&mut self, slot: Slot) {
        let Some(message) = self.messages.remove(slot) else { return };
        let key = &self.lanes.get(message.lane).key;
        let (tenant, class) = (key.tenant, key.class);
        if let Some(stage) = Stage::of(&message) {
            self.residency.leave(tenant, class, stage);
        }
        self.ids.remove(&message.id);
        self.residency.absent.note(message.id);
        self.lanes.leave(message.lane);
    }

    /// Keeps a sent message, and lets the oldest go when there are too many.
    pub(super) fn keep_sent(&mut self, slot: Slot) {
        self.residency.sent.push_back(slot);
        let messages = &self.messages;
        let is_sent = |slot: &Slot| messages.get(*slot).is_some_and(|message| message.state == MessageState::Sent);
        if self.residency.sent.len() > 1_024 + 2 * self.residency.in_stage(Stage::Sent) {
            self.residency.sent.retain(is_sent);
        }
        while self.residency.in_stage(Stage::Sent) > self.settings.sent_max {
            let Some(oldest) = self.residency.sent.pop_front() else { break };
            if self.messages.get(oldest).is_some_and(|message| message.state == MessageState::Sent) {
                self.remove(oldest);
            }
        }
    }

    /// Holds a report until its message is read; false when there is no room for it.
    pub(super) fn load_for_report(
        &mut self,
        tenant: TenantId,
        from: (DeviceId, u64),
        message: MessageId,
        report: Report,
    ) -> bool {
        let Some(device) = self.devices.get_mut(&from.0) else { return true };
        if device.session == Some(from.1) {
            if device.log.held() >= self.settings.reports_held_max {
                return false;
            }
            device.log.hold(report.position);
        }
        self.load(tenant, message).reports.push((from.0, from.1, report));
        true
    }

    pub(super) fn load_for_cancel(&mut self, tenant: TenantId, message: MessageId, token: Token) {
        self.load(tenant, message).cancels.push(token);
    }

    fn load(&mut self, tenant: TenantId, message: MessageId) -> &mut Load {
        let residency = &mut self.residency;
        let running = residency.loads.len() - residency.loads_waiting.len();
        residency.loads.entry(message).or_insert_with(|| {
            let read = if running < self.settings.loads_max {
                self.effects.push(Effect::Load { tenant, message });
                Some(residency.absent.begin())
            } else {
                residency.loads_waiting.push_back(message);
                None
            };
            Load { tenant, read, reports: Vec::new(), cancels: Vec::new() }
        })
    }

    fn load_next(&mut self) {
        let Some(message) = self.residency.loads_waiting.pop_front() else { return };
        let Some(load) = self.residency.loads.get_mut(&message) else { return };
        load.read = Some(self.residency.absent.begin());
        self.effects.push(Effect::Load { tenant: load.tenant, message });
    }

    pub(super) fn loaded(&mut self, message: MessageId, record: Option<Box<MessageRecord>>, now: Now) {
        let Some(load) = self.residency.loads.remove(&message) else { return };
        let Some(read) = &load.read else { return };
        let state = record.as_ref().map(|record| record.state);
        let is_old = self.residency.absent.left_since(read, message) && !self.ids.contains_key(&message);
        if let Some(record) = record {
            self.adopt(*record, Some(read), now);
        }
        self.residency.absent.end(read);
        if is_old {
            // It was in memory meanwhile and has gone again: ended, or given back to the store. Only a new read can tell.
            let again = self.load(load.tenant, message);
            again.reports = load.reports;
            again.cancels = load.cancels;
            return self.load_next();
        }
        for (device, session, report) in load.reports {
            let position = report.position;
            self.take_report(device, session, report, false, now);
            self.reported(device, session, position);
        }
        for token in load.cancels {
            let outcome = match (self.ids.get(&message).copied(), state) {
                (Some(slot), _) => self.cancel_resident(slot, now),
                (None, Some(state)) => CancelOutcome::TooLate(state),
                (None, None) => CancelOutcome::NotFound,
            };
            self.effects.push(Effect::Cancelled { token, outcome });
        }
        self.load_next();
    }

    /// Starts the reads whose time has come.
    pub(super) fn fetch(&mut self, now: Now) {
        let limit = self.settings.page;
        let scheduled = self.totals.of_state(MessageState::Scheduled);
        let due = &mut self.residency.due;
        if due.read.is_none() && now.unix_ms >= due.next_ms {
            due.until_ms = now.unix_ms + self.settings.far_ms;
            due.next_ms = now.unix_ms + self.settings.far_ms / 2;
            if scheduled > self.residency.stages[Stage::Scheduled as usize] as u64 {
                let until_ms = due.until_ms;
                due.read = Some(self.residency.absent.begin());
                self.effects.push(Effect::FetchDue { until_ms, limit });
            }
        }
        let overdue = &mut self.residency.overdue;
        if overdue.read.is_none() && now.mono_ms >= overdue.next_ms {
            overdue.next_ms = now.mono_ms + self.settings.overdue_every_ms;
            if self.totals.open() > self.messages.len() as u64 {
                overdue.read = Some(self.residency.absent.begin());
                self.effects.push(Effect::FetchOverdue { now_ms: now.unix_ms, limit });
            }
        }
    }

    /// When `fetch` has to be called again: by the wall, and by the monotonic clock.
    pub(super) fn next_fetch(&self) -> (Option<u64>, Option<u64>) {
        let (due, overdue) = (&self.residency.due, &self.residency.overdue);
        let scheduled = self.totals.of_state(MessageState::Scheduled) > 0 && due.read.is_none();
        let stored = self.totals.open() > self.messages.len() as u64 && overdue.read.is_none();
        (scheduled.then_some(due.next_ms), stored.then_some(overdue.next_ms))
    }

    pub(super) fn fetched_due(&mut self, records: Vec<MessageRecord>, now: Now) {
        let Some(read) = self.residency.due.read.take() else { return };
        if records.len() >= self.settings.page
            && let Some(last) = records.last()
        {
            // There are more, which come when these are out of the way: they are the earliest.
            self.residency.due.next_ms = last.next_try_ms;
            self.residency.due.until_ms = last.next_try_ms;
        }
        for record in records {
            if record.state == MessageState::Scheduled {
                self.adopt(record, Some(&read), now);
            }
        }
        self.residency.absent.end(&read);
    }

    pub(super) fn fetched_overdue(&mut self, records: Vec<MessageRecord>, now: Now) {
        let Some(read) = self.residency.overdue.read.take() else { return };
        if records.len() >= self.settings.page {
            self.residency.overdue.next_ms = now.mono_ms;
        }
        for record in records {
            if record.submission.expires_ms <= now.unix_ms
                && let Some(slot) = self.adopt(record, Some(&read), now)
            {
                self.expire(slot, now);
            }
        }
        self.residency.absent.end(&read);
    }
}
