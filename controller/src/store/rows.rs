//! The message rows: what people and shards query. They follow the journal, so they may be behind it, and they can lose
//! their newest transactions in a power cut: each flush carries the journal position it belongs to.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{DeviceId, InboundId, MessageId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use futures_util::future::BoxFuture;

use super::StoreError;
use crate::domain::event::Inbound;
use crate::domain::message::{MessageState, Priority};
use crate::domain::record::MessageRecord;

/// How long a client's idempotency key is remembered, by the time of the journal.
pub const IDEMPOTENCY_MS: u64 = 24 * 3_600_000;
/// Most rows that any query answers at once; larger limits are lowered to it.
pub const LIMIT_MAX: usize = 1_000;
/// Most rows that shards and rebuilds get at once.
pub const LOAD_MAX: usize = 50_000;

type Answer<'a, T> = BoxFuture<'a, Result<T, StoreError>>;

pub trait Rows: Send + Sync + 'static {
    /// The journal sequence of each shard that the rows have reached, shard 0 first.
    fn positions(&self) -> Answer<'_, Vec<u64>>;

    /// One transaction: the rows and the positions they belong to. Visible to queries when it returns. Positions never go
    /// back: a flush that would take one back comes from a former leader, and is refused as a whole with
    /// [`StoreError::Behind`]. The same position again is fine; the rows are the same then. The same error answers a flush
    /// whose [`Flush::bases`] do not hold any more.
    fn write(&self, flush: Flush) -> Answer<'_, ()>;

    /// What was written until now survives a power cut when this returns; only then may the journal be trimmed.
    fn sync(&self) -> Answer<'_, ()>;

    fn get(&self, tenant: TenantId, message: MessageId) -> Answer<'_, Option<MessageRecord>>;

    /// Several messages by id, of any tenant; those not found are left out, the order is any. At most `LOAD_MAX`.
    fn get_many(&self, messages: Vec<MessageId>) -> Answer<'_, Vec<MessageRecord>>;

    /// The newest first, in the order of acceptance.
    fn list(&self, tenant: TenantId, filter: MessageFilter, page: Page) -> Answer<'_, Paged<MessageRecord>>;

    /// The newest first, in the order of arrival.
    fn inbound(&self, tenant: TenantId, filter: InboundFilter, page: Page) -> Answer<'_, Paged<Inbound>>;

    /// The request that used an idempotency key, unless that was before `since_ms` (now less [`IDEMPOTENCY_MS`]).
    fn idempotent(&self, tenant: TenantId, key: [u8; 16], since_ms: u64) -> Answer<'_, Option<KeyUse>>;

    /// Messages with an open attempt (`dispatching`, `unknown`), those after an order, the oldest acceptance first.
    fn in_flight(&self, shard: ShardId, after: Order, limit: usize) -> Answer<'_, Vec<MessageRecord>>;

    /// Messages in the state `queued` after an order, the oldest acceptance first.
    fn queued(&self, query: QueuedQuery) -> Answer<'_, Vec<MessageRecord>>;

    /// `scheduled` messages whose time is not after `until_ms`, the earliest first.
    fn due(&self, shard: ShardId, until_ms: u64, limit: usize) -> Answer<'_, Vec<MessageRecord>>;

    /// Open messages whose validity is over at `now_ms`, the earliest first.
    fn overdue(&self, shard: ShardId, now_ms: u64, limit: usize) -> Answer<'_, Vec<MessageRecord>>;

    /// How many messages are open.
    fn open_counts(&self, shard: ShardId) -> Answer<'_, Vec<OpenCount>>;

    /// The position of the last inbound message of each device of a shard's tenants.
    fn inbound_positions(&self, shard: ShardId) -> Answer<'_, Vec<(DeviceId, u64)>>;

    /// Everything, as of one moment, for rebuilding what was derived from it. `None` for all shards.
    fn scan(&self, shard: Option<ShardId>) -> Answer<'_, Box<dyn Scan>>;
}

/// A message's place in the order of its shard: journal sequence, index in the batch. `(0, 0)` is before all.
pub type Order = (u64, u32);

