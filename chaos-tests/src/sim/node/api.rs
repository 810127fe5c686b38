//! Requests: looked up by their key, forwarded to the leader, accepted by its shard, answered when that is durable. What the
//! API layer does, without HTTP.

use flotilla_controller::domain::message::{Pin, Priority, Submission};
use flotilla_controller::domain::shard::{AcceptRequest, Acceptance, CancelOutcome, Effect, RequestKey};
use flotilla_controller::shard::{AcceptError, Answer, ShardError};
use flotilla_controller::store::IDEMPOTENCY_MS;
use flotilla_protocol::id::{MessageId, ShardId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Body, TextEncoding};

use super::{Node, NodeEvent};
use crate::sim::Flaw;
use crate::sim::client::ClientEvent;
use crate::sim::device;
use crate::sim::plan::{Party, Submit};
use crate::sim::store::ready;
use crate::sim::world::{Cx, Event};

const CALL_TIMEOUT_MS: u64 = 10_000;

/// Deliberate bugs of the way in.
fn spoil(submission: &mut Submission, flaw: Option<Flaw>) {
    match flaw {
        Some(Flaw::UrgentAsBulk) => {
            submission.priority = match submission.priority {
                Priority::Urgent => Priority::Bulk,
                Priority::Bulk => Priority::Urgent,
                other => other,
            };
        }
        Some(Flaw::LongValidity) => submission.expires_ms += 300_000,
        _ => {}
    }
}

/// What a client asks, and how often it has asked it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub client: usize,
    pub attempt: u32,
    pub wish: Wish,
    /// The controller that forwarded it, and its number there.
    pub from: Option<(usize, u64)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Wish {
    Submit { submit: Submit, key: Option<[u8; 16]> },
    Cancel { tenant: usize, message: MessageId },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Accepted {
        ids: Vec<MessageId>,
    },
    /// Nothing of it was done; come again.
    Refused,
    /// Only a repetition can tell.
    Undecided,
    Cancelled(CancelOutcome),
}

/// Who waits for what.
pub(super) struct Waiting {
    call: Call,
    on: On,
    replied: bool,
}

enum On {
    Accept {
        led: u64,
        ids: Vec<MessageId>,
        answer: Answer<Acceptance, AcceptError>,
    },
    Cancel {
        answer: Answer<CancelOutcome, ShardError>,
    },
    /// Another controller's answer.
    Forwarded,
}

impl Node {
    pub(super) fn call(&mut self, call: Call, cx: &mut Cx) {
        let tenant = match &call.wish {
            Wish::Submit { submit, .. } => submit.tenant,
            Wish::Cancel { tenant, .. } => *tenant,
        };
        let shard = ShardId::of(device::tenant_id(tenant), cx.store.shards());
        if self.led_of(shard).is_some() {
            let delay = 2 * cx.writes.delay();
            let event = self.own(NodeEvent::LookedUp { call });
            return cx.after(delay, event);
        }
        let leader = self.leader_of(shard).filter(|node| *node != self.number);
        let (Some(leader), None) = (leader, call.from) else { return self.reply(&call, Reply::Refused, cx) };
        let number = self.fresh();
        let forwarded = Call { from: Some((self.number, number)), ..call.clone() };
        self.wait(number, Waiting { call, on: On::Forwarded, replied: false }, cx);
        if let Some(at) = cx.net.message(self.me(), Party::Node(leader), cx.now) {
            cx.at(at, Event::ToNode(leader, NodeEvent::Call { call: forwarded }));
        }
    }

    /// The key was looked for in the rows.
    pub(super) fn looked_up(&mut self, call: Call, cx: &mut Cx) {
        if !self.reaches_store(cx) {
            return self.reply(&call, Reply::Refused, cx);
        }
        match call.wish.clone() {
            Wish::Submit { submit, key } => self.submit(call, &submit, key, cx),
            Wish::Cancel { tenant, message } => {
                let shard = ShardId::of(device::tenant_id(tenant), cx.store.shards());
                let answer =
                    self.led_of(shard).map(|(_, led)| led.handle.begin_cancel(device::tenant_id(tenant), message));
                match answer {
                    Some(Ok(answer)) => {
                        let number = self.fresh();
                        self.wait(number, Waiting { call, on: On::Cancel { answer }, replied: false }, cx);
                    }
                    _ => self.reply(&call, Reply::Refused, cx),
                }
            }
        }
    }

