//! What survives: the journal (the truth), the message rows behind it, the catalog.
//!
//! Three traits, so that a second engine can stand beside SQLite; `contract` is the suite that each engine has to pass.

pub mod bench;
mod catalog;
mod codec;
#[cfg(test)]
mod contract;
pub mod copy;
mod journal;
pub mod memory;
pub mod migrations;
pub mod postgres;
mod rows;
mod search;
pub mod sqlite;
mod tail;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use flotilla_protocol::id::ShardId;
use tokio_util::sync::CancellationToken;

pub use catalog::{Catalog, FromValue, ROWS_MAX, Row, SqlError, Tx, TxBody, Value};
pub use journal::{BATCH_BYTES_MAX, Batch, CommitError, Journal, outcome_of};
pub use rows::{
    Cursor, CursorError, Flush, IDEMPOTENCY_MS, InboundFilter, KeyUse, LIMIT_MAX, LOAD_MAX, MessageFilter, OpenCount,
    Order, Page, Paged, QueuedQuery, Rows, Scan, Upsert,
};
pub use tail::Feed;
#[cfg(test)]
pub(crate) use tail::Tail;

/// The three parts of one engine over one data folder.
#[derive(Clone)]
pub struct Stores {
    pub journal: Arc<dyn Journal>,
    pub rows: Arc<dyn Rows>,
    pub catalog: Arc<dyn Catalog>,
    /// Cancelled when every part has been dropped and closed: the folder is free for the next one.
    pub released: CancellationToken,
}

/// Why something could not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the disk of the data folder is full; free some space")]
    Full,
    /// The batches up to `up_to` are gone.
    #[error("shard {shard} is trimmed up to sequence {up_to}")]
    Trimmed { shard: ShardId, up_to: u64 },
    #[error("there is no shard {shard}")]
    NoSuchShard { shard: ShardId },
    /// Another node leads the shard, or none: ask the leader.
    #[error("this controller does not lead shard {shard} now")]
    NotLeading { shard: ShardId },
    /// The rows are further than what was to be written, or than what it was built on: another leader has written them. Nothing
    /// was written.
    #[error("the rows of shard {shard} are at {position} already")]
    Behind { shard: ShardId, position: u64 },
    #[error("the cursor is not one that this list has given; leave it out to start at the newest")]
    Cursor,
    /// What was stored does not decode: written by a newer program, or damaged.
    #[error("{what} cannot be read: {detail}")]
    Damaged { what: String, detail: String },
    #[error("the store is not available: {0}")]
    Unavailable(String),
}
