//! The catalog in its own file: small tables, full safety, one writing thread and a few readers.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, ErrorCode, Statement};

use super::folder::{self, FolderLock};
use super::pool::Pool;
use super::worker::Worker;
use super::{OpenError, check_version, connect, open_error, prepare};
use crate::store::migrations::{self, Migration, SQLITE};
use crate::store::{Catalog, ROWS_MAX, Row, SqlError, StoreError, Tx, TxBody, Value};

/// "FLct"
const APPLICATION: i32 = 0x464c_6374;
const PAGE_BYTES: u32 = 4_096;
const READERS: usize = 2;
const READER_CACHE_KIB: u32 = 4 << 10;

pub(super) struct SqliteCatalog {
    pool: Pool,
    writer: Worker<(Connection, Arc<FolderLock>)>,
}

pub(super) fn open(path: &Path, lock: Arc<FolderLock>) -> Result<SqliteCatalog, OpenError> {
    open_with(path, lock, migrations::CATALOG)
}

pub(super) fn open_with(path: &Path, lock: Arc<FolderLock>, steps: &[Migration]) -> Result<SqliteCatalog, OpenError> {
    folder::private(path).map_err(|error| OpenError::Folder { dir: path.to_owned(), error })?;
    let failed = |error: rusqlite::Error| open_error(path, &error);
    let mut connection = connect(path, true).map_err(failed)?;
    if prepare(&connection, PAGE_BYTES).map_err(failed)? {
        connection.pragma_update(None, "application_id", APPLICATION).map_err(failed)?;
    }
    connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
    migrate(&mut connection, path, steps)?;
    let pool = Pool::new(path, READERS, READER_CACHE_KIB, Arc::clone(&lock));
    let writer = Worker::start("catalog", 0, (connection, lock))
        .map_err(|error| OpenError::Engine { file: path.to_owned(), detail: error.to_string() })?;
    Ok(SqliteCatalog { pool, writer })
}

/// Applies the steps that are missing, each in a transaction of its own. `user_version` is the number of the last one.
fn migrate(connection: &mut Connection, path: &Path, steps: &[Migration]) -> Result<(), OpenError> {
    let done = check_version(connection, path, APPLICATION, steps.len() as u32)?;
    for step in steps.iter().filter(|step| step.number > done) {
        let apply = |connection: &mut Connection| {
            let transaction = connection.transaction()?;
            transaction.execute_batch(&step.text(SQLITE))?;
            transaction.pragma_update(None, "user_version", step.number)?;
            transaction.commit()
        };
        apply(connection).map_err(|error| OpenError::Engine {
            file: PathBuf::from(path),
            detail: format!("migration {} failed: {error}", step.name),
        })?;
    }
    Ok(())
}

impl Catalog for SqliteCatalog {
    fn run_boxed(&self, body: TxBody) -> BoxFuture<'_, Result<(), SqlError>> {
        async move {
            let done = self.writer.run(move |(connection, _)| transact(connection, "BEGIN IMMEDIATE", body)).await;
            done.unwrap_or_else(|_| Err(SqlError::Unavailable("its thread has ended".into())))
        }
        .boxed()
    }

    fn read_boxed(&self, body: TxBody) -> BoxFuture<'_, Result<(), SqlError>> {
        async move {
            let done = self.pool.query(move |connection| Ok(transact(connection, "BEGIN", body))).await;
            done.unwrap_or_else(|error| Err(pool_error(error)))
        }
        .boxed()
    }
}

fn pool_error(error: StoreError) -> SqlError {
    match error {
        StoreError::Full => SqlError::Full,
        error => SqlError::Unavailable(error.to_string()),
    }
}

fn transact(connection: &Connection, begin: &str, body: TxBody) -> Result<(), SqlError> {
    connection.execute_batch(begin).map_err(sql_error)?;
    let mut tx = SqliteTx { connection };
    let wants = std::panic::catch_unwind(AssertUnwindSafe(|| body(&mut tx)));
    let result = match wants {
        Ok(true) => connection.execute_batch("COMMIT").map_err(sql_error),
        Ok(false) => Ok(()),
        Err(_) => Err(SqlError::Unavailable("the transaction panicked".into())),
    };
    // Also after a failed COMMIT: the next transaction starts on a clean connection.
    if !connection.is_autocommit() {
        connection.execute_batch("ROLLBACK").map_err(sql_error)?;
    }
    result
}

