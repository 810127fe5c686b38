//! Requests: taking messages in, once per idempotency key, and cancelling them.

use std::sync::Arc;

use flotilla_protocol::id::{MessageId, TenantId};
use flotilla_protocol::wire::{Attempt, Down};
use smallvec::smallvec;

use super::io::{AcceptRequest, Acceptance, CancelOutcome, Effect, KeyReused, KnownKey, RequestKey, Token};
use super::message::Message;
use super::slots::Slot;
use super::{Machine, Now, fleet::Grant};
use crate::domain::event::{Accepted, Change, Event, EventKind, Idempotency};
use crate::domain::message::{MessageState, Submission};

impl Machine {
    pub(super) fn accept(&mut self, token: Token, request: AcceptRequest, now: Now) {
        let Some(key) = request.idempotency else {
            let ids = self.take_in(request, now);
            return self.accepted(token, Ok(Acceptance { ids, replayed: false }));
        };
        if let Some(result) = self.keys.find(request.tenant, key) {
            return self.accepted(token, result);
        }
        if now.mono_ms >= self.look_up_until_ms {
            return self.take_in_once(token, request, key, now);
        }
        self.effects.push(Effect::FindKey { token, tenant: request.tenant, key: key.key });
        self.undecided.insert(token, request);
    }

    pub(super) fn key_found(&mut self, token: Token, known: Option<KnownKey>, now: Now) {
        let Some(request) = self.undecided.remove(&token) else { return };
        let Some(key) = request.idempotency else { return };
        // The same key may have come twice while the first one was looked up.
        if let Some(result) = self.keys.find(request.tenant, key) {
            return self.accepted(token, result);
        }
        match known {
            Some(known) if known.request == key.request => {
                self.accepted(token, Ok(Acceptance { ids: known.ids.into(), replayed: true }));
            }
            Some(_) => self.accepted(token, Err(KeyReused)),
            None => self.take_in_once(token, request, key, now),
        }
    }

    fn take_in_once(&mut self, token: Token, request: AcceptRequest, key: RequestKey, now: Now) {
        let tenant = request.tenant;
        let ids = self.take_in(request, now);
        self.keys.remember(tenant, key, Arc::clone(&ids), now.mono_ms);
        self.accepted(token, Ok(Acceptance { ids, replayed: false }));
    }

    fn accepted(&mut self, token: Token, result: Result<Acceptance, KeyReused>) {
        self.effects.push(Effect::Accepted { token, result });
    }

    fn take_in(&mut self, request: AcceptRequest, now: Now) -> Arc<[MessageId]> {
        let ids = request.submissions.iter().map(|submission| submission.id).collect();
        let count = request.submissions.len() as u16;
        for (index, submission) in request.submissions.into_iter().enumerate() {
            let idempotency = request.idempotency.map(|key| Idempotency {
                key: key.key,
                request: key.request,
                index: index as u16,
                count,
            });
            self.take_in_one(submission, idempotency, now);
        }
        ids
    }

    fn take_in_one(&mut self, submission: Submission, idempotency: Option<Idempotency>, now: Now) {
        debug_assert!(!self.ids.contains_key(&submission.id), "an id is used once");
        let order = (self.seq, self.events.len() as u32);
        let (tenant, class) = (submission.tenant, submission.priority);
        let scheduled = submission.due_ms > now.unix_ms;
        let state = if scheduled { MessageState::Scheduled } else { MessageState::Queued };
        self.totals.add(class, state, 1);
        let stays = if scheduled { !self.holds_scheduled(submission.due_ms) } else { self.must_spill(tenant, class) };
        if !stays {
            let lane = self.join_lane(&submission, now);
            self.settle(Message::accepted(&submission, now.unix_ms, order, lane), now);
        } else if !scheduled {
            self.spill(tenant, class, order);
        }
        let kind = EventKind::Accepted(Box::new(Accepted { submission, idempotency }));
        self.events.push(Event { at_ms: now.unix_ms, kind });
    }

    pub(super) fn cancel(&mut self, token: Token, tenant: TenantId, message: MessageId, now: Now) {
        let Some(slot) = self.ids.get(&message).copied() else {
            return self.load_for_cancel(tenant, message, token);
        };
        let outcome = match self.tenant_of(slot) {
            Some(owner) if owner == tenant => self.cancel_resident(slot, now),
            _ => CancelOutcome::NotFound,
        };
        self.effects.push(Effect::Cancelled { token, outcome });
    }

    pub(super) fn cancel_resident(&mut self, slot: Slot, now: Now) -> CancelOutcome {
        let Some(message) = self.messages.get_mut(slot) else { return CancelOutcome::NotFound };
        let attempt = Attempt { message: message.id, number: message.attempt };
        let device = message.route.map(|route| route.device);
        match message.state {
            MessageState::Scheduled | MessageState::Queued => {
                self.record(slot, Change::Cancelled, now);
                CancelOutcome::Cancelled
            }
            MessageState::Dispatching | MessageState::Unknown => {
                message.cancel_asked = true;
                let Some(device) = device else { return CancelOutcome::Requested };
                self.post(device, Down::Cancel { attempts: smallvec![attempt] });
                let grant = self.devices.get(&device).and_then(|device| device.flights.get(&attempt)).map(|f| f.grant);
                if grant == Some(Grant::No) {
                    self.record(slot, Change::Cancelled, now);
                    return CancelOutcome::Cancelled;
                }
                CancelOutcome::Requested
            }
            state => CancelOutcome::TooLate(state),
        }
    }

    pub(super) fn tenant_of(&self, slot: Slot) -> Option<TenantId> {
        self.messages.get(slot).map(|message| self.lanes.get(message.lane).key.tenant)
    }
}
