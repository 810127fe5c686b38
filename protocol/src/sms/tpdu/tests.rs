//! TPDUs: known octets and what they mean, there and back, and any octets at all.

use data_encoding::HEXUPPER;
use proptest::prelude::*;

use super::*;
use crate::address::Address;
use crate::number::Msisdn;
use crate::sms::{EncodeOptions, Encoding, Payload, plan, segments};

fn hex(text: &str) -> Vec<u8> {
    HEXUPPER.decode(text.as_bytes()).unwrap()
}

fn international(text: &str) -> Address {
    Address::International(Msisdn::parse(text).unwrap())
}

fn one_segment(text: &str) -> crate::sms::Segment {
    let plan = plan(text, &EncodeOptions::default()).unwrap();
    segments(text, &plan, 0).remove(0)
}

#[test]
fn classic_deliver() {
    let (smsc, tpdu) = split_smsc("07917283010010F5040BC87238880900F10000993092516195800AE8329BFD4697D9EC37").unwrap();
    assert_eq!(smsc, Some(international("+27381000015")));
    let deliver = Deliver::decode(&tpdu).unwrap();
    assert_eq!(deliver.from, Address::Short("27838890001".to_owned()), "a subscriber number, not an international one");
    assert_eq!(deliver.sent, Some(Timestamp { unix_ms: 922_713_419_000, offset_minutes: 120 }));
    assert!(!deliver.more_messages);
    assert_eq!(deliver.content().unwrap().text(), "hellohello");
    assert_eq!(Incoming::decode(&tpdu), Ok(Incoming::Deliver(deliver)));
}

#[test]
fn deliver_from_an_international_number() {
    let pdu = "07911326040000F0040B911346610089F60000208062917314080CC8F71D14969741F977FD07";
    let (smsc, tpdu) = split_smsc(&pdu.to_lowercase()).unwrap();
    assert_eq!(smsc.unwrap().to_string(), "+31624000000");
    let deliver = Deliver::decode(&tpdu).unwrap();
    assert_eq!(deliver.from, international("+31641600986"));
    assert_eq!(deliver.sent.map(|sent| sent.unix_ms), Some(1_030_390_661_000));
    assert_eq!(deliver.content().unwrap().text(), "How are you?");
    assert_eq!(with_smsc(Some(Msisdn::parse("+31624000000").unwrap()), &deliver.encode().unwrap())[..16], pdu[..16]);
}

#[test]
fn classic_submit() {
    let tpdu = hex("11000B916407281553F80000AA0AE8329BFD4697D9EC37");
    let submit = Submit {
        validity: Validity::at_most(4 * 86_400_000),
        ..Submit::new(international("+46708251358"), one_segment("hellohello"), false)
    };
    assert_eq!(submit.encode().unwrap(), tpdu);
    assert_eq!(Submit::decode(&tpdu), Ok(submit));
    assert_eq!(with_smsc(None, &tpdu), format!("00{}", HEXUPPER.encode(&tpdu)));
}

#[test]
fn submit_flags_and_fields() {
    let segment = one_segment("привет");
    let mut submit = Submit::new(Address::Short("*100#".to_owned()), segment, true);
    submit.status_report = true;
    submit.reject_duplicates = true;
    submit.message_reference = 0x7f;
    let octets = submit.encode().unwrap();
    assert_eq!(octets, hex("257F05811A00FB00180C043F04400438043204350442"));
    assert_eq!(Submit::decode(&octets), Ok(submit.clone()));
    assert_eq!(submit.user_data.content(submit.coding).unwrap().text(), "привет");
    for validity in [
        Validity::Absolute(Timestamp { unix_ms: 1_700_000_000_000, offset_minutes: -210 }),
        Validity::Enhanced([0x43, 1, 2, 3, 0, 0, 0]),
        Validity::Relative(255),
    ] {
        submit.validity = Some(validity);
        assert_eq!(Submit::decode(&submit.encode().unwrap()), Ok(submit.clone()));
    }
}

