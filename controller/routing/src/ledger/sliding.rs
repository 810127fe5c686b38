//! Segments of a sliding window: sixty slots, and one more, because a slot that is partly inside the window counts whole.
//!
//! Counting whole slots makes the count an upper bound of what the exact window holds, so a limit is never passed; room comes
//! back at most one slot later than it could.
//!
//! A charge may be dated ahead, by [`AHEAD_MS`] at most: when segments may leave until then and nobody will tell. So more
//! slots are kept than the window has: what is dated ahead must not push out what the window still holds.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How far a charge may be dated after the event that tells it.
pub const AHEAD_MS: u64 = 64_000;

/// Slots that a window covers, and the one that it is leaving.
const COVERED: u64 = WINDOW + 1;
const WINDOW: u64 = 60;

pub(crate) type Minute = Sliding<1_000, { kept(1_000) }>;
pub(crate) type Hour = Sliding<60_000, { kept(60_000) }>;

/// Slots that are kept: those of a window, and those that charges may be ahead of it.
const fn kept(slot_ms: u64) -> usize {
    (COVERED + AHEAD_MS.div_ceil(slot_ms)) as usize
}

/// The newest slots of `SLOT_MS` milliseconds each. Nothing is allocated before the first charge.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sliding<const SLOT_MS: u64, const KEPT: usize> {
    ring: Option<Box<Ring<KEPT>>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ring<const KEPT: usize> {
    /// The newest slot, counted from the Unix epoch.
    newest: u64,
    /// By slot number modulo `KEPT`.
    counts: [u32; KEPT],
}

impl<const KEPT: usize> Ring<KEPT> {
    fn at(&self, slot: u64) -> u32 {
        self.counts[(slot % KEPT as u64) as usize]
    }

    /// The oldest slot that is kept.
    fn oldest(&self) -> u64 {
        (self.newest + 1).saturating_sub(KEPT as u64)
    }

    /// Slots from this one on which are kept, the oldest first.
    fn since(&self, slot: u64) -> impl Iterator<Item = u64> + use<KEPT> {
        slot.max(self.oldest())..=self.newest
    }

    fn sum_since(&self, slot: u64) -> u64 {
        self.since(slot).map(|slot| u64::from(self.at(slot))).sum()
    }
}

impl<const SLOT_MS: u64, const KEPT: usize> Sliding<SLOT_MS, KEPT> {
    pub(crate) const EMPTY: Self = Self { ring: None };

    /// Charges that are older than everything kept count in the oldest slot. They are outside the window by then, or the clock
    /// went back, and then they must not be lost.
    pub(crate) fn add(&mut self, at_ms: u64, segments: u32) {
        let slot = at_ms / SLOT_MS;
        let ring = self.ring.get_or_insert_with(|| Box::new(Ring { newest: slot, counts: [0; KEPT] }));
        if slot > ring.newest {
            let cleared = (slot - ring.newest).min(KEPT as u64);
            for passed in slot + 1 - cleared..=slot {
                ring.counts[(passed % KEPT as u64) as usize] = 0;
            }
            ring.newest = slot;
        }
        let slot = slot.max(ring.oldest());
        let count = &mut ring.counts[(slot % KEPT as u64) as usize];
        *count = count.saturating_add(segments);
    }

    /// Segments of the window that ends at this time. What is dated after it counts as well: a clock may have gone back.
    pub(crate) fn used(&self, now_ms: u64) -> u32 {
        let used = self.ring.as_ref().map_or(0, |ring| ring.sum_since(first_inside::<SLOT_MS>(now_ms)));
        u32::try_from(used).unwrap_or(u32::MAX)
    }

    /// The first time, from now on, at which no more than `allowed` segments are in the window, if nothing is added.
    pub(crate) fn free_at(&self, now_ms: u64, allowed: u32) -> u64 {
        let Some(ring) = &self.ring else { return now_ms };
        let first = first_inside::<SLOT_MS>(now_ms);
        let mut used = ring.sum_since(first);
        if used <= u64::from(allowed) {
            return now_ms;
        }
        let last = ring.since(first).find(|slot| {
            used -= u64::from(ring.at(*slot));
            used <= u64::from(allowed)
        });
        // The window has left a slot when it has left its last millisecond.
        (last.unwrap_or(ring.newest) + COVERED) * SLOT_MS - 1
    }

    /// Drops everything when the newest charge is older than this.
    pub(crate) fn forget_before(&mut self, at_ms: u64) {
        if self.ring.as_ref().is_some_and(|ring| (ring.newest + 1) * SLOT_MS <= at_ms) {
            self.ring = None;
        }
    }
}

/// The oldest slot with a millisecond in the window `(now - 60 slots, now]`.
fn first_inside<const SLOT_MS: u64>(now_ms: u64) -> u64 {
    (now_ms + 1).saturating_sub(WINDOW * SLOT_MS) / SLOT_MS
}

/// The newest slot, and the slots that hold something: how many slots back, and how many segments.
#[derive(Serialize, Deserialize)]
struct Stored {
    newest: u64,
    slots: Vec<(u8, u32)>,
}

impl<const SLOT_MS: u64, const KEPT: usize> Serialize for Sliding<SLOT_MS, KEPT> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let stored = self.ring.as_ref().map(|ring| Stored {
            newest: ring.newest,
            slots: ring
                .since(0)
                .filter(|slot| ring.at(*slot) > 0)
                .map(|slot| ((ring.newest - slot) as u8, ring.at(slot)))
                .collect(),
        });
        stored.serialize(serializer)
    }
}

impl<'de, const SLOT_MS: u64, const KEPT: usize> Deserialize<'de> for Sliding<SLOT_MS, KEPT> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Some(stored) = Option::<Stored>::deserialize(deserializer)? else { return Ok(Self::EMPTY) };
        if stored.newest > u64::MAX / SLOT_MS - KEPT as u64 {
            return Err(D::Error::custom("a slot beyond all times"));
        }
        let mut ring = Ring { newest: stored.newest, counts: [0; KEPT] };
        for (back, segments) in stored.slots {
            let slot = ring.newest.checked_sub(u64::from(back)).filter(|_| usize::from(back) < KEPT);
            let slot = slot.ok_or_else(|| D::Error::custom("a slot outside of its window"))?;
            ring.counts[(slot % KEPT as u64) as usize] = segments;
        }
        Ok(Self { ring: Some(Box::new(ring)) })
    }
}
