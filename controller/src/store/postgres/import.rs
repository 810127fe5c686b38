//! Fills an empty database with a store that was kept elsewhere: what the traits cannot write.

use flotilla_protocol::id::{Epoch, ShardId};

use super::session::{DAY, Session, number};
use super::{OpenError, Options, Purpose, open_for, schema};
use crate::store::{Batch, StoreError, Stores, codec};

/// A database that is being filled. Until [`Import::finish`] nobody else can open it.
pub(in crate::store) struct Import {
    pub(in crate::store) stores: Stores,
    session: Session,
}

/// How much there is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub messages: u64,
    pub inbound: u64,
    pub keys: u64,
    pub batches: u64,
}

impl Import {
    pub(in crate::store) async fn begin(options: Options) -> Result<Self, OpenError> {
        let connector = options.connector()?;
        let opened = tokio::task::spawn_blocking(move || open_for(&options, Purpose::Fill)).await;
        let (stores, _) = opened.map_err(|error| OpenError::Threads(std::io::Error::other(error)))??;
        let session = connector.connect().await.map_err(|failure| schema::open_error(&connector, failure))?;
        Ok(Self { stores, session })
    }

    /// Where a shard's journal is, before its batches come.
    pub(in crate::store) async fn shard(
        &mut self,
        shard: ShardId,
        epoch: Epoch,
        trimmed: u64,
        last: u64,
    ) -> Result<(), StoreError> {
        let number = i64::from(shard.0);
        let (epoch, trimmed, last) = (epoch.0.cast_signed(), trimmed.cast_signed(), last.cast_signed());
        let sql = "UPDATE journal_shard SET epoch = $2, last = $3 WHERE shard = $1";
        self.session.execute(sql, &[&number, &epoch, &last]).await?;
        let sql = "UPDATE journal_trim SET trimmed = $2 WHERE shard = $1";
        self.session.execute(sql, &[&number, &trimmed]).await?;
        Ok(())
    }

    pub(in crate::store) async fn batches(&mut self, batches: &[Batch]) -> Result<(), StoreError> {
        let (mut shards, mut epochs, mut seqs, mut payloads) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for batch in batches {
            shards.push(i64::from(batch.shard.0));
            epochs.push(batch.epoch.0.cast_signed());
            seqs.push(batch.seq.cast_signed());
            let payload = codec::encode_events(&batch.events);
            payloads.push(payload.map_err(|error| StoreError::Unavailable(error.to_string()))?);
        }
        let sql = "WITH input AS (
                SELECT * FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bytea[]) AS t (shard, epoch, seq, payload)
            ), appended AS (
                INSERT INTO journal_batch (shard, epoch, seq, payload) SELECT * FROM input
            )
            UPDATE journal_shard AS s SET bytes = s.bytes + i.bytes
            FROM (SELECT shard, sum(octet_length(payload))::bigint AS bytes FROM input GROUP BY shard) AS i
            WHERE s.shard = i.shard";
        self.session.execute(sql, &[&shards, &epochs, &seqs, &payloads]).await?;
        Ok(())
    }

    pub(in crate::store) async fn counts(&mut self) -> Result<Counts, StoreError> {
        let sql = "SELECT (SELECT count(*) FROM message), (SELECT count(*) FROM inbound),
            (SELECT count(*) FROM idempotency), (SELECT count(*) FROM journal_batch)";
        // Counting millions of rows takes its time.
        self.session.patient(DAY).await?;
        let rows = self.session.query(sql, &[]).await?;
        let row = &rows[0];
        Ok(Counts {
            messages: number(row, 0)?,
            inbound: number(row, 1)?,
            keys: number(row, 2)?,
            batches: number(row, 3)?,
        })
    }

    /// The keys that the database counts go on behind those that were brought.
    pub(in crate::store) async fn finish(mut self) -> Result<(), StoreError> {
        let sql = "SELECT setval(pg_get_serial_sequence('audit', 'id'), greatest((SELECT max(id) FROM audit), 1))";
        self.session.query(sql, &[]).await?;
        schema::filled(&mut self.session).await?;
        Ok(())
    }
}
