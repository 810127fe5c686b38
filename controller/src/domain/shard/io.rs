//! What goes into a shard machine and what comes out of it.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, TenantId};
use flotilla_protocol::wire::{Down, Held, Report, Telemetry};
use flotilla_routing::settings::TenantRouting;
use flotilla_routing::table::{KnownRoute, Notice};

use crate::domain::event::Event;
use crate::domain::message::{MessageState, Priority, RouteKind, Submission};
use crate::domain::record::MessageRecord;

/// A message's place in the order of its shard: journal sequence, index in the batch. `(0, 0)` is before all.
pub type Order = (u64, u32);

/// Whoever waits for a reply; chosen by the caller.
pub type Token = u64;

/// The client's key for a request, and what it asked for under it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// First half of SHA-256 over the client's key.
    pub key: [u8; 16],
    /// First half of SHA-256 over the request.
    pub request: [u8; 16],
}

/// Messages of one request: all are accepted, in one batch, or none.
#[derive(Clone, Debug)]
pub struct AcceptRequest {
    pub tenant: TenantId,
    pub idempotency: Option<RequestKey>,
    pub submissions: Vec<Submission>,
}

pub use flotilla_routing::table::RouteSim;

/// A device's link is up: what the machine needs to know of it. A provider account takes the place of a device: see `kind`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub kind: RouteKind,
    pub device: DeviceId,
    pub tenant: TenantId,
    /// Unique in this process, and growing.
    pub session: u64,
    /// Attempts the device takes in before their results are reported; taken as 1 at least.
    pub window: u16,
    /// The highest epoch the device has obeyed.
    pub epoch_seen: Epoch,
    pub sims: Vec<RouteSim>,
    /// False for a drained device: it finishes what it has and gets nothing new.
    pub accepts_work: bool,
}

/// What the store answered about an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownKey {
    pub request: [u8; 16],
    pub ids: Vec<MessageId>,
}

#[derive(Debug)]
pub enum Input {
    Accept {
        token: Token,
        request: AcceptRequest,
    },
    Cancel {
        token: Token,
        tenant: TenantId,
        message: MessageId,
    },
    DeviceUp(Box<Link>),
    DeviceChanged {
        device: DeviceId,
        session: u64,
        sims: Vec<RouteSim>,
        accepts_work: bool,
    },
    DeviceDown {
        device: DeviceId,
        session: u64,
    },
    /// What a device tells about its SIMs' state.
    Telemetry {
        device: DeviceId,
        session: u64,
        telemetry: Box<Telemetry>,
    },
    /// A tenant's settings, when they change.
    Tenant {
        tenant: TenantId,
        routing: Arc<TenantRouting>,
    },
    /// What the catalog has of routes, when it changes: it counts for those whose devices are away.
    Routes {
        routes: Vec<KnownRoute>,
    },
    Reports {
        device: DeviceId,
        session: u64,
        reports: Vec<Report>,
    },
    Held {
        device: DeviceId,
        session: u64,
        held: Vec<Held>,
        last: bool,
    },
    /// Answers [`Effect::Load`].
    Loaded {
        message: MessageId,
        record: Option<Box<MessageRecord>>,
    },
    /// Answers [`Effect::FindKey`].
    KeyFound {
        token: Token,
        known: Option<KnownKey>,
    },
    /// Answers [`Effect::Refill`]; shorter than the limit when there is no more.
    Refilled {
        tenant: TenantId,
        class: Priority,
        records: Vec<MessageRecord>,
    },
    /// Answers [`Effect::FetchDue`].
    Due {
        records: Vec<MessageRecord>,
    },
    /// Answers [`Effect::FetchOverdue`].
    Overdue {
        records: Vec<MessageRecord>,
    },
    /// The deadline of the machine has come.
    Tick,
}

/// What to do once the batch it came with is durable.
#[derive(Debug)]
pub enum Effect {
    Accepted {
        token: Token,
        result: Result<Acceptance, KeyReused>,
    },
    Cancelled {
        token: Token,
        outcome: CancelOutcome,
    },
    /// Frames for a device, in this order; dropped when the session is over.
    Send {
        device: DeviceId,
        session: u64,
        frames: Vec<Down>,
    },
    /// What somebody should know about routes and budgets. Not kept: what nobody hears is gone.
    Tell(Vec<Notice>),
    /// Read a message that is not in memory. The tenant is whose it has to be.
    Load {
        tenant: TenantId,
        message: MessageId,
    },
    FindKey {
        token: Token,
        tenant: TenantId,
        key: [u8; 16],
    },
    /// Read messages in the state `queued`, in the order of acceptance.
    Refill {
        tenant: TenantId,
        class: Priority,
        after: Order,
        limit: usize,
    },
    /// Read messages in the state `scheduled` whose time is not after `until_ms`, the earliest first.
    FetchDue {
        until_ms: u64,
        limit: usize,
    },
    /// Read open messages whose validity is over, the earliest first.
    FetchOverdue {
        now_ms: u64,
        limit: usize,
    },
}

/// Everything since the last [`super::Machine::drain`]: one journal batch, and what it permits.
#[derive(Debug, Default)]
pub struct Output {
    /// The sequence of the batch; meaningful when there are events.
    pub seq: u64,
    pub events: Vec<Event>,
    pub effects: Vec<Effect>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acceptance {
    pub ids: Arc<[MessageId]>,
    /// The request had been accepted before: these are the ids from then.
    pub replayed: bool,
}

/// The idempotency key was used for another request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyReused;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelOutcome {
    Cancelled,
    /// A device may be sending it: it was asked not to, and the message's state will tell.
    Requested,
    /// It is sent, or final.
    TooLate(MessageState),
    NotFound,
}

/// A shard at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    pub shard: ShardId,
    pub epoch: Epoch,
    /// Messages waiting for a route, by class, urgent first.
    pub queued: [u64; 4],
    pub scheduled: u64,
    pub in_flight: u64,
    pub unknown: u64,
    /// Sent, and waiting for delivery reports.
    pub sent: u64,
    /// Messages in memory; all others are in the store.
    pub resident: usize,
    /// Devices with a link.
    pub devices: usize,
}
