//! The rows: every message once, by its id, in a partition for each week; what is open once more, small, for the shards; and
//! what rows are found by, an hour of ids at a time.
//!
//! An index over a random value dirties a page for nearly every row once it is large, and each such page is written to the log
//! as a whole after every checkpoint. Ids begin with their time, and the terms with the hour; so bulk writes stay at the young
//! end of everything.

mod house;
mod list;
mod load;
mod scan;
mod write;

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, MessageId, ShardId, TenantId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;

pub(super) use self::house::House;
use self::write::RowsWriter;
use super::engine::Engine;
use super::session::Failure;
use super::{OpenError, Options};
use crate::domain::event::Inbound;
use crate::domain::record::MessageRecord;
use crate::store::rows::{
    Flush, InboundFilter, KeyUse, MessageFilter, OpenCount, Order, Page, Paged, QueuedQuery, Rows, Scan,
};
use crate::store::{LIMIT_MAX, LOAD_MAX, StoreError};

const HOUR_MS: u64 = 3_600_000;

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;
/// What a query finds, unless the database fails, unless what it has does not decode.
type Found<T> = Result<Result<T, StoreError>, Failure>;

pub(super) struct PostgresRows {
    shards: u16,
    writer: Arc<tokio::sync::Mutex<RowsWriter>>,
    engine: Arc<Engine>,
}

pub(super) async fn open(engine: Arc<Engine>, shards: u16, options: Options) -> Result<PostgresRows, OpenError> {
    let failed = |failure| super::schema::open_error(&engine.connector, failure);
    let house = Arc::new(House::open(engine.connector.clone(), options.retention_days).await.map_err(failed)?);
    tokio::spawn(house::keep(Arc::downgrade(&house)));
    let writer = RowsWriter::new(engine.connector.clone(), house);
    Ok(PostgresRows { shards, writer: Arc::new(tokio::sync::Mutex::new(writer)), engine })
}

impl PostgresRows {
    fn check(&self, shard: ShardId) -> Result<(), StoreError> {
        if shard.0 < self.shards { Ok(()) } else { Err(StoreError::NoSuchShard { shard }) }
    }
}

/// A query is a function over a connection; here they are bound to the trait.
macro_rules! queries {
    ($($name:ident($($arg:ident: $type:ty),*) -> $answer:ty = $query:expr;)*) => {$(
        fn $name(&self, $($arg: $type),*) -> Answer<'_, $answer> {
            let pool = self.engine.pool.clone();
            let query = async move { pool.query(async |session| $query(session, $($arg),*).await).await? };
            self.engine.run(query).boxed()
        }
    )*};
}

impl Rows for PostgresRows {
    fn write(&self, flush: Flush) -> Answer<'_, ()> {
        let known = flush.positions.iter().try_for_each(|(shard, _)| self.check(*shard));
        let writer = Arc::clone(&self.writer);
        let write = async move {
            known?;
            writer.lock().await.write(&flush).await
        };
        self.engine.run(write).boxed()
    }

    /// Every transaction is durable when it is answered.
    fn sync(&self) -> Answer<'_, ()> {
        std::future::ready(Ok(())).boxed()
    }

    fn list(&self, tenant: TenantId, filter: MessageFilter, page: Page) -> Answer<'_, Paged<MessageRecord>> {
        let (pool, shards) = (self.engine.pool.clone(), self.shards);
        let shard = ShardId::of(tenant, shards);
        let list = async move {
            pool.query(async |session| list::messages(session, tenant, shard, filter, page).await).await?
        };
        self.engine.run(list).boxed()
    }

    queries! {
        positions() -> Vec<u64> = load::positions;
        get(tenant: TenantId, message: MessageId) -> Option<MessageRecord> = load::get;
        get_many(messages: Vec<MessageId>) -> Vec<MessageRecord> = load::get_many;
        inbound(tenant: TenantId, filter: InboundFilter, page: Page) -> Paged<Inbound> = list::inbound;
        idempotent(tenant: TenantId, key: [u8; 16], since_ms: u64) -> Option<KeyUse> = load::idempotent;
        in_flight(shard: ShardId, after: Order, limit: usize) -> Vec<MessageRecord> = load::in_flight;
        queued(query: QueuedQuery) -> Vec<MessageRecord> = load::queued;
        due(shard: ShardId, until_ms: u64, limit: usize) -> Vec<MessageRecord> = load::due;
        overdue(shard: ShardId, now_ms: u64, limit: usize) -> Vec<MessageRecord> = load::overdue;
        open_counts(shard: ShardId) -> Vec<OpenCount> = load::open_counts;
        inbound_positions(shard: ShardId) -> Vec<(DeviceId, u64)> = load::inbound_positions;
    }

    fn scan(&self, shard: Option<ShardId>) -> Answer<'_, Box<dyn Scan>> {
        let begin = scan::PostgresScan::begin(Arc::clone(&self.engine), shard);
        async move {
            let scan = self.engine.run(begin).await?;
            Ok(Box::new(scan) as Box<dyn Scan>)
        }
        .boxed()
    }
}

fn page_limit(limit: usize) -> usize {
    limit.clamp(1, LIMIT_MAX)
}

fn load_limit(limit: usize) -> i64 {
    limit.clamp(1, LOAD_MAX) as i64
}

/// The hour in which an id was made, by its own account.
fn hour_of(id: [u8; 16]) -> i64 {
    let [a, b, c, d, e, f, ..] = id;
    (u64::from_be_bytes([0, 0, a, b, c, d, e, f]) / HOUR_MS).cast_signed()
}

/// The lowest id of a time; all ids are below that of the end of time.
fn first_id(at_ms: u64) -> [u8; 16] {
    let [_, _, a, b, c, d, e, f] = at_ms.min((1 << 48) - 1).to_be_bytes();
    let mut id = [0; 16];
    id[..6].copy_from_slice(&[a, b, c, d, e, f]);
    id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_tell_their_hour() {
        for hour in [0, 1, 490_000, 1 << 26] {
            assert_eq!(hour_of(first_id(hour * HOUR_MS)), hour as i64);
            assert_eq!(hour_of(MessageId::new(hour * HOUR_MS + 3_599_999, [0xff; 10]).to_bytes()), hour as i64);
        }
        assert!(first_id(5) < MessageId::new(5, [0; 10]).to_bytes());
        assert_eq!(first_id(u64::MAX)[..6], [0xff; 6]);
    }
}
