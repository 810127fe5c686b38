//! What services tell: callbacks come to any controller, go to the one that leads, and are answered when what they tell is
//! durable. The order of things is that of `providers/callbacks.rs` and `providers/session/telling.rs`.

use flotilla_controller::domain::Now;
use flotilla_controller::domain::message::SEGMENTS_MAX;
use flotilla_controller::providers::news::{by_reference, inbound_message};
use flotilla_controller::providers::references::Known;
use flotilla_protocol::id::ShardId;
use flotilla_protocol::wire::ErrorClass;
use flotilla_providers::{Receipt, ReceiptState, Refusal};

use super::super::{Node, NodeEvent};
use super::Session;
use crate::sim::Flaw;
use crate::sim::device;
use crate::sim::plan::Party;
use crate::sim::provider::{Call, News, ServiceEvent};
use crate::sim::world::{Cx, Event};

/// A report that came before the answer to what it is about.
pub(super) struct Early {
    pub(super) call: Call,
    receipt: Receipt,
    /// The last batch at that time: when it and all before are answered, nobody will ever know.
    batch: u64,
}

impl Node {
    pub(in crate::sim::node) fn called_back(&mut self, call: Call, cx: &mut Cx) {
        let tenant = device::tenant_id(self.site.accounts[call.account].tenant);
        let shard = ShardId::of(tenant, cx.store.shards());
        if self.led_of(shard).is_some() {
            if !self.reaches_store(cx) && !matches!(&call.news, News::Receipt(receipt) if receipt.reference.is_some()) {
                return self.answer_call(&call, false, cx);
            }
            let delay = 2 * cx.writes.delay();
            let event = self.own(NodeEvent::News { call });
            return cx.after(delay, event);
        }
        let leader = self.leader_of(shard).filter(|node| *node != self.number);
        let (Some(leader), None) = (leader, call.via) else { return self.answer_call(&call, false, cx) };
        cx.count("callback handed on");
        let call = Call { via: Some(self.number), ..call };
        if let Some(at) = cx.net.message(self.me(), Party::Node(leader), cx.now) {
            cx.at(at, Event::ToNode(leader, NodeEvent::CalledBack { call }));
        }
    }

    /// The attempt behind it was looked up.
    pub(in crate::sim::node) fn news(&mut self, call: Call, cx: &mut Cx) {
        let now = self.now(cx);
        let account = call.account;
        let session = self.mind.accounts.get_mut(&account);
        let Some(session) = session.filter(|session| session.agent.has_room(SEGMENTS_MAX.into())) else {
            return self.answer_call(&call, false, cx);
        };
        cx.log(|| format!("p{account} tells c{}: {:?}", self.number, call.news));
        let position = match &call.news {
            News::Receipt(receipt) => {
                let kept = |id: &str| cx.references.get(&(account, id.into())).map(|(known, _)| *known);
                let by_id = || receipt.id.as_deref().and_then(|id| kept(id).or_else(|| session.known(id)));
                match by_reference(receipt).or_else(by_id) {
                    Some(known) => take_receipt(session, known, receipt, now),
                    None => {
                        let batch = session.agent.batches().max().unwrap_or(0);
                        session.early.push(Early { receipt: receipt.clone(), batch, call });
                        self.retry_early(account, cx);
                        return self.pump_account(account, cx);
                    }
                }
            }
            News::Inbound(inbound) => {
                let provider = self.site.accounts[account].provider();
                let message = inbound_message(provider, 0, inbound.clone(), now.unix_ms);
                session.agent.inbound(message, now.unix_ms)
            }
        };
        // A deliberate bug does not wait for the commit.
        let position = if cx.flaw == Some(Flaw::EarlyCallbackAnswer) { 0 } else { position };
        session.waiting.push((position, call));
        self.pump_account(account, cx);
    }

    pub(super) fn retry_early(&mut self, account: usize, cx: &mut Cx) {
        let now = self.now(cx);
        let Some(session) = self.mind.accounts.get_mut(&account) else { return };
        let first = session.agent.batches().min().unwrap_or(u64::MAX);
        for early in std::mem::take(&mut session.early) {
            let known = early.receipt.id.as_deref().and_then(|id| session.known(id));
            match known {
                Some(known) => {
                    let position = take_receipt(session, known, &early.receipt, now);
                    session.waiting.push((position, early.call));
                }
                None if first <= early.batch => session.early.push(early),
                // From another life of the account: nobody will ever know.
                None => {
                    cx.count("report about nothing that is known");
                    session.waiting.push((0, early.call));
                }
            }
        }
    }

    pub(super) fn answer_call(&self, call: &Call, taken: bool, cx: &mut Cx) {
        let (account, number) = (call.account, call.number);
        let mut at = Some(cx.now);
        let mut from = self.me();
        if let Some(via) = call.via {
            at = cx.net.message(from, Party::Node(via), cx.now);
            from = Party::Node(via);
        }
        if let Some(at) = at.and_then(|at| cx.net.message(from, Party::Provider(account), at)) {
            cx.at(at, Event::Service(account, ServiceEvent::Answered { number, taken }));
        }
    }
}

/// Answers the position of its last report, 0 when there is nothing to report.
fn take_receipt(session: &mut Session, known: Known, receipt: &Receipt, now: Now) -> u64 {
    if let Some(id) = receipt.id.as_deref().filter(|_| receipt.state != ReceiptState::Pending) {
        session.polls.settle(id);
    }
    let Known { attempt, segments, segment, .. } = known;
    let segment = receipt.segment.or(segment);
    match &receipt.state {
        ReceiptState::Pending => 0,
        ReceiptState::Delivered => session.agent.delivered(attempt, segments, segment, now.unix_ms),
        ReceiptState::Failed(refusal) => session.agent.undelivered(attempt, segment, refusal, now.unix_ms),
        ReceiptState::Expired => {
            let text = "the provider has let it expire".into();
            let code = "maker-expired".into();
            let refusal = Refusal { class: ErrorClass::Transient, code, text, retry_after_ms: None };
            session.agent.undelivered(attempt, segment, &refusal, now.unix_ms)
        }
    }
}

/// What the maker has answered about messages; those that are settled.
pub(super) fn polled(session: &mut Session, asked: &[Box<str>], receipts: Vec<Receipt>, now: Now) -> Vec<Box<str>> {
    let mut settled = Vec::new();
    for receipt in receipts {
        let Some(id) = receipt.id.clone().filter(|id| asked.contains(id)) else { continue };
        let Some(known) = session.polls.known(&id).or_else(|| session.known(&id)) else { continue };
        if receipt.state != ReceiptState::Pending && session.polls.settle(&id) {
            settled.push(id);
        }
        take_receipt(session, known, &receipt, now);
    }
    settled
}
