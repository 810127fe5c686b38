//! Writes what the rows follower gives: one transaction for each flush, in two ways to the server and back.
//!
//! Several controllers write, each for the shards that it leads, and a former leader may come late. The shards' rows are locked
//! first, in their order; a flush that is behind for one of them is refused as a whole. All followers read the same journal, and
//! each flush has everything since that follower's last one; so rows that are at a position contain all before it.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, MessageId, ShardId, TenantId};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio_postgres::Statement;

use super::super::session::{BULK, Connector, Failure, Params, Session, bytes, id, int, number, signed};
use super::{Found, HOUR_MS, House, hour_of};
use crate::domain::event::Inbound;
use crate::store::rows::{Flush, IDEMPOTENCY_MS, KeyUse};
use crate::store::search::{self, Property, class_code};
use crate::store::{StoreError, codec};

/// Forgotten with each flush: more than can come in one, so that the table shrinks.
const FORGET_MAX: i64 = 20_000;
/// A transaction that another was in the way of is begun again.
const COLLISIONS_MAX: u32 = 5;
/// Hours that are known to be noted.
const HOURS_MAX: usize = 10_000;

pub(super) struct RowsWriter {
    connector: Connector,
    house: Arc<House>,
    session: Option<Session>,
    hours: FxHashSet<i64>,
}

impl RowsWriter {
    pub(super) fn new(connector: Connector, house: Arc<House>) -> Self {
        Self { connector, house, session: None, hours: FxHashSet::default() }
    }

    pub(super) async fn write(&mut self, flush: &Flush) -> Result<(), StoreError> {
        let encoded = Encoded::new(flush)?;
        self.house.make_weeks(&encoded.weeks()).await?;
        let mut tries = 0;
        loop {
            let mut session = match self.session.take().filter(|session| !session.is_closed()) {
                Some(session) => session,
                None => {
                    let mut session = self.connector.connect().await?;
                    session.patient(BULK).await?;
                    session
                }
            };
            match transact(&mut session, &encoded, flush, &self.hours).await {
                Ok(Err(error)) => {
                    if session.batch("ROLLBACK").await.is_ok() {
                        self.session = Some(session);
                    }
                    return Err(error);
                }
                Ok(Ok(hours)) => {
                    self.session = Some(session);
                    if self.hours.len() > HOURS_MAX {
                        self.hours.clear();
                    }
                    self.hours.extend(hours);
                    return Ok(());
                }
                Err(failure) => {
                    if failure.spares_connection() && session.batch("ROLLBACK").await.is_ok() {
                        self.session = Some(session);
                    }
                    if !failure.collided() || tries == COLLISIONS_MAX {
                        return Err(failure.into());
                    }
                    tries += 1;
                }
            }
        }
    }
}

/// A flush as the database gets it: each message once, in its last form.
struct Encoded<'a> {
    messages: Vec<Message<'a>>,
    inbound: Vec<(ShardId, &'a Inbound, Vec<u8>)>,
}

struct Message<'a> {
    upsert: &'a crate::store::Upsert,
    id: [u8; 16],
    blob: Vec<u8>,
}

impl<'a> Encoded<'a> {
    fn new(flush: &'a Flush) -> Result<Self, StoreError> {
        let failed = |error: postcard::Error| StoreError::Unavailable(error.to_string());
        let mut places: FxHashMap<MessageId, usize> = FxHashMap::default();
        let mut messages: Vec<Message<'a>> = Vec::with_capacity(flush.messages.len());
        for upsert in &flush.messages {
            let message = upsert.record.submission.id;
            let blob = codec::encode_record(&upsert.record).map_err(failed)?;
            let encoded = Message { upsert, id: message.to_bytes(), blob };
            match places.entry(message) {
                std::collections::hash_map::Entry::Occupied(place) => messages[*place.get()] = encoded,
                std::collections::hash_map::Entry::Vacant(place) => {
                    place.insert(messages.len());
                    messages.push(encoded);
                }
            }
        }
        let inbound = flush
            .inbound
            .iter()
            .map(|(shard, inbound)| Ok((*shard, inbound, codec::encode_inbound(inbound).map_err(failed)?)));
        Ok(Self { messages, inbound: inbound.collect::<Result<_, StoreError>>()? })
    }

    fn weeks(&self) -> FxHashSet<i64> {
        self.messages.iter().map(|message| House::week_of(message.id)).collect()
    }
}

