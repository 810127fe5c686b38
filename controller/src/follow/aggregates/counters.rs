//! What is counted, and one row of it: counters and two latency histograms, with the journal sequence up to which it is
//! complete. The bytes of a row are a disk format: numbers are never reused.

use super::histogram::Histogram;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $field:ident;)*) => {
        /// One thing that is counted. The number is its bit in a stored row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Counter {
            $($(#[$doc])* $name = $number,)*
        }

        impl Counter {
            pub const ALL: [Self; COUNTERS] = [$(Self::$name),*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($field),)*
                }
            }
        }

        /// How many counters there are.
        pub const COUNTERS: usize = [$($number),*].len();
    };
}

counters! {
    Accepted = 0, accepted;
    SegmentsAccepted = 1, segments_accepted;
    /// Of the accepted: those whose time was yet to come.
    Scheduled = 2, scheduled;
    /// Scheduled messages whose time has come.
    Due = 3, due;
    /// Attempts: each dispatch of a message to a route.
    Dispatched = 4, dispatched;
    /// Attempts that ended without the message reaching the network.
    Returned = 5, returned;
    /// Times that an attempt came into doubt, or that its doubt became final.
    Doubted = 6, doubted;
    Sent = 7, sent;
    SegmentsSent = 8, segments_sent;
    /// Delivery reports, one per segment.
    SegmentsDelivered = 9, segments_delivered;
    Delivered = 10, delivered;
    Failed = 11, failed;
    Expired = 12, expired;
    Cancelled = 13, cancelled;
    Inbound = 14, inbound;
    /// What segments have cost that left, or may have: millionths of the tenant's currency.
    Cost = 15, cost;
}

/// A time that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Latency {
    AcceptToSent = 0,
    SentToDelivered = 1,
}

/// Sums over some messages.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    counters: [u64; COUNTERS],
    latencies: [Histogram; 2],
}

impl Counts {
    pub fn get(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    pub fn latency(&self, latency: Latency) -> &Histogram {
        &self.latencies[latency as usize]
    }

    pub fn count(&mut self, counter: Counter, n: u64) {
        self.counters[counter as usize] += n;
    }

    pub fn measure(&mut self, latency: Latency, value_ms: u64) {
        self.latencies[latency as usize].record(value_ms, 1);
    }

    /// Words of memory beyond its own size.
    pub(super) fn heap_words(&self) -> usize {
        self.latencies.iter().map(Histogram::len).sum()
    }

    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.counters.iter_mut().zip(&other.counters) {
            *mine += theirs;
        }
        for (mine, theirs) in self.latencies.iter_mut().zip(&other.latencies) {
            mine.merge(theirs);
        }
    }
}

const FORMAT: u8 = 1;

/// A stored row's bytes are not what this program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a row of the aggregates can not be read")]
pub(super) struct RowError;

/// Format, sequence, one bit per filled counter, their values, then both histograms: number of buckets, bucket and count
/// of each. All numbers after the format are LEB128.
pub(super) fn encode_row(seq: u64, counts: &Counts, out: &mut Vec<u8>) {
    out.push(FORMAT);
    put(out, seq);
    let filled = |n: &(usize, &u64)| *n.1 > 0;
    let mask = counts.counters.iter().enumerate().filter(filled).fold(0, |mask, (i, _)| mask | 1u64 << i);
    put(out, mask);
    counts.counters.iter().filter(|n| **n > 0).for_each(|n| put(out, *n));
    for histogram in &counts.latencies {
        put(out, histogram.len() as u64);
        for (bucket, n) in histogram.buckets() {
            out.push(bucket);
            put(out, n);
        }
    }
}

pub(super) fn decode_row(bytes: &[u8]) -> Result<(u64, Counts), RowError> {
    let (&FORMAT, mut rest) = bytes.split_first().ok_or(RowError)? else { return Err(RowError) };
    let input = &mut rest;
    let seq = take(input)?;
    let mask = take(input)?;
    if mask >> COUNTERS != 0 {
        return Err(RowError);
    }
    let mut counts = Counts::default();
    for (i, counter) in counts.counters.iter_mut().enumerate() {
        if mask & (1 << i) != 0 {
            *counter = take(input)?;
        }
    }
    for histogram in &mut counts.latencies {
        let len = take(input)?;
        // A bucket takes two bytes or more, so a wrong length ends here and not in an allocation.
        if len > input.len() as u64 / 2 {
            return Err(RowError);
        }
        let mut buckets = Vec::with_capacity(len as usize);
        for _ in 0..len {
            let (&bucket, after) = input.split_first().ok_or(RowError)?;
            *input = after;
            buckets.push((bucket, take(input)?));
        }
        *histogram = Histogram::from_buckets(buckets).ok_or(RowError)?;
    }
    if input.is_empty() { Ok((seq, counts)) } else { Err(RowError) }
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(input: &mut &[u8]) -> Result<u64, RowError> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or(RowError)?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(RowError);
        }
        value |= bits << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(RowError)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn arbitrary() -> impl Strategy<Value = (u64, Counts)> {
        let counters = prop::collection::vec((0..COUNTERS, any::<u32>()), 0..8);
        let latencies = prop::collection::vec((any::<bool>(), 0u64..700_000_000), 0..20);
        (any::<u64>(), counters, latencies).prop_map(|(seq, counters, latencies)| {
            let mut counts = Counts::default();
            for (i, n) in counters {
                counts.count(Counter::ALL[i], u64::from(n));
            }
            for (first, value) in latencies {
                counts.measure(if first { Latency::AcceptToSent } else { Latency::SentToDelivered }, value);
            }
            (seq, counts)
        })
    }

    proptest! {
        #[test]
        fn a_row_comes_back((seq, counts) in arbitrary()) {
            let mut bytes = Vec::new();
            encode_row(seq, &counts, &mut bytes);
            prop_assert_eq!(decode_row(&bytes), Ok((seq, counts)));
            prop_assert_eq!(decode_row(&bytes[..bytes.len() - 1]), Err(RowError));
        }

        #[test]
        fn hostile_bytes_are_refused_or_read(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode_row(&bytes);
            let mut with_format = vec![FORMAT];
            with_format.extend(bytes);
            let _ = decode_row(&with_format);
        }
    }

    #[test]
    fn golden_bytes() {
        let mut counts = Counts::default();
        counts.count(Counter::Accepted, 3);
        counts.count(Counter::Delivered, 300);
        counts.measure(Latency::AcceptToSent, 1_000);
        let mut bytes = Vec::new();
        encode_row(5, &counts, &mut bytes);
        assert_eq!(bytes, [1, 5, 0x81, 0x08, 3, 0xac, 0x02, 1, 63, 1, 0], "rows on disk are read by these numbers");
    }

    #[test]
    fn numbers_are_places() {
        for (i, counter) in Counter::ALL.into_iter().enumerate() {
            assert_eq!(counter as usize, i);
        }
    }
}
