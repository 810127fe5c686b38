//! Recipients, by the hash of their number: how many different ones a month has had, and when each had its last messages.
//!
//! Both are bounded, and beyond the bound they count too much, never too little.

use rustc_hash::FxHashMap;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smallvec::SmallVec;

use super::sliding::AHEAD_MS;
use crate::settings::RecipientLimit;

/// Different recipients of a month that are told apart, for each scope. A limit may not be greater.
pub const RECIPIENTS_MAX: u32 = 1_024;
/// Recipients of a tenant whose messages are followed for its limit by recipient. When so many have had messages inside the
/// window, further ones wait until some leave it.
pub const FOLLOWED_MAX: usize = 1_000_000;
/// Messages of a recipient that are known: the greatest limit there is.
const TIMES_MAX: usize = 100;
/// How long a recipient waits before it is looked at again when too many are followed.
const FULL_RETRY_MS: u64 = 60_000;

/// A set that gives up its members when it is full: from then on each message counts as one to a new recipient. A limit stops
/// a route before that, so only routes without one fill it, and they then need no memory for it.
///
/// A member is a hash already: its place in the table is its highest bits, or the next free one behind that.
#[derive(Clone, Debug, Default)]
pub(super) struct Distinct {
    /// A power of two of places, or none; 0 where nobody is.
    places: Vec<u64>,
    count: u32,
    /// Messages since it was full.
    more: u32,
}

/// So few places are not worth a step between.
const PLACES_MIN: usize = 8;

impl Distinct {
    pub(super) fn add(&mut self, recipient: u64) {
        if self.more > 0 {
            self.more = self.more.saturating_add(1);
        } else if !self.contains(recipient) {
            if self.count < RECIPIENTS_MAX {
                self.insert(recipient);
            } else {
                *self = Self { more: 1, ..Self::default() };
            }
        }
    }

    pub(super) fn count(&self) -> u32 {
        if self.more > 0 { RECIPIENTS_MAX.saturating_add(self.more) } else { self.count }
    }

    pub(super) fn contains(&self, recipient: u64) -> bool {
        self.place(member(recipient)).is_some_and(|place| self.places[place] != 0)
    }

    /// Of one that is not there.
    fn insert(&mut self, recipient: u64) {
        if self.count as usize >= self.places.len() / 8 * 7 {
            let former = std::mem::take(&mut self.places);
            self.places = vec![0; (2 * former.len()).max(PLACES_MIN)];
            former.into_iter().filter(|one| *one != 0).for_each(|one| self.put(one));
        }
        self.put(member(recipient));
        self.count += 1;
    }

    fn put(&mut self, member: u64) {
        if let Some(place) = self.place(member) {
            self.places[place] = member;
        }
    }

    /// Where a member is, or would be: some places are always free. None without places.
    fn place(&self, member: u64) -> Option<usize> {
        let last = self.places.len().checked_sub(1)?;
        let mut place = (member >> (64 - self.places.len().ilog2())) as usize;
        while self.places[place] != 0 && self.places[place] != member {
            place = (place + 1) & last;
        }
        Some(place)
    }

    fn sorted(&self) -> Vec<u64> {
        let mut members: Vec<u64> = self.places.iter().copied().filter(|one| *one != 0).collect();
        members.sort_unstable();
        members
    }
}

/// The hash 0 shares its place with 1: it would look like nobody.
fn member(recipient: u64) -> u64 {
    recipient.max(1)
}

impl PartialEq for Distinct {
    fn eq(&self, other: &Self) -> bool {
        (self.count, self.more) == (other.count, other.more) && self.sorted() == other.sorted()
    }
}

#[derive(Serialize, Deserialize)]
struct StoredDistinct {
    more: u32,
    known: Vec<[u8; 8]>,
}

impl Serialize for Distinct {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let known = self.sorted().iter().map(|recipient| recipient.to_be_bytes()).collect();
        StoredDistinct { more: self.more, known }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Distinct {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = StoredDistinct::deserialize(deserializer)?;
        let known: Vec<u64> = stored.known.into_iter().map(u64::from_be_bytes).collect();
        if known.len() > RECIPIENTS_MAX as usize || !known.is_sorted_by(|a, b| a < b) {
            return Err(D::Error::custom("recipients that are not a sorted set"));
        }
        let mut distinct = Self::default();
        known.into_iter().for_each(|recipient| distinct.add(recipient));
        Ok(Self { more: stored.more, ..distinct })
    }
}

