//! The catalog: the same texts as on SQLite, and the same promise that writing transactions run one after the other.
//!
//! A body runs once and cannot be asked to run again, so conflicts must not happen: every writing transaction of every
//! controller first locks one row. One thread of ours has the connection; bodies that wait for it share a transaction, each
//! behind a savepoint of its own, so that a rush of small writes costs one lock and one flush, and none of them loses more than
//! itself. Reading transactions see one moment and wait for nobody.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustc_hash::FxHashMap;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Column, Statement};

use super::OpenError;
use super::engine::Engine;
use super::schema::LOCK_CATALOG;
use super::session::{Connector, Failure, Session};
use crate::store::{Catalog, ROWS_MAX, Row, SqlError, Tx, TxBody, Value};

/// Most bodies that wait; callers beyond that wait for their turn to wait.
const WAITING_MAX: usize = 1_024;
/// Bodies that share a transaction, and how long the first of them waits for that at most.
const SHARE_MAX: usize = 64;
const SHARE_FOR: Duration = Duration::from_millis(20);
/// Prepared statements of one connection.
const STATEMENTS_MAX: usize = 256;

type Reply = oneshot::Sender<Result<(), SqlError>>;

pub(super) struct PostgresCatalog {
    jobs: Option<Sender<(TxBody, Reply)>>,
    room: Semaphore,
    thread: Option<JoinHandle<()>>,
    /// Connections with their statements, for reading.
    idle: Arc<parking_lot::Mutex<Vec<Prepared>>>,
    readers: Arc<Semaphore>,
    engine: Arc<Engine>,
}

/// Connections that only the catalog reads with; each has its own statements.
const READERS: usize = 2;

pub(super) fn open(engine: Arc<Engine>) -> Result<PostgresCatalog, OpenError> {
    let (jobs, inbox) = channel();
    let (connector, handle) = (engine.connector.clone(), engine.handle().clone());
    let writer = CatalogWriter { connector, handle, prepared: None };
    let thread = std::thread::Builder::new().name("catalog".into()).spawn(move || writer.run(&inbox))?;
    Ok(PostgresCatalog {
        jobs: Some(jobs),
        room: Semaphore::new(WAITING_MAX),
        thread: Some(thread),
        idle: Arc::default(),
        readers: Arc::new(Semaphore::new(READERS)),
        engine,
    })
}

impl Drop for PostgresCatalog {
    /// Waits for the bodies under way.
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Catalog for PostgresCatalog {
    fn run_boxed(&self, body: TxBody) -> BoxFuture<'_, Result<(), SqlError>> {
        async move {
            let ended = || SqlError::Unavailable("the catalog's thread has ended".into());
            let _room = self.room.acquire().await.map_err(|_| ended())?;
            let (reply, answer) = oneshot::channel();
            self.jobs.as_ref().ok_or_else(ended)?.send((body, reply)).map_err(|_| ended())?;
            answer.await.unwrap_or_else(|_| Err(ended()))
        }
        .boxed()
    }

    fn read_boxed(&self, body: TxBody) -> BoxFuture<'_, Result<(), SqlError>> {
        async move {
            let permit = Arc::clone(&self.readers).acquire_owned().await;
            let permit = permit.map_err(|_| SqlError::Unavailable("the store is closed".into()))?;
            let (idle, engine) = (Arc::clone(&self.idle), Arc::clone(&self.engine));
            let done = self.engine.handle().spawn_blocking(move || {
                let kept = idle.lock().pop().filter(|prepared| !prepared.session.is_closed());
                let handle = engine.handle();
                let mut prepared = match kept {
                    Some(prepared) => prepared,
                    None => Prepared::connect(&engine.connector, handle)?,
                };
                let result = read(&mut prepared, handle, body);
                if result.is_ok() {
                    idle.lock().push(prepared);
                }
                drop(permit);
                result
            });
            done.await.unwrap_or_else(|error| Err(SqlError::Unavailable(format!("a query was aborted: {error}"))))
        }
        .boxed()
    }
}

fn read(prepared: &mut Prepared, handle: &Handle, body: TxBody) -> Result<(), SqlError> {
    handle
        .block_on(prepared.session.batch("BEGIN TRANSACTION READ ONLY ISOLATION LEVEL REPEATABLE READ"))
        .map_err(sql_error)?;
    let (result, _) = run_body(prepared, handle, body);
    // Nothing was written: how it ends matters only for the next one.
    handle.block_on(prepared.session.batch("ROLLBACK")).map_err(sql_error)?;
    result
}

