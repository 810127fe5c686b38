//! Receipts as they are seen in the wild, and round trips with what the test SMSC writes.

use flotilla_protocol::wire::ErrorClass;
use proptest::prelude::*;

use super::*;
use crate::smpp::pdu::PduAddress;
use crate::smpp::testing::{Dialect, Facts};

fn with_text(text: &str) -> Deliver {
    let address = PduAddress { ton: 1, npi: 1, digits: "255700000000".to_owned() };
    Deliver {
        source: address.clone(),
        dest: address,
        esm_class: 0x04,
        data_coding: 0,
        message: text.as_bytes().to_vec(),
        receipted_id: None,
        message_state: None,
        network_error: None,
        sar: None,
    }
}

fn read_text(text: &str) -> Option<Report> {
    read(&with_text(text), &TimeZone::UTC)
}

/// Id, state or refusal's code.
fn told(text: &str) -> (String, String) {
    let report = read_text(text).unwrap_or_else(|| panic!("unreadable: {text}"));
    let state = match report.state {
        ReceiptState::Failed(refusal) => refusal.code.to_string(),
        other => format!("{other:?}").to_lowercase(),
    };
    (report.text_id.unwrap_or_default().to_string(), state)
}

#[test]
fn receipts_of_many_vendors() {
    let table = [
        // The specification's own, from several aggregators.
        (
            "id:40072910491427628 sub:001 dlvrd:001 submit date:1007291049 done date:1007291049 stat:DELIVRD err:000",
            ("40072910491427628", "delivered"),
        ),
        (
            "id:0911897980 sub:001 dlvrd:000 submit date:1201121551 done date:1201121551 stat:UNDELIV err:075 text:-PROF",
            ("0911897980", "smpp-undeliverable-075"),
        ),
        (
            "id:0000000012345678 sub:001 dlvrd:001 submit date:1601010100 done date:1601010101 stat:DELIVRD err:000 text:none",
            ("0000000012345678", "delivered"),
        ),
        // Twelve digits of time; ids of hexadecimal digits.
        (
            "id:a29f6845555647139e5c8f3b817f2c9a sub:001 dlvrd:001 submit date:141023215253 done date:141023215259 stat:DELIVRD err:000 text:",
            ("a29f6845555647139e5c8f3b817f2c9a", "delivered"),
        ),
        // Without counts.
        (
            "id:1526758174 submit date:1701240904 done date:1701240904 stat:DELIVRD err:000 text:hellow",
            ("1526758174", "delivered"),
        ),
        // Four digits of error; a text with colons.
        (
            "id:117062714244798261 sub:001 dlvrd:001 submit date:1706271624 done date:1706271624 stat:DELIVRD err:0000 text:stat:UNDELIV err:9",
            ("117062714244798261", "delivered"),
        ),
        // States of other lengths, filled up with spaces.
        ("id:77 sub:1 dlvrd:0 done date:1706271624 stat:FAILED  err:21 text:x", ("77", "smpp-undeliverable-21")),
        ("id:77 sub:1 dlvrd:1 stat:ACKED   err:0 text:x", ("77", "pending")),
        // A space behind the colons; other case.
        (
            "id: 5f-1 sub: 001 dlvrd: 001 submit date: 1007291049 done date: 1007291049 stat: DELIVRD err: 0",
            ("5f-1", "delivered"),
        ),
        ("ID:5 STAT:DELIVERED", ("5", "delivered")),
        ("Id:5 Stat:Expired Err:0x1f", ("5", "expired")),
        // Another order.
        ("stat:REJECTD err:a12 id:5 text:hello", ("5", "smpp-rejected-a12")),
        ("text:hello stat of affairs id:5 stat:UNDELIV err:", ("5", "smpp-undeliverable")),
        // Other separators.
        ("id:5,sub:1,dlvrd:1,stat:DELIVRD,err:0", ("5", "delivered")),
        ("id:5;stat:ENROUTE;err:0", ("5", "pending")),
        ("id=5&stat=DELETED&err=12", ("5", "smpp-deleted-12")),
        ("id:5\nstat:UNKNOWN\nerr:0\n", ("5", "pending")),
        ("message_id:\"5\" status:'ACCEPTD'", ("5", "pending")),
        // A number as in message_state.
        ("id:5 stat:2 err:0", ("5", "delivered")),
        ("id:5 stat:8 err:DEAD-BEEF-0123456789", ("5", "smpp-rejected-deadbeef01234567")),
    ];
    for (text, (id, state)) in table {
        assert_eq!(told(text), (id.to_owned(), state.to_owned()), "{text}");
    }
}

#[test]
fn what_is_no_receipt() {
    for text in ["", "Hello", "id:", "id:5", "stat:DELIVRD", "id:5 stat:", "id:5 stat:WHAT", "grid:5 restat:DELIVRD"] {
        assert_eq!(read_text(text), None, "{text}");
    }
    let long = format!("id:{} stat:DELIVRD", "9".repeat(500));
    assert_eq!(read_text(&long), None, "no id is that long");
}