    fn submit(&mut self, call: Call, submit: &Submit, key: Option<[u8; 16]>, cx: &mut Cx) {
        let tenant = device::tenant_id(submit.tenant);
        let shard = ShardId::of(tenant, cx.store.shards());
        let key = key.filter(|_| cx.flaw != Some(Flaw::NoDedupe));
        let now_ms = self.clock.unix(cx.now);
        let since_ms = now_ms.saturating_sub(IDEMPOTENCY_MS);
        if let Some(key) = key
            && let Ok(Some(used)) = ready(cx.store.rows().idempotent(tenant, key, since_ms))
        {
            return self.reply(&call, Reply::Accepted { ids: used.messages }, cx);
        }
        let mut submissions: Vec<Submission> = (0..submit.messages).map(|_| self.submission(submit, now_ms)).collect();
        let ways = self.site.ways_of(submit);
        for submission in &mut submissions {
            cx.check.asked(submission, &ways);
            spoil(submission, cx.flaw);
        }
        let ids: Vec<MessageId> = submissions.iter().map(|submission| submission.id).collect();
        let idempotency = key.map(|key| RequestKey { key, request: key });
        let request = AcceptRequest { tenant, idempotency, submissions };
        let Some((led, lead)) = self.led_of(shard) else { return self.reply(&call, Reply::Refused, cx) };
        match lead.handle.begin_accept(request) {
            Ok(answer) => {
                let number = self.fresh();
                self.wait(number, Waiting { call, on: On::Accept { led, ids, answer }, replied: false }, cx);
            }
            Err(_) => self.reply(&call, Reply::Refused, cx),
        }
    }

    fn submission(&mut self, submit: &Submit, now_ms: u64) -> Submission {
        let pin = match submit.pinned {
            Some(place) => {
                let gateways = self.site.gateways_of(submit.tenant);
                gateways.get(place % gateways.len().max(1)).map_or(Pin::Any, |gateway| Pin::Device(*gateway))
            }
            None => Pin::Any,
        };
        let routing = &self.site.routing[submit.tenant];
        // Few recipients, where they are counted.
        let recipients = if routing.recipient_limit.is_some() { 8 } else { 1_000_000 };
        Submission {
            id: MessageId::new(now_ms, self.rng.bytes()),
            tenant: device::tenant_id(submit.tenant),
            accepted_ms: now_ms,
            to: Msisdn::from_u64(255_700_000_000 + self.rng.below(recipients)).expect("a number"),
            // The modem counts by it.
            body: Body::Text(submit.segments.to_string()),
            encoding: TextEncoding::default(),
            flash: false,
            segments: submit.segments,
            priority: submit.priority,
            duplicates: submit.duplicates,
            pin,
            due_ms: now_ms + submit.due_ms,
            expires_ms: now_ms + submit.due_ms + submit.valid_ms,
            campaign: "".into(),
            tags: if submit.tagged { vec!["tagged".into()] } else { vec![] },
            client_ref: None,
            sender: None,
            plan: (submit.names_plan && routing.plans.contains_key("chain")).then(|| "chain".into()),
            max_cost: None,
            callback_url: None,
        }
    }

    fn wait(&mut self, number: u64, waiting: Waiting, cx: &mut Cx) {
        self.mind.calls.insert(number, waiting);
        let event = self.own(NodeEvent::CallTimeout { number });
        cx.after(CALL_TIMEOUT_MS, event);
    }

    pub(super) fn call_timeout(&mut self, number: u64, cx: &mut Cx) {
        if let Some(waiting) = self.mind.calls.remove(&number)
            && !waiting.replied
        {
            self.reply(&waiting.call, Reply::Undecided, cx);
        }
    }

    pub(super) fn forwarded(&mut self, number: u64, reply: Reply, cx: &mut Cx) {
        if let Some(waiting) = self.mind.calls.remove(&number) {
            self.reply(&waiting.call, reply, cx);
        }
    }