#[test]
fn alphanumeric_sender() {
    let mut deliver = Deliver {
        more_messages: true,
        loop_prevention: false,
        reply_path: false,
        status_report: false,
        from: Address::Alphanumeric("Flotilla@".to_owned()),
        protocol_id: 0,
        coding: DataCoding(0),
        sent: Some(Timestamp { unix_ms: 1_700_000_000_000, offset_minutes: 180 }),
        user_data: one_segment("Hi").into(),
    };
    let octets = deliver.encode().unwrap();
    assert_eq!(octets[1..3], [16, 0xd0], "9 letters are 63 bits, 16 halves of octets");
    assert_eq!(Deliver::decode(&octets), Ok(deliver.clone()));
    // "ABCDEFGHIJK": 77 bits, and the 20 halves that a field has room for.
    deliver.from = Address::Alphanumeric("ABCDEFGHIJK".to_owned());
    assert_eq!(Deliver::decode(&deliver.encode().unwrap()), Ok(deliver.clone()));
    deliver.from = Address::Alphanumeric("ABCDEFGHIJKL".to_owned());
    assert!(matches!(deliver.encode(), Err(TpduError::TooLong { length: 12, max: 11, .. })));
    deliver.from = Address::Alphanumeric("Привет".to_owned());
    assert_eq!(deliver.encode(), Err(TpduError::AddressCharacter));
    deliver.from = Address::Short("12 34".to_owned());
    assert_eq!(deliver.encode(), Err(TpduError::AddressCharacter));
    deliver.from = Address::Short("1".repeat(21));
    assert!(matches!(deliver.encode(), Err(TpduError::TooLong { length: 21, max: 20, .. })));
}

/// "Network" is 49 bits: 13 halves of octets, but 14 when a sender counts whole octets.
#[test]
fn alphanumeric_sender_counted_in_octets() {
    for semi_octets in [13, 14] {
        let mut octets = vec![0x04, semi_octets, 0xd0];
        crate::sms::gsm7::pack(b"Network", 0, &mut octets);
        octets.extend(hex("000020806291731408024834"));
        let deliver = Deliver::decode(&octets).unwrap();
        assert_eq!(deliver.from, Address::Alphanumeric("Network".to_owned()), "{semi_octets}");
    }
}

#[test]
fn status_report() {
    let (smsc, tpdu) = split_smsc("0006D60B911326880736F4111011719551401110117195714000").unwrap();
    assert_eq!(smsc, None);
    let report = StatusReport::decode(&tpdu).unwrap();
    assert_eq!(report.message_reference, 0xd6);
    assert_eq!(report.to, international("+31628870634"));
    assert_eq!(report.sent, Some(Timestamp { unix_ms: 1_294_765_155_000, offset_minutes: 60 }));
    assert_eq!(report.discharged.map(|time| time.unix_ms), Some(1_294_765_157_000));
    assert_eq!((report.status.outcome(), report.status.reason()), (StatusOutcome::Delivered, "received by the phone"));
    assert_eq!(report.encode().unwrap(), tpdu);
    assert_eq!(Incoming::decode(&tpdu), Ok(Incoming::StatusReport(report.clone())));
    let longer: Vec<u8> = tpdu.iter().copied().chain([0xff, 0, 0, 3, 1, 2, 3]).collect();
    assert_eq!(StatusReport::decode(&longer), Ok(report), "optional fields behind the status");
}

#[test]
fn statuses() {
    use StatusOutcome::*;
    let outcomes =
        [0x00, 0x02, 0x1f, 0x20, 0x3f, 0x40, 0x46, 0x5f, 0x60, 0x65, 0x7f, 0x80, 0xff].map(|s| Status(s).outcome());
    assert_eq!(
        outcomes,
        [
            Delivered,
            Delivered,
            Delivered,
            Pending,
            Pending,
            PermanentFailure,
            PermanentFailure,
            PermanentFailure,
            TemporaryFailureNoRetry,
            TemporaryFailureNoRetry,
            TemporaryFailureNoRetry,
            TemporaryFailureNoRetry,
            TemporaryFailureNoRetry
        ]
    );
    assert_eq!(Status(0x46).reason(), "validity period expired");
    assert_eq!(Status(0xff).reason(), Status(0x63).reason());
}