/// Runs a body; tells also whether it wants to keep what it did.
fn run_body(prepared: &mut Prepared, handle: &Handle, body: TxBody) -> (Result<(), SqlError>, bool) {
    let mut tx = PostgresTx { prepared, handle, failed: None };
    let wants = std::panic::catch_unwind(AssertUnwindSafe(|| body(&mut tx)));
    match (wants, tx.failed) {
        (Ok(true), None) => (Ok(()), true),
        // The server has given the transaction up with its first error; a body that goes on all the same has written nothing.
        (Ok(true), Some(error)) => (Err(error), false),
        (Ok(false), _) => (Ok(()), false),
        (Err(_), _) => (Err(SqlError::Unavailable("the transaction panicked".into())), false),
    }
}

/// The thread that writes.
struct CatalogWriter {
    connector: Connector,
    handle: Handle,
    prepared: Option<Prepared>,
}

impl CatalogWriter {
    fn run(mut self, inbox: &Receiver<(TxBody, Reply)>) {
        for (body, reply) in inbox {
            let mut done = Vec::new();
            match self.transact(body, reply, inbox, &mut done) {
                Ok(()) => done.into_iter().for_each(|(reply, result)| drop(reply.send(result))),
                Err(error) => {
                    // None of them is there, or it is not known: each is told the same.
                    self.prepared = None;
                    for (reply, result) in done {
                        let _ = reply.send(result.and(Err(error.clone())));
                    }
                }
            }
        }
    }

    /// One transaction for a body and those that come while it runs.
    fn transact(
        &mut self,
        body: TxBody,
        reply: Reply,
        inbox: &Receiver<(TxBody, Reply)>,
        done: &mut Vec<(Reply, Result<(), SqlError>)>,
    ) -> Result<(), SqlError> {
        let handle = self.handle.clone();
        if let Err(error) = self.begin() {
            done.push((reply, Err(error.clone())));
            return Err(error);
        }
        let Some(prepared) = &mut self.prepared else { return Err(SqlError::Unavailable("no connection".into())) };
        let (until, mut next) = (Instant::now() + SHARE_FOR, Some((body, reply)));
        let mut ended = Ok(());
        while let Some((body, reply)) = next.take() {
            let (result, keep) = run_body(prepared, &handle, body);
            done.push((reply, result));
            let and_then = if keep { "RELEASE SAVEPOINT body" } else { "ROLLBACK TO SAVEPOINT body" };
            ended = handle.block_on(prepared.session.batch(and_then));
            if ended.is_err() {
                break;
            }
            if done.len() < SHARE_MAX && Instant::now() < until {
                next = inbox.try_recv().ok();
            }
            if next.is_some() {
                ended = handle.block_on(prepared.session.batch("SAVEPOINT body"));
                if ended.is_err() {
                    break;
                }
            }
        }
        if let (Err(failure), Some((_, reply))) = (&ended, next) {
            done.push((reply, Err(sql_error(failure.clone()))));
        }
        ended.map_err(sql_error)?;
        handle.block_on(prepared.session.batch("COMMIT")).map_err(|failure| match failure {
            Failure::Lost(why) => {
                SqlError::Unavailable(format!("it is not known whether the transaction was committed: {why}"))
            }
            failure => sql_error(failure),
        })
    }

    /// A transaction that is the only one of its kind, everywhere. Nothing of a body has run, so this may be tried again.
    fn begin(&mut self) -> Result<(), SqlError> {
        let begin = format!(
            "BEGIN ISOLATION LEVEL READ COMMITTED; SELECT id FROM flotilla_lock WHERE id = {LOCK_CATALOG} FOR UPDATE; SAVEPOINT body"
        );
        for again in [true, false] {
            let prepared = match self.prepared.take().filter(|prepared| !prepared.session.is_closed()) {
                Some(prepared) => prepared,
                None => Prepared::connect(&self.connector, &self.handle)?,
            };
            match self.handle.block_on(prepared.session.batch(&begin)) {
                Ok(()) => {
                    self.prepared = Some(prepared);
                    return Ok(());
                }
                // A connection that had died unnoticed, or a collision: once more, on a new one.
                Err(failure) if again && (failure.collided() || matches!(failure, Failure::Lost(_))) => {}
                Err(failure) => return Err(sql_error(failure)),
            }
        }
        Err(SqlError::Unavailable("no connection".into()))
    }
}

