//! Joining segments: in any order, doubled, mixed, late, and more of them than there is room for.

use proptest::prelude::*;

use super::super::tpdu::{DataCoding, UserData};
use super::super::{EncodeOptions, Udh, plan, segments};
use super::*;

fn from(digits: &str) -> Address {
    Address::Short(digits.to_owned())
}

fn contents(text: &str, reference: u16) -> Vec<Content> {
    let plan = plan(text, &EncodeOptions { segments_max: 255, ..EncodeOptions::default() }).unwrap();
    let open = |segment: super::super::Segment| {
        let coding = DataCoding::new(segment.encoding, None);
        UserData::from(segment).content(coding).unwrap()
    };
    segments(text, &plan, reference).into_iter().map(open).collect()
}

fn long(letter: &str) -> String {
    format!("{letter} and {} more", letter.repeat(200))
}

fn texts<T>(events: Vec<Event<T>>) -> Vec<String> {
    let messages = events.into_iter().filter_map(|event| match event {
        Event::Message(joined) => Some(joined.text()),
        Event::Repeated(_) => None,
    });
    messages.collect()
}

#[test]
fn single_segments_pass() {
    let mut reassembler = Reassembler::default();
    let [content] = contents("hi", 0).try_into().unwrap();
    let events = reassembler.push(from("1"), content, Some(5), "tag", 0);
    let [Event::Message(joined)] = &events[..] else { panic!() };
    assert_eq!((joined.text().as_str(), joined.segments, joined.missing), ("hi", 1, 0));
    assert_eq!((joined.sent_ms, &joined.tags[..]), (Some(5), &["tag"][..]));
    assert!(reassembler.is_empty());
}

#[test]
fn order_does_not_matter_and_tags_come_back() {
    let text = long("a");
    let [first, second] = contents(&text, 3).try_into().unwrap();
    let mut reassembler = Reassembler::default();
    assert_eq!(reassembler.push(from("1"), second.clone(), Some(20), 2, 0), []);
    assert_eq!(reassembler.push(from("2"), second.clone(), Some(20), 9, 0), [], "another sender");
    assert_eq!(reassembler.push(from("1"), second, Some(20), 3, 0), [Event::Repeated(3)]);
    let events = reassembler.push(from("1"), first.clone(), Some(10), 1, 0);
    let [Event::Message(joined)] = &events[..] else { panic!() };
    assert_eq!((joined.text(), &joined.tags[..], joined.sent_ms), (text, &[1, 2][..], Some(10)));
    assert_eq!(reassembler.push(from("1"), first, Some(10), 4, 0), [Event::Repeated(4)], "after completion");
}

#[test]
fn the_digest_is_of_what_was_sent() {
    let digest = |order: [usize; 2], sent_ms| {
        let contents = contents(&long("a"), 3);
        let mut reassembler = Reassembler::default();
        assert_eq!(reassembler.push(from("1"), contents[order[0]].clone(), Some(sent_ms), (), 0), []);
        match reassembler.push(from("1"), contents[order[1]].clone(), Some(sent_ms), (), 0).remove(0) {
            Event::Message(joined) => joined.digest,
            Event::Repeated(()) => panic!(),
        }
    };
    assert_eq!(digest([0, 1], 7), digest([1, 0], 7));
    assert_ne!(digest([0, 1], 7), digest([0, 1], 8), "the same text sent again");
    assert_eq!(digest([0, 1], 7), 0xa59a_8eaf_7cf1_9a31, "kept by outboxes: must never change");
}

#[test]
fn a_reference_may_be_used_again() {
    let mut reassembler = Reassembler::default();
    for (letter, sent_ms) in [("a", 1), ("a", 2), ("b", 3)] {
        let [first, second] = contents(&long(letter), 0).try_into().unwrap();
        assert_eq!(reassembler.push(from("1"), first, Some(sent_ms), 0, 0), []);
        assert_eq!(texts(reassembler.push(from("1"), second, Some(sent_ms), 0, 0)), [long(letter)]);
    }
    // A sender that stops in the middle and starts anew: the half message comes out with its gap.
    let [first, _] = contents(&long("c"), 0).try_into().unwrap();
    assert_eq!(reassembler.push(from("1"), first.clone(), Some(4), 0, 0), []);
    let given_up = texts(reassembler.push(from("1"), first, Some(5), 0, 0));
    assert_eq!(given_up, [format!("{}…", &long("c")[..153])]);
}

#[test]
fn old_ones_are_given_up() {
    let mut reassembler = Reassembler::new(Limits { messages_max: 10, age_max_ms: 1000 });
    let [first, second] = contents(&long("a"), 1).try_into().unwrap();
    assert_eq!(reassembler.next_deadline(), None);
    reassembler.push(from("1"), second, None, "second", 500);
    assert_eq!(reassembler.expire(1500), []);
    assert_eq!(reassembler.next_deadline(), Some(1501));
    let [joined] = reassembler.expire(1501).try_into().unwrap();
    assert_eq!((joined.missing, joined.segments, &joined.tags[..]), (1, 2, &["second"][..]));
    assert!(joined.text().starts_with('…'));
    assert!(reassembler.is_empty());
    reassembler.push(from("1"), first, None, "first", 2000);
    assert_eq!(reassembler.len(), 1);
}

