//! What shards and followers load: by id, by state and order, by time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flotilla_protocol::id::{DeviceId, MessageId, ShardId, TenantId};
use rusqlite::{Connection, OptionalExtension, Params, params};

use super::super::store_error;
use super::{int, load_limit, number};
use crate::domain::message::{MessageState, Priority};
use crate::domain::record::MessageRecord;
use crate::store::rows::{OpenCount, Order, QueuedQuery};
use crate::store::search::class_code;
use crate::store::{LOAD_MAX, StoreError, codec};

/// Rows taken from one queue before the others are looked at again.
const MERGE_STEP: usize = 64;

pub(super) fn positions(connection: &Connection) -> Result<Vec<u64>, StoreError> {
    all(connection, "SELECT position FROM shard ORDER BY id", [], |row| number(row, 0))
}

/// How many shards there are.
pub(super) fn shards(connection: &Connection) -> Result<u16, StoreError> {
    let count = || connection.prepare_cached("SELECT count(*) FROM shard")?.query_row([], |row| row.get(0));
    count().map_err(store_error)
}

pub(super) fn tenant_number(connection: &Connection, tenant: TenantId) -> Result<Option<i64>, StoreError> {
    let find = || {
        let mut select = connection.prepare_cached("SELECT n FROM tenant WHERE id = ?1")?;
        select.query_row([tenant.to_bytes()], |row| row.get(0)).optional()
    };
    find().map_err(store_error)
}

pub(super) fn get(
    connection: &Connection,
    tenant: TenantId,
    message: MessageId,
) -> Result<Option<MessageRecord>, StoreError> {
    let record = by_id(connection, message)?;
    Ok(record.filter(|record| record.submission.tenant == tenant))
}

pub(super) fn get_many(connection: &Connection, messages: Vec<MessageId>) -> Result<Vec<MessageRecord>, StoreError> {
    let found = messages.into_iter().take(LOAD_MAX).map(|message| by_id(connection, message));
    found.filter_map(Result::transpose).collect()
}

fn by_id(connection: &Connection, message: MessageId) -> Result<Option<MessageRecord>, StoreError> {
    let find = || {
        let mut select = connection.prepare_cached("SELECT record FROM message WHERE id = ?1")?;
        select.query_row([message.to_bytes()], record).optional()
    };
    find().map_err(store_error)?.transpose()
}

pub(super) fn in_flight(
    connection: &Connection,
    shard: ShardId,
    after: Order,
    limit: usize,
) -> Result<Vec<MessageRecord>, StoreError> {
    let states = [MessageState::Dispatching, MessageState::Unknown];
    merged(connection, shard, &queues(connection, shard, &states, &Priority::ALL, None)?, after, limit)
}

pub(super) fn queued(connection: &Connection, query: QueuedQuery) -> Result<Vec<MessageRecord>, StoreError> {
    let QueuedQuery { shard, tenant, class, after, limit } = query;
    let tenant = match tenant {
        Some(tenant) => match tenant_number(connection, tenant)? {
            Some(n) => Some(n),
            None => return Ok(Vec::new()),
        },
        None => None,
    };
    let classes = class.as_ref().map_or(Priority::ALL.as_slice(), std::slice::from_ref);
    let queues = queues(connection, shard, &[MessageState::Queued], classes, tenant)?;
    merged(connection, shard, &queues, after, limit)
}

/// The index of open messages has one run of rows for each of these, in the order of acceptance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    pub state: u8,
    pub class: u8,
    pub tenant: i64,
}

/// The queues that exist; those of all tenants are found by hopping from one to the next.
fn queues(
    connection: &Connection,
    shard: ShardId,
    states: &[MessageState],
    classes: &[Priority],
    tenant: Option<i64>,
) -> Result<Vec<Queue>, StoreError> {
    let sql = "SELECT tenant FROM message INDEXED BY message_open WHERE state <= 5 AND shard = ?1 AND state = ?2 AND class = ?3 AND tenant > ?4
        ORDER BY tenant LIMIT 1";
    let mut queues = Vec::new();
    for state in states {
        for class in classes {
            let (state, class) = (state.code(), class_code(*class));
            if let Some(tenant) = tenant {
                queues.push(Queue { state, class, tenant });
                continue;
            }
            let mut next = connection.prepare_cached(sql).map_err(store_error)?;
            let mut tenant = 0;
            while let Some(found) = next
                .query_row(params![shard.0, state, class, tenant], |row| row.get(0))
                .optional()
                .map_err(store_error)?
            {
                tenant = found;
                queues.push(Queue { state, class, tenant });
            }
        }
    }
    Ok(queues)
}

