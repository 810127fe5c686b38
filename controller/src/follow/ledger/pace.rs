//! How often a shard's ledger is written: at a pace bound to its size, and sooner when a start would have to fold much of the
//! journal.

use std::time::Duration;

use tokio::time::Instant;

/// Between two writes of a ledger, at least.
const EVERY: Duration = Duration::from_secs(10);
/// And so much longer that this is not exceeded on average.
const BYTES_PER_SECOND: usize = 250_000;
/// Sooner, when so many events have come meanwhile: who starts from here has to read and fold them.
const EVENTS_MAX: usize = 250_000;

/// Of one shard.
#[derive(Debug)]
pub(super) struct Pace {
    /// When it was written last, or gained.
    wrote_at: Instant,
    /// How large it was then.
    bytes: usize,
    /// Events since what is stored.
    events: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self::new(Instant::now())
    }
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { wrote_at: now, bytes: 0, events: 0 }
    }

    /// Events were folded into it.
    pub(super) fn took(&mut self, events: usize) {
        self.events += events;
    }

    /// It was written, with all but so many events.
    pub(super) fn wrote(&mut self, bytes: usize, now: Instant) {
        *self = Self { wrote_at: now, bytes, events: 0 };
    }

    pub(super) fn due_at(&self) -> Instant {
        if self.events >= EVENTS_MAX {
            return self.wrote_at;
        }
        self.wrote_at + EVERY.max(Duration::from_secs((self.bytes / BYTES_PER_SECOND) as u64))
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due_at() <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_ledger_is_written_less_often_and_a_busy_one_sooner() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        let wait = |pace: &Pace| pace.due_at() - now;
        assert_eq!(wait(&pace), EVERY);
        pace.wrote(1_000_000, now);
        assert_eq!(wait(&pace), EVERY, "a megabyte each ten seconds");
        pace.wrote(20_000_000, now);
        assert_eq!(wait(&pace), Duration::from_secs(80));
        pace.took(EVENTS_MAX - 1);
        assert!(!pace.is_due(now + Duration::from_secs(79)) && pace.is_due(now + Duration::from_secs(80)));
        pace.took(1);
        assert!(pace.is_due(now));
        pace.wrote(20_000_000, now);
        assert!(!pace.is_due(now));
    }
}
