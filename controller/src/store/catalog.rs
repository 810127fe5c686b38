//! The catalog's seam: ordinary tables (tenants, keys, devices...) by one SQL text on every engine.
//!
//! The portable part of SQL only: parameters are `$1`..`$n`; `INSERT .. ON CONFLICT .. DO UPDATE`, `RETURNING`, `CASE` and
//! common table expressions are fine; times are Unix numbers with their unit in the column's name; ids are 16-byte blobs.

use std::sync::Arc;

use futures_util::future::BoxFuture;

/// What goes in and out of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    Null,
    Int(i64),
    Text(String),
    Blob(Vec<u8>),
}

macro_rules! value_from {
    ($($from:ty => |$v:ident| $value:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($v: $from) -> Self {
                $value
            }
        }
    )*};
}

value_from! {
    i64 => |v| Self::Int(v);
    i32 => |v| Self::Int(v.into());
    u32 => |v| Self::Int(v.into());
    u16 => |v| Self::Int(v.into());
    u8 => |v| Self::Int(v.into());
    // Times and counters: far below 2^63. What is above is kept at the top, not turned negative.
    u64 => |v| Self::Int(i64::try_from(v).unwrap_or(i64::MAX));
    bool => |v| Self::Int(v.into());
    &str => |v| Self::Text(v.to_owned());
    String => |v| Self::Text(v);
    &String => |v| Self::Text(v.clone());
    Box<str> => |v| Self::Text(v.into());
    Vec<u8> => |v| Self::Blob(v);
    &[u8] => |v| Self::Blob(v.to_vec());
    flotilla_protocol::id::TenantId => |v| Self::Blob(v.to_bytes().to_vec());
    flotilla_protocol::id::DeviceId => |v| Self::Blob(v.to_bytes().to_vec());
    flotilla_protocol::id::SimId => |v| Self::Blob(v.to_bytes().to_vec());
    flotilla_protocol::id::EnrollmentId => |v| Self::Blob(v.to_bytes().to_vec());
    flotilla_protocol::id::KeyId => |v| Self::Blob(v.to_bytes().to_vec());
    flotilla_protocol::id::MessageId => |v| Self::Blob(v.to_bytes().to_vec());
    flotilla_protocol::id::InboundId => |v| Self::Blob(v.to_bytes().to_vec());
    flotilla_protocol::id::ProviderId => |v| Self::Blob(v.to_bytes().to_vec());
}

impl<const N: usize> From<[u8; N]> for Value {
    fn from(bytes: [u8; N]) -> Self {
        Self::Blob(bytes.to_vec())
    }
}

impl<const N: usize> From<&[u8; N]> for Value {
    fn from(bytes: &[u8; N]) -> Self {
        Self::Blob(bytes.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// `params![a, b, c]`: values of any convertible types as the parameters of a statement.
#[macro_export]
macro_rules! sql_params {
    ($($value:expr),* $(,)?) => { &[$($crate::store::Value::from($value)),*] };
}

/// What a column can be read as.
pub trait FromValue: Sized {
    /// For errors: "a number".
    const WHAT: &'static str;
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! value_into {
    ($($into:ty, $what:literal, $pattern:pat => $result:expr;)*) => {$(
        impl FromValue for $into {
            const WHAT: &'static str = $what;
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    $pattern => $result,
                    _ => None,
                }
            }
        }
    )*};
}

value_into! {
    i64, "a number", Value::Int(v) => Some(*v);
    u64, "a number that is not negative", Value::Int(v) => u64::try_from(*v).ok();
    u32, "a number below 2^32", Value::Int(v) => u32::try_from(*v).ok();
    u16, "a number below 2^16", Value::Int(v) => u16::try_from(*v).ok();
    u8, "a number below 256", Value::Int(v) => u8::try_from(*v).ok();
    bool, "0 or 1", Value::Int(v) => match v { 0 => Some(false), 1 => Some(true), _ => None };
    String, "a text", Value::Text(v) => Some(v.clone());
    Vec<u8>, "a blob", Value::Blob(v) => Some(v.clone());
    flotilla_protocol::id::TenantId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
    flotilla_protocol::id::DeviceId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
    flotilla_protocol::id::SimId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
    flotilla_protocol::id::EnrollmentId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
    flotilla_protocol::id::KeyId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
    flotilla_protocol::id::MessageId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
    flotilla_protocol::id::InboundId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
    flotilla_protocol::id::ProviderId, "an id", Value::Blob(v) => id_bytes(v).map(Self::from_bytes);
}

fn id_bytes(bytes: &[u8]) -> Option<[u8; 16]> {
    bytes.try_into().ok()
}

impl<const N: usize> FromValue for [u8; N] {
    const WHAT: &'static str = "a blob of a fixed length";
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Blob(v) => v.as_slice().try_into().ok(),
            _ => None,
        }
    }
}

