//! The named invariants. The checker sees what no part of the world can forget or hide: every durable batch, every promise
//! that leaves a controller, every segment on the air, every report that a device lets go. It judges at once.

mod limits;
mod plans;
mod routing;

use std::collections::{BTreeMap, BTreeSet};

use flotilla_controller::domain::event::{Change, Changed, Event, EventKind, Idempotency, Inbound};
use flotilla_controller::domain::message::{Duplicates, MessageState};
use flotilla_controller::domain::record::MessageRecord;
use flotilla_controller::follow::aggregates::{Counter, Counts, count_event, count_inbound, count_record};
use flotilla_controller::store::Batch;
use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, TenantId};
use flotilla_protocol::wire::{Attempt, Report, ReportKind};

use super::Ms;
use super::store::Store;

/// A broken promise: which, and what of it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub invariant: &'static str,
    pub detail: String,
}

/// Who writes a journal: a controller in one of its lives.
pub(super) type Writer = (usize, u32);

#[derive(Debug)]
struct Tracked {
    record: MessageRecord,
    /// Attempts of which at least one segment was on the air.
    on_air: BTreeSet<u16>,
    /// By attempt, why it was taken back.
    returned: BTreeMap<u16, Box<str>>,
}

#[derive(Debug, Default)]
pub(super) struct Checker {
    messages: BTreeMap<MessageId, Tracked>,
    open: usize,
    writers: BTreeMap<(ShardId, Epoch), Writer>,
    epochs: BTreeMap<ShardId, Epoch>,
    keys: BTreeMap<(TenantId, [u8; 16], u16), MessageId>,
    promised: BTreeSet<MessageId>,
    promised_keys: BTreeMap<(TenantId, [u8; 16]), Vec<MessageId>>,
    refused: BTreeSet<MessageId>,
    handed_over: BTreeSet<Attempt>,
    /// Inbound messages that a device's modem has let go, and those in the journal, by device and position.
    let_go: BTreeSet<u64>,
    inbound: BTreeMap<(DeviceId, u64), u64>,
    /// By text, under which run of its shard's machine it came last.
    inbound_runs: BTreeMap<u64, u64>,
    runs: BTreeMap<ShardId, u64>,
    run_since: BTreeMap<ShardId, Ms>,
    shards: u16,
    counts: Counts,
    by_state: BTreeMap<&'static str, u64>,
    promises: routing::Promises,
    air: limits::Air,
    gateways: plans::Gateways,
    found: Option<Violation>,
}

/// Why an attempt may be repeated although it was on the air: the controller knew that it might have been, or its device
/// has said that it failed there.
const DOUBTFUL: [&str; 3] = ["lease-over", "device-unknown", "provider-unknown"];
/// The network has given it up, by its own word: it will not arrive, so sending it again doubles nothing.
const GIVEN_UP: &str = "given up";

impl Checker {
    pub(super) fn new(shards: u16) -> Self {
        Self { shards, ..Self::default() }
    }

    pub(super) fn found(&mut self) -> Option<Violation> {
        self.found.take()
    }

    pub(super) fn broken(&self) -> bool {
        self.found.is_some()
    }

