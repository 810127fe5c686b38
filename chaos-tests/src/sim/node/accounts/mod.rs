//! Sessions of provider accounts: what the supervisor, the session's actor and the gateway's door do in a real node
//! (`providers/supervisor.rs`, `providers/session.rs`), around the product's own agent. A session is where the tenant's shard
//! is led, dies with its controller, and with the leadership.

mod news;
mod requests;

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_controller::domain::message::RouteKind;
use flotilla_controller::providers::agent::{Agent, ToShard};
use flotilla_controller::providers::polls::Polls;
use flotilla_controller::providers::references::Known;
use flotilla_controller::shard::{DeviceSink, Link, ShardHandle};
use flotilla_protocol::id::{DeviceId, Epoch, ShardId};
use flotilla_protocol::wire::{Down, Report};
use parking_lot::Mutex;

use super::{Node, NodeEvent};
use crate::sim::Ms;
use crate::sim::device;
use crate::sim::provider::{Account, Call};
use crate::sim::told;
use crate::sim::world::{Cx, Event};

pub(super) use requests::Request;

/// Where makers call back, they are asked for news of what is this old.
const POLL_FIRST_WITH_CALLS_MS: u64 = 45_000;
const POLL_FIRST_MS: u64 = 20_000;
const POLL_EVERY_MS: u64 = 15_000;

/// Frames for an account's session.
pub(super) type Outgoing = (usize, u64, Vec<Down>);

pub(super) struct Session {
    number: u64,
    led: u64,
    handle: ShardHandle,
    agent: Agent,
    /// What the shard was told last of whether it is fit for work.
    ready: bool,
    /// Reports that the shard has, and has not acknowledged.
    told: BTreeMap<u64, Report>,
    /// The maker's ids of what was submitted here.
    submitted: BTreeMap<Box<str>, Known>,
    early: Vec<news::Early>,
    /// Callbacks whose reports are not durable yet, by the position of the last one.
    waiting: Vec<(u64, Call)>,
    polls: Polls,
    polling: bool,
    wake_at: Ms,
}

struct Sink {
    account: usize,
    session: u64,
    out: Arc<Mutex<Vec<Outgoing>>>,
}

impl DeviceSink for Sink {
    fn send(&self, frames: Vec<Down>) {
        self.out.lock().push((self.account, self.session, frames));
    }
}

impl Node {
    /// Leadership has changed, or is about to be looked at: the supervisor hears of it a little later.
    pub(super) fn look_at_accounts(&mut self, cx: &mut Cx) {
        if self.site.accounts.is_empty() {
            return;
        }
        let pause =
            if self.account_rng.percent(80) { self.account_rng.below(300) } else { self.account_rng.below(2_500) };
        let event = self.own(NodeEvent::Accounts);
        cx.after(pause, event);
    }

    /// A session for each account whose tenant's shard is led here, and no other.
    pub(super) fn reconcile_accounts(&mut self, cx: &mut Cx) {
        let site = Arc::clone(&self.site);
        for account in site.accounts.iter() {
            let shard = ShardId::of(device::tenant_id(account.tenant), cx.store.shards());
            let led = self.led_of(shard).map(|(id, led)| (id, led.handle.clone()));
            let here = self.mind.accounts.get(&account.number).map(|session| session.led);
            if here.is_some() && here != led.as_ref().map(|(id, _)| *id) {
                self.end_account(account.number, cx);
            }
            if let Some((led, handle)) = led
                && !self.mind.accounts.contains_key(&account.number)
            {
                self.begin_account(account, led, handle, cx);
            }
        }
    }

    fn begin_account(&mut self, account: &Account, led: u64, handle: ShardHandle, cx: &mut Cx) {
        let now = self.now(cx);
        self.mind.last_session += 1;
        let number = (u64::from(self.life) << 32) + self.mind.last_session;
        let mut agent = Agent::new(account.config, handle.epoch(), account.slots().collect(), now);
        agent.link_up();
        let link = Link {
            kind: RouteKind::Provider,
            device: account.id(),
            tenant: device::tenant_id(account.tenant),
            session: number,
            window: account.config.window,
            epoch_seen: Epoch::default(),
            sims: account.sims(true, cx.flaw),
            accepts_work: true,
        };
        cx.log(|| format!("c{}: p{} has session {}", self.number, account.number, self.mind.last_session));
        let sink = Sink { account: account.number, session: number, out: Arc::clone(&self.mind.account_sinks) };
        handle.device_up(link, Arc::new(sink));
        let first_ms = if account.calls_back { POLL_FIRST_WITH_CALLS_MS } else { POLL_FIRST_MS };
        let session = Session {
            number,
            led,
            handle,
            agent,
            ready: true,
            told: BTreeMap::new(),
            submitted: BTreeMap::new(),
            early: Vec::new(),
            waiting: Vec::new(),
            polls: Polls::with(account.polls.then_some(first_ms)),
            polling: false,
            wake_at: Ms::MAX,
        };
        self.mind.accounts.insert(account.number, session);
        if account.polls {
            let event = self.own(NodeEvent::Pollable { account: account.number, session: number });
            cx.after(0, event);
        }
        self.pump_account(account.number, cx);
    }

