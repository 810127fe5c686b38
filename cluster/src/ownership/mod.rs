//! Who leads which shard, as a pure machine: no IO, no clock, no randomness.
//!
//! A node feeds it what it reads in the shared store (members, leader keys, pins) and what becomes of its own lease and
//! campaigns; it answers with what to do. Times are one node's monotonic milliseconds and are never compared between
//! nodes. What it relies on:
//!
//! - The store lets a leader key exist once, under its owner's lease, and removes it no sooner than the lease's time after
//!   the last renewal *arrived*, so no sooner than that time after it was *sent*. The machine takes a safety margin off
//!   for clocks that run at different speeds, and gives everything up at that instant, whatever the store says later.
//! - Epochs grow with every new leader key, so that a leader who does not hear of its end in time is fenced by its stores.
//!
//! How it chooses: rendezvous hashing over the members that are settled and not draining, an operator's pin first. A shard
//! without a leader is campaigned for at once by whoever should lead it, and after some patience by the next in order, so
//! that it is led while any node works. A shard that is led stays where it is until its leader hands it over: a few at once.

mod roster;
mod shard;
#[cfg(test)]
mod tests;
mod weight;

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};

use crate::{Leadership, NodeName};
use roster::{Roster, Standing};
use shard::{Shard, State};

pub use weight::weight;

/// A lease as the store numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub i64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// The same for all nodes of a cluster.
    pub shards: u16,
    /// A tenth of the lease's time, and no less than this, is kept between this node's giving up and its lease's end.
    pub margin_min_ms: u64,
    /// Planned hand-overs that may be under way at once.
    pub moves_at_once: usize,
    /// How long a member has to be there before shards move to it. Doubles with each return of one that comes and goes.
    pub settle_ms: u64,
    pub hold_down_max_ms: u64,
    /// After so long without a disturbance a member's history is forgotten.
    pub calm_ms: u64,
    /// How long each node in a leaderless shard's order gets before the next one tries too.
    pub patience_ms: u64,
    /// A shard that has not stopped so long after it was told to is given up without its consent.
    pub drain_max_ms: u64,
    /// The pause after a failed campaign, and after a shard that stopped by itself; doubles up to the second.
    pub retry_min_ms: u64,
    pub retry_max_ms: u64,
}

impl Settings {
    pub fn new(shards: u16) -> Self {
        Self {
            shards,
            margin_min_ms: 200,
            moves_at_once: 4,
            settle_ms: 2_000,
            hold_down_max_ms: 300_000,
            calm_ms: 600_000,
            patience_ms: 1_000,
            drain_max_ms: 10_000,
            retry_min_ms: 100,
            retry_max_ms: 5_000,
        }
    }

    fn margin_ms(&self, ttl_ms: u64) -> u64 {
        self.margin_min_ms.max(ttl_ms / 10)
    }
}

/// A live member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub name: NodeName,
    pub draining: bool,
    /// The store's revision at which its present stay began; another one means that it was away in between.
    pub joined: u64,
}

/// A leader key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    pub node: NodeName,
    pub lease: LeaseId,
    pub epoch: Epoch,
}

/// The shared state as it was at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: u64,
    pub members: Vec<Seen>,
    /// By shard.
    pub leaders: Vec<Option<Held>>,
    pub pins: Vec<(ShardId, NodeName)>,
}

