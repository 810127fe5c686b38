//! A simulated etcd: leases, leader keys with create revisions, members, and watches that are only hints. Linearizable
//! while it answers; its outages (a restart, a lost majority) are the world's business.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_cluster::NodeName;
use flotilla_cluster::ownership::{Held, LeaseId, Seen, Snapshot};
use flotilla_protocol::id::{Epoch, ShardId};

use super::Ms;

/// What nodes ask of it.
#[derive(Clone, Debug)]
pub(super) enum Ask {
    /// A lease, and the member key under it.
    Register {
        node: usize,
    },
    Renew {
        lease: LeaseId,
    },
    Revoke {
        lease: LeaseId,
    },
    Read,
    /// Make the leader key if there is none.
    Campaign {
        shard: ShardId,
        lease: LeaseId,
        node: usize,
    },
    /// Remove the leader key with exactly this epoch.
    Resign {
        shard: ShardId,
        epoch: Epoch,
    },
}

#[derive(Clone, Debug)]
pub(super) enum Answer {
    Granted {
        lease: LeaseId,
    },
    Renewed,
    /// There is no such lease.
    Ended,
    Read(Arc<Snapshot>),
    Won {
        epoch: Epoch,
        revision: u64,
    },
    Taken {
        revision: u64,
    },
    Done,
}

#[derive(Debug)]
struct Lease {
    ends_at: Ms,
    node: usize,
    joined: u64,
}

#[derive(Debug)]
struct Leader {
    lease: LeaseId,
    node: usize,
    created: u64,
}

#[derive(Debug)]
pub(super) struct Etcd {
    ttl_ms: u64,
    revision: u64,
    next_lease: i64,
    leases: BTreeMap<LeaseId, Lease>,
    leaders: Vec<Option<Leader>>,
    draining: Vec<bool>,
}

impl Etcd {
    pub(super) fn new(ttl_ms: u64, shards: u16, nodes: usize) -> Self {
        let leaders = (0..shards).map(|_| None).collect();
        Self { ttl_ms, revision: 1, next_lease: 1, leases: BTreeMap::new(), leaders, draining: vec![false; nodes] }
    }

    /// The answer, and whether anything has changed that watchers are told.
    pub(super) fn handle(&mut self, ask: Ask, now: Ms) -> (Answer, bool) {
        let before = self.revision;
        let answer = match ask {
            Ask::Register { node } => {
                let lease = LeaseId(self.next_lease);
                self.next_lease += 1;
                self.revision += 1;
                let joined = self.revision;
                self.leases.insert(lease, Lease { ends_at: now + self.ttl_ms, node, joined });
                Answer::Granted { lease }
            }
            Ask::Renew { lease } => match self.leases.get_mut(&lease) {
                Some(known) => {
                    known.ends_at = now + self.ttl_ms;
                    Answer::Renewed
                }
                None => Answer::Ended,
            },
            Ask::Revoke { lease } => {
                self.end(lease);
                Answer::Done
            }
            Ask::Read => Answer::Read(Arc::new(self.snapshot())),
            Ask::Campaign { shard, lease, node } => self.campaign(shard, lease, node),
            Ask::Resign { shard, epoch } => {
                let place = &mut self.leaders[usize::from(shard.0)];
                if place.as_ref().is_some_and(|leader| leader.created == epoch.0) {
                    *place = None;
                    self.revision += 1;
                }
                Answer::Done
            }
        };
        (answer, self.revision != before)
    }

    /// Ends the leases whose time has come. True if there were any.
    pub(super) fn expire(&mut self, now: Ms) -> bool {
        let over: Vec<LeaseId> =
            self.leases.iter().filter(|(_, lease)| lease.ends_at <= now).map(|(id, _)| *id).collect();
        over.iter().for_each(|lease| self.end(*lease));
        !over.is_empty()
    }

    pub(super) fn next_expiry(&self) -> Option<Ms> {
        self.leases.values().map(|lease| lease.ends_at).min()
    }

    /// It answers again: a new leader of etcd gives every lease its whole time.
    pub(super) fn restarted(&mut self, now: Ms) {
        for lease in self.leases.values_mut() {
            lease.ends_at = now + self.ttl_ms;
        }
    }

    pub(super) fn set_draining(&mut self, node: usize, draining: bool) {
        self.draining[node] = draining;
        self.revision += 1;
    }

    fn campaign(&mut self, shard: ShardId, lease: LeaseId, node: usize) -> Answer {
        if !self.leases.contains_key(&lease) {
            return Answer::Ended;
        }
        let place = &mut self.leaders[usize::from(shard.0)];
        if place.is_some() {
            return Answer::Taken { revision: self.revision };
        }
        self.revision += 1;
        *place = Some(Leader { lease, node, created: self.revision });
        Answer::Won { epoch: Epoch(self.revision), revision: self.revision }
    }

    fn end(&mut self, lease: LeaseId) {
        if self.leases.remove(&lease).is_none() {
            return;
        }
        self.revision += 1;
        for place in &mut self.leaders {
            if place.as_ref().is_some_and(|leader| leader.lease == lease) {
                *place = None;
            }
        }
    }

    fn snapshot(&self) -> Snapshot {
        // A node that registers anew before its old lease is over has two; its member key is the younger one's.
        let mut members: BTreeMap<usize, Seen> = BTreeMap::new();
        for lease in self.leases.values() {
            let seen = Seen { name: name(lease.node), draining: self.draining[lease.node], joined: lease.joined };
            members.insert(lease.node, seen);
        }
        let held =
            |leader: &Leader| Held { node: name(leader.node), lease: leader.lease, epoch: Epoch(leader.created) };
        Snapshot {
            revision: self.revision,
            members: members.into_values().collect(),
            leaders: self.leaders.iter().map(|leader| leader.as_ref().map(held)).collect(),
            pins: Vec::new(),
        }
    }
}

/// The name of a controller.
pub(super) fn name(node: usize) -> NodeName {
    NodeName::parse(&format!("c{node}")).expect("a letter and digits")
}

/// And back.
pub(super) fn number(name: &str) -> Option<usize> {
    name.strip_prefix('c')?.parse().ok()
}
