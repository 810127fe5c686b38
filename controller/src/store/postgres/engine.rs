//! What journal, rows and catalog share: a small runtime of their own, and the connections for reading.
//!
//! The runtime is apart from the program's, so that a commit never waits behind whatever else is busy there, and a catalog
//! body, which is not async, can wait on its own thread.

use std::future::Future;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::DropGuard;

use super::session::{Connector, Failure, Session};
use crate::store::StoreError;

const THREADS: usize = 2;

pub(super) struct Engine {
    pub(super) connector: Connector,
    pub(super) pool: Pool,
    runtime: Option<Runtime>,
    /// Behind the runtime: who waits for it finds the connections closed, or closing.
    _released: DropGuard,
}

pub(super) fn runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).thread_name("store").enable_all().build()
}

impl Engine {
    pub(super) fn new(connector: Connector, readers: usize, runtime: Runtime, released: DropGuard) -> Arc<Self> {
        let pool = Pool::new(connector.clone(), readers);
        Arc::new(Self { connector, pool, runtime: Some(runtime), _released: released })
    }

    pub(super) fn handle(&self) -> &Handle {
        match &self.runtime {
            Some(runtime) => runtime.handle(),
            None => unreachable!("the runtime is there until the engine is dropped"),
        }
    }

    /// Runs it on the engine's runtime, to its end whatever becomes of the caller.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, StoreError> {
        let engine = Arc::clone(self);
        let done = self.handle().spawn(async move {
            let result = work.await;
            drop(engine);
            result
        });
        done.await.unwrap_or_else(|error| Err(StoreError::Unavailable(format!("a query was aborted: {error}"))))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Whoever drops the store may be a task himself, and may not block.
            runtime.shutdown_background();
        }
    }
}

/// Connections for reading, one query at a time each.
#[derive(Clone)]
pub(super) struct Pool {
    connector: Connector,
    idle: Arc<Mutex<Vec<Session>>>,
    /// One permit for each connection that may be out.
    permits: Arc<Semaphore>,
}

impl Pool {
    fn new(connector: Connector, connections: usize) -> Self {
        Self { connector, idle: Arc::default(), permits: Arc::new(Semaphore::new(connections.max(1))) }
    }

    pub(super) async fn lease(&self) -> Result<Lease, Failure> {
        let permit = Arc::clone(&self.permits).acquire_owned().await;
        let permit = permit.map_err(|_| Failure::Lost("the store is closed".into()))?;
        let session = loop {
            let idle = self.idle.lock().pop();
            match idle {
                Some(session) if session.is_closed() => {}
                Some(session) => break session,
                None => break self.connector.connect().await?,
            }
        };
        Ok(Lease { session: Some(session), idle: Arc::clone(&self.idle), good: false, _permit: permit })
    }

    /// Runs a query. A connection with an error is not kept: the next one opens afresh.
    pub(super) async fn query<T>(
        &self,
        query: impl AsyncFnOnce(&mut Session) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let mut lease = self.lease().await?;
        let result = query(&mut lease).await;
        lease.good = result.is_ok();
        result
    }
}

/// A connection of the pool. It goes back only when it was said to be good.
pub(super) struct Lease {
    session: Option<Session>,
    idle: Arc<Mutex<Vec<Session>>>,
    pub(super) good: bool,
    _permit: OwnedSemaphorePermit,
}

impl Deref for Lease {
    type Target = Session;
    fn deref(&self) -> &Session {
        match &self.session {
            Some(session) => session,
            None => unreachable!("it is there until the lease is dropped"),
        }
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Session {
        match &mut self.session {
            Some(session) => session,
            None => unreachable!("it is there until the lease is dropped"),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(session) = self.session.take().filter(|session| self.good && !session.is_closed()) {
            self.idle.lock().push(session);
        }
    }
}