#[derive(Debug, Clone)]
pub enum Input {
    /// This node has registered under a new lease. `sent_ms`: when the request was sent, by the clock of `now_ms`.
    Granted {
        lease: LeaseId,
        sent_ms: u64,
        ttl_ms: u64,
    },
    Renewed {
        lease: LeaseId,
        sent_ms: u64,
        ttl_ms: u64,
    },
    /// The store says that the lease is over.
    Ended {
        lease: LeaseId,
    },
    /// What was read; in the order of reading.
    Read(Arc<Snapshot>),
    /// The leader key is ours, made at this revision.
    Won {
        shard: ShardId,
        lease: LeaseId,
        epoch: Epoch,
        revision: u64,
    },
    /// There is another's leader key, at this revision.
    Taken {
        shard: ShardId,
        lease: LeaseId,
        revision: u64,
    },
    /// Nobody knows whether the campaign was won.
    Unclear {
        shard: ShardId,
        lease: LeaseId,
    },
    /// The node has stopped leading the shard.
    Released {
        shard: ShardId,
    },
    /// Hand everything over and campaign no more.
    Shutdown,
    /// Only time has passed.
    Tick,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// One attempt to make the leader key under this lease if there is none; answered by exactly one of
    /// [`Input::Won`], [`Input::Taken`] and [`Input::Unclear`]. A win that is no longer wanted is handed back by itself,
    /// so there is nothing to call off.
    Campaign {
        shard: ShardId,
        lease: LeaseId,
    },
    /// Remove the leader key with exactly this epoch, until it is gone or the lease is over.
    Resign {
        shard: ShardId,
        lease: LeaseId,
        epoch: Epoch,
    },
    /// The lease is not used any more: end it, and register under a new one.
    Renounce {
        lease: LeaseId,
    },
    Leadership(Leadership),
}

#[derive(Debug, Clone, Copy)]
struct Lease {
    id: LeaseId,
    fence_at_ms: u64,
}

/// One node's part in sharing out the shards.
#[derive(Debug)]
pub struct Ownership {
    me: NodeName,
    settings: Settings,
    lease: Option<Lease>,
    registered_before: bool,
    leaving: bool,
    roster: Roster,
    /// None until the first one under the present lease.
    snapshot: Option<Arc<Snapshot>>,
    shards: Vec<Shard>,
    wake_at_ms: Option<u64>,
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

/// What should be, compared with what is.
impl Ownership {
    fn reconcile(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let early_ms = self.early_ms();
        self.wake_at_ms = self.roster.next_change(now_ms, early_ms);
        let (Some(lease), Some(snapshot)) = (self.lease, self.snapshot.clone()) else { return };
        self.end_slow_drains(lease.id, now_ms, out);
        if !self.leaving {
            self.campaign_where_due(lease.id, &snapshot, now_ms, out);
        }
        self.hand_over(&snapshot, now_ms, out);
    }

    fn wake(&mut self, at_ms: u64) {
        self.wake_at_ms = Some(self.wake_at_ms.map_or(at_ms, |wake| wake.min(at_ms)));
    }

    fn early_ms(&self) -> u64 {
        self.settings.patience_ms.min(self.settings.settle_ms / 2)
    }

    fn end_slow_drains(&mut self, lease: LeaseId, now_ms: u64, out: &mut Vec<Effect>) {
        let mut wake = None::<u64>;
        for (id, shard) in ids(&mut self.shards) {
            let State::Draining { epoch, since_ms } = shard.state else { continue };
            let ends_ms = since_ms + self.settings.drain_max_ms;
            if now_ms < ends_ms {
                wake = Some(wake.map_or(ends_ms, |wake| wake.min(ends_ms)));
                continue;
            }
            shard.state = State::Idle;
            shard.given_at_ms = Some(now_ms);
            out.push(Effect::Leadership(Leadership::Lost { shard: id }));
            out.push(Effect::Resign { shard: id, lease, epoch });
        }
        if let Some(wake) = wake {
            self.wake(wake);
        }
    }

    fn campaign_where_due(&mut self, lease: LeaseId, snapshot: &Snapshot, now_ms: u64, out: &mut Vec<Effect>) {
        for number in 0..self.settings.shards {
            let (id, at) = (ShardId(number), usize::from(number));
            let shard = &self.shards[at];
            let Some(since_ms) = shard.leaderless_since_ms else { continue };
            if shard.state != State::Idle || snapshot.revision < shard.known_at {
                continue;
            }
            let Some(rank) = self.rank(id, snapshot, now_ms) else { continue };
            let due_ms = (since_ms + rank * self.settings.patience_ms).max(shard.retry_at_ms);
            if now_ms < due_ms {
                self.wake(due_ms);
                continue;
            }
            self.shards[at].state = State::Campaigning;
            out.push(Effect::Campaign { shard: id, lease });
        }
    }

