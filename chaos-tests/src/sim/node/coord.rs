//! What stands between the ownership machine and etcd: a lease kept alive, state read on hints and now and then, one
//! request each for what the machine wants, bounded in time.

use flotilla_cluster::Leadership;
use flotilla_cluster::ownership::{Effect, Input, LeaseId, Ownership, Settings};

use super::{Node, NodeEvent};
use crate::sim::Ms;
use crate::sim::etcd::{Answer, Ask, name, number};
use crate::sim::plan::Party;
use crate::sim::world::{Cx, Event};

const TIMEOUT_MS: u64 = 1_500;
const READ_EVERY_MS: u64 = 3_000;
const RESIGN_AGAIN_MS: u64 = 500;

/// The lease as its keeper sees it.
#[derive(Debug, Default)]
pub(super) struct Lease {
    id: Option<LeaseId>,
    registering: bool,
    renew_at: Ms,
    read_at: Ms,
    reading: bool,
}

pub(super) fn ownership(node: usize, shards: u16) -> Ownership {
    Ownership::new(name(node), Settings::new(shards))
}

impl Node {
    /// Does what is due, and comes again when the next thing is.
    pub(super) fn coordinate(&mut self, cx: &mut Cx) {
        if self.mind.coordinate_at > cx.now && self.mind.coordinate_at != Ms::MAX {
            return;
        }
        self.mind.coordinate_at = Ms::MAX;
        self.own_input(Input::Tick, cx);
        match self.mind.lease.id {
            None if !self.mind.lease.registering && cx.now >= self.mind.lease.renew_at => {
                self.mind.lease.registering = true;
                self.ask(Ask::Register { node: self.number }, cx);
            }
            Some(lease) if cx.now >= self.mind.lease.renew_at => {
                self.mind.lease.renew_at = cx.now + self.ttl_ms / 3;
                self.ask(Ask::Renew { lease }, cx);
            }
            _ => {}
        }
        if cx.now >= self.mind.lease.read_at {
            self.read_etcd(cx);
        }
        self.come_again(cx);
    }

    pub(super) fn read_etcd(&mut self, cx: &mut Cx) {
        if self.mind.lease.id.is_none() || self.mind.lease.reading {
            // One after the one that is under way, which may be older than the hint.
            self.mind.lease.read_at = self.mind.lease.read_at.min(cx.now + 50);
            return self.come_again(cx);
        }
        self.mind.lease.reading = true;
        self.mind.lease.read_at = cx.now + READ_EVERY_MS;
        self.ask(Ask::Read, cx);
    }

    fn come_again(&mut self, cx: &mut Cx) {
        let machine = self.mind.ownership.next_deadline().map(|mono| self.clock.when(mono));
        let lease = &self.mind.lease;
        let renew = if lease.registering { Ms::MAX } else { lease.renew_at };
        let read = if lease.id.is_some() && !lease.reading { lease.read_at } else { Ms::MAX };
        let at = machine.unwrap_or(Ms::MAX).min(renew).min(read).max(cx.now + 10);
        if at < self.mind.coordinate_at {
            self.mind.coordinate_at = at;
            let event = self.own(NodeEvent::Coordinate);
            cx.at(at, event);
        }
    }

    fn ask(&mut self, ask: Ask, cx: &mut Cx) {
        let id = self.fresh();
        let sent_ms = self.clock.mono(cx.now);
        self.mind.asked.insert(id, (ask.clone(), sent_ms));
        if let Some(at) = cx.net.message(self.me(), Party::Etcd, cx.now) {
            cx.at(at, Event::Etcd { node: self.number, life: self.life, id, ask });
        }
        let event = self.own(NodeEvent::EtcdTimeout { id });
        cx.after(TIMEOUT_MS, event);
    }

