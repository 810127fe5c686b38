//! The ledger and `room` against an exact log: a small machine reserves, dispatches, lands and loses attempts, with reports
//! that come late and out of order, and afterwards every window of the log is looked at.

use proptest::prelude::*;

use super::*;
use crate::limits::{Ask, has_gap, room};

/// What happens next.
#[derive(Clone, Debug)]
enum Event {
    /// Time passes.
    Pass { ms: u64 },
    /// A message asks for room, and goes if there is some.
    Ask { segments: u8, recipient: u8 },
    /// An attempt in flight has landed: at that part of the time since its dispatch, in thousandths.
    Land { which: usize, at: u64 },
    /// One came back: it did not leave.
    Back { which: usize },
}

#[derive(Clone, Copy, Debug)]
struct Flying {
    segments: u8,
    recipient: u8,
    since_ms: u64,
}

#[derive(Debug)]
struct World {
    limits: Limits,
    recipient_limit: RecipientLimit,
    now_ms: u64,
    ledger: Ledger,
    flying: Vec<Flying>,
    /// What has left, as it was: time, segments, recipient.
    log: Vec<(u64, u8, u8)>,
}

impl World {
    fn new(limits: Limits, recipient_limit: RecipientLimit) -> Self {
        // The evening before a month begins.
        let now_ms = START_MS - 3_600_000;
        Self { limits, recipient_limit, now_ms, ledger: Ledger::default(), flying: Vec::new(), log: Vec::new() }
    }

    fn room(&self, segments: u8, recipient: u8, now_ms: u64) -> Room {
        let in_flight = self.flying.iter().map(|flying| u32::from(flying.segments)).sum();
        let to_it = self.flying.iter().filter(|flying| flying.recipient == recipient).count() as u32;
        let hash = recipient_hash(u64::from(recipient));
        let ask = Ask { segments, recipient: Some(hash) };
        room(&self.limits, self.ledger.counters(Scope::Route(route(1))), in_flight, ask, &utc(now_ms))
            .and(self.ledger.recipient_room(tenant(1), hash, self.recipient_limit, to_it, now_ms))
    }

    fn step(&mut self, event: &Event) {
        match *event {
            Event::Pass { ms } => self.now_ms += ms,
            Event::Ask { segments, recipient } => {
                if self.room(segments, recipient, self.now_ms).is_yes() {
                    self.flying.push(Flying { segments, recipient, since_ms: self.now_ms });
                }
            }
            Event::Land { which, at } if !self.flying.is_empty() => {
                let flying = self.flying.swap_remove(which % self.flying.len());
                let at_ms = flying.since_ms + (self.now_ms - flying.since_ms) * at / 1_000;
                self.log.push((at_ms, flying.segments, flying.recipient));
                let charge = charge(at_ms, flying.segments, u64::from(flying.recipient));
                self.ledger.apply(&charged(Charge { recipient_window_s: self.recipient_limit.window_s, ..charge }));
            }
            Event::Back { which } if !self.flying.is_empty() => {
                self.flying.swap_remove(which % self.flying.len());
            }
            Event::Land { .. } | Event::Back { .. } => {}
        }
    }

    /// Segments of the log in `(end - length, end]`.
    fn exact(&self, end_ms: u64, length_ms: u64) -> u32 {
        let inside = |at: u64| at <= end_ms && at + length_ms > end_ms;
        self.log.iter().filter(|(at, ..)| inside(*at)).map(|(_, segments, _)| u32::from(*segments)).sum()
    }