#[test]
fn reports_of_the_link() {
    let accepted = SubmitReport::decode(&hex("010020806291731408")).unwrap();
    assert_eq!((accepted.failure_cause, accepted.taken.map(|time| time.unix_ms)), (None, Some(1_030_390_661_000)));
    let refused = SubmitReport::decode(&hex("01C50020806291731408")).unwrap();
    assert_eq!(refused.failure_cause, Some(0xc5));
    for failure_cause in [None, Some(0xd3)] {
        let report = DeliverReport { failure_cause };
        assert_eq!(DeliverReport::decode(&report.encode()), Ok(report));
    }
    assert_eq!(DeliverReport { failure_cause: None }.encode(), [0, 0]);
}

#[test]
fn data_codings() {
    let known = [
        (0x00, Encoding::Gsm7, None),
        (0x04, Encoding::Data8, None),
        (0x08, Encoding::Ucs2, None),
        (0x0c, Encoding::Gsm7, None),
        (0x10, Encoding::Gsm7, Some(MessageClass::Flash)),
        (0x18, Encoding::Ucs2, Some(MessageClass::Flash)),
        (0x12, Encoding::Gsm7, Some(MessageClass::Sim)),
        (0x20, Encoding::Data8, None),
        (0x48, Encoding::Ucs2, None),
        (0x83, Encoding::Gsm7, None),
        (0xc8, Encoding::Gsm7, None),
        (0xe0, Encoding::Ucs2, None),
        (0xf0, Encoding::Gsm7, Some(MessageClass::Flash)),
        (0xf5, Encoding::Data8, Some(MessageClass::Device)),
        (0xf7, Encoding::Data8, Some(MessageClass::Terminal)),
    ];
    for (octet, encoding, class) in known {
        let coding = DataCoding(octet);
        assert_eq!((coding.encoding(), coding.class()), (encoding, class), "{octet:02x}");
    }
    let waiting = |octet| DataCoding(octet).waiting();
    assert_eq!(waiting(0xc8), Some(MessageWaiting { kind: WaitingKind::Voicemail, active: true, store: false }));
    assert_eq!(waiting(0xd2), Some(MessageWaiting { kind: WaitingKind::Email, active: false, store: true }));
    assert_eq!(waiting(0xe9).map(|w| w.kind), Some(WaitingKind::Fax));
    assert_eq!(waiting(0x08), None);
    assert!(DataCoding(0x44).is_auto_delete() && !DataCoding(0x04).is_auto_delete());
    for encoding in [Encoding::Gsm7, Encoding::Ucs2, Encoding::Data8] {
        for class in [None, Some(MessageClass::Flash), Some(MessageClass::Terminal)] {
            let coding = DataCoding::new(encoding, class);
            assert_eq!((coding.encoding(), coding.class()), (encoding, class));
        }
    }
}

#[test]
fn relative_validity_is_the_nearest_not_longer() {
    let minutes =
        |minutes: u64| Validity::at_most(minutes * 60_000).map(|validity| validity.duration_ms().unwrap() / 60_000);
    assert_eq!(minutes(4), None);
    assert_eq!(minutes(5), Some(5));
    assert_eq!(minutes(14), Some(10));
    assert_eq!(minutes(719), Some(715));
    assert_eq!(minutes(720), Some(720));
    assert_eq!(minutes(749), Some(720));
    assert_eq!(minutes(750), Some(750));
    assert_eq!(minutes(1440), Some(1440));
    assert_eq!(minutes(2879), Some(1440));
    assert_eq!(minutes(2880), Some(2880));
    assert_eq!(minutes(30 * 1440), Some(30 * 1440));
    assert_eq!(minutes(35 * 1440 - 1), Some(30 * 1440));
    assert_eq!(minutes(35 * 1440), Some(35 * 1440));
    assert_eq!(minutes(10_000 * 1440), Some(63 * 7 * 1440));
    for value in 0..=255 {
        let duration = Validity::Relative(value).duration_ms().unwrap();
        assert_eq!(Validity::at_most(duration).and_then(Validity::duration_ms), Some(duration), "{value}");
        assert!(Validity::at_most(duration - 1).is_none_or(|shorter| shorter.duration_ms().unwrap() < duration));
    }
}

