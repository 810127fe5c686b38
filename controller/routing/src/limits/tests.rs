//! Rooms, calendars and windows, by table and against plain models. Zones are given as rules, so that the tests need no files.

use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::Micros;
use crate::fact::{Charge, recipient_hash};
use crate::ledger::Scope;
use crate::ledger::{Counters, Ledger};
use crate::route::Route;
use crate::settings::{Price, RecipientLimit, Window};
use flotilla_protocol::id::{DeviceId, SimId, TenantId};

const HOUR_MS: u64 = 3_600_000;

/// Rules of zones that are hard: an hour at 02:00 and 03:00; midnight itself; half an hour; never.
const ZONES: [&str; 5] = [
    "CET-1CEST,M3.5.0,M10.5.0/3",
    "BRT3BRST,M11.1.0/0,M2.3.0/0",
    "LHST-10:30LHDT-11,M10.1.0,M4.1.0",
    "EAT-3",
    "NPT-5:45",
];

fn at(text: &str) -> u64 {
    calendar::unix_ms(text.parse().unwrap())
}

fn posix(rule: &str) -> TimeZone {
    TimeZone::posix(rule).unwrap()
}

fn window(days: &[&str], from: &str, to: &str) -> Window {
    Window { days: days.iter().map(|day| (*day).into()).collect(), from: from.into(), to: to.into() }
}

