//! When routes are to be looked at again. A route has few entries: one that is later than what is set already is not added,
//! and an entry that comes too early looks for the next time itself.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::entry::Key;

/// Times by the wall clock are looked at this often, since that clock may be set.
pub(super) const WALL_CHECK_MS: u64 = 60_000;

#[derive(Debug, Default)]
pub(super) struct Deadlines(BinaryHeap<Reverse<(u64, Key)>>);

impl Deadlines {
    /// `scheduled_ms` is the earliest time that is set for the route.
    pub(super) fn set(&mut self, key: Key, at_ms: u64, scheduled_ms: &mut Option<u64>, now_ms: u64) {
        self.set_exactly(key, at_ms.clamp(now_ms + 1, now_ms + WALL_CHECK_MS), scheduled_ms);
    }

    /// A time by the monotonic clock.
    pub(super) fn set_exactly(&mut self, key: Key, at_ms: u64, scheduled_ms: &mut Option<u64>) {
        if scheduled_ms.is_none_or(|scheduled| at_ms < scheduled) {
            *scheduled_ms = Some(at_ms);
            self.0.push(Reverse((at_ms, key)));
        }
    }

    pub(super) fn first(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((at_ms, _))| *at_ms)
    }

    /// A route whose time has come, with that time.
    pub(super) fn next(&mut self, now_ms: u64) -> Option<(u64, Key)> {
        if self.first()? > now_ms {
            return None;
        }
        self.0.pop().map(|Reverse(entry)| entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_looked_at_at_the_earliest_time_and_not_more_often_than_needed() {
        let (mut deadlines, mut scheduled) = (Deadlines::default(), None);
        for at_ms in [500, 700, 300, 400] {
            deadlines.set(1, at_ms, &mut scheduled, 100);
        }
        assert_eq!((deadlines.first(), deadlines.0.len()), (Some(300), 2));
        assert_eq!(deadlines.next(299), None);
        assert_eq!((deadlines.next(300), deadlines.next(499)), (Some((300, 1)), None));
    }

    #[test]
    fn a_far_time_is_looked_at_again_each_minute() {
        let (mut deadlines, mut scheduled) = (Deadlines::default(), None);
        deadlines.set(1, u64::MAX, &mut scheduled, 100);
        assert_eq!(deadlines.first(), Some(100 + WALL_CHECK_MS));
    }
}
