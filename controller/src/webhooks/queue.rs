//! What waits for endpoints, in the catalog, and how far each shard's journal has been taken: both in one transaction.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, MessageId, ShardId, WebhookId};

use super::courier::{LineId, Parcel, Place, Verdict};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx, Value};

/// Parcels in one INSERT.
const ROWS_OF_INSERT: usize = 100;
/// How long parcels that were given up can be looked at and sent again.
pub(super) const DEAD_MS: u64 = 30 * 86_400_000;
const ERROR_BYTES_MAX: usize = 300;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum QueueError {
    /// Another controller leads the shard.
    #[error("shard {0} is led under a later epoch")]
    Fenced(ShardId),
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// What became of a parcel.
#[derive(Clone, Debug)]
pub(super) struct Settled {
    pub(super) webhook: WebhookId,
    pub(super) place: Place,
    pub(super) verdict: Verdict,
    pub(super) at_ms: u64,
    pub(super) error: Option<Box<str>>,
}

/// One parcel as people look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    pub place: (u64, u32),
    pub shard: u16,
    pub kind: String,
    pub at_ms: u64,
    pub attempts: u16,
    pub next_ms: u64,
    pub dead_ms: Option<u64>,
    pub last_error: Option<String>,
}

/// Which events to send again; all that were given up, unless something is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Again {
    /// Given up at this time or later, and before that one; of those that wait: happened.
    pub since_ms: u64,
    pub until_ms: Option<u64>,
    /// What happened to this message.
    pub message: Option<MessageId>,
    /// These; any when empty.
    pub places: Vec<(u64, u32)>,
    /// Also those that wait for their next try.
    pub waiting: bool,
}

#[derive(Clone)]
pub(super) struct Queue {
    catalog: Arc<dyn Catalog>,
}

