//! Which messages have left memory while the store was being read. What a read brings of them is older than what memory
//! had, so it must not come back; what a later read brings is fresh.

use std::collections::{BTreeSet, VecDeque};

use flotilla_protocol::id::MessageId;
use rustc_hash::FxHashMap;

#[derive(Debug, Default)]
pub(super) struct Absent {
    /// Counts reads.
    clock: u64,
    /// Reads under way.
    reads: BTreeSet<u64>,
    /// The last read that had begun when a message left.
    left: FxHashMap<MessageId, u64>,
    /// The same, the earliest first; forgotten as soon as no read is as old.
    order: VecDeque<(u64, MessageId)>,
}

/// A read of the store under way.
#[derive(Debug)]
pub(super) struct Read(u64);

impl Absent {
    pub(super) fn begin(&mut self) -> Read {
        self.clock += 1;
        self.reads.insert(self.clock);
        Read(self.clock)
    }

    pub(super) fn end(&mut self, read: &Read) {
        self.reads.remove(&read.0);
        let oldest = self.reads.first().copied().unwrap_or(u64::MAX);
        while let Some((at, message)) = self.order.front().copied().filter(|(at, _)| *at < oldest) {
            self.order.pop_front();
            if self.left.get(&message) == Some(&at) {
                self.left.remove(&message);
            }
        }
    }

    /// A message leaves memory.
    pub(super) fn note(&mut self, message: MessageId) {
        if !self.reads.is_empty() {
            self.left.insert(message, self.clock);
            self.order.push_back((self.clock, message));
        }
    }

    /// Whether a message has left memory since a read began.
    pub(super) fn left_since(&self, read: &Read, message: MessageId) -> bool {
        self.left.get(&message).is_some_and(|at| *at >= read.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_read_sees_what_left_since_it_began_and_nothing_is_kept_for_ever() {
        let message = |n: u8| MessageId::from_bytes([n; 16]);
        let mut absent = Absent::default();
        absent.note(message(0));
        let mut reads = VecDeque::new();
        for n in 1..100 {
            reads.push_back((n, absent.begin()));
            absent.note(message(n));
            if reads.len() == 3 {
                let (first, read) = reads.pop_front().unwrap();
                for m in 0..=n {
                    assert_eq!(absent.left_since(&read, message(m)), m >= first, "{m} since {first}");
                }
                absent.end(&read);
            }
            assert!(absent.left.len() <= 3 && absent.order.len() <= 3);
        }
        for (_, read) in reads {
            absent.end(&read);
        }
        assert!(absent.left.is_empty() && absent.order.is_empty());
    }
}
