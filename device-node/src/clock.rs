//! The two clocks of a device. Leases count on one that goes on while the machine sleeps (docs/adr/0002).

use std::time::{SystemTime, UNIX_EPOCH};

/// The time of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since the machine started, time spent suspended included; only goes forward.
    pub boot_ms: u64,
    /// Wall clock, Unix milliseconds. It may jump: only what people see depends on it.
    pub unix_ms: u64,
}

/// Where the time comes from; tests bring their own.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Now;
}

/// `CLOCK_BOOTTIME` and the wall clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Now { boot_ms: boot.tv_sec as u64 * 1000 + boot.tv_nsec as u64 / 1_000_000, unix_ms: unix.as_millis() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boot_time_goes_forward() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second.boot_ms >= first.boot_ms);
        assert!(first.unix_ms > 1_600_000_000_000);
    }
}
