//! Latency histograms on a fixed logarithmic scale: the same buckets in every row, for ever, so that histograms add up over
//! time, devices and rebuilds without loss.
//!
//! Each octave has eight buckets (three significant bits). A quantile is the middle of its bucket, which is within 1/16
//! (6.25 %) of the value at that rank; below 16 ms it is exact. Anything above seven days counts as seven days.

/// Seven days: what is above is counted as this.
pub const LATENCY_MAX_MS: u64 = 7 * 24 * 3_600 * 1_000;

const SUB_BITS: u32 = 3;
const SUB: u64 = 1 << SUB_BITS;

/// Buckets that hold something, by index. Half of a busy row's memory is here, so a bucket is one word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    buckets: Vec<Bucket>,
}

/// Index in the upper 8 bits, count in the lower 56.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bucket(u64);

const COUNT_BITS: u32 = 56;
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

impl Bucket {
    const fn new(index: u8, count: u64) -> Self {
        Self(((index as u64) << COUNT_BITS) | count)
    }

    const fn index(self) -> u8 {
        (self.0 >> COUNT_BITS) as u8
    }

    const fn count(self) -> u64 {
        self.0 & COUNT_MAX
    }
}

impl Histogram {
    pub fn record(&mut self, value_ms: u64, n: u64) {
        self.add(bucket_of(value_ms), n);
    }

    pub fn merge(&mut self, other: &Self) {
        for bucket in &other.buckets {
            self.add(bucket.index(), bucket.count());
        }
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.count()).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The value at rank `ceil(q * count)`, q in 0..=1. None when nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "a rank is far below 2^52, and clamped"
        )]
        let rank = ((q * count as f64).ceil() as u64).clamp(1, count);
        let mut seen = 0;
        for bucket in &self.buckets {
            seen += bucket.count();
            if seen >= rank {
                return Some(middle_of(bucket.index()));
            }
        }
        None
    }

    /// How many buckets are filled.
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Filled buckets in ascending order: index and count.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (u8, u64)> {
        self.buckets.iter().map(|bucket| (bucket.index(), bucket.count()))
    }

    /// From what `buckets` gave; None when it is no ascending list of filled buckets.
    pub(super) fn from_buckets(buckets: Vec<(u8, u64)>) -> Option<Self> {
        let ascending = buckets.windows(2).all(|pair| pair[0].0 < pair[1].0);
        let filled = |(index, n): &(u8, u64)| *index <= bucket_of(LATENCY_MAX_MS) && (1..=COUNT_MAX).contains(n);
        let fine = ascending && buckets.iter().all(filled);
        fine.then(|| Self { buckets: buckets.into_iter().map(|(index, n)| Bucket::new(index, n)).collect() })
    }

    fn add(&mut self, index: u8, n: u64) {
        match self.buckets.binary_search_by_key(&index, |bucket| bucket.index()) {
            Ok(i) => self.buckets[i] = Bucket::new(index, (self.buckets[i].count() + n).min(COUNT_MAX)),
            Err(_) if n == 0 => {}
            Err(i) => {
                if self.buckets.len() == self.buckets.capacity() {
                    // Doubling would waste as much as is used.
                    self.buckets.reserve_exact(8);
                }
                self.buckets.insert(i, Bucket::new(index, n.min(COUNT_MAX)));
            }
        }
    }
}

fn bucket_of(value_ms: u64) -> u8 {
    let value = value_ms.min(LATENCY_MAX_MS);
    if value < SUB {
        return value as u8;
    }
    let shift = value.ilog2() - SUB_BITS;
    (SUB + u64::from(shift) * SUB + ((value >> shift) & (SUB - 1))) as u8
}

fn middle_of(bucket: u8) -> u64 {
    let bucket = u64::from(bucket);
    if bucket < SUB {
        return bucket;
    }
    let shift = (bucket - SUB) / SUB;
    let low = (SUB + (bucket - SUB) % SUB) << shift;
    (low + (1 << shift) / 2).min(LATENCY_MAX_MS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_scale_is_fixed() {
        let scale: Vec<u8> = [0, 7, 8, 15, 16, 17, 18, 1_000, 60_000, LATENCY_MAX_MS].map(bucket_of).into();
        assert_eq!(scale, [0, 7, 8, 15, 16, 16, 17, 63, 110, 217], "stored rows depend on these numbers");
        assert_eq!(bucket_of(u64::MAX), bucket_of(LATENCY_MAX_MS));
    }

    #[test]
    fn small_values_are_exact_and_nothing_is_no_value() {
        for value in 0..16 {
            assert_eq!(middle_of(bucket_of(value)), value);
        }
        assert_eq!(Histogram::default().quantile(0.5), None);
    }

    #[test]
    fn stored_buckets_are_checked() {
        assert!(Histogram::from_buckets(vec![(1, 1), (2, 5)]).is_some());
        for wrong in [vec![(2, 1), (1, 1)], vec![(1, 0)], vec![(1, 1), (1, 1)], vec![(250, 1)]] {
            assert_eq!(Histogram::from_buckets(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn quantiles_are_within_a_sixteenth(mut values in prop::collection::vec(0u64..LATENCY_MAX_MS, 1..200), q in 0.0f64..=1.0) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.record(*value, 1);
            }
            values.sort_unstable();
            let rank = ((q * values.len() as f64).ceil() as usize).clamp(1, values.len());
            let exact = values[rank - 1];
            let told = histogram.quantile(q).unwrap();
            prop_assert!(told.abs_diff(exact) * 16 <= exact, "{told} for {exact}");
            prop_assert_eq!(histogram.count(), values.len() as u64);
        }

        #[test]
        fn merging_is_recording_both(a in prop::collection::vec(0u64..100_000, 0..50), b in prop::collection::vec(0u64..100_000, 0..50)) {
            let of = |values: &[u64]| {
                let mut histogram = Histogram::default();
                values.iter().for_each(|value| histogram.record(*value, 1));
                histogram
            };
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }
    }
}
