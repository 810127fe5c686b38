//! What every node knows of the cluster: who is in it, and who leads what. A view may be late; it decides where a call is
//! sent first, never who may write.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// A controller's name, unique in its cluster: 1 to 63 of `a-z 0-9 - .`, as in a host name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeName(Arc<str>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a node's name has 1 to 63 characters, a-z, 0-9, - and ., and begins and ends with a letter or digit")]
pub struct NodeNameError;

impl NodeName {
    pub fn parse(text: &str) -> Result<Self, NodeNameError> {
        let edge = |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let inner = |byte: u8| edge(Some(&byte)) || matches!(byte, b'-' | b'.');
        let bytes = text.as_bytes();
        let good = bytes.len() <= 63 && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|&b| inner(b));
        if good { Ok(Self(text.into())) } else { Err(NodeNameError) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for NodeName {
    type Error = NodeNameError;

    fn try_from(text: String) -> Result<Self, NodeNameError> {
        Self::parse(&text)
    }
}

impl From<NodeName> for String {
    fn from(name: NodeName) -> Self {
        name.as_str().to_owned()
    }
}

impl std::fmt::Display for NodeName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a node tells the others of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: NodeName,
    /// `host:port` (UDP) where other controllers reach it.
    pub peer: String,
    /// `host:port` where devices reach it.
    pub quic: Vec<String>,
    /// Software version, for `flotilla cluster status`.
    pub version: String,
    /// When this run of it began, ms since 1970.
    pub since_ms: u64,
    /// It is to lead nothing: its shards move to the others.
    #[serde(default)]
    pub draining: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    pub node: NodeName,
    pub epoch: Epoch,
}

/// The cluster as last heard of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Live members by name.
    pub members: Vec<Member>,
    /// By shard; `None` while nobody leads it.
    pub leaders: Vec<Option<Leader>>,
    /// Shards that an operator has tied to a node, with the node.
    pub pins: Vec<(ShardId, NodeName)>,
    /// Whether the source of this view answers; otherwise it is as old as the last contact.
    pub fresh: bool,
}

impl View {
    pub fn member(&self, name: &NodeName) -> Option<&Member> {
        self.members.iter().find(|member| member.name == *name)
    }

    /// Who leads a shard, if it is known and alive.
    pub fn leader(&self, shard: ShardId) -> Option<(&Member, Epoch)> {
        let leader = self.leaders.get(usize::from(shard.0))?.as_ref()?;
        Some((self.member(&leader.node)?, leader.epoch))
    }
}

/// The present view, and word of each change.
pub type Views = watch::Receiver<Arc<View>>;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    #[error("there is no member {0} now; see `flotilla cluster status`")]
    NoSuchMember(NodeName),
    #[error("there is no shard {0}")]
    NoSuchShard(ShardId),
    #[error("this controller is alone: there is no other to move shards to")]
    Alone,
    #[error("the cluster's coordination service does not answer: {0}")]
    Unavailable(String),
}

/// What operators can ask of the cluster. Each call returns when the wish is recorded; the view shows when it is done.
pub trait Control: Send + Sync + 'static {
    /// Moves everything away from a node, and keeps it so (or takes that back).
    fn drain(&self, node: NodeName, on: bool) -> BoxFuture<'_, Result<(), ControlError>>;

    /// Ties a shard to a node as long as that lives, or sets it free with `None`.
    fn move_shard(&self, shard: ShardId, to: Option<NodeName>) -> BoxFuture<'_, Result<(), ControlError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_names_are_like_host_names() {
        for good in ["a", "node-1", "c1.example.org", "0"] {
            assert_eq!(NodeName::parse(good).unwrap().to_string(), good);
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a/b", &"x".repeat(64)] {
            assert!(NodeName::parse(bad).is_err(), "{bad:?}");
        }
    }
}
