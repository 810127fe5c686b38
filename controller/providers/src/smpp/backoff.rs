//! How long to wait before the next try to connect. Pure: the seed is an argument, and time is what the caller tells.

/// A session that lasted less counts as another failure, so that an SMSC that lets in and throws out is not stormed.
const STEADY_MS: u64 = 30_000;
/// After a refusal that only a person can put right.
const REFUSED_MIN_MS: u64 = 30_000;
const REFUSED_MAX_MS: u64 = 15 * 60_000;

/// Doubles with each failure, between half and the whole of the step.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    min_ms: u64,
    max_ms: u64,
    failures: u32,
    random: u64,
}

impl Backoff {
    pub(crate) fn new(min_ms: u64, max_ms: u64, seed: u64) -> Self {
        Self { min_ms, max_ms, failures: 0, random: seed }
    }

    pub(crate) fn failures(&self) -> u32 {
        self.failures
    }

    /// A try has failed, or a session of `lasted_ms` has ended.
    pub(crate) fn after_failure(&mut self, lasted_ms: u64) -> u64 {
        if lasted_ms >= STEADY_MS {
            self.failures = 0;
        }
        self.next(self.min_ms, self.max_ms)
    }

    /// The SMSC does not let this account in.
    pub(crate) fn after_refusal(&mut self) -> u64 {
        self.next(self.min_ms.max(REFUSED_MIN_MS), self.max_ms.max(REFUSED_MAX_MS))
    }

    fn next(&mut self, min_ms: u64, max_ms: u64) -> u64 {
        let step_ms = min_ms.saturating_mul(1 << self.failures.min(20)).min(max_ms);
        self.failures = self.failures.saturating_add(1);
        // SplitMix64: enough to spread clients that were thrown out together.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        step_ms - mixed % (step_ms / 2 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_to_its_bound_and_starts_again_after_a_steady_session() {
        let mut backoff = Backoff::new(1_000, 60_000, 7);
        let mut step_ms = 1_000;
        for _ in 0..12 {
            let wait_ms = backoff.after_failure(0);
            assert!((step_ms / 2..=step_ms).contains(&wait_ms), "{wait_ms} of {step_ms}");
            step_ms = (step_ms * 2).min(60_000);
        }
        assert!(backoff.after_failure(1_000) >= 30_000, "a short session is no success");
        assert!(backoff.after_failure(STEADY_MS) <= 1_000);
        assert_eq!(backoff.failures(), 1);
    }

    #[test]
    fn a_refused_account_waits_long() {
        let mut backoff = Backoff::new(10, 100, 1);
        let waits: Vec<u64> = (0..8).map(|_| backoff.after_refusal()).collect();
        assert!(waits[0] >= 15_000 && waits[7] >= REFUSED_MAX_MS / 2, "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= REFUSED_MAX_MS));
    }

    #[test]
    fn seeds_differ_and_repeat() {
        let waits = |seed| {
            let mut backoff = Backoff::new(1_000, 60_000, seed);
            (0..5).map(|_| backoff.after_failure(0)).collect::<Vec<_>>()
        };
        assert_eq!(waits(3), waits(3));
        assert_ne!(waits(3), waits(4));
    }
}
