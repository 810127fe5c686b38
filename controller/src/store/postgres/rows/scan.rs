//! A picture of all rows as of one moment: a transaction that stays open, on a connection of its own.

use std::sync::Arc;

use flotilla_protocol::id::ShardId;
use futures_util::FutureExt;

use super::super::engine::Engine;
use super::super::session::{DAY, Failure, Session, bytes, number, signed};
use super::{Answer, load_limit};
use crate::domain::event::Inbound;
use crate::domain::record::MessageRecord;
use crate::store::rows::Scan;
use crate::store::{StoreError, codec};

pub(super) struct PostgresScan {
    /// Away while a question is under way; gone after one failed.
    session: Option<Session>,
    engine: Arc<Engine>,
    positions: Vec<u64>,
    shard: Option<i64>,
    after_message: Option<Vec<u8>>,
    after_inbound: i64,
}

impl PostgresScan {
    pub(super) async fn begin(engine: Arc<Engine>, shard: Option<ShardId>) -> Result<Self, StoreError> {
        let mut session = engine.connector.connect().await?;
        session.patient(DAY).await?;
        // Whoever scans may take his time between two pages.
        session.batch("SET idle_in_transaction_session_timeout = 0").await?;
        session.batch("BEGIN TRANSACTION READ ONLY ISOLATION LEVEL REPEATABLE READ").await?;
        // The first question fixes the picture.
        let rows = session.query("SELECT position FROM rows_shard ORDER BY shard", &[]).await?;
        let positions = rows.iter().map(|row| number(row, 0)).collect::<Result<_, Failure>>()?;
        let shard = shard.map(|shard| i64::from(shard.0));
        Ok(Self { session: Some(session), engine, positions, shard, after_message: None, after_inbound: 0 })
    }

    /// Asks on the engine's runtime.
    async fn ask<T: Send + 'static>(&mut self, question: impl AsyncFnOnceSend<T>) -> Result<T, StoreError> {
        let mut session = self.session.take().ok_or_else(|| StoreError::Unavailable("the scan was aborted".into()))?;
        let asked = async move {
            let found = question.ask(&mut session).await?;
            Ok((session, found))
        };
        let (session, found) = self.engine.run(asked).await?;
        self.session = Some(session);
        Ok(found)
    }
}

/// A question that can be asked on another thread.
trait AsyncFnOnceSend<T>: Send + 'static {
    fn ask(self, session: &mut Session) -> impl Future<Output = Result<T, StoreError>> + Send;
}

struct Messages {
    after: Vec<u8>,
    shard: Option<i64>,
    limit: i64,
}

impl AsyncFnOnceSend<(Vec<u8>, Vec<MessageRecord>)> for Messages {
    async fn ask(self, session: &mut Session) -> Result<(Vec<u8>, Vec<MessageRecord>), StoreError> {
        let sql =
            "SELECT id, record FROM message WHERE id > $1 AND ($2::bigint IS NULL OR shard = $2) ORDER BY id LIMIT $3";
        let rows = session.query(sql, &[&self.after, &self.shard, &self.limit]).await?;
        let mut after = self.after;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            after = bytes(row, 0)?.to_vec();
            found.push(codec::decode_record(bytes(row, 1)?)?);
        }
        Ok((after, found))
    }
}

struct InboundRows {
    after: i64,
    shard: Option<i64>,
    limit: i64,
}

impl AsyncFnOnceSend<(i64, Vec<Inbound>)> for InboundRows {
    async fn ask(self, session: &mut Session) -> Result<(i64, Vec<Inbound>), StoreError> {
        let sql =
            "SELECT n, record FROM inbound WHERE n > $1 AND ($2::bigint IS NULL OR shard = $2) ORDER BY n LIMIT $3";
        let rows = session.query(sql, &[&self.after, &self.shard, &self.limit]).await?;
        let mut after = self.after;
        let mut found = Vec::with_capacity(rows.len());
        for row in &rows {
            after = signed(row, 0)?;
            found.push(codec::decode_inbound(bytes(row, 1)?)?);
        }
        Ok((after, found))
    }
}

impl Scan for PostgresScan {
    fn positions(&self) -> &[u64] {
        &self.positions
    }

    fn messages(&mut self, limit: usize) -> Answer<'_, Vec<MessageRecord>> {
        let after = self.after_message.clone().unwrap_or_default();
        let question = Messages { after, shard: self.shard, limit: load_limit(limit) };
        async move {
            let (after, found) = self.ask(question).await?;
            self.after_message = Some(after);
            Ok(found)
        }
        .boxed()
    }

    fn inbound(&mut self, limit: usize) -> Answer<'_, Vec<Inbound>> {
        let question = InboundRows { after: self.after_inbound, shard: self.shard, limit: load_limit(limit) };
        async move {
            let (after, found) = self.ask(question).await?;
            self.after_inbound = after;
            Ok(found)
        }
        .boxed()
    }
}
