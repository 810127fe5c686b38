//! For the tests of followers: random lives of messages as events, and a store in memory that can lose its past.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{DeviceId, Epoch, InboundId, MessageId, ProviderId, SenderId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Body, ErrorClass, TextEncoding};
use flotilla_routing::Micros;
use flotilla_routing::choice::Why;
use flotilla_routing::fact::Charge;
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::domain::event::{Accepted, Change, Changed, Event, EventKind, Facts, Inbound};
use crate::domain::message::{Duplicates, Failure, MessageState, Pin, Priority, Route, Submission};
use crate::domain::record::MessageRecord;
use crate::follow::FollowHandle;
use crate::store::{
    Batch, CommitError, Feed, Flush, InboundFilter, Journal, KeyUse, MessageFilter, OpenCount, Order, Page, Paged,
    QueuedQuery, Rows, Scan, StoreError, Tail,
};

/// An hour before midnight, so that a few hours of life fall on two days.
pub(crate) const START_MS: u64 = 1_763_640_000_000 / 86_400_000 * 86_400_000 + 82_800_000;

pub(crate) fn tenant(n: u8) -> TenantId {
    TenantId::new(u64::from(n), [n; 10])
}

pub(crate) fn route(n: u8) -> Route {
    Route::sim(DeviceId::new(1, [n; 10]), SimId::new(1, [n; 10]))
}

fn account(n: u8) -> Route {
    Route::provider(ProviderId::new(2, [n; 10]), SenderId::new(2, [n; 10]))
}

pub(crate) fn failure(code: &str) -> Failure {
    Failure { class: ErrorClass::Transient, code: code.into(), text: "".into() }
}

/// A message of one segment to Tanzania, normal priority, no campaign.
pub(crate) fn submission(tenant: TenantId, at_ms: u64, random: [u8; 10]) -> Submission {
    Submission {
        id: MessageId::new(at_ms, random),
        tenant,
        accepted_ms: at_ms,
        to: Msisdn::from_u64(255_712_345_678).unwrap(),
        body: Body::Text("hello".into()),
        encoding: TextEncoding::default(),
        flash: false,
        segments: 1,
        priority: Priority::Normal,
        duplicates: Duplicates::Never,
        pin: Pin::Any,
        due_ms: at_ms,
        expires_ms: at_ms + 86_400_000,
        campaign: "".into(),
        tags: Vec::new(),
        client_ref: None,
        sender: None,
        plan: None,
        max_cost: None,
        callback_url: None,
    }
}

pub(crate) fn accepted(submission: Submission) -> Event {
    let at_ms = submission.accepted_ms;
    Event { at_ms, kind: EventKind::Accepted(Box::new(Accepted { submission, idempotency: None })) }
}

pub(crate) fn changed(submission: &Submission, at_ms: u64, change: Change) -> Event {
    let changed = Changed {
        message: submission.id,
        tenant: submission.tenant,
        facts: Facts::of(submission),
        change,
        charge: None,
    };
    Event { at_ms, kind: EventKind::Changed(changed) }
}

/// The same change as the one with which segments have left.
pub(crate) fn charged(event: &Event, route: Route, cost: Micros) -> Event {
    let mut event = event.clone();
    let EventKind::Changed(changed) = &mut event.kind else { panic!("{event:?} is no change") };
    changed.charge = Some(Box::new(Charge {
        route,
        segments: changed.facts.segments,
        at_ms: event.at_ms,
        recipient: 0,
        cost,
        day: 0,
        tenant_day: 0,
        recipient_window_s: 0,
    }));
    event
}

/// The events of random messages of some tenants, in the order of time, from a seed.
pub(crate) fn lives(seed: u64, messages: usize) -> Vec<Event> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut events = Vec::new();
    for _ in 0..messages {
        match rng.random_ratio(1, 10) {
            true => events.push(random_inbound(&mut rng)),
            false => events.extend(random_life(&mut rng)),
        }
    }
    events.sort_by_key(|event| event.at_ms);
    events
}

fn random_inbound(rng: &mut StdRng) -> Event {
    let at_ms = START_MS + rng.random_range(0..7_200_000);
    let from = match rng.random_range(0..3) {
        0 => Address::Short("15555".into()),
        1 => Address::Alphanumeric("BANK".into()),
        _ => Address::International(Msisdn::from_u64(447_712_345_678).unwrap()),
    };
    let route = route(rng.random_range(0..4));
    let inbound = Inbound {
        id: InboundId::new(at_ms, rng.random()),
        tenant: tenant(rng.random_range(1..6)),
        device: route.device,
        sim: route.sim,
        position: rng.random_range(1..1_000),
        from,
        to: None,
        text: "hi".into(),
        segments: 1,
        sent_ms: None,
        received_ms: at_ms - rng.random_range(0..600_000),
    };
    Event { at_ms, kind: EventKind::Inbound(Box::new(inbound)) }
}

