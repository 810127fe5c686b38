//! When a lease that was given on the controller's clock ends on ours (docs/adr/0002).

use std::collections::VecDeque;

/// A few pairs are kept: an answer that was slow makes leases end early, an older quick one is better. Four pairs of the
/// usual interval are so close together that clocks do not drift by more than 25 ms between them.
const PAIRS_MAX: usize = 4;
/// A pair older than this is only used when there is no other.
const PAIR_AGE_MAX_MS: u64 = 300_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pair {
    /// Our clock when we asked.
    asked_ms: u64,
    /// The controller's clock when it answered, which was not before we asked.
    answered_ms: u64,
}

impl Pair {
    /// Our clock less the controller's is at least this.
    fn offset_ms(self) -> i64 {
        self.asked_ms.wrapping_sub(self.answered_ms) as i64
    }
}

/// The clock pairs of one link.
#[derive(Clone, Debug, Default)]
pub(super) struct LeaseClock {
    pairs: VecDeque<Pair>,
}

impl LeaseClock {
    pub(super) fn add(&mut self, asked_ms: u64, answered_ms: u64) {
        self.pairs.push_back(Pair { asked_ms, answered_ms });
        if self.pairs.len() > PAIRS_MAX {
            self.pairs.pop_front();
        }
    }

    /// On our clock, the end of a lease of `within_ms` from the controller's `sent_ms`; never late, early by at most one trip.
    /// `None` without any pair: then nothing is granted.
    pub(super) fn deadline(&self, sent_ms: u64, within_ms: u32) -> Option<u64> {
        let newest = self.pairs.back()?;
        let offset = self
            .pairs
            .iter()
            .filter(|pair| newest.asked_ms.saturating_sub(pair.asked_ms) <= PAIR_AGE_MAX_MS)
            .map(|pair| pair.offset_ms())
            .max()?;
        Some(sent_ms.saturating_add_signed(offset).saturating_add(u64::from(within_ms)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn without_a_pair_there_is_no_lease() {
        assert_eq!(LeaseClock::default().deadline(5, 1000), None);
    }

    #[test]
    fn a_slow_answer_does_not_shorten_leases_while_a_quick_one_is_fresh() {
        let mut clock = LeaseClock::default();
        clock.add(1_000, 501_010);
        clock.add(61_000, 564_000);
        assert_eq!(clock.deadline(570_000, 5_000), Some(570_000 - 500_010 + 5_000));
        clock.add(1_000_000, 1_510_000);
        assert_eq!(clock.deadline(1_520_000, 5_000), Some(1_520_000 - 510_000 + 5_000));
    }

    proptest! {
        /// Whatever the trips took, no lease ends later than on the controller's own clock, nor earlier than by the newest trip.
        #[test]
        fn a_lease_is_never_late(
            ours in 1_000_000u64..2_000_000, theirs in 0u64..3_000_000,
            trips in prop::collection::vec((0u64..70_000, 0u64..5_000, 0u64..5_000), 1..12),
            within_ms in 0u32..60_000,
        ) {
            let mut clock = LeaseClock::default();
            let mut elapsed = 0;
            let mut newest_trip = 0;
            for (pause, out, back) in trips {
                elapsed += pause;
                clock.add(ours + elapsed, theirs + elapsed + out);
                newest_trip = out;
                elapsed += out + back;
            }
            let deadline = clock.deadline(theirs + elapsed, within_ms).unwrap();
            let truly = ours + elapsed + u64::from(within_ms);
            prop_assert!(deadline <= truly);
            prop_assert!(truly - deadline <= newest_trip);
        }
    }
}