/// A connection with the statements that were prepared on it, by text and types.
struct Prepared {
    session: Session,
    statements: FxHashMap<(Box<str>, Vec<Kind>), Statement>,
}

/// What a parameter is; a null is what its place needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Null,
    Int,
    Text,
    Blob,
}

impl Kind {
    fn of(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Int(_) => Self::Int,
            Value::Text(_) => Self::Text,
            Value::Blob(_) => Self::Blob,
        }
    }

    fn type_(self) -> Type {
        match self {
            Self::Null => Type::UNKNOWN,
            Self::Int => Type::INT8,
            Self::Text => Type::TEXT,
            Self::Blob => Type::BYTEA,
        }
    }
}

impl Prepared {
    fn connect(connector: &Connector, handle: &Handle) -> Result<Self, SqlError> {
        let session = handle.block_on(connector.connect()).map_err(sql_error)?;
        Ok(Self { session, statements: FxHashMap::default() })
    }

    async fn statement(&mut self, sql: &str, params: &[Value]) -> Result<Statement, Failure> {
        let kinds: Vec<Kind> = params.iter().map(Kind::of).collect();
        let key = (Box::from(sql), kinds);
        if let Some(statement) = self.statements.get(&key) {
            return Ok(statement.clone());
        }
        let types: Vec<Type> = key.1.iter().map(|kind| kind.type_()).collect();
        let client = &self.session.client;
        let statement = self.session.within(client.prepare_typed(sql, &types)).await?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.clear();
        }
        self.statements.insert(key, statement.clone());
        Ok(statement)
    }

    async fn query(&mut self, sql: &str, params: &[Value]) -> Result<Answer, SqlError> {
        let statement = self.statement(sql, params).await.map_err(sql_error)?;
        let wanted = statement.params().len();
        if wanted != params.len() {
            return Err(SqlError::Statement(format!("it has {wanted} parameters, {} are given", params.len())));
        }
        let asked = async {
            let stream =
                self.session.client.query_raw(&statement, params.iter().map(|value| value as &(dyn ToSql + Sync)));
            let stream = stream.await?;
            tokio::pin!(stream);
            let mut rows = Vec::new();
            while rows.len() <= ROWS_MAX
                && let Some(row) = futures_util::StreamExt::next(&mut stream).await
            {
                rows.push(row?);
            }
            Ok((rows, stream.rows_affected()))
        };
        let (rows, affected) = self.session.within(asked).await.map_err(sql_error)?;
        Ok(Answer { statement, rows, affected: affected.unwrap_or(0) })
    }
}

struct Answer {
    statement: Statement,
    rows: Vec<tokio_postgres::Row>,
    affected: u64,
}

struct PostgresTx<'a> {
    prepared: &'a mut Prepared,
    handle: &'a Handle,
    failed: Option<SqlError>,
}

impl PostgresTx<'_> {
    fn ask(&mut self, sql: &str, params: &[Value]) -> Result<Answer, SqlError> {
        let answer = self.handle.block_on(self.prepared.query(sql, params));
        if let Err(error) = &answer {
            self.failed.get_or_insert_with(|| error.clone());
        }
        answer
    }
}

impl Tx for PostgresTx<'_> {
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, SqlError> {
        self.ask(sql, params).map(|answer| answer.affected)
    }

    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, SqlError> {
        let answer = self.ask(sql, params)?;
        if answer.rows.len() > ROWS_MAX {
            return Err(SqlError::TooManyRows);
        }
        let described = answer.statement.columns();
        let columns: Arc<[Box<str>]> = described.iter().map(|column| Box::from(column.name())).collect();
        let row = |row: &tokio_postgres::Row| {
            let values = described.iter().enumerate().map(|(place, column)| value(row, place, column));
            Ok(Row::new(Arc::clone(&columns), values.collect::<Result<_, _>>()?))
        };
        answer.rows.iter().map(row).collect()
    }
}

