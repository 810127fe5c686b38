//! What rules let through: one table for conditions, one property for the table of beginnings, and the share.

use flotilla_protocol::id::MessageId;
use proptest::prelude::*;

use super::*;
use crate::settings::Window;

/// Saturday 2026-11-21 12:00 UTC.
const NOON_MS: u64 = 1_795_262_400_000;

fn message(n: u8) -> Classify<'static> {
    Classify {
        to: Msisdn::from_u64(255_712_345_678).unwrap(),
        text: "Your code is 1234",
        sender: Some("ACME"),
        class: Priority::Normal,
        tags: &[],
        message: MessageId::new(NOON_MS, [n; 10]),
        plan: None,
    }
}

fn rule(when: Conditions) -> Compiled {
    let rule = Rule { name: "one".into(), when, plan: "sims-only".into(), share_percent: None };
    Compiled::new(&rule, &TimeZone::UTC)
}

fn texts(list: &[&str]) -> Vec<Box<str>> {
    list.iter().map(|text| (*text).into()).collect()
}

fn window(from: &str, to: &str) -> Vec<Window> {
    vec![Window { days: vec![], from: from.into(), to: to.into() }]
}

#[test]
fn each_condition_has_to_hold_and_the_one_that_does_not_is_told() {
    let none = Conditions::default;
    let tags = texts(&["otp", "vip"]);
    let tagged = Classify { tags: &tags, ..message(1) };
    let cases = [
        (none(), None),
        (Conditions { prefixes: texts(&["25571", "254"]), ..none() }, None),
        (Conditions { prefixes: texts(&["25572", "254"]), ..none() }, Some(Unmet::Prefix)),
        (Conditions { countries: texts(&["KE", "tz"]), ..none() }, None),
        (Conditions { countries: texts(&["KE"]), ..none() }, Some(Unmet::Country)),
        (Conditions { senders: texts(&["acme"]), ..none() }, None),
        (Conditions { senders: texts(&["other"]), ..none() }, Some(Unmet::Sender)),
        (Conditions { text: Some("(?i)CODE is [0-9]+".into()), ..none() }, None),
        (Conditions { text: Some("^code".into()), ..none() }, Some(Unmet::Text)),
        (Conditions { text: Some("(".into()), ..none() }, Some(Unmet::Text)),
        (Conditions { priorities: vec![Priority::Urgent, Priority::Normal], ..none() }, None),
        (Conditions { priorities: vec![Priority::Urgent], ..none() }, Some(Unmet::Priority)),
        (Conditions { tags: texts(&["vip"]), ..none() }, None),
        (Conditions { tags: texts(&["VIP"]), ..none() }, Some(Unmet::Tag)),
        (Conditions { times: window("11:00", "13:00"), ..none() }, None),
        (Conditions { times: window("13:00", "11:00"), ..none() }, Some(Unmet::Time)),
    ];
    for (when, expected) in cases {
        assert_eq!(rule(when.clone()).unmet(&tagged, NOON_MS), expected, "{when:?}");
    }
    let anonymous = Classify { sender: None, ..message(1) };
    let named = rule(Conditions { senders: texts(&["acme"]), ..none() });
    assert_eq!(named.unmet(&anonymous, NOON_MS), Some(Unmet::Sender));
}

#[test]
fn a_share_takes_about_its_part_and_always_the_same_messages() {
    let rule =
        Rule { name: "trial".into(), when: Conditions::default(), plan: "cheapest".into(), share_percent: Some(20) };
    let compiled = Compiled::new(&rule, &TimeZone::UTC);
    let takes = |n: u16| {
        let mut random = [0; 10];
        random[..2].copy_from_slice(&n.to_be_bytes());
        let message = Classify { message: MessageId::new(NOON_MS, random), ..message(0) };
        compiled.unmet(&message, NOON_MS).is_none()
    };
    let taken = (0..10_000).filter(|n| takes(*n)).count();
    assert!((1_800..2_200).contains(&taken), "{taken}");
    assert!((0..100).all(|n| takes(n) == takes(n)));
}

#[test]
fn a_rule_without_times_never_changes_by_itself() {
    assert_eq!(rule(Conditions::default()).changes_at(NOON_MS), None);
    let timed = rule(Conditions { times: window("13:00", "14:00"), ..Conditions::default() });
    assert_eq!(timed.changes_at(NOON_MS), Some(NOON_MS + 3_600_000));
}

proptest! {
    #[test]
    fn the_table_of_beginnings_finds_what_a_search_finds(
        prefixes in prop::collection::vec("[1-9][0-9]{0,4}", 1..12),
        number in 1_000_000u64..9_999_999,
    ) {
        let prefixes: Vec<Box<str>> = prefixes.into_iter().map(Into::into).collect();
        let expected = prefixes.iter().any(|prefix| number.to_string().starts_with(&**prefix));
        prop_assert_eq!(Prefixes::new(&prefixes).hold(Msisdn::from_u64(number).unwrap()), expected);
    }
}
