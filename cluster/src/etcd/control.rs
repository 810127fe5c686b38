//! What operators ask of the cluster, written down in etcd where every node sees it.

use flotilla_protocol::id::ShardId;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::driver::Event;
use super::keys::Contents;
use super::store::Store;
use crate::{Control, ControlError, NodeName};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wish {
    Drain { node: NodeName, on: bool },
    Move { shard: ShardId, to: Option<NodeName> },
}

pub(super) struct EtcdControl {
    pub(super) events: mpsc::Sender<Event>,
}

impl EtcdControl {
    async fn ask(&self, wish: Wish) -> Result<(), ControlError> {
        let (answer, result) = oneshot::channel();
        let stopped = || ControlError::Unavailable("this node has left the cluster".to_owned());
        self.events.send(Event::Control(wish, answer)).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }
}

impl Control for EtcdControl {
    fn drain(&self, node: NodeName, on: bool) -> BoxFuture<'_, Result<(), ControlError>> {
        self.ask(Wish::Drain { node, on }).boxed()
    }

    fn move_shard(&self, shard: ShardId, to: Option<NodeName>) -> BoxFuture<'_, Result<(), ControlError>> {
        self.ask(Wish::Move { shard, to }).boxed()
    }
}

pub(super) async fn fulfil(store: &Store, contents: &Contents, wish: Wish) -> Result<(), ControlError> {
    let known = |node: &NodeName| match contents.present(node) {
        Some(_) => Ok(()),
        None => Err(ControlError::NoSuchMember(node.clone())),
    };
    let done = match wish {
        Wish::Drain { node, on: true } => {
            known(&node)?;
            store.put(&store.keys.drain(&node), "").await
        }
        // Also of a node that is gone.
        Wish::Drain { node, on: false } => store.delete(&store.keys.drain(&node)).await,
        Wish::Move { shard, .. } if shard.0 >= store.shards => return Err(ControlError::NoSuchShard(shard)),
        Wish::Move { shard, to: Some(node) } => {
            known(&node)?;
            store.put(&store.keys.pin(shard), node.as_str()).await
        }
        Wish::Move { shard, to: None } => store.delete(&store.keys.pin(shard)).await,
    };
    done.map_err(|error| ControlError::Unavailable(error.to_string()))
}
