//! Everything that is parsed from what people type and modems print.
#![no_main]

use flotilla_protocol::number::{Iccid, Imsi, Msisdn, Plmn, Region};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (u8, u8, &str)| {
    let (first, second, text) = input;
    let region = String::from_utf8_lossy(&[b'A' + first % 26, b'A' + second % 26]).into_owned();
    for number in [Msisdn::parse(text), Msisdn::parse_in(text, &region)].into_iter().flatten() {
        assert_eq!(Msisdn::parse(&number.to_string()), Ok(number));
        assert_eq!(Msisdn::from_u64(number.as_u64()), Ok(number));
        assert!(number.calling_code() > 0);
        let _ = (number.region(), format!("{number:?}"));
    }
    if let Ok(iccid) = Iccid::parse(text) {
        assert_eq!(Iccid::parse(iccid.as_str()), Ok(iccid));
    }
    if let Ok(imsi) = Imsi::parse(text) {
        assert_eq!(Imsi::parse(imsi.as_str()), Ok(imsi));
        let _ = (imsi.home(first), format!("{imsi:?}"));
    }
    if let Ok(plmn) = Plmn::parse(text) {
        assert_eq!(Plmn::parse(&plmn.to_string()), Ok(plmn));
    }
    let _ = Region::parse(text);
});
