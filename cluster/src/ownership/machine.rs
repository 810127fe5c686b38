//! The machine: what it remembers, and what each input changes. What it then plans is in [`super::plan`].

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};

use super::roster::Roster;
use super::shard::{Shard, State};
use super::{Effect, Input, LeaseId, Settings, Snapshot};
use crate::{Leadership, NodeName};

#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    pub(super) id: LeaseId,
    fence_at_ms: u64,
}

/// One node's part in sharing out the shards.
#[derive(Debug)]
pub struct Ownership {
    pub(super) me: NodeName,
    pub(super) settings: Settings,
    pub(super) lease: Option<Lease>,
    registered_before: bool,
    pub(super) leaving: bool,
    pub(super) roster: Roster,
    /// None until the first one under the present lease.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    pub(super) shards: Vec<Shard>,
    pub(super) wake_at_ms: Option<u64>,
}

impl Ownership {
    pub fn new(me: NodeName, settings: Settings) -> Self {
        let shards = (0..settings.shards).map(|_| Shard::default()).collect();
        Self {
            me,
            settings,
            lease: None,
            registered_before: false,
            leaving: false,
            roster: Roster::default(),
            snapshot: None,
            shards,
            wake_at_ms: None,
        }
    }

    /// Takes in what happened and tells what to do, in order. Whatever the input, a lease that is past its deadline ends first.
    pub fn handle(&mut self, input: Input, now_ms: u64) -> Vec<Effect> {
        let mut out = Vec::new();
        self.fence(now_ms, &mut out);
        match input {
            Input::Granted { lease, sent_ms, ttl_ms } => self.granted(lease, sent_ms, ttl_ms, now_ms, &mut out),
            Input::Renewed { lease, sent_ms, ttl_ms } => self.renewed(lease, sent_ms, ttl_ms),
            Input::Ended { lease } => {
                if self.holds(lease) {
                    self.end_lease(&mut out);
                }
            }
            Input::Read(snapshot) => self.read(snapshot, now_ms, &mut out),
            Input::Won { shard, lease, epoch, revision } => self.won(shard, lease, epoch, revision, now_ms, &mut out),
            Input::Taken { shard, lease, revision } => self.taken(shard, lease, revision),
            Input::Unclear { shard, lease } => self.unclear(shard, lease, now_ms),
            Input::Released { shard } => self.released(shard, now_ms, &mut out),
            Input::Shutdown => self.leaving = true,
            Input::Tick => {}
        }
        self.reconcile(now_ms, &mut out);
        out
    }

    /// When [`Input::Tick`] is due if nothing else comes before.
    pub fn next_deadline(&self) -> Option<u64> {
        let fence = self.lease.map(|lease| lease.fence_at_ms);
        fence.into_iter().chain(self.wake_at_ms).min()
    }

    /// Whether this node may act as the shard's leader at this instant, and under which epoch.
    pub fn leads(&self, shard: ShardId, now_ms: u64) -> Option<Epoch> {
        let lease = self.lease?;
        let epoch = self.shards.get(usize::from(shard.0))?.epoch()?;
        (now_ms < lease.fence_at_ms).then_some(epoch)
    }

    /// Shards that are led, those that are being handed over included.
    pub fn led(&self) -> usize {
        self.shards.iter().filter(|shard| shard.epoch().is_some()).count()
    }

    /// How long this node may still lead if its lease is never renewed again.
    pub fn lease_left_ms(&self, now_ms: u64) -> Option<u64> {
        self.lease.map(|lease| lease.fence_at_ms.saturating_sub(now_ms))
    }
}

/// What became of the lease.
impl Ownership {
    fn holds(&self, lease: LeaseId) -> bool {
        self.lease.is_some_and(|held| held.id == lease)
    }

    fn fence(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        if self.lease.is_some_and(|lease| now_ms >= lease.fence_at_ms) {
            self.end_lease(out);
        }
    }

    fn end_lease(&mut self, out: &mut Vec<Effect>) {
        let Some(lease) = self.lease.take() else { return };
        for (shard, state) in ids(&mut self.shards) {
            if state.end_lease() {
                out.push(Effect::Leadership(Leadership::Lost { shard }));
            }
        }
        self.snapshot = None;
        out.push(Effect::Renounce { lease: lease.id });
    }

    fn granted(&mut self, lease: LeaseId, sent_ms: u64, ttl_ms: u64, now_ms: u64, out: &mut Vec<Effect>) {
        self.end_lease(out);
        let fence_at_ms = sent_ms + ttl_ms.saturating_sub(self.settings.margin_ms(ttl_ms));
        if now_ms >= fence_at_ms {
            out.push(Effect::Renounce { lease });
            return;
        }
        self.lease = Some(Lease { id: lease, fence_at_ms });
        if std::mem::replace(&mut self.registered_before, true) {
            self.roster.regroup(&self.settings, now_ms);
        }
    }

