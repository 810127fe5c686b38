//! The exact octets of submits, for each way and alphabet.

use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms::{EncodeOptions, plan};
use proptest::prelude::*;

use super::*;
use crate::account::Account;
use crate::smpp::pdu;

fn settings(fields: &[(&str, &str)]) -> Settings {
    let mut account = Account::default();
    let given = [("host", "h"), ("system_id", "s"), ("validity", "none")];
    account.fields.extend(given.iter().chain(fields).map(|(name, value)| (Box::from(*name), Box::from(*value))));
    account.secrets.insert("password".into(), "p".into());
    Settings::from_account(&account).unwrap()
}

fn outgoing(text: &str) -> Outgoing {
    let unicode = plan(text, &EncodeOptions::default()).is_ok_and(|plan| plan.encoding == Encoding::Ucs2);
    Outgoing {
        reference: "msg_1-1".into(),
        to: Msisdn::parse("+255712345678").unwrap(),
        sender: "Flotilla".into(),
        text: text.into(),
        unicode,
        flash: false,
        segments: 1,
        validity_s: 3600,
    }
}

fn built(text: &str, fields: &[(&str, &str)]) -> Built {
    build(&outgoing(text), &settings(fields), 0x1234, 0).unwrap()
}

fn messages(built: &Built) -> Vec<&[u8]> {
    built.submits.iter().map(|submit| submit.short_message().as_ref()).collect()
}

fn octets(submit: &SubmitSm) -> Vec<u8> {
    pdu::encode(0, 1, submit.clone())
}

#[test]
fn a_short_message_has_these_octets() {
    let built = built("Hi @{", &[("service_type", "CMT"), ("priority", "1"), ("validity", "relative")]);
    let expected = [
        &b"\0\0\0\x4e\0\0\0\x04\0\0\0\0\0\0\0\x01"[..],
        b"CMT\0\x05\0Flotilla\0\x01\x01255712345678\0",
        // esm_class, protocol_id, priority_flag, schedule_delivery_time, validity_period of an hour.
        b"\0\0\x01\0",
        b"000000010000000R\0",
        // registered_delivery, replace_if_present_flag, data_coding, sm_default_msg_id, then the septets of the text.
        b"\x01\0\0\0\x06Hi \0\x1b\x28",
    ];
    let expected = expected.concat();
    assert_eq!(expected[3], expected.len() as u8);
    assert_eq!(octets(&built.submits[0]), expected);
    assert!(!built.whole);
}

#[test]
fn long_texts_with_a_header() {
    let text = "a".repeat(161);
    let built = built(&text, &[]);
    let messages = messages(&built);
    assert_eq!(messages.len(), 2);
    assert_eq!(messages[0], [b"\x05\0\x03\x34\x02\x01".as_slice(), &[b'a'; 153]].concat());
    assert_eq!(messages[1], [b"\x05\0\x03\x34\x02\x02".as_slice(), &[b'a'; 8]].concat());
    for submit in &built.submits {
        assert_eq!((u8::from(submit.esm_class), u8::from(submit.data_coding)), (0x40, 0));
        assert!(submit.tlvs().is_empty());
    }
    let wide = super::build(&outgoing(&text), &settings(&[("wide_reference", "true")]), 0x1234, 0).unwrap();
    assert_eq!(
        wide.submits[0].short_message().as_ref(),
        [b"\x06\x08\x04\x12\x34\x02\x01".as_slice(), &[b'a'; 152]].concat()
    );
}

#[test]
fn long_texts_with_sar_parameters() {
    let built = built(&"b".repeat(161), &[("long_text", "sar")]);
    assert_eq!(built.submits.len(), 2);
    let octets = octets(&built.submits[1]);
    let expected = b"\x08bbbbbbbb\x02\x0c\0\x02\x12\x34\x02\x0e\0\x01\x02\x02\x0f\0\x01\x02";
    assert!(octets.ends_with(expected), "{octets:02x?}");
    assert_eq!(u8::from(built.submits[1].esm_class), 0);
    let short = super::build(&outgoing("b"), &settings(&[("long_text", "sar")]), 1, 0).unwrap();
    assert!(short.submits[0].tlvs().is_empty(), "nothing to say about one segment");
}

#[test]
fn long_texts_in_message_payload() {
    let built = built(&"c".repeat(161), &[("long_text", "payload")]);
    assert_eq!((built.submits.len(), built.whole), (1, true));
    let octets = octets(&built.submits[0]);
    let expected = [b"\0\x04\x24\0\xa1".as_slice(), &[b'c'; 161]].concat();
    assert!(octets.ends_with(&expected), "an empty short_message, then the parameter");
    let short = super::build(&outgoing("c"), &settings(&[("long_text", "payload")]), 1, 0).unwrap();
    assert_eq!((short.submits[0].short_message().as_ref(), short.whole), (&b"c"[..], false));
}

