//! The GSM-7 tables: complete, without doubles, and round trips over all of them.

use proptest::prelude::*;

use super::*;

fn shifts() -> impl Iterator<Item = Shift> {
    let languages = || std::iter::once(None).chain(Language::ALL.map(Some));
    languages().flat_map(move |locking| languages().map(move |single| Shift { locking, single }))
}

#[test]
fn every_table_entry_round_trips() {
    for shift in shifts() {
        let (locking, single) = shift.rows();
        for septet in 0..128u8 {
            for (table, septets) in [(&LOCKING[locking], vec![septet]), (&SINGLE[single], vec![ESCAPE, septet])] {
                let value = table[usize::from(septet)];
                if value == NONE || septets == [ESCAPE] {
                    continue;
                }
                let c = char::from_u32(u32::from(value)).unwrap();
                assert_eq!(decode(&septets, shift), String::from(c), "{shift:?} {septets:02x?}");
                let mut again = Vec::new();
                encode(&String::from(c), shift, &mut again).unwrap();
                assert_eq!(decode(&again, shift), String::from(c), "{shift:?} {c:?}");
                assert!(again.len() <= septets.len(), "{shift:?} {c:?} has a shorter code");
            }
        }
    }
}

#[test]
fn characters_stand_once_in_a_table() {
    let doubled = |table: &[u16; 128]| {
        let mut characters: Vec<u16> = table.iter().copied().filter(|value| *value != NONE).collect();
        characters.sort_unstable();
        characters.chunk_by(u16::eq).filter(|run| run.len() > 1).map(|run| run[0]).collect::<Vec<_>>()
    };
    for (row, single) in SINGLE.iter().enumerate() {
        assert_eq!(doubled(&LOCKING[row]), [0; 0], "{row}");
        // The standard gives `*` and the inverted exclamation mark twice in each table of an Indic language.
        let expected: &[u16] = if row >= 4 { &[0x2a, 0xa1] } else { &[] };
        assert_eq!(doubled(single), expected, "{row}");
    }
}

/// Sizes of the tables of the standard's annex A, counted there, so that an entry can not get lost unnoticed.
#[test]
fn tables_are_complete() {
    let count = |table: &[u16; 128]| table.iter().filter(|value| **value != NONE).count();
    let locking = [127, 127, 127, 127, 114, 120, 127, 120, 120, 116, 110, 102, 120, 127];
    let single = [10, 17, 19, 37, 82, 70, 88, 73, 82, 75, 76, 77, 77, 90];
    assert_eq!(LOCKING.each_ref().map(count), locking);
    assert_eq!(SINGLE.each_ref().map(count), single);
    for table in LOCKING.iter().chain(&SINGLE) {
        assert_eq!(table[usize::from(ESCAPE)], NONE);
    }
}

/// Characters of which sources in circulation disagree; these are the standard's.
#[test]
fn disputed_entries() {
    let plain = |language, septet| decode(&[septet], Shift { locking: language, single: None });
    let escaped = |language, septet| decode(&[ESCAPE, septet], Shift { locking: None, single: Some(language) });
    assert_eq!(plain(None, 0x09), "Ç");
    assert_eq!(plain(Some(Language::Turkish), 0x1f), "É");
    assert_eq!(plain(Some(Language::Turkish), 0x04), "€");
    assert_eq!(plain(Some(Language::Hindi), 0x2c), ",");
    // The document prints the code of PA here, which also stands at 0x3d; handsets have DDA, as all its sisters do.
    assert_eq!(plain(Some(Language::Kannada), 0x24), "\u{ca1}");
    assert_eq!(plain(Some(Language::Oriya), 0x47), "\u{b33}");
    assert_eq!(escaped(Language::Punjabi, 0x23), "\u{a6d}");
    assert_eq!(escaped(Language::Tamil, 0x24), "\u{bee}");
    assert_eq!(escaped(Language::Telugu, 0x22), "\u{c6c}");
    assert_eq!(escaped(Language::Urdu, 0x1c), "\u{6f0}");
}

