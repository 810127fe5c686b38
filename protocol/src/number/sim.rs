//! The two numbers of a SIM: ICCID (the card, ITU-T E.118) and IMSI (the subscription, 3GPP TS 23.003 clause 2.2).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{NumberError, Plmn};

/// Up to `N` decimal digits, kept as text because leading zeros count. Unused places are zero bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Digits<const N: usize>([u8; N]);

impl<const N: usize> Digits<N> {
    /// Takes the digits of `text`, skipping spaces and quotes. None if anything else stands there or too many digits.
    fn collect(text: &str) -> Option<Self> {
        let mut digits = [0; N];
        let bytes = text.bytes().filter(|byte| !matches!(byte, b' ' | b'"' | b'\t' | b'\r' | b'\n'));
        for (place, byte) in bytes.enumerate() {
            *digits.get_mut(place)? = byte.is_ascii_digit().then_some(byte)?;
        }
        Some(Self(digits))
    }

    fn as_str(&self) -> &str {
        let count = self.0.iter().position(|byte| *byte == 0).unwrap_or(N);
        // ASCII digits only, by construction.
        std::str::from_utf8(&self.0[..count]).unwrap_or_default()
    }
}

/// The number printed on a SIM card: 18 to 20 digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Iccid(Digits<20>);

impl Iccid {
    /// Parses digits as a modem prints them after `AT+CCID`: spaces, quotes and the filler `F` at the end are skipped.
    ///
    /// The last digit of a 19- or 20-digit ICCID is a Luhn check digit. Twenty digits may also be 19 with their check
    /// digit and one more that the operator added. Eighteen digits come without a check digit.
    pub fn parse(text: &str) -> Result<Self, NumberError> {
        let text = text.trim_matches(|c: char| c.is_ascii_whitespace() || c == '"').trim_end_matches(['F', 'f']);
        let digits = Digits::collect(text).ok_or(NumberError::IccidDigits)?;
        let plain = digits.as_str().as_bytes();
        let checked = match plain.len() {
            18 => true,
            19 => luhn_holds(plain),
            20 => luhn_holds(plain) || luhn_holds(&plain[..19]),
            _ => return Err(NumberError::IccidDigits),
        };
        if checked { Ok(Self(digits)) } else { Err(NumberError::IccidCheckDigit) }
    }

    /// Reads EF_ICCID as `AT+CRSM` gives it: ten octets, two digits each, the lower half first (3GPP TS 31.102).
    pub fn from_swapped_bcd(octets: &[u8; 10]) -> Result<Self, NumberError> {
        let mut text = String::with_capacity(20);
        for nibble in octets.iter().flat_map(|octet| [octet & 0xf, octet >> 4]) {
            text.push(char::from_digit(u32::from(nibble), 16).unwrap_or('f'));
        }
        Self::parse(&text)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

fn luhn_holds(digits: &[u8]) -> bool {
    let sum: u32 = digits
        .iter()
        .rev()
        .enumerate()
        .map(|(place, byte)| {
            let digit = u32::from(byte - b'0');
            if place % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
        })
        .sum();
    sum.is_multiple_of(10)
}

/// The number by which networks know a subscription: 14 or 15 digits, the network's own first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Imsi(Digits<15>);

impl Imsi {
    /// Parses the answer to `AT+CIMI`.
    pub fn parse(text: &str) -> Result<Self, NumberError> {
        let digits = Digits::collect(text).ok_or(NumberError::ImsiDigits)?;
        if digits.as_str().len() < 14 { Err(NumberError::ImsiDigits) } else { Ok(Self(digits)) }
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The home network. How many digits its code has (2 or 3) does not stand in the IMSI; the SIM tells it in EF_AD.
    pub fn home(&self, mnc_digits: u8) -> Result<Plmn, NumberError> {
        let digits = self.as_str();
        Plmn::parse(digits.get(..3 + usize::from(mnc_digits)).unwrap_or_default())
    }
}

macro_rules! digits_text {
    ($name:ident, shown: $shown:literal, expecting: $expecting:literal) => {
        impl std::str::FromStr for $name {
            type Err = NumberError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::parse(text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        /// Issuer or network at the start and the last two digits; what is between identifies a person.
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = self.as_str();
                write!(f, "{}*****{}", &digits[..$shown], &digits[digits.len() - 2..])
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;

                impl de::Visitor<'_> for Visitor {
                    type Value = $name;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: de::Error>(self, text: &str) -> Result<$name, E> {
                        $name::parse(text).map_err(E::custom)
                    }
                }

                deserializer.deserialize_str(Visitor)
            }
        }
    };
}

digits_text!(Iccid, shown: 6, expecting: "an ICCID of 18 to 20 digits");
digits_text!(Imsi, shown: 5, expecting: "an IMSI of 14 or 15 digits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn iccid_reads_what_modems_print() {
        for text in ["8901410321111851072", "\"89 01 41 03 2111 1851 072F\"", " 8901410321111851072f\r\n"] {
            assert_eq!(Iccid::parse(text).unwrap().as_str(), "8901410321111851072");
        }
    }

    #[test]
    fn iccid_check_digit_is_verified() {
        // A 20-digit ICCID of a US operator: 19 digits with their check digit, and one more.
        assert!(Iccid::parse("8901410321111851072").is_ok());
        assert_eq!(Iccid::parse("8901410321111851073"), Err(NumberError::IccidCheckDigit));
        assert!(Iccid::parse("89014103211118510725").is_ok(), "one more digit after a good check digit");
        assert!(Iccid::parse("890141032111185107").is_ok(), "18 digits have no check digit");
    }

    #[test]
    fn iccid_refuses_other_lengths_and_letters() {
        for text in
            ["", "F", "89014103211118510", "890141032111185107255", "89014103211118510A2", "+CCID: 8901410321111851072"]
        {
            assert_eq!(Iccid::parse(text), Err(NumberError::IccidDigits), "{text}");
        }
    }

    #[test]
    fn iccid_from_the_card_file() {
        let octets = [0x98, 0x10, 0x14, 0x30, 0x12, 0x11, 0x81, 0x15, 0x70, 0xf2];
        assert_eq!(Iccid::from_swapped_bcd(&octets).unwrap().as_str(), "8901410321111851072");
    }

    #[test]
    fn imsi_keeps_leading_zeros() {
        let imsi = Imsi::parse("001010123456789\r\n").unwrap();
        assert_eq!(imsi.as_str(), "001010123456789");
        assert_eq!(imsi.home(2).unwrap(), Plmn::parse("00101").unwrap());
        assert_eq!(imsi.home(3).unwrap(), Plmn::parse("001010").unwrap());
        assert!(Imsi::parse("00101012345678").is_ok());
        for text in ["", "0010101234567", "0010101234567890", "00101012345678x"] {
            assert_eq!(Imsi::parse(text), Err(NumberError::ImsiDigits), "{text}");
        }
    }

    #[test]
    fn debug_masks() {
        assert_eq!(format!("{:?}", Iccid::parse("8901410321111851072").unwrap()), "890141*****72");
        assert_eq!(format!("{:?}", Imsi::parse("640021234567890").unwrap()), "64002*****90");
    }
}