    pub(super) fn etcd_answer(&mut self, id: u64, answer: Answer, cx: &mut Cx) {
        let Some((ask, sent_ms)) = self.mind.asked.remove(&id) else { return };
        let ttl_ms = self.ttl_ms;
        let input = match (ask, answer) {
            (Ask::Register { .. }, Answer::Granted { lease }) => {
                self.mind.lease.registering = false;
                self.mind.lease.id = Some(lease);
                self.mind.lease.renew_at = cx.now + ttl_ms / 3;
                self.mind.lease.read_at = cx.now;
                Input::Granted { lease, sent_ms, ttl_ms }
            }
            (Ask::Renew { lease }, Answer::Renewed) => Input::Renewed { lease, sent_ms, ttl_ms },
            (Ask::Renew { lease }, Answer::Ended) => {
                self.forget_lease(lease, cx);
                Input::Ended { lease }
            }
            (Ask::Read, Answer::Read(snapshot)) => {
                self.mind.lease.reading = false;
                let leaders = snapshot.leaders.iter();
                self.mind.leaders =
                    leaders.map(|held| held.as_ref().and_then(|held| number(held.node.as_str()))).collect();
                Input::Read(snapshot)
            }
            (Ask::Campaign { shard, lease, .. }, Answer::Won { epoch, revision }) => {
                Input::Won { shard, lease, epoch, revision }
            }
            (Ask::Campaign { shard, lease, .. }, Answer::Taken { revision }) => Input::Taken { shard, lease, revision },
            (Ask::Campaign { shard, lease, .. }, _) => Input::Unclear { shard, lease },
            _ => Input::Tick,
        };
        self.own_input(input, cx);
        self.come_again(cx);
    }

    pub(super) fn etcd_timeout(&mut self, id: u64, cx: &mut Cx) {
        let Some((ask, _)) = self.mind.asked.remove(&id) else { return };
        match ask {
            Ask::Register { .. } => {
                self.mind.lease.registering = false;
                self.mind.lease.renew_at = cx.now + 500;
            }
            Ask::Read => self.mind.lease.reading = false,
            Ask::Campaign { shard, lease, .. } => self.own_input(Input::Unclear { shard, lease }, cx),
            // Until it is done, or the lease is over and the key with it.
            Ask::Resign { .. } | Ask::Revoke { .. } => self.ask(ask, cx),
            Ask::Renew { .. } => self.mind.lease.renew_at = cx.now + RESIGN_AGAIN_MS,
        }
        self.come_again(cx);
    }

    fn forget_lease(&mut self, lease: LeaseId, cx: &mut Cx) {
        if self.mind.lease.id == Some(lease) {
            self.mind.lease.id = None;
            self.mind.lease.renew_at = cx.now + 20;
        }
    }

    pub(super) fn own_input(&mut self, input: Input, cx: &mut Cx) {
        let now_ms = self.clock.mono(cx.now);
        for effect in self.mind.ownership.handle(input, now_ms) {
            match effect {
                Effect::Campaign { shard, lease } => {
                    self.ask(Ask::Campaign { shard, lease, node: self.number }, cx);
                }
                Effect::Resign { shard, epoch, .. } => self.ask(Ask::Resign { shard, epoch }, cx),
                Effect::Renounce { lease } => {
                    self.forget_lease(lease, cx);
                    self.ask(Ask::Revoke { lease }, cx);
                }
                Effect::Leadership(leadership) => {
                    cx.log(|| format!("c{}: {leadership:?}", self.number));
                    self.leadership(leadership, cx);
                }
            }
        }
    }

    fn leadership(&mut self, leadership: Leadership, cx: &mut Cx) {
        match leadership {
            Leadership::Gained { shard, epoch } => self.gained(shard, epoch, cx),
            Leadership::Drain { shard } => self.drain(shard, cx),
            Leadership::Lost { shard } => self.lost(shard, cx),
        }
    }

    /// The shard has stopped on this node.
    pub(super) fn released(&mut self, shard: flotilla_protocol::id::ShardId, cx: &mut Cx) {
        self.own_input(Input::Released { shard }, cx);
        self.come_again(cx);
    }
}