/// The oldest rows of several queues, by a merge of their heads: reads at most a step more of each queue than it gives.
fn merged(
    connection: &Connection,
    shard: ShardId,
    queues: &[Queue],
    after: Order,
    limit: usize,
) -> Result<Vec<MessageRecord>, StoreError> {
    let limit = load_limit(limit);
    let step = if queues.len() == 1 { limit } else { MERGE_STEP.min(limit) };
    // (order, row, place of the queue, the last one that was read of it)
    let mut heads = BinaryHeap::new();
    for (place, queue) in queues.iter().enumerate() {
        push_heads(connection, shard, *queue, place, after, step, &mut heads)?;
    }
    let mut rows = Vec::new();
    while rows.len() < limit
        && let Some(Reverse((order, n, place, last))) = heads.pop()
    {
        rows.push(n);
        if last {
            push_heads(connection, shard, queues[place], place, order, step, &mut heads)?;
        }
    }
    rows.into_iter().map(|n| by_number(connection, n)).filter_map(Result::transpose).collect()
}

type Head = Reverse<(Order, i64, usize, bool)>;

fn push_heads(
    connection: &Connection,
    shard: ShardId,
    queue: Queue,
    place: usize,
    after: Order,
    step: usize,
    heads: &mut BinaryHeap<Head>,
) -> Result<(), StoreError> {
    let sql = "SELECT seq, place, n FROM message INDEXED BY message_open WHERE state <= 5 AND shard = ?1 AND state = ?2 AND class = ?3
        AND tenant = ?4 AND (seq, place) > (?5, ?6) ORDER BY seq, place LIMIT ?7";
    let params = params![shard.0, queue.state, queue.class, queue.tenant, int(after.0), after.1, step as i64];
    let found: Vec<(u64, u32, i64)> =
        all(connection, sql, params, |row| Ok((number(row, 0)?, row.get(1)?, row.get(2)?)))?;
    let full = found.len() == step;
    let end = found.len();
    for (i, (seq, index, n)) in found.into_iter().enumerate() {
        heads.push(Reverse(((seq, index), n, place, full && i + 1 == end)));
    }
    Ok(())
}

pub(super) fn by_number(connection: &Connection, n: i64) -> Result<Option<MessageRecord>, StoreError> {
    let find = || {
        let mut select = connection.prepare_cached("SELECT record FROM message WHERE n = ?1")?;
        select.query_row([n], record).optional()
    };
    find().map_err(store_error)?.transpose()
}

pub(super) fn due(
    connection: &Connection,
    shard: ShardId,
    until_ms: u64,
    limit: usize,
) -> Result<Vec<MessageRecord>, StoreError> {
    let sql = "SELECT record FROM message INDEXED BY message_due WHERE state = 1 AND shard = ?1 AND next_try_ms <= ?2
        ORDER BY next_try_ms LIMIT ?3";
    all(connection, sql, params![shard.0, int(until_ms), load_limit(limit) as i64], record)?.into_iter().collect()
}

pub(super) fn overdue(
    connection: &Connection,
    shard: ShardId,
    now_ms: u64,
    limit: usize,
) -> Result<Vec<MessageRecord>, StoreError> {
    let sql =
        "SELECT record FROM message INDEXED BY message_overdue WHERE state <= 5 AND shard = ?1 AND expires_ms <= ?2
        ORDER BY expires_ms LIMIT ?3";
    all(connection, sql, params![shard.0, int(now_ms), load_limit(limit) as i64], record)?.into_iter().collect()
}

pub(super) fn open_counts(connection: &Connection, shard: ShardId) -> Result<Vec<OpenCount>, StoreError> {
    let sql = "SELECT t.id, c.class, c.state, c.messages FROM
        (SELECT state, class, tenant, count(*) AS messages FROM message INDEXED BY message_open
         WHERE state <= 5 AND shard = ?1 GROUP BY state, class, tenant) AS c
        JOIN tenant AS t ON t.n = c.tenant";
    let found = all(connection, sql, [shard.0], |row| {
        Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, u8>(1)?, row.get::<_, u8>(2)?, number(row, 3)?))
    })?;
    let counts = found.into_iter().map(|(tenant, class, state, messages)| {
        let class = Priority::ALL.into_iter().find(|known| class_code(*known) == class);
        let (class, state) = class.zip(MessageState::from_code(state)).ok_or_else(|| StoreError::Damaged {
            what: "a message row".into(),
            detail: "its class or state is unknown; it needs a newer program".into(),
        })?;
        Ok(OpenCount { tenant: TenantId::from_bytes(tenant), class, state, messages })
    });
    counts.collect()
}

pub(super) fn inbound_positions(connection: &Connection, shard: ShardId) -> Result<Vec<(DeviceId, u64)>, StoreError> {
    let sql = "SELECT device, position FROM inbound_position WHERE shard = ?1";
    all(connection, sql, [shard.0], |row| Ok((DeviceId::from_bytes(row.get(0)?), number(row, 1)?)))
}

/// Reads the first column as a record. The outer error is the engine's, the inner one the record's own.
fn record(row: &rusqlite::Row<'_>) -> rusqlite::Result<Result<MessageRecord, StoreError>> {
    Ok(codec::decode_record(row.get_ref(0)?.as_blob()?))
}

fn all<T>(
    connection: &Connection,
    sql: &str,
    params: impl Params,
    read: impl FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
) -> Result<Vec<T>, StoreError> {
    let select = || {
        let mut select = connection.prepare_cached(sql)?;
        select.query_map(params, read)?.collect::<rusqlite::Result<_>>()
    };
    select().map_err(store_error)
}
