//! Who is in the cluster, and who has been in it long enough to be given shards.
//!
//! A member that comes is settled after a short time; one that comes and goes waits longer with each return. Nodes keep
//! this history each for itself, in memory: they may differ, which costs a needless move at worst, because the leader key
//! alone decides who leads.

use std::collections::BTreeMap;

use super::{Seen, Settings};
use crate::NodeName;

#[derive(Debug, Clone)]
struct Entry {
    /// Revision at which its present stay began.
    joined: u64,
    live: bool,
    draining: bool,
    settled_at_ms: u64,
    /// When it last came, went, or failed to take a shard that it was given.
    disturbed_at_ms: u64,
    returns: u32,
}

/// How fit a member is to be given a shard, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Settled,
    /// New, held down, or expected back at any moment.
    Unsettled,
    /// To lead nothing as long as there is another.
    Draining,
}

#[derive(Debug, Default)]
pub(super) struct Roster {
    entries: BTreeMap<NodeName, Entry>,
    /// Members that were there before this node lost its lease; they may just be slower to come back than it was.
    expected: Vec<NodeName>,
    expected_until_ms: u64,
    began: bool,
}

impl Roster {
    /// Takes in the present members. `leads` tells whether a member leads any shard: on this node's first look, those
    /// that do have been here before, the others count as new, so that nodes that start together share out at once.
    pub(super) fn see(
        &mut self,
        members: &[Seen],
        leads: impl Fn(&NodeName) -> bool,
        settings: &Settings,
        now_ms: u64,
    ) {
        for (name, entry) in &mut self.entries {
            if entry.live && !members.iter().any(|seen| seen.name == *name) {
                entry.live = false;
                entry.disturbed_at_ms = now_ms;
            }
        }
        for seen in members {
            self.see_one(seen, leads(&seen.name), settings, now_ms);
        }
        self.began = true;
        let calm_ms = settings.calm_ms;
        self.entries.retain(|_, entry| entry.live || now_ms < entry.disturbed_at_ms.saturating_add(calm_ms));
    }

    fn see_one(&mut self, seen: &Seen, leads: bool, settings: &Settings, now_ms: u64) {
        let Some(entry) = self.entries.get_mut(&seen.name) else {
            let settled = !self.began && leads;
            let settled_at_ms = if settled { now_ms } else { now_ms + settings.settle_ms };
            let entry = Entry {
                joined: seen.joined,
                live: true,
                draining: seen.draining,
                settled_at_ms,
                disturbed_at_ms: now_ms,
                returns: 0,
            };
            self.entries.insert(seen.name.clone(), entry);
            return;
        };
        entry.draining = seen.draining;
        if !entry.live || entry.joined != seen.joined {
            entry.joined = seen.joined;
            entry.live = true;
            entry.hold_down(settings, now_ms);
        }
    }

    /// It was given a shard and did not take it.
    pub(super) fn failed_to_take(&mut self, name: &NodeName, settings: &Settings, now_ms: u64) {
        if let Some(entry) = self.entries.get_mut(name).filter(|entry| entry.live) {
            entry.returns = entry.returns.max(1);
            entry.hold_down(settings, now_ms);
        }
    }

    /// This node has joined anew: whoever was there before gets a moment to do the same.
    pub(super) fn regroup(&mut self, settings: &Settings, now_ms: u64) {
        self.expected = self.live().map(|(name, _)| name.clone()).collect();
        self.expected_until_ms = now_ms + settings.patience_ms;
    }

    /// The standing of everybody who could lead. `early_ms` counts those as settled that will be so soon: the leader that
    /// hands over and the one that takes over do not see a member come at the same instant.
    pub(super) fn candidates(&self, now_ms: u64, early_ms: u64) -> impl Iterator<Item = (&NodeName, Standing)> {
        let live = self.live().map(move |(name, entry)| {
            let standing = match entry {
                Entry { draining: true, .. } => Standing::Draining,
                entry if now_ms + early_ms >= entry.settled_at_ms => Standing::Settled,
                _ => Standing::Unsettled,
            };
            (name, standing)
        });
        let awaited = self.awaited(now_ms).map(|name| (name, Standing::Unsettled));
        live.chain(awaited)
    }

    pub(super) fn is_live(&self, name: &NodeName) -> bool {
        self.entries.get(name).is_some_and(|entry| entry.live)
    }

    /// When the standing of a member changes next by the mere passing of time.
    pub(super) fn next_change(&self, now_ms: u64, early_ms: u64) -> Option<u64> {
        let settled = self.live().flat_map(|(_, entry)| {
            [entry.settled_at_ms.saturating_sub(early_ms), entry.settled_at_ms].into_iter().find(|at| *at > now_ms)
        });
        let awaited = self.awaited(now_ms).next().map(|_| self.expected_until_ms);
        settled.chain(awaited).min()
    }

    fn live(&self) -> impl Iterator<Item = (&NodeName, &Entry)> {
        self.entries.iter().filter(|(_, entry)| entry.live)
    }

    fn awaited(&self, now_ms: u64) -> impl Iterator<Item = &NodeName> {
        let waiting = now_ms < self.expected_until_ms;
        self.expected.iter().filter(move |name| waiting && !self.is_live(name))
    }
}

impl Entry {
    fn hold_down(&mut self, settings: &Settings, now_ms: u64) {
        if now_ms >= self.disturbed_at_ms.saturating_add(settings.calm_ms) {
            self.returns = 0;
        }
        let hold_ms = settings.settle_ms.saturating_mul(1 << self.returns.min(20)).min(settings.hold_down_max_ms);
        self.settled_at_ms = now_ms + hold_ms.max(settings.settle_ms);
        self.returns += 1;
        self.disturbed_at_ms = now_ms;
    }
}
