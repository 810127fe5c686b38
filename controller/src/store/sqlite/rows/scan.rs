//! A picture of all rows as of one moment, on a connection of its own. While it is open the log cannot start anew, so it is for
//! rebuilds, not for pages of a list.

use std::sync::Arc;

use flotilla_protocol::id::ShardId;
use futures_util::FutureExt;
use rusqlite::{Connection, params};

use super::super::folder::FolderLock;
use super::super::store_error;
use super::{Answer, load, load_limit};
use crate::domain::event::Inbound;
use crate::domain::record::MessageRecord;
use crate::store::rows::Scan;
use crate::store::{StoreError, codec};

pub(super) struct SqliteScan {
    /// Away while a blocking task uses it; gone after one was aborted.
    connection: Option<Connection>,
    positions: Vec<u64>,
    shard: Option<ShardId>,
    after_message: i64,
    after_inbound: i64,
    _lock: Arc<FolderLock>,
}

impl SqliteScan {
    pub(super) async fn begin(
        connection: Connection,
        shard: Option<ShardId>,
        lock: Arc<FolderLock>,
    ) -> Result<Self, StoreError> {
        let (connection, positions) = on_blocking(connection, |connection| {
            connection.execute_batch("BEGIN").map_err(store_error)?;
            // The first read fixes the picture.
            load::positions(connection)
        })
        .await?;
        Ok(Self { connection: Some(connection), positions, shard, after_message: -1, after_inbound: -1, _lock: lock })
    }

    async fn next<T: Send + 'static>(
        &mut self,
        table: &'static str,
        after: i64,
        limit: usize,
        decode: fn(&[u8]) -> Result<T, StoreError>,
    ) -> Result<(i64, Vec<T>), StoreError> {
        let connection =
            self.connection.take().ok_or_else(|| StoreError::Unavailable("the scan was aborted".into()))?;
        let shard = self.shard;
        let (connection, found) =
            on_blocking(connection, move |connection| page(connection, table, shard, after, load_limit(limit), decode))
                .await?;
        self.connection = Some(connection);
        Ok(found)
    }
}

impl Scan for SqliteScan {
    fn positions(&self) -> &[u64] {
        &self.positions
    }

    fn messages(&mut self, limit: usize) -> Answer<'_, Vec<MessageRecord>> {
        async move {
            let (after, found) = self.next("message", self.after_message, limit, codec::decode_record).await?;
            self.after_message = after;
            Ok(found)
        }
        .boxed()
    }

    fn inbound(&mut self, limit: usize) -> Answer<'_, Vec<Inbound>> {
        async move {
            let (after, found) = self.next("inbound", self.after_inbound, limit, codec::decode_inbound).await?;
            self.after_inbound = after;
            Ok(found)
        }
        .boxed()
    }
}

fn page<T>(
    connection: &Connection,
    table: &str,
    shard: Option<ShardId>,
    after: i64,
    limit: usize,
    decode: fn(&[u8]) -> Result<T, StoreError>,
) -> Result<(i64, Vec<T>), StoreError> {
    let sql = format!("SELECT n, record FROM {table} WHERE n > ?1 AND (?2 IS NULL OR shard = ?2) ORDER BY n LIMIT ?3");
    let mut select = connection.prepare_cached(&sql).map_err(store_error)?;
    let mut rows = select.query(params![after, shard.map(|shard| shard.0), limit as i64]).map_err(store_error)?;
    let mut last = after;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(store_error)? {
        last = row.get(0).map_err(store_error)?;
        let bytes = row.get_ref(1).map_err(store_error)?;
        let bytes = bytes.as_blob().map_err(|error| StoreError::Unavailable(error.to_string()))?;
        found.push(decode(bytes)?);
    }
    Ok((last, found))
}

async fn on_blocking<R: Send + 'static>(
    connection: Connection,
    query: impl FnOnce(&Connection) -> Result<R, StoreError> + Send + 'static,
) -> Result<(Connection, R), StoreError> {
    let done = tokio::task::spawn_blocking(move || {
        let result = query(&connection)?;
        Ok((connection, result))
    });
    done.await.map_err(|error| StoreError::Unavailable(format!("a query was aborted: {error}")))?
}