    fn renewed(&mut self, lease: LeaseId, sent_ms: u64, ttl_ms: u64) {
        let margin_ms = self.settings.margin_ms(ttl_ms);
        if let Some(held) = self.lease.as_mut().filter(|held| held.id == lease) {
            held.fence_at_ms = held.fence_at_ms.max(sent_ms + ttl_ms.saturating_sub(margin_ms));
        }
    }
}

/// What became of single shards.
impl Ownership {
    fn shard(&mut self, shard: ShardId) -> Option<&mut Shard> {
        self.shards.get_mut(usize::from(shard.0))
    }

    /// The shard, if a campaign for it under the present lease is under way.
    fn campaign(&mut self, shard: ShardId, lease: LeaseId) -> Option<&mut Shard> {
        if !self.holds(lease) {
            return None;
        }
        self.shard(shard).filter(|shard| shard.state == State::Campaigning)
    }

    fn won(&mut self, id: ShardId, lease: LeaseId, epoch: Epoch, revision: u64, now_ms: u64, out: &mut Vec<Effect>) {
        // A lower epoch is of an earlier campaign, whose key was seen, led and given back before its answer came.
        if let Some(shard) = self.campaign(id, lease).filter(|shard| epoch > shard.highest) {
            shard.state = State::Idle;
            self.gain(id, lease, epoch, revision, now_ms, out);
        }
    }

    fn gain(&mut self, id: ShardId, lease: LeaseId, epoch: Epoch, revision: u64, now_ms: u64, out: &mut Vec<Effect>) {
        let leaving = self.leaving;
        let Some(shard) = self.shard(id) else { return };
        shard.known_at = revision;
        shard.highest = epoch;
        if leaving {
            out.push(Effect::Resign { shard: id, lease, epoch });
            return;
        }
        shard.lead(epoch, now_ms);
        let given_to = shard.given_to.take();
        out.push(Effect::Leadership(Leadership::Gained { shard: id, epoch }));
        if let Some(heir) = given_to {
            self.roster.failed_to_take(&heir, &self.settings, now_ms);
        }
    }

    fn taken(&mut self, id: ShardId, lease: LeaseId, revision: u64) {
        if let Some(shard) = self.campaign(id, lease) {
            shard.state = State::Idle;
            shard.known_at = revision;
            shard.failures = 0;
        }
    }

    fn unclear(&mut self, id: ShardId, lease: LeaseId, now_ms: u64) {
        let settings = self.settings;
        if let Some(shard) = self.campaign(id, lease) {
            shard.state = State::Idle;
            shard.back_off(&settings, now_ms);
        }
    }

    fn released(&mut self, id: ShardId, now_ms: u64, out: &mut Vec<Effect>) {
        let (Some(lease), settings) = (self.lease, self.settings) else { return };
        let Some(shard) = self.shard(id) else { return };
        let Some(epoch) = shard.epoch() else { return };
        match shard.state {
            State::Draining { .. } => shard.given_at_ms = Some(now_ms),
            // It stopped by itself. Should the word be of an earlier leadership, `Lost` makes both sides agree.
            _ => {
                shard.back_off_led(&settings, now_ms);
                out.push(Effect::Leadership(Leadership::Lost { shard: id }));
            }
        }
        shard.state = State::Idle;
        out.push(Effect::Resign { shard: id, lease: lease.id, epoch });
    }

    fn read(&mut self, snapshot: Arc<Snapshot>, now_ms: u64, out: &mut Vec<Effect>) {
        let leads = |name: &NodeName| snapshot.leaders.iter().flatten().any(|held| held.node == *name);
        self.roster.see(&snapshot.members, leads, &self.settings, now_ms);
        for id in (0..self.settings.shards).map(ShardId) {
            self.observe(id, &snapshot, now_ms, out);
        }
        self.snapshot = Some(snapshot);
    }

    fn observe(&mut self, id: ShardId, snapshot: &Snapshot, now_ms: u64, out: &mut Vec<Effect>) {
        let (lease, me) = (self.lease, self.me.clone());
        let Some(shard) = self.shard(id) else { return };
        if snapshot.revision < shard.known_at {
            return;
        }
        let held = snapshot.leaders.get(usize::from(id.0)).and_then(Option::as_ref);
        shard.see_leader(held.map(|held| held.node != me), now_ms);
        match (shard.epoch(), held, lease) {
            (Some(epoch), held, _) if held.is_none_or(|held| held.epoch != epoch) => {
                shard.state = State::Idle;
                shard.see_leader(held.map(|_| true), now_ms);
                out.push(Effect::Leadership(Leadership::Lost { shard: id }));
            }
            // A campaign was won, whatever its answer said or will say.
            (None, Some(held), Some(lease)) if held.lease == lease.id && held.epoch > shard.highest => {
                self.gain(id, lease.id, held.epoch, snapshot.revision, now_ms, out);
            }
            _ => {}
        }
    }
}

pub(super) fn ids(shards: &mut [Shard]) -> impl Iterator<Item = (ShardId, &mut Shard)> {
    shards.iter_mut().enumerate().map(|(number, shard)| (ShardId(number as u16), shard))
}