const BEGIN: &str = "BEGIN";
const LOCK: &str = "SELECT shard, position FROM rows_shard WHERE shard = ANY($1) ORDER BY shard FOR UPDATE";
const KNOWN: &str = "SELECT id FROM message WHERE id = ANY($1)";
const MESSAGES: &str = "INSERT INTO message (id, shard, tenant, state, record)
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bytea[])
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, record = excluded.record";
const OPEN: &str = "INSERT INTO message_open (id, shard, tenant, state, class, seq, place, next_try_ms, expires_ms)
    SELECT * FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[], $9::bigint[])
    ON CONFLICT (id) DO UPDATE SET state = excluded.state, next_try_ms = excluded.next_try_ms";
const ENDED: &str = "DELETE FROM message_open WHERE id = ANY($1)";
const TERMS: &str = "INSERT INTO message_term (hour, property, id)
    SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) ON CONFLICT DO NOTHING";
const HOURS: &str = "INSERT INTO message_hour (hour) SELECT * FROM unnest($1::bigint[]) ON CONFLICT DO NOTHING";
const INBOUND: &str = "INSERT INTO inbound (id, shard, tenant, received_ms, record)
    SELECT i.id, i.shard, i.tenant, i.received_ms, i.record
    FROM unnest($1::bytea[], $2::bigint[], $3::bytea[], $4::bigint[], $5::bytea[]) WITH ORDINALITY
        AS i (id, shard, tenant, received_ms, record, place) ORDER BY i.place
    ON CONFLICT (id) DO NOTHING RETURNING n, id";
const INBOUND_TERMS: &str = "INSERT INTO inbound_term (property, n)
    SELECT * FROM unnest($1::bigint[], $2::bigint[]) ON CONFLICT DO NOTHING";
const INBOUND_POSITIONS: &str = "INSERT INTO inbound_position (shard, device, position)
    SELECT * FROM unnest($1::bigint[], $2::bytea[], $3::bigint[])
    ON CONFLICT (shard, device) DO UPDATE SET position = greatest(inbound_position.position, excluded.position)";
const KEYS: &str = "INSERT INTO idempotency (tenant, key, hour, request, at_ms, messages)
    SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bigint[], $4::bytea[], $5::bigint[], $6::bytea[])
    ON CONFLICT (tenant, key) DO UPDATE SET hour = excluded.hour, request = excluded.request, at_ms = excluded.at_ms,
        messages = excluded.messages WHERE excluded.at_ms >= idempotency.at_ms";
const FORGET: &str = "DELETE FROM idempotency WHERE (tenant, key) IN
    (SELECT tenant, key FROM idempotency WHERE hour < $1 LIMIT $2 FOR UPDATE SKIP LOCKED)";
const POSITIONS: &str = "UPDATE rows_shard AS s SET position = i.position
    FROM unnest($1::bigint[], $2::bigint[]) AS i (shard, position) WHERE s.shard = i.shard";

/// Answers the hours that are noted now.
async fn transact(
    session: &mut Session,
    encoded: &Encoded<'_>,
    flush: &Flush,
    hours: &FxHashSet<i64>,
) -> Found<Vec<i64>> {
    let known = match begin(session, encoded, flush).await? {
        Ok(known) => known,
        Err(behind) => return Ok(Err(behind)),
    };
    let mut statements = Statements::default();
    let hours = messages_of(session, &encoded.messages, &known, hours, &mut statements).await?;
    if !encoded.inbound.is_empty() {
        inbound_of(session, &encoded.inbound, &mut statements).await?;
    }
    if !flush.keys.is_empty() {
        keys_of(session, &flush.keys, &mut statements).await?;
    }
    let oldest = int(flush.now_ms.saturating_sub(IDEMPOTENCY_MS + HOUR_MS) / HOUR_MS);
    statements.add(session, FORGET, vec![b(oldest), b(FORGET_MAX)]).await?;
    let moved = flush.positions.iter().map(|(shard, at)| (i64::from(shard.0), int(*at)));
    let (shards, positions): (Vec<i64>, Vec<i64>) = moved.unzip();
    statements.add(session, POSITIONS, vec![b(shards), b(positions)]).await?;
    statements.commit(session).await?;
    Ok(Ok(hours))
}

