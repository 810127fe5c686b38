//! Copies a single node's store into PostgreSQL: catalog, rows, used idempotency keys, the journal that is still there, epochs
//! and sequences. Everything derived from it (statistics, live events) goes on where it was, since all sequences stay.
//!
//! The source is only read, and locked meanwhile. The target has to be empty, and cannot be opened by a controller until the
//! copy has been counted and found complete; after an interrupted one, drop the database and begin again.

use std::path::{Path, PathBuf};

use flotilla_protocol::id::{ShardId, TenantId};

use super::postgres::import::Import;
use super::sqlite::export::Keys;
use super::{Catalog, Flush, KeyUse, Row, SqlError, StoreError, Stores, Upsert, Value, postgres, sqlite};
pub use crate::store::postgres::import::Counts;

/// Rows of one transaction.
const PAGE: usize = 5_000;
/// Encoded bytes of journal batches of one transaction.
const BATCH_BYTES: usize = 4 << 20;

#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("there is no store in {}", .0.display())]
    NoSource(PathBuf),
    #[error("the source")]
    Source(#[from] sqlite::OpenError),
    #[error("the target")]
    Target(#[from] postgres::OpenError),
    #[error("{what}: {error}")]
    Store { what: &'static str, error: StoreError },
    #[error("the catalog, {table}: {error}")]
    Catalog { table: String, error: SqlError },
    #[error("the copy is not complete: {what}: {source_has} in the source, {target_has} in the target")]
    Incomplete { what: String, source_has: u64, target_has: u64 },
    #[error("a task of the copy was aborted")]
    Aborted(#[from] tokio::task::JoinError),
}

fn of(what: &'static str) -> impl Fn(StoreError) -> CopyError {
    move |error| CopyError::Store { what, error }
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Copied {
    pub tables: Vec<(String, u64)>,
    pub counts: Counts,
}

/// Copies the store in a data folder. `say` hears how far it is.
pub async fn copy(from: &Path, to: postgres::Options, say: impl Fn(String)) -> Result<Copied, CopyError> {
    if !from.join("journal.db").is_file() {
        return Err(CopyError::NoSource(from.to_owned()));
    }
    let dir = from.to_owned();
    let source = tokio::task::spawn_blocking(move || sqlite::open(&dir, &sqlite::Options::default())).await??;
    let shards = source.journal.shards();
    // Nothing is dropped while it is brought.
    let mut target = Import::begin(postgres::Options { shards, retention_days: 0, ..to }).await?;
    let tables = catalog(&*source.catalog, &*target.stores.catalog, &say).await?;
    let mut counts = Counts::default();
    rows(&source, &target.stores, &mut counts, &say).await?;
    counts.keys = keys(from, &target.stores, &say).await?;
    counts.batches = journal(&source, &mut target, &say).await?;
    // Last, so that rows without their position are never taken for complete.
    let positions = source.rows.positions().await.map_err(of("positions"))?;
    let positions = positions.iter().zip(0..).map(|(at, shard)| (ShardId(shard), *at)).collect();
    target.stores.rows.write(Flush { positions, ..Flush::default() }).await.map_err(of("positions"))?;
    say("counting".to_owned());
    verify(&source, &mut target, &tables, counts).await?;
    target.finish().await.map_err(of("the end"))?;
    Ok(Copied { tables, counts })
}

/// Every table, in the order in which they were made: what is referred to comes first.
async fn catalog(
    source: &dyn Catalog,
    target: &dyn Catalog,
    say: &impl Fn(String),
) -> Result<Vec<(String, u64)>, CopyError> {
    let failed = |table: &str| {
        let table = table.to_owned();
        move |error| CopyError::Catalog { table: table.clone(), error }
    };
    let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY rowid";
    let names =
        source.read(move |tx| tx.query(sql, &[])?.iter().map(|row| row.at(0)).collect::<Result<Vec<String>, _>>());
    let mut copied = Vec::new();
    for table in names.await.map_err(failed("tables"))? {
        let (mut after, mut count) = (i64::MIN, 0);
        loop {
            let sql =
                format!("SELECT rowid AS copied_rowid, * FROM {table} WHERE rowid > $1 ORDER BY rowid LIMIT {PAGE}");
            let rows = source.read(move |tx| tx.query(&sql, &[Value::Int(after)])).await.map_err(failed(&table))?;
            let Some(last) = rows.last() else { break };
            after = last.get("copied_rowid").map_err(failed(&table))?;
            count += rows.len() as u64;
            let into = table.clone();
            target
                .run(move |tx| rows.iter().try_for_each(|row| insert(tx, &into, row)))
                .await
                .map_err(failed(&table))?;
        }
        say(format!("catalog: {count} rows of {table}"));
        copied.push((table, count));
    }
    Ok(copied)
}

fn insert(tx: &mut dyn super::Tx, table: &str, row: &Row) -> Result<(), SqlError> {
    let (names, values) = row.parts();
    let (names, values) = (&names[1..], &values[1..]);
    let places: Vec<String> = (1..=values.len()).map(|place| format!("${place}")).collect();
    let sql = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), places.join(", "));
    tx.execute(&sql, values).map(drop)
}

async fn rows(source: &Stores, target: &Stores, counts: &mut Counts, say: &impl Fn(String)) -> Result<(), CopyError> {
    let shards = source.journal.shards();
    let mut scan = source.rows.scan(None).await.map_err(of("messages"))?;
    loop {
        let some = scan.messages(PAGE).await.map_err(of("messages"))?;
        if some.is_empty() {
            break;
        }
        counts.messages += some.len() as u64;
        let upsert = |record: crate::domain::record::MessageRecord| {
            let shard = ShardId::of(record.submission.tenant, shards);
            Upsert { shard, record: record.into(), new: true }
        };
        let messages = some.into_iter().map(upsert).collect();
        target.rows.write(Flush { messages, ..Flush::default() }).await.map_err(of("messages"))?;
        say(format!("messages: {}", counts.messages));
    }
    loop {
        let some = scan.inbound(PAGE).await.map_err(of("inbound messages"))?;
        if some.is_empty() {
            return Ok(());
        }
        counts.inbound += some.len() as u64;
        let inbound = some.into_iter().map(|inbound| (ShardId::of(inbound.tenant, shards), inbound)).collect();
        target.rows.write(Flush { inbound, ..Flush::default() }).await.map_err(of("inbound messages"))?;
        say(format!("inbound messages: {}", counts.inbound));
    }
}

/// A key that was used twice within a day is there twice; its last use counts, and only that is kept.
async fn keys(from: &Path, target: &Stores, say: &impl Fn(String)) -> Result<u64, CopyError> {
    let mut seen: rustc_hash::FxHashSet<(TenantId, [u8; 16])> = rustc_hash::FxHashSet::default();
    let mut reader = Keys::open(from).map_err(of("idempotency keys"))?;
    loop {
        let (some, back) = tokio::task::spawn_blocking(move || (reader.next(PAGE), reader)).await?;
        reader = back;
        let keys: Vec<(TenantId, [u8; 16], KeyUse)> = some.map_err(of("idempotency keys"))?;
        if keys.is_empty() {
            return Ok(seen.len() as u64);
        }
        seen.extend(keys.iter().map(|(tenant, key, _)| (*tenant, *key)));
        target.rows.write(Flush { keys, ..Flush::default() }).await.map_err(of("idempotency keys"))?;
        say(format!("idempotency keys: {}", seen.len()));
    }
}

async fn journal(source: &Stores, target: &mut Import, say: &impl Fn(String)) -> Result<u64, CopyError> {
    let failed = || of("the journal");
    let mut count = 0;
    for (epoch, shard) in
        source.journal.epochs().await.map_err(failed())?.into_iter().zip(0..).map(|(e, n)| (e, ShardId(n)))
    {
        let last = source.journal.last(shard).await.map_err(failed())?;
        let (mut after, mut some) = match source.journal.read(shard, 0, BATCH_BYTES).await {
            Ok(some) => (0, some),
            Err(StoreError::Trimmed { up_to, .. }) => {
                (up_to, source.journal.read(shard, up_to, BATCH_BYTES).await.map_err(failed())?)
            }
            Err(error) => return Err(failed()(error)),
        };
        target.shard(shard, epoch, after, last).await.map_err(failed())?;
        while let Some(end) = some.last() {
            after = end.seq;
            target.batches(&some).await.map_err(failed())?;
            count += some.len() as u64;
            some = source.journal.read(shard, after, BATCH_BYTES).await.map_err(failed())?;
        }
    }
    say(format!("journal: {count} batches"));
    Ok(count)
}

async fn verify(
    source: &Stores,
    target: &mut Import,
    tables: &[(String, u64)],
    counts: Counts,
) -> Result<(), CopyError> {
    let same = |what: &str, source_has: u64, target_has: u64| match source_has == target_has {
        true => Ok(()),
        false => Err(CopyError::Incomplete { what: what.to_owned(), source_has, target_has }),
    };
    for (table, count) in tables {
        let sql = format!("SELECT count(*) FROM {table}");
        let found = target.stores.catalog.read(move |tx| tx.query(&sql, &[])?[0].at::<u64>(0)).await;
        same(table, *count, found.map_err(|error| CopyError::Catalog { table: table.clone(), error })?)?;
    }
    let found = target.counts().await.map_err(of("counting"))?;
    same("messages", counts.messages, found.messages)?;
    same("inbound messages", counts.inbound, found.inbound)?;
    same("idempotency keys", counts.keys, found.keys)?;
    same("journal batches", counts.batches, found.batches)?;
    let epochs = (source.journal.epochs().await, target.stores.journal.epochs().await);
    let (from, to) = (epochs.0.map_err(of("epochs"))?, epochs.1.map_err(of("epochs"))?);
    for (shard, (from, to)) in from.iter().zip(&to).enumerate() {
        same(&format!("the epoch of shard {shard}"), from.0, to.0)?;
        let shard = ShardId(shard as u16);
        let last = (source.journal.last(shard).await, target.stores.journal.last(shard).await);
        let (from, to) = (last.0.map_err(of("the journal"))?, last.1.map_err(of("the journal"))?);
        same(&format!("the last sequence of shard {shard}"), from, to)?;
    }
    let positions = (source.rows.positions().await, target.stores.rows.positions().await);
    let (from, to) = (positions.0.map_err(of("positions"))?, positions.1.map_err(of("positions"))?);
    from.iter()
        .zip(&to)
        .enumerate()
        .try_for_each(|(shard, (from, to))| same(&format!("the rows of shard {shard}"), *from, *to))
}

#[cfg(test)]
mod tests;