#[test]
fn times_that_are_none() {
    assert_eq!(Timestamp::decode([0; 7]), None);
    assert_eq!(Timestamp::decode([0xff; 7]), None);
    assert_eq!(Timestamp::decode([0x20, 0x31, 0x10, 0, 0, 0, 0]), None, "month 13");
    assert_eq!(Timestamp::decode([0x62, 0x10, 0x10, 0x42, 0, 0, 0]), None, "24 o'clock");
    let odd_zone = Timestamp::decode([0x62, 0x10, 0x10, 0x21, 0, 0, 0xff]).unwrap();
    assert_eq!(odd_zone.offset_minutes, 0);
}

/// A DELIVER is believed only as far as its octets go.
#[test]
fn damaged_delivers_are_errors() {
    let good = hex("040B911346610089F60000208062917314080CC8F71D14969741F977FD07");
    for length in 0..good.len() {
        assert!(matches!(Deliver::decode(&good[..length]), Err(TpduError::Truncated { .. })), "{length}");
    }
    let with = |at: usize, octet: u8| {
        let mut octets = good.clone();
        octets[at] = octet;
        Deliver::decode(&octets)
    };
    assert_eq!(with(0, 0x06), Err(TpduError::WrongType { found: 2, expected: "DELIVER" }));
    assert!(with(0, 0x07).is_ok(), "the reserved type");
    assert!(with(0, 0x1c).is_ok(), "spare bits");
    assert!(matches!(with(1, 200), Err(TpduError::TooLong { field: "TP-OA", .. })));
    assert_eq!(with(18, 14), Err(TpduError::Truncated { field: "TP-UD" }));
    assert!(matches!(with(18, 161), Err(TpduError::TooLong { field: "TP-UDL", .. })));
    let with_header = with(0, 0x44).unwrap();
    assert_eq!(with_header.content(), Err(TpduError::HeaderOverrun), "the header would have 0xc8 octets");
}

#[test]
fn smsc_quirks() {
    assert_eq!(split_smsc("  0001ff\r\n"), Ok((None, vec![1, 255])));
    assert_eq!(split_smsc(""), Err(TpduError::Truncated { field: "SMSC address" }));
    assert_eq!(split_smsc("0791"), Err(TpduError::Truncated { field: "SMSC address" }));
    assert_eq!(split_smsc("0g"), Err(TpduError::NotHex));
    assert_eq!(split_smsc("000"), Err(TpduError::NotHex));
    assert!(matches!(split_smsc("FF00"), Err(TpduError::TooLong { .. })));
    assert!(matches!(split_smsc(&"00".repeat(1000)), Err(TpduError::TooLong { .. })));
}

fn any_address() -> impl Strategy<Value = Address> {
    prop_oneof![
        (1_000_000u64..=999_999_999_999_999).prop_map(|n| Address::International(Msisdn::from_u64(n).unwrap())),
        "[0-9*#]{0,20}".prop_map(Address::Short),
        "[A-Za-z0-9 ._-]{0,11}".prop_map(Address::Alphanumeric),
    ]
}