/// A column of any type that the portable texts can give.
fn value(row: &tokio_postgres::Row, place: usize, column: &Column) -> Result<Value, SqlError> {
    let wrong = |expected| SqlError::Type { column: column.name().to_owned(), expected };
    let raw: Option<Raw<'_>> = row.try_get(place).map_err(|_| wrong("a whole number, a text or a blob"))?;
    let Some(Raw(bytes)) = raw else { return Ok(Value::Null) };
    let found = match *column.type_() {
        Type::INT8 => bytes.try_into().ok().map(i64::from_be_bytes).map(Value::Int),
        Type::INT4 => bytes.try_into().ok().map(i32::from_be_bytes).map(Value::from),
        Type::INT2 => bytes.try_into().ok().map(i16::from_be_bytes).map(|n| Value::Int(n.into())),
        Type::BOOL => bytes.first().map(|byte| Value::Int(i64::from(*byte != 0))),
        Type::NUMERIC => whole(bytes).map(Value::Int),
        Type::BYTEA => Some(Value::Blob(bytes.to_vec())),
        _ => std::str::from_utf8(bytes).ok().map(|text| Value::Text(text.to_owned())),
    };
    found.ok_or_else(|| wrong("a whole number, a text or a blob"))
}

/// The bytes as they came.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(type_: &Type) -> bool {
        [
            Type::INT8,
            Type::INT4,
            Type::INT2,
            Type::BOOL,
            Type::NUMERIC,
            Type::BYTEA,
            Type::TEXT,
            Type::VARCHAR,
            Type::BPCHAR,
            Type::NAME,
            Type::UNKNOWN,
        ]
        .contains(type_)
    }
}

/// A decimal number without a fraction, which is what the sum of 64-bit numbers is: digits of base 10,000, their weight, the
/// sign, and how many decimals are shown.
fn whole(bytes: &[u8]) -> Option<i64> {
    let half = |place: usize| Some(i16::from_be_bytes(bytes.get(place..place + 2)?.try_into().ok()?));
    let (digits, weight, sign, scale) = (half(0)?, half(2)?, half(4)?, half(6)?);
    if scale != 0 || (sign != 0 && sign != 0x4000) {
        return None;
    }
    let mut value: i128 = 0;
    for place in 0..=weight.max(-1) {
        let digit = if place < digits { half(8 + 2 * place as usize)? } else { 0 };
        value = value.checked_mul(10_000)?.checked_add(digit.into())?;
    }
    i64::try_from(if sign == 0 { value } else { -value }).ok()
}

impl ToSql for Value {
    fn to_sql(&self, type_: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Int(value) => value.to_sql(type_, out),
            Self::Text(value) => value.to_sql(type_, out),
            Self::Blob(value) => value.to_sql(type_, out),
        }
    }

    /// The statement was prepared with the value's own type.
    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn sql_error(failure: Failure) -> SqlError {
    let Failure::Refused { state, message } = failure else { return SqlError::Unavailable(failure.to_string()) };
    if state == SqlState::UNIQUE_VIOLATION {
        return SqlError::Exists { what: message };
    }
    if state == SqlState::DISK_FULL {
        return SqlError::Full;
    }
    // Classes of SQLSTATE: the values do not fit, or a constraint; the statement is wrong, or not allowed here.
    match state.code().get(..2) {
        Some("22" | "23") => SqlError::Constraint { what: message },
        Some("42" | "25" | "0A") => SqlError::Statement(message),
        _ => SqlError::Unavailable(message),
    }
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn sums_are_read() {
        let numeric = |digits: &[i16], weight: i16, sign: i16| {
            let mut bytes = Vec::new();
            for half in [digits.len() as i16, weight, sign, 0].iter().chain(digits) {
                bytes.extend(half.to_be_bytes());
            }
            bytes
        };
        assert_eq!(whole(&numeric(&[], 0, 0)), Some(0));
        assert_eq!(whole(&numeric(&[3], 0, 0)), Some(3));
        assert_eq!(whole(&numeric(&[1, 2345], 1, 0x4000)), Some(-12_345));
        assert_eq!(whole(&numeric(&[7], 2, 0)), Some(700_000_000), "zeros at the end are not sent");
        assert_eq!(whole(&numeric(&[9; 6], 5, 0)), None, "beyond 64 bits");
        assert_eq!(whole(&[0, 1]), None);
    }
}
