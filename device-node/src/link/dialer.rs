//! Where to connect next, and when. Pure: randomness is an argument.

/// The first pause, and what later ones are never below.
pub const PAUSE_MIN_MS: u64 = 250;
/// No pause is longer.
pub const PAUSE_MAX_MS: u64 = 30_000;
/// A link that has lived this long was a good one: the next failure starts from the shortest pause.
pub const STABLE_MS: u64 = 20_000;
/// So many answers in a row that there is no leader yet, or another one that is not there, are what a change of leaders looks
/// like. It takes seconds, so the pauses do not grow beyond that meanwhile.
const LEADERLESS_MAX: u8 = 8;
const LEADERLESS_PAUSE_MAX_MS: u64 = 1_000;
/// Redirects followed at once; what comes beyond looks like a loop and is followed after a pause that grows.
const REDIRECTS_MAX: u8 = 2;
/// "At once" lies within this, so that a shard's devices do not reach its new leader in one instant.
const REDIRECT_SPREAD_MS: u64 = 100;
const CONTROLLERS_MAX: usize = 32;

/// Decorrelated jitter: each pause lies between the shortest and three times the last one. A fleet that lost its
/// controller at one instant does not come back at one instant.
#[derive(Clone, Debug, Default)]
pub struct Dialer {
    known: Vec<String>,
    /// Named by a redirect: tried before the known ones.
    preferred: Vec<String>,
    /// Index into the known ones, from which the next round starts.
    first: usize,
    pause_ms: u64,
    redirects: u8,
    /// Answers in a row of controllers that could not take the device.
    leaderless: u8,
    /// The controller that the last link was lost to in silence.
    silent: Option<String>,
    /// Times in a row that such a one was there after all.
    false_alarms: u8,
}

const FALSE_ALARMS_MAX: u8 = 2;

impl Dialer {
    pub fn new(known: &[String]) -> Self {
        let mut dialer = Self::default();
        dialer.learn(known);
        dialer
    }

    /// Replaces what is known; an empty list changes nothing. The one to try first stays so if it is among them.
    pub fn learn(&mut self, controllers: &[String]) {
        if controllers.is_empty() {
            return;
        }
        let first = self.known.get(self.first).cloned();
        self.known = controllers.iter().take(CONTROLLERS_MAX).cloned().collect();
        self.first = self.known.iter().position(|known| Some(known) == first.as_ref()).unwrap_or(0);
    }

    /// All controllers in the order in which to try them.
    pub fn targets(&self) -> Vec<String> {
        let (tail, head) = self.known.split_at(self.first.min(self.known.len()));
        let mut targets: Vec<String> = Vec::new();
        for target in self.preferred.iter().chain(head).chain(tail) {
            if !targets.contains(target) {
                targets.push(target.clone());
            }
        }
        targets
    }

    /// The last controller worked: it is the first to try again.
    pub fn connected(&mut self, controller: &str) {
        self.preferred.clear();
        self.redirects = 0;
        if let Some(silent) = self.silent.take() {
            // It was busy, or the way to it broken: to leave it each time would keep it so.
            let false_alarms = if silent == controller { self.false_alarms + 1 } else { 0 };
            self.false_alarms = false_alarms.min(FALSE_ALARMS_MAX);
        }
        self.first = self.known.iter().position(|known| known == controller).unwrap_or(0);
    }

    /// Try another one first.
    pub fn avoid_current(&mut self) {
        self.preferred.clear();
        if !self.known.is_empty() {
            self.first = (self.first + 1) % self.known.len();
        }
    }

    /// The pause before following it.
    pub fn redirected(&mut self, controllers: Vec<String>, random: f64) -> u64 {
        self.preferred = controllers;
        self.preferred.truncate(CONTROLLERS_MAX);
        self.redirects = self.redirects.saturating_add(1);
        if self.redirects > REDIRECTS_MAX {
            return self.declined(random);
        }
        (REDIRECT_SPREAD_MS as f64 * random.clamp(0.0, 1.0)) as u64
    }

    /// The pause before the next try. `random` is in 0..1.
    pub fn failed(&mut self, random: f64) -> u64 {
        let longest = (self.pause_ms.max(PAUSE_MIN_MS) * 3).min(PAUSE_MAX_MS);
        self.pause_ms = PAUSE_MIN_MS + ((longest - PAUSE_MIN_MS) as f64 * random.clamp(0.0, 1.0)) as u64;
        self.pause_ms
    }

    /// The same when a controller has answered, and no device of this tenant can be there now.
    pub fn declined(&mut self, random: f64) -> u64 {
        let pause_ms = self.failed(random);
        if self.leaderless >= LEADERLESS_MAX {
            return pause_ms;
        }
        self.leaderless += 1;
        self.pause_ms = self.pause_ms.min(LEADERLESS_PAUSE_MAX_MS);
        self.pause_ms
    }

