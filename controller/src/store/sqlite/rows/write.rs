//! Writes what the rows follower gives, one transaction at a time.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};
use rustc_hash::FxHashMap;

use super::super::{OpenError, check_version, connect, folder, open_error, prepare, store_error};
use super::terms;
use super::{int, key, schema};
use crate::domain::event::Inbound;
use crate::domain::record::MessageRecord;
use crate::store::rows::{Flush, Upsert};
use crate::store::search::{self, Property, class_code};
use crate::store::sqlite::folder::FolderLock;
use crate::store::{StoreError, codec};

const CACHE_KIB: i64 = 48 << 10;
/// The log is worked off when it has this many pages.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Numbers of tenants kept in memory.
const TENANTS_MAX: usize = 100_000;

pub(super) struct RowsWriter {
    connection: Connection,
    /// The write-ahead log, for its device flush.
    wal: File,
    next_message: i64,
    next_inbound: i64,
    tenants: FxHashMap<TenantId, i64>,
    _lock: Arc<FolderLock>,
}

impl RowsWriter {
    pub(super) fn open(path: &Path, shards: u16, lock: Arc<FolderLock>) -> Result<Self, OpenError> {
        let failed = |error: rusqlite::Error| open_error(path, &error);
        let no_file = |error| OpenError::Folder { dir: path.to_owned(), error };
        folder::private(path).map_err(no_file)?;
        let connection = connect(path, true).map_err(failed)?;
        if prepare(&connection, schema::PAGE_BYTES).map_err(failed)? {
            schema::create(&connection, shards).map_err(failed)?;
        }
        check_version(&connection, path, schema::APPLICATION, schema::VERSION)?;
        let found: u16 = connection.query_row("SELECT count(*) FROM shard", [], |row| row.get(0)).map_err(failed)?;
        if found != shards {
            let detail = format!("it has {found} shards and the journal has {shards}: they are not of one store");
            return Err(OpenError::NotOurs { file: path.to_owned(), detail });
        }
        let settle = || {
            connection.pragma_update(None, "synchronous", "normal")?;
            connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
            connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
            // Makes the log exist.
            connection.execute_batch("BEGIN IMMEDIATE; UPDATE shard SET position = position WHERE id = 0; COMMIT")?;
            let next = |sql| connection.query_row(sql, [], |row| row.get::<_, Option<i64>>(0));
            Ok((next("SELECT max(n) FROM message")?, next("SELECT max(n) FROM inbound")?))
        };
        let (message, inbound) = settle().map_err(failed)?;
        let mut wal = path.as_os_str().to_owned();
        wal.push("-wal");
        Ok(Self {
            wal: File::open(&wal).map_err(no_file)?,
            next_message: message.map_or(0, |n| n + 1),
            next_inbound: inbound.map_or(0, |n| n + 1),
            tenants: FxHashMap::default(),
            connection,
            _lock: lock,
        })
    }

    #[cfg(test)]
    pub(super) fn limit_pages(&self, pages: Option<u32>) {
        super::super::limit_pages(&self.connection, pages);
    }

    /// SQLite flushes the log before it copies from it and the file after that, so what is in the log now is all there is to do.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        self.wal.sync_data().map_err(|error| StoreError::Unavailable(error.to_string()))
    }

    pub(super) fn write(&mut self, flush: &Flush) -> Result<(), StoreError> {
        let before = (self.next_message, self.next_inbound);
        let done = self.transact(flush);
        if done.is_err() {
            // Rolled back, numbers and all; what the transaction has taught about tenants may be gone too.
            (self.next_message, self.next_inbound) = before;
            self.tenants.clear();
        }
        done
    }

    fn transact(&mut self, flush: &Flush) -> Result<(), StoreError> {
        if self.tenants.len() > TENANTS_MAX {
            self.tenants.clear();
        }
        let transaction =
            Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate).map_err(store_error)?;
        check_positions(&transaction, flush)?;
        let mut tenants = Tenants { known: &mut self.tenants, transaction: &transaction };
        let mut messages = Messages::new(&transaction, self.next_message).map_err(store_error)?;
        for upsert in &flush.messages {
            messages.upsert(upsert, &mut tenants)?;
        }
        self.next_message = messages.finish().map_err(store_error)?;
        self.next_inbound = write_inbound(&transaction, &flush.inbound, self.next_inbound)?;
        let mut rest = || {
            for (tenant, key, used) in &flush.keys {
                key::remember(&transaction, tenants.number(*tenant)?, key, used)?;
            }
            key::forget(&transaction, flush.now_ms)?;
            let mut position = transaction.prepare_cached("UPDATE shard SET position = ?2 WHERE id = ?1")?;
            for (shard, seq) in &flush.positions {
                position.execute(params![shard.0, int(*seq)])?;
            }
            Ok(())
        };
        rest().map_err(store_error)?;
        transaction.commit().map_err(store_error)
    }
}

