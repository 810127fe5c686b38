//! A limit of submits in any second, exact: SMSCs count the same way and throttle who is over.

use std::collections::VecDeque;

const SECOND_MS: u64 = 1_000;

#[derive(Clone, Debug)]
pub(crate) struct Rate {
    /// None: unlimited.
    per_s: Option<usize>,
    /// When the last `per_s` went out.
    sent_ms: VecDeque<u64>,
}

impl Rate {
    pub(crate) fn new(per_s: Option<u32>) -> Self {
        Self { per_s: per_s.map(|per_s| per_s.max(1) as usize), sent_ms: VecDeque::new() }
    }

    /// When the next may go.
    pub(crate) fn ready_at(&self) -> u64 {
        match (self.per_s, self.sent_ms.front()) {
            (Some(per_s), Some(first)) if self.sent_ms.len() >= per_s => first + SECOND_MS,
            _ => 0,
        }
    }

    pub(crate) fn take(&mut self, now_ms: u64) {
        let Some(per_s) = self.per_s else { return };
        if self.sent_ms.len() >= per_s {
            self.sent_ms.pop_front();
        }
        self.sent_ms.push_back(now_ms);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]

        #[test]
        fn no_second_has_more(per_s in 1u32..50, steps in prop::collection::vec(0u64..200, 1..400)) {
            let mut rate = Rate::new(Some(per_s));
            let (mut now, mut sent) = (10_000, Vec::new());
            for step in steps {
                now += step;
                while rate.ready_at() <= now && sent.len() < 2_000 {
                    rate.take(now);
                    sent.push(now);
                }
            }
            for (index, at) in sent.iter().enumerate() {
                let in_second = sent[index..].iter().take_while(|other| **other < at + SECOND_MS).count();
                prop_assert!(in_second <= per_s as usize);
            }
        }
    }

    #[test]
    fn unlimited() {
        let mut rate = Rate::new(None);
        (0..10_000).for_each(|_| rate.take(5));
        assert_eq!(rate.ready_at(), 0);
    }
}
