//! Unpacking with any offset and count, decoding with any pair of tables.
#![no_main]

use flotilla_protocol::sms::{Language, Shift, gsm7};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, u8, u8, &[u8])| {
    let (locking, single, fill, count, octets) = input;
    let shift = Shift { locking: Language::from_identifier(locking), single: Language::from_identifier(single) };
    let (fill, count) = (fill % 7, usize::from(count));
    let Some(septets) = gsm7::unpack(octets, fill, count) else {
        assert!(gsm7::octets_for(count, fill) > octets.len());
        return;
    };
    assert_eq!(septets.len(), count);
    let mut packed = Vec::new();
    gsm7::pack(&septets, fill, &mut packed);
    assert_eq!(gsm7::unpack(&packed, fill, count).as_ref(), Some(&septets));
    let text = gsm7::decode(&septets, shift);
    let mut again = Vec::new();
    if gsm7::encode(&text, shift, &mut again).is_ok() {
        assert_eq!(gsm7::decode(&again, shift), text);
    }
});
