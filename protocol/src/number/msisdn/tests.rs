//! Numbers as people write them, why others are refused, and that none is shown whole.

use proptest::prelude::*;

use super::*;

fn parsed(text: &str) -> String {
    Msisdn::parse(text).unwrap_or_else(|e| panic!("{text}: {e}")).to_string()
}

#[test]
fn international_input_with_usual_separators() {
    for text in [
        "+255712345678",
        "+255 712 345 678",
        " +255 712-345 678 ",
        "+255.712.345.678",
        "(+255) 712/345-678",
        "+255\u{a0}712\u{2011}345\u{2011}678",
        "\u{202a}+255712345678\u{202c}",
        "＋２５５７１２３４５６７８",
        "+٢٥٥٧١٢٣٤٥٦٧٨",
        "+255 0712 345 678",
        "+255 (0)712 345 678",
    ] {
        assert_eq!(parsed(text), "+255712345678", "{text}");
    }
    assert_eq!(parsed("+44 (0)20 7946 0958"), "+442079460958");
    assert_eq!(parsed("+1 (415) 555-2671"), "+14155552671");
    assert_eq!(parsed("+39 06 6982 1234"), "+390669821234", "an Italian zero belongs to the number");
    assert_eq!(parsed("+870 773 111 632"), "+870773111632");
}

#[test]
fn refusals_say_why() {
    use NumberError::*;
    let cases = [
        ("", Empty),
        (" - ", Empty),
        ("+", Empty),
        ("0712345678", NotInternational),
        ("255712345678", NotInternational),
        ("00255712345678", NotInternational),
        ("+00255712345678", UnknownCallingCode),
        ("+99", UnknownCallingCode),
        ("+999712345678", UnknownCallingCode),
        ("+2557123", TooShort { calling_code: 255 }),
        ("+25571234567890", TooLong { calling_code: 255 }),
        ("+44 0027946 0958", TooLong { calling_code: 44 }),
        ("+255712345678x", UnexpectedCharacter('x')),
        ("+255+712345678", UnexpectedCharacter('+')),
        ("+1-800-FLOWERS", UnexpectedCharacter('F')),
        ("+255712345678, +255712345679", UnexpectedCharacter(',')),
        ("+2557123456782557123456", TooManyDigits),
    ];
    for (text, error) in cases {
        assert_eq!(Msisdn::parse(text), Err(error), "{text}");
    }
    let long = " ".repeat(200) + "+255712345678";
    assert_eq!(Msisdn::parse(&long), Err(TooManyCharacters { limit: 64 }));
}

#[test]
fn national_input() {
    let cases = [
        ("0712 345 678", "TZ", "+255712345678"),
        ("712345678", "tz", "+255712345678"),
        ("020 7946 0958", "GB", "+442079460958"),
        ("(415) 555-2671", "US", "+14155552671"),
        ("06 6982 1234", "IT", "+390669821234"),
        ("8 912 345-67-89", "RU", "+79123456789"),
        ("+44 20 7946 0958", "TZ", "+442079460958"),
        ("00 44 20 7946 0958", "DE", "+442079460958"),
    ];
    for (text, region, number) in cases {
        assert_eq!(Msisdn::parse_in(text, region).map(|n| n.to_string()), Ok(number.to_owned()), "{text} in {region}");
    }
    assert_eq!(Msisdn::parse_in("0712345678", "XX"), Err(NumberError::UnknownRegion));
    assert_eq!(Msisdn::parse_in("0712345678", "Tanzania"), Err(NumberError::UnknownRegion));
    assert_eq!(Msisdn::parse_in("", "TZ"), Err(NumberError::Empty));
    assert!(matches!(
        Msisdn::parse_in("07", "TZ"),
        Err(NumberError::TooShort { .. } | NumberError::NotNational { .. })
    ));
}

