//! What shards and followers load: by id, by state and order, by time.

use flotilla_protocol::id::{DeviceId, MessageId, ShardId, TenantId};
use tokio_postgres::Row;

use super::super::session::{Failure, Session, bytes, id, int, number, signed};
use super::{Found, load_limit};
use crate::domain::message::{MessageState, Priority};
use crate::domain::record::MessageRecord;
use crate::store::rows::{KeyUse, OpenCount, Order, QueuedQuery};
use crate::store::search::class_code;
use crate::store::{LOAD_MAX, StoreError, codec};

pub(super) async fn positions(session: &mut Session) -> Found<Vec<u64>> {
    let rows = session.query("SELECT position FROM rows_shard ORDER BY shard", &[]).await?;
    Ok(Ok(rows.iter().map(|row| number(row, 0)).collect::<Result<_, _>>()?))
}

pub(super) async fn get(session: &mut Session, tenant: TenantId, message: MessageId) -> Found<Option<MessageRecord>> {
    let sql = "SELECT record FROM message WHERE id = $1 AND tenant = $2";
    let rows = session.query(sql, &[&message.to_bytes().as_slice(), &tenant.to_bytes().as_slice()]).await?;
    Ok(records(&rows)?.map(|mut found| found.pop()))
}

pub(super) async fn get_many(session: &mut Session, messages: Vec<MessageId>) -> Found<Vec<MessageRecord>> {
    let ids: Vec<[u8; 16]> = messages.into_iter().take(LOAD_MAX).map(MessageId::to_bytes).collect();
    let ids: Vec<&[u8]> = ids.iter().map(|id| id.as_slice()).collect();
    records(&session.query("SELECT record FROM message WHERE id = ANY($1)", &[&ids]).await?)
}

pub(super) async fn in_flight(
    session: &mut Session,
    shard: ShardId,
    after: Order,
    limit: usize,
) -> Found<Vec<MessageRecord>> {
    let sql = "SELECT m.record FROM (
            SELECT o.id, o.seq, o.place FROM unnest($2::bigint[]) AS s (state) CROSS JOIN LATERAL (
                SELECT id, seq, place FROM message_open WHERE shard = $1 AND state = s.state AND (seq, place) > ($3, $4)
                ORDER BY seq, place LIMIT $5
            ) AS o ORDER BY o.seq, o.place LIMIT $5
        ) AS f JOIN message AS m ON m.id = f.id ORDER BY f.seq, f.place";
    let states = [MessageState::Dispatching, MessageState::Unknown].map(|state| i64::from(state.code())).to_vec();
    let (shard, seq, place) = (i64::from(shard.0), int(after.0), i64::from(after.1));
    records(&session.query(sql, &[&shard, &states, &seq, &place, &load_limit(limit)]).await?)
}

pub(super) async fn queued(session: &mut Session, query: QueuedQuery) -> Found<Vec<MessageRecord>> {
    let QueuedQuery { shard, tenant, class, after, limit } = query;
    let classes = class.as_ref().map_or(Priority::ALL.as_slice(), std::slice::from_ref);
    let classes: Vec<i64> = classes.iter().map(|class| class_code(*class).into()).collect();
    let (shard, state) = (i64::from(shard.0), i64::from(MessageState::Queued.code()));
    let (seq, place, limit) = (int(after.0), i64::from(after.1), load_limit(limit));
    let rows = match tenant {
        Some(tenant) => {
            let sql = "SELECT m.record FROM (
                    SELECT o.id, o.seq, o.place FROM unnest($3::bigint[]) AS c (class) CROSS JOIN LATERAL (
                        SELECT id, seq, place FROM message_open WHERE shard = $1 AND state = $2 AND class = c.class
                        AND tenant = $7 AND (seq, place) > ($4, $5) ORDER BY seq, place LIMIT $6
                    ) AS o ORDER BY o.seq, o.place LIMIT $6
                ) AS f JOIN message AS m ON m.id = f.id ORDER BY f.seq, f.place";
            let tenant = tenant.to_bytes();
            session.query(sql, &[&shard, &state, &classes, &seq, &place, &limit, &tenant.as_slice()]).await?
        }
        None => {
            let sql = "SELECT m.record FROM (
                    SELECT id, seq, place FROM message_open WHERE shard = $1 AND state = $2 AND class = ANY($3)
                    AND (seq, place) > ($4, $5) ORDER BY seq, place LIMIT $6
                ) AS f JOIN message AS m ON m.id = f.id ORDER BY f.seq, f.place";
            session.query(sql, &[&shard, &state, &classes, &seq, &place, &limit]).await?
        }
    };
    records(&rows)
}