    fn check(&self) {
        let most = |used: u32, limit: Option<u32>, what: &str| {
            assert!(limit.is_none_or(|limit| used <= limit), "{used} of {limit:?} {what}: {self:?}");
        };
        for (at_ms, ..) in &self.log {
            most(self.exact(*at_ms, 60_000), self.limits.per_minute, "in a minute");
            most(self.exact(*at_ms, 3_600_000), self.limits.per_hour, "in an hour");
            let of = |same: &dyn Fn(&Calendar) -> bool| {
                self.log.iter().filter(|(at, ..)| same(&utc(*at))).collect::<Vec<_>>()
            };
            let sum = |log: &[&(u64, u8, u8)]| log.iter().map(|(_, segments, _)| u32::from(*segments)).sum();
            let now = utc(*at_ms);
            most(sum(&of(&|other| other.day == now.day)), self.limits.per_day, "on a day");
            let month = of(&|other| other.month == now.month);
            most(sum(&month), self.limits.per_month, "in a month");
            let recipients: std::collections::BTreeSet<_> = month.iter().map(|(.., recipient)| recipient).collect();
            most(recipients.len() as u32, self.limits.recipients_per_month, "recipients of a month");
        }
        for (at_ms, _, recipient) in &self.log {
            let window_ms = u64::from(self.recipient_limit.window_s) * 1_000;
            let inside = |at: u64| at <= *at_ms && at + window_ms > *at_ms;
            let count = self.log.iter().filter(|(at, _, to)| to == recipient && inside(*at)).count() as u32;
            most(count, Some(u32::from(self.recipient_limit.messages)), "to a recipient");
        }
        if has_gap(&self.limits) {
            let mut times: Vec<u64> = self.log.iter().map(|(at, ..)| *at).collect();
            times.sort_unstable();
            let gap_ms = u64::from(self.limits.gap_ms.unwrap_or(0));
            assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= gap_ms), "a pause was too short: {self:?}");
        }
    }

    /// Whether the exact log has room for so many segments in the sliding windows and to the recipient.
    fn exactly_free(&self, segments: u8, recipient: u8, at_ms: u64) -> bool {
        let free = |limit: Option<u32>, length_ms| {
            limit.is_none_or(|limit| self.exact(at_ms, length_ms) + u32::from(segments) <= limit)
        };
        let window_ms = u64::from(self.recipient_limit.window_s) * 1_000;
        let to_it = self.log.iter().filter(|(at, _, to)| *to == recipient && *at <= at_ms && *at + window_ms > at_ms);
        free(self.limits.per_minute, 60_000)
            && free(self.limits.per_hour, 3_600_000)
            && to_it.count() < usize::from(self.recipient_limit.messages)
    }
}

fn limit(most: u32) -> impl Strategy<Value = Option<u32>> {
    proptest::option::of(1..=most)
}

prop_compose! {
    fn any_limits()(
        per_minute in limit(12),
        per_hour in limit(60),
        per_day in limit(150),
        per_month in limit(200),
        recipients_per_month in limit(8),
        gap_ms in proptest::option::weighted(0.2, 1..5_000u32),
        gap_jitter_ms in proptest::option::weighted(0.2, 1..5_000u32),
    ) -> Limits {
        Limits { per_minute, per_hour, per_day, per_month, recipients_per_month, gap_ms, gap_jitter_ms }
    }
}

