//! The journal in two tables: a row for each shard that says who may append and what is next, and a row for each batch.
//!
//! `writer` is the task that appends; `sql` has the statements, `window` what is kept and deleted. A shard's row names the epoch
//! and the connection (its number) that may append. The number is what makes an unknown outcome knowable: see `writer`.

mod sql;
mod window;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, Semaphore, oneshot};

use self::window::Window;
use self::writer::{Append, Request, Take, Writer};
use super::engine::Engine;
use super::schema::open_error;
use super::{OpenError, Options};
use crate::store::tail::Tail;
use crate::store::{BATCH_BYTES_MAX, Batch, CommitError, Feed, Journal, StoreError, codec};

/// Encoded bytes that wait for the writer, in KiB; callers beyond that wait before they queue.
const WAITING_KIB: usize = 256 << 10;

pub(super) struct PostgresJournal {
    shards: u16,
    tail: Arc<Tail>,
    window: Arc<Window>,
    room: Arc<Semaphore>,
    inbox: UnboundedSender<Request>,
    woken: Arc<Notify>,
    engine: Arc<Engine>,
}

pub(super) async fn open(engine: Arc<Engine>, shards: u16, options: Options) -> Result<PostgresJournal, OpenError> {
    let failed = |failure| open_error(&engine.connector, failure);
    let rows = engine.pool.query(async |session| sql::all(session).await).await.map_err(failed)?;
    let last: Vec<u64> = rows.iter().map(|row| row.last).collect();
    let tail = Tail::new(&last, options.tail_bytes);
    let window = Arc::new(Window::new(shards, options.retain_bytes));
    let woken = Arc::new(Notify::new());
    let mut writer = Writer {
        connector: engine.connector.clone(),
        tail: Arc::clone(&tail),
        window: Arc::clone(&window),
        committed: Arc::clone(&woken),
        link: None,
        former: Vec::new(),
        retry: Duration::ZERO,
    };
    writer.begin().await.map_err(failed)?;
    let (inbox, requests) = unbounded_channel();
    tokio::spawn(writer.run(requests));
    tokio::spawn(window::trim(Arc::clone(&window), engine.pool.clone(), Arc::clone(&woken)));
    let room = Arc::new(Semaphore::new(WAITING_KIB));
    Ok(PostgresJournal { shards, tail, window, room, inbox, woken, engine })
}

impl PostgresJournal {
    fn check(&self, shard: ShardId) -> Result<(), StoreError> {
        if shard.0 < self.shards { Ok(()) } else { Err(StoreError::NoSuchShard { shard }) }
    }

    /// Where a shard is: ours from memory, others' from the database, and the feed is told.
    async fn position(&self, shard: ShardId) -> Result<u64, StoreError> {
        self.check(shard)?;
        if self.window.is_ours(shard) {
            return self.tail.last(shard);
        }
        let (pool, tail, window) = (self.engine.pool.clone(), Arc::clone(&self.tail), Arc::clone(&self.window));
        let asked = async move {
            let row = pool.query(async |session| Ok(sql::states(session, &[shard]).await?.pop())).await?;
            let last = row.map_or(Err(StoreError::NoSuchShard { shard }), |row| Ok(row.last))?;
            // Taken meanwhile: then it knows better.
            if window.is_ours(shard) {
                return tail.last(shard);
            }
            tail.seen(shard, last);
            Ok(last)
        };
        self.engine.run(asked).await
    }
}

impl Journal for PostgresJournal {
    fn shards(&self) -> u16 {
        self.shards
    }

    fn epochs(&self) -> BoxFuture<'_, Result<Vec<Epoch>, StoreError>> {
        let pool = self.engine.pool.clone();
        let asked = async move {
            let rows = pool.query(async |session| sql::all(session).await).await?;
            Ok(rows.iter().map(|row| Epoch(row.epoch)).collect())
        };
        self.engine.run(asked).boxed()
    }

    fn take(&self, shard: ShardId, epoch: Epoch) -> BoxFuture<'_, Result<u64, CommitError>> {
        async move {
            self.check(shard).map_err(|error| CommitError::Unavailable(error.to_string()))?;
            let (reply, answer) = oneshot::channel();
            self.inbox.send(Request::Take(Take { shard, epoch, reply })).map_err(|_| stopped())?;
            answer.await.unwrap_or_else(|_| Err(lost()))
        }
        .boxed()
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), CommitError>> {
        let known = self.check(batch.shard);
        let room = Arc::clone(&self.room);
        let inbox = self.inbox.clone();
        let engine = Arc::clone(&self.engine);
        async move {
            known.map_err(|error| CommitError::Unavailable(error.to_string()))?;
            let payload = codec::encode_events(&batch.events).map_err(|e| CommitError::Unavailable(e.to_string()))?;
            if payload.len() > BATCH_BYTES_MAX {
                return Err(CommitError::TooLarge { bytes: payload.len() });
            }
            let kib = payload.len().div_ceil(1 << 10) as u32;
            let _room = room.acquire_many(kib).await.map_err(|_| stopped())?;
            let (reply, answer) = oneshot::channel();
            inbox.send(Request::Append(Append { batch, payload, reply })).map_err(|_| stopped())?;
            let done = answer.await.unwrap_or_else(|_| Err(lost()));
            // What is under way keeps the connection.
            drop(engine);
            done
        }
        .boxed()
    }

    fn read(&self, shard: ShardId, after_seq: u64, bytes_max: usize) -> BoxFuture<'_, Result<Vec<Batch>, StoreError>> {
        async move {
            let last = self.position(shard).await?;
            if self.window.is_ours(shard)
                && let Some(batches) = self.tail.read(shard, after_seq, bytes_max)?
            {
                return Ok(batches);
            }
            let pool = self.engine.pool.clone();
            let read = async move {
                pool.query(async |session| sql::read(session, shard, after_seq, last, bytes_max).await).await?
            };
            self.engine.run(read).await
        }
        .boxed()
    }

    fn last(&self, shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>> {
        self.position(shard).boxed()
    }

    fn trim(&self, shard: ShardId, up_to_seq: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let told = self.check(shard).map(|()| {
            self.window.allow(shard, up_to_seq);
            self.woken.notify_one();
        });
        std::future::ready(told).boxed()
    }

    fn feed(&self) -> Feed {
        self.tail.feed()
    }
}

fn stopped() -> CommitError {
    CommitError::Unavailable("the journal's writer has stopped".into())
}

fn lost() -> CommitError {
    CommitError::Unknown("the journal's writer has stopped".into())
}
