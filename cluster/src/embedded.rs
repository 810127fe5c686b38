//! The coordinator of a single node: it leads every shard, each under an epoch above the one in its store.

use std::collections::VecDeque;
use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::{BoxFuture, FutureExt, ready};
use tokio::sync::watch;

use crate::{Control, ControlError, CoordinationError, Coordinator, Leader, Leadership, Member, NodeName, View, Views};

/// Hands out all shards once; after that nothing ever changes.
#[derive(Debug)]
pub struct Embedded {
    gains: VecDeque<Leadership>,
}

impl Embedded {
    /// `last_epochs` are those of the store, shard 0 first. A restart is a change of leader: whatever the former process
    /// still has on the way carries an older epoch and is refused.
    pub fn new(last_epochs: &[Epoch]) -> Result<Self, CoordinationError> {
        let gain = |(number, last): (usize, &Epoch)| {
            let shard = ShardId(number as u16);
            let epoch = last.0.checked_add(1).map(Epoch).ok_or(CoordinationError::EpochsUsedUp { shard })?;
            Ok(Leadership::Gained { shard, epoch })
        };
        Ok(Self { gains: last_epochs.iter().enumerate().map(gain).collect::<Result<_, _>>()? })
    }

    /// What the rest of a node asks a cluster for, where there is none: a view of this node alone that never changes, and a
    /// control that says so. The view ends with the control. To be called before the first [`Coordinator::next`].
    pub fn alone(&self, member: Member) -> (Views, Arc<dyn Control>) {
        let leader = |gain: &Leadership| match gain {
            Leadership::Gained { epoch, .. } => Some(Leader { node: member.name.clone(), epoch: *epoch }),
            Leadership::Drain { .. } | Leadership::Lost { .. } => None,
        };
        let leaders = self.gains.iter().map(leader).collect();
        let view = View { leaders, members: vec![member], pins: Vec::new(), fresh: true };
        let (view, views) = watch::channel(Arc::new(view));
        (views, Arc::new(Alone { _view: view }))
    }
}

struct Alone {
    _view: watch::Sender<Arc<View>>,
}

impl Control for Alone {
    fn drain(&self, _node: NodeName, _on: bool) -> BoxFuture<'_, Result<(), ControlError>> {
        ready(Err(ControlError::Alone)).boxed()
    }

    fn move_shard(&self, _shard: ShardId, _to: Option<NodeName>) -> BoxFuture<'_, Result<(), ControlError>> {
        ready(Err(ControlError::Alone)).boxed()
    }
}

impl Coordinator for Embedded {
    async fn next(&mut self) -> Result<Leadership, CoordinationError> {
        match self.gains.pop_front() {
            Some(gain) => Ok(gain),
            None => std::future::pending().await,
        }
    }

    async fn released(&mut self, _shard: ShardId) -> Result<(), CoordinationError> {
        std::future::ready(Ok(())).await
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn every_shard_is_gained_once_above_its_last_epoch() {
        let mut embedded = Embedded::new(&[Epoch(0), Epoch(41)]).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        let mut next = || match pin!(embedded.next()).poll(&mut cx) {
            Poll::Ready(change) => Some(change.unwrap()),
            Poll::Pending => None,
        };
        assert_eq!(next(), Some(Leadership::Gained { shard: ShardId(0), epoch: Epoch(1) }));
        assert_eq!(next(), Some(Leadership::Gained { shard: ShardId(1), epoch: Epoch(42) }));
        assert_eq!(next(), None);
    }

    #[test]
    fn a_node_that_is_alone_sees_itself_lead_everything() {
        let embedded = Embedded::new(&[Epoch(0), Epoch(41)]).unwrap();
        let name = NodeName::parse("a").unwrap();
        let member = Member {
            name: name.clone(),
            peer: String::new(),
            quic: vec!["a:7400".to_owned()],
            version: String::new(),
            since_ms: 0,
            draining: false,
        };
        let (views, control) = embedded.alone(member.clone());
        let view = Arc::clone(&views.borrow());
        assert_eq!(view.leader(ShardId(1)), Some((&member, Epoch(42))));
        assert_eq!(view.leader(ShardId(2)), None);
        assert_eq!(control.drain(name, true).now_or_never(), Some(Err(ControlError::Alone)));
        assert_eq!(control.move_shard(ShardId(0), None).now_or_never(), Some(Err(ControlError::Alone)));
        assert!(!views.has_changed().unwrap_or(true), "it lives as long as the control");
    }

    #[test]
    fn an_exhausted_epoch_is_an_error_not_a_wrap() {
        assert!(Embedded::new(&[Epoch(u64::MAX)]).is_err());
    }
}