fn random_life(rng: &mut StdRng) -> Vec<Event> {
    let mut at_ms = START_MS + rng.random_range(0..3_600_000);
    let mut submission = submission(tenant(rng.random_range(1..6)), at_ms, rng.random());
    submission.segments = rng.random_range(1..4);
    submission.priority = *Priority::ALL.choose(rng).unwrap();
    submission.to =
        Msisdn::from_u64(*[255_712_345_678, 447_712_345_678, 870_773_111_632].choose(rng).unwrap()).unwrap();
    submission.campaign = (*["", "may", "june"].choose(rng).unwrap()).into();
    if rng.random_ratio(1, 4) {
        submission.due_ms += 1_800_000;
    }
    let mut record = MessageRecord::accepted(submission.clone(), at_ms, (1, 0));
    let mut events = vec![accepted(submission.clone())];
    // Some stop in the middle: messages are open when a rebuild comes.
    while record.is_open() && rng.random_ratio(19, 20) {
        at_ms += rng.random_range(0..1_500_000);
        for change in random_changes(&record, at_ms, rng) {
            record.apply(at_ms, &change);
            let leaves = matches!(change, Change::Sent { .. } | Change::Doubted { .. }) && !record.charged;
            let mut event = changed(&submission, at_ms, change);
            if let Some(route) = record.route.filter(|_| leaves) {
                event = charged(&event, route, Micros(rng.random_range(0..50_000)));
                record.charged = true;
            }
            events.push(event);
        }
    }
    events
}

/// What may come next: the same choices that a shard has.
fn random_changes(record: &MessageRecord, at_ms: u64, rng: &mut StdRng) -> Vec<Change> {
    let attempt = record.attempt;
    let on = record.route.unwrap_or(route(0));
    let dice = rng.random_range(0..10);
    let why = failure(["cms-38", "tp-status-70", "lease-over"].choose(rng).unwrap());
    let sent_ms = at_ms.saturating_sub(rng.random_range(0..30_000)).max(record.submission.accepted_ms);
    let delivered = |sent_ms| Change::Delivered { attempt, route: on, sent_ms, delivered_ms: at_ms };
    match record.state {
        MessageState::Scheduled if dice < 8 => vec![Change::Due],
        MessageState::Queued if dice < 8 => {
            vec![Change::Dispatched {
                attempt: attempt + 1,
                route: if rng.random_ratio(1, 3) {
                    account(rng.random_range(0..3))
                } else {
                    route(rng.random_range(0..4))
                },
                session: 7,
                why: Why::default(),
            }]
        }
        MessageState::Scheduled | MessageState::Queued if dice < 9 => vec![Change::Cancelled],
        MessageState::Scheduled | MessageState::Queued => vec![Change::Expired { attempt, route: None, why }],
        MessageState::Dispatching | MessageState::Unknown => match dice {
            0..2 => vec![Change::Returned { attempt, route: on, why, retry_ms: at_ms, undelivered: false }],
            2 if !record.lost => vec![Change::Doubted { attempt, route: on, lost: rng.random() }],
            3 => vec![Change::Failed { attempt, route: Some(on), why, undelivered: false }],
            4 if record.submission.segments == 1 => {
                vec![Change::Sent { attempt, route: on, sent_ms, took_ms: 0 }, delivered(sent_ms)]
            }
            _ => vec![Change::Sent { attempt, route: on, sent_ms, took_ms: 0 }],
        },
        _ => {
            let next = record.segments_delivered.count_ones() as u8;
            match dice {
                0 => vec![Change::Failed { attempt, route: Some(on), why, undelivered: false }],
                1 => vec![Change::Expired { attempt, route: Some(on), why }],
                _ if next + 1 < record.submission.segments => {
                    vec![Change::SegmentDelivered { attempt, route: on, segment: next }]
                }
                _ => vec![delivered(record.sent_ms.unwrap_or(sent_ms))],
            }
        }
    }
}

/// The records that events amount to.
pub(crate) fn records(events: &[Event]) -> (Vec<MessageRecord>, Vec<Inbound>) {
    let mut records = BTreeMap::new();
    let mut inbound = Vec::new();
    for event in events {
        match &event.kind {
            EventKind::Accepted(accepted) => {
                let record = MessageRecord::accepted(accepted.submission.clone(), event.at_ms, (1, 0));
                records.insert(accepted.submission.id, record);
            }
            EventKind::Changed(changed) => {
                let record = records.get_mut(&changed.message).unwrap();
                record.apply(event.at_ms, &changed.change);
                changed.charge.iter().for_each(|charge| record.charge(charge));
            }
            EventKind::Inbound(it) => inbound.push((**it).clone()),
        }
    }
    (records.into_values().collect(), inbound)
}