impl Queue {
    pub(super) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog }
    }

    /// Takes shards under these epochs; from now on lower ones cannot write. Their positions.
    pub(super) async fn gain(&self, shards: Vec<(ShardId, Epoch)>) -> Result<Vec<u64>, QueueError> {
        self.catalog
            .run(move |tx| {
                let mut positions = Vec::with_capacity(shards.len());
                for (shard, epoch) in &shards {
                    let sql = "INSERT INTO webhook_positions (shard, epoch, position) VALUES ($1, $2, 0)
                        ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch
                        WHERE webhook_positions.epoch <= excluded.epoch";
                    if tx.execute(sql, sql_params![shard.0, epoch.0])? == 0 {
                        return Err(QueueError::Fenced(*shard));
                    }
                    let sql = "SELECT position FROM webhook_positions WHERE shard = $1";
                    positions.push(tx.query_one(sql, sql_params![shard.0])?.map_or(Ok(0), |row| row.at(0))?);
                }
                Ok(positions)
            })
            .await
    }

    /// New parcels, and the positions up to which they are complete.
    pub(super) async fn write(
        &self,
        positions: Vec<(ShardId, Epoch, u64)>,
        parcels: Vec<(ShardId, WebhookId, Parcel)>,
    ) -> Result<(), QueueError> {
        self.catalog
            .run(move |tx| {
                for (shard, epoch, position) in positions {
                    let sql = "UPDATE webhook_positions SET position = $1 WHERE shard = $2 AND epoch = $3";
                    if tx.execute(sql, sql_params![position, shard.0, epoch.0])? == 0 {
                        return Err(QueueError::Fenced(shard));
                    }
                }
                parcels.chunks(ROWS_OF_INSERT).try_for_each(|some| insert(tx, some))?;
                Ok(())
            })
            .await
    }

    /// The next parcels of a line that wait, behind a place.
    pub(super) async fn load(&self, line: LineId, after: Place, limit: usize) -> Result<Vec<Parcel>, SqlError> {
        self.catalog
            .read(move |tx| {
                let sql =
                    "SELECT seq, place, lane, subject, kind, at_ms, since_ms, data, attempts, next_ms FROM webhook_parcels
                    WHERE webhook = $1 AND dead = 0 AND lane = $2 AND (seq > $3 OR (seq = $4 AND place > $5))
                    AND seq < $6 ORDER BY seq, place LIMIT $7";
                let (webhook, lane, end) = (line.webhook.to_bytes(), line.lane, line.end().seq);
                let params = sql_params![webhook, lane, after.seq, after.seq, after.index, end, limit as u64];
                tx.query(sql, params)?.iter().map(parcel).collect()
            })
            .await
    }

    pub(super) async fn settle(&self, settled: Vec<Settled>) -> Result<(), SqlError> {
        self.catalog
            .run(move |tx| {
                for one in settled {
                    settle(tx, &one)?;
                }
                Ok(())
            })
            .await
    }

    /// Those that wait, the first ones first, or those that were given up, the last ones first; after a place.
    pub(super) async fn list(
        &self,
        webhook: WebhookId,
        dead: bool,
        after: Option<Place>,
        limit: usize,
    ) -> Result<Vec<Waiting>, SqlError> {
        self.catalog
            .read(move |tx| {
                let (beyond, order, start) = if dead {
                    ("<", "DESC", Place { seq: i64::MAX as u64, index: u32::MAX })
                } else {
                    (">", "ASC", Place { seq: 0, index: 0 })
                };
                let sql = format!(
                    "SELECT seq, place, shard, kind, at_ms, attempts, next_ms, dead_ms, last_error FROM webhook_parcels
                    WHERE webhook = $1 AND dead = $2 AND (seq {beyond} $3 OR (seq = $4 AND place {beyond} $5))
                    ORDER BY seq {order}, place {order} LIMIT $6"
                );
                let after = after.unwrap_or(start);
                let params = sql_params![webhook.to_bytes(), dead, after.seq, after.seq, after.index, limit as u64];
                tx.query(&sql, params)?.iter().map(waiting).collect()
            })
            .await
    }

    /// How many wait, and how many were given up.
    pub(super) async fn counts(&self, webhook: WebhookId) -> Result<(u64, u64), SqlError> {
        self.catalog
            .read(move |tx| {
                let sql = "SELECT COALESCE(SUM(1 - dead), 0) AS waiting, COALESCE(SUM(dead), 0) AS dead
                    FROM webhook_parcels WHERE webhook = $1";
                let row = tx.query_one(sql, sql_params![webhook.to_bytes()])?;
                row.map_or(Ok((0, 0)), |row| Ok((row.at(0)?, row.at(1)?)))
            })
            .await
    }

    /// Gives those that were given up another two days, and tries those that wait at once if they are asked for. How many.
    pub(super) async fn revive(&self, webhook: WebhookId, again: Again, now_ms: u64) -> Result<u64, SqlError> {
        self.catalog
            .run(move |tx| {
                // Those that wait first: what is revived waits, too, and is not to be counted again.
                let waiting = if again.waiting { revive_some(tx, webhook, &again, false, now_ms)? } else { 0 };
                Ok(waiting + revive_some(tx, webhook, &again, true, now_ms)?)
            })
            .await
    }

    /// Gives up all that wait for an endpoint.
    pub(super) async fn give_up_all(&self, webhook: WebhookId, why: &str, now_ms: u64) -> Result<u64, SqlError> {
        let why = why.to_owned();
        self.catalog
            .run(move |tx| {
                let sql = "UPDATE webhook_parcels SET dead = 1, dead_ms = $1, last_error = COALESCE(last_error, $2)
                    WHERE webhook = $3 AND dead = 0";
                tx.execute(sql, sql_params![now_ms, why, webhook.to_bytes()])
            })
            .await
    }

    /// Forgets what was given up long ago, and what has waited as long: its endpoint was disabled or deleted while this was
    /// on its way into the line, so nobody will ever try it.
    pub(super) async fn prune(&self, now_ms: u64) -> Result<u64, SqlError> {
        self.catalog
            .run(move |tx| {
                let sql =
                    "DELETE FROM webhook_parcels WHERE (dead = 1 AND dead_ms < $1) OR (dead = 0 AND since_ms < $2)";
                let before_ms = now_ms.saturating_sub(DEAD_MS);
                tx.execute(sql, sql_params![before_ms, before_ms])
            })
            .await
    }
}

fn revive_some(tx: &mut dyn Tx, webhook: WebhookId, again: &Again, dead: bool, now_ms: u64) -> Result<u64, SqlError> {
    // The same event may be in the line once more, after a restore.
    let which = if dead {
        "dead_ms >= $4 AND dead_ms < $5 AND NOT EXISTS (SELECT 1 FROM webhook_parcels AS other WHERE other.webhook = $3 \
         AND other.dead = 0 AND other.seq = webhook_parcels.seq AND other.place = webhook_parcels.place)"
    } else {
        "at_ms >= $4 AND at_ms < $5"
    };
    let mut sql = format!(
        "UPDATE webhook_parcels SET dead = 0, dead_ms = NULL, attempts = 0, next_ms = $1, since_ms = $2 \
         WHERE webhook = $3 AND dead = {} AND {which}",
        u8::from(dead)
    );
    let until_ms = again.until_ms.unwrap_or(i64::MAX as u64);
    let mut params = sql_params![now_ms, now_ms, webhook.to_bytes(), again.since_ms, until_ms].to_vec();
    if let Some(message) = again.message {
        params.push(message.to_bytes().into());
        sql += &format!(" AND subject = ${}", params.len());
    }
    if again.places.is_empty() {
        return tx.execute(&sql, &params);
    }
    let beginning = params.len();
    sql += &format!(" AND seq = ${} AND place = ${}", beginning + 1, beginning + 2);
    let mut events = 0;
    for (seq, place) in &again.places {
        params.truncate(beginning);
        params.extend([(*seq).into(), (*place).into()]);
        events += tx.execute(&sql, &params)?;
    }
    Ok(events)
}