/// When the recipients of a tenant had their last messages, while the tenant has a limit by recipient.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Followed {
    window_s: u32,
    /// Unix seconds, rounded up, in order. Rounding up keeps each a moment longer than it counts.
    times: FxHashMap<u64, Times>,
    /// When lapsed entries were last cleared out because there were too many (Unix seconds).
    cleared_s: u32,
}

type Times = SmallVec<[u32; 2]>;

impl Followed {
    /// `most` recipients are followed, but for those whose messages were on their way already.
    pub(super) fn add(&mut self, recipient: u64, at_ms: u64, window_s: u32, most: usize) {
        self.window_s = window_s;
        if window_s == 0 {
            self.times = FxHashMap::default();
            return;
        }
        let at_s = seconds_up(at_ms);
        // The time is that long ago at least: a charge may be dated ahead.
        let passed_ms = at_ms.saturating_sub(AHEAD_MS);
        if self.times.len() >= most && at_s >= self.cleared_s.saturating_add((FULL_RETRY_MS / 1_000) as u32) {
            self.cleared_s = at_s;
            self.prune(passed_ms);
        }
        let times = self.times.entry(recipient).or_default();
        let at = times.partition_point(|time| *time <= at_s);
        times.insert(at, at_s);
        let passed = times.iter().take_while(|time| lapses_ms(**time, window_s) <= passed_ms).count();
        times.drain(..passed.max(times.len().saturating_sub(TIMES_MAX)).min(times.len() - 1));
    }

    /// Whether this recipient has to wait for another message, with so many on their way to it.
    pub(super) fn until(
        &self,
        recipient: u64,
        limit: RecipientLimit,
        in_flight: u32,
        now_ms: u64,
        most: usize,
    ) -> Wait {
        let messages = usize::from(limit.messages);
        let Some(times) = self.times.get(&recipient) else {
            return match in_flight as usize >= messages {
                true => Wait::InFlight,
                false if self.times.len() >= most => Wait::Until(now_ms + FULL_RETRY_MS),
                false => Wait::No,
            };
        };
        let inside = times.len() - times.partition_point(|time| lapses_ms(*time, limit.window_s) <= now_ms);
        if inside >= messages {
            // So many have to leave the window, the oldest first.
            let leaving = times[times.len() - inside..].get(inside - messages);
            return Wait::Until(leaving.map_or(now_ms, |time| lapses_ms(*time, limit.window_s)));
        }
        if inside + in_flight as usize >= messages { Wait::InFlight } else { Wait::No }
    }

    /// Drops recipients whose last message has left the window. Answers whether any are left.
    pub(super) fn prune(&mut self, now_ms: u64) -> bool {
        let window_s = self.window_s;
        self.times.retain(|_, times| times.last().is_some_and(|last| lapses_ms(*last, window_s) > now_ms));
        if self.times.capacity() > 64 && self.times.len() < self.times.capacity() / 4 {
            self.times.shrink_to_fit();
        }
        !self.times.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.times.len()
    }
}

/// Whether a recipient has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wait {
    No,
    /// Until something on its way has landed, or come back.
    InFlight,
    /// Unix ms.
    Until(u64),
}

/// When a message of this second is outside the window, by the end of that second.
fn lapses_ms(at_s: u32, window_s: u32) -> u64 {
    (u64::from(at_s) + u64::from(window_s)) * 1_000
}

fn seconds_up(at_ms: u64) -> u32 {
    u32::try_from(at_ms.div_ceil(1_000)).unwrap_or(u32::MAX)
}

#[derive(Serialize, Deserialize)]
struct StoredFollowed {
    window_s: u32,
    cleared_s: u32,
    times: Vec<([u8; 8], Times)>,
}