struct SqliteTx<'a> {
    connection: &'a Connection,
}

impl Tx for SqliteTx<'_> {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, SqlError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(sql_error)?;
        bind(&mut statement, params)?;
        if statement.column_count() > 0 {
            // With RETURNING, every row has to be stepped over for all changes to happen.
            let mut rows = statement.raw_query();
            let mut changed = 0;
            while rows.next().map_err(sql_error)?.is_some() {
                changed += 1;
            }
            return Ok(changed);
        }
        statement.raw_execute().map(|changed| changed as u64).map_err(sql_error)
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, SqlError> {
        let mut statement = self.connection.prepare_cached(sql).map_err(sql_error)?;
        bind(&mut statement, params)?;
        let columns: Arc<[Box<str>]> = statement.column_names().map(Box::from).collect();
        let mut rows = statement.raw_query();
        let mut found = Vec::new();
        while let Some(row) = rows.next().map_err(sql_error)? {
            if found.len() == ROWS_MAX {
                return Err(SqlError::TooManyRows);
            }
            let values = (0..columns.len()).map(|place| value(row, place, &columns));
            let values = values.collect::<Result<_, _>>()?;
            found.push(Row::new(Arc::clone(&columns), values));
        }
        Ok(found)
    }
}

/// SQLite numbers `$1` and the like by their first appearance, so they are found by name.
fn bind(statement: &mut Statement<'_>, params: &[Value]) -> Result<(), SqlError> {
    let wanted = statement.parameter_count();
    if wanted != params.len() {
        return Err(SqlError::Statement(format!("it has {wanted} parameters, {} are given", params.len())));
    }
    for (place, param) in params.iter().enumerate() {
        let name = format!("${}", place + 1);
        let index = statement.parameter_index(&name).map_err(sql_error)?;
        let index = index.ok_or_else(|| SqlError::Statement(format!("the parameter {name} is not used")))?;
        let bound = match param {
            Value::Null => statement.raw_bind_parameter(index, rusqlite::types::Null),
            Value::Int(value) => statement.raw_bind_parameter(index, value),
            Value::Text(value) => statement.raw_bind_parameter(index, value),
            Value::Blob(value) => statement.raw_bind_parameter(index, value),
        };
        bound.map_err(sql_error)?;
    }
    Ok(())
}

fn value(row: &rusqlite::Row<'_>, place: usize, columns: &[Box<str>]) -> Result<Value, SqlError> {
    let wrong = |expected| SqlError::Type { column: columns[place].to_string(), expected };
    match row.get_ref(place).map_err(sql_error)? {
        ValueRef::Null => Ok(Value::Null),
        ValueRef::Integer(value) => Ok(Value::Int(value)),
        ValueRef::Text(text) => String::from_utf8(text.to_vec()).map(Value::Text).map_err(|_| wrong("UTF-8")),
        ValueRef::Blob(bytes) => Ok(Value::Blob(bytes.to_vec())),
        ValueRef::Real(_) => Err(wrong("a whole number, a text or a blob")),
    }
}

fn sql_error(error: rusqlite::Error) -> SqlError {
    let what = error.to_string();
    match error.sqlite_error() {
        Some(failure) => match (failure.code, failure.extended_code) {
            (
                ErrorCode::ConstraintViolation,
                rusqlite::ffi::SQLITE_CONSTRAINT_UNIQUE | rusqlite::ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
            ) => SqlError::Exists { what },
            (ErrorCode::ConstraintViolation, _) => SqlError::Constraint { what },
            (ErrorCode::DiskFull, _) => SqlError::Full,
            (ErrorCode::Unknown | ErrorCode::ReadOnly | ErrorCode::TypeMismatch, _) => SqlError::Statement(what),
            _ => SqlError::Unavailable(what),
        },
        None => SqlError::Statement(what),
    }
}
