//! Requests to services: the carrier's rules about what was not sent and what is in doubt (`providers/carrier.rs`), and the
//! maker's ids, which are kept before an attempt counts as sent (`providers/references.rs`).

use flotilla_controller::providers::agent::{Batch, Job};
use flotilla_controller::providers::references::{Known, reference};
use flotilla_protocol::wire::{ErrorClass, NotSent};
use flotilla_providers::{Receipt, Refusal, Submitted};

use super::super::{Node, NodeEvent};
use super::{POLL_EVERY_MS, Session};
use crate::sim::Flaw;
use crate::sim::Ms;
use crate::sim::plan::Party;
use crate::sim::provider::{Account, Answer, Caller, ServiceEvent, Wish};
use crate::sim::world::{Cx, Event};

const CONNECT_MS: u64 = 3_000;
/// Ids that the store does not take for so long are not waited for.
const KEEP_FOR_MS: u64 = 5_000;
const KEEP_RETRY_MS: u64 = 200;
/// Ids in one question.
const POLL_MAX: usize = 100;

/// A request under way. It outlives its session.
pub(in crate::sim::node) struct Request {
    account: usize,
    session: u64,
    what: What,
}

enum What {
    Submit { batch: Batch, results: Option<Vec<Submitted>> },
    Poll { asked: Vec<Box<str>> },
}

fn unreachable() -> Submitted {
    let text = "nobody is there".into();
    let code = "maker-unreachable".into();
    Submitted::Refused(Refusal { class: ErrorClass::Route, code, text, retry_after_ms: None })
}

impl Node {
    pub(super) fn submit_batch(&mut self, account: &Account, batch: Batch, cx: &mut Cx) {
        let now = self.now(cx);
        let Some(session) = self.mind.accounts.get_mut(&account.number) else { return };
        let deadline_ms = batch.jobs.iter().map(|job| job.deadline_ms).min().unwrap_or_default();
        if now.mono_ms >= deadline_ms {
            return session.agent.not_submitted(batch.number, NotSent::LeaseOver, now);
        }
        let session = session.number;
        let wish = |job: &Job| Wish {
            attempt: job.attempt,
            reference: reference(job.attempt, job.segments),
            slot: job.slot,
            segments: job.segments,
        };
        let wishes: Vec<Wish> = batch.jobs.iter().map(wish).collect();
        for wish in &wishes {
            cx.check.submitted(wish.attempt, cx.now);
        }
        let what = What::Submit { batch, results: None };
        self.request(Request { account: account.number, session, what }, account.timeout_ms, cx, |caller| {
            ServiceEvent::Submit { caller, wishes }
        });
    }

    fn request(&mut self, request: Request, timeout_ms: u64, cx: &mut Cx, event: impl FnOnce(Caller) -> ServiceEvent) {
        let (number, account) = (self.fresh(), request.account);
        self.mind.requests.insert(number, request);
        let caller = Caller { node: self.number, life: self.life, request: number };
        match cx.net.message(self.me(), Party::Provider(account), cx.now) {
            Some(at) => cx.at(at, Event::Service(account, event(caller))),
            // A connection that was open already takes the request, and keeps it.
            None if self.account_rng.percent(30) => {}
            None => {
                let answer = Answer::Unreachable;
                let event = self.own(NodeEvent::ServiceAnswer { request: number, answer });
                cx.after(CONNECT_MS.min(timeout_ms / 2), event);
            }
        }
        let event = self.own(NodeEvent::ServiceTimeout { request: number });
        cx.after(timeout_ms, event);
    }

    pub(in crate::sim::node) fn service_timeout(&mut self, number: u64, cx: &mut Cx) {
        match self.mind.requests.get(&number).map(|request| &request.what) {
            Some(What::Submit { batch, results: None }) => {
                let result = match cx.flaw {
                    Some(Flaw::TimeoutAsRefusal) => unreachable(),
                    _ => Submitted::Unclear("no answer in time".into()),
                };
                let results = vec![result; batch.jobs.len()];
                self.service_answer(number, Answer::Submitted(results), cx);
            }
            Some(What::Poll { .. }) => self.service_answer(number, Answer::Polled(Vec::new()), cx),
            // What comes of it is being kept.
            Some(What::Submit { results: Some(_), .. }) | None => {}
        }
    }

    pub(in crate::sim::node) fn service_answer(&mut self, number: u64, answer: Answer, cx: &mut Cx) {
        let Some(request) = self.mind.requests.get_mut(&number) else { return };
        let account = &self.site.accounts[request.account];
        match (&mut request.what, answer) {
            (What::Submit { results: Some(_), .. }, _) | (What::Submit { .. }, Answer::Polled(_)) => {}
            (What::Submit { batch, results }, answer) => {
                let told = match answer {
                    Answer::Submitted(told) => told,
                    _ => vec![unreachable(); batch.jobs.len()],
                };
                *results = Some(told);
                if account.echoes && !account.polls {
                    return self.submit_ended(number, cx);
                }
                self.keep_ids(number, cx.now + KEEP_FOR_MS, cx);
            }
            (What::Poll { .. }, answer) => {
                let receipts = if let Answer::Polled(receipts) = answer { receipts } else { Vec::new() };
                self.polled(number, receipts, cx);
            }
        }
    }

