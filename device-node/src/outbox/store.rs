//! The outbox's file: a log of record batches in commit order, and the snapshots that let its beginning be dropped.
//!
//! SQLite serves as the crash-safe, checksummed log. A table per kind of record would cost a page write per device and
//! step, and dozens of microseconds per message; one row per group commit costs about one (docs/adr/0005).

use std::path::Path;

use flotilla_protocol::id::DeviceId;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension, params};
use rustc_hash::FxHashMap;

use super::record::VERSION;
use super::snapshot::{FormError, apply_run, decode_row, decode_state};
use super::state::{Limits, State};

const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS format (version INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS devices (key INTEGER PRIMARY KEY, device BLOB NOT NULL UNIQUE);
    CREATE TABLE IF NOT EXISTS log (seq INTEGER PRIMARY KEY, bytes BLOB NOT NULL);
    CREATE TABLE IF NOT EXISTS snapshots (device INTEGER PRIMARY KEY, upto INTEGER NOT NULL, bytes BLOB NOT NULL);
";

/// Pages of write-ahead log before it is folded into the file: 8 MiB.
const CHECKPOINT_PAGES: i64 = 2048;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("outbox: {0}")]
    Sql(#[from] rusqlite::Error),
    #[error("outbox: {0}")]
    Form(#[from] FormError),
}

impl StoreError {
    /// No space left: worth waiting for.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Sql(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull))
    }
}

/// Everything a starting process finds.
pub(super) struct Loaded {
    pub devices: FxHashMap<DeviceId, u32>,
    pub states: FxHashMap<u32, State>,
    pub last_seq: u64,
    pub log_bytes: u64,
    pub snapshot_bytes: u64,
}

/// What one transaction writes.
#[derive(Default)]
pub(super) struct Transaction {
    pub devices: Vec<(u32, DeviceId)>,
    pub row: Option<(u64, Vec<u8>)>,
    pub snapshots: Vec<Snapshot>,
    pub trim: Option<u64>,
}

pub(super) struct Snapshot {
    pub device: u32,
    pub upto: u64,
    pub bytes: Vec<u8>,
}

pub(super) struct Store(Connection);

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        connection.execute_batch(SCHEMA)?;
        let version: Option<u8> =
            connection.query_row("SELECT version FROM format", [], |row| row.get(0)).optional()?;
        match version {
            None => drop(connection.execute("INSERT INTO format VALUES (?1)", [VERSION])?),
            Some(found) if found > VERSION => return Err(FormError::Version(found).into()),
            Some(_) => {}
        }
        Ok(Self(connection))
    }

    /// A second connection for the compactor: readers do not disturb the writer.
    pub(super) fn open_reader(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?))
    }

    pub(super) fn load(&self, limits: Limits) -> Result<Loaded, StoreError> {
        let mut loaded = Loaded {
            devices: self.devices()?,
            states: FxHashMap::default(),
            last_seq: 0,
            log_bytes: 0,
            snapshot_bytes: 0,
        };
        let mut upto = FxHashMap::default();
        let mut snapshots = self.0.prepare("SELECT device, upto, bytes FROM snapshots")?;
        let mut rows = snapshots.query([])?;
        while let Some(row) = rows.next()? {
            let (device, seq, bytes) = (row.get::<_, u32>(0)?, row.get::<_, i64>(1)? as u64, row.get_ref(2)?);
            let bytes = bytes.as_blob().map_err(|_| FormError::Damaged)?;
            loaded.snapshot_bytes += bytes.len() as u64;
            loaded.last_seq = loaded.last_seq.max(seq);
            upto.insert(device, seq);
            loaded.states.insert(device, decode_state(bytes, limits)?);
        }
        self.each_row(u64::MAX, |seq, bytes| {
            loaded.last_seq = loaded.last_seq.max(seq);
            loaded.log_bytes += bytes.len() as u64;
            decode_row(bytes, |device, run| {
                if upto.get(&device).is_none_or(|upto| *upto < seq) {
                    apply_run(loaded.states.entry(device).or_insert_with(|| State::new(limits)), run)?;
                }
                Ok::<_, StoreError>(())
            })
        })?;
        Ok(loaded)
    }

    /// One device's state, for an agent that is started again within the process.
    pub(super) fn load_device(&self, device: u32, limits: Limits) -> Result<Option<State>, StoreError> {
        // One read transaction: a compaction between the two reads would hide records from both.
        self.0.execute_batch("BEGIN")?;
        let (upto, mut state) = match self.snapshot(device)? {
            Some((upto, bytes)) => (upto, Some(decode_state(&bytes, limits)?)),
            None => (0, None),
        };
        self.each_row(u64::MAX, |seq, bytes| {
            decode_row(bytes, |found, run| {
                if found == device && seq > upto {
                    apply_run(state.get_or_insert_with(|| State::new(limits)), run)?;
                }
                Ok::<_, StoreError>(())
            })?;
            Ok(())
        })?;
        self.0.execute_batch("COMMIT")?;
        Ok(state)
    }

    pub(super) fn snapshot(&self, device: u32) -> Result<Option<(u64, Vec<u8>)>, StoreError> {
        let mut statement = self.0.prepare_cached("SELECT upto, bytes FROM snapshots WHERE device = ?1")?;
        Ok(statement.query_row([device], |row| Ok((row.get::<_, i64>(0)? as u64, row.get(1)?))).optional()?)
    }

    /// Log rows up to `upto`, in order.
    pub(super) fn each_row(
        &self,
        upto: u64,
        mut each: impl FnMut(u64, &[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let mut statement = self.0.prepare_cached("SELECT seq, bytes FROM log WHERE seq <= ?1 ORDER BY seq")?;
        let mut rows = statement.query([i64::try_from(upto).unwrap_or(i64::MAX)])?;
        while let Some(row) = rows.next()? {
            let seq = row.get::<_, i64>(0)? as u64;
            each(seq, row.get_ref(1)?.as_blob().map_err(|_| FormError::Damaged)?)?;
        }
        Ok(())
    }

    /// Durable when it returns `Ok`; without any effect otherwise.
    pub(super) fn commit(&mut self, transaction: &Transaction) -> Result<(), StoreError> {
        let tx = self.0.transaction()?;
        for (key, device) in &transaction.devices {
            tx.prepare_cached("INSERT INTO devices VALUES (?1, ?2)")?.execute(params![key, device.to_bytes()])?;
        }
        if let Some((seq, bytes)) = &transaction.row {
            tx.prepare_cached("INSERT INTO log VALUES (?1, ?2)")?.execute(params![*seq as i64, bytes])?;
        }
        for Snapshot { device, upto, bytes } in &transaction.snapshots {
            tx.prepare_cached("INSERT OR REPLACE INTO snapshots VALUES (?1, ?2, ?3)")?.execute(params![
                device,
                *upto as i64,
                bytes
            ])?;
        }
        if let Some(seq) = transaction.trim {
            tx.prepare_cached("DELETE FROM log WHERE seq <= ?1")?.execute([seq as i64])?;
        }
        tx.commit()?;
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: u32) {
        self.0.pragma_update(None, "max_page_count", pages).unwrap();
    }

    fn devices(&self) -> Result<FxHashMap<DeviceId, u32>, StoreError> {
        let mut statement = self.0.prepare("SELECT key, device FROM devices")?;
        let rows = statement.query_map([], |row| Ok((DeviceId::from_bytes(row.get(1)?), row.get(0)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}