    /// What it had submitted without an answer is in doubt; callbacks that waited for it come again.
    fn end_account(&mut self, account: usize, cx: &mut Cx) {
        let Some(session) = self.mind.accounts.remove(&account) else { return };
        session.handle.device_down(self.site.accounts[account].id(), session.number);
        cx.check.gateway_is_gone(self.site.accounts[account].id());
        cx.log(|| format!("c{}: p{account} has no session any more", self.number));
        let early = session.early.into_iter().map(|early| early.call);
        for call in early.chain(session.waiting.into_iter().map(|(_, call)| call)) {
            self.answer_call(&call, false, cx);
        }
    }

    /// Frames that shards have for sessions.
    pub(super) fn deliver_to_accounts(&mut self, cx: &mut Cx) {
        let outgoing = std::mem::take(&mut *self.mind.account_sinks.lock());
        for (account, number, frames) in outgoing {
            for frame in frames {
                self.account_frame(account, number, frame, cx);
            }
            self.pump_account(account, cx);
        }
    }

    fn account_frame(&mut self, account: usize, number: u64, frame: Down, cx: &mut Cx) {
        let now = self.now(cx);
        let id = self.site.accounts[account].id();
        let Some(session) = self.session_of(account, number) else { return };
        cx.log(|| format!("p{account}: {}", told::down(&frame)));
        match &frame {
            Down::Dispatch(dispatch) => cx.check.dispatched(dispatch.attempt),
            Down::AckReports { position } => {
                let kept = session.told.split_off(&(position + 1));
                for report in std::mem::replace(&mut session.told, kept).into_values() {
                    cx.check.report_let_go(id, &report);
                }
            }
            _ => {}
        }
        session.agent.handle(frame, now);
    }

    /// Deliberate bugs: frames that are for an account come before their time.
    pub(super) fn leak_to_account(&mut self, device: DeviceId, number: u64, frames: Vec<Down>) {
        let account = self.site.accounts.iter().find(|account| account.id() == device);
        if let Some(account) = account {
            self.mind.account_sinks.lock().push((account.number, number, frames));
        }
    }

    fn session_of(&mut self, account: usize, number: u64) -> Option<&mut Session> {
        self.mind.accounts.get_mut(&account).filter(|session| session.number == number)
    }

    pub(super) fn account_wakes(&mut self, account: usize, number: u64, cx: &mut Cx) {
        if let Some(session) = self.session_of(account, number).filter(|session| session.wake_at <= cx.now) {
            session.wake_at = Ms::MAX;
            self.pump_account(account, cx);
        }
    }

    /// Everything that may follow from anything.
    fn pump_account(&mut self, account: usize, cx: &mut Cx) {
        let now = self.now(cx);
        let site = Arc::clone(&self.site);
        let known = &site.accounts[account];
        let Some(session) = self.mind.accounts.get_mut(&account) else { return };
        session.agent.expire(now);
        let ready = !session.agent.is_paused();
        if ready != std::mem::replace(&mut session.ready, ready) {
            cx.check.gateway_changes(known.id(), ready, cx.now);
            session.handle.device_changed(known.id(), session.number, known.sims(ready, cx.flaw), true);
        }
        while let Some(batch) = self.mind.accounts.get_mut(&account).and_then(|one| one.agent.next_batch(now)) {
            self.submit_batch(known, batch, cx);
        }
        let Some(session) = self.mind.accounts.get_mut(&account) else { return };
        while let Some(news) = session.agent.to_shard() {
            match news {
                ToShard::Reports(reports) => {
                    for report in &reports {
                        cx.log(|| format!("p{account}: {}", told::report(report)));
                        session.told.insert(report.position, report.clone());
                    }
                    session.handle.reports(known.id(), session.number, reports);
                }
                ToShard::Held(held) => {
                    cx.check.gateway_is_up(known.id(), (self.number, self.life), session.ready, cx.now);
                    session.handle.held(known.id(), session.number, held, true);
                }
            }
        }
        let (acknowledged, number) = (session.agent.acknowledged(), session.number);
        if let Some(mono_ms) = session.agent.next_deadline(now) {
            let at = self.clock.when(mono_ms).max(cx.now + 1);
            if at < session.wake_at {
                session.wake_at = at;
                cx.at(at, Event::Node(self.number, self.life, NodeEvent::AccountWakes { account, session: number }));
            }
        }
        let durable: Vec<_> = session.waiting.extract_if(.., |(position, _)| *position <= acknowledged).collect();
        for (_, call) in durable {
            self.answer_call(&call, true, cx);
        }
    }
}
