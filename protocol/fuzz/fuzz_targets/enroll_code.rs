//! Enrolment codes; what was parsed prints and parses again.
#![no_main]

use flotilla_protocol::enroll_code::EnrollCode;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(code) = EnrollCode::parse(text) {
        let again = code.to_text().expect("a parsed code prints");
        assert!(EnrollCode::parse(&again).is_ok());
    }
});