    /// A link that lived for `lived_ms` is lost. The first try comes soon, but not at the same instant for everybody.
    pub fn lost(&mut self, lived_ms: u64, random: f64) -> u64 {
        if lived_ms < STABLE_MS {
            return self.failed(random);
        }
        self.calm();
        soon(random)
    }

    /// The same when the controller has become silent: it is dead, or out of reach. The others know who leads now, and are
    /// asked at once, however short the link has lived: nobody has turned it away, and it was silent for seconds. Unless it was
    /// there after all the last time: then it has more to do than it can, and a whole fleet that comes back at once keeps it so.
    pub fn fell_silent(&mut self, controller: &str, lived_ms: u64, random: f64) -> u64 {
        self.avoid_current();
        self.silent = Some(controller.to_owned());
        if lived_ms >= STABLE_MS {
            self.calm();
        } else if self.false_alarms > 0 {
            return self.failed(random);
        }
        self.leaderless = 0;
        soon(random)
    }

    /// What went wrong before a good link counts no more. A link as such does not: it may end as soon as it begins.
    fn calm(&mut self) {
        self.false_alarms = 0;
        self.leaderless = 0;
        self.pause_ms = 0;
    }

    /// How many times as long as usual the controller may be silent on the link that there is now.
    pub fn patience(&self) -> u32 {
        1 << self.false_alarms
    }

    /// Asked to go away for a while.
    pub fn sent_away(&mut self, random: f64) -> u64 {
        self.pause_ms = PAUSE_MAX_MS;
        PAUSE_MAX_MS / 2 + (PAUSE_MAX_MS as f64 / 2.0 * random.clamp(0.0, 1.0)) as u64
    }
}