/// A ledger with these charges (Unix ms, segments, recipient) on one route; days are UTC's.
fn charged(charges: &[(u64, u8, u64)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (at_ms, segments, recipient) in charges {
        let day = (at_ms / 86_400_000) as i32;
        let charge = Charge {
            route: route(),
            segments: *segments,
            at_ms: *at_ms,
            recipient: recipient_hash(*recipient),
            cost: Micros::ZERO,
            day,
            tenant_day: day,
            recipient_window_s: 0,
        };
        ledger.apply(&crate::fact::Fact::Charged { tenant: TenantId::from_bytes([1; 16]), charge });
    }
    ledger
}

fn route() -> Route {
    Route::sim(DeviceId::from_bytes([1; 16]), SimId::from_bytes([1; 16]))
}

fn counters(ledger: &Ledger) -> &Counters {
    ledger.counters(Scope::Route(route()))
}

fn ask(segments: u8) -> Ask {
    Ask { segments, recipient: None }
}

#[test]
fn the_worked_example_of_a_minute() {
    // 30 per minute, 29 segments at 12:00:10.400: one more fits, two have to wait until that second is out of the window.
    let noon = at("2026-03-02T12:00:00Z");
    let ledger = charged(&[(noon + 10_400, 29, 1)]);
    let limits = Limits { per_minute: Some(30), ..Limits::default() };
    let of = |segments, in_flight, now_ms| {
        room(&limits, counters(&ledger), in_flight, ask(segments), &Calendar::new(&TimeZone::UTC, now_ms))
    };
    assert_eq!(of(1, 0, noon + 20_000), Room::Yes);
    assert_eq!(
        of(1, 1, noon + 20_000),
        Room::Until { unix_ms: noon + 70_999 },
        "one is in flight: it has taken the last"
    );
    assert_eq!(of(2, 0, noon + 20_000), Room::Until { unix_ms: noon + 70_999 });
    assert_eq!(of(2, 0, noon + 70_999), Room::Yes, "12:01:10.999: the whole second is over a minute ago");
    assert_eq!(of(2, 29, noon + 71_000), Room::InFlight);
    assert_eq!(of(31, 0, noon + 71_000), Room::Never);
}

#[test]
fn an_empty_window_beside_what_flies_has_no_time() {
    let limits = Limits { per_minute: Some(5), per_day: Some(8), ..Limits::default() };
    let now = Calendar::new(&TimeZone::UTC, at("2026-03-02T12:00:00Z"));
    for (in_flight, segments, expected) in [
        (0, 5, Room::Yes),
        (3, 2, Room::Yes),
        (3, 3, Room::InFlight),
        (u32::MAX, 1, Room::InFlight),
        (0, 6, Room::Never),
    ] {
        assert_eq!(room(&limits, &Counters::EMPTY, in_flight, ask(segments), &now), expected, "{in_flight} {segments}");
    }
}

#[test]
fn days_and_months_end_at_midnight_of_the_zone() {
    let zone = posix("EAT-3");
    // 23:30 in Dar es Salaam on the last of March.
    let now_ms = at("2026-03-31T20:30:00Z");
    let now = Calendar::new(&zone, now_ms);
    let mut ledger = Ledger::default();
    let charge = Charge {
        route: route(),
        segments: 10,
        at_ms: now_ms - 1,
        recipient: 1,
        cost: Micros::ZERO,
        day: now.day,
        tenant_day: now.day,
        recipient_window_s: 0,
    };
    ledger.apply(&crate::fact::Fact::Charged { tenant: TenantId::from_bytes([1; 16]), charge });
    let midnight = Room::Until { unix_ms: at("2026-03-31T21:00:00Z") };
    let of = |limits: Limits, recipient, now: &Calendar| {
        room(&limits, counters(&ledger), 0, Ask { segments: 1, recipient }, now)
    };
    let day = Limits { per_day: Some(10), ..Limits::default() };
    let month = Limits { per_month: Some(10), ..Limits::default() };
    let recipients = Limits { recipients_per_month: Some(1), ..Limits::default() };
    assert_eq!(of(day.clone(), None, &now), midnight);
    assert_eq!(of(month.clone(), None, &now), midnight, "the month ends with the day");
    assert_eq!(of(recipients.clone(), Some(2), &now), midnight);
    assert_eq!(of(recipients.clone(), Some(1), &now), Room::Yes, "one that is counted already");
    assert_eq!(of(recipients.clone(), None, &now), Room::Yes, "asked of nobody");
    let next = Calendar::new(&zone, at("2026-03-31T21:00:00Z"));
    for limits in [day, month, recipients] {
        assert_eq!(of(limits, Some(2), &next), Room::Yes);
    }
    let flying = |in_flight| {
        let day = Limits { per_day: Some(20), ..Limits::default() };
        room(&day, counters(&ledger), in_flight, Ask { segments: 1, recipient: None }, &now)
    };
    assert_eq!(flying(9), Room::Yes);
    assert_eq!(flying(10), midnight, "what is in flight fits into the next day");
    assert_eq!(flying(20), Room::InFlight, "not even an empty day would do");
}

#[test]
fn each_limit_tells_for_itself() {
    let noon = at("2026-03-02T12:00:00Z");
    let ledger = charged(&[(noon, 4, 1)]);
    let limits = Limits {
        per_minute: Some(4),
        per_hour: Some(10),
        per_day: Some(4),
        recipients_per_month: Some(1),
        gap_ms: Some(2_000),
        ..Limits::default()
    };
    let now = Calendar::new(&TimeZone::UTC, noon + 1_000);
    let mut told = Vec::new();
    each(&limits, counters(&ledger), 0, Ask { segments: 1, recipient: Some(9) }, &now, |limit, room| {
        told.push((limit.name(), room));
    });
    let midnight = at("2026-03-03T00:00:00Z");
    assert_eq!(
        told,
        [
            ("per_minute", Room::Until { unix_ms: noon + 60_999 }),
            ("per_hour", Room::Yes),
            ("per_day", Room::Until { unix_ms: midnight }),
            ("recipients_per_month", Room::Until { unix_ms: at("2026-04-01T00:00:00Z") }),
            ("gap", Room::Until { unix_ms: noon + 2_000 }),
        ]
    );
    let usage = usage(&limits, counters(&ledger), 1, &now);
    let left: Vec<_> = usage.iter().map(|usage| (usage.name.name(), usage.used, usage.left)).collect();
    assert_eq!(left, [("per_minute", 5, 0), ("per_hour", 5, 5), ("per_day", 5, 0), ("recipients_per_month", 2, 0)]);
}

#[test]
fn headroom_is_that_of_the_scarcest_limit() {
    let noon = at("2026-03-02T12:00:00Z");
    let ledger = charged(&[(noon, 10, 1)]);
    let now = Calendar::new(&TimeZone::UTC, noon);
    let of = |limits: Limits, in_flight| headroom(&limits, counters(&ledger), in_flight, &now);
    assert_eq!(of(Limits::default(), 5), 1.0);
    assert_eq!(of(Limits { per_minute: Some(20), per_day: Some(100), ..Limits::default() }, 0), 0.5);
    assert_eq!(of(Limits { per_minute: Some(20), per_day: Some(100), ..Limits::default() }, 5), 0.25);
    assert_eq!(of(Limits { per_hour: Some(0), ..Limits::default() }, 0), 0.0);
}

#[test]
fn a_pause_follows_each_message_and_its_jitter_is_drawn_once() {
    let noon = at("2026-03-02T12:00:00Z");
    let limits = Limits { gap_ms: Some(2_000), gap_jitter_ms: Some(3_000), ..Limits::default() };
    let mut drawn = std::collections::BTreeSet::new();
    for recipient in 0..200 {
        let ledger = charged(&[(noon, 1, recipient)]);
        let now = Calendar::new(&TimeZone::UTC, noon + 1);
        let Room::Until { unix_ms } = room(&limits, counters(&ledger), 0, ask(1), &now) else { panic!("no pause") };
        assert!((noon + 2_000..=noon + 5_000).contains(&unix_ms));
        assert_eq!(room(&limits, counters(&ledger), 1, ask(1), &now), Room::Until { unix_ms });
        let after = Calendar::new(&TimeZone::UTC, unix_ms);
        assert_eq!(room(&limits, counters(&ledger), 0, ask(1), &after), Room::Yes);
        assert_eq!(room(&limits, counters(&ledger), 1, ask(1), &after), Room::InFlight, "one at a time");
        drawn.insert(unix_ms);
    }
    assert!(drawn.len() > 150, "{} different pauses of 200", drawn.len());
}

#[test]
fn the_worked_example_of_a_warm_up() {
    let warm_up = WarmUp { per_day: vec![20, 50, 100] };
    let own = Limits { per_day: Some(400), ..Limits::default() };
    let first_ms = at("2026-03-02T15:00:00Z");
    let ledger = charged(&[(first_ms, 1, 1)]);
    let day = |text: &str| Calendar::new(&TimeZone::UTC, at(text)).day;
    let of = |counters: &Counters, text: &str| warmed_up(&own, Some(&warm_up), counters, day(text)).per_day;
    assert_eq!(of(&Counters::EMPTY, "2026-02-20T10:00:00Z"), Some(20), "before its first message");
    for (text, expected) in [
        ("2026-03-02T23:00:00Z", Some(20)),
        ("2026-03-03T00:00:00Z", Some(50)),
        ("2026-03-04T12:00:00Z", Some(100)),
        ("2026-03-05T12:00:00Z", Some(400)),
    ] {
        assert_eq!(of(counters(&ledger), text), expected, "{text}");
    }
    let strict = Limits { per_day: Some(30), ..Limits::default() };
    assert_eq!(warmed_up(&strict, Some(&warm_up), counters(&ledger), day("2026-03-04T00:00:00Z")).per_day, Some(30));
    let none = warmed_up(&Limits::default(), Some(&warm_up), counters(&ledger), day("2026-03-09T00:00:00Z"));
    assert_eq!(none.per_day, None);
    assert_eq!(stage(&warm_up, counters(&ledger), day("2026-03-05T00:00:00Z")), None);
}

#[test]
fn a_calendar_holds_over_days_that_are_short_long_or_missing() {
    let day_of = |rule: &str, text: &str| {
        let calendar = Calendar::new(&posix(rule), at(text));
        (calendar.next_day_ms - calendar.day_starts_ms) / 60_000
    };
    assert_eq!(day_of(ZONES[0], "2026-03-29T12:00:00Z"), 23 * 60);
    assert_eq!(day_of(ZONES[0], "2026-10-25T12:00:00Z"), 25 * 60);
    // Midnight is skipped: the day begins at 01:00. It is repeated: the day before is an hour longer.
    assert_eq!(day_of(ZONES[1], "2025-11-02T12:00:00Z"), 23 * 60);
    assert_eq!(day_of(ZONES[1], "2026-02-14T12:00:00Z"), 25 * 60);
    assert_eq!(day_of(ZONES[2], "2026-04-05T12:00:00+10:30"), 24 * 60 + 30);
}

#[test]
fn a_zone_is_known_or_named() {
    assert_eq!(zone("timezone", "").unwrap(), TimeZone::UTC);
    let error = zone("sims[3].timezone", "Middle_Earth/Shire").unwrap_err();
    assert!(error.to_string().starts_with("sims[3].timezone is no time zone known here; give an IANA name"), "{error}");
    assert!(zone("timezone", &"x".repeat(65)).is_err());
}

#[test]
fn windows_open_and_close_by_the_clock_of_the_zone() {
    let zone = posix("EAT-3");
    let office = [window(&["mon", "tue", "wed", "thu", "fri"], "08:00", "20:30"), window(&["sat"], "09:00", "13:00")];
    let windows = Windows::compile(&office).unwrap();
    for (now, open, until) in [
        ("2026-03-02T04:59:59Z", false, "2026-03-02T05:00:00Z"),
        ("2026-03-02T05:00:00Z", true, "2026-03-02T17:30:00Z"),
        ("2026-03-06T17:30:00Z", false, "2026-03-07T06:00:00Z"),
        ("2026-03-07T10:00:00Z", false, "2026-03-09T05:00:00Z"),
    ] {
        assert_eq!(windows.opening(&zone, at(now)), Opening { open, until_ms: at(until) }, "{now}");
    }
    let night = Windows::compile(&[window(&["fri"], "22:00", "06:00")]).unwrap();
    for (now, open, until) in [
        ("2026-03-06T18:00:00Z", false, "2026-03-06T19:00:00Z"),
        ("2026-03-06T20:59:00Z", true, "2026-03-07T03:00:00Z"),
        ("2026-03-07T02:59:59Z", true, "2026-03-07T03:00:00Z"),
        ("2026-03-07T03:00:00Z", false, "2026-03-13T19:00:00Z"),
    ] {
        assert_eq!(night.opening(&zone, at(now)), Opening { open, until_ms: at(until) }, "{now}");
    }
}

#[test]
fn without_windows_or_with_all_the_week_it_is_always_open() {
    let now = at("2026-03-02T12:00:00Z");
    for windows in
        [&[][..], &[window(&[], "00:00", "24:00")], &[window(&[], "08:00", "20:00"), window(&[], "20:00", "08:00")]]
    {
        let opening = Windows::compile(windows).unwrap().opening(&TimeZone::UTC, now);
        assert_eq!(opening, Opening { open: true, until_ms: now + 8 * 24 * HOUR_MS }, "looked at again in eight days");
    }
}

#[test]
fn a_window_that_the_clock_skips_does_not_open() {
    let zone = posix(ZONES[0]);
    let windows = Windows::compile(&[window(&["sun"], "02:15", "02:45")]).unwrap();
    // The last Sunday of March has no 02:15; the next one has.
    let opening = windows.opening(&zone, at("2026-03-29T00:00:00Z"));
    assert_eq!(opening, Opening { open: false, until_ms: at("2026-04-05T00:15:00Z") });
    // The last Sunday of October has it twice.
    let first = windows.opening(&zone, at("2026-10-25T00:15:00Z"));
    assert_eq!(first, Opening { open: true, until_ms: at("2026-10-25T00:45:00Z") });
    let second = windows.opening(&zone, at("2026-10-25T00:45:00Z"));
    assert_eq!(second, Opening { open: false, until_ms: at("2026-10-25T01:15:00Z") });
}

fn any_window() -> impl Strategy<Value = Window> {
    let days = proptest::sample::subsequence(vec!["mon", "tue", "wed", "thu", "fri", "sat", "sun"], 0..7);
    (days, 0..96u16, 1..96u16).prop_map(|(days, from, length)| {
        let text = |quarter: u16| format!("{:02}:{:02}", quarter / 4, quarter % 4 * 15);
        let to = (from + length) % 96;
        window(&days, &text(from), &text(if to == 0 { 96 } else { to }))
    })
}

/// What the wall clock says, looked at without the code under test.
fn is_open(windows: &[Window], zone: &TimeZone, now_ms: u64) -> bool {
    let local = calendar::timestamp(now_ms).to_zoned(zone.clone());
    let name = |date: &jiff::Zoned| format!("{}", date.strftime("%a")).to_lowercase();
    let today = name(&local);
    let yesterday = format!("{}", local.date().yesterday().unwrap().strftime("%a")).to_lowercase();
    let clock = format!("{:02}:{:02}", local.hour(), local.minute());
    windows.iter().any(|window| {
        let on = |day: &str| window.days.is_empty() || window.days.iter().any(|name| **name == *day);
        let (from, to) = (&*window.from, &*window.to);
        if from < to {
            on(&today) && from <= &*clock && &*clock < to
        } else {
            (on(&today) && from <= &*clock) || (on(&yesterday) && &*clock < to)
        }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    /// Against the wall clock of every quarter of an hour until the told change, around the changes of the clocks.
    #[test]
    fn openings_are_what_the_wall_clock_shows(
        windows in proptest::collection::vec(any_window(), 1..4),
        rule in proptest::sample::select(&ZONES[..]),
        near in proptest::sample::select(vec![
            "2026-03-28T00:00:00Z", "2026-10-24T00:00:00Z", "2025-11-01T00:00:00Z", "2026-02-13T00:00:00Z",
            "2026-04-04T00:00:00Z", "2026-07-01T00:00:00Z",
        ]),
        minutes in 0..4_320u64,
    ) {
        let zone = posix(rule);
        let compiled = Windows::compile(&windows).unwrap();
        let now_ms = at(near) + minutes * 60_000;
        let opening = compiled.opening(&zone, now_ms);
        prop_assert_eq!(opening.open, is_open(&windows, &zone, now_ms));
        let end_ms = now_ms + 8 * 24 * HOUR_MS;
        prop_assert!(opening.until_ms > now_ms && opening.until_ms <= end_ms);
        let mut quarter = (now_ms / 900_000 + 1) * 900_000;
        while quarter < opening.until_ms {
            prop_assert_eq!(is_open(&windows, &zone, quarter), opening.open, "changed at {} already", quarter);
            quarter += 900_000;
        }
        if opening.until_ms < end_ms {
            prop_assert_eq!(is_open(&windows, &zone, opening.until_ms), !opening.open, "no change when told");
        }
    }

    #[test]
    fn calendars_follow_each_other_without_a_gap(
        rule in proptest::sample::select(&ZONES[..]),
        start_ms in 1_700_000_000_000..1_900_000_000_000u64,
    ) {
        let zone = posix(rule);
        let mut calendar = Calendar::new(&zone, start_ms);
        for _ in 0..40 {
            let date = calendar::timestamp(calendar.unix_ms).to_zoned(zone.clone()).date();
            prop_assert_eq!(calendar.day, civil::day_number(date.year().into(), date.month() as u32, date.day() as u32));
            prop_assert!((calendar.day_starts_ms..calendar.next_day_ms).contains(&calendar.unix_ms));
            prop_assert!(calendar.next_month_ms >= calendar.next_day_ms);
            let last = calendar.at(&zone, calendar.next_day_ms - 1);
            prop_assert_eq!((last.day, last.next_day_ms), (calendar.day, calendar.next_day_ms));
            prop_assert_eq!(last, Calendar::new(&zone, calendar.next_day_ms - 1));
            let next = calendar.at(&zone, calendar.next_day_ms);
            prop_assert_eq!(next, Calendar::new(&zone, calendar.next_day_ms));
            prop_assert_eq!(next.day, calendar.day + 1);
            prop_assert_eq!(next.day_starts_ms, calendar.next_day_ms);
            prop_assert_eq!(next.month != calendar.month, calendar.next_month_ms == calendar.next_day_ms);
            calendar = next;
        }
    }
}

#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    let limits = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        check_limits("limits", &limits).map_err(|error| error.to_string())
    };
    assert_eq!(limits(|_| {}), Ok(()));
    assert_eq!(limits(|limits| limits.per_day = Some(0)), Ok(()));
    for (change, expected) in [
        ((|limits| limits.per_day = Some(u32::MAX)) as fn(&mut Limits), "limits.per_day may be at most 1000000000;"),
        (|limits| limits.recipients_per_month = Some(1_025), "limits.recipients_per_month may be at most 1024;"),
        (|limits| limits.gap_ms = Some(86_400_001), "limits.gap_ms may be at most 86400000;"),
    ] {
        let error = limits(change).unwrap_err();
        assert!(error.starts_with(expected), "{error}");
    }
    for (window, expected) in [
        (window(&["monday"], "08:00", "20:00"), "windows[0].days[0] has to be one of mon"),
        (window(&[], "8:00", "20:00"), "windows[0].from has to be a time of day from 00:00 to 23:59"),
        (window(&[], "24:00", "20:00"), "windows[0].from has to be"),
        (window(&[], "08:00", "24:01"), "windows[0].to has to be a time of day from 00:00 to 24:00"),
        (window(&[], "08:60", "20:00"), "windows[0].from has to be"),
        (window(&[], "08:00", "08:00"), "windows[0].to has to differ from `from`"),
        (window(&[], "0é:00", "08:00"), "windows[0].from has to be"),
    ] {
        let error = check_windows("windows", std::slice::from_ref(&window)).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
        assert!(Windows::compile(&[window]).is_err());
    }
    let many = vec![window(&[], "08:00", "20:00"); 17];
    assert!(check_windows("windows", &many).unwrap_err().to_string().contains("at most 16 entries"));
    for (per_day, expected) in [
        (vec![], "warm_up.per_day has to have 1 to 90 entries"),
        (vec![1; 91], "warm_up.per_day has to have 1 to 90 entries"),
        (vec![5, 0], "warm_up.per_day[1] has to be 1 to"),
    ] {
        let error = check_warm_up("warm_up", &WarmUp { per_day }).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let price = |country: &str, micros: u64| Price {
        by_country: [(country.into(), Micros(micros))].into_iter().collect(),
        ..Price::default()
    };
    assert_eq!(check_price("price", &price("TZ", 50_000)), Ok(()));
    for (price, expected) in [
        (price("tz", 1), "price.by_country.tz has to be named by the two capital letters"),
        (price("TZ", u64::MAX), "price.by_country.TZ may be at most 1000000 for a segment"),
        (Price { per_segment: Micros(u64::MAX), ..Price::default() }, "price.per_segment may be at most 1000000"),
        (Price { bundle_per_month: Some(u32::MAX), ..Price::default() }, "price.bundle_per_month may be at most"),
    ] {
        let error = check_price("price", &price).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    for (messages, window_s, field) in
        [(0, 60, "messages"), (101, 60, "messages"), (1, 0, "window_s"), (1, 2_592_001, "window_s")]
    {
        let error = check_recipient_limit("recipient_limit", &RecipientLimit { messages, window_s }).unwrap_err();
        assert_eq!(error.field, format!("recipient_limit.{field}"));
    }
    assert_eq!(Invalid::new("limits.per_day", "x").inside("sims.default").field, "sims.default.limits.per_day");
}