/// A consistent picture of the rows. Holds resources of the engine until it is dropped.
pub trait Scan: Send {
    /// The journal sequence of each shard that the picture shows.
    fn positions(&self) -> &[u64];
    /// The next messages, empty at the end.
    fn messages(&mut self, limit: usize) -> Answer<'_, Vec<MessageRecord>>;
    /// The next inbound messages, empty at the end.
    fn inbound(&mut self, limit: usize) -> Answer<'_, Vec<Inbound>>;
}

/// What a flush of the rows follower writes.
#[derive(Debug, Default)]
pub struct Flush {
    pub messages: Vec<Upsert>,
    pub inbound: Vec<(ShardId, Inbound)>,
    pub keys: Vec<(TenantId, [u8; 16], KeyUse)>,
    /// Every shard that moved.
    pub positions: Vec<(ShardId, u64)>,
    /// The stored positions that the writer has built on. Where one is another now, somebody else has written rows of the shard
    /// meanwhile, and what was built on the older ones would add the same changes twice: [`StoreError::Behind`].
    pub bases: Vec<(ShardId, u64)>,
    /// The youngest time of any event in it: older idempotency keys are forgotten by it.
    pub now_ms: u64,
}

#[derive(Debug, Clone)]
pub struct Upsert {
    pub shard: ShardId,
    pub record: Arc<MessageRecord>,
    /// The store has never seen this message.
    pub new: bool,
}

/// Who used an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyUse {
    pub request: [u8; 16],
    pub messages: Vec<MessageId>,
    pub at_ms: u64,
}

/// All conditions hold together; an empty filter matches everything of the tenant.
#[derive(Debug, Clone, Default)]
pub struct MessageFilter {
    /// Any of these; empty for all.
    pub states: Vec<MessageState>,
    pub to: Option<Msisdn>,
    /// The SIM or device of the last attempt.
    pub sim: Option<SimId>,
    pub device: Option<DeviceId>,
    pub campaign: Option<Box<str>>,
    pub tag: Option<Box<str>>,
    pub client_ref: Option<Box<str>>,
    pub priority: Option<Priority>,
    /// Accepted at or after, and before. Unix milliseconds.
    pub from_ms: Option<u64>,
    pub until_ms: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct InboundFilter {
    pub device: Option<DeviceId>,
    pub sim: Option<SimId>,
    pub from: Option<Address>,
    /// Received at or after, and before. Unix milliseconds.
    pub from_ms: Option<u64>,
    pub until_ms: Option<u64>,
}

#[derive(Debug, Clone, Default)]
pub struct Page {
    /// 1..=LIMIT_MAX.
    pub limit: usize,
    /// From [`Paged::next`] of the page before.
    pub cursor: Option<Cursor>,
}

#[derive(Debug, Clone)]
pub struct Paged<T> {
    pub items: Vec<T>,
    /// Where to go on; `None` at the end. A page may be short, even empty, and still have a next one: a query looks at
    /// a bounded number of rows and then gives back what it has.
    pub next: Option<Cursor>,
}

/// A place in a list: after the last row that was looked at. Stable while rows are added and changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub(crate) [u8; 16]);

impl Cursor {
    pub(crate) fn of_message(id: MessageId) -> Self {
        Self(id.to_bytes())
    }

    pub(crate) fn of_inbound(id: InboundId) -> Self {
        Self(id.to_bytes())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::BASE64URL_NOPAD.encode(&self.0))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cursor is not one that this list has given; leave it out to start at the newest")]
pub struct CursorError;

impl FromStr for Cursor {
    type Err = CursorError;
    fn from_str(text: &str) -> Result<Self, CursorError> {
        if text.len() != 22 {
            return Err(CursorError);
        }
        let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| CursorError)?;
        bytes.try_into().map(Self).map_err(|_| CursorError)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct QueuedQuery {
    pub shard: ShardId,
    pub tenant: Option<TenantId>,
    pub class: Option<Priority>,
    pub after: Order,
    pub limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenCount {
    pub tenant: TenantId,
    pub class: Priority,
    pub state: MessageState,
    pub messages: u64,
}
