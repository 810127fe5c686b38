//! The rows of the memory store.

use std::collections::BTreeMap;

use flotilla_protocol::id::{DeviceId, InboundId, MessageId, ShardId, TenantId};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::MemoryStore;
use crate::domain::event::Inbound;
use crate::domain::message::MessageState;
use crate::domain::record::MessageRecord;
use crate::store::{
    Cursor, Flush, IDEMPOTENCY_MS, InboundFilter, KeyUse, LIMIT_MAX, LOAD_MAX, MessageFilter, OpenCount, Order, Page,
    Paged, QueuedQuery, Rows, Scan, StoreError,
};

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

pub(super) struct RowSet {
    positions: Vec<u64>,
    messages: BTreeMap<MessageId, Row>,
    inbound: Vec<(ShardId, Inbound)>,
    keys: BTreeMap<(TenantId, [u8; 16]), KeyUse>,
    /// Counts new rows.
    next: u64,
}

struct Row {
    shard: ShardId,
    /// Place in the order in which the rows were first written.
    number: u64,
    record: MessageRecord,
}

impl RowSet {
    pub(super) fn new(shards: u16) -> Self {
        Self {
            positions: vec![0; usize::from(shards)],
            messages: BTreeMap::new(),
            inbound: Vec::new(),
            keys: BTreeMap::new(),
            next: 0,
        }
    }

    fn write(&mut self, flush: Flush) -> Result<(), StoreError> {
        let shards = self.positions.len();
        if let Some((shard, _)) = flush.positions.iter().find(|(shard, _)| usize::from(shard.0) >= shards) {
            return Err(StoreError::NoSuchShard { shard: *shard });
        }
        for &(shard, position) in &flush.positions {
            let there = self.positions[usize::from(shard.0)];
            if position < there {
                return Err(StoreError::Behind { shard, position: there });
            }
        }
        for &(shard, base) in &flush.bases {
            let there = self.positions.get(usize::from(shard.0)).copied().unwrap_or_default();
            if base != there {
                return Err(StoreError::Behind { shard, position: there });
            }
        }
        for upsert in flush.messages {
            let record = (*upsert.record).clone();
            let next = &mut self.next;
            let row = self.messages.entry(record.submission.id).or_insert_with(|| {
                *next += 1;
                Row { shard: upsert.shard, number: *next, record: record.clone() }
            });
            row.record = record;
        }
        for (shard, inbound) in flush.inbound {
            if self.inbound.iter().all(|(_, known)| known.id != inbound.id) {
                self.inbound.push((shard, inbound));
            }
        }
        for (tenant, key, used) in flush.keys {
            self.keys.insert((tenant, key), used);
        }
        self.keys.retain(|_, used| used.at_ms + IDEMPOTENCY_MS >= flush.now_ms);
        for (shard, position) in flush.positions {
            self.positions[usize::from(shard.0)] = position;
        }
        Ok(())
    }

    /// The records of a shard that match, by a key.
    fn select<K: Ord>(
        &self,
        shard: ShardId,
        limit: usize,
        matches: impl Fn(&MessageRecord) -> bool,
        key: impl Fn(&MessageRecord) -> K,
    ) -> Vec<MessageRecord> {
        let rows = self.messages.values().filter(|row| row.shard == shard && matches(&row.record));
        let mut found: Vec<&MessageRecord> = rows.map(|row| &row.record).collect();
        found.sort_by_key(|record| key(record));
        found.into_iter().take(limit.min(LOAD_MAX)).cloned().collect()
    }

