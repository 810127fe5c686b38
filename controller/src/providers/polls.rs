//! Which messages a maker is asked about, and when: those that it has taken and told nothing final of, less often as they grow
//! old. Pure.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::account::Provider;
use super::references::Known;

/// The first question, where the maker calls back and where it does not.
const FIRST_MS: u64 = 20_000;
const FIRST_WITH_CALLBACKS_MS: u64 = 600_000;
const PAUSE_MS_MAX: u64 = 3_600_000;
/// Nothing changes after that.
const AGE_MS_MAX: u64 = 3 * 86_400_000;

#[derive(Debug)]
pub struct Polls {
    /// `None` for makers that cannot be asked.
    first_ms: Option<u64>,
    open: FxHashMap<Box<str>, Open>,
    /// When, and which.
    order: BTreeSet<(u64, Box<str>)>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    known: Known,
    sent_ms: u64,
    at_ms: u64,
}

impl Polls {
    /// Messages that are asked about; beyond, the oldest are not.
    pub const MAX: usize = 10_000;

    pub(super) fn new(provider: &Provider, reachable: bool) -> Self {
        let capabilities = provider.capabilities();
        let first_ms = match capabilities.callbacks && reachable {
            _ if cfg!(test) => 0,
            true => FIRST_WITH_CALLBACKS_MS,
            false => FIRST_MS,
        };
        Self::with(capabilities.polls.then_some(first_ms))
    }

    /// The first question so long after a message was taken; `None` for makers that cannot be asked.
    pub fn with(first_ms: Option<u64>) -> Self {
        Self { first_ms, open: FxHashMap::default(), order: BTreeSet::new() }
    }

    pub fn sent(&mut self, id: &str, known: Known, now_ms: u64) {
        if let Some(first_ms) = self.first_ms {
            self.put(id, Open { known, sent_ms: now_ms, at_ms: now_ms + first_ms });
        }
    }

    /// From an earlier session.
    pub fn restored(&mut self, id: &str, known: Known, sent_ms: u64, now_ms: u64) {
        if let Some(first_ms) = self.first_ms.filter(|_| !self.open.contains_key(id)) {
            self.put(id, Open { known, sent_ms, at_ms: (sent_ms + first_ms).max(now_ms) });
        }
    }

    pub fn known(&self, id: &str) -> Option<Known> {
        self.open.get(id).map(|open| open.known)
    }

    /// False when it was not open.
    pub fn settle(&mut self, id: &str) -> bool {
        let open = self.open.remove(id);
        open.is_some_and(|open| self.order.remove(&(open.at_ms, id.into())))
    }

    /// Those to ask about now, `max` at most; each comes again later unless it is settled.
    pub fn due(&mut self, max: usize, now_ms: u64) -> Vec<Box<str>> {
        let due = self.order.iter().take_while(|(at_ms, _)| *at_ms <= now_ms).take(max);
        let due: Vec<Box<str>> = due.map(|(_, id)| id.clone()).collect();
        for id in &due {
            let Some(open) = self.open.remove(id) else { continue };
            self.order.remove(&(open.at_ms, id.clone()));
            let age_ms = now_ms.saturating_sub(open.sent_ms);
            if age_ms < AGE_MS_MAX {
                let pause_ms = (age_ms / 2).clamp(FIRST_MS, PAUSE_MS_MAX);
                self.put(id, Open { at_ms: now_ms + pause_ms, ..open });
            }
        }
        due
    }

    fn put(&mut self, id: &str, open: Open) {
        if let Some(former) = self.open.insert(id.into(), open) {
            self.order.remove(&(former.at_ms, id.into()));
        }
        self.order.insert((open.at_ms, id.into()));
        if self.open.len() > Self::MAX {
            let oldest = self.open.iter().min_by_key(|(_, open)| open.sent_ms).map(|(id, _)| id.clone());
            if let Some(id) = oldest {
                self.settle(&id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::id::MessageId;
    use flotilla_protocol::wire::Attempt;

    use super::*;

    fn known(n: u64) -> Known {
        Known {
            attempt: Attempt { message: MessageId::new(n, [1; 10]), number: 1 },
            segments: 1,
            segment: None,
            to: None,
        }
    }

    #[test]
    fn the_older_the_less_often_and_never_after_it_is_settled() {
        let mut polls = Polls::with(Some(FIRST_MS));
        polls.sent("a", known(1), 0);
        let mut asked = Vec::new();
        for now_ms in (0..4 * 86_400_000).step_by(10_000) {
            for _ in polls.due(100, now_ms) {
                asked.push(now_ms);
            }
        }
        assert_eq!(asked[..4], [20_000, 40_000, 60_000, 90_000]);
        let last = asked.last().copied().unwrap();
        assert!((AGE_MS_MAX..AGE_MS_MAX + PAUSE_MS_MAX).contains(&last), "{last}");
        assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= PAUSE_MS_MAX + 10_000));
        polls.sent("b", known(2), 0);
        assert!(polls.settle("b") && !polls.settle("b") && polls.due(100, u64::MAX / 2).is_empty());
    }

    #[test]
    fn a_question_is_bounded_and_so_is_what_is_open() {
        let mut polls = Polls::with(Some(0));
        for n in 0..Polls::MAX as u64 + 5 {
            polls.sent(&n.to_string(), known(n), n);
        }
        assert_eq!(polls.open.len(), Polls::MAX);
        assert_eq!(polls.order.len(), Polls::MAX);
        assert_eq!(polls.known("0"), None, "the oldest has gone");
        assert_eq!(polls.due(100, 1_000_000).len(), 100);
        let mut none = Polls::with(None);
        none.sent("a", known(1), 0);
        assert!(none.due(100, u64::MAX / 2).is_empty());
    }
}