#[test]
fn calling_code_and_region() {
    let cases = [
        ("+255712345678", 255, Some("TZ")),
        ("+14155552671", 1, Some("US")),
        ("+16135550123", 1, Some("US")),
        ("+77012345678", 7, Some("RU")),
        ("+447911123456", 44, Some("GB")),
        ("+390669821234", 39, Some("IT")),
        ("+870773111632", 870, None),
    ];
    for (text, code, region) in cases {
        let number = Msisdn::parse(text).unwrap();
        assert_eq!(number.calling_code(), code, "{text}");
        assert_eq!(number.region().map(|r| r.to_string()).as_deref(), region, "{text}");
    }
    let unassigned = Msisdn::from_u64(999_712_345_678).unwrap();
    assert_eq!((unassigned.calling_code(), unassigned.region()), (0, None));
}

#[test]
fn debug_and_masked_hide_the_middle() {
    let number = Msisdn::parse("+255712345678").unwrap();
    assert_eq!(format!("{number:?}"), "+255*****78");
    assert_eq!(number.masked().to_string(), "+255*****78");
    assert_eq!(format!("{:?}", Msisdn::from_u64(999_712_345_603).unwrap()), "+*****03");
}

#[test]
fn from_u64_bounds() {
    assert_eq!(Msisdn::from_u64(999_999), Err(NumberError::NotE164));
    assert!(Msisdn::from_u64(1_000_000).is_ok());
    assert!(Msisdn::from_u64(999_999_999_999_999).is_ok());
    assert_eq!(Msisdn::from_u64(1_000_000_000_000_000), Err(NumberError::NotE164));
    assert_eq!(Msisdn::from_u64(0), Err(NumberError::NotE164));
    assert_eq!(Msisdn::from_u64(u64::MAX), Err(NumberError::NotE164));
}

#[test]
fn postcard_is_the_bare_number() {
    let number = Msisdn::parse("+255712345678").unwrap();
    let bytes = postcard::to_allocvec(&number).unwrap();
    assert_eq!(bytes, postcard::to_allocvec(&255_712_345_678u64).unwrap());
    assert_eq!(postcard::from_bytes::<Msisdn>(&bytes).unwrap(), number);
    assert!(postcard::from_bytes::<Msisdn>(&postcard::to_allocvec(&u64::MAX).unwrap()).is_err());
}

/// The fast path must say what the library says, for every calling code and length.
#[test]
fn the_table_agrees_with_the_library() {
    for calling_code in PHONE_NUMBER_UTIL.get_supported_calling_codes() {
        for digits in 1..=14u32 {
            let national = 4 * 10u64.pow(digits - 1) + 7;
            let text = format!("+{calling_code}{national}");
            let number =
                PhoneNumber { country_code: calling_code, national_number: national, ..PhoneNumber::default() };
            let possible =
                PHONE_NUMBER_UTIL.is_possible_number_with_reason(&number) == Ok(NumberLengthType::IsPossible);
            let fits = (7..=15).contains(&(text.len() - 1));
            if possible && fits {
                assert_eq!(Msisdn::parse(&text).map(|n| n.to_string()), Ok(text.clone()));
            } else if let Ok(number) = Msisdn::parse(&text) {
                // The library found a trunk prefix to drop.
                assert_ne!(number.to_string(), text);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_text_is_parsed_or_refused(text in "\\PC{0,40}", region in "[A-Za-z]{0,3}") {
        let _ = Msisdn::parse(&text);
        let _ = Msisdn::parse_in(&text, &region);
    }

    #[test]
    fn number_like_text_round_trips(text in "\\+?[0-9 ()./-]{0,24}", region in prop::sample::select(vec!["TZ", "US", "IT", "DE", "AR", "MX"])) {
        for number in [Msisdn::parse(&text), Msisdn::parse_in(&text, region)].into_iter().flatten() {
            prop_assert_eq!(Msisdn::parse(&number.to_string()), Ok(number));
            prop_assert!((7..=15).contains(&(number.to_string().len() - 1)));
        }
    }
}
