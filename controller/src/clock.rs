//! Where time comes from. Everything that decides gets it as an argument; whoever calls it reads one of these.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::domain::Now;

pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
}

/// The machine's clocks. The monotonic one goes on while the machine is suspended (`CLOCK_BOOTTIME`), so a lease that was
/// given before a suspension is over after it; its origin is the boot, the same for all clocks of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let mono = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { unix_ms: unix.as_millis() as u64, mono_ms: mono.tv_sec as u64 * 1_000 + mono.tv_nsec as u64 / 1_000_000 }
    }
}

/// A clock that stands still until it is told otherwise, for tests and simulations.
#[derive(Debug)]
pub struct ManualClock {
    unix_ms: AtomicU64,
    mono_ms: AtomicU64,
}

impl ManualClock {
    pub fn new(now: Now) -> Self {
        Self { unix_ms: AtomicU64::new(now.unix_ms), mono_ms: AtomicU64::new(now.mono_ms) }
    }

    /// Both clocks go forward.
    pub fn advance(&self, by_ms: u64) {
        self.unix_ms.fetch_add(by_ms, Ordering::SeqCst);
        self.mono_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    /// The wall clock is set, the monotonic one does not notice.
    pub fn set_wall(&self, unix_ms: u64) {
        self.unix_ms.store(unix_ms, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Now {
        Now { unix_ms: self.unix_ms.load(Ordering::SeqCst), mono_ms: self.mono_ms.load(Ordering::SeqCst) }
    }
}

/// Both clocks follow tokio's, which tests can pause.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    start: tokio::time::Instant,
    unix_ms: u64,
}

impl TokioClock {
    pub fn new(unix_ms: u64) -> Self {
        Self { start: tokio::time::Instant::now(), unix_ms }
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Now {
        let passed = self.start.elapsed().as_millis() as u64;
        Now { unix_ms: self.unix_ms + passed, mono_ms: 1 + passed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_clock_is_past_2024_and_goes_forward() {
        let (a, b) = (SystemClock.now(), SystemClock.now());
        assert!(a.unix_ms > 1_704_067_200_000);
        assert!(b.mono_ms >= a.mono_ms);
    }

    #[test]
    fn a_jump_of_the_wall_leaves_the_monotonic_clock_alone() {
        let clock = ManualClock::new(Now { unix_ms: 100, mono_ms: 7 });
        clock.advance(5);
        clock.set_wall(1);
        assert_eq!(clock.now(), Now { unix_ms: 1, mono_ms: 12 });
    }
}
