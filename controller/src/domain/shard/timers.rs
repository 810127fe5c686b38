//! What the machine waits for. Entries are not searched for when they are not needed any more: whoever gets one checks that
//! it still holds. A heap that consists mostly of such entries is swept.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use flotilla_protocol::id::TenantId;

use super::slots::Slot;

/// The wall clock may jump, so its deadlines are looked at this often.
pub(super) const WALL_CHECK_MS: u64 = 5_000;
/// Smaller heaps are not worth a sweep.
const SWEEP_MIN: usize = 1_024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// Wall clock: a scheduled message is due.
    Due(Slot),
    /// Wall clock: a message's validity is over.
    Expires(Slot),
    /// Monotonic: a queued message has waited long enough.
    Wake(Slot),
    /// Monotonic: the lease of a message whose device is gone is over.
    Lease(Slot),
    /// Monotonic: a target may have room by then.
    Serve(Slot),
    /// Wall clock: rules of a tenant that look at the time choose other plans.
    Reclassify(TenantId),
}

#[derive(Debug, Default)]
pub(super) struct Timers {
    wall: Heap,
    mono: Heap,
}

#[derive(Debug, Default)]
struct Heap {
    entries: BinaryHeap<Reverse<(u64, Timer)>>,
    /// The size after the last sweep.
    swept: usize,
}

impl Timers {
    pub(super) fn at_wall(&mut self, unix_ms: u64, timer: Timer) {
        self.wall.entries.push(Reverse((unix_ms, timer)));
    }

    pub(super) fn at_mono(&mut self, mono_ms: u64, timer: Timer) {
        self.mono.entries.push(Reverse((mono_ms, timer)));
    }

    pub(super) fn next_wall(&mut self, unix_ms: u64) -> Option<Timer> {
        self.wall.pop(unix_ms)
    }

    pub(super) fn next_mono(&mut self, mono_ms: u64) -> Option<Timer> {
        self.mono.pop(mono_ms)
    }

    /// When to look again, by the monotonic clock.
    pub(super) fn deadline(&self, unix_ms: u64, mono_ms: u64) -> Option<u64> {
        let wall = self.wall.first().map(|at| mono_ms + at.saturating_sub(unix_ms).min(WALL_CHECK_MS));
        [wall, self.mono.first()].into_iter().flatten().min()
    }

    /// Drops what does not hold any more, once that may be the larger part.
    pub(super) fn sweep(&mut self, holds: impl Fn(u64, &Timer) -> bool) {
        self.wall.sweep(&holds);
        self.mono.sweep(&holds);
    }
}

impl Heap {
    fn first(&self) -> Option<u64> {
        self.entries.peek().map(|Reverse((at, _))| *at)
    }

    fn pop(&mut self, now: u64) -> Option<Timer> {
        if self.first()? > now {
            return None;
        }
        self.entries.pop().map(|Reverse((_, timer))| timer)
    }

    fn sweep(&mut self, holds: impl Fn(u64, &Timer) -> bool) {
        if self.entries.len() < SWEEP_MIN.max(2 * self.swept) {
            return;
        }
        self.entries.retain(|Reverse((at, timer))| holds(*at, timer));
        self.swept = self.entries.len();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::shard::slots::Slots;

    #[test]
    fn deadlines_of_the_wall_are_looked_at_again_and_again() {
        let slot = Slots::default().insert(());
        let mut timers = Timers::default();
        assert_eq!(timers.deadline(0, 0), None);
        timers.at_wall(1_000_000, Timer::Due(slot));
        assert_eq!(timers.deadline(0, 70), Some(70 + WALL_CHECK_MS));
        assert_eq!(timers.deadline(999_999, 70), Some(71));
        timers.at_mono(60, Timer::Wake(slot));
        assert_eq!(timers.deadline(0, 70), Some(60));
        assert_eq!((timers.next_mono(59), timers.next_mono(60)), (None, Some(Timer::Wake(slot))));
        assert_eq!(timers.next_wall(1_000_000), Some(Timer::Due(slot)));
    }

    #[test]
    fn a_heap_of_dead_entries_shrinks() {
        let mut slots = Slots::default();
        let (live, dead) = (slots.insert(()), slots.insert(()));
        slots.remove(dead);
        let mut timers = Timers::default();
        for at in 0..SWEEP_MIN as u64 {
            timers.at_wall(at, Timer::Expires(if at == 7 { live } else { dead }));
        }
        timers.sweep(|_, timer| matches!(timer, Timer::Expires(slot) if slots.get(*slot).is_some()));
        assert_eq!((timers.wall.entries.len(), timers.next_wall(7)), (1, Some(Timer::Expires(live))));
    }

    #[test]
    fn whoever_sleeps_again_and_again_waits_once() {
        let slot = Slots::default().insert(());
        let mut timers = Timers::default();
        let mut wake_ms = 0;
        for _ in 0..5 * SWEEP_MIN {
            wake_ms += 1;
            timers.at_mono(wake_ms, Timer::Wake(slot));
            timers.sweep(|at_ms, timer| *timer != Timer::Wake(slot) || at_ms == wake_ms);
        }
        assert!(timers.mono.entries.len() < SWEEP_MIN);
    }
}