fn any_time() -> impl Strategy<Value = Option<Timestamp>> {
    // 2000 to 2089, in which two digits of year are enough.
    let time = (946_728_000u64..3_786_825_600, -56i16..=56)
        .prop_map(|(seconds, quarters)| Timestamp { unix_ms: seconds * 1000, offset_minutes: quarters * 15 });
    prop::option::of(time)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn submits_round_trip(
        to in any_address(), text in "[a-zA-Z€ё😀 ]{0,70}", flags in any::<[bool; 4]>(), reference: u8, pid: u8, vp in prop::option::of(any::<u8>()),
    ) {
        let mut submit = Submit::new(to, one_segment(&text), flags[0]);
        submit.status_report = flags[1];
        submit.reject_duplicates = flags[2];
        submit.reply_path = flags[3];
        submit.message_reference = reference;
        submit.protocol_id = pid;
        submit.validity = vp.map(Validity::Relative);
        let octets = submit.encode().unwrap();
        prop_assert_eq!(Submit::decode(&octets).unwrap(), submit);
        let hex = with_smsc(None, &octets);
        prop_assert_eq!(split_smsc(&hex), Ok((None, octets)));
    }

    #[test]
    fn delivers_and_reports_round_trip(from in any_address(), sent in any_time(), text in "[a-zäöü]{0,70}", status: u8, flags in any::<[bool; 4]>()) {
        let segment = one_segment(&text);
        let deliver = Deliver {
            more_messages: flags[0],
            loop_prevention: flags[1],
            reply_path: flags[2],
            status_report: flags[3],
            from: from.clone(),
            protocol_id: 0,
            coding: DataCoding::new(segment.encoding, None),
            sent,
            user_data: segment.into(),
        };
        let octets = deliver.encode().unwrap();
        prop_assert_eq!(Deliver::decode(&octets).unwrap(), deliver.clone());
        prop_assert_eq!(deliver.content().unwrap().text(), text);
        let report = StatusReport {
            more_messages: flags[0],
            loop_prevention: flags[1],
            about_command: flags[2],
            message_reference: status,
            to: from,
            sent,
            discharged: sent,
            status: Status(status),
        };
        prop_assert_eq!(StatusReport::decode(&report.encode().unwrap()).unwrap(), report);
    }

    /// Whatever is decoded holds no more than its octets did, and can be written again unless its address can not.
    #[test]
    fn any_octets(first in prop::sample::select(vec![0x00u8, 0x04, 0x44, 0x01, 0x11, 0x51, 0x06, 0xff]), tail in prop::collection::vec(any::<u8>(), 0..200)) {
        let octets: Vec<u8> = std::iter::once(first).chain(tail).collect();
        if let Ok(Incoming::Deliver(deliver)) = Incoming::decode(&octets) {
            prop_assert!(deliver.user_data.octets.len() < octets.len());
            if let Ok(content) = deliver.content() {
                let units = match &content.payload {
                    Payload::Septets(units) | Payload::Octets(units) => units.len(),
                    Payload::Utf16(units) => units.len(),
                };
                prop_assert!(units <= 160);
                prop_assert!(content.text().chars().count() <= units);
            }
        }
        if let Ok(submit) = Submit::decode(&octets) {
            let _ = submit.user_data.content(submit.coding);
            // A name that ends with @ may lose it.
            let name = matches!(submit.to, Address::Alphanumeric(_));
            if let Some(again) = submit.encode().ok().filter(|_| !name) {
                prop_assert_eq!(Submit::decode(&again).unwrap(), submit);
            }
        }
        let _ = (DeliverReport::decode(&octets), SubmitReport::decode(&octets), StatusReport::decode(&octets));
    }

    #[test]
    fn any_hex(text in "[0-9a-fA-Fx ]{0,60}", number in 1_000_000u64..=999_999_999_999_999, tpdu in prop::collection::vec(any::<u8>(), 0..170)) {
        let _ = split_smsc(&text);
        let number = Msisdn::from_u64(number).unwrap();
        prop_assert_eq!(split_smsc(&with_smsc(Some(number), &tpdu)), Ok((Some(Address::International(number)), tpdu)));
    }

    #[test]
    fn times_round_trip(time in any_time(), octets: [u8; 7]) {
        if let Some(time) = time {
            prop_assert_eq!(Timestamp::decode(time.encode()), Some(time));
        }
        let _ = Timestamp::decode(octets);
    }
}
