//! How texts are planned: alphabets, tables, sizes at the borders of segments, and any text at all.

use proptest::prelude::*;

use super::super::Language;
use super::*;

fn planned(text: &str) -> (Encoding, u8, u32, u32) {
    let options = EncodeOptions { segments_max: 255, national_tables: false, ..EncodeOptions::default() };
    let plan = plan(text, &options).unwrap();
    (plan.encoding, plan.segments, plan.units, plan.units_left)
}

#[test]
fn default_alphabet_boundaries() {
    use Encoding::Gsm7;
    assert_eq!(planned(""), (Gsm7, 1, 0, 160));
    assert_eq!(planned("hellohello"), (Gsm7, 1, 10, 150));
    assert_eq!(planned(&"a".repeat(160)), (Gsm7, 1, 160, 0));
    assert_eq!(planned(&"a".repeat(161)), (Gsm7, 2, 161, 145));
    assert_eq!(planned(&"a".repeat(306)), (Gsm7, 2, 306, 0));
    assert_eq!(planned(&"a".repeat(307)), (Gsm7, 3, 307, 152));
    assert_eq!(planned(&"a".repeat(153 * 255)), (Gsm7, 255, 39015, 0));
    assert_eq!(planned("Grüße für 5 €, Ωmega @ ¿Ñandu? àèìòù"), (Gsm7, 1, 37, 123));
}

#[test]
fn extension_pairs_are_not_split() {
    use Encoding::Gsm7;
    assert_eq!(planned(&"€".repeat(80)), (Gsm7, 1, 160, 0));
    // 153 septets hold 76 pairs and one septet of waste.
    assert_eq!(planned(&"€".repeat(81)), (Gsm7, 2, 162, 143));
    assert_eq!(planned(&"€".repeat(76 * 2)), (Gsm7, 2, 304, 1));
    assert_eq!(planned(&"€".repeat(76 * 2 + 1)), (Gsm7, 3, 306, 151));
    // The pair falls on the boundary: 152 letters, then a pair that moves to the next segment.
    let text = "a".repeat(152) + "€" + &"b".repeat(152);
    assert_eq!(planned(&text), (Gsm7, 3, 306, 152));
}

#[test]
fn utf16_boundaries_and_surrogates() {
    use Encoding::Ucs2;
    assert_eq!(planned(&"ж".repeat(70)), (Ucs2, 1, 70, 0));
    assert_eq!(planned(&"ж".repeat(71)), (Ucs2, 2, 71, 63));
    assert_eq!(planned(&"ж".repeat(134)), (Ucs2, 2, 134, 0));
    assert_eq!(planned(&"ж".repeat(135)), (Ucs2, 3, 135, 66));
    assert_eq!(planned(&"😀".repeat(35)), (Ucs2, 1, 70, 0));
    assert_eq!(planned(&"😀".repeat(36)), (Ucs2, 2, 72, 61));
    assert_eq!(planned(&"😀".repeat(67)), (Ucs2, 3, 134, 65), "33 emoji a segment, not 33 and a half");
}

#[test]
fn national_tables_only_where_they_save_segments() {
    let turkish = "Şimdi İstanbul'da güneş doğuyor. ";
    let short = plan(turkish, &EncodeOptions::default()).unwrap();
    assert_eq!((short.encoding, short.segments, short.shift), (Encoding::Ucs2, 1, Shift::NONE));
    let long = plan(&turkish.repeat(4), &EncodeOptions::default()).unwrap();
    assert_eq!((long.encoding, long.segments, long.units, long.units_left), (Encoding::Gsm7, 1, 148, 7));
    assert_eq!(long.shift, Shift { locking: None, single: Some(Language::Turkish) });
    let longer = plan(&(turkish.repeat(4) + "Şşş ğğ"), &EncodeOptions::default()).unwrap();
    assert_eq!((longer.segments, longer.units, longer.units_left), (1, 138, 17));
    assert_eq!(longer.shift, Shift { locking: Some(Language::Turkish), single: None }, "one septet a letter saves one");
    let off = EncodeOptions { national_tables: false, ..EncodeOptions::default() };
    assert_eq!(plan(&turkish.repeat(4), &off).unwrap().encoding, Encoding::Ucs2);
    let longer = plan(&turkish.repeat(10), &EncodeOptions::default()).unwrap();
    assert_eq!((longer.segments, longer.units, longer.units_left), (3, 370, 149 * 3 - 370 - 2));

    let hindi = "नमस्ते, आपका ऑर्डर आज भेज दिया गया है। Ref: ABC ";
    let plan_hindi = plan(&hindi.repeat(2), &EncodeOptions::default()).unwrap();
    assert_eq!(plan_hindi.shift, Shift { locking: Some(Language::Hindi), single: Some(Language::Hindi) });
    assert_eq!((plan_hindi.encoding, plan_hindi.segments), (Encoding::Gsm7, 1));

    let spanish = "Él comió aquí, ¿verdad? Y tú también según ella. ".repeat(2);
    let plan_spanish = plan(&spanish, &EncodeOptions::default()).unwrap();
    assert_eq!((plan_spanish.encoding, plan_spanish.segments), (Encoding::Gsm7, 1));
    assert_eq!(plan_spanish.shift, Shift { locking: None, single: Some(Language::Spanish) });
}