#[test]
fn by_parameters() {
    let mut deliver = with_text("");
    deliver.receipted_id = Some("A1".into());
    deliver.message_state = Some(2);
    let report = read(&deliver, &TimeZone::UTC).unwrap();
    assert_eq!((report.parameter_id.as_deref(), report.state), (Some("A1"), ReceiptState::Delivered));
    // The network's own code says what it was.
    deliver.message_state = Some(5);
    deliver.network_error = Some((3, 27));
    let ReceiptState::Failed(refusal) = read(&deliver, &TimeZone::UTC).unwrap().state else { panic!() };
    assert_eq!((refusal.class, &*refusal.code), (ErrorClass::Transient, "smpp-undeliverable-gsm-27"));
    deliver.network_error = Some((8, 12));
    let ReceiptState::Failed(refusal) = read(&deliver, &TimeZone::UTC).unwrap().state else { panic!() };
    assert_eq!(&*refusal.code, "smpp-undeliverable-12");
}

#[test]
fn parameters_and_text_together() {
    let mut deliver = with_text("id:161 done date:2311142213 stat:DELIVRD err:000");
    deliver.receipted_id = Some("a1".into());
    // Some set the parameter to "en route" always.
    deliver.message_state = Some(1);
    let report = read(&deliver, &TimeZone::UTC).unwrap();
    assert_eq!(report.state, ReceiptState::Delivered);
    assert_eq!((report.parameter_id.as_deref(), report.text_id.as_deref()), (Some("a1"), Some("161")));
    assert_eq!(report.at_ms, Some(1_699_999_980_000));
    deliver.message_state = Some(3);
    assert_eq!(read(&deliver, &TimeZone::UTC).unwrap().state, ReceiptState::Expired, "a final parameter counts");
}

#[test]
fn which_ones_are_receipts() {
    let mut deliver = with_text("id:5 stat:DELIVRD");
    for (esm_class, expected) in [(0x04, true), (0x44, true), (0x20, true), (0x00, false), (0x40, false), (0x08, false)]
    {
        deliver.esm_class = esm_class;
        assert_eq!(is_receipt(&deliver, false), expected, "0x{esm_class:02x}");
    }
    deliver.esm_class = 0;
    assert!(is_receipt(&deliver, true), "by its text, where the account says so");
    deliver.message = b"id:5 is my number".to_vec();
    assert!(!is_receipt(&deliver, true));
    deliver.receipted_id = Some("5".into());
    deliver.message_state = Some(2);
    assert!(is_receipt(&deliver, false), "by both of its parameters");
    // An intermediate notification without a state.
    let mut deliver = with_text("id:5");
    deliver.esm_class = 0x20;
    assert_eq!(read(&deliver, &TimeZone::UTC).unwrap().state, ReceiptState::Pending);
}

#[test]
fn text_in_ucs2_and_behind_a_header() {
    let mut deliver = with_text("");
    deliver.data_coding = 8;
    deliver.message = "id:5 stat:DELIVRD".encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert_eq!(read(&deliver, &TimeZone::UTC).unwrap().text_id.as_deref(), Some("5"));
    let mut deliver = with_text("");
    deliver.esm_class = 0x44;
    deliver.message = [b"\x05\x00\x03\x01\x01\x01".as_slice(), b"id:5 stat:DELIVRD"].concat();
    assert_eq!(read(&deliver, &TimeZone::UTC).unwrap().text_id.as_deref(), Some("5"));
}

fn any_facts() -> impl Strategy<Value = Facts> {
    let stat = prop::sample::select(vec![
        "DELIVRD", "EXPIRED", "DELETED", "UNDELIV", "ACCEPTD", "UNKNOWN", "REJECTD", "ENROUTE",
    ]);
    let date = prop::sample::select(vec!["2311142213", "231114221320"]);
    ("[0-9a-zA-Z-]{1,40}", stat, "[0-9a-zA-Z]{1,8}", date, "[a-z]{0,10}( [a-z]{1,10}){0,3}")
        .prop_map(|(id, stat, err, done, text)| Facts { id, stat: stat.to_owned(), err, done: done.to_owned(), text })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn what_the_test_smsc_writes(facts in any_facts()) {
        for dialect in Dialect::ALL {
            let text = dialect.write(&facts);
            let fields = text_fields(&text);
            prop_assert_eq!(fields.id, Some(facts.id.as_str()), "{}", text);
            prop_assert_eq!(fields.state, Some(facts.stat.as_str()), "{}", text);
            prop_assert_eq!(fields.done, dialect.has_date().then_some(facts.done.as_str()), "{}", text);
            prop_assert_eq!(fields.error, dialect.has_error().then_some(facts.err.as_str()), "{}", text);
        }
    }

    #[test]
    fn nothing_panics(text in ".{0,200}", octets in prop::collection::vec(any::<u8>(), 0..300), esm_class: u8, coding: u8) {
        text_fields(&text);
        let mut deliver = with_text("");
        (deliver.message, deliver.esm_class, deliver.data_coding) = (octets, esm_class, coding);
        read(&deliver, &TimeZone::UTC);
        is_receipt(&deliver, true);
    }

    #[test]
    fn names_and_colons_in_any_order(words in prop::collection::vec("(id|stat|err|text|done date|sub|[: =,é]|[a-z0-9]{1,3})", 0..30)) {
        text_fields(&words.concat());
    }
}
