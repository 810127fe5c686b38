//! The engine for several controllers over one PostgreSQL, or what speaks its protocol.
//!
//! `journal` appends with one statement for each group of batches, `rows` follow on other connections, `catalog` runs the same
//! texts as SQLite. `engine` has the runtime and the connections for reading, `schema` the tables, `own` starts a server for
//! measurements and tests. What is used of the database, and why, is in docs/adr/0007-postgresql.md.

mod address;
mod catalog;
mod engine;
pub(super) mod import;
mod journal;
pub mod own;
mod rows;
mod schema;
mod session;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::SHARDS_DEFAULT;
use tokio_util::sync::CancellationToken;

pub use address::{AddressError, check_url};
pub use schema::Migrated;

use self::engine::Engine;
use self::session::Connector;
use super::Stores;

/// Connections beside those for reading journal and rows: the journal's, the rows' writer, the catalog's writer and its two
/// readers, the one that keeps house.
const OWN_CONNECTIONS: usize = 6;
/// Fewer would leave nothing to read with.
pub const CONNECTIONS_MIN: usize = 8;

#[derive(Clone)]
pub struct Options {
    /// `postgres://user@host:port/database?sslmode=...`, several hosts allowed.
    pub url: String,
    /// Instead of one in the URL.
    pub password: Option<String>,
    /// PEM certificates that the server's has to come from.
    pub ca_file: Option<PathBuf>,
    /// How many shards a new store gets. An old one keeps its number.
    pub shards: u16,
    /// Of this process, at most.
    pub connections_max: usize,
    /// Days after which ended messages are dropped; 0 keeps them.
    pub retention_days: u32,
    /// Whether a new store's messages lie in a partition for each week. Not every database has partitions.
    pub partitions: bool,
    /// The youngest journal bytes of the shards led here that are kept although every follower has them.
    pub retain_bytes: u64,
    /// The youngest journal bytes that are also kept in memory, for followers that keep up.
    pub tail_bytes: usize,
    /// What the server has to answer a statement in.
    pub timeout: Duration,
}

impl Options {
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            password: None,
            ca_file: None,
            shards: SHARDS_DEFAULT,
            connections_max: 16,
            retention_days: 90,
            partitions: true,
            retain_bytes: 256 << 20,
            tail_bytes: 32 << 20,
            timeout: Duration::from_secs(5),
        }
    }

    fn connector(&self) -> Result<Connector, AddressError> {
        let address = address::read(&self.url, self.password.as_deref(), self.ca_file.as_deref())?;
        Ok(Connector { address, timeout: self.timeout })
    }
}

impl fmt::Debug for Options {
    /// URL and password are secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("shards", &self.shards).field("ca_file", &self.ca_file).finish_non_exhaustive()
    }
}

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the database's address")]
    Address(#[from] AddressError),
    #[error("{database} cannot be reached: {detail}")]
    Unreachable { database: String, detail: String },
    #[error("{database} does not let us in: {detail}; check user and password")]
    Login { database: String, detail: String },
    #[error("there is no {database}; create it, owned by our user")]
    NoDatabase { database: String },
    #[error(
        "{database} was changed by a newer program: its {series} tables are at {found}, need a program that knows \
         {min_reader}, and this one knows {known}; use that program, or go back to a copy from before the upgrade"
    )]
    Newer { database: String, series: &'static str, found: u32, min_reader: u32, known: u32 },
    #[error("a copy into {database} was not finished; drop it, create it anew, and copy again")]
    Unfinished { database: String },
    #[error("{database} is not empty ({what}); give a new database")]
    NotEmpty { database: String, what: String },
    #[error("a store has 1 to 4096 shards, not {asked}")]
    Shards { asked: u16 },
    #[error("{database}: {detail}")]
    Engine { database: String, detail: String },
    #[error("the store's threads cannot be started")]
    Threads(#[from] std::io::Error),
}

/// Opens the store in a database, and makes or updates its tables. Blocks: call it on a thread that may.
pub fn open(options: &Options) -> Result<Stores, OpenError> {
    open_and_tell(options).map(|(stores, _)| stores)
}

/// The same, and what was done to the tables.
pub fn open_and_tell(options: &Options) -> Result<(Stores, Migrated), OpenError> {
    open_for(options, Purpose::Serve)
}

/// What a store is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Serve,
    /// To be filled: it has to be empty, and says that it is not complete.
    Fill,
}

fn open_for(options: &Options, purpose: Purpose) -> Result<(Stores, Migrated), OpenError> {
    let connector = options.connector()?;
    let released = CancellationToken::new();
    let runtime = engine::runtime()?;
    let readers = options.connections_max.saturating_sub(OWN_CONNECTIONS);
    let engine = Engine::new(connector, readers, runtime, released.clone().drop_guard());
    let (shards, migrated) = on(&engine, {
        let (engine, options) = (Arc::clone(&engine), options.clone());
        async move { schema::prepare(&engine.connector, &options, purpose).await }
    })?;
    let journal = on(&engine, journal::open(Arc::clone(&engine), shards, options.clone()))?;
    let rows = on(&engine, rows::open(Arc::clone(&engine), shards, options.clone()))?;
    let catalog = catalog::open(engine)?;
    let stores = Stores { journal: Arc::new(journal), rows: Arc::new(rows), catalog: Arc::new(catalog), released };
    Ok((stores, migrated))
}

/// Waits for work on the engine's runtime, without a runtime here or beside the one that is.
fn on<T: Send + 'static>(
    engine: &Engine,
    work: impl Future<Output = Result<T, OpenError>> + Send + 'static,
) -> Result<T, OpenError> {
    let (answer, result) = std::sync::mpsc::sync_channel(1);
    engine.handle().spawn(async move {
        let _ = answer.send(work.await);
    });
    result.recv().unwrap_or_else(|_| Err(std::io::Error::other("the store's thread has ended").into()))
}

#[cfg(test)]
mod tests;