    /// Answers that shards have given.
    pub(super) fn answer_calls(&mut self, cx: &mut Cx) {
        let mut done = Vec::new();
        for (number, waiting) in &mut self.mind.calls {
            if let Some(reply) = waiting.on.poll() {
                done.push((*number, reply));
            }
        }
        for (number, reply) in done {
            let Some(Waiting { call, on, replied }) = self.mind.calls.remove(&number) else { continue };
            if reply == Reply::Refused
                && let On::Accept { ids, .. } = &on
            {
                cx.check.refused(ids);
            }
            if !replied {
                self.reply(&call, reply, cx);
            }
        }
    }

    /// What leaves here is a promise.
    fn reply(&mut self, call: &Call, reply: Reply, cx: &mut Cx) {
        if let (Reply::Accepted { ids }, Wish::Submit { submit, key }) = (&reply, &call.wish) {
            cx.check.promised(device::tenant_id(submit.tenant), *key, ids);
        }
        if let (Reply::Cancelled(CancelOutcome::Cancelled), Wish::Cancel { message, .. }) = (&reply, &call.wish) {
            cx.check.cancelled(*message);
        }
        match call.from {
            Some((node, number)) => {
                if let Some(at) = cx.net.message(self.me(), Party::Node(node), cx.now) {
                    cx.at(at, Event::ToNode(node, NodeEvent::Forwarded { number, reply }));
                }
            }
            None => {
                if let Some(at) = cx.net.message(self.me(), Party::Clients, cx.now) {
                    let event = ClientEvent::Answer { client: call.client, attempt: call.attempt, reply };
                    cx.at(at, Event::Client(event));
                }
            }
        }
    }

    /// A deliberate bug: what is still on its way to the disk is promised.
    pub(super) fn promise_early(&mut self, led: u64, cx: &mut Cx) {
        if cx.flaw != Some(Flaw::AcknowledgeBeforeCommit) {
            return;
        }
        let Some(lead) = self.mind.led.get(&led) else { return };
        let accepted = |effect: &Effect| match effect {
            Effect::Accepted { result: Ok(acceptance), .. } => Some(acceptance.ids.to_vec()),
            _ => None,
        };
        let early: Vec<Vec<MessageId>> = lead.life.held_back().iter().filter_map(accepted).collect();
        let mut calls = Vec::new();
        for waiting in self.mind.calls.values_mut() {
            if let On::Accept { led: on, ids, .. } = &waiting.on
                && *on == led
                && early.contains(ids)
                && !std::mem::replace(&mut waiting.replied, true)
            {
                calls.push((waiting.call.clone(), ids.clone()));
            }
        }
        for (call, ids) in calls {
            self.reply_unseen(&call, Reply::Accepted { ids }, cx);
        }
    }

    /// Without the check at once: whether the promise is kept is seen later.
    fn reply_unseen(&mut self, call: &Call, reply: Reply, cx: &mut Cx) {
        if let (Reply::Accepted { ids }, Wish::Submit { .. }) = (&reply, &call.wish) {
            cx.check.promised_unseen(ids);
        }
        if let Some(at) = cx.net.message(self.me(), Party::Clients, cx.now).filter(|_| call.from.is_none()) {
            let event = ClientEvent::Answer { client: call.client, attempt: call.attempt, reply };
            cx.at(at, Event::Client(event));
        }
    }
}

impl On {
    fn poll(&mut self) -> Option<Reply> {
        use tokio::sync::oneshot::error::TryRecvError;
        match self {
            Self::Accept { answer, .. } => match answer.try_recv() {
                Ok(Ok(acceptance)) => Some(Reply::Accepted { ids: acceptance.ids.to_vec() }),
                Ok(Err(AcceptError::Undecided)) | Err(TryRecvError::Closed) => Some(Reply::Undecided),
                Ok(Err(_)) => Some(Reply::Refused),
                Err(TryRecvError::Empty) => None,
            },
            Self::Cancel { answer } => match answer.try_recv() {
                Ok(Ok(outcome)) => Some(Reply::Cancelled(outcome)),
                Ok(Err(ShardError::Undecided)) | Err(TryRecvError::Closed) => Some(Reply::Undecided),
                Ok(Err(_)) => Some(Reply::Refused),
                Err(TryRecvError::Empty) => None,
            },
            Self::Forwarded => None,
        }
    }
}
