//! The score of a route over the last day, a value for each quarter of an hour.

use serde::{Deserialize, Serialize};

pub const SLOT_MS: u64 = 900_000;
/// A day.
pub const SLOTS: usize = 96;

/// Slots without a value had no outcome, and nobody looked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// Number of the slot since 1970, and its last score; the newest last.
    slots: Vec<(u32, u8)>,
}

impl History {
    /// Whether this time is in a slot that has no value, and that none after it has one.
    pub(crate) fn begins_slot(&self, unix_ms: u64) -> bool {
        self.slots.last().is_none_or(|(newest, _)| *newest < slot_of(unix_ms))
    }

    /// The last value of a slot counts. What is older than the newest slot is not kept.
    pub fn note(&mut self, unix_ms: u64, value: u8) {
        let slot = slot_of(unix_ms);
        match self.slots.last_mut() {
            Some((newest, last)) if *newest == slot => *last = value,
            Some((newest, _)) if *newest > slot => {}
            _ => {
                let kept = slot.saturating_add(1).saturating_sub(SLOTS as u32);
                let old = self.slots.partition_point(|(slot, _)| *slot < kept);
                self.slots.drain(..old);
                self.slots.push((slot, value));
            }
        }
    }

    /// When each slot began (Unix ms), and its score; the oldest first.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u8)> + '_ {
        self.slots.iter().map(|(slot, value)| (u64::from(*slot) * SLOT_MS, *value))
    }
}

fn slot_of(unix_ms: u64) -> u32 {
    u32::try_from(unix_ms / SLOT_MS).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_kept_and_the_last_value_of_a_slot() {
        let mut history = History::default();
        for quarter in 0..200u64 {
            assert!(history.begins_slot(quarter * SLOT_MS));
            history.note(quarter * SLOT_MS, 1);
            history.note(quarter * SLOT_MS + SLOT_MS - 1, (quarter % 100) as u8);
            assert!(!history.begins_slot(quarter * SLOT_MS));
        }
        history.note(3 * SLOT_MS, 77);
        let kept: Vec<_> = history.iter().collect();
        assert_eq!(kept.len(), SLOTS);
        assert_eq!((kept[0], kept[SLOTS - 1]), ((104 * SLOT_MS, 4), (199 * SLOT_MS, 99)));
        history.note(1_000 * SLOT_MS, 5);
        assert_eq!(history.iter().collect::<Vec<_>>(), [(1_000 * SLOT_MS, 5)]);
    }
}
