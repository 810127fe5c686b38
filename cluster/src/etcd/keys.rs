//! Everything that is in etcd: which keys, and what is in them. All of it is small, and all of it is read at once.
//!
//! | key under the prefix | value | lives |
//! |---|---|---|
//! | `format` | `{"version":1,"shards":64}` | for ever |
//! | `epoch_base` | a decimal number | for ever, only raised |
//! | `members/<name>` | a [`Member`] | under the node's lease |
//! | `leaders/<shard>` | `{"node":..,"base":..}`, `base` being `epoch_base` when it was made | under the leader's lease |
//! | `pins/<shard>` | the node's name | until taken back |
//! | `drains/<name>` | empty | until taken back |
//!
//! Readers ignore keys and fields that they do not know, so that versions can run side by side.

use etcd_client::KeyValue;
use flotilla_protocol::id::{Epoch, ShardId};
use serde::{Deserialize, Serialize};

use crate::ownership::{Held, LeaseId, Seen, Snapshot};
use crate::{Leader, Member, NodeName, View};

/// What this version writes, and the newest that it reads.
pub(super) const FORMAT_VERSION: u32 = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Format {
    pub(super) version: u32,
    pub(super) shards: u16,
}

#[derive(Debug, Serialize, Deserialize)]
struct LeaderValue {
    node: NodeName,
    base: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: &str) -> Self {
        Self { prefix: format!("{prefix}/") }
    }

    pub(super) fn all(&self) -> &str {
        &self.prefix
    }

    pub(super) fn format(&self) -> String {
        format!("{}format", self.prefix)
    }

    pub(super) fn epoch_base(&self) -> String {
        format!("{}epoch_base", self.prefix)
    }

    pub(super) fn member(&self, name: &NodeName) -> String {
        format!("{}members/{name}", self.prefix)
    }

    pub(super) fn leader(&self, shard: ShardId) -> String {
        format!("{}leaders/{:05}", self.prefix, shard.0)
    }

    pub(super) fn pin(&self, shard: ShardId) -> String {
        format!("{}pins/{:05}", self.prefix, shard.0)
    }

    pub(super) fn drain(&self, name: &NodeName) -> String {
        format!("{}drains/{name}", self.prefix)
    }
}

pub(super) fn leader_value(node: &NodeName, base: u64) -> String {
    serde_json::json!({ "node": node, "base": base }).to_string()
}

/// The epoch of a leader key: its creation revision above the base that was in force when it was made.
pub(super) fn epoch_of(kv: &KeyValue) -> Option<(NodeName, Epoch)> {
    let value: LeaderValue = serde_json::from_slice(kv.value()).ok()?;
    Some((value.node, Epoch(value.base.checked_add(kv.create_revision() as u64)?)))
}

/// A member with the lease that its key hangs on, and the revision since when it is there without a break.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) member: Member,
    pub(super) lease: i64,
    pub(super) joined: u64,
}

/// All keys as they were at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) revision: u64,
    pub(super) format: Option<Format>,
    pub(super) epoch_base: Option<u64>,
    pub(super) members: Vec<Present>,
    pub(super) leaders: Vec<Option<Held>>,
    pub(super) pins: Vec<(ShardId, NodeName)>,
    pub(super) drains: Vec<NodeName>,
}

impl Contents {
    pub(super) fn parse(keys: &Keys, kvs: &[KeyValue], revision: i64, shards: u16) -> Self {
        let leaders = vec![None; usize::from(shards)];
        let mut contents = Self { revision: revision as u64, leaders, ..Self::default() };
        for kv in kvs {
            let key = String::from_utf8_lossy(kv.key());
            let Some(key) = key.strip_prefix(keys.all()) else { continue };
            if contents.take(key, kv).is_none() {
                tracing::warn!(
                    key,
                    "a key in etcd is not as it should be and is ignored; if it is not ours, use another prefix"
                );
            }
        }
        contents
    }

    fn take(&mut self, key: &str, kv: &KeyValue) -> Option<()> {
        match key.split_once('/') {
            None if key == "format" => self.format = Some(serde_json::from_slice(kv.value()).ok()?),
            None if key == "epoch_base" => self.epoch_base = Some(kv.value_str().ok()?.parse().ok()?),
            Some(("members", _)) => {
                let member = serde_json::from_slice(kv.value()).ok()?;
                self.members.push(Present { member, lease: kv.lease(), joined: kv.create_revision() as u64 });
            }
            Some(("leaders", shard)) => {
                let (node, epoch) = epoch_of(kv)?;
                *self.leaders.get_mut(shard.parse::<usize>().ok()?)? =
                    Some(Held { node, lease: LeaseId(kv.lease()), epoch });
            }
            Some(("pins", shard)) => {
                let node = NodeName::parse(kv.value_str().ok()?).ok()?;
                self.pins.push((ShardId(shard.parse().ok()?), node));
            }
            Some(("drains", name)) => self.drains.push(NodeName::parse(name).ok()?),
            _ => {}
        }
        Some(())
    }

    pub(super) fn present(&self, name: &NodeName) -> Option<&Present> {
        self.members.iter().find(|present| present.member.name == *name)
    }

    fn is_draining(&self, member: &Member) -> bool {
        member.draining || self.drains.contains(&member.name)
    }

    /// What the machine that decides needs of it.
    pub(super) fn snapshot(&self) -> Snapshot {
        let seen = |present: &Present| Seen {
            name: present.member.name.clone(),
            draining: self.is_draining(&present.member),
            joined: present.joined,
        };
        Snapshot {
            revision: self.revision,
            members: self.members.iter().map(seen).collect(),
            leaders: self.leaders.clone(),
            pins: self.pins.clone(),
        }
    }

    /// What other parts of a node may know of it.
    pub(super) fn view(&self, fresh: bool) -> View {
        let member =
            |present: &Present| Member { draining: self.is_draining(&present.member), ..present.member.clone() };
        let leader = |held: &Held| Leader { node: held.node.clone(), epoch: held.epoch };
        View {
            members: self.members.iter().map(member).collect(),
            leaders: self.leaders.iter().map(|held| held.as_ref().map(leader)).collect(),
            pins: self.pins.clone(),
            fresh,
        }
    }
}
