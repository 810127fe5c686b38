//! PDUs in hexadecimal, as a modem prints them.
#![no_main]

use flotilla_protocol::sms::tpdu::{Incoming, split_smsc, with_smsc};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok((_, tpdu)) = split_smsc(text) {
        assert!(tpdu.len() * 2 <= text.len());
        let _ = Incoming::decode(&tpdu);
        assert_eq!(split_smsc(&with_smsc(None, &tpdu)), Ok((None, tpdu)));
    }
});
