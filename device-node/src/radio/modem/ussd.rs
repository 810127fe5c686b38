//! USSD over `AT+CUSD` (3GPP TS 27.007 7.15): codes written and replies read in the dialects of different makers.
//!
//! The standard has strings in the modem's own character set. Huawei and relatives want and give the packed septets of
//! the network as hexadecimal digits instead; others give UCS-2 digits. A reply does not say which, so it is judged by
//! its shape.

use flotilla_protocol::sms::gsm7::{self, Shift};

use super::at::{hex, to_hex};

/// Of a USSD string (3GPP TS 24.090 4.5): 182 septets.
const CODE_CHARACTERS_MAX: usize = 182;
const REPLY_CHARACTERS_MAX: usize = 1024;
/// Data coding: language unspecified, default alphabet (3GPP TS 23.038 5).
const DCS_DEFAULT: u8 = 15;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a ussd code has 1 to 182 characters: digits, * and # only")]
pub(super) struct CodeError;

/// How a code is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Plain,
    Packed,
}

/// The command that runs `code`.
pub(super) fn request(code: &str, dialect: Dialect) -> Result<String, CodeError> {
    let fits = (1..=CODE_CHARACTERS_MAX).contains(&code.len())
        && code.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'*' | b'#' | b'+'));
    if !fits {
        return Err(CodeError);
    }
    let text = match dialect {
        Dialect::Plain => code.to_owned(),
        Dialect::Packed => packed(code),
    };
    Ok(format!("AT+CUSD=1,\"{text}\",{DCS_DEFAULT}"))
}

fn packed(code: &str) -> String {
    // Digits, `*`, `#` and `+` are themselves in the default alphabet.
    packed_septets(code.bytes().collect())
}

fn packed_septets(mut septets: Vec<u8>) -> String {
    if septets.len() % 8 == 7 {
        // Seven spare bits would read as `@`: 3GPP TS 23.038 6.1.2.3.1 fills them with a carriage return.
        septets.push(b'\r');
    }
    let mut octets = Vec::new();
    gsm7::pack(&septets, 0, &mut octets);
    to_hex(&octets)
}

/// As a network's reply goes through a modem of the packed dialect. What GSM-7 lacks is left out.
pub(super) fn packed_text(text: &str) -> String {
    let mut septets = Vec::new();
    let _ = gsm7::encode(text, Shift::NONE, &mut septets);
    packed_septets(septets)
}

/// The words of a reply.
pub(super) fn decode(text: &str, dcs: Option<u8>) -> String {
    let decoded = match hex(text) {
        Some(octets) if is_ucs2(dcs) => ucs2(&octets),
        Some(octets) => by_shape(text, &octets),
        None => text.to_owned(),
    };
    decoded.trim_end_matches(['\r', '\n', '\0']).chars().take(REPLY_CHARACTERS_MAX).collect()
}

/// 3GPP TS 23.038 5: 0x11 (UCS-2 with a language in front), and alphabet bits of the general data coding groups.
fn is_ucs2(dcs: Option<u8>) -> bool {
    dcs.is_some_and(|dcs| dcs == 0x11 || matches!(dcs >> 4, 4..=7 | 9) && dcs & 0x0c == 0x08)
}

/// Digits alone may be the reply itself (a balance), UCS-2 of plain letters, or packed septets.
fn by_shape(text: &str, octets: &[u8]) -> String {
    let latin_ucs2 =
        octets.len().is_multiple_of(2) && octets.len() >= 4 && octets.chunks_exact(2).all(|unit| unit[0] == 0);
    if latin_ucs2 {
        return ucs2(octets);
    }
    let only_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let unpacked = gsm7::unpack(octets, 0, octets.len() * 8 / 7)
        .map(|septets| gsm7::decode(&septets, Shift::NONE))
        .filter(|unpacked| is_prose(unpacked));
    match unpacked {
        Some(unpacked) if !only_digits || text.len() > 20 => unpacked,
        _ if octets.len() >= 8 && octets.len().is_multiple_of(2) && !only_digits => ucs2(octets),
        _ => text.to_owned(),
    }
}

/// Packed prose unpacks to mostly ordinary characters; anything else packed does not.
fn is_prose(text: &str) -> bool {
    let ordinary = |c: &char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '\n' | '\r' | '.' | ',' | ':' | '-' | '/');
    let (all, common) = (text.chars().count(), text.chars().filter(ordinary).count());
    all > 0 && common * 10 >= all * 8
}

fn ucs2(octets: &[u8]) -> String {
    let units = octets.chunks_exact(2).map(|unit| u16::from_be_bytes([unit[0], unit[1]]));
    char::decode_utf16(units).map(|c| c.unwrap_or(char::REPLACEMENT_CHARACTER)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_written_in_both_dialects() {
        assert_eq!(request("*100#", Dialect::Plain).unwrap(), "AT+CUSD=1,\"*100#\",15");
        assert_eq!(request("*100#", Dialect::Packed).unwrap(), "AT+CUSD=1,\"AA180C3602\",15");
        for bad in ["", "100\",15", "*1 #", "A", "*1\r#", &"1".repeat(183)] {
            assert_eq!(request(bad, Dialect::Plain), Err(CodeError), "{bad:?}");
        }
    }

    #[test]
    fn replies_are_read_in_every_manner() {
        let greek: String = "Υπόλοιπο 5€".encode_utf16().map(|unit| format!("{unit:04X}")).collect();
        for (text, dcs, read) in [
            ("Balance: 5.20 TZS", Some(15), "Balance: 5.20 TZS"),
            ("2000", Some(15), "2000"),
            ("500000", None, "500000"),
            (greek.as_str(), Some(72), "Υπόλοιπο 5€"),
            (greek.as_str(), Some(0x11), "Υπόλοιπο 5€"),
            ("00420061006C0061006E00630065", Some(15), "Balance"),
            ("C2303BEC1E971B", Some(15), "Balance"),
            ("", Some(15), ""),
        ] {
            assert_eq!(decode(text, dcs), read, "{text}");
        }
    }

    #[test]
    fn packed_codes_come_back() {
        for code in ["*1#", "*100#", "*12345#", "*123456#", "*100*12345678901#"] {
            let digits = packed(code);
            let octets = hex(&digits).unwrap();
            let septets = gsm7::unpack(&octets, 0, octets.len() * 8 / 7).unwrap();
            assert_eq!(gsm7::decode(&septets, Shift::NONE).trim_end_matches(['\r', '@']), code);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_reply_is_read(text: String, dcs: Option<u8>) {
            proptest::prop_assert!(decode(&text, dcs).chars().count() <= REPLY_CHARACTERS_MAX);
        }

        #[test]
        fn any_digits_are_read(octets: Vec<u8>, dcs: Option<u8>) {
            proptest::prop_assert!(decode(&to_hex(&octets), dcs).chars().count() <= REPLY_CHARACTERS_MAX);
        }
    }
}
