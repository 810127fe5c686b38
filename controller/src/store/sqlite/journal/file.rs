//! The journal's file: its tables and statements.

use std::fs::File;
use std::path::{Path, PathBuf};

use flotilla_protocol::id::{Epoch, ShardId};
use rusqlite::{CachedStatement, Connection, OptionalExtension, params};

use super::super::{OpenError, check_version, connect, folder, open_error, prepare, store_error};
use crate::store::{Batch, CommitError, StoreError, codec};

/// "FLjn"
const APPLICATION: i32 = 0x464c_6a6e;
const VERSION: u32 = 1;
/// Measured against 8 and 16 KiB: a batch of one event costs a tenth less CPU, one of 256 the same.
const PAGE_BYTES: u32 = 4_096;
/// A row's key is its shard above its sequence: each shard's batches lie together, in order.
const SEQ_BITS: u32 = 48;
const SHARDS_MAX: u16 = 4_096;

const SCHEMA: &str = "
    CREATE TABLE shard (
        id INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        last INTEGER NOT NULL,
        -- Encoded bytes ever appended.
        bytes INTEGER NOT NULL,
        -- Deleted up to this sequence, and how many bytes that were.
        trimmed INTEGER NOT NULL,
        trimmed_bytes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE batch (
        -- shard * 2^48 + sequence
        id INTEGER PRIMARY KEY,
        epoch INTEGER NOT NULL,
        payload BLOB NOT NULL
    ) STRICT;
";

/// What the file knows of one shard.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ShardState {
    pub last: u64,
    pub trimmed: u64,
    /// Encoded bytes that are there.
    pub bytes: u64,
}

pub(super) struct JournalFile {
    pub(super) path: PathBuf,
    pub(super) connection: Connection,
    /// The write-ahead log, for its device flush. It stays the same file as long as the connection is open.
    wal: File,
}

impl JournalFile {
    pub(super) fn create_or_open(path: &Path, shards: u16) -> Result<Self, OpenError> {
        if !(1..=SHARDS_MAX).contains(&shards) {
            return Err(OpenError::Shards { asked: shards });
        }
        folder::private(path).map_err(|error| OpenError::Folder { dir: path.to_owned(), error })?;
        let failed = |error: rusqlite::Error| open_error(path, &error);
        let connection = connect(path, true).map_err(failed)?;
        if prepare(&connection, PAGE_BYTES).map_err(failed)? {
            create(&connection, shards).map_err(failed)?;
        }
        check_version(&connection, path, APPLICATION, VERSION)?;
        Self::over(path, connection).map_err(failed)
    }

    /// Opens again after a failure of the device. What the log still shows may never have reached the disk although the
    /// system caches it; writing it into the file and flushing that settles it.
    pub(super) fn reopen(path: &Path) -> rusqlite::Result<Self> {
        let file = Self::over(path, connect(path, true)?)?;
        let busy: i64 = file.connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
        if busy != 0 {
            return Err(sqlite_failure(rusqlite::ffi::SQLITE_BUSY, "a reader keeps the log from being settled"));
        }
        Ok(file)
    }

    fn over(path: &Path, connection: Connection) -> rusqlite::Result<Self> {
        // The device is flushed by `sync`, once per group and with fdatasync: the bundled SQLite would use fsync, which on
        // most file systems also writes the inode for its changed time. All other flushes (log header, checkpoints) are
        // SQLite's own in this mode.
        connection.pragma_update(None, "synchronous", "normal")?;
        connection.pragma_update(None, "wal_autocheckpoint", 0)?;
        connection.pragma_update(None, "cache_size", -16 * 1024)?;
        // Makes the log exist, and takes in what it holds.
        connection.execute_batch("BEGIN IMMEDIATE; UPDATE shard SET epoch = epoch WHERE id = 0; COMMIT")?;
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        let wal =
            File::open(&wal).map_err(|error| sqlite_failure(rusqlite::ffi::SQLITE_CANTOPEN, &error.to_string()))?;
        Ok(Self { path: path.to_owned(), connection, wal })
    }

    pub(super) fn sync(&self) -> std::io::Result<()> {
        self.wal.sync_data()
    }

    pub(super) fn states(&self) -> rusqlite::Result<Vec<ShardState>> {
        let mut all = self.connection.prepare("SELECT last, trimmed, bytes - trimmed_bytes FROM shard ORDER BY id")?;
        let states = all.query_map([], |row| {
            Ok(ShardState { last: number(row, 0)?, trimmed: number(row, 1)?, bytes: number(row, 2)? })
        })?;
        states.collect()
    }
}

fn create(connection: &Connection, shards: u16) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(SCHEMA)?;
    for shard in 0..shards {
        transaction.execute("INSERT INTO shard VALUES (?1, 0, 0, 0, 0, 0)", [shard])?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// The statements of one group of commits, inside its transaction.
pub(super) struct Group<'a> {
    connection: &'a Connection,
    advance: CachedStatement<'a>,
    append: CachedStatement<'a>,
}

impl<'a> Group<'a> {
    pub(super) fn begin(connection: &'a Connection) -> rusqlite::Result<Self> {
        connection.prepare_cached("BEGIN IMMEDIATE")?.execute([])?;
        Ok(Self {
            connection,
            advance: connection.prepare_cached(
                "UPDATE shard SET last = last + 1, bytes = bytes + ?4 WHERE id = ?1 AND epoch = ?2 AND last = ?3 - 1",
            )?,
            append: connection.prepare_cached("INSERT INTO batch VALUES (?1, ?2, ?3)")?,
        })
    }

