//! Any text with any options: the plan is what is made, and what is made reads as the text.
#![no_main]

use flotilla_protocol::address::Address;
use flotilla_protocol::sms::Event;
use flotilla_protocol::sms::tpdu::{DataCoding, UserData};
use flotilla_protocol::sms::{EncodeOptions, Reassembler, plan, segments};
use flotilla_protocol::wire::Alphabet;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u16, &str)| {
    let (bits, reference, text) = input;
    let options = EncodeOptions {
        alphabet: [Alphabet::Auto, Alphabet::Gsm7, Alphabet::Ucs2, Alphabet::Auto][usize::from(bits & 3)],
        national_tables: bits & 4 == 0,
        smart: bits & 8 != 0,
        wide_reference: bits & 16 != 0,
        segments_max: 255,
    };
    let Ok(plan) = plan(text, &options) else { return };
    let segments = segments(text, &plan, reference);
    assert_eq!(segments.len(), usize::from(plan.segments));
    let mut reassembler = Reassembler::default();
    for segment in segments {
        assert!(segment.user_data.len() <= 140);
        let coding = DataCoding::new(segment.encoding, None);
        let content = UserData::from(segment).content(coding).expect("own segments can be read");
        for event in reassembler.push(Address::Short(String::new()), content, None, (), 0) {
            let Event::Message(joined) = event else { panic!("repeated") };
            assert!(plan.smart || joined.text() == text);
        }
    }
});