pub(crate) fn tenant_of(event: &Event) -> TenantId {
    match &event.kind {
        EventKind::Accepted(accepted) => accepted.submission.tenant,
        EventKind::Changed(changed) => changed.tenant,
        EventKind::Inbound(inbound) => inbound.tenant,
    }
}

/// Leads every shard of a follower under epoch 1.
pub(crate) fn lead_all(handle: &FollowHandle, shards: u16) {
    for shard in (0..shards).map(ShardId) {
        handle.coming(shard, Epoch(1));
        handle.lead(shard, Epoch(1));
    }
}

/// Journal and rows in memory. The rows show what [`MemoryStore::show_rows`] has let them see.
pub(crate) struct MemoryStore {
    inner: Mutex<Inner>,
    tail: Arc<Tail>,
    shards: u16,
    scans: AtomicU64,
}

struct Inner {
    journal: Vec<Vec<Batch>>,
    trimmed: Vec<u64>,
    rows: Vec<u64>,
}

impl MemoryStore {
    pub(crate) fn new(shards: u16) -> Arc<Self> {
        let n = usize::from(shards);
        let inner = Inner { journal: vec![Vec::new(); n], trimmed: vec![0; n], rows: vec![0; n] };
        // No batch stays in the tail, so that every read takes the way of `Journal::read`.
        Arc::new(Self { inner: Mutex::new(inner), tail: Tail::new(&vec![0; n], 0), shards, scans: AtomicU64::new(0) })
    }

    /// Commits a batch of one shard.
    pub(crate) fn append(&self, shard: ShardId, events: Vec<Event>) -> u64 {
        let mut inner = self.inner.lock();
        let batches = &mut inner.journal[usize::from(shard.0)];
        let seq = batches.len() as u64 + 1;
        let batch = Batch { shard, epoch: Epoch(1), seq, events: events.into() };
        batches.push(batch.clone());
        drop(inner);
        self.tail.publish([(batch, 1)]);
        seq
    }

    /// Commits events in batches of random sizes, those of each tenant in order.
    pub(crate) fn append_all(&self, events: &[Event], rng: &mut StdRng) {
        let mut open: BTreeMap<ShardId, Vec<Event>> = BTreeMap::new();
        for event in events {
            let shard = ShardId::of(tenant_of(event), self.shards);
            let batch = open.entry(shard).or_default();
            batch.push(event.clone());
            if rng.random_ratio(1, 4) {
                let batch = std::mem::take(batch);
                self.append(shard, batch);
            }
        }
        for (shard, batch) in open {
            self.append(shard, batch);
        }
    }

    /// Lets the rows follow to the end of the journal.
    pub(crate) fn show_rows(&self) {
        let mut inner = self.inner.lock();
        inner.rows = inner.journal.iter().map(|batches| batches.len() as u64).collect();
    }

    pub(crate) fn trim_all(&self) {
        let mut inner = self.inner.lock();
        inner.trimmed = inner.journal.iter().map(|batches| batches.len() as u64).collect();
    }

    /// Goes back to an older backup of everything.
    pub(crate) fn keep_only(&self, batches: usize) -> Arc<Self> {
        let older = Self::new(self.shards);
        for (shard, all) in (0u16..).zip(&self.inner.lock().journal) {
            for batch in all.iter().take(batches) {
                older.append(ShardId(shard), batch.events.to_vec());
            }
        }
        older.show_rows();
        older
    }

    pub(crate) fn batches(&self, shard: ShardId) -> Vec<Batch> {
        self.inner.lock().journal[usize::from(shard.0)].clone()
    }

    /// How often somebody has begun to read all rows.
    pub(crate) fn scans(&self) -> u64 {
        self.scans.load(Ordering::Acquire)
    }

    pub(crate) fn events(&self) -> Vec<Event> {
        let inner = self.inner.lock();
        inner.journal.iter().flatten().flat_map(|batch| batch.events.to_vec()).collect()
    }
}

impl Journal for MemoryStore {
    fn shards(&self) -> u16 {
        self.shards
    }

    fn epochs(&self) -> BoxFuture<'_, Result<Vec<Epoch>, StoreError>> {
        ready(Ok(vec![Epoch(1); usize::from(self.shards)])).boxed()
    }

    fn take(&self, shard: ShardId, _epoch: Epoch) -> BoxFuture<'_, Result<u64, CommitError>> {
        ready(Ok(self.tail.last(shard).unwrap())).boxed()
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), CommitError>> {
        self.append(batch.shard, batch.events.to_vec());
        ready(Ok(())).boxed()
    }

    fn read(&self, shard: ShardId, after_seq: u64, bytes_max: usize) -> BoxFuture<'_, Result<Vec<Batch>, StoreError>> {
        let inner = self.inner.lock();
        let up_to = inner.trimmed[usize::from(shard.0)];
        if after_seq < up_to {
            return ready(Err(StoreError::Trimmed { shard, up_to })).boxed();
        }
        let batches = inner.journal[usize::from(shard.0)].iter().skip(after_seq as usize);
        ready(Ok(batches.take(1 + bytes_max / 100_000).cloned().collect())).boxed()
    }

    fn last(&self, shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>> {
        ready(self.tail.last(shard)).boxed()
    }

    fn trim(&self, shard: ShardId, up_to_seq: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let trimmed = &mut self.inner.lock().trimmed[usize::from(shard.0)];
        *trimmed = up_to_seq.max(*trimmed);
        ready(Ok(())).boxed()
    }

    fn feed(&self) -> Feed {
        self.tail.feed()
    }
}

