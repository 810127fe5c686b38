//! User data headers; what was decoded survives encoding.
#![no_main]

use flotilla_protocol::sms::Udh;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|octets: &[u8]| {
    let Some((udh, length)) = Udh::decode(octets) else { return };
    assert!(length <= octets.len());
    let mut again = Vec::new();
    udh.encode(&mut again);
    assert_eq!(again.len(), udh.octets());
    if !again.is_empty() {
        assert_eq!(Udh::decode(&again), Some((udh, again.len())));
    }
});