#[test]
fn count_is_bounded_and_remembered_ones_go_first() {
    let mut reassembler = Reassembler::new(Limits { messages_max: 3, age_max_ms: 1000 });
    let push = |reassembler: &mut Reassembler<u16>, reference: u16, part: usize, now_ms| {
        reassembler.push(from("1"), contents(&long("a"), reference)[part].clone(), None, reference, now_ms)
    };
    push(&mut reassembler, 1, 0, 10);
    push(&mut reassembler, 2, 0, 20);
    push(&mut reassembler, 2, 1, 20);
    push(&mut reassembler, 3, 0, 30);
    assert_eq!(push(&mut reassembler, 4, 0, 40), [], "the complete one made room");
    let given_up = push(&mut reassembler, 5, 0, 50);
    assert!(matches!(&given_up[..], [Event::Message(joined)] if joined.tags == [1]));
    assert_eq!(reassembler.len(), 3);
}

/// Some senders cut text without regard to pairs; joined before decoding it reads right.
#[test]
fn characters_cut_in_two_are_healed() {
    let part = |number, payload| {
        let concatenation = Some(Concatenation { reference: 1, wide: false, total: 2, number });
        Content { udh: Udh { concatenation, ..Udh::default() }, payload }
    };
    let mut reassembler = Reassembler::default();
    reassembler.push(from("1"), part(1, Payload::Utf16(vec![0x41, 0xd83d])), None, (), 0);
    assert_eq!(texts(reassembler.push(from("1"), part(2, Payload::Utf16(vec![0xde00, 0x42])), None, (), 0)), ["A😀B"]);
    let mut reassembler = Reassembler::default();
    reassembler.push(from("1"), part(1, Payload::Septets(vec![0x41, 0x1b])), None, (), 0);
    assert_eq!(texts(reassembler.push(from("1"), part(2, Payload::Septets(vec![0x65])), None, (), 0)), ["A€"]);
    let mut reassembler = Reassembler::default();
    reassembler.push(from("1"), part(1, Payload::Septets(vec![0x41])), None, (), 0);
    assert_eq!(texts(reassembler.push(from("1"), part(2, Payload::Utf16(vec![0x416])), None, (), 0)), ["AЖ"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_order_with_repetitions(
        text in "[a-z€😀]{0,600}", order in prop::collection::vec(any::<prop::sample::Index>(), 0..40), reference: u16,
    ) {
        let contents = contents(&text, reference);
        let mut reassembler = Reassembler::default();
        let mut joined = Vec::new();
        let mut tags = 0;
        let all = order.iter().map(|index| index.index(contents.len())).chain(0..contents.len());
        for (tag, at) in all.enumerate() {
            tags += 1;
            for event in reassembler.push(from("1"), contents[at].clone(), Some(1), tag, 0) {
                match event {
                    Event::Message(message) => {
                        tags -= message.tags.len();
                        joined.push(message.text());
                    }
                    Event::Repeated(_) => tags -= 1,
                }
            }
        }
        prop_assert_eq!(tags, 0);
        // A message of one segment is not held, so that each repetition comes out.
        joined.dedup();
        prop_assert_eq!(joined, [text]);
    }

    #[test]
    fn any_parts_stay_within_bounds(
        parts in prop::collection::vec((0u8..4, any::<u8>(), any::<u8>(), prop::collection::vec(any::<u8>(), 0..8), 0u64..5000), 0..200),
    ) {
        let mut reassembler = Reassembler::new(Limits { messages_max: 5, age_max_ms: 2000 });
        let (mut pushed, mut returned) = (0, 0);
        for (sender, total, number, octets, now_ms) in parts {
            let concatenation = (1..=total).contains(&number).then_some(Concatenation { reference: 1, wide: false, total, number });
            let content = Content { udh: Udh { concatenation, ..Udh::default() }, payload: Payload::Octets(octets) };
            pushed += 1;
            for event in reassembler.push(from(&sender.to_string()), content, None, (), now_ms) {
                returned += match event {
                    Event::Message(joined) => { let _ = joined.text(); joined.tags.len() }
                    Event::Repeated(()) => 1,
                };
            }
            returned += reassembler.expire(now_ms).iter().map(|joined| joined.tags.len()).sum::<usize>();
            prop_assert!(reassembler.len() <= 5);
        }
        returned += reassembler.expire(u64::MAX).iter().map(|joined| joined.tags.len()).sum::<usize>();
        prop_assert_eq!(pushed, returned);
    }
}