/// Locks the shards that move, and tells which messages are there; unless the rows of a shard have gone further, or are not
/// those that the flush was built on.
async fn begin(session: &mut Session, encoded: &Encoded<'_>, flush: &Flush) -> Found<FxHashSet<[u8; 16]>> {
    let (lock, exists) = (session.prepare(LOCK, &[]).await?, session.prepare(KNOWN, &[]).await?);
    let shards: Vec<i64> = flush.positions.iter().map(|(shard, _)| i64::from(shard.0)).collect();
    let asked: Vec<&[u8]> = encoded.messages.iter().filter(|m| !m.upsert.new).map(|m| m.id.as_slice()).collect();
    let ask: Params<'_> = &[&asked];
    let locking: Params<'_> = &[&shards];
    // All three are sent before the first is answered.
    let (_, locked, known) = session
        .within(async {
            let client = &session.client;
            futures_util::try_join!(
                client.batch_execute(BEGIN),
                client.query(&lock, locking),
                client.query(&exists, ask)
            )
        })
        .await?;
    for row in &locked {
        let (shard, position) = (signed(row, 0)?, number(row, 1)?);
        let mut late = flush.positions.iter().filter(|(_, at)| *at < position);
        let mut built_on_others = flush.bases.iter().filter(|(_, base)| *base != position);
        let is_it = |(moved, _): &&(ShardId, u64)| i64::from(moved.0) == shard;
        if let Some((shard, _)) = late.find(is_it).or_else(|| built_on_others.find(is_it)) {
            return Ok(Err(StoreError::Behind { shard: *shard, position }));
        }
    }
    Ok(Ok(known.iter().map(|row| id(row, 0)).collect::<Result<_, _>>()?))
}

type Param = Box<dyn tokio_postgres::types::ToSql + Sync + Send>;

/// Statements that are sent together.
#[derive(Default)]
struct Statements(Vec<(Statement, Vec<Param>)>);

impl Statements {
    async fn add(&mut self, session: &mut Session, sql: &'static str, params: Vec<Param>) -> Result<(), Failure> {
        let statement = session.prepare(sql, &[]).await?;
        self.0.push((statement, params));
        Ok(())
    }

    /// Sends all and the COMMIT behind them. After an error of one the server ignores the rest, and the first error is told.
    async fn commit(self, session: &Session) -> Result<(), Failure> {
        let client = &session.client;
        let all = self.0.iter().map(|(statement, params)| async move {
            client
                .execute_raw(
                    statement,
                    params.iter().map(|param| &**param as &(dyn tokio_postgres::types::ToSql + Sync)),
                )
                .await
        });
        let all = async {
            let (_, ()) = futures_util::try_join!(
                futures_util::future::try_join_all(all.collect::<Vec<_>>()),
                client.batch_execute("COMMIT")
            )?;
            Ok(())
        };
        session.within(all).await
    }
}

async fn messages_of(
    session: &mut Session,
    messages: &[Message<'_>],
    known: &FxHashSet<[u8; 16]>,
    noted: &FxHashSet<i64>,
    statements: &mut Statements,
) -> Result<Vec<i64>, Failure> {
    let mut all = MessageColumns::default();
    let (mut open, mut ended, mut terms) = (OpenColumns::default(), Vec::new(), TermColumns::default());
    let mut hours = FxHashSet::default();
    for Message { upsert, id, blob } in messages {
        let (record, shard) = (&*upsert.record, i64::from(upsert.shard.0));
        let (submission, tenant) = (&record.submission, record.submission.tenant.to_bytes().to_vec());
        all.0.push(id.to_vec());
        all.1.push(shard);
        all.2.push(tenant.clone());
        all.3.push(record.state.code().into());
        all.4.push(blob.clone());
        if record.is_open() {
            open.0.push(id.to_vec());
            open.1.push(shard);
            open.2.push(tenant);
            open.3.push(record.state.code().into());
            open.4.push(class_code(submission.priority).into());
            open.5.push(int(record.order.0));
            open.6.push(record.order.1.into());
            open.7.push(int(record.next_try_ms));
            open.8.push(int(submission.expires_ms));
        } else {
            ended.push(id.to_vec());
        }
        let hour = hour_of(*id);
        let fixed = (upsert.new || !known.contains(id)).then(|| search::of_new_message(record));
        // A tenant's own list goes by another index.
        let tenants = Property::tenant(submission.tenant);
        let fixed = fixed.into_iter().flatten().filter(|property| *property != tenants);
        for property in fixed.chain(search::of_any_message(record)) {
            terms.0.push(hour);
            terms.1.push(property.0.into());
            terms.2.push(id.to_vec());
        }
        hours.insert(hour);
    }
    let hours: Vec<i64> = hours.into_iter().filter(|hour| !noted.contains(hour)).collect();
    if all.0.is_empty() {
        return Ok(hours);
    }
    statements.add(session, MESSAGES, vec![b(all.0), b(all.1), b(all.2), b(all.3), b(all.4)]).await?;
    if !open.0.is_empty() {
        let OpenColumns(id, shard, tenant, state, class, seq, place, next_try, expires) = open;
        let params = vec![b(id), b(shard), b(tenant), b(state), b(class), b(seq), b(place), b(next_try), b(expires)];
        statements.add(session, OPEN, params).await?;
    }
    if !ended.is_empty() {
        statements.add(session, ENDED, vec![b(ended)]).await?;
    }
    statements.add(session, TERMS, vec![b(terms.0), b(terms.1), b(terms.2)]).await?;
    if !hours.is_empty() {
        statements.add(session, HOURS, vec![b(hours.clone())]).await?;
    }
    Ok(hours)
}

type Numbers = Vec<i64>;
type Blobs = Vec<Vec<u8>>;

#[derive(Default)]
struct MessageColumns(Blobs, Numbers, Blobs, Numbers, Blobs);
#[derive(Default)]
struct OpenColumns(Blobs, Numbers, Blobs, Numbers, Numbers, Numbers, Numbers, Numbers, Numbers);
#[derive(Default)]
struct TermColumns(Numbers, Numbers, Blobs);

fn b<T: tokio_postgres::types::ToSql + Sync + Send + 'static>(value: T) -> Param {
    Box::new(value)
}