    /// Messages that have not ended.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn accepted(&self) -> usize {
        self.messages.len()
    }

    pub(super) fn on_air(&self) -> usize {
        self.messages.values().map(|message| message.on_air.len()).sum()
    }

    /// How many messages ended in which state.
    pub(super) fn ends(&self) -> &BTreeMap<&'static str, u64> {
        &self.by_state
    }

    /// For waiting until everything that came in is in the journal.
    pub(super) fn inbound_missing(&self) -> bool {
        self.let_go.iter().any(|digest| !self.inbound_runs.contains_key(digest))
    }

    fn violated(&mut self, invariant: &'static str, detail: impl FnOnce() -> String) {
        if self.found.is_none() {
            self.found = Some(Violation { invariant, detail: detail() });
        }
    }

    /// A batch has become durable.
    pub(super) fn committed(&mut self, batch: &Batch, writer: Writer, now: Ms) {
        let (shard, epoch) = (batch.shard, batch.epoch);
        let known = *self.writers.entry((shard, epoch)).or_insert(writer);
        let highest = self.epochs.entry(shard).or_default();
        let (past, before) = (epoch < *highest, *highest);
        *highest = epoch.max(before);
        if known != writer {
            self.violated("one_leader_writes_per_epoch", || {
                format!(
                    "shard {shard}, epoch {epoch}: c{} life {}, and c{} life {}",
                    known.0, known.1, writer.0, writer.1
                )
            });
        }
        if past {
            self.violated("one_leader_writes_per_epoch", || format!("shard {shard}: epoch {epoch} after {before}"));
        }
        let led_since = self.folded(batch, now);
        for (index, event) in batch.events.iter().enumerate() {
            if !self.is_told_again(event) {
                count_event(event, &mut self.counts);
            }
            match &event.kind {
                EventKind::Accepted(accepted) => {
                    let id = accepted.submission.id;
                    let order = (batch.seq, index as u32);
                    let record = MessageRecord::accepted(accepted.submission.clone(), event.at_ms, order);
                    self.accepted_one(id, accepted.submission.tenant, accepted.idempotency, record);
                    self.note_waiting(id, now);
                }
                EventKind::Changed(changed) => {
                    self.may_change(event.at_ms, changed, (shard, writer, led_since), now);
                    self.note_work(changed, now);
                    self.changed(event.at_ms, changed);
                    self.note_waiting(changed.message, now);
                }
                EventKind::Inbound(inbound) => self.received(inbound),
            }
        }
    }

    /// A modem's message is in the journal once. A maker repeats what nobody has answered: the same machine takes it once, the
    /// next one may take it once more, and rows have it once all the same.
    fn received(&mut self, inbound: &Inbound) {
        let digest = inbound.text.parse().unwrap_or_default();
        let run = self.runs.get(&ShardId::of(inbound.tenant, self.shards)).copied().unwrap_or_default();
        let known = self.inbound_runs.insert(digest, run);
        let twice = match known {
            Some(known) => known == run || !self.is_account(inbound.device),
            None => self.inbound.insert((inbound.device, inbound.position), digest).is_some(),
        };
        if twice {
            self.violated("inbound_once", || format!("inbound message {digest} is in the journal twice"));
        }
    }

    /// Statistics count what is in the journal, rows are counted once: of what a maker has repeated only the first is compared.
    fn is_told_again(&self, event: &Event) -> bool {
        let EventKind::Inbound(inbound) = &event.kind else { return false };
        inbound.text.parse().is_ok_and(|digest| self.inbound_runs.contains_key(&digest))
    }

    /// A machine starts from what is durable.
    pub(super) fn starts(&mut self, shard: ShardId, now: Ms) {
        self.run_since.insert(shard, now);
        *self.runs.entry(shard).or_default() += 1;
    }

    fn accepted_one(&mut self, id: MessageId, tenant: TenantId, key: Option<Idempotency>, record: MessageRecord) {
        let tracked = Tracked { record, on_air: BTreeSet::new(), returned: BTreeMap::new() };
        self.open += 1;
        if self.messages.insert(id, tracked).is_some() {
            self.violated("one_message_per_request", || format!("{id} is accepted twice"));
        }
        if self.refused.contains(&id) {
            self.violated("refused_means_nothing", || format!("{id} was refused, and is accepted"));
        }
        if let Some(key) = key
            && let Some(other) = self.keys.insert((tenant, key.key, key.index), id)
        {
            self.violated("one_message_per_request", || format!("{other} and {id} are of one request"));
        }
    }

    fn changed(&mut self, at_ms: u64, changed: &Changed) {
        let (id, change) = (changed.message, &changed.change);
        let Some(tracked) = self.messages.get_mut(&id) else {
            return self.violated("ended_never_changes", || format!("{id} changes and was never accepted"));
        };
        if !tracked.record.is_open() {
            let state = tracked.record.state;
            return self.violated("ended_never_changes", || format!("{id} is {state:?}, and then: {change:?}"));
        }
        if let Change::Returned { attempt, why, undelivered, .. } = change {
            let why = if *undelivered { GIVEN_UP.into() } else { why.code.clone() };
            tracked.returned.insert(*attempt, why);
        }
        tracked.record.apply(at_ms, change);
        let again = tracked.record.charged;
        if let Some(charge) = &changed.charge {
            tracked.record.charge(charge);
            if again {
                let attempt = tracked.record.attempt;
                return self.violated("attempts_are_charged_once", || format!("{id}/{attempt}: {change:?}"));
            }
        }
        if !tracked.record.is_open() {
            self.open -= 1;
            *self.by_state.entry(tracked.record.state.as_str()).or_default() += 1;
        }
    }

    /// A controller answers that these messages are accepted.
    pub(super) fn promised(&mut self, tenant: TenantId, key: Option<[u8; 16]>, ids: &[MessageId]) {
        for id in ids {
            if !self.messages.contains_key(id) {
                self.violated("acknowledged_is_durable", || format!("{id} is promised, and not in the journal"));
            }
            self.promised.insert(*id);
        }
        let Some(key) = key else { return };
        let first = self.promised_keys.entry((tenant, key)).or_insert_with(|| ids.to_vec());
        if first != ids {
            let first = first.clone();
            self.violated("one_message_per_request", || format!("one request was promised {first:?} and {ids:?}"));
        }
    }

    /// A client has an answer; whether it is true shows later.
    pub(super) fn promised_unseen(&mut self, ids: &[MessageId]) {
        self.promised.extend(ids);
    }

    /// A controller answers that a message is cancelled.
    pub(super) fn cancelled(&mut self, id: MessageId) {
        let state = self.messages.get(&id).map(|tracked| tracked.record.state);
        if state != Some(MessageState::Cancelled) {
            self.violated("cancelled_is_durable", || format!("{id} is {state:?}"));
        }
    }

    /// A controller answers that nothing of these was accepted.
    pub(super) fn refused(&mut self, ids: &[MessageId]) {
        for id in ids {
            if self.messages.contains_key(id) {
                self.violated("refused_means_nothing", || format!("{id} is refused, and in the journal"));
            }
            self.refused.insert(*id);
        }
    }

    /// A device is told to send: the intent has to be durable.
    pub(super) fn dispatched(&mut self, attempt: Attempt) {
        let known = self.messages.get(&attempt.message).map(|tracked| tracked.record.attempt);
        if known.is_none_or(|known| known < attempt.number) {
            self.violated("dispatched_after_commit", || {
                format!("{} attempt {} reaches a device before the journal", attempt.message, attempt.number)
            });
        }
    }

    /// An attempt is given to a modem.
    pub(super) fn handed_over(&mut self, attempt: Attempt) {
        if !self.handed_over.insert(attempt) {
            self.violated("attempt_sent_once", || {
                format!("{} attempt {} is handed over again", attempt.message, attempt.number)
            });
        }
    }

    /// A session hands an attempt to its service: at most once ever, and in time.
    pub(super) fn submitted(&mut self, attempt: Attempt, now: Ms) {
        self.handed_over(attempt);
        self.in_time(attempt, now);
    }

    /// The first segment of an attempt goes out, or a service has taken it.
    pub(super) fn sent(&mut self, attempt: Attempt, now: Ms) {
        let (id, number) = (attempt.message, attempt.number);
        let Some(tracked) = self.messages.get_mut(&id) else {
            return self.violated("dispatched_after_commit", || format!("{id} is on the air, and unknown"));
        };
        let submission = &tracked.record.submission;
        let (duplicates, tenant, to) = (submission.duplicates, submission.tenant, submission.to);
        let others: Vec<u16> = tracked.on_air.iter().copied().collect();
        tracked.on_air.insert(number);
        let returned = tracked.returned.clone();
        if let Some(priority) = self.promises.priority_of(id) {
            self.written_to(tenant, to, priority, now);
        }
        for other in others {
            // A slow service may take an attempt after the one that followed it.
            let (one, later) = (other.min(number), other.max(number));
            let why = returned.get(&one).map_or("nothing", |why| &**why);
            let explained = DOUBTFUL.contains(&why) || why.starts_with("cms-");
            if why != GIVEN_UP && (duplicates == Duplicates::Never || !explained) {
                self.violated("no_unexplained_duplicate", || {
                    format!("{id} ({duplicates:?}): attempts {later} and {one}, which was taken back for {why}")
                });
            }
        }
    }

    /// A device lets a report go because the controller says it has it.
    pub(super) fn report_let_go(&mut self, device: DeviceId, report: &Report) {
        let missing = |attempt: &Attempt, is_missing: &dyn Fn(&MessageRecord) -> bool| {
            let tracked = self.messages.get(&attempt.message);
            let record = tracked.map(|tracked| &tracked.record).filter(|record| {
                record.attempt == attempt.number && record.route.is_some_and(|route| route.device == device)
            });
            record.is_some_and(is_missing)
        };
        let in_flight = |record: &MessageRecord| {
            record.state == MessageState::Dispatching || (record.state == MessageState::Unknown && !record.lost)
        };
        let lost = match &report.kind {
            ReportKind::Sent { attempt, .. }
            | ReportKind::NotSent { attempt, .. }
            | ReportKind::Failed { attempt, .. }
            | ReportKind::Unknown { attempt } => missing(attempt, &in_flight),
            ReportKind::Delivered { attempt, segment } => missing(attempt, &|record| {
                let seen = record.segments_delivered & (1 << segment) != 0;
                !seen && (in_flight(record) || record.state == MessageState::Sent)
            }),
            ReportKind::Undelivered { attempt, .. } => {
                missing(attempt, &|record| in_flight(record) || record.state == MessageState::Sent)
            }
            // An account's may have come before, at another position.
            ReportKind::Inbound(message) if self.is_account(device) => {
                message.text.parse().is_ok_and(|digest: u64| !self.inbound_runs.contains_key(&digest))
            }
            ReportKind::Inbound(_) => !self.inbound.contains_key(&(device, report.position)),
        };
        if lost {
            self.violated("report_acknowledged_after_commit", || {
                format!("{device} lets go {:?}, which is not in the journal", report.kind)
            });
        }
    }

    /// A modem forgets an inbound message because its device says it has it.
    pub(super) fn inbound_let_go(&mut self, digest: u64) {
        self.let_go.insert(digest);
    }

    /// A controller has told a maker that it has what it was told.
    pub(super) fn callback_answered(&mut self, digest: u64) {
        if !self.inbound_runs.contains_key(&digest) {
            self.violated("report_acknowledged_after_commit", || {
                format!("a callback about inbound message {digest} is answered, which is not in the journal")
            });
        }
        self.inbound_let_go(digest);
    }

    /// A message that only this gateway could send, long after the last fault: it got it.
    pub(super) fn probed(&mut self, (gateway, id): (DeviceId, Option<MessageId>)) {
        let attempts = id.and_then(|id| self.messages.get(&id)).map(|tracked| tracked.record.attempt);
        if attempts.is_none_or(|attempts| attempts == 0) {
            self.violated("the_fleet_works_again", || {
                format!("{gateway} got nothing of {id:?}: {attempts:?} attempts")
            });
        }
    }

    /// When everything has come to rest.
    pub(super) fn finally(&mut self, store: &Store) {
        for (id, tracked) in &self.messages {
            if tracked.record.is_open() {
                let detail = format!("{id} is {:?} long after its validity", tracked.record.state);
                return self.violated("every_message_ends", || detail);
            }
        }
        if let Some(lost) = self.promised.iter().find(|id| !self.messages.contains_key(id)) {
            let detail = format!("{lost} was promised");
            return self.violated("no_acknowledged_message_lost", || detail);
        }
        if let Some(lost) = self.let_go.iter().find(|digest| !self.inbound_runs.contains_key(digest)) {
            let detail = format!("inbound message {lost}");
            return self.violated("inbound_once", || detail);
        }
        let (rows, inbound) = store.scan();
        if rows.len() != self.messages.len() {
            let (rows, messages) = (rows.len(), self.messages.len());
            return self.violated("rows_equal_journal", || format!("{rows} rows, {messages} messages"));
        }
        for row in &rows {
            let id = row.submission.id;
            if self.messages.get(&id).is_none_or(|tracked| tracked.record != *row) {
                let detail = format!("{row:?} is {:?}", self.messages.get(&id).map(|tracked| &tracked.record));
                return self.violated("rows_equal_journal", || detail);
            }
        }
        let mut counts = Counts::default();
        rows.iter().for_each(|row| count_record(row, &mut counts));
        inbound.iter().for_each(|inbound| count_inbound(inbound, &mut counts));
        if counts != self.counts {
            return self.violated("aggregates_equal_journal", || "counted from rows and from the journal".into());
        }
        self.count_anew();
    }

    /// The aggregates against a count that shares no code with them.
    fn count_anew(&mut self) {
        let ended = |state: &str| self.by_state.get(state).copied().unwrap_or_default();
        let pairs = [
            (Counter::Accepted, self.messages.len() as u64),
            (Counter::Delivered, ended("delivered")),
            (Counter::Failed, ended("failed")),
            (Counter::Expired, ended("expired")),
            (Counter::Cancelled, ended("cancelled")),
            (Counter::Inbound, self.inbound.len() as u64),
        ];
        for (counter, expected) in pairs {
            let counted = self.counts.get(counter);
            if counted != expected {
                return self.violated("aggregates_equal_journal", || {
                    format!("{}: {counted} instead of {expected}", counter.as_str())
                });
            }
        }
    }
}