    /// How many are to try for a leaderless shard before this node does.
    fn rank(&self, shard: ShardId, snapshot: &Snapshot, now_ms: u64) -> Option<u64> {
        let pin = pin_of(snapshot, shard);
        // Sorts the best first.
        let place = |(name, standing): (&NodeName, Standing)| {
            (standing, pin != Some(name), u64::MAX - weight(shard, name), name.clone())
        };
        let candidates = || self.roster.candidates(now_ms, self.early_ms());
        let mine = place(candidates().find(|(name, _)| **name == self.me)?);
        Some(candidates().filter(|other| place(*other) < mine).count() as u64)
    }

    /// Tells led shards to stop that should be elsewhere, a few at once.
    fn hand_over(&mut self, snapshot: &Snapshot, now_ms: u64, out: &mut Vec<Effect>) {
        let mut room = self.settings.moves_at_once.max(1).saturating_sub(self.moves_under_way(now_ms));
        for number in 0..self.settings.shards {
            let (id, at) = (ShardId(number), usize::from(number));
            let State::Leading { epoch, .. } = self.shards[at].state else { continue };
            let heir = self.heir(id, snapshot, now_ms);
            if heir.is_none() && !self.leaving {
                continue;
            }
            if room == 0 {
                return;
            }
            room -= 1;
            self.shards[at].state = State::Draining { epoch, since_ms: now_ms };
            self.shards[at].given_to = heir;
            self.wake(now_ms + self.settings.drain_max_ms);
            out.push(Effect::Leadership(Leadership::Drain { shard: id }));
        }
    }

    /// Who should lead this shard instead of this node, if anybody.
    fn heir(&self, shard: ShardId, snapshot: &Snapshot, now_ms: u64) -> Option<NodeName> {
        let best = |least: Standing| {
            let fit = self.roster.candidates(now_ms, 0).filter(|(name, standing)| {
                if **name == self.me {
                    !self.leaving && *standing < Standing::Draining
                } else {
                    *standing <= least && self.roster.is_live(name)
                }
            });
            let pin = pin_of(snapshot, shard);
            fit.max_by_key(|(name, _)| (pin == Some(*name), weight(shard, name), (*name).clone())).map(|(name, _)| name)
        };
        let wanted = best(Standing::Settled).or_else(|| best(Standing::Unsettled));
        wanted.filter(|name| **name != self.me).cloned()
    }

    /// Hand-overs that have begun and whose shards nobody leads yet. When this node leaves it does not wait for the heirs.
    fn moves_under_way(&mut self, now_ms: u64) -> usize {
        let (patience_ms, leaving) = (self.settings.patience_ms, self.leaving);
        let (mut under_way, mut wakes) = (0, None::<u64>);
        for shard in &self.shards {
            let waits_until_ms = shard.given_at_ms.map(|at| at + 2 * patience_ms).filter(|at| !leaving && now_ms < *at);
            if matches!(shard.state, State::Draining { .. }) {
                under_way += 1;
            } else if let Some(until_ms) = waits_until_ms {
                under_way += 1;
                wakes = Some(wakes.map_or(until_ms, |wake| wake.min(until_ms)));
            }
        }
        if let Some(wake) = wakes {
            self.wake(wake);
        }
        under_way
    }
}

fn pin_of(snapshot: &Snapshot, shard: ShardId) -> Option<&NodeName> {
    snapshot.pins.iter().find(|(pinned, _)| *pinned == shard).map(|(_, node)| node)
}

fn ids(shards: &mut [Shard]) -> impl Iterator<Item = (ShardId, &mut Shard)> {
    shards.iter_mut().enumerate().map(|(number, shard)| (ShardId(number as u16), shard))
}
