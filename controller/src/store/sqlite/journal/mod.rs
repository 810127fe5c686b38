//! The journal in one SQLite file.
//!
//! `writer` is the thread that commits: it takes whatever has collected while the last group was on its way to the disk, puts
//! it into one transaction, flushes the device once, and answers. `file` has the statements, `checkpoint` keeps the
//! write-ahead log short without stopping commits. Encoding and decoding happen in the callers.

mod checkpoint;
mod file;
mod writer;

use std::path::Path;
use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use self::file::JournalFile;
use self::writer::{Append, Request, Take, Writer};
use super::folder::FolderLock;
use super::pool::Pool;
use super::{OpenError, Options, store_error};
use crate::store::tail::Tail;
use crate::store::{BATCH_BYTES_MAX, Batch, CommitError, Feed, Journal, StoreError, codec};

/// Encoded bytes that wait for the writer, in KiB; callers beyond that wait before they queue.
const WAITING_KIB: usize = 256 << 10;
/// Cache of a connection that only reads batches one after the other.
const READER_CACHE_KIB: u32 = 1 << 10;

pub(super) struct SqliteJournal {
    shards: u16,
    tail: Arc<Tail>,
    pool: Pool,
    room: Arc<Semaphore>,
    writer: Writer,
}

pub(super) fn open(path: &Path, options: &Options, lock: Arc<FolderLock>) -> Result<SqliteJournal, OpenError> {
    let file = JournalFile::create_or_open(path, options.shards)?;
    let states = file.states().map_err(|error| super::open_error(path, &error))?;
    let last: Vec<u64> = states.iter().map(|state| state.last).collect();
    let tail = Tail::new(&last, options.tail_bytes);
    let writer = Writer::start(file, states, Arc::clone(&tail), options, Arc::clone(&lock))
        .map_err(|error| OpenError::Engine { file: path.to_owned(), detail: error.to_string() })?;
    Ok(SqliteJournal {
        shards: last.len() as u16,
        tail,
        pool: Pool::new(path, 2, READER_CACHE_KIB, lock),
        room: Arc::new(Semaphore::new(WAITING_KIB)),
        writer,
    })
}

impl SqliteJournal {
    fn check(&self, shard: ShardId) -> Result<(), StoreError> {
        if shard.0 < self.shards { Ok(()) } else { Err(StoreError::NoSuchShard { shard }) }
    }
}

impl Journal for SqliteJournal {
    fn shards(&self) -> u16 {
        self.shards
    }

    fn epochs(&self) -> BoxFuture<'_, Result<Vec<Epoch>, StoreError>> {
        self.pool.query(|connection| file::epochs(connection).map_err(store_error)).boxed()
    }

    fn take(&self, shard: ShardId, epoch: Epoch) -> BoxFuture<'_, Result<u64, CommitError>> {
        async move {
            self.check(shard).map_err(|error| CommitError::Unavailable(error.to_string()))?;
            let (reply, answer) = oneshot::channel();
            self.writer.inbox().send(Request::Take(Take { shard, epoch, reply })).map_err(|_| stopped())?;
            answer.await.unwrap_or_else(|_| Err(lost()))
        }
        .boxed()
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'static, Result<(), CommitError>> {
        let known = self.check(batch.shard);
        let room = Arc::clone(&self.room);
        let inbox = self.writer.inbox();
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
            answer.await.unwrap_or_else(|_| Err(lost()))
        }
        .boxed()
    }

    fn read(&self, shard: ShardId, after_seq: u64, bytes_max: usize) -> BoxFuture<'_, Result<Vec<Batch>, StoreError>> {
        async move {
            if let Some(batches) = self.tail.read(shard, after_seq, bytes_max)? {
                return Ok(batches);
            }
            // What is not yet flushed to the device is in the file already, but must not be seen.
            let last = self.tail.last(shard)?;
            self.pool.query(move |connection| file::read(connection, shard, after_seq, last, bytes_max)).await
        }
        .boxed()
    }

    fn last(&self, shard: ShardId) -> BoxFuture<'_, Result<u64, StoreError>> {
        std::future::ready(self.tail.last(shard)).boxed()
    }

    fn trim(&self, shard: ShardId, up_to_seq: u64) -> BoxFuture<'_, Result<(), StoreError>> {
        let told = self.check(shard).and_then(|()| {
            let told = self.writer.inbox().send(Request::Trim { shard, up_to: up_to_seq });
            told.map_err(|_| StoreError::Unavailable("the journal's writer has stopped".into()))
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