impl<T: FromValue> FromValue for Option<T> {
    const WHAT: &'static str = T::WHAT;
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Null => Some(None),
            value => T::from_value(value).map(Some),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SqlError {
    /// A UNIQUE or PRIMARY KEY constraint: `what` names the columns as the engine does.
    #[error("it exists already ({what})")]
    Exists { what: String },
    /// Any other constraint.
    #[error("a constraint refuses it ({what})")]
    Constraint { what: String },
    #[error("the column {column} is not {expected}")]
    Type { column: String, expected: &'static str },
    #[error("the answer has no column {column}")]
    NoColumn { column: String },
    #[error("expected one row, found {found}")]
    Rows { found: usize },
    /// A query gives at most `ROWS_MAX` rows: use LIMIT.
    #[error("the query has more than {ROWS_MAX} rows; it needs a LIMIT")]
    TooManyRows,
    #[error("the disk of the data folder is full; free some space")]
    Full,
    /// The statement is wrong: a mistake in the program.
    #[error("SQL: {0}")]
    Statement(String),
    #[error("the catalog is not available: {0}")]
    Unavailable(String),
}

/// Most rows of one query.
pub const ROWS_MAX: usize = 100_000;

/// One row of an answer.
#[derive(Debug, Clone)]
pub struct Row {
    columns: Arc<[Box<str>]>,
    values: Vec<Value>,
}

impl Row {
    pub(crate) fn new(columns: Arc<[Box<str>]>, values: Vec<Value>) -> Self {
        Self { columns, values }
    }

    /// A column by its name.
    pub fn get<T: FromValue>(&self, column: &str) -> Result<T, SqlError> {
        let place = self.columns.iter().position(|name| **name == *column);
        let place = place.ok_or_else(|| SqlError::NoColumn { column: column.to_owned() })?;
        self.at(place)
    }

    /// All columns: their names, and what is in them.
    pub(crate) fn parts(&self) -> (&[Box<str>], &[Value]) {
        (&self.columns, &self.values)
    }

    /// A column by its place, from 0.
    pub fn at<T: FromValue>(&self, place: usize) -> Result<T, SqlError> {
        let value = self.values.get(place).ok_or_else(|| SqlError::NoColumn { column: place.to_string() })?;
        T::from_value(value)
            .ok_or_else(|| SqlError::Type { column: self.columns[place].to_string(), expected: T::WHAT })
    }
}

/// A transaction under way.
pub trait Tx {
    /// Answers how many rows were changed.
    fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, SqlError>;
    fn query(&mut self, sql: &str, params: &[Value]) -> Result<Vec<Row>, SqlError>;
}

impl dyn Tx + '_ {
    /// The one row of an answer, if it has any.
    pub fn query_one(&mut self, sql: &str, params: &[Value]) -> Result<Option<Row>, SqlError> {
        let mut rows = self.query(sql, params)?;
        match rows.len() {
            0 | 1 => Ok(rows.pop()),
            found => Err(SqlError::Rows { found }),
        }
    }
}

/// What a transaction does; says whether to commit.
pub type TxBody = Box<dyn FnOnce(&mut dyn Tx) -> bool + Send>;

pub trait Catalog: Send + Sync + 'static {
    /// One transaction that may write. Transactions run one after the other.
    fn run_boxed(&self, body: TxBody) -> BoxFuture<'_, Result<(), SqlError>>;
    /// One transaction that only reads, beside the writing ones.
    fn read_boxed(&self, body: TxBody) -> BoxFuture<'_, Result<(), SqlError>>;
}

impl dyn Catalog + '_ {
    /// Runs `body` in one transaction on the engine's own thread; committed and durable when it returns Ok, rolled back on
    /// Err and on a panic. It must not wait for anything.
    pub async fn run<T, E>(&self, body: impl FnOnce(&mut dyn Tx) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<SqlError> + Send + 'static,
    {
        let (answer, boxed) = keep_answer(body);
        give_answer(self.run_boxed(boxed).await, answer)
    }

    /// Like `run`, for queries: not behind the writers, and refused when it tries to write.
    pub async fn read<T, E>(&self, body: impl FnOnce(&mut dyn Tx) -> Result<T, E> + Send + 'static) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<SqlError> + Send + 'static,
    {
        let (answer, boxed) = keep_answer(body);
        give_answer(self.read_boxed(boxed).await, answer)
    }
}

type Answer<T, E> = std::sync::mpsc::Receiver<Result<T, E>>;

/// The answer takes its own way out, so that the trait needs no type parameter.
fn keep_answer<T, E>(body: impl FnOnce(&mut dyn Tx) -> Result<T, E> + Send + 'static) -> (Answer<T, E>, TxBody)
where
    T: Send + 'static,
    E: Send + 'static,
{
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    let boxed: TxBody = Box::new(move |tx| {
        let result = body(tx);
        let commit = result.is_ok();
        sender.send(result).is_ok() && commit
    });
    (receiver, boxed)
}

fn give_answer<T, E: From<SqlError>>(done: Result<(), SqlError>, answer: Answer<T, E>) -> Result<T, E> {
    match (done, answer.try_recv()) {
        // The body's own error says more than the engine's about the same transaction.
        (_, Ok(Err(error))) => Err(error),
        (Ok(()), Ok(result)) => result,
        (Err(error), _) => Err(error.into()),
        (Ok(()), Err(_)) => Err(SqlError::Unavailable("the transaction did not run".into()).into()),
    }
}
