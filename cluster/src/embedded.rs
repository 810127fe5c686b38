//! The coordinator of a single node: it leads every shard, each under an epoch above the one in its store.

use std::collections::VecDeque;

use flotilla_protocol::id::{Epoch, ShardId};

use crate::{CoordinationError, Coordinator, Leadership};

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
    fn an_exhausted_epoch_is_an_error_not_a_wrap() {
        assert!(Embedded::new(&[Epoch(u64::MAX)]).is_err());
    }
}
