//! Used idempotency keys: by the hour they were used in, forgotten after a day.

use flotilla_protocol::id::{MessageId, TenantId};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::super::store_error;
use super::{int, load, number};
use crate::store::StoreError;
use crate::store::rows::{IDEMPOTENCY_MS, KeyUse};

const HOUR_MS: u64 = 3_600_000;
/// Hours that are looked at: a day, the hours at its ends, and some that a wild clock wrote.
const HOURS_MAX: usize = 32;
/// Forgotten with each flush: more than can come in one, so that the table shrinks.
const FORGET_MAX: usize = 20_000;

pub(super) fn find(
    connection: &Connection,
    tenant: TenantId,
    key: [u8; 16],
    since_ms: u64,
) -> Result<Option<KeyUse>, StoreError> {
    let Some(tenant) = load::tenant_number(connection, tenant)? else { return Ok(None) };
    in_hours(connection, tenant, key, since_ms).map_err(store_error)
}

/// Hops from each hour that has keys to the next; a key that was used again after its time is over is found at its last use.
fn in_hours(connection: &Connection, tenant: i64, key: [u8; 16], since_ms: u64) -> rusqlite::Result<Option<KeyUse>> {
    let mut next = connection.prepare_cached("SELECT hour FROM idempotency WHERE hour >= ?1 ORDER BY hour LIMIT 1")?;
    let mut select = connection.prepare_cached(
        "SELECT request, at_ms, messages FROM idempotency WHERE hour = ?1 AND tenant = ?2 AND key = ?3 AND at_ms >= ?4",
    )?;
    let mut found = None;
    let mut from = int(since_ms / HOUR_MS);
    for _ in 0..HOURS_MAX {
        let Some(hour) = next.query_row([from], |row| row.get::<_, i64>(0)).optional()? else { break };
        let here = select.query_row(params![hour, tenant, key, int(since_ms)], |row| {
            let messages: Vec<u8> = row.get(2)?;
            let (ids, _) = messages.as_chunks::<16>();
            let messages = ids.iter().map(|id| MessageId::from_bytes(*id)).collect();
            Ok(KeyUse { request: row.get(0)?, at_ms: number(row, 1)?, messages })
        });
        found = here.optional()?.or(found);
        from = hour.saturating_add(1);
    }
    Ok(found)
}

/// Every key that is remembered, a page at a time: `after` is the last one of the page before.
pub(in super::super) fn page(
    connection: &Connection,
    after: Option<&KeyPlace>,
    limit: usize,
) -> rusqlite::Result<Vec<(KeyPlace, TenantId, KeyUse)>> {
    let mut select = connection.prepare_cached(
        "SELECT i.hour, i.tenant, i.key, t.id, i.request, i.at_ms, i.messages FROM idempotency AS i
         JOIN tenant AS t ON t.n = i.tenant WHERE (i.hour, i.tenant, i.key) > (?1, ?2, ?3)
         ORDER BY i.hour, i.tenant, i.key LIMIT ?4",
    )?;
    let (hour, tenant, key) = after.copied().unwrap_or((-1, -1, [0; 16]));
    let found = select.query_map(params![hour, tenant, key, limit as i64], |row| {
        let messages: Vec<u8> = row.get(6)?;
        let (ids, _) = messages.as_chunks::<16>();
        let messages = ids.iter().map(|id| MessageId::from_bytes(*id)).collect();
        let used = KeyUse { request: row.get(4)?, at_ms: number(row, 5)?, messages };
        Ok(((row.get(0)?, row.get(1)?, row.get(2)?), TenantId::from_bytes(row.get(3)?), used))
    })?;
    found.collect()
}

/// Hour, tenant's number, key.
pub(in super::super) type KeyPlace = (i64, i64, [u8; 16]);

pub(super) fn remember(
    transaction: &Transaction<'_>,
    tenant: i64,
    key: &[u8; 16],
    used: &KeyUse,
) -> rusqlite::Result<()> {
    let mut insert =
        transaction.prepare_cached("INSERT OR REPLACE INTO idempotency VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
    let messages: Vec<u8> = used.messages.iter().flat_map(|id| id.to_bytes()).collect();
    insert.execute(params![int(used.at_ms / HOUR_MS), tenant, key, used.request, int(used.at_ms), messages])?;
    Ok(())
}

/// Forgets a part of what is too old.
pub(super) fn forget(transaction: &Transaction<'_>, now_ms: u64) -> rusqlite::Result<()> {
    let oldest = now_ms.saturating_sub(IDEMPOTENCY_MS + HOUR_MS) / HOUR_MS;
    let sql = "DELETE FROM idempotency WHERE (hour, tenant, key) IN
        (SELECT hour, tenant, key FROM idempotency WHERE hour < ?1 LIMIT ?2)";
    transaction.prepare_cached(sql)?.execute(params![int(oldest), FORGET_MAX as i64])?;
    Ok(())
}