fn insert(tx: &mut dyn Tx, parcels: &[(ShardId, WebhookId, Parcel)]) -> Result<(), SqlError> {
    const COLUMNS: usize = 11;
    let mut sql = "INSERT INTO webhook_parcels
        (webhook, shard, seq, place, lane, subject, kind, at_ms, since_ms, data, next_ms, attempts, dead) VALUES "
        .to_owned();
    let mut params: Vec<Value> = Vec::with_capacity(parcels.len() * COLUMNS);
    for (n, (shard, webhook, parcel)) in parcels.iter().enumerate() {
        let first = n * COLUMNS + 1;
        let places: Vec<String> = (first..first + COLUMNS).map(|place| format!("${place}")).collect();
        sql += &format!("{}({}, 0, 0)", if n == 0 { "" } else { ", " }, places.join(", "));
        params.extend([
            webhook.to_bytes().into(),
            shard.0.into(),
            parcel.place.seq.into(),
            parcel.place.index.into(),
            parcel.lane.into(),
            parcel.subject.into(),
            Value::from(&*parcel.kind),
            parcel.at_ms.into(),
            parcel.since_ms.into(),
            Value::Blob(parcel.data.to_vec()),
            parcel.next_ms.into(),
        ]);
    }
    // A position that went back after a restore gives the same parcels again.
    sql += " ON CONFLICT DO NOTHING";
    tx.execute(&sql, &params).map(drop)
}

fn settle(tx: &mut dyn Tx, one: &Settled) -> Result<(), SqlError> {
    let (webhook, seq, index) = (one.webhook.to_bytes(), one.place.seq, one.place.index);
    let error = one.error.as_deref().map(|error| crate::fleet::cut(error, ERROR_BYTES_MAX));
    match one.verdict {
        Verdict::Done => {
            let sql = "DELETE FROM webhook_parcels WHERE webhook = $1 AND dead = 0 AND seq = $2 AND place = $3";
            tx.execute(sql, sql_params![webhook, seq, index])
        }
        Verdict::Again { attempts, next_ms } => {
            let sql = "UPDATE webhook_parcels SET attempts = $1, next_ms = $2, last_error = $3
                WHERE webhook = $4 AND dead = 0 AND seq = $5 AND place = $6";
            tx.execute(sql, sql_params![attempts, next_ms, error, webhook, seq, index])
        }
        Verdict::GivenUp => {
            // Given up once before: its position went back after a restore. Two of them would hold up all outcomes.
            let sql = "DELETE FROM webhook_parcels WHERE webhook = $1 AND dead = 1 AND seq = $2 AND place = $3";
            tx.execute(sql, sql_params![webhook, seq, index])?;
            let sql = "UPDATE webhook_parcels SET dead = 1, dead_ms = $1, attempts = attempts + 1, last_error = $2
                WHERE webhook = $3 AND dead = 0 AND seq = $4 AND place = $5";
            tx.execute(sql, sql_params![one.at_ms, error, webhook, seq, index])
        }
    }
    .map(drop)
}

fn parcel(row: &Row) -> Result<Parcel, SqlError> {
    Ok(Parcel {
        place: Place { seq: row.get("seq")?, index: row.get("place")? },
        lane: row.get("lane")?,
        subject: row.get("subject")?,
        kind: row.get::<String>("kind")?.into(),
        at_ms: row.get("at_ms")?,
        data: row.get::<Vec<u8>>("data")?.into(),
        attempts: row.get("attempts")?,
        next_ms: row.get("next_ms")?,
        since_ms: row.get("since_ms")?,
    })
}

