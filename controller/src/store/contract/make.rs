//! Tenants, messages and events for the checks, all from small numbers.

use flotilla_protocol::address::Address;
use flotilla_protocol::id::{DeviceId, Epoch, InboundId, MessageId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Body, ErrorClass, TextEncoding};
use flotilla_routing::choice::Why;

use super::SHARDS;
use crate::domain::event::{Accepted, Change, Event, EventKind, Inbound};
use crate::domain::message::{Duplicates, Failure, MessageState, Pin, Priority, Route, Submission};
use crate::domain::record::MessageRecord;
use crate::store::Batch;

pub(crate) const T0: u64 = 1_763_640_000_000;

/// The `n`th tenant of a shard.
pub(crate) fn tenant(shard: u16, n: u64) -> TenantId {
    let all = (1u64..).map(|i| TenantId::new(i, [i as u8; 10]));
    let mut ours = all.filter(|tenant| ShardId::of(*tenant, SHARDS) == ShardId(shard));
    ours.nth(n as usize).unwrap()
}

pub(crate) fn message_id(n: u64) -> MessageId {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&n.to_be_bytes());
    MessageId::new(T0 + n, random)
}

pub(crate) fn sim(n: u8) -> SimId {
    SimId::new(1, [n; 10])
}

pub(crate) fn device(n: u8) -> DeviceId {
    DeviceId::new(1, [n; 10])
}

pub(crate) fn number(n: u64) -> Msisdn {
    Msisdn::from_u64(255_712_000_000 + n).unwrap()
}

pub(crate) fn submission(tenant: TenantId, n: u64) -> Submission {
    Submission {
        id: message_id(n),
        tenant,
        accepted_ms: T0 + n,
        to: number(n % 1_000),
        body: Body::Text(format!("Text of message {n}, long enough to be one that somebody could have sent")),
        encoding: TextEncoding::default(),
        flash: false,
        segments: 1,
        priority: Priority::Normal,
        duplicates: Duplicates::Never,
        pin: Pin::Any,
        due_ms: T0 + n,
        expires_ms: T0 + n + 86_400_000,
        campaign: "".into(),
        tags: Vec::new(),
        client_ref: None,
        sender: None,
        plan: None,
        max_cost: None,
        callback_url: None,
    }
}

pub(crate) fn record(tenant: TenantId, n: u64) -> MessageRecord {
    MessageRecord::accepted(submission(tenant, n), T0 + n, (n, 0))
}

pub(crate) fn route(n: u8) -> Route {
    Route::sim(device(n), sim(n))
}

/// A record that went its way up to a state.
pub(crate) fn record_in(tenant: TenantId, n: u64, state: MessageState, on: Route) -> MessageRecord {
    let mut record = record(tenant, n);
    let at = T0 + n;
    let why = Failure { class: ErrorClass::Permanent, code: "cms-38".into(), text: "network out of order".into() };
    let dispatched = Change::Dispatched { attempt: 1, route: on, session: 7, why: Why::default() };
    let sent = Change::Sent { attempt: 1, route: on, sent_ms: at + 2, took_ms: 0 };
    let mut changes = vec![dispatched];
    match state {
        MessageState::Scheduled => {
            let mut later = submission(tenant, n);
            later.due_ms = at + 1_000;
            return MessageRecord::accepted(later, at, (n, 0));
        }
        MessageState::Queued => changes.clear(),
        MessageState::Dispatching => {}
        MessageState::Unknown => changes.push(Change::Doubted { attempt: 1, route: on, lost: false }),
        MessageState::Sent => changes.push(sent),
        MessageState::Delivered => {
            changes.push(sent);
            changes.push(Change::Delivered { attempt: 1, route: on, sent_ms: at + 2, delivered_ms: at + 5 });
        }
        MessageState::Failed => changes.push(Change::Failed { attempt: 1, route: Some(on), why, undelivered: false }),
        MessageState::Expired => changes.push(Change::Expired { attempt: 1, route: Some(on), why }),
        MessageState::Cancelled => changes = vec![Change::Cancelled],
    }
    for change in &changes {
        record.apply(at + 1, change);
    }
    record
}

pub(crate) fn accepted(submission: Submission) -> Event {
    let at_ms = submission.accepted_ms;
    Event { at_ms, kind: EventKind::Accepted(Box::new(Accepted { submission, idempotency: None })) }
}

pub(crate) fn inbound(tenant: TenantId, n: u64, device_n: u8) -> Inbound {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&n.to_be_bytes());
    Inbound {
        id: InboundId::new(T0 + n, random),
        tenant,
        device: device(device_n),
        sim: sim(device_n),
        position: n,
        from: Address::International(number(n % 10)),
        to: None,
        text: format!("inbound {n}").into(),
        segments: 1,
        sent_ms: None,
        received_ms: T0 + n,
    }
}

/// A batch with `events` acceptances.
pub(crate) fn batch(shard: u16, epoch: u64, seq: u64, events: u64) -> Batch {
    let tenant = tenant(shard, 0);
    let events = (0..events).map(|i| accepted(submission(tenant, seq * 1_000 + i))).collect();
    Batch { shard: ShardId(shard), epoch: Epoch(epoch), seq, events }
}
