//! Compares what should be with what is: which leaderless shards to campaign for, which led ones to hand over.

use flotilla_protocol::id::ShardId;

use super::machine::{Ownership, ids};
use super::roster::Standing;
use super::shard::State;
use super::{Effect, LeaseId, Snapshot, weight};
use crate::{Leadership, NodeName};

impl Ownership {
    pub(super) fn reconcile(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
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