/// What a former leader still had to write comes too late, and so does what was built on rows that it has written since.
fn check_positions(transaction: &Transaction<'_>, flush: &Flush) -> Result<(), StoreError> {
    let mut select = transaction.prepare_cached("SELECT position FROM shard WHERE id = ?1").map_err(store_error)?;
    let mut stored = |shard: ShardId| select.query_row([shard.0], |row| super::number(row, 0)).map_err(store_error);
    for &(shard, seq) in &flush.positions {
        let position = stored(shard)?;
        if seq < position {
            return Err(StoreError::Behind { shard, position });
        }
    }
    for &(shard, base) in &flush.bases {
        let position = stored(shard)?;
        if base != position {
            return Err(StoreError::Behind { shard, position });
        }
    }
    Ok(())
}

/// The numbers of the tenants.
struct Tenants<'a> {
    known: &'a mut FxHashMap<TenantId, i64>,
    transaction: &'a Transaction<'a>,
}

impl Tenants<'_> {
    fn number(&mut self, tenant: TenantId) -> rusqlite::Result<i64> {
        if let Some(n) = self.known.get(&tenant) {
            return Ok(*n);
        }
        let id = tenant.to_bytes();
        let mut find = self.transaction.prepare_cached("SELECT n FROM tenant WHERE id = ?1")?;
        let n = match find.query_row([id], |row| row.get(0)).optional()? {
            Some(n) => n,
            None => {
                let mut insert = self.transaction.prepare_cached("INSERT INTO tenant (id) VALUES (?1) RETURNING n")?;
                insert.query_row([id], |row| row.get(0))?
            }
        };
        self.known.insert(tenant, n);
        Ok(n)
    }
}

type Statement<'a> = rusqlite::CachedStatement<'a>;

/// The statements for messages, and what they gather.
struct Messages<'a> {
    insert: Statement<'a>,
    find: Statement<'a>,
    update: Statement<'a>,
    terms: Terms<'a>,
    next: i64,
}

impl<'a> Messages<'a> {
    fn new(transaction: &'a Transaction<'a>, next: i64) -> rusqlite::Result<Self> {
        Ok(Self {
            insert: transaction.prepare_cached(
                "INSERT INTO message (n, state, next_try_ms, record, id, shard, tenant, class, seq, place, expires_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?,
            find: transaction.prepare_cached("SELECT n FROM message WHERE id = ?1")?,
            update: transaction
                .prepare_cached("UPDATE message SET state = ?2, next_try_ms = ?3, record = ?4 WHERE n = ?1")?,
            terms: Terms::new(transaction, "message")?,
            next,
        })
    }

    fn upsert(&mut self, upsert: &Upsert, tenants: &mut Tenants<'_>) -> Result<(), StoreError> {
        let record = upsert.record.as_ref();
        let blob = codec::encode_record(record).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let mut write = || {
            // Also for those said to be new: after an unclean end, what was thought lost may be there.
            let known = if upsert.new { None } else { self.find_row(record)? };
            match known {
                Some(n) => self.change(n, record, &blob),
                None => match self.insert(upsert.shard, record, &blob, tenants) {
                    Err(error) if exists(&error) => match self.find_row(record)? {
                        Some(n) => self.change(n, record, &blob),
                        None => Err(error),
                    },
                    done => done,
                },
            }
        };
        write().map_err(store_error)
    }

    fn find_row(&mut self, record: &MessageRecord) -> rusqlite::Result<Option<i64>> {
        self.find.query_row([record.submission.id.to_bytes()], |row| row.get(0)).optional()
    }

    fn insert(
        &mut self,
        shard: ShardId,
        record: &MessageRecord,
        blob: &[u8],
        tenants: &mut Tenants<'_>,
    ) -> rusqlite::Result<()> {
        let submission = &record.submission;
        let n = self.next;
        self.insert.execute(params![
            n,
            record.state.code(),
            int(record.next_try_ms),
            blob,
            submission.id.to_bytes(),
            shard.0,
            tenants.number(submission.tenant)?,
            class_code(submission.priority),
            int(record.order.0),
            record.order.1,
            int(submission.expires_ms),
        ])?;
        self.next += 1;
        self.terms.add(n, submission.accepted_ms, search::of_new_message(record))?;
        self.terms.add(n, submission.accepted_ms, search::of_any_message(record))
    }

    fn change(&mut self, n: i64, record: &MessageRecord, blob: &[u8]) -> rusqlite::Result<()> {
        self.update.execute(params![n, record.state.code(), int(record.next_try_ms), blob])?;
        self.terms.add(n, record.submission.accepted_ms, search::of_any_message(record))
    }

    fn finish(self) -> rusqlite::Result<i64> {
        self.terms.finish()?;
        Ok(self.next)
    }
}

/// The terms of one table, and the times that its blocks cover.
struct Terms<'a> {
    add: Statement<'a>,
    cover: Statement<'a>,
    times: FxHashMap<i64, (u64, u64)>,
}