    /// The inner result is about this batch alone.
    pub(super) fn append(&mut self, batch: &Batch, payload: &[u8]) -> rusqlite::Result<Result<(), CommitError>> {
        let (shard, seq, epoch) = (batch.shard, batch.seq, batch.epoch);
        if seq == 0 || seq >= 1 << SEQ_BITS {
            return Ok(Err(self.refusal(shard, epoch)?));
        }
        let moved = self.advance.execute(params![shard.0, signed(epoch.0), signed(seq), payload.len() as i64])?;
        if moved == 0 {
            return Ok(Err(self.refusal(shard, epoch)?));
        }
        self.append.execute(params![key(shard, seq), signed(epoch.0), payload])?;
        Ok(Ok(()))
    }

    fn refusal(&self, shard: ShardId, epoch: Epoch) -> rusqlite::Result<CommitError> {
        let mut state = self.connection.prepare_cached("SELECT epoch, last FROM shard WHERE id = ?1")?;
        let (current, last) = state.query_row([shard.0], |row| Ok((number(row, 0)?, number(row, 1)?)))?;
        Ok(if current == epoch.0 {
            CommitError::OutOfOrder { shard, expected: last + 1 }
        } else {
            CommitError::Fenced { shard, epoch: Epoch(current) }
        })
    }

    pub(super) fn take(&mut self, shard: ShardId, epoch: Epoch) -> rusqlite::Result<Result<u64, CommitError>> {
        let mut raise = self
            .connection
            .prepare_cached("UPDATE shard SET epoch = ?2 WHERE id = ?1 AND epoch <= ?2 RETURNING last")?;
        match raise.query_row(params![shard.0, signed(epoch.0)], |row| number(row, 0)).optional()? {
            Some(last) => Ok(Ok(last)),
            None => Ok(Err(self.refusal(shard, epoch)?)),
        }
    }

    /// Deletes batches from the oldest on, as long as the budget lasts. Answers how far it came and how many bytes those were.
    pub(super) fn delete(
        &mut self,
        shard: ShardId,
        from: u64,
        up_to: u64,
        budget: u64,
    ) -> rusqlite::Result<(u64, u64)> {
        let mut delete = self.connection.prepare_cached("DELETE FROM batch WHERE id = ?1 RETURNING length(payload)")?;
        let (mut done, mut bytes) = (from, 0);
        while done < up_to && bytes < budget {
            let found = delete.query_row([key(shard, done + 1)], |row| number(row, 0)).optional()?;
            bytes += found.unwrap_or(0);
            done += 1;
        }
        let mut note = self
            .connection
            .prepare_cached("UPDATE shard SET trimmed = ?2, trimmed_bytes = trimmed_bytes + ?3 WHERE id = ?1")?;
        note.execute(params![shard.0, signed(done), signed(bytes)])?;
        Ok((done, bytes))
    }

    pub(super) fn commit(self) -> rusqlite::Result<()> {
        self.connection.prepare_cached("COMMIT")?.execute([])?;
        Ok(())
    }
}

pub(super) fn epochs(connection: &Connection) -> rusqlite::Result<Vec<Epoch>> {
    let mut all = connection.prepare_cached("SELECT epoch FROM shard ORDER BY id")?;
    let epochs = all.query_map([], |row| number(row, 0).map(Epoch))?;
    epochs.collect()
}

/// The batches after a sequence, up to `last`.
pub(super) fn read(
    connection: &Connection,
    shard: ShardId,
    after: u64,
    last: u64,
    bytes_max: usize,
) -> Result<Vec<Batch>, StoreError> {
    if after >= last {
        return Ok(Vec::new());
    }
    let sql = "SELECT id, epoch, payload FROM batch WHERE id > ?1 AND id <= ?2 ORDER BY id";
    let mut select = connection.prepare_cached(sql).map_err(store_error)?;
    let mut rows = select.query([key(shard, after), key(shard, last)]).map_err(store_error)?;
    let mut batches: Vec<Batch> = Vec::new();
    let mut room = bytes_max;
    while let Some(row) = rows.next().map_err(store_error)? {
        let seq = number(row, 0).map_err(store_error)? & ((1 << SEQ_BITS) - 1);
        let epoch = number(row, 1).map(Epoch).map_err(store_error)?;
        let payload = row.get_ref(2).map_err(store_error)?;
        let payload = payload.as_blob().map_err(|error| damaged(shard, seq, error))?;
        let expected = after + 1 + batches.len() as u64;
        if seq != expected && batches.is_empty() {
            return Err(StoreError::Trimmed { shard, up_to: seq - 1 });
        }
        if seq != expected {
            return Err(damaged(shard, expected, "it is missing"));
        }
        if !batches.is_empty() && payload.len() > room {
            break;
        }
        room = room.saturating_sub(payload.len());
        let events = codec::decode_events(payload).map_err(|error| damaged(shard, seq, error))?;
        batches.push(Batch { shard, epoch, seq, events });
    }
    if batches.is_empty() {
        return Err(StoreError::Trimmed { shard, up_to: last });
    }
    Ok(batches)
}

fn key(shard: ShardId, seq: u64) -> i64 {
    (i64::from(shard.0) << SEQ_BITS) | signed(seq & ((1 << SEQ_BITS) - 1))
}

fn signed(value: u64) -> i64 {
    value.cast_signed()
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::cast_unsigned)
}

fn damaged(shard: ShardId, seq: u64, detail: impl ToString) -> StoreError {
    StoreError::Damaged { what: format!("batch {seq} of shard {shard}"), detail: detail.to_string() }
}

fn sqlite_failure(code: i32, detail: &str) -> rusqlite::Error {
    rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(detail.to_owned()))
}