pub(super) async fn due(
    session: &mut Session,
    shard: ShardId,
    until_ms: u64,
    limit: usize,
) -> Found<Vec<MessageRecord>> {
    let sql = "SELECT m.record FROM (
            SELECT id, next_try_ms FROM message_open WHERE state = 1 AND shard = $1 AND next_try_ms <= $2
            ORDER BY next_try_ms LIMIT $3
        ) AS f JOIN message AS m ON m.id = f.id ORDER BY f.next_try_ms";
    records(&session.query(sql, &[&i64::from(shard.0), &int(until_ms), &load_limit(limit)]).await?)
}

pub(super) async fn overdue(
    session: &mut Session,
    shard: ShardId,
    now_ms: u64,
    limit: usize,
) -> Found<Vec<MessageRecord>> {
    let sql = "SELECT m.record FROM (
            SELECT id, expires_ms FROM message_open WHERE shard = $1 AND expires_ms <= $2 ORDER BY expires_ms LIMIT $3
        ) AS f JOIN message AS m ON m.id = f.id ORDER BY f.expires_ms";
    records(&session.query(sql, &[&i64::from(shard.0), &int(now_ms), &load_limit(limit)]).await?)
}

pub(super) async fn open_counts(session: &mut Session, shard: ShardId) -> Found<Vec<OpenCount>> {
    let sql = "SELECT tenant, class, state, count(*) FROM message_open WHERE shard = $1 GROUP BY tenant, class, state";
    let rows = session.query(sql, &[&i64::from(shard.0)]).await?;
    let mut counts = Vec::with_capacity(rows.len());
    for row in &rows {
        let (class, state) = (signed(row, 1)?, signed(row, 2)?);
        let class = Priority::ALL.into_iter().find(|known| i64::from(class_code(*known)) == class);
        let state = u8::try_from(state).ok().and_then(MessageState::from_code);
        let Some((class, state)) = class.zip(state) else {
            let detail = "its class or state is unknown; it needs a newer program".into();
            return Ok(Err(StoreError::Damaged { what: "a message row".into(), detail }));
        };
        counts.push(OpenCount { tenant: TenantId::from_bytes(id(row, 0)?), class, state, messages: number(row, 3)? });
    }
    Ok(Ok(counts))
}

pub(super) async fn inbound_positions(session: &mut Session, shard: ShardId) -> Found<Vec<(DeviceId, u64)>> {
    let sql = "SELECT device, position FROM inbound_position WHERE shard = $1";
    let rows = session.query(sql, &[&i64::from(shard.0)]).await?;
    let positions = rows.iter().map(|row| Ok::<_, Failure>((DeviceId::from_bytes(id(row, 0)?), number(row, 1)?)));
    Ok(Ok(positions.collect::<Result<_, _>>()?))
}

pub(super) async fn idempotent(
    session: &mut Session,
    tenant: TenantId,
    key: [u8; 16],
    since_ms: u64,
) -> Found<Option<KeyUse>> {
    let sql = "SELECT request, at_ms, messages FROM idempotency WHERE tenant = $1 AND key = $2 AND at_ms >= $3";
    let rows = session.query(sql, &[&tenant.to_bytes().as_slice(), &key.as_slice(), &int(since_ms)]).await?;
    let used = rows.first().map(|row| {
        let (ids, _) = bytes(row, 2)?.as_chunks::<16>();
        let messages = ids.iter().map(|id| MessageId::from_bytes(*id)).collect();
        Ok::<_, Failure>(KeyUse { request: id(row, 0)?, at_ms: number(row, 1)?, messages })
    });
    Ok(Ok(used.transpose()?))
}

fn records(rows: &[Row]) -> Found<Vec<MessageRecord>> {
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        match codec::decode_record(bytes(row, 0)?) {
            Ok(record) => found.push(record),
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(found))
}