fn soon(random: f64) -> u64 {
    (PAUSE_MIN_MS as f64 * random.clamp(0.0, 1.0)) as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn the_one_that_worked_comes_first_and_a_redirect_before_it() {
        let mut dialer = Dialer::new(&names(&["a", "b", "c"]));
        assert_eq!(dialer.targets(), ["a", "b", "c"]);
        dialer.connected("b");
        assert_eq!(dialer.targets(), ["b", "c", "a"]);
        assert_eq!(dialer.redirected(names(&["d", "c"]), 0.5), REDIRECT_SPREAD_MS / 2);
        assert_eq!(dialer.targets(), ["d", "c", "b", "a"]);
        dialer.connected("c");
        dialer.avoid_current();
        assert_eq!(dialer.targets(), ["a", "b", "c"]);
        dialer.learn(&[]);
        assert_eq!(dialer.targets(), ["a", "b", "c"]);
    }

    #[test]
    fn a_loop_of_redirects_slows_down() {
        let mut dialer = Dialer::new(&names(&["a"]));
        let pauses: Vec<u64> = (0..14).map(|_| dialer.redirected(names(&["b"]), 1.0)).collect();
        assert_eq!(pauses[..3], [REDIRECT_SPREAD_MS, REDIRECT_SPREAD_MS, 750]);
        assert_eq!(pauses[3..10], [LEADERLESS_PAUSE_MAX_MS; 7]);
        assert_eq!(pauses[10..], [3_000, 9_000, 27_000, PAUSE_MAX_MS]);
        dialer.connected("b");
        assert!(dialer.redirected(names(&["c"]), 1.0) <= REDIRECT_SPREAD_MS, "a link ends the loop");
    }

    #[test]
    fn new_addresses_keep_the_good_one_first() {
        let mut dialer = Dialer::new(&names(&["a", "b", "c"]));
        dialer.connected("c");
        dialer.learn(&names(&["d", "c", "a"]));
        assert_eq!(dialer.targets(), ["c", "a", "d"]);
        dialer.learn(&names(&["e", "f"]));
        assert_eq!(dialer.targets(), ["e", "f"]);
        let many: Vec<String> = (0..100).map(|n| n.to_string()).collect();
        dialer.learn(&many);
        assert_eq!(dialer.targets().len(), CONTROLLERS_MAX);
    }

    #[test]
    fn everyone_is_asked_in_turn_while_all_decline() {
        let mut dialer = Dialer::new(&names(&["a", "b", "c"]));
        dialer.connected("b");
        let mut asked = Vec::new();
        for _ in 0..4 {
            asked.push(dialer.targets()[0].clone());
            dialer.avoid_current();
            dialer.failed(0.5);
        }
        assert_eq!(asked, ["b", "c", "a", "b"]);
    }

    #[test]
    fn a_stable_link_is_sought_again_at_once() {
        let mut dialer = Dialer::new(&names(&["a"]));
        for _ in 0..20 {
            dialer.failed(1.0);
        }
        assert_eq!(dialer.failed(1.0), PAUSE_MAX_MS);
        assert_eq!(dialer.lost(STABLE_MS - 1, 1.0), PAUSE_MAX_MS);
        assert!(dialer.lost(STABLE_MS, 0.99) < PAUSE_MIN_MS);
        assert!(dialer.failed(1.0) <= 3 * PAUSE_MIN_MS);
    }

    #[test]
    fn whoever_leads_after_a_death_is_found_at_once_however_often_that_happens() {
        let mut dialer = Dialer::new(&names(&["a", "b", "c"]));
        for (dead, next) in [("a", "b"), ("b", "c"), ("c", "a")].into_iter().cycle().take(9) {
            dialer.connected(dead);
            // Killed again after a few seconds.
            assert!(dialer.fell_silent(dead, 4_000, 1.0) <= PAUSE_MIN_MS);
            assert_eq!(dialer.targets()[0], next);
            assert_eq!((dialer.targets().last().map(String::as_str), dialer.patience()), (Some(dead), 1));
        }
    }

    #[test]
    fn a_controller_that_ends_each_link_soon_is_asked_less_and_less() {
        let mut dialer = Dialer::new(&names(&["a"]));
        let mut pauses = Vec::new();
        for _ in 0..12 {
            dialer.connected("a");
            // Welcome, and then: busy.
            pauses.push(dialer.declined(1.0));
        }
        assert_eq!(pauses[..3], [750, LEADERLESS_PAUSE_MAX_MS, LEADERLESS_PAUSE_MAX_MS]);
        assert_eq!(pauses[8..], [3_000, 9_000, 27_000, PAUSE_MAX_MS]);
        dialer.connected("a");
        dialer.lost(STABLE_MS, 0.0);
        assert_eq!(dialer.declined(1.0), 750, "a good link ends that");
    }

    #[test]
    fn a_controller_that_is_always_too_slow_is_not_stormed() {
        let mut dialer = Dialer::new(&names(&["a"]));
        let mut pauses = Vec::new();
        for _ in 0..6 {
            dialer.connected("a");
            pauses.push(dialer.fell_silent("a", 3_000, 1.0));
        }
        assert_eq!(pauses, [PAUSE_MIN_MS, 750, 2_250, 6_750, 20_250, PAUSE_MAX_MS]);
        dialer.connected("a");
        assert_eq!(dialer.fell_silent("a", STABLE_MS, 1.0), PAUSE_MIN_MS, "it had recovered");
    }

    #[test]
    fn while_there_is_no_leader_yet_it_is_asked_again_within_a_second() {
        let mut dialer = Dialer::new(&names(&["a", "b"]));
        dialer.connected("a");
        dialer.fell_silent("a", 60_000, 0.0);
        // Redirects to the dead one, and answers that nobody leads.
        let pauses: Vec<u64> = (0..6)
            .flat_map(|_| {
                let redirected = dialer.redirected(names(&["a"]), 1.0);
                dialer.avoid_current();
                [redirected, dialer.declined(1.0)]
            })
            .take(LEADERLESS_MAX.into())
            .collect();
        assert!(pauses.iter().all(|pause_ms| *pause_ms <= LEADERLESS_PAUSE_MAX_MS), "{pauses:?}");
        for _ in 0..10 {
            dialer.declined(1.0);
        }
        assert_eq!(dialer.declined(1.0), PAUSE_MAX_MS, "then it is something else");
        dialer.connected("b");
        assert!(dialer.lost(STABLE_MS, 1.0) <= PAUSE_MIN_MS);
        assert!(dialer.declined(1.0) <= LEADERLESS_PAUSE_MAX_MS);
    }

    #[test]
    fn a_controller_that_was_only_slow_gets_more_time() {
        let mut dialer = Dialer::new(&names(&["a", "b"]));
        dialer.connected("a");
        let patience: Vec<u32> = (0..4)
            .map(|_| {
                dialer.fell_silent("a", 5_000, 0.5);
                dialer.connected("a");
                dialer.patience()
            })
            .collect();
        assert_eq!(patience, [2, 4, 4, 4]);
        dialer.lost(STABLE_MS, 0.5);
        assert_eq!(dialer.patience(), 1, "it was well for a while");
        dialer.fell_silent("a", 5_000, 0.5);
        dialer.connected("a");
        dialer.fell_silent("a", 5_000, 0.5);
        dialer.connected("b");
        assert_eq!(dialer.patience(), 1, "that was a death");
    }

    proptest! {
        #[test]
        fn pauses_stay_in_their_bounds(randoms in prop::collection::vec(0.0f64..1.0, 1..50)) {
            let mut dialer = Dialer::new(&names(&["a", "b"]));
            let mut before = PAUSE_MIN_MS;
            for random in randoms {
                let pause = dialer.failed(random);
                prop_assert!((PAUSE_MIN_MS..=PAUSE_MAX_MS).contains(&pause));
                prop_assert!(pause <= (3 * before.max(PAUSE_MIN_MS)).min(PAUSE_MAX_MS));
                before = pause;
            }
        }
    }
}
