//! Segments: known octets, all planned segments read back as their text, and data.

use data_encoding::HEXUPPER;
use proptest::prelude::*;

use super::super::{EncodeOptions, Language, plan, plan_data};
use super::*;
use crate::sms::tpdu::{DataCoding, UserData};
use crate::wire::Alphabet;

fn made(text: &str, options: &EncodeOptions, reference: u16) -> Vec<Segment> {
    segments(text, &plan(text, options).unwrap(), reference)
}

/// What a receiver reads: each segment by itself through its user data, joined before decoding.
fn read(segments: &[Segment]) -> String {
    let mut contents = segments.iter().map(|segment| {
        let coding = DataCoding::new(segment.encoding, None);
        UserData::from(segment.clone()).content(coding).unwrap()
    });
    let first = contents.next().unwrap();
    let mut payload = first.payload.clone();
    for content in contents {
        assert!(payload.append(&content.payload));
    }
    payload.text(first.udh.shift)
}

#[test]
fn known_segments() {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(4);
    let made = made(&text[..165], &EncodeOptions::default(), 0xa5);
    let hex: Vec<String> = made.iter().map(|segment| HEXUPPER.encode(&segment.user_data)).collect();
    assert_eq!(
        hex,
        [
            "050003A50201A8E832285E4F8FD720B1FC7D7783CC6F3C485D6FC3E7A0B7BD2C07D1D165103BACCF83C8EFB30B44459741F17A7ABC0689E5EFBB1B\
             647EE341EA7A1B3E07BDED6539888E2E83D8617D1E447E9F5D202ABA0C8AD7D3E335482C7FDFDD20F31B0F52D7DBF039E86D2FCB41747419C40EEB\
             F320F2FBEC0251D16550BC9E1EAF4162F9FBEE0699DF",
            "050003A50202F02075BD0D9F83DEF6B21C",
        ]
    );
    assert_eq!(made.iter().map(|segment| (segment.units, segment.length)).collect::<Vec<_>>(), [(153, 160), (12, 19)]);
    assert_eq!(read(&made), text[..165]);
}

#[test]
fn national_shift_stands_in_each_header() {
    let gsm = EncodeOptions { alphabet: Alphabet::Gsm7, ..EncodeOptions::default() };
    let single = made("şaaa", &gsm, 0);
    assert_eq!(HEXUPPER.encode(&single[0].user_data), "03240101D8CCC3E130");
    assert_eq!((single[0].length, single[0].units), (10, 5));
    let long = made(&"ğüneş ".repeat(60), &EncodeOptions::default(), 7);
    assert!(long.len() > 1);
    for (segment, number) in long.iter().zip(1..) {
        assert_eq!(segment.udh.shift.language(), Some(Language::Turkish));
        assert_eq!(segment.udh.concatenation.map(|c| (c.reference, c.number)), Some((7, number)));
    }
    assert_eq!(read(&long), "ğüneş ".repeat(60));
}

#[test]
fn empty_text_is_one_segment() {
    let made = made("", &EncodeOptions::default(), 0);
    assert_eq!((made.len(), made[0].length, made[0].user_data.len()), (1, 0, 0));
    assert_eq!(read(&made), "");
}

#[test]
fn data_with_a_port() {
    let options = EncodeOptions::default();
    let bytes: Vec<u8> = (0..=255).collect();
    let plan = plan_data(bytes.len(), Some(9200), &options).unwrap();
    let made = data_segments(&bytes, Some(9200), &plan, 1);
    assert_eq!((made.len(), plan.segments), (2, 2));
    assert_eq!(HEXUPPER.encode(&made[0].user_data[..14]), "0B0003010201050423F000000001");
    assert_eq!(made[0].user_data.len(), 140);
    let body = Body::Data { bytes: bytes[..10].to_vec(), port: None };
    let plan = super::super::plan_body(&body, &options).unwrap();
    assert_eq!(body_segments(&body, &plan, 0)[0].user_data, bytes[..10]);
}

#[test]
fn a_plan_of_another_text_harms_nothing() {
    let plan = plan("a", &EncodeOptions::default()).unwrap();
    assert_eq!(read(&segments("жук", &plan, 0)), "???");
    assert_eq!(segments(&"a".repeat(100_000), &plan, 0).len(), 255);
}

#[test]
fn octets_are_read_as_utf8_or_latin1() {
    let text = |octets: &[u8]| Payload::Octets(octets.to_vec()).text(Shift::NONE);
    assert_eq!(text("grün".as_bytes()), "grün");
    assert_eq!(text(b"gr\xfcn"), "grün");
}

fn any_options() -> impl Strategy<Value = EncodeOptions> {
    let alphabet = prop::sample::select(vec![Alphabet::Auto, Alphabet::Gsm7, Alphabet::Ucs2]);
    (alphabet, any::<bool>(), any::<bool>(), any::<bool>()).prop_map(
        |(alphabet, national_tables, smart, wide_reference)| EncodeOptions {
            alphabet,
            national_tables,
            smart,
            wide_reference,
            segments_max: 255,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn segments_are_as_planned_and_readable(
        text in prop_oneof!["[a-zA-Z0-9 €\\[\\]{}~^]{0,500}", "[a-zşğıİçáéíóúãõ €]{0,500}", "[अ-ह क-न०-९A-Z ]{0,300}", "[a-z😀ё]{0,300}", "\\PC{0,100}"],
        options in any_options(), reference: u16,
    ) {
        let Ok(plan) = plan(&text, &options) else { return Ok(()) };
        let made = segments(&text, &plan, reference);
        prop_assert_eq!(made.len(), usize::from(plan.segments));
        prop_assert_eq!(made.iter().map(|segment| u32::from(segment.units)).sum::<u32>(), plan.units);
        let last = made.last().unwrap();
        prop_assert_eq!(capacity(plan.encoding, last.udh.octets()), u32::from(last.units) + plan.units_left);
        for segment in &made {
            prop_assert!(segment.user_data.len() <= 140);
            if plan.encoding == Encoding::Ucs2 {
                let Payload::Utf16(units) = UserData::from(segment.clone()).content(DataCoding(8)).unwrap().payload else { panic!() };
                prop_assert!(String::from_utf16(&units).is_ok(), "a surrogate pair is split");
            }
        }
        let read = read(&made);
        if plan.smart {
            let mut replaced = String::new();
            for_each_char(&text, true, |c| replaced.push(c));
            prop_assert_eq!(read, replaced);
        } else {
            prop_assert_eq!(read, text);
        }
    }

    #[test]
    fn data_round_trips(bytes in prop::collection::vec(any::<u8>(), 0..1000), port in prop::option::of(any::<u16>()), wide_reference: bool) {
        let options = EncodeOptions { segments_max: 255, wide_reference, ..EncodeOptions::default() };
        let plan = plan_data(bytes.len(), port, &options).unwrap();
        let made = data_segments(&bytes, port, &plan, 9);
        prop_assert_eq!(made.len(), usize::from(plan.segments));
        let mut read = Vec::new();
        for segment in made {
            prop_assert!(segment.user_data.len() <= 140);
            prop_assert_eq!(segment.udh.ports.map(|ports| ports.destination), port);
            let Payload::Octets(octets) = UserData::from(segment).content(DataCoding(4)).unwrap().payload else { panic!() };
            read.extend(octets);
        }
        prop_assert_eq!(read, bytes);
    }
}
