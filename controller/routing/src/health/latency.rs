//! How long something takes, lately: a histogram on a logarithmic scale that forgets by halves.
//!
//! Two buckets an octave from 64 ms to three days: a quantile is the middle of its bucket, within a quarter of the value at
//! that rank. When `MAX` values are in it all counts are halved, so an old value weighs half as much as one `MAX / 2` later.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Below it everything is the same.
const FIRST_MS: u64 = 64;
const FIRST_OCTAVE: u32 = FIRST_MS.ilog2();
const BUCKETS: usize = 46;

/// Memory of at most `MAX` values, 1 to 255.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Latency<const MAX: u16> {
    counts: [u8; BUCKETS],
    total: u16,
}

impl<const MAX: u16> Default for Latency<MAX> {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

fn bucket_of(took_ms: u64) -> usize {
    if took_ms < FIRST_MS {
        return 0;
    }
    let octave = took_ms.ilog2();
    let upper_half = (took_ms >> (octave - 1)) & 1;
    (1 + 2 * u64::from(octave - FIRST_OCTAVE) + upper_half).min(BUCKETS as u64 - 1) as usize
}

fn middle_of(bucket: usize) -> u64 {
    if bucket == 0 {
        return FIRST_MS / 2;
    }
    let (octave, half) = ((bucket as u64 - 1) / 2, (bucket as u64 - 1) % 2);
    let width = (FIRST_MS << octave) / 2;
    (FIRST_MS << octave) + half * width + width / 2
}

impl<const MAX: u16> Latency<MAX> {
    pub(crate) fn record(&mut self, took_ms: u64) {
        self.counts[bucket_of(took_ms)] += 1;
        self.total += 1;
        if self.total >= MAX {
            self.counts.iter_mut().for_each(|count| *count /= 2);
            self.total = self.counts.iter().map(|count| u16::from(*count)).sum();
        }
    }

    pub(crate) fn count(&self) -> u16 {
        self.total
    }

    /// The value that so many percent are not above.
    pub(crate) fn quantile(&self, percent: u32) -> Option<u64> {
        let rank = (u32::from(self.total) * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += u32::from(*count);
            seen >= rank
        });
        bucket.map(middle_of)
    }
}

/// As the buckets that hold something.
impl<const MAX: u16> Serialize for Latency<MAX> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let used: Vec<(u8, u8)> =
            self.counts.iter().zip(0u8..).filter(|(n, _)| **n > 0).map(|(n, at)| (at, *n)).collect();
        used.serialize(serializer)
    }
}

impl<'de, const MAX: u16> Deserialize<'de> for Latency<MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut latency = Self::default();
        for (at, count) in Vec::<(u8, u8)>::deserialize(deserializer)? {
            let slot = latency.counts.get_mut(usize::from(at)).ok_or_else(|| D::Error::custom("no such bucket"))?;
            *slot = count;
        }
        latency.total = latency.counts.iter().map(|count| u16::from(*count)).sum();
        if latency.total >= MAX {
            return Err(D::Error::custom("more latencies than are kept"));
        }
        Ok(latency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_and_hold_their_middle() {
        let mut last = 0;
        for took_ms in 0..100_000u64 {
            let bucket = bucket_of(took_ms);
            assert!(bucket == last || bucket == last + 1, "{took_ms} ms");
            last = bucket;
        }
        for bucket in 0..BUCKETS {
            assert_eq!(bucket_of(middle_of(bucket)), bucket);
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert!(middle_of(BUCKETS - 1) > 3 * 86_400_000 / 2, "three days are told from one");
    }

    #[test]
    fn what_is_old_is_forgotten() {
        let mut latency = Latency::<32>::default();
        assert_eq!(latency.quantile(50), None);
        (0..1_000).for_each(|_| latency.record(1_000));
        assert_eq!(latency.quantile(50), Some(896));
        (0..32).for_each(|_| latency.record(60_000));
        assert_eq!(latency.quantile(50), Some(57_344));
        (0..100).for_each(|_| latency.record(1_000));
        assert_eq!(latency.quantile(95), Some(896));
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_quarter_of_the_value_at_its_rank(
            mut values in proptest::collection::vec(64u64..200_000_000, 1..100),
            percent in 1u32..=100,
        ) {
            let mut latency = Latency::<255>::default();
            values.iter().for_each(|value| latency.record(*value));
            values.sort_unstable();
            let rank = (values.len() as u32 * percent).div_ceil(100).max(1);
            let exact = values[rank as usize - 1] as f64;
            let told = latency.quantile(percent).unwrap() as f64;
            prop_assert!((told - exact).abs() <= 0.251 * exact, "{told} for {exact}");
        }

        #[test]
        fn stored_and_read_it_is_the_same(values in proptest::collection::vec(any::<u64>(), 0..100)) {
            let mut latency = Latency::<64>::default();
            values.iter().for_each(|value| latency.record(*value));
            let bytes = postcard::to_stdvec(&latency).unwrap();
            prop_assert_eq!(postcard::from_bytes::<Latency<64>>(&bytes).unwrap(), latency);
        }
    }
}
