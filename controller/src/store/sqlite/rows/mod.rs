//! The rows in one SQLite file: messages with their history, inbound messages, used idempotency keys, positions.
//!
//! The file is flushed to the device only now and then (`synchronous=NORMAL`): after a power cut its newest transactions may be
//! gone, all of them from some point on, and the positions with them; the journal, which is trimmed behind `sync` only, has
//! what came after. So a bulk of row writes costs no device flushes at all.
//!
//! A secondary index over a random value (a number, a SIM) dirties a page for nearly every row once the table is large, and
//! then bulk writes crawl. Here each block of 65,536 rows has its own small index, in one table (`terms`): writes stay in
//! the pages of the youngest block, and a search goes through the blocks from the youngest to the oldest.

pub(super) mod key;
mod list;
mod load;
mod scan;
mod schema;
mod terms;
mod write;

use std::path::Path;
use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, MessageId, ShardId, TenantId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use self::write::RowsWriter;
use super::folder::FolderLock;
use super::pool::Pool;
use super::worker::{FOLLOWER_NICE, Worker};
use super::{OpenError, Options};
use crate::domain::event::Inbound;
use crate::domain::record::MessageRecord;
use crate::store::rows::{
    Flush, InboundFilter, KeyUse, MessageFilter, OpenCount, Order, Page, Paged, QueuedQuery, Rows, Scan,
};
use crate::store::{LIMIT_MAX, LOAD_MAX, StoreError};

const READER_CACHE_KIB: u32 = 8 << 10;

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

pub(super) struct SqliteRows {
    shards: u16,
    pool: Pool,
    writer: Worker<RowsWriter>,
}

pub(super) fn open(
    path: &Path,
    shards: u16,
    options: &Options,
    lock: Arc<FolderLock>,
) -> Result<SqliteRows, OpenError> {
    let writer = RowsWriter::open(path, shards, Arc::clone(&lock))?;
    #[cfg(test)]
    writer.limit_pages(options.page_max);
    let writer = Worker::start("rows", FOLLOWER_NICE, writer)
        .map_err(|error| OpenError::Engine { file: path.to_owned(), detail: error.to_string() })?;
    Ok(SqliteRows { shards, pool: Pool::new(path, options.readers, READER_CACHE_KIB, lock), writer })
}

impl SqliteRows {
    async fn on_writer(
        &self,
        job: impl FnOnce(&mut RowsWriter) -> Result<(), StoreError> + Send + 'static,
    ) -> Result<(), StoreError> {
        let done = self.writer.run(job).await;
        done.unwrap_or_else(|_| Err(StoreError::Unavailable("the rows' thread has ended".into())))
    }

    fn check(&self, shard: ShardId) -> Result<(), StoreError> {
        if shard.0 < self.shards { Ok(()) } else { Err(StoreError::NoSuchShard { shard }) }
    }
}

/// A query is a function over a connection; here they are bound to the trait.
macro_rules! queries {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty = $query:expr;)*) => {$(
        fn $name(&self, $($arg: $type),*) -> Answer<'_, $answer> {
            self.pool.query(move |connection| $query(connection, $($arg),*)).boxed()
        }
    )*};
}

impl Rows for SqliteRows {
    fn write(&self, flush: Flush) -> Answer<'_, ()> {
        async move {
            for (shard, _) in &flush.positions {
                self.check(*shard)?;
            }
            self.on_writer(move |writer| writer.write(&flush)).await
        }
        .boxed()
    }

    fn sync(&self) -> Answer<'_, ()> {
        self.on_writer(|writer| writer.sync()).boxed()
    }

    queries! {
        positions() -> Vec<u64> = load::positions;
        get(tenant: TenantId, message: MessageId) -> Option<MessageRecord> = load::get;
        get_many(messages: Vec<MessageId>) -> Vec<MessageRecord> = load::get_many;
        list(tenant: TenantId, filter: MessageFilter, page: Page) -> Paged<MessageRecord> = list::messages;
        inbound(tenant: TenantId, filter: InboundFilter, page: Page) -> Paged<Inbound> = list::inbound;
        idempotent(tenant: TenantId, key: [u8; 16], since_ms: u64) -> Option<KeyUse> = key::find;
        in_flight(shard: ShardId, after: Order, limit: usize) -> Vec<MessageRecord> = load::in_flight;
        queued(query: QueuedQuery) -> Vec<MessageRecord> = load::queued;
        due(shard: ShardId, until_ms: u64, limit: usize) -> Vec<MessageRecord> = load::due;
        overdue(shard: ShardId, now_ms: u64, limit: usize) -> Vec<MessageRecord> = load::overdue;
        open_counts(shard: ShardId) -> Vec<OpenCount> = load::open_counts;
        inbound_positions(shard: ShardId) -> Vec<(DeviceId, u64)> = load::inbound_positions;
    }

    fn scan(&self, shard: Option<ShardId>) -> Answer<'_, Box<dyn Scan>> {
        let own = self.pool.open_own();
        async move {
            let (connection, lock) = own?;
            let scan = scan::SqliteScan::begin(connection, shard, lock).await?;
            Ok(Box::new(scan) as Box<dyn Scan>)
        }
        .boxed()
    }
}

fn page_limit(limit: usize) -> usize {
    limit.clamp(1, LIMIT_MAX)
}

fn load_limit(limit: usize) -> usize {
    limit.clamp(1, LOAD_MAX)
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

/// Times and sequences as SQLite has them. What a wild clock puts above its range stays at the top, in order.
fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