#[test]
fn decoding_tolerates_what_has_no_meaning() {
    assert_eq!(
        decode(&[0x41, ESCAPE, 0x41, 0x42], Shift::NONE),
        "AAB",
        "an unknown extension shows the alphabet's letter"
    );
    assert_eq!(decode(&[0x41, ESCAPE, ESCAPE, 0x42], Shift::NONE), "A B");
    assert_eq!(decode(&[0x41, ESCAPE], Shift::NONE), "A ");
    assert_eq!(decode(&[0xc1], Shift::NONE), "A", "the top bit is ignored");
    let bengali = Shift { locking: Some(Language::Bengali), single: None };
    assert_eq!(decode(&[0x0c], bengali), " ");
}

#[test]
fn holders_agree_with_the_tables() {
    for value in 0..=u32::from(u16::MAX) {
        let Some(c) = char::from_u32(value).filter(|_| value != u32::from(NONE)) else { continue };
        let holders = holders(c);
        for row in 0..14 {
            assert_eq!(holders.locking >> row & 1 == 1, LOCKING[row].contains(&(value as u16)), "{c:?} {row}");
            assert_eq!(holders.single >> row & 1 == 1, SINGLE[row].contains(&(value as u16)), "{c:?} {row}");
        }
        let by_tables = Shift { locking: None, single: Some(Language::Spanish) };
        if let (Some(plain @ Code::Plain(_)), _) | (_, Some(plain @ Code::Plain(_))) =
            (code(c, Shift::NONE), code(c, by_tables))
        {
            assert_eq!((code(c, Shift::NONE), code(c, by_tables)), (Some(plain), Some(plain)), "{c:?}");
        }
        assert_eq!(code(c, Shift::NONE).is_some(), (holders.locking | holders.single) & 1 == 1, "{c:?}");
    }
}

#[test]
fn known_packings() {
    let packed = |text: &str, fill| {
        let (mut septets, mut octets) = (Vec::new(), Vec::new());
        encode(text, Shift::NONE, &mut septets).unwrap();
        pack(&septets, fill, &mut octets);
        data_encoding::HEXUPPER.encode(&octets)
    };
    assert_eq!(packed("hellohello", 0), "E8329BFD4697D9EC37");
    assert_eq!(packed("How are you?", 0), "C8F71D14969741F977FD07");
    assert_eq!(packed("€", 0), "9B32");
    assert_eq!(packed("", 0), "");
    assert_eq!(packed("12345678", 0), "31D98C56B3DD70");
    assert_eq!(packed("Hi", 1), "9069", "one fill bit after a header of six octets");
    assert_eq!(
        (fill_bits(0), fill_bits(6), fill_bits(7), fill_bits(4), fill_bits(9), fill_bits(12)),
        (0, 1, 0, 3, 5, 2)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn packing_round_trips(septets in prop::collection::vec(0u8..128, 0..170), fill in 0u8..7) {
        let mut octets = Vec::new();
        pack(&septets, fill, &mut octets);
        prop_assert_eq!(octets.len(), octets_for(septets.len(), fill));
        prop_assert_eq!(unpack(&octets, fill, septets.len()), Some(septets));
    }

    #[test]
    fn any_octets_unpack_and_decode(
        octets in prop::collection::vec(any::<u8>(), 0..160), fill in 0u8..7, count in 0usize..200, locking in 0u8..20, single in 0u8..20,
    ) {
        let shift = Shift { locking: Language::from_identifier(locking), single: Language::from_identifier(single) };
        match unpack(&octets, fill, count) {
            Some(septets) => {
                prop_assert_eq!(septets.len(), count);
                prop_assert!(decode(&septets, shift).chars().count() <= count);
            }
            None => prop_assert!(count * 7 + usize::from(fill) > octets.len() * 8),
        }
    }
}
