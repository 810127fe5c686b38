//! A cluster within one process: its nodes share what the store holds, and shards move when somebody says so. For tests and
//! measurements, where who leads what is part of the experiment.
//!
//! It keeps the promises of a coordinator: epochs only grow, a shard is handed over when its leader has released it, and a
//! node that is cut off learns that it has lost everything.

use std::sync::Arc;

use flotilla_cluster::{Control, ControlError, CoordinationError, Coordinator, Leader, Leadership, Member, NodeName};
use flotilla_cluster::{View, Views};
use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::{BoxFuture, ready};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, watch};

/// Who leads what, and who may tell. Cheap to clone: all clones are the same cluster.
#[derive(Clone)]
pub struct LocalCluster {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    view: watch::Sender<Arc<View>>,
}

struct State {
    view: View,
    /// Where a shard is to go when its leader has released it; nowhere without.
    wanted: Vec<Option<NodeName>>,
    last_epoch: u64,
    nodes: FxHashMap<NodeName, mpsc::UnboundedSender<Leadership>>,
}

/// One node's side of it.
pub struct LocalCoordinator {
    shared: Arc<Shared>,
    own: NodeName,
    changes: mpsc::UnboundedReceiver<Leadership>,
}

impl LocalCluster {
    /// Nobody leads anything. Epochs begin above those of the store.
    pub fn new(last_epochs: &[Epoch]) -> Self {
        let view = View { leaders: vec![None; last_epochs.len()], fresh: true, ..View::default() };
        let last_epoch = last_epochs.iter().map(|epoch| epoch.0).max().unwrap_or(0);
        let sender = watch::Sender::new(Arc::new(view.clone()));
        let state = State { wanted: vec![None; last_epochs.len()], view, last_epoch, nodes: FxHashMap::default() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), view: sender }) }
    }

    /// Takes a node in. It leads nothing until it is given something.
    pub fn join(&self, member: Member) -> LocalCoordinator {
        let (sender, changes) = mpsc::unbounded_channel();
        let own = member.name.clone();
        self.shared.change(|state| {
            state.view.members.retain(|known| known.name != own);
            state.view.members.push(member);
            state.view.members.sort_by(|a, b| a.name.cmp(&b.name));
            state.nodes.insert(own.clone(), sender);
        });
        LocalCoordinator { shared: Arc::clone(&self.shared), own, changes }
    }

    pub fn views(&self) -> Views {
        self.shared.view.subscribe()
    }

    pub fn control(&self) -> Arc<dyn Control> {
        Arc::new(self.clone())
    }

    /// Moves a shard: its leader is told to drain it, and when it has, `to` gains it. Without `to` nobody does.
    pub fn place(&self, shard: ShardId, to: Option<&NodeName>) {
        self.shared.change(|state| state.place(shard, to.cloned()));
    }

    /// Everything goes to one node.
    pub fn place_all(&self, to: &NodeName) {
        let shards = self.shared.state.lock().view.leaders.len() as u16;
        (0..shards).for_each(|number| self.place(ShardId(number), Some(to)));
    }

    /// As when a node's lease has ended: it is told that it has lost all, and is a member no more. Its shards are nobody's.
    pub fn expel(&self, node: &NodeName) {
        self.shared.change(|state| {
            for number in 0..state.view.leaders.len() {
                if state.leads(number, node) {
                    state.view.leaders[number] = None;
                    state.tell(node, Leadership::Lost { shard: ShardId(number as u16) });
                }
            }
            state.view.members.retain(|member| member.name != *node);
            state.nodes.remove(node);
        });
    }

    /// What a node that stops says: all it leads goes to the others, or to nobody when there is none.
    pub fn leave(&self, node: &NodeName) {
        self.shared.change(|state| {
            let stays = |member: &&Member| member.name != *node && !member.draining;
            let others: Vec<_> = state.view.members.iter().filter(stays).map(|member| member.name.clone()).collect();
            for number in 0..state.view.leaders.len() {
                if state.leads(number, node) {
                    let to = (!others.is_empty()).then(|| others[number % others.len()].clone());
                    state.place(ShardId(number as u16), to);
                }
            }
        });
    }
}

impl Shared {
    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock();
        change(&mut state);
        let view = Arc::new(state.view.clone());
        self.view.send_replace(view);
    }
}

impl State {
    fn leads(&self, number: usize, node: &NodeName) -> bool {
        self.view.leaders[number].as_ref().is_some_and(|leader| leader.node == *node)
    }

