//! The embedded engine: three SQLite files in one data folder.
//!
//! `journal.db` is the promise: one writer, one device flush per group of commits, nothing else in the file. `flotilla.db`
//! has the rows, `catalog.db` the small tables; so neither bulk row writes nor an audit entry ever stand before a commit.

mod catalog;
pub(super) mod export;
mod folder;
mod journal;
mod pool;
mod rows;
mod worker;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::SHARDS_DEFAULT;
use rusqlite::{Connection, ErrorCode, OpenFlags};
use tokio_util::sync::CancellationToken;

use self::folder::FolderLock;
use super::{StoreError, Stores};

#[derive(Debug, Clone)]
pub struct Options {
    /// How many shards a new store gets. An old one keeps its number.
    pub shards: u16,
    /// The youngest journal bytes that are kept although every follower has them: what live events resume from.
    pub retain_bytes: u64,
    /// The youngest journal bytes that are also kept in memory, for followers that keep up.
    pub tail_bytes: usize,
    /// Connections for row queries; each may use up to 8 MiB of cache.
    pub readers: usize,
    /// The journal's write-ahead log is worked off each time it has grown by this much.
    pub checkpoint_bytes: u64,
    #[cfg(test)]
    pub(crate) faults: Faults,
    /// Pages that each database may have.
    #[cfg(test)]
    pub(crate) page_max: Option<u32>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            shards: SHARDS_DEFAULT,
            retain_bytes: 256 << 20,
            tail_bytes: 32 << 20,
            readers: 3,
            checkpoint_bytes: 16 << 20,
            #[cfg(test)]
            faults: Faults::default(),
            #[cfg(test)]
            page_max: None,
        }
    }
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the data folder {} is in use by process {pid}; stop it, or use another folder", dir.display())]
    InUse { dir: PathBuf, pid: String },
    #[error("the data folder {} cannot be used: {error}", dir.display())]
    Folder { dir: PathBuf, error: std::io::Error },
    #[error(
        "{} was written by a newer program (its version is {found}, this program knows {known}); use that program, \
         or go back to a copy from before the upgrade",
        file.display()
    )]
    Newer { file: PathBuf, found: u32, known: u32 },
    #[error("{} is no store of this program, or it is damaged: {detail}", file.display())]
    NotOurs { file: PathBuf, detail: String },
    #[error("a store has 1 to 4096 shards, not {asked}")]
    Shards { asked: u16 },
    #[error("{}: {detail}", file.display())]
    Engine { file: PathBuf, detail: String },
}

/// Opens the store in a data folder, and makes both when they are not there. Holds the folder's lock until every part of the
/// result is dropped.
pub fn open(dir: &Path, options: &Options) -> Result<Stores, OpenError> {
    let released = CancellationToken::new();
    let lock = Arc::new(folder::lock(dir, released.clone())?);
    let journal = journal::open(&dir.join("journal.db"), options, Arc::clone(&lock))?;
    let shards = super::Journal::shards(&journal);
    let rows = rows::open(&dir.join("flotilla.db"), shards, options, Arc::clone(&lock))?;
    let catalog = catalog::open(&dir.join("catalog.db"), lock)?;
    Ok(Stores { journal: Arc::new(journal), rows: Arc::new(rows), catalog: Arc::new(catalog), released })
}

/// A connection as all of ours are: no surprises from other processes, and waiting for a moment rather than failing.
fn connect(file: &Path, write: bool) -> rusqlite::Result<Connection> {
    let access = if write { OpenFlags::SQLITE_OPEN_READ_WRITE } else { OpenFlags::SQLITE_OPEN_READ_ONLY };
    // One thread uses a connection at a time; we see to that ourselves.
    let connection = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.pragma_update(None, "temp_store", "memory")?;
    connection.pragma_update(None, "trusted_schema", false)?;
    Ok(connection)
}

/// Sets what only an empty file can take, and tells whether it is empty. A write connection comes out in WAL mode.
fn prepare(connection: &Connection, page_bytes: u32) -> rusqlite::Result<bool> {
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    if tables == 0 {
        connection.pragma_update(None, "page_size", page_bytes)?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "wal", |row| row.get::<_, String>(0))?;
    Ok(tables == 0)
}

/// Reads and checks a file's schema version: `user_version`, under our `application_id`.
fn check_version(connection: &Connection, file: &Path, application: i32, known: u32) -> Result<u32, OpenError> {
    let failed = |error: rusqlite::Error| open_error(file, &error);
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let owner: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(failed)?;
    if owner != application {
        let detail = format!("its application id is {owner:#x}");
        return Err(OpenError::NotOurs { file: file.to_owned(), detail });
    }
    if found > known {
        return Err(OpenError::Newer { file: file.to_owned(), found, known });
    }
    Ok(found)
}

/// As full as a test wants it.
#[cfg(test)]
fn limit_pages(connection: &Connection, pages: Option<u32>) {
    if let Some(pages) = pages {
        connection.pragma_update_and_check(None, "max_page_count", pages, |row| row.get::<_, u32>(0)).unwrap();
    }
}

fn open_error(file: &Path, error: &rusqlite::Error) -> OpenError {
    let file = file.to_owned();
    let detail = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => OpenError::NotOurs { file, detail },
        _ => OpenError::Engine { file, detail },
    }
}

fn store_error(error: rusqlite::Error) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Damaged { what: "the database file".into(), detail: error.to_string() }
        }
        _ => StoreError::Unavailable(error.to_string()),
    }
}

/// Where a test lets the journal's device fail.
#[cfg(test)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing was written.
    Commit,
    /// It was written, and the flush failed.
    Sync,
    Reopen,
}

/// The failures to come, each once.
#[cfg(test)]
#[derive(Debug, Clone, Default)]
pub(crate) struct Faults {
    plan: Arc<parking_lot::Mutex<Vec<Fault>>>,
    /// A new limit of pages, from the next group on.
    pages: Arc<parking_lot::Mutex<Option<u32>>>,
}

#[cfg(test)]
impl Faults {
    pub(crate) fn plan(&self, faults: &[Fault]) {
        self.plan.lock().extend(faults);
    }

    pub(crate) fn more_pages(&self, pages: u32) {
        *self.pages.lock() = Some(pages);
    }

    fn take_pages(&self) -> Option<u32> {
        self.pages.lock().take()
    }

    fn strike(&self, here: Fault) -> Result<(), String> {
        let mut faults = self.plan.lock();
        match faults.iter().position(|fault| *fault == here) {
            Some(place) => {
                faults.remove(place);
                Err(format!("injected: {here:?}"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
