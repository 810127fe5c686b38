//! Read connections, used by blocking tasks one at a time each.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{FolderLock, connect, store_error};
use crate::store::StoreError;

pub(super) struct Pool {
    file: PathBuf,
    cache_kib: u32,
    idle: Arc<Mutex<Vec<Connection>>>,
    /// One permit for each connection that may be out.
    permits: Arc<Semaphore>,
    lock: Arc<FolderLock>,
}

impl Pool {
    pub(super) fn new(file: &Path, connections: usize, cache_kib: u32, lock: Arc<FolderLock>) -> Self {
        let permits = Arc::new(Semaphore::new(connections.max(1)));
        Self { file: file.to_owned(), cache_kib, idle: Arc::default(), permits, lock }
    }

    /// Runs a query on a blocking thread. Nothing is left open on the connection afterwards.
    pub(super) async fn query<R: Send + 'static>(
        &self,
        query: impl FnOnce(&Connection) -> Result<R, StoreError> + Send + 'static,
    ) -> Result<R, StoreError> {
        let lease = self.lease().await?;
        let done = tokio::task::spawn_blocking(move || {
            let mut lease = lease;
            let connection = lease.connection()?;
            let result = query(connection);
            // A connection with an error is not kept: the next one opens afresh.
            lease.reuse = result.is_ok();
            result
        });
        done.await.map_err(|error| StoreError::Unavailable(format!("a query was aborted: {error}")))?
    }

    /// A connection of one's own, outside the pool: for what takes long.
    pub(super) fn open_own(&self) -> Result<(Connection, Arc<FolderLock>), StoreError> {
        Ok((open_reader(&self.file, self.cache_kib)?, Arc::clone(&self.lock)))
    }

    async fn lease(&self) -> Result<Lease, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
        Ok(Lease {
            connection: self.idle.lock().pop(),
            idle: Arc::clone(&self.idle),
            file: self.file.clone(),
            cache_kib: self.cache_kib,
            reuse: false,
            _permit: permit,
            _lock: Arc::clone(&self.lock),
        })
    }
}

struct Lease {
    connection: Option<Connection>,
    idle: Arc<Mutex<Vec<Connection>>>,
    file: PathBuf,
    cache_kib: u32,
    reuse: bool,
    _permit: OwnedSemaphorePermit,
    _lock: Arc<FolderLock>,
}

impl Lease {
    fn connection(&mut self) -> Result<&Connection, StoreError> {
        if self.connection.is_none() {
            self.connection = Some(open_reader(&self.file, self.cache_kib)?);
        }
        self.connection.as_ref().ok_or_else(|| StoreError::Unavailable("no connection".into()))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take().filter(|_| self.reuse) {
            self.idle.lock().push(connection);
        }
    }
}

fn open_reader(file: &Path, cache_kib: u32) -> Result<Connection, StoreError> {
    let open = || {
        let connection = connect(file, false)?;
        connection.pragma_update(None, "cache_size", -i64::from(cache_kib))?;
        Ok(connection)
    };
    open().map_err(store_error)
}