fn waiting(row: &Row) -> Result<Waiting, SqlError> {
    Ok(Waiting {
        place: (row.get("seq")?, row.get("place")?),
        shard: row.get("shard")?,
        kind: row.get("kind")?,
        at_ms: row.get("at_ms")?,
        attempts: row.get("attempts")?,
        next_ms: row.get("next_ms")?,
        dead_ms: row.get("dead_ms")?,
        last_error: row.get("last_error")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::testing::new_stores;

    const PLACE: Place = Place { seq: 5, index: 2 };

    fn parcel(since_ms: u64) -> Parcel {
        Parcel {
            place: PLACE,
            lane: 0,
            subject: [1; 16],
            kind: "message.sent".into(),
            at_ms: since_ms,
            since_ms,
            data: bytes::Bytes::from_static(b"{}"),
            attempts: 0,
            next_ms: 0,
        }
    }

    /// After a restore the journal may be taken once more from an older position.
    #[tokio::test]
    async fn what_was_given_up_before_is_given_up_again() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::new(new_stores(dir.path()).catalog);
        let (shard, epoch, webhook) = (ShardId(3), Epoch(1), WebhookId::from_bytes([7; 16]));
        assert_eq!(queue.gain(vec![(shard, epoch)]).await.unwrap(), [0]);
        for at_ms in [10, 20] {
            queue.write(vec![(shard, epoch, 5)], vec![(shard, webhook, parcel(1_000))]).await.unwrap();
            assert_eq!(queue.counts(webhook).await.unwrap().0, 1);
            let given_up = Settled { webhook, place: PLACE, verdict: Verdict::GivenUp, at_ms, error: None };
            queue.settle(vec![given_up]).await.unwrap();
            assert_eq!(queue.counts(webhook).await.unwrap(), (0, 1));
        }
    }

    #[tokio::test]
    async fn what_is_sent_again_is_what_was_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::new(new_stores(dir.path()).catalog);
        let (shard, epoch, webhook) = (ShardId(3), Epoch(1), WebhookId::from_bytes([7; 16]));
        queue.gain(vec![(shard, epoch)]).await.unwrap();
        // Given up at 10, 20, 30 and 40; the last one waits.
        let of = |n: u8| Parcel {
            place: Place { seq: n.into(), index: 0 },
            lane: n % 2,
            subject: [n % 2; 16],
            ..parcel(u64::from(n) * 10)
        };
        queue.write(vec![(shard, epoch, 5)], (1..=5).map(|n| (shard, webhook, of(n))).collect()).await.unwrap();
        let dead = |n: u8| Settled {
            webhook,
            place: of(n).place,
            verdict: Verdict::GivenUp,
            at_ms: u64::from(n) * 10,
            error: None,
        };
        let waits = async |lane: u8| -> Vec<u64> {
            let line = LineId { webhook, journaled: true, lane };
            let loaded = queue.load(line, line.begin(), 10).await.unwrap();
            loaded.iter().map(|parcel| parcel.place.seq).collect()
        };
        let message = |n: u8| Some(MessageId::from_bytes([n; 16]));
        let asked = [
            (Again { since_ms: 20, until_ms: Some(30), ..Again::default() }, vec![2], vec![5]),
            (Again { message: message(1), ..Again::default() }, vec![], vec![1, 3, 5]),
            (Again { places: vec![(4, 0), (1, 0), (9, 0), (5, 0)], ..Again::default() }, vec![4], vec![1, 5]),
            (Again { message: message(0), places: vec![(1, 0), (2, 0)], ..Again::default() }, vec![2], vec![5]),
            (Again { waiting: true, message: message(1), since_ms: 40, ..Again::default() }, vec![], vec![5]),
            (Again { waiting: true, ..Again::default() }, vec![2, 4], vec![1, 3, 5]),
            (Again::default(), vec![2, 4], vec![1, 3, 5]),
        ];
        for (again, even, odd) in asked {
            let waiting: Vec<u64> = [waits(0).await, waits(1).await].concat();
            let given_up = (1..=4).filter(|n| waiting.contains(&u64::from(*n)));
            queue.settle(given_up.map(dead).collect()).await.unwrap();
            assert_eq!(queue.counts(webhook).await.unwrap(), (1, 4));
            let waiting = usize::from(again.waiting);
            let count = queue.revive(webhook, again.clone(), 1_000).await.unwrap();
            assert_eq!((waits(0).await, waits(1).await), (even.clone(), odd.clone()), "{again:?}");
            assert_eq!(count as usize, even.len() + odd.len() - 1 + waiting, "{again:?}");
        }
        let line = LineId { webhook, journaled: true, lane: 1 };
        let again = queue.load(line, line.begin(), 1).await.unwrap();
        assert_eq!((again[0].next_ms, again[0].since_ms, again[0].attempts), (1_000, 1_000, 0), "another two days");
    }

    #[tokio::test]
    async fn what_nobody_will_ever_try_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let queue = Queue::new(new_stores(dir.path()).catalog);
        let (shard, epoch) = (ShardId(3), Epoch(1));
        queue.gain(vec![(shard, epoch)]).await.unwrap();
        let of = |n: u8, since_ms| (shard, WebhookId::from_bytes([n; 16]), parcel(since_ms));
        queue.write(vec![(shard, epoch, 5)], vec![of(1, 1_000), of(2, DEAD_MS)]).await.unwrap();
        assert_eq!(queue.prune(DEAD_MS + 1_001).await.unwrap(), 1);
        let counts = |n: u8| queue.counts(WebhookId::from_bytes([n; 16]));
        assert_eq!((counts(1).await.unwrap(), counts(2).await.unwrap()), ((0, 0), (1, 0)));
    }
}
