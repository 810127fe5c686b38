//! One connection as all of ours are: to the primary, every commit durable before it is answered, no statement without an end.

use std::time::Duration;

use rustc_hash::FxHashMap;
use tokio::time::timeout;
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, Statement};

use super::address::Address;
use crate::store::StoreError;

/// All addresses and the settings together.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// A node that stands still in the middle of a transaction holds the others up no longer than this.
const IDLE_IN_TRANSACTION: Duration = Duration::from_secs(10);

/// What writes or deletes thousands of rows may take.
pub(super) const BULK: Duration = Duration::from_secs(120);
/// What has no other bound: migrations, a scan of everything.
pub(super) const DAY: Duration = Duration::from_secs(24 * 3_600);

/// Makes connections.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    pub(super) address: Address,
    /// Of a statement, here and in the server.
    pub(super) timeout: Duration,
}

/// What went wrong, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The server has refused the statement and said so: nothing of it happened.
    #[error("{message}")]
    Refused { state: SqlState, message: String },
    /// No answer, or an answer together with the end of the connection: it may have happened.
    #[error("{0}")]
    Lost(String),
    /// What came back is not what our tables have.
    #[error("{0}")]
    Strange(String),
}

impl Failure {
    pub(super) fn state(&self) -> Option<&SqlState> {
        match self {
            Self::Refused { state, .. } => Some(state),
            Self::Lost(_) | Self::Strange(_) => None,
        }
    }

    /// Another transaction was in the way; the same may well succeed now.
    pub(super) fn collided(&self) -> bool {
        self.state()
            .is_some_and(|state| [SqlState::T_R_SERIALIZATION_FAILURE, SqlState::T_R_DEADLOCK_DETECTED].contains(state))
    }

    pub(super) fn disk_full(&self) -> bool {
        self.state() == Some(&SqlState::DISK_FULL)
    }

    /// A connection that can still be used after it.
    pub(super) fn spares_connection(&self) -> bool {
        matches!(self, Self::Refused { state, .. } if *state != SqlState::READ_ONLY_SQL_TRANSACTION)
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(refusal) = error.as_db_error() else {
            return Self::Lost(with_cause(&error));
        };
        let message = match refusal.detail() {
            // Details quote values, which may be personal; of these classes they never do.
            Some(detail) if refusal.code().code().starts_with("53") => format!("{}: {detail}", refusal.message()),
            _ => refusal.message().to_owned(),
        };
        // FATAL ends the connection, and may come after the commit. 40003 says so itself.
        let doubtful = refusal.parsed_severity() != Some(Severity::Error)
            || *refusal.code() == SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
            || refusal.code().code().starts_with("08");
        if doubtful { Self::Lost(message) } else { Self::Refused { state: refusal.code().clone(), message } }
    }
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> Self {
        if failure.disk_full() {
            return Self::Full;
        }
        match failure {
            Failure::Strange(detail) => Self::Damaged { what: "an answer of the database".into(), detail },
            failure => Self::Unavailable(failure.to_string()),
        }
    }
}

fn with_cause(error: &tokio_postgres::Error) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

impl Connector {
    pub(super) async fn connect(&self) -> Result<Session, Failure> {
        let connecting = async {
            let Address { config, tls } = &self.address;
            let (client, connection) = config.connect(tls.clone()).await?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!(error = with_cause(&error), "a connection to the database has ended");
                }
            });
            let (statement_ms, idle_ms) = (self.timeout.as_millis(), IDLE_IN_TRANSACTION.as_millis());
            client
                .batch_execute(&format!(
                    "SET synchronous_commit = 'on'; SET statement_timeout = {statement_ms}; \
                     SET lock_timeout = {statement_ms}; SET idle_in_transaction_session_timeout = {idle_ms}; \
                     SET default_transaction_isolation = 'read committed'"
                ))
                .await?;
            // Compiling a statement costs more than running it here. Not every server knows the setting.
            let _ = client.batch_execute("SET jit = off").await;
            Ok::<_, tokio_postgres::Error>(client)
        };
        match timeout(CONNECT_WITHIN, connecting).await {
            Ok(Ok(client)) => Ok(Session { client, statements: FxHashMap::default(), timeout: self.timeout }),
            Ok(Err(error)) => Err(explain(&error)),
            Err(_) => Err(Failure::Lost("the server does not answer".into())),
        }
    }
}

fn explain(error: &tokio_postgres::Error) -> Failure {
    let text = with_cause(error);
    if text.contains("database does not allow writes") {
        return Failure::Lost("the server is a standby, or read-only; the store needs the primary".into());
    }
    match error.as_db_error() {
        Some(refusal) => Failure::Refused { state: refusal.code().clone(), message: refusal.message().to_owned() },
        None => Failure::Lost(text),
    }
}

/// One connection, used by one at a time.
pub(super) struct Session {
    pub(super) client: Client,
    /// By the text.
    statements: FxHashMap<&'static str, Statement>,
    timeout: Duration,
}

pub(super) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

impl Session {
    pub(super) fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Prepared once for each connection. The types are the parameters', where the text alone does not tell them.
    pub(super) async fn prepare(&mut self, sql: &'static str, types: &[Type]) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.within(self.client.prepare_typed(sql, types)).await?;
        self.statements.insert(sql, statement.clone());
        Ok(statement)
    }

    pub(super) async fn query(&mut self, sql: &'static str, params: Params<'_>) -> Result<Vec<Row>, Failure> {
        let statement = self.prepare(sql, &[]).await?;
        self.within(self.client.query(&statement, params)).await
    }

    pub(super) async fn execute(&mut self, sql: &'static str, params: Params<'_>) -> Result<u64, Failure> {
        let statement = self.prepare(sql, &[]).await?;
        self.within(self.client.execute(&statement, params)).await
    }

    pub(super) async fn batch(&self, sql: &str) -> Result<(), Failure> {
        self.within(self.client.batch_execute(sql)).await
    }

    /// Anything, but not for ever: a little longer than the server gives it, so that its answer comes first.
    pub(super) async fn within<T>(
        &self,
        what: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, Failure> {
        match timeout(self.timeout + self.timeout / 4, what).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Failure::Lost("the server does not answer".into())),
        }
    }

    /// For statements over many rows, where a large one on a slow disk must not fail again and again. That a server is gone
    /// is noticed by the connection itself.
    pub(super) async fn patient(&mut self, timeout: Duration) -> Result<(), Failure> {
        self.timeout = timeout.max(self.timeout);
        let ms = self.timeout.as_millis();
        self.batch(&format!("SET statement_timeout = {ms}; SET lock_timeout = {ms}")).await
    }
}

/// A column as a whole number; what is negative there was unsigned here.
pub(super) fn number(row: &Row, column: usize) -> Result<u64, Failure> {
    signed(row, column).map(i64::cast_unsigned)
}

pub(super) fn signed(row: &Row, column: usize) -> Result<i64, Failure> {
    row.try_get(column).map_err(|error| strange(&error))
}

pub(super) fn bytes(row: &Row, column: usize) -> Result<&[u8], Failure> {
    row.try_get(column).map_err(|error| strange(&error))
}

pub(super) fn id(row: &Row, column: usize) -> Result<[u8; 16], Failure> {
    bytes(row, column)?.try_into().map_err(|_| Failure::Strange("an id has not 16 bytes".into()))
}

fn strange(error: &tokio_postgres::Error) -> Failure {
    Failure::Strange(with_cause(error))
}

/// Times and sequences as the database has them. What a wild clock puts above the range stays at the top, in order.
pub(super) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
