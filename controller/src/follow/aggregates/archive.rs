//! The snapshots in the catalog: per shard a head (who may write, and up to where it is complete) and parts by hour and day.
//!
//! Each write is guarded by the epoch in its own transaction: a leader that has been followed by another changes nothing any
//! more. A part is replaced as a whole, and the head moves when all changed parts are there. A reader that comes between sees
//! parts that are newer than the head; that is as good, because each row says up to which sequence it is complete, and the
//! replay behind the head adds to a row only what it does not hold.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};

use super::key::Step;
use super::pieces::CODEC;
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, StoreError, Tx};

/// Pieces read at once; each has at most a mebibyte of rows.
const PIECES_MAX: u32 = 4;

#[derive(Clone)]
pub(super) struct Archive {
    catalog: Arc<dyn Catalog>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum ArchiveError {
    /// Another leader has taken the shard's snapshot over.
    #[error("a later leader writes the snapshot")]
    Fenced,
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// The place of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) step: u8,
    pub(super) bucket: u32,
    pub(super) piece: u32,
}

pub(super) struct Piece {
    pub(super) place: Place,
    pub(super) codec: u8,
    pub(super) data: Vec<u8>,
}

/// The rows of an hour or a day, packed.
pub(super) struct Part {
    pub(super) step: Step,
    pub(super) bucket: u32,
    pub(super) pieces: Vec<Vec<u8>>,
}

/// Under which leadership something is written, and up to where it is complete.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    pub(super) position: u64,
}

impl Archive {
    pub(super) fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog }
    }

    /// Takes the snapshots of shards: lower epochs write nothing more. The position of each, `None` where a later leader has
    /// taken it already.
    pub(super) async fn take(&self, shards: &[(ShardId, Epoch)]) -> Result<Vec<Option<u64>>, StoreError> {
        let shards = shards.to_vec();
        let taken = self.catalog.run(move |tx| {
            let take = |(shard, epoch): &(ShardId, Epoch)| {
                let sql = "INSERT INTO aggregate_snapshots (shard, epoch, position) VALUES ($1, $2, 0)
                    ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch WHERE aggregate_snapshots.epoch <= excluded.epoch
                    RETURNING position";
                let row = tx.query_one(sql, sql_params![shard.0, epoch.0])?;
                row.map(|row| row.get("position")).transpose()
            };
            shards.iter().map(take).collect::<Result<Vec<_>, SqlError>>()
        });
        taken.await.map_err(store_error)
    }

    /// Pieces of parts that are newer than a position, in the order of their places.
    pub(super) async fn pieces(
        &self,
        shard: ShardId,
        newer_than: Option<u64>,
        after: Option<Place>,
    ) -> Result<Vec<Piece>, StoreError> {
        let newer_than = newer_than.map_or(-1, |position| i64::try_from(position).unwrap_or(i64::MAX));
        let after = after.map_or((-1, 0, 0), |place| (i64::from(place.step), place.bucket, place.piece));
        let read = self.catalog.read(move |tx| {
            let sql = "SELECT step, bucket, piece, codec, data FROM aggregate_parts
                WHERE shard = $1 AND position > $2 AND (step, bucket, piece) > ($3, $4, $5)
                ORDER BY step, bucket, piece LIMIT $6";
            let params = sql_params![shard.0, newer_than, after.0, after.1, after.2, PIECES_MAX];
            tx.query(sql, params)?.iter().map(piece).collect::<Result<Vec<_>, SqlError>>()
        });
        read.await.map_err(store_error)
    }

    /// Replaces parts. With the last ones the head moves.
    pub(super) async fn write(&self, writer: Writer, parts: Vec<Part>, last: bool) -> Result<(), ArchiveError> {
        self.catalog
            .run(move |tx| {
                guard(tx, writer, last)?;
                parts.into_iter().try_for_each(|part| replace(tx, writer, part))
            })
            .await
    }

    /// There is no snapshot of this shard any more.
    pub(super) async fn forget(&self, shard: ShardId, epoch: Epoch) -> Result<(), ArchiveError> {
        self.catalog
            .run(move |tx| {
                let sql = "UPDATE aggregate_snapshots SET position = 0 WHERE shard = $1 AND epoch = $2";
                changed_one(tx.execute(sql, sql_params![shard.0, epoch.0])?)?;
                tx.execute("DELETE FROM aggregate_parts WHERE shard = $1", sql_params![shard.0])?;
                Ok(())
            })
            .await
    }
}

fn guard(tx: &mut dyn Tx, writer: Writer, last: bool) -> Result<(), ArchiveError> {
    let sql = match last {
        true => "UPDATE aggregate_snapshots SET position = $3 WHERE shard = $1 AND epoch = $2 AND position <= $3",
        // Writes nothing new, and makes whoever takes the shard meanwhile wait for us, or us for it.
        false => "UPDATE aggregate_snapshots SET epoch = $2 WHERE shard = $1 AND epoch = $2 AND position <= $3",
    };
    changed_one(tx.execute(sql, sql_params![writer.shard.0, writer.epoch.0, writer.position])?)
}

fn changed_one(rows: u64) -> Result<(), ArchiveError> {
    if rows == 1 { Ok(()) } else { Err(ArchiveError::Fenced) }
}

fn replace(tx: &mut dyn Tx, writer: Writer, part: Part) -> Result<(), ArchiveError> {
    let (shard, step) = (writer.shard.0, part.step as u8);
    let sql = "DELETE FROM aggregate_parts WHERE shard = $1 AND step = $2 AND bucket = $3";
    tx.execute(sql, sql_params![shard, step, part.bucket])?;
    let sql = "INSERT INTO aggregate_parts (shard, step, bucket, piece, position, codec, data)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    for (number, data) in (0u32..).zip(part.pieces) {
        tx.execute(sql, sql_params![shard, step, part.bucket, number, writer.position, CODEC, data])?;
    }
    Ok(())
}

fn piece(row: &Row) -> Result<Piece, SqlError> {
    let place = Place { step: row.get("step")?, bucket: row.get("bucket")?, piece: row.get("piece")? };
    Ok(Piece { place, codec: row.get("codec")?, data: row.get("data")? })
}

pub(super) fn store_error(error: SqlError) -> StoreError {
    match error {
        SqlError::Full => StoreError::Full,
        other => StoreError::Unavailable(other.to_string()),
    }
}
