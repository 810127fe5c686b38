//! The clock that leases are judged by.

/// Milliseconds since the boot, the time that the machine was suspended included: a lease that ran out meanwhile is over.
pub(super) fn now_ms() -> u64 {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    boot.tv_sec as u64 * 1_000 + boot.tv_nsec as u64 / 1_000_000
}