fn not_here<'a, T: Send + 'a>() -> BoxFuture<'a, Result<T, StoreError>> {
    ready(Err(StoreError::Unavailable("followers do not ask this".into()))).boxed()
}

struct MemoryScan {
    positions: Vec<u64>,
    messages: Vec<MessageRecord>,
    inbound: Vec<Inbound>,
}

impl Scan for MemoryScan {
    fn positions(&self) -> &[u64] {
        &self.positions
    }

    fn messages(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<MessageRecord>, StoreError>> {
        let n = limit.min(self.messages.len());
        ready(Ok(self.messages.drain(..n).collect())).boxed()
    }

    fn inbound(&mut self, limit: usize) -> BoxFuture<'_, Result<Vec<Inbound>, StoreError>> {
        let n = limit.min(self.inbound.len());
        ready(Ok(self.inbound.drain(..n).collect())).boxed()
    }
}

impl Rows for MemoryStore {
    fn positions(&self) -> BoxFuture<'_, Result<Vec<u64>, StoreError>> {
        ready(Ok(self.inner.lock().rows.clone())).boxed()
    }

    fn scan(&self, shard: Option<ShardId>) -> BoxFuture<'_, Result<Box<dyn Scan>, StoreError>> {
        self.scans.fetch_add(1, Ordering::AcqRel);
        let inner = self.inner.lock();
        let shards = (0u16..).zip(inner.journal.iter().zip(&inner.rows));
        let shards = shards.filter(|(number, _)| shard.is_none_or(|shard| shard.0 == *number));
        let shown = shards.flat_map(|(_, (batches, seq))| &batches[..*seq as usize]);
        let events: Vec<Event> = shown.flat_map(|batch| batch.events.to_vec()).collect();
        let (messages, inbound) = records(&events);
        let scan: Box<dyn Scan> = Box::new(MemoryScan { positions: inner.rows.clone(), messages, inbound });
        ready(Ok(scan)).boxed()
    }

    fn write(&self, _flush: Flush) -> BoxFuture<'_, Result<(), StoreError>> {
        not_here()
    }
    fn sync(&self) -> BoxFuture<'_, Result<(), StoreError>> {
        not_here()
    }
    fn get(&self, _: TenantId, _: MessageId) -> BoxFuture<'_, Result<Option<MessageRecord>, StoreError>> {
        not_here()
    }
    fn get_many(&self, _: Vec<MessageId>) -> BoxFuture<'_, Result<Vec<MessageRecord>, StoreError>> {
        not_here()
    }
    fn list(&self, _: TenantId, _: MessageFilter, _: Page) -> BoxFuture<'_, Result<Paged<MessageRecord>, StoreError>> {
        not_here()
    }
    fn inbound(&self, _: TenantId, _: InboundFilter, _: Page) -> BoxFuture<'_, Result<Paged<Inbound>, StoreError>> {
        not_here()
    }
    fn idempotent(&self, _: TenantId, _: [u8; 16], _: u64) -> BoxFuture<'_, Result<Option<KeyUse>, StoreError>> {
        not_here()
    }
    fn in_flight(&self, _: ShardId, _: Order, _: usize) -> BoxFuture<'_, Result<Vec<MessageRecord>, StoreError>> {
        not_here()
    }
    fn queued(&self, _: QueuedQuery) -> BoxFuture<'_, Result<Vec<MessageRecord>, StoreError>> {
        not_here()
    }
    fn due(&self, _: ShardId, _: u64, _: usize) -> BoxFuture<'_, Result<Vec<MessageRecord>, StoreError>> {
        not_here()
    }
    fn overdue(&self, _: ShardId, _: u64, _: usize) -> BoxFuture<'_, Result<Vec<MessageRecord>, StoreError>> {
        not_here()
    }
    fn open_counts(&self, _: ShardId) -> BoxFuture<'_, Result<Vec<OpenCount>, StoreError>> {
        not_here()
    }
    fn inbound_positions(&self, _: ShardId) -> BoxFuture<'_, Result<Vec<(DeviceId, u64)>, StoreError>> {
        not_here()
    }
}
