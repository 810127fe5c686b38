//! Parts of long texts, of makers that report each part and not the message.
//!
//! A maker may cut a text into another number of parts than was planned. Each part speaks for its segment; the last one for all
//! that are left where there are fewer parts, and where there are more, the last segment waits for all parts that are left. Those
//! are counted in memory: after a restart in the middle of them a message stays sent and is not said to be delivered.

use std::collections::VecDeque;
use std::ops::Range;

use flotilla_protocol::wire::Attempt;
use rustc_hash::{FxHashMap, FxHashSet};

/// Messages whose last parts are counted.
const COUNTED_MAX: usize = 10_000;

/// A part, and of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// From 0.
    pub(super) number: u8,
    pub(super) parts: u8,
}

#[derive(Debug, Default)]
pub(super) struct Parts {
    last: FxHashMap<Attempt, FxHashSet<u8>>,
    order: VecDeque<Attempt>,
}

impl Parts {
    /// A part was delivered: the segments of the message that were by that.
    pub(super) fn delivered(&mut self, attempt: Attempt, part: Part, segments: u8) -> Range<u8> {
        let Part { number, parts } = part;
        let last = segments.saturating_sub(1);
        if number >= parts || number < last.min(parts.saturating_sub(1)) {
            return number..number.saturating_add(u8::from(number < parts));
        }
        if parts <= segments {
            return number..segments;
        }
        let counted = self.counted(attempt);
        counted.insert(number);
        if counted.len() == usize::from(parts - last) { last..segments } else { 0..0 }
    }

    fn counted(&mut self, attempt: Attempt) -> &mut FxHashSet<u8> {
        if !self.last.contains_key(&attempt) {
            self.order.push_back(attempt);
            if self.order.len() > COUNTED_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.last.remove(&oldest);
            }
        }
        self.last.entry(attempt).or_default()
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::id::MessageId;
    use proptest::prelude::*;

    use super::*;

    fn attempt(number: u16) -> Attempt {
        Attempt { message: MessageId::new(1, [1; 10]), number }
    }

    #[test]
    fn parts_speak_for_their_segments() {
        let mut parts = Parts::default();
        let mut told = |parts_of: u8, segments: u8, number: u8| {
            parts.delivered(attempt(u16::from(parts_of)), Part { number, parts: parts_of }, segments)
        };
        assert_eq!([told(3, 3, 0), told(3, 3, 2), told(3, 3, 1)], [0..1, 2..3, 1..2]);
        assert_eq!([told(2, 3, 1), told(2, 3, 0)], [1..3, 0..1], "fewer than planned");
        assert_eq!([told(4, 2, 2), told(4, 2, 0), told(4, 2, 2), told(4, 2, 1)], [0..0, 0..1, 0..0, 0..0]);
        assert_eq!(told(4, 2, 3), 1..2, "more than planned: the last one completes it");
        assert_eq!([told(5, 1, 0), told(5, 1, 1)], [0..0, 0..0]);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        #[test]
        fn all_segments_when_all_parts_and_not_before(
            segments in 1u8..12,
            order in (1u8..12).prop_flat_map(|parts| Just((0..parts).collect::<Vec<_>>()).prop_shuffle()),
        ) {
            let mut state = Parts::default();
            let mut seen = FxHashSet::default();
            for (place, number) in order.iter().enumerate() {
                let part = Part { number: *number, parts: order.len() as u8 };
                seen.extend(state.delivered(attempt(1), part, segments));
                let all = place + 1 == order.len();
                prop_assert_eq!(seen.len() == usize::from(segments), all, "{:?} of {}", seen, segments);
            }
        }
    }

    #[test]
    fn bounded() {
        let mut parts = Parts::default();
        for number in 0..12_000 {
            parts.delivered(attempt(number), Part { number: 1, parts: 2 }, 1);
        }
        assert_eq!((parts.last.len(), parts.order.len()), (COUNTED_MAX, COUNTED_MAX));
    }
}