#[test]
fn long_texts_in_one_submit() {
    let fields = [("long_text", "single")];
    let built = built(&"d".repeat(200), &fields);
    assert_eq!((messages(&built), built.whole), (vec![&[b'd'; 200][..]], true));
    let refused = build(&outgoing(&"d".repeat(255)), &settings(&fields), 1, 0).unwrap_err();
    assert_eq!((&*refused.code, refused.class), ("smpp-too-long", ErrorClass::Route));
}

#[test]
fn unicode_is_ucs2() {
    let single = built("Привет 😀", &[]);
    let expected: Vec<u8> = "Привет 😀".encode_utf16().flat_map(u16::to_be_bytes).collect();
    assert_eq!((messages(&single), u8::from(single.submits[0].data_coding)), (vec![&expected[..]], 8));
    // 66 letters and a pair: the pair is not cut in two.
    let text = format!("{}😀{}", "я".repeat(66), "я".repeat(10));
    let long = built(&text, &[]);
    let messages = messages(&long);
    assert_eq!((messages.len(), messages[0].len(), &messages[0][..6]), (2, 6 + 132, &b"\x05\0\x03\x34\x02\x01"[..]));
    assert_eq!(messages[1].get(6..10), Some(&[0xd8, 0x3d, 0xde, 0x00][..]));
}

#[test]
fn alphabets() {
    let coding = |built: &Built| u8::from(built.submits[0].data_coding);
    let latin = built("Zürich @", &[("alphabet", "latin1")]);
    assert_eq!((messages(&latin), coding(&latin)), (vec![&b"Z\xfcrich @"[..]], 3));
    let latin_as_default = built("é", &[("alphabet", "latin1"), ("data_coding", "0")]);
    assert_eq!((messages(&latin_as_default), coding(&latin_as_default)), (vec![&b"\xe9"[..]], 0));
    let ascii = built("a_[", &[("alphabet", "ascii")]);
    assert_eq!((messages(&ascii), coding(&ascii)), (vec![&b"a_["[..]], 1));
    // What these alphabets lack goes over in UCS-2 rather than as another character.
    for (text, alphabet) in [("5 €", "latin1"), ("Δ", "latin1"), ("é", "ascii")] {
        assert_eq!(coding(&built(text, &[("alphabet", alphabet)])), 8, "{text} in {alphabet}");
    }
}

#[test]
fn national_tables_and_flash() {
    // Turkish letters fit 7 bits with the single shift table.
    let text = "ğışç".repeat(20);
    let plain = built(&text, &[]);
    assert_eq!(u8::from(plain.submits[0].data_coding), 8);
    let tables = built(&text, &[("national_tables", "true")]);
    assert_eq!((tables.submits.len(), u8::from(tables.submits[0].data_coding)), (1, 0));
    assert_eq!(u8::from(tables.submits[0].esm_class), 0x40);
    let mut flash = outgoing("now");
    flash.flash = true;
    assert_eq!(u8::from(build(&flash, &settings(&[]), 1, 0).unwrap().submits[0].data_coding), 0x10);
    flash.text = "сейчас".into();
    flash.unicode = true;
    assert_eq!(u8::from(build(&flash, &settings(&[]), 1, 0).unwrap().submits[0].data_coding), 0x18);
}

#[test]
fn addresses() {
    let auto = |text: &str| {
        let address = address(text, Numbering::default());
        (address.ton, address.npi, address.digits)
    };
    assert_eq!(auto("+255712345678"), (1, 1, "255712345678".to_owned()));
    assert_eq!(auto("255712345678"), (1, 1, "255712345678".to_owned()));
    assert_eq!(auto("15000"), (3, 0, "15000".to_owned()));
    assert_eq!(auto("Flotilla 1"), (5, 0, "Flotilla 1".to_owned()));
    assert_eq!(auto(""), (0, 0, String::new()));
    let set = address("15000", Numbering { ton: Some(0), npi: Some(1) });
    assert_eq!((set.ton, set.npi), (0, 1));
    let mut long = outgoing("x");
    for sender in ["A sender that is much too long", "Schön"] {
        long.sender = sender.into();
        assert_eq!(&*build(&long, &settings(&[]), 1, 0).unwrap_err().code, "smpp-sender");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn as_many_submits_as_the_controller_counts(text in "([a-z@€\\[]|[а-я]|😀){0,400}", wide: bool) {
        let options = EncodeOptions { national_tables: false, segments_max: 255, wide_reference: wide, ..EncodeOptions::default() };
        let plan = plan(&text, &options).unwrap();
        for way in ["udh", "sar"] {
            let wide = if wide && way == "udh" { "true" } else { "false" };
            let fields = [("long_text", way), ("wide_reference", wide)];
            let built = build(&outgoing(&text), &settings(&fields), 9, 0).unwrap();
            if way == "udh" || !options.wide_reference {
                prop_assert_eq!(built.submits.len(), usize::from(plan.segments));
            }
            for submit in &built.submits {
                prop_assert!(submit.short_message().as_ref().len() <= 160);
            }
        }
    }
}