    fn list(&self, tenant: TenantId, filter: &MessageFilter, page: &Page) -> Result<Paged<MessageRecord>, StoreError> {
        let mut rows: Vec<&Row> = self.messages.values().filter(|row| row.record.submission.tenant == tenant).collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.number));
        let id = |row: &&Row| row.record.submission.id;
        let from = after(&rows, page.cursor, |row| Cursor::of_message(id(row)))?;
        let found = rows[from..].iter().filter(|row| fits(&row.record, filter));
        Ok(paged(found.copied(), page.limit, |row| Cursor::of_message(id(&row)), |row| row.record.clone()))
    }

    fn inbound(&self, tenant: TenantId, filter: &InboundFilter, page: &Page) -> Result<Paged<Inbound>, StoreError> {
        let rows: Vec<&Inbound> =
            self.inbound.iter().rev().map(|(_, inbound)| inbound).filter(|inbound| inbound.tenant == tenant).collect();
        let cursor = |id: InboundId| Cursor::of_inbound(id);
        let from = after(&rows, page.cursor, |row| cursor(row.id))?;
        let fits = |row: &&&Inbound| {
            filter.device.is_none_or(|device| device == row.device)
                && filter.sim.is_none_or(|sim| sim == row.sim)
                && filter.from.as_ref().is_none_or(|from| *from == row.from)
                && filter.from_ms.is_none_or(|from_ms| row.received_ms >= from_ms)
                && filter.until_ms.is_none_or(|until_ms| row.received_ms < until_ms)
        };
        let found = rows[from..].iter().filter(fits).copied();
        Ok(paged(found, page.limit, |row| cursor(row.id), Inbound::clone))
    }

    fn open_counts(&self, shard: ShardId) -> Vec<OpenCount> {
        let mut counts: Vec<OpenCount> = Vec::new();
        for row in self.messages.values().filter(|row| row.shard == shard && row.record.is_open()) {
            let submission = &row.record.submission;
            let mut one = OpenCount {
                tenant: submission.tenant,
                class: submission.priority,
                state: row.record.state,
                messages: 1,
            };
            let known = counts
                .iter_mut()
                .find(|known| (known.tenant, known.class, known.state) == (one.tenant, one.class, one.state));
            match known {
                Some(known) => known.messages += 1,
                None => {
                    one.messages = 1;
                    counts.push(one);
                }
            }
        }
        counts
    }
}

/// Where a list goes on.
fn after<T>(rows: &[T], cursor: Option<Cursor>, of: impl Fn(&T) -> Cursor) -> Result<usize, StoreError> {
    let Some(cursor) = cursor else { return Ok(0) };
    rows.iter().position(|row| of(row) == cursor).map(|place| place + 1).ok_or(StoreError::Cursor)
}

fn paged<'a, R: 'a, T>(
    mut found: impl Iterator<Item = &'a R>,
    limit: usize,
    cursor: impl Fn(&'a R) -> Cursor,
    value: impl Fn(&R) -> T,
) -> Paged<T> {
    let page: Vec<&R> = found.by_ref().take(limit.clamp(1, LIMIT_MAX)).collect();
    let last = page.last().map(|row| cursor(row));
    Paged { items: page.into_iter().map(value).collect(), next: found.next().and(last) }
}

fn fits(record: &MessageRecord, filter: &MessageFilter) -> bool {
    let submission = &record.submission;
    (filter.states.is_empty() || filter.states.contains(&record.state))
        && filter.to.is_none_or(|to| to == submission.to)
        && filter.sim.is_none_or(|sim| record.route.is_some_and(|route| route.sim == sim))
        && filter.device.is_none_or(|device| record.route.is_some_and(|route| route.device == device))
        && filter.campaign.as_ref().is_none_or(|campaign| *campaign == submission.campaign)
        && filter.tag.as_ref().is_none_or(|tag| submission.tags.contains(tag))
        && filter.client_ref.as_ref().is_none_or(|wanted| submission.client_ref.as_ref() == Some(wanted))
        && filter.priority.is_none_or(|class| class == submission.priority)
        && filter.from_ms.is_none_or(|from_ms| submission.accepted_ms >= from_ms)
        && filter.until_ms.is_none_or(|until_ms| submission.accepted_ms < until_ms)
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

    fn messages(&mut self, limit: usize) -> Answer<'_, Vec<MessageRecord>> {
        let count = limit.min(self.messages.len());
        ready(Ok(self.messages.drain(..count).collect())).boxed()
    }

    fn inbound(&mut self, limit: usize) -> Answer<'_, Vec<Inbound>> {
        let count = limit.min(self.inbound.len());
        ready(Ok(self.inbound.drain(..count).collect())).boxed()
    }
}

impl MemoryStore {
    fn ask<'a, T: Send + 'a>(&self, ask: impl FnOnce(&mut RowSet) -> Result<T, StoreError>) -> Answer<'a, T> {
        ready(self.check().and_then(|()| ask(&mut self.shared.rows.lock()))).boxed()
    }
}