    /// The maker's ids, before anything of it counts as sent.
    pub(in crate::sim::node) fn keep_ids(&mut self, number: u64, until: Ms, cx: &mut Cx) {
        let reaches = self.reaches_store(cx);
        let Some(request) = self.mind.requests.get(&number) else { return };
        let ids = request.ids();
        if !reaches && !ids.is_empty() && cx.now < until {
            let event = self.own(NodeEvent::KeepIds { request: number, until });
            return cx.after(KEEP_RETRY_MS, event);
        }
        if reaches {
            for (id, known) in ids {
                cx.references.insert((request.account, id), (known, self.clock.unix(cx.now)));
            }
        }
        let event = self.own(NodeEvent::IdsKept { request: number });
        let delay = cx.writes.delay();
        cx.after(delay, event);
    }

    pub(in crate::sim::node) fn submit_ended(&mut self, number: u64, cx: &mut Cx) {
        let now = self.now(cx);
        let Some(request) = self.mind.requests.remove(&number) else { return };
        let ids = request.ids();
        let Request { account, session, what } = request;
        let What::Submit { batch, results } = what else { return };
        // One that has ended is not interested: the shard has asked the next one.
        let Some(session) = self.session_of(account, session) else { return };
        for (id, known) in ids {
            session.polls.sent(&id, known, now.unix_ms);
            session.submitted.insert(id, known);
        }
        session.agent.submitted(batch.number, &results.unwrap_or_default(), 0, now);
        self.retry_early(account, cx);
        self.pump_account(account, cx);
    }

    /// What an earlier session has submitted is asked about too.
    pub(in crate::sim::node) fn pollable(&mut self, account: usize, number: u64, cx: &mut Cx) {
        let now = self.now(cx);
        if !self.reaches_store(cx) {
            let event = self.own(NodeEvent::Pollable { account, session: number });
            return cx.after(POLL_EVERY_MS, event);
        }
        let known: Vec<_> = cx.references.range((account, "".into())..(account + 1, "".into())).collect();
        let Some(session) = self.session_of(account, number) else { return };
        for ((_, id), (attempt, sent_ms)) in known {
            session.polls.restored(id, *attempt, *sent_ms, now.unix_ms);
        }
        let event = self.own(NodeEvent::Poll { account, session: number });
        cx.after(POLL_EVERY_MS, event);
    }

    pub(in crate::sim::node) fn poll(&mut self, account: usize, number: u64, cx: &mut Cx) {
        let now = self.now(cx);
        let timeout_ms = self.site.accounts[account].timeout_ms;
        let Some(session) = self.session_of(account, number) else { return };
        let asked = if session.polling { Vec::new() } else { session.polls.due(POLL_MAX, now.unix_ms) };
        session.polling |= !asked.is_empty();
        if !asked.is_empty() {
            cx.count("a provider is asked for news");
            let ids = asked.clone();
            let request = Request { account, session: number, what: What::Poll { asked } };
            self.request(request, timeout_ms, cx, |caller| ServiceEvent::Poll { caller, ids });
        }
        let event = self.own(NodeEvent::Poll { account, session: number });
        cx.after(POLL_EVERY_MS, event);
    }

    fn polled(&mut self, number: u64, receipts: Vec<Receipt>, cx: &mut Cx) {
        let now = self.now(cx);
        let reaches = self.reaches_store(cx);
        let Some(Request { account, session, what: What::Poll { asked } }) = self.mind.requests.remove(&number) else {
            return;
        };
        let Some(session) = self.session_of(account, session) else { return };
        session.polling = false;
        let settled = super::news::polled(session, &asked, receipts, now);
        for id in settled.into_iter().filter(|_| reaches) {
            cx.references.remove(&(account, id));
        }
        self.pump_account(account, cx);
    }
}

impl Request {
    fn ids(&self) -> Vec<(Box<str>, Known)> {
        let What::Submit { batch, results: Some(results) } = &self.what else { return Vec::new() };
        let known = |(result, job): (&Submitted, &Job)| match result {
            Submitted::Accepted { id: Some(id), .. } => {
                let known = Known { attempt: job.attempt, segments: job.segments, segment: None, to: None };
                Some((id.clone(), known))
            }
            _ => None,
        };
        results.iter().zip(&batch.jobs).filter_map(known).collect()
    }
}

impl Session {
    pub(super) fn known(&self, id: &str) -> Option<Known> {
        self.submitted.get(id).copied()
    }
}
