//! Which messages have left memory while the store was being read. What a read brings of them is older than what memory
//! had, so it must not come back.
//!
//! Kept in two generations, so that it stays small under reads that overlap without end: a generation is dropped when the
//! reads that began in it or before it have all returned.

use flotilla_protocol::id::MessageId;
use rustc_hash::FxHashSet;

#[derive(Debug, Default)]
pub(super) struct Absent {
    current: FxHashSet<MessageId>,
    previous: FxHashSet<MessageId>,
    /// Reads under way, by the parity of the generation in which they began.
    reads: [u32; 2],
    parity: usize,
}

/// A read of the store under way.
#[derive(Debug)]
pub(super) struct Read {
    parity: usize,
}

impl Absent {
    pub(super) fn begin(&mut self) -> Read {
        if self.reads[1 - self.parity] == 0 {
            self.previous = std::mem::take(&mut self.current);
            self.parity = 1 - self.parity;
        }
        self.reads[self.parity] += 1;
        Read { parity: self.parity }
    }

    pub(super) fn end(&mut self, read: &Read) {
        self.reads[read.parity] -= 1;
        if self.reads == [0, 0] {
            self.current.clear();
            self.previous.clear();
        }
    }

    /// A message leaves memory.
    pub(super) fn note(&mut self, message: MessageId) {
        if self.reads != [0, 0] {
            self.current.insert(message);
        }
    }

    pub(super) fn contains(&self, message: MessageId) -> bool {
        self.current.contains(&message) || self.previous.contains(&message)
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
        assert!(!absent.contains(message(0)));
        let mut reads = std::collections::VecDeque::new();
        for n in 1..100 {
            reads.push_back((n, absent.begin()));
            absent.note(message(n));
            if reads.len() == 3 {
                let (first, read) = reads.pop_front().unwrap();
                assert!((first..=n).all(|n| absent.contains(message(n))));
                absent.end(&read);
            }
            assert!(absent.current.len() + absent.previous.len() < 10);
        }
        for (_, read) in reads {
            absent.end(&read);
        }
        assert!(!absent.contains(message(99)));
    }
}
