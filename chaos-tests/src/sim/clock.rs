//! The clocks of one machine: wrong by a bounded offset and a bounded drift, as real ones are.

use super::Ms;

/// Drift of a quartz stays below this (docs/adr/0002 counts on it).
pub(super) const DRIFT_PPM_MAX: u64 = 100;
pub(super) const UNIX_START_MS: u64 = 1_700_000_000_000;

#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// What the monotonic clock said when the simulation began.
    pub origin_ms: u64,
    pub drift_ppm: i64,
    /// How far the wall clock is off.
    pub wall_off_ms: i64,
}

impl Clock {
    pub(super) fn mono(&self, at: Ms) -> u64 {
        let drift = at as i64 * self.drift_ppm / 1_000_000;
        (self.origin_ms + at).saturating_add_signed(drift)
    }

    pub(super) fn unix(&self, at: Ms) -> u64 {
        (UNIX_START_MS + at).saturating_add_signed(self.wall_off_ms)
    }

    /// The first moment at which the monotonic clock says this.
    pub(super) fn when(&self, mono_ms: u64) -> Ms {
        let mut at = mono_ms.saturating_sub(self.origin_ms);
        at = at.saturating_sub(at * DRIFT_PPM_MAX / 1_000_000 + 2);
        while self.mono(at) < mono_ms {
            at += (mono_ms - self.mono(at)).max(1);
        }
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_found_again() {
        for drift_ppm in [-100, 0, 100] {
            let clock = Clock { origin_ms: 77, drift_ppm, wall_off_ms: 0 };
            for mono in [77, 78, 1_000_000, 90_000_077] {
                let at = clock.when(mono);
                assert!(clock.mono(at) >= mono && (at == 0 || clock.mono(at - 1) <= mono), "{drift_ppm} {mono}");
            }
        }
    }
}