async fn inbound_of(
    session: &mut Session,
    inbound: &[(ShardId, &Inbound, Vec<u8>)],
    statements: &mut Statements,
) -> Result<(), Failure> {
    let mut positions: FxHashMap<(ShardId, DeviceId), u64> = FxHashMap::default();
    let mut all = (Blobs::new(), Numbers::new(), Blobs::new(), Numbers::new(), Blobs::new());
    for (shard, inbound, blob) in inbound {
        let position = positions.entry((*shard, inbound.device)).or_default();
        *position = inbound.position.max(*position);
        all.0.push(inbound.id.to_bytes().to_vec());
        all.1.push(shard.0.into());
        all.2.push(inbound.tenant.to_bytes().to_vec());
        all.3.push(int(inbound.received_ms));
        all.4.push(blob.clone());
    }
    let rows = session.query(INBOUND, &[&all.0, &all.1, &all.2, &all.3, &all.4]).await?;
    let (mut properties, mut numbers) = (Numbers::new(), Numbers::new());
    for row in &rows {
        let (n, id) = (signed(row, 0)?, bytes(row, 1)?);
        let Some((_, inbound, _)) = inbound.iter().find(|(_, inbound, _)| inbound.id.to_bytes() == id) else {
            continue;
        };
        for property in search::of_inbound(inbound) {
            properties.push(property.0.into());
            numbers.push(n);
        }
    }
    statements.add(session, INBOUND_TERMS, vec![b(properties), b(numbers)]).await?;
    let (mut shards, mut devices, mut at) = (Numbers::new(), Blobs::new(), Numbers::new());
    for ((shard, device), position) in positions {
        shards.push(shard.0.into());
        devices.push(device.to_bytes().to_vec());
        at.push(int(position));
    }
    statements.add(session, INBOUND_POSITIONS, vec![b(shards), b(devices), b(at)]).await
}

async fn keys_of(
    session: &mut Session,
    keys: &[(TenantId, [u8; 16], KeyUse)],
    statements: &mut Statements,
) -> Result<(), Failure> {
    let mut last: FxHashMap<(TenantId, [u8; 16]), &KeyUse> = FxHashMap::default();
    for (tenant, key, used) in keys {
        let known = last.entry((*tenant, *key)).or_insert(used);
        if used.at_ms >= known.at_ms {
            *known = used;
        }
    }
    let mut all = (Blobs::new(), Blobs::new(), Numbers::new(), Blobs::new(), Numbers::new(), Blobs::new());
    for ((tenant, key), used) in last {
        all.0.push(tenant.to_bytes().to_vec());
        all.1.push(key.to_vec());
        all.2.push(int(used.at_ms / HOUR_MS));
        all.3.push(used.request.to_vec());
        all.4.push(int(used.at_ms));
        all.5.push(used.messages.iter().flat_map(|id| id.to_bytes()).collect());
    }
    statements.add(session, KEYS, vec![b(all.0), b(all.1), b(all.2), b(all.3), b(all.4), b(all.5)]).await
}
