//! Any order of segments of any senders: bounded, and each tag comes back once.
#![no_main]

use flotilla_protocol::address::Address;
use flotilla_protocol::sms::{Concatenation, Content, Event, Limits, Payload, Reassembler, Udh};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|parts: Vec<(u8, u8, u8, u8, u16, Vec<u8>)>| {
    let mut reassembler = Reassembler::new(Limits { messages_max: 4, age_max_ms: 1000 });
    let pushed = parts.len();
    let mut returned = 0;
    for (sender, reference, total, number, now_ms, octets) in parts {
        let concatenation = (1..=total).contains(&number).then_some(Concatenation {
            reference: u16::from(reference % 4),
            wide: reference & 4 != 0,
            total,
            number,
        });
        let payload = match sender >> 4 & 3 {
            0 => Payload::Septets(octets),
            1 => Payload::Utf16(octets.iter().map(|octet| u16::from(*octet) << 8 | 0x20).collect()),
            _ => Payload::Octets(octets),
        };
        let content = Content { udh: Udh { concatenation, ..Udh::default() }, payload };
        let from = Address::Short((sender & 3).to_string());
        let now_ms = u64::from(now_ms);
        for event in reassembler.push(from, content, Some(u64::from(sender >> 6)), (), now_ms) {
            returned += match event {
                Event::Message(joined) => {
                    let _ = (joined.text(), joined.first());
                    joined.tags.len()
                }
                Event::Repeated(()) => 1,
            };
        }
        returned += reassembler.expire(now_ms).iter().map(|joined| joined.tags.len()).sum::<usize>();
        assert!(reassembler.len() <= 4);
    }
    returned += reassembler.expire(u64::MAX).iter().map(|joined| joined.tags.len()).sum::<usize>();
    assert_eq!(pushed, returned);
});