impl<'a> Terms<'a> {
    fn new(transaction: &'a Transaction<'a>, table: &str) -> rusqlite::Result<Self> {
        Ok(Self {
            add: transaction.prepare_cached(&format!("INSERT OR IGNORE INTO {table}_term VALUES (?1)"))?,
            cover: transaction.prepare_cached(&format!(
                "INSERT INTO {table}_block VALUES (?1, ?2, ?3) ON CONFLICT (block)
                 DO UPDATE SET from_ms = min(from_ms, excluded.from_ms), until_ms = max(until_ms, excluded.until_ms)"
            ))?,
            times: FxHashMap::default(),
        })
    }

    fn add(&mut self, n: i64, at_ms: u64, properties: impl IntoIterator<Item = Property>) -> rusqlite::Result<()> {
        if n >= terms::N_MAX {
            // 2^39 rows: nobody gets there, and nobody shall get there unnoticed.
            return Err(rusqlite::Error::IntegralValueOutOfRange(0, n));
        }
        let (from, until) = self.times.entry(terms::block_of(n)).or_insert((at_ms, at_ms));
        *from = at_ms.min(*from);
        *until = at_ms.max(*until);
        for property in properties {
            self.add.execute([terms::term(n, property)])?;
        }
        Ok(())
    }

    fn finish(mut self) -> rusqlite::Result<()> {
        for (block, (from, until)) in self.times {
            self.cover.execute(params![block, int(from), int(until)])?;
        }
        Ok(())
    }
}

fn write_inbound(transaction: &Transaction<'_>, all: &[(ShardId, Inbound)], mut next: i64) -> Result<i64, StoreError> {
    if all.is_empty() {
        return Ok(next);
    }
    let mut terms = Terms::new(transaction, "inbound").map_err(store_error)?;
    for (shard, inbound) in all {
        let blob = codec::encode_inbound(inbound).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        let mut write = || {
            let mut insert = transaction.prepare_cached("INSERT OR IGNORE INTO inbound VALUES (?1, ?2, ?3, ?4)")?;
            if insert.execute(params![next, inbound.id.to_bytes(), shard.0, blob])? == 1 {
                terms.add(next, inbound.received_ms, search::of_inbound(inbound))?;
                next += 1;
            }
            let mut position = transaction.prepare_cached(
                "INSERT INTO inbound_position VALUES (?1, ?2, ?3) ON CONFLICT (shard, device)
                 DO UPDATE SET position = max(position, excluded.position)",
            )?;
            position.execute(params![shard.0, inbound.device.to_bytes(), int(inbound.position)])
        };
        write().map_err(store_error)?;
    }
    terms.finish().map_err(store_error)?;
    Ok(next)
}

fn exists(error: &rusqlite::Error) -> bool {
    error.sqlite_error().is_some_and(|failure| failure.code == rusqlite::ErrorCode::ConstraintViolation)
}