    fn tell(&self, node: &NodeName, change: Leadership) {
        if let Some(changes) = self.nodes.get(node) {
            // A node that has stopped listening has stopped leading.
            let _ = changes.send(change);
        }
    }

    fn place(&mut self, shard: ShardId, to: Option<NodeName>) {
        let number = usize::from(shard.0);
        self.wanted[number] = to;
        match self.view.leaders[number].clone() {
            None => self.give(shard),
            Some(leader) if self.wanted[number].as_ref() == Some(&leader.node) => {}
            Some(leader) => self.tell(&leader.node, Leadership::Drain { shard }),
        }
    }

    /// Gives a shard that nobody leads to whom it is to go.
    fn give(&mut self, shard: ShardId) {
        let number = usize::from(shard.0);
        let Some(node) = self.wanted[number].clone().filter(|node| self.nodes.contains_key(node)) else { return };
        self.last_epoch += 1;
        let epoch = Epoch(self.last_epoch);
        self.tell(&node, Leadership::Gained { shard, epoch });
        self.view.leaders[number] = Some(Leader { node, epoch });
    }
}

impl Coordinator for LocalCoordinator {
    async fn next(&mut self) -> Result<Leadership, CoordinationError> {
        self.changes.recv().await.ok_or(CoordinationError::Stopped)
    }

    async fn released(&mut self, shard: ShardId) -> Result<(), CoordinationError> {
        self.shared.change(|state| {
            if state.leads(usize::from(shard.0), &self.own) {
                state.view.leaders[usize::from(shard.0)] = None;
                state.give(shard);
            }
        });
        ready(Ok(())).await
    }
}

impl Control for LocalCluster {
    fn drain(&self, node: NodeName, on: bool) -> BoxFuture<'_, Result<(), ControlError>> {
        let mut known = false;
        self.shared.change(|state| {
            for member in state.view.members.iter_mut().filter(|member| member.name == node) {
                (known, member.draining) = (true, on);
            }
        });
        if known && on {
            self.leave(&node);
        }
        Box::pin(ready(if known { Ok(()) } else { Err(ControlError::NoSuchMember(node)) }))
    }

    fn move_shard(&self, shard: ShardId, to: Option<NodeName>) -> BoxFuture<'_, Result<(), ControlError>> {
        let view = self.shared.view.borrow().clone();
        let result = match &to {
            _ if usize::from(shard.0) >= view.leaders.len() => Err(ControlError::NoSuchShard(shard)),
            Some(node) if view.member(node).is_none() => Err(ControlError::NoSuchMember(node.clone())),
            Some(_) | None => Ok(()),
        };
        if result.is_ok() {
            self.shared.change(|state| {
                state.view.pins.retain(|(pinned, _)| *pinned != shard);
                if let Some(to) = to {
                    state.view.pins.push((shard, to.clone()));
                    state.place(shard, Some(to));
                }
            });
        }
        Box::pin(ready(result))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        NodeName::parse(text).unwrap()
    }

    fn member(text: &str) -> Member {
        let peer = "127.0.0.1:1".to_owned();
        Member { name: name(text), peer, quic: vec![], version: "0".into(), since_ms: 1, draining: false }
    }

    #[tokio::test]
    async fn a_shard_moves_when_it_is_released_and_under_a_higher_epoch() {
        let cluster = LocalCluster::new(&[Epoch(7), Epoch(3)]);
        let (mut a, mut b) = (cluster.join(member("a")), cluster.join(member("b")));
        cluster.place_all(&name("a"));
        let gained = |shard, epoch| Leadership::Gained { shard: ShardId(shard), epoch: Epoch(epoch) };
        assert_eq!((a.next().await.unwrap(), a.next().await.unwrap()), (gained(0, 8), gained(1, 9)));
        cluster.place(ShardId(0), Some(&name("b")));
        assert_eq!(a.next().await.unwrap(), Leadership::Drain { shard: ShardId(0) });
        assert_eq!(cluster.views().borrow().leader(ShardId(0)).unwrap().0.name, name("a"), "until it is released");
        a.released(ShardId(0)).await.unwrap();
        assert_eq!(b.next().await.unwrap(), gained(0, 10));
        cluster.expel(&name("a"));
        assert_eq!(a.next().await.unwrap(), Leadership::Lost { shard: ShardId(1) });
        assert!(a.next().await.is_err());
        let view = cluster.views().borrow().clone();
        assert_eq!((view.leader(ShardId(1)), view.members.len()), (None, 1));
        cluster.place(ShardId(1), Some(&name("b")));
        assert_eq!(b.next().await.unwrap(), gained(1, 11));
    }
}