#[test]
fn alphabet_may_be_forced() {
    let gsm = EncodeOptions { alphabet: Alphabet::Gsm7, ..EncodeOptions::default() };
    let ucs2 = EncodeOptions { alphabet: Alphabet::Ucs2, ..EncodeOptions::default() };
    assert_eq!(plan("hello", &ucs2).unwrap().encoding, Encoding::Ucs2);
    assert_eq!(plan("güneş", &gsm).unwrap().shift.language(), Some(Language::Turkish));
    assert_eq!(plan("привет", &gsm), Err(EncodeError::NotInGsm7 { character: 'п' }));
    let plain = EncodeOptions { national_tables: false, ..gsm };
    assert_eq!(plan("güneş", &plain), Err(EncodeError::NotInGsm7 { character: 'ş' }));
    assert_eq!(plan("ş and ક and க", &gsm), Err(EncodeError::NotInGsm7 { character: 'ş' }), "no two tables have all");
    assert_eq!(
        plan("a\u{1b}", &gsm),
        Err(EncodeError::NotInGsm7 { character: '\u{1b}' }),
        "the escape is no character"
    );
    assert_eq!(plan("a\u{ffff}", &gsm), Err(EncodeError::NotInGsm7 { character: '\u{ffff}' }));
}

#[test]
fn smart_replacement_where_it_saves() {
    let smart = EncodeOptions { smart: true, ..EncodeOptions::default() };
    let text = "“Hello” – it’s done… ";
    let short = plan(text, &smart).unwrap();
    assert_eq!(
        (short.encoding, short.smart),
        (Encoding::Ucs2, false),
        "one segment either way: the text stays as it is"
    );
    let long = plan(&text.repeat(4), &smart).unwrap();
    assert_eq!((long.encoding, long.smart, long.segments, long.units), (Encoding::Gsm7, true, 1, 23 * 4));
    assert_eq!(plan(&text.repeat(4), &EncodeOptions::default()).unwrap().encoding, Encoding::Ucs2);
    let only_gsm = EncodeOptions { alphabet: Alphabet::Gsm7, ..smart };
    assert!(plan(text, &only_gsm).unwrap().smart);
    let turkish = "Türkiye’nin güneşi ".repeat(6);
    let plan = plan(&turkish, &smart).unwrap();
    assert_eq!((plan.smart, plan.shift.language(), plan.segments), (true, Some(Language::Turkish), 1));
}

#[test]
fn wide_references_cost_an_octet() {
    let wide = EncodeOptions { wide_reference: true, ..EncodeOptions::default() };
    let gsm = plan(&"a".repeat(305), &wide).unwrap();
    assert_eq!((gsm.segments, gsm.units_left), (3, 152 * 3 - 305));
    assert_eq!(plan(&"ж".repeat(133), &wide).unwrap().segments, 3, "66 units a segment");
}

#[test]
fn limits() {
    let two = EncodeOptions { segments_max: 2, ..EncodeOptions::default() };
    assert!(plan(&"a".repeat(306), &two).is_ok());
    assert_eq!(plan(&"a".repeat(307), &two), Err(EncodeError::TooManySegments { segments: 3, max: 2 }));
    let huge = "a".repeat(10_000_000);
    assert!(matches!(plan(&huge, &two), Err(EncodeError::TooManySegments { segments: 20_833.., max: 2 })));
    assert_eq!(plan("a", &EncodeOptions { segments_max: 0, ..two }), Err(EncodeError::NoSegments));
}

/// A device must not refuse what a controller with a higher limit has accepted.
#[test]
fn options_of_a_dispatch_set_no_limit() {
    let options = EncodeOptions::from(TextEncoding { smart: true, ..TextEncoding::default() });
    assert_eq!(options, EncodeOptions { segments_max: 255, smart: true, ..EncodeOptions::default() });
}

#[test]
fn data() {
    let options = EncodeOptions::default();
    let figures = |octets, port| {
        let plan = plan_data(octets, port, &options).unwrap();
        (plan.encoding, plan.segments, plan.units, plan.units_left)
    };
    assert_eq!(figures(140, None), (Encoding::Data8, 1, 140, 0));
    assert_eq!(figures(141, None), (Encoding::Data8, 2, 141, 127));
    assert_eq!(figures(133, Some(9200)), (Encoding::Data8, 1, 133, 0));
    assert_eq!(figures(134, Some(9200)), (Encoding::Data8, 2, 134, 122), "ports and concatenation leave 128");
    assert_eq!(plan_data(1341, None, &options), Err(EncodeError::TooManySegments { segments: 11, max: 10 }));
    assert!(matches!(plan_data(usize::MAX, None, &options), Err(EncodeError::TooManySegments { max: 10, .. })));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn never_more_segments_than_ucs2(text in "[a-zA-Z€\\[\\]ğşıİçäöüñéа-яअ-ह😀 ]{0,400}") {
        let options = EncodeOptions { segments_max: 255, ..EncodeOptions::default() };
        let chosen = plan(&text, &options).unwrap();
        let ucs2 = plan(&text, &EncodeOptions { alphabet: Alphabet::Ucs2, ..options }).unwrap();
        prop_assert!(chosen.segments <= ucs2.segments);
        if let Ok(gsm) = plan(&text, &EncodeOptions { alphabet: Alphabet::Gsm7, ..options }) {
            prop_assert!(chosen.segments <= gsm.segments);
        }
    }

    #[test]
    fn smart_never_costs_more(text in "[a-z’“”–…\u{a0}ş😀]{0,300}") {
        let options = EncodeOptions { segments_max: 255, ..EncodeOptions::default() };
        let plain = plan(&text, &options).unwrap();
        let smart = plan(&text, &EncodeOptions { smart: true, ..options }).unwrap();
        prop_assert!(smart.segments <= plain.segments);
        prop_assert_eq!(smart.smart, smart.segments < plain.segments);
    }
}