impl Rows for MemoryStore {
    fn positions(&self) -> Answer<'_, Vec<u64>> {
        self.ask(|rows| Ok(rows.positions.clone()))
    }

    fn write(&self, flush: Flush) -> Answer<'_, ()> {
        self.ask(|rows| rows.write(flush))
    }

    fn sync(&self) -> Answer<'_, ()> {
        self.ask(|_| Ok(()))
    }

    fn get(&self, tenant: TenantId, message: MessageId) -> Answer<'_, Option<MessageRecord>> {
        self.ask(|rows| {
            let record = rows.messages.get(&message).map(|row| &row.record);
            Ok(record.filter(|record| record.submission.tenant == tenant).cloned())
        })
    }

    fn get_many(&self, messages: Vec<MessageId>) -> Answer<'_, Vec<MessageRecord>> {
        self.ask(|rows| {
            let found = messages.iter().filter_map(|id| rows.messages.get(id));
            Ok(found.take(LOAD_MAX).map(|row| row.record.clone()).collect())
        })
    }

    fn list(&self, tenant: TenantId, filter: MessageFilter, page: Page) -> Answer<'_, Paged<MessageRecord>> {
        self.ask(|rows| rows.list(tenant, &filter, &page))
    }

    fn inbound(&self, tenant: TenantId, filter: InboundFilter, page: Page) -> Answer<'_, Paged<Inbound>> {
        self.ask(|rows| rows.inbound(tenant, &filter, &page))
    }

    fn idempotent(&self, tenant: TenantId, key: [u8; 16], since_ms: u64) -> Answer<'_, Option<KeyUse>> {
        self.ask(|rows| Ok(rows.keys.get(&(tenant, key)).filter(|used| used.at_ms >= since_ms).cloned()))
    }

    fn in_flight(&self, shard: ShardId, after: Order, limit: usize) -> Answer<'_, Vec<MessageRecord>> {
        let open = |state| matches!(state, MessageState::Dispatching | MessageState::Unknown);
        self.ask(|rows| {
            Ok(rows.select(shard, limit, |record| open(record.state) && record.order > after, |record| record.order))
        })
    }

    fn queued(&self, query: QueuedQuery) -> Answer<'_, Vec<MessageRecord>> {
        self.ask(|rows| {
            let matches = |record: &MessageRecord| {
                record.state == MessageState::Queued
                    && record.order > query.after
                    && query.tenant.is_none_or(|tenant| tenant == record.submission.tenant)
                    && query.class.is_none_or(|class| class == record.submission.priority)
            };
            Ok(rows.select(query.shard, query.limit, matches, |record| record.order))
        })
    }

    fn due(&self, shard: ShardId, until_ms: u64, limit: usize) -> Answer<'_, Vec<MessageRecord>> {
        self.ask(|rows| {
            let matches =
                |record: &MessageRecord| record.state == MessageState::Scheduled && record.next_try_ms <= until_ms;
            Ok(rows.select(shard, limit, matches, |record| record.next_try_ms))
        })
    }

    fn overdue(&self, shard: ShardId, now_ms: u64, limit: usize) -> Answer<'_, Vec<MessageRecord>> {
        self.ask(|rows| {
            let matches = |record: &MessageRecord| record.is_open() && record.submission.expires_ms <= now_ms;
            Ok(rows.select(shard, limit, matches, |record| record.submission.expires_ms))
        })
    }

    fn open_counts(&self, shard: ShardId) -> Answer<'_, Vec<OpenCount>> {
        self.ask(|rows| Ok(rows.open_counts(shard)))
    }

    fn inbound_positions(&self, shard: ShardId) -> Answer<'_, Vec<(DeviceId, u64)>> {
        self.ask(|rows| {
            let mut last: BTreeMap<DeviceId, u64> = BTreeMap::new();
            for (_, inbound) in rows.inbound.iter().filter(|(of, _)| *of == shard) {
                let position = last.entry(inbound.device).or_default();
                *position = inbound.position.max(*position);
            }
            Ok(last.into_iter().collect())
        })
    }

    fn scan(&self, shard: Option<ShardId>) -> Answer<'_, Box<dyn Scan>> {
        self.ask(|rows| {
            let wanted = |of: ShardId| shard.is_none_or(|shard| shard == of);
            let mut messages: Vec<&Row> = rows.messages.values().filter(|row| wanted(row.shard)).collect();
            messages.sort_by_key(|row| row.number);
            let inbound = rows.inbound.iter().filter(|(of, _)| wanted(*of));
            Ok(Box::new(MemoryScan {
                positions: rows.positions.clone(),
                messages: messages.into_iter().map(|row| row.record.clone()).collect(),
                inbound: inbound.map(|(_, inbound)| inbound.clone()).collect(),
            }) as Box<dyn Scan>)
        })
    }
}
