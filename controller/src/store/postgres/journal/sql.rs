//! The journal's statements. Each is a transaction of its own: one way to the server and back, and no lock is ever held while
//! we think, or stand still.

use flotilla_protocol::id::{Epoch, ShardId};
use tokio_postgres::Row;

use super::super::session::{Failure, Session, bytes, number, signed};
use super::writer::{Append, Take};
use crate::store::{Batch, CommitError, StoreError, codec};

/// Sequences are below this everywhere: SQLite's keys have room for no more.
const SEQ_MAX: u64 = 1 << 48;
/// Rows that one read looks at.
const READ_ROWS: i64 = 4_096;

/// What the database knows of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ShardRow {
    pub shard: ShardId,
    pub epoch: u64,
    pub session: i64,
    pub last: u64,
}

fn shard(row: &Row, column: usize) -> Result<ShardId, Failure> {
    let shard = signed(row, column)?;
    u16::try_from(shard).map(ShardId).map_err(|_| Failure::Strange(format!("there is a shard {shard}")))
}

fn shard_row(row: &Row) -> Result<ShardRow, Failure> {
    let (epoch, session, last) = (number(row, 1)?, signed(row, 2)?, number(row, 3)?);
    Ok(ShardRow { shard: shard(row, 0)?, epoch, session, last })
}

/// A number for a connection that appends, higher than all before.
pub(super) async fn next_session(session: &mut Session) -> Result<i64, Failure> {
    let sql = "UPDATE journal_session SET last = last + 1 WHERE id = 0 RETURNING last";
    let rows = session.query(sql, &[]).await?;
    rows.first().map_or(Err(Failure::Strange("journal_session is empty".into())), |row| signed(row, 0))
}

/// Moves our shards from former connections to this one. Statements that are still on their way over those find nothing to
/// append to from now on; one that is at work is waited for.
pub(super) async fn adopt(session: &mut Session, own: i64, former: &[i64]) -> Result<Vec<ShardRow>, Failure> {
    let sql = "UPDATE journal_shard SET session = $1 WHERE session = ANY($2) RETURNING shard, epoch, session, last";
    session.query(sql, &[&own, &former]).await?.iter().map(shard_row).collect()
}

/// Appends what may be appended; answers the shards of those batches. At most one batch of each shard.
pub(super) async fn append(session: &mut Session, own: i64, batches: &[Append]) -> Result<Vec<ShardId>, Failure> {
    let sql = "WITH input AS (
            SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]) AS t (shard, epoch, seq, payload)
        ), moved AS (
            UPDATE journal_shard AS s SET last = i.seq, bytes = s.bytes + octet_length(i.payload) FROM input AS i
            WHERE s.shard = i.shard AND s.epoch = i.epoch AND s.session = $5 AND s.last = i.seq - 1
            RETURNING s.shard
        )
        INSERT INTO journal_batch (shard, seq, epoch, payload)
        SELECT i.shard, i.seq, i.epoch, i.payload FROM input AS i JOIN moved AS m ON m.shard = i.shard
        RETURNING shard";
    let known = batches.iter().filter(|append| (1..SEQ_MAX).contains(&append.batch.seq));
    let (mut shards, mut epochs, mut seqs, mut payloads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for Append { batch, payload, .. } in known {
        shards.push(i64::from(batch.shard.0));
        epochs.push(batch.epoch.0.cast_signed());
        seqs.push(batch.seq.cast_signed());
        payloads.push(payload.as_slice());
    }
    if shards.is_empty() {
        return Ok(Vec::new());
    }
    let rows = session.query(sql, &[&shards, &epochs, &seqs, &payloads, &own]).await?;
    rows.iter().map(|row| shard(row, 0)).collect()
}

/// A shard that was taken, and what the window needs to know of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Taken {
    pub shard: ShardId,
    pub last: u64,
    pub trimmed: u64,
    pub bytes: u64,
}

/// Takes what may be taken. Each shard at most once.
pub(super) async fn take(session: &mut Session, own: i64, takes: &[Take]) -> Result<Vec<Taken>, Failure> {
    // With the same epoch, the younger connection wins: a call that comes late over an old one changes nothing.
    let sql = "UPDATE journal_shard AS s SET epoch = i.epoch, session = $3
        FROM unnest($1::bigint[], $2::bigint[]) AS i (shard, epoch) JOIN journal_trim AS t ON t.shard = i.shard
        WHERE s.shard = i.shard AND (s.epoch < i.epoch OR (s.epoch = i.epoch AND s.session <= $3))
        RETURNING s.shard, s.last, t.trimmed, s.bytes - t.bytes";
    let shards: Vec<i64> = takes.iter().map(|take| i64::from(take.shard.0)).collect();
    let epochs: Vec<i64> = takes.iter().map(|take| take.epoch.0.cast_signed()).collect();
    let rows = session.query(sql, &[&shards, &epochs, &own]).await?;
    let taken = rows.iter().map(|row| {
        Ok(Taken { shard: shard(row, 0)?, last: number(row, 1)?, trimmed: number(row, 2)?, bytes: number(row, 3)? })
    });
    taken.collect()
}

