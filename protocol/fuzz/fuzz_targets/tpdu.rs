//! Every TPDU decoder; what was decoded can be encoded, and then decodes to the same.
#![no_main]

use flotilla_protocol::address::Address;
use flotilla_protocol::sms::tpdu::{Deliver, DeliverReport, Incoming, StatusReport, Submit, SubmitReport, TpduError};
use libfuzzer_sys::fuzz_target;

/// A name that ends with @ may lose it (some senders fill up with it), so names are only encoded, not compared.
fn again(address: &Address, encode: impl Fn() -> Result<Vec<u8>, TpduError>) -> Option<Vec<u8>> {
    let octets = encode().ok();
    octets.filter(|_| !matches!(address, Address::Alphanumeric(_)))
}

fuzz_target!(|octets: &[u8]| {
    let _ = Incoming::decode(octets);
    let _ = (SubmitReport::decode(octets), DeliverReport::decode(octets));
    if let Ok(deliver) = Deliver::decode(octets) {
        if let Ok(content) = deliver.content() {
            assert!(content.text().chars().count() <= 160);
        }
        if let Some(again) = again(&deliver.from, || deliver.encode()) {
            assert_eq!(Deliver::decode(&again).as_ref(), Ok(&deliver));
        }
    }
    if let Ok(submit) = Submit::decode(octets) {
        let _ = submit.user_data.content(submit.coding);
        if let Some(again) = again(&submit.to, || submit.encode()) {
            assert_eq!(Submit::decode(&again), Ok(submit));
        }
    }
    if let Ok(report) = StatusReport::decode(octets) {
        let _ = (report.status.outcome(), report.status.reason());
        if let Some(again) = again(&report.to, || report.encode()) {
            assert_eq!(StatusReport::decode(&again), Ok(report));
        }
    }
});