impl Serialize for Followed {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut times: Vec<_> = self.times.iter().map(|(key, times)| (key.to_be_bytes(), times.clone())).collect();
        times.sort_unstable_by_key(|(key, _)| *key);
        StoredFollowed { window_s: self.window_s, cleared_s: self.cleared_s, times }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Followed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let stored = StoredFollowed::deserialize(deserializer)?;
        let valid = |times: &Times| !times.is_empty() && times.len() <= TIMES_MAX && times.is_sorted();
        if !stored.times.iter().all(|(_, times)| valid(times)) {
            return Err(D::Error::custom("times of a recipient that are not in order"));
        }
        let times = stored.times.into_iter().map(|(key, times)| (u64::from_be_bytes(key), times)).collect();
        Ok(Self { window_s: stored.window_s, cleared_s: stored.cleared_s, times })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_772_323_200_000;
    const LIMIT: RecipientLimit = RecipientLimit { messages: 3, window_s: 600 };

    #[test]
    fn when_too_many_are_followed_unknown_ones_wait_and_known_ones_do_not() {
        let mut followed = Followed::default();
        (0..10).for_each(|recipient| followed.add(recipient, NOW_MS, LIMIT.window_s, 10));
        let until = |followed: &Followed, recipient, now_ms| followed.until(recipient, LIMIT, 0, now_ms, 10);
        assert_eq!(until(&followed, 99, NOW_MS), Wait::Until(NOW_MS + 60_000));
        assert_eq!(until(&followed, 5, NOW_MS), Wait::No);
        // One that was on its way counts all the same.
        followed.add(99, NOW_MS, LIMIT.window_s, 10);
        assert_eq!(followed.len(), 11);
        // The window is over: the next charge clears them out.
        let later_ms = NOW_MS + 600_000 + AHEAD_MS;
        followed.add(5, later_ms, LIMIT.window_s, 10);
        assert_eq!((followed.len(), until(&followed, 98, later_ms)), (1, Wait::No));
    }

    proptest::proptest! {
        #[test]
        fn a_set_knows_its_members_as_any_set_does(
            recipients in proptest::collection::vec((0u64..2_000, proptest::bool::ANY), 0..3_000),
        ) {
            let (mut distinct, mut members) = (Distinct::default(), std::collections::BTreeSet::new());
            for (n, hashed) in recipients {
                // Hashes, as they are in charges; and numbers that all want the first places.
                let recipient = if hashed { crate::fact::recipient_hash(n) } else { n + 1 };
                proptest::prop_assert_eq!(distinct.contains(recipient), members.contains(&recipient));
                if members.len() == RECIPIENTS_MAX as usize && !members.contains(&recipient) {
                    distinct.add(recipient);
                    proptest::prop_assert_eq!((distinct.count(), distinct.contains(recipient)), (RECIPIENTS_MAX + 1, false));
                    break;
                }
                distinct.add(recipient);
                members.insert(recipient);
                proptest::prop_assert_eq!(distinct.count() as usize, members.len());
            }
            let stored = StoredDistinct { more: distinct.more, known: distinct.sorted().iter().map(|one| one.to_be_bytes()).collect() };
            let bytes = postcard::to_stdvec(&distinct).unwrap();
            proptest::prop_assert_eq!(&bytes, &postcard::to_stdvec(&stored).unwrap());
            if distinct.more == 0 {
                proptest::prop_assert!(distinct.sorted().iter().eq(members.iter()));
            }
            proptest::prop_assert_eq!(postcard::from_bytes::<Distinct>(&bytes).unwrap(), distinct);
        }
    }

    #[test]
    fn the_last_hundred_messages_are_known() {
        let mut followed = Followed::default();
        (0..250).for_each(|n| followed.add(1, NOW_MS + n * 1_000, 86_400, 10));
        let most = RecipientLimit { messages: 100, window_s: 86_400 };
        // The hundredth from the end has to leave.
        let leaves_ms = NOW_MS + 150_000 + 86_400_000;
        assert_eq!(followed.until(1, most, 0, NOW_MS + 250_000, 10), Wait::Until(leaves_ms));
        assert_eq!(followed.until(1, most, 0, leaves_ms, 10), Wait::No);
        assert_eq!(followed.until(1, most, 1, leaves_ms, 10), Wait::InFlight);
    }
}