prop_compose! {
    fn any_recipient_limit()(messages in 1..12u16, window_s in prop_oneof![1..6u32, 1..600u32, 1..90_000u32]) -> RecipientLimit {
        RecipientLimit { messages, window_s }
    }
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => prop_oneof![0..900u64, 0..3_000u64, 0..90_000u64, 0..1_500_000u64].prop_map(|ms| Event::Pass { ms }),
        6 => (1..4u8, 0..12u8).prop_map(|(segments, recipient)| Event::Ask { segments, recipient }),
        4 => (any::<usize>(), 0..=1_000u64).prop_map(|(which, at)| Event::Land { which, at }),
        1 => any::<usize>().prop_map(|which| Event::Back { which }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_window_is_ever_exceeded(
        limits in any_limits(),
        recipient_limit in any_recipient_limit(),
        events in proptest::collection::vec(any_event(), 1..250),
    ) {
        let mut world = World::new(limits, recipient_limit);
        events.iter().for_each(|event| world.step(event));
        while !world.flying.is_empty() {
            world.step(&Event::Land { which: 0, at: 700 });
        }
        world.check();
    }

    /// The same with nothing but a short window by recipient, and steps smaller than its seconds.
    #[test]
    fn no_recipient_has_more_than_its_limit(
        messages in 1..4u16,
        window_s in 1..4u32,
        steps in proptest::collection::vec((1..700u64, 0..=1_000u64, any::<bool>()), 1..60),
    ) {
        let mut world = World::new(Limits::default(), RecipientLimit { messages, window_s });
        for (ms, at, lands) in steps {
            world.step(&Event::Pass { ms });
            world.step(&Event::Ask { segments: 1, recipient: 1 });
            if lands {
                world.step(&Event::Land { which: 0, at });
            }
        }
        world.check();
    }

    /// When room is promised for a time, it is there then; and it was not there more than a slot before.
    #[test]
    fn the_promised_time_is_neither_early_nor_late(
        limits in any_limits(),
        recipient_limit in any_recipient_limit(),
        events in proptest::collection::vec(any_event(), 1..150),
        segments in 1..4u8,
        recipient in 0..12u8,
    ) {
        // Days, months and recipients end when the calendar says so, and are tested beside it.
        let limits = Limits { per_day: None, per_month: None, recipients_per_month: None, ..limits };
        let mut world = World::new(limits, recipient_limit);
        events.iter().for_each(|event| world.step(event));
        while !world.flying.is_empty() {
            world.step(&Event::Land { which: 0, at: 1_000 });
        }
        if let Room::Until { unix_ms } = world.room(segments, recipient, world.now_ms) {
            prop_assert!(unix_ms > world.now_ms);
            prop_assert_eq!(world.room(segments, recipient, unix_ms), Room::Yes);
            prop_assert!(!world.room(segments, recipient, unix_ms - 1).is_yes(), "it was there before");
            let slot_ms = if world.limits.per_hour.is_some() { 60_000 } else { 1_000 };
            if !has_gap(&world.limits) && unix_ms - slot_ms > world.now_ms {
                let early_ms = unix_ms - slot_ms;
                prop_assert!(!world.exactly_free(segments, recipient, early_ms), "free at {early_ms}: {world:?}");
            }
        }
    }

    /// Whatever the order in which charges become known, none inside the window is forgotten.
    #[test]
    fn late_facts_make_no_window_forget(
        charges in proptest::collection::vec((0..7_200_000u64, 1..4u8), 1..80),
        after_ms in 0..60_000u64,
    ) {
        let mut ledger = Ledger::default();
        for (at_ms, segments) in &charges {
            ledger.apply(&charged(charge(START_MS + at_ms, *segments, 1)));
        }
        let newest_ms = charges.iter().map(|(at_ms, _)| at_ms).max().unwrap();
        let now_ms = newest_ms + after_ms;
        let counters = ledger.counters(Scope::Route(route(1)));
        let exact = |length_ms: u64| -> u32 {
            charges.iter().filter(|(at, _)| at + length_ms > now_ms).map(|(_, segments)| u32::from(*segments)).sum()
        };
        prop_assert!(counters.last_minute(START_MS + now_ms) >= exact(60_000));
        prop_assert!(counters.last_hour(START_MS + now_ms) >= exact(3_600_000));
        let all: u32 = charges.iter().map(|(_, segments)| u32::from(*segments)).sum();
        prop_assert_eq!(counters.on_day(utc(START_MS).day), all);
        prop_assert_eq!(counters.last_charge_ms(), Some(START_MS + newest_ms));
    }

    /// Attempts that nobody will tell of are charged for when their lease ends; what has left before stays in its windows.
    #[test]
    fn what_is_dated_ahead_makes_no_window_forget(
        charges in proptest::collection::vec((0..4_000_000u64, 0..=AHEAD_MS, 1..4u8, 0..3u64), 1..120),
        window_s in 1..4_000u32,
    ) {
        let mut charges = charges;
        charges.sort_unstable();
        let mut ledger = Ledger::default();
        for (told_ms, ahead_ms, segments, recipient) in &charges {
            let charge = charge(START_MS + told_ms + ahead_ms, *segments, *recipient);
            ledger.apply(&charged(Charge { recipient_window_s: window_s, ..charge }));
            let counters = ledger.counters(Scope::Route(route(1)));
            let told = charges.iter().take_while(|(at, ..)| at <= told_ms);
            let inside = |length_ms: u64| -> u32 {
                let inside = told.clone().filter(|(at, ahead, ..)| at + ahead + length_ms > *told_ms);
                inside.map(|(_, _, segments, _)| u32::from(*segments)).sum()
            };
            let now_ms = START_MS + told_ms;
            let known = charges.iter().filter(|(at, ..)| at == told_ms).count();
            if known == 1 {
                prop_assert!(counters.last_minute(now_ms) >= inside(60_000));
                prop_assert!(counters.last_hour(now_ms) >= inside(3_600_000));
                let mine = |(at, ahead, _, to): &&(u64, u64, u8, u64)| {
                    to == recipient && at + ahead + u64::from(window_s) * 1_000 > *told_ms
                };
                let count = told.clone().filter(mine).count().min(100) as u16;
                let limit = RecipientLimit { messages: count, window_s };
                let room = ledger.recipient_room(tenant(1), recipient_hash(*recipient), limit, 0, now_ms);
                prop_assert!(count == 100 || matches!(room, Room::Until { .. }), "{count} of {limit:?}: {room:?}");
            }
        }
    }

    /// A clock that is put back by some minutes frees no minute that is full.
    #[test]
    fn a_clock_that_is_put_back_frees_nothing(back_ms in 0..600_000u64, before in 1..20u8, after in 1..20u8) {
        let mut ledger = Ledger::default();
        let later_ms = START_MS + 3_600_000;
        ledger.apply(&charged(charge(later_ms, before, 1)));
        ledger.apply(&charged(charge(later_ms - back_ms, after, 1)));
        let counters = ledger.counters(Scope::Route(route(1)));
        prop_assert_eq!(counters.last_minute(later_ms - back_ms), u32::from(before) + u32::from(after));
    }
}
