//! What one node knows of one shard's leadership.

use flotilla_protocol::id::Epoch;

use super::Settings;
use crate::NodeName;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum State {
    /// Led by another, by nobody, or unknown.
    #[default]
    Idle,
    Campaigning,
    Leading {
        epoch: Epoch,
        since_ms: u64,
    },
    /// The node was told to stop leading it.
    Draining {
        epoch: Epoch,
        since_ms: u64,
    },
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    pub(super) state: State,
    /// What was read below this revision is older than what this node knows of the shard.
    pub(super) known_at: u64,
    /// The highest epoch under which this node has led it. A leader key of ours with no higher one is on its way out.
    pub(super) highest: Epoch,
    pub(super) leaderless_since_ms: Option<u64>,
    pub(super) retry_at_ms: u64,
    pub(super) failures: u32,
    /// To whom it was handed over, until somebody else is seen leading it.
    pub(super) given_to: Option<NodeName>,
    pub(super) given_at_ms: Option<u64>,
}

impl Shard {
    pub(super) fn epoch(&self) -> Option<Epoch> {
        match self.state {
            State::Leading { epoch, .. } | State::Draining { epoch, .. } => Some(epoch),
            State::Idle | State::Campaigning => None,
        }
    }

    pub(super) fn lead(&mut self, epoch: Epoch, now_ms: u64) {
        self.state = State::Leading { epoch, since_ms: now_ms };
        self.leaderless_since_ms = None;
        self.given_at_ms = None;
    }

    /// The lease that everything hung on is over. Returns whether the shard was led.
    pub(super) fn end_lease(&mut self) -> bool {
        let led = self.epoch().is_some();
        self.state = State::Idle;
        // The next lease may be of a store that was made anew and counts its revisions from 1.
        self.known_at = 0;
        self.leaderless_since_ms = None;
        self.given_at_ms = None;
        led
    }

    /// Takes in who holds the leader key: nobody, this node (false) or another (true).
    pub(super) fn see_leader(&mut self, other: Option<bool>, now_ms: u64) {
        match other {
            None if self.state == State::Idle => {
                self.leaderless_since_ms.get_or_insert(now_ms);
            }
            None => {}
            Some(other) => {
                self.leaderless_since_ms = None;
                if other {
                    self.given_to = None;
                    self.given_at_ms = None;
                }
            }
        }
    }

    pub(super) fn back_off(&mut self, settings: &Settings, now_ms: u64) {
        let pause_ms = settings.retry_min_ms.saturating_mul(1 << self.failures.min(20)).min(settings.retry_max_ms);
        self.failures += 1;
        self.retry_at_ms = now_ms + pause_ms;
    }

    /// It stopped by itself: a shard that fails soon after each gain is tried less and less often.
    pub(super) fn back_off_led(&mut self, settings: &Settings, now_ms: u64) {
        if let State::Leading { since_ms, .. } = self.state
            && now_ms >= since_ms + settings.retry_max_ms
        {
            self.failures = 0;
        }
        self.back_off(settings, now_ms);
    }
}