pub(super) async fn states(session: &mut Session, shards: &[ShardId]) -> Result<Vec<ShardRow>, Failure> {
    let sql = "SELECT shard, epoch, session, last FROM journal_shard WHERE shard = ANY($1)";
    let shards: Vec<i64> = shards.iter().map(|shard| i64::from(shard.0)).collect();
    session.query(sql, &[&shards]).await?.iter().map(shard_row).collect()
}

pub(super) async fn all(session: &mut Session) -> Result<Vec<ShardRow>, Failure> {
    let sql = "SELECT shard, epoch, session, last FROM journal_shard ORDER BY shard";
    session.query(sql, &[]).await?.iter().map(shard_row).collect()
}

/// Whether this very batch is there.
pub(super) async fn has(session: &mut Session, batch: &Batch) -> Result<bool, Failure> {
    let sql = "SELECT epoch FROM journal_batch WHERE shard = $1 AND seq = $2";
    let (shard, seq) = (i64::from(batch.shard.0), batch.seq.cast_signed());
    let rows = session.query(sql, &[&shard, &seq]).await?;
    rows.first().map_or(Ok(false), |row| Ok(number(row, 0)? == batch.epoch.0))
}

/// Why a batch or a take was not let in.
pub(super) fn refusal(row: &ShardRow, own: i64, epoch: Epoch) -> CommitError {
    let ShardRow { shard, epoch: current, session, last } = *row;
    if current == epoch.0 && session == own {
        CommitError::OutOfOrder { shard, expected: last + 1 }
    } else {
        CommitError::Fenced { shard, epoch: Epoch(current) }
    }
}

/// The batches after a sequence up to `last`, as the trait's `read` gives them.
pub(super) async fn read(
    session: &mut Session,
    shard: ShardId,
    after: u64,
    last: u64,
    bytes_max: usize,
) -> Result<Result<Vec<Batch>, StoreError>, Failure> {
    if after >= last {
        return Ok(Ok(Vec::new()));
    }
    let sql = "SELECT seq, epoch, payload FROM (
            SELECT seq, epoch, payload, sum(octet_length(payload)) OVER (ORDER BY seq)::bigint AS total FROM (
                SELECT seq, epoch, payload FROM journal_batch WHERE shard = $1 AND seq > $2 AND seq <= $3
                ORDER BY seq LIMIT $5
            ) AS part
        ) AS counted WHERE total <= $4 OR total = octet_length(payload) ORDER BY seq";
    let bytes_max = i64::try_from(bytes_max).unwrap_or(i64::MAX);
    let (from, to) = (after.cast_signed(), last.min(SEQ_MAX).cast_signed());
    let rows = session.query(sql, &[&i64::from(shard.0), &from, &to, &bytes_max, &READ_ROWS]).await?;
    let mut batches = Vec::with_capacity(rows.len());
    for row in &rows {
        let (seq, epoch) = (number(row, 0)?, Epoch(number(row, 1)?));
        let expected = after + 1 + batches.len() as u64;
        if seq != expected {
            return Ok(Err(match batches.is_empty() {
                true => StoreError::Trimmed { shard, up_to: seq - 1 },
                false => damaged(shard, expected, "it is not there"),
            }));
        }
        let events = match codec::decode_events(bytes(row, 2)?) {
            Ok(events) => events,
            Err(error) => return Ok(Err(damaged(shard, seq, error))),
        };
        batches.push(Batch { shard, epoch, seq, events });
    }
    if batches.is_empty() {
        return Ok(Err(StoreError::Trimmed { shard, up_to: last }));
    }
    Ok(Ok(batches))
}

fn damaged(shard: ShardId, seq: u64, detail: impl ToString) -> StoreError {
    StoreError::Damaged { what: format!("batch {seq} of shard {shard}"), detail: detail.to_string() }
}

/// Deletes batches from the oldest on, as long as the budget lasts. Answers how far it came, and how many bytes are left.
pub(super) async fn delete(
    session: &mut Session,
    shard: ShardId,
    up_to: u64,
    budget: u64,
) -> Result<Option<(u64, u64)>, Failure> {
    let sql = "WITH old AS (
            SELECT seq, octet_length(payload) AS bytes, sum(octet_length(payload)) OVER (ORDER BY seq) AS total FROM (
                SELECT seq, payload FROM journal_batch WHERE shard = $1 AND seq <= $2 ORDER BY seq LIMIT 1024
            ) AS part
        ), few AS (
            SELECT seq, bytes FROM old WHERE total - bytes < $3
        ), gone AS (
            DELETE FROM journal_batch WHERE shard = $1 AND seq IN (SELECT seq FROM few)
        )
        UPDATE journal_trim AS t SET trimmed = f.seq, bytes = t.bytes + f.bytes
        FROM (SELECT max(seq) AS seq, sum(bytes)::bigint AS bytes FROM few) AS f, journal_shard AS s
        WHERE t.shard = $1 AND s.shard = $1 AND f.seq IS NOT NULL RETURNING t.trimmed, s.bytes - t.bytes";
    let (number_of, up_to, budget) = (i64::from(shard.0), up_to.cast_signed(), budget.cast_signed());
    let rows = session.query(sql, &[&number_of, &up_to, &budget]).await?;
    rows.first().map(|row| Ok((number(row, 0)?, number(row, 1)?))).transpose()
}
