//! A mobile network by country and network code (3GPP TS 23.003 clause 2.2).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::NumberError;

/// MCC and MNC. `310-26` and `310-026` are different networks, so the count of digits belongs to the value.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Plmn {
    mcc: u16,
    mnc: u16,
    mnc_digits: u8,
}

impl Plmn {
    /// Parses `64002`, `310-026` or `640/02`: three digits, then two or three.
    pub fn parse(text: &str) -> Result<Self, NumberError> {
        let bytes = text.as_bytes();
        let (mcc, rest) = bytes.split_at_checked(3).ok_or(NumberError::Plmn)?;
        let mnc = match rest {
            [b'-' | b'/' | b' ', mnc @ ..] => mnc,
            mnc => mnc,
        };
        if !matches!(mnc.len(), 2 | 3) {
            return Err(NumberError::Plmn);
        }
        Ok(Self { mcc: decimal(mcc)?, mnc: decimal(mnc)?, mnc_digits: mnc.len() as u8 })
    }

    pub fn mcc(self) -> u16 {
        self.mcc
    }

    pub fn mnc(self) -> u16 {
        self.mnc
    }

    /// 2 or 3.
    pub fn mnc_digits(self) -> u8 {
        self.mnc_digits
    }
}

fn decimal(digits: &[u8]) -> Result<u16, NumberError> {
    digits.iter().try_fold(0, |value, byte| match byte {
        b'0'..=b'9' => Ok(value * 10 + u16::from(byte - b'0')),
        _ => Err(NumberError::Plmn),
    })
}

impl FromStr for Plmn {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Plmn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}{:0width$}", self.mcc, self.mnc, width = usize::from(self.mnc_digits))
    }
}

impl fmt::Debug for Plmn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03}-{:0width$}", self.mcc, self.mnc, width = usize::from(self.mnc_digits))
    }
}

impl Serialize for Plmn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Plmn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_and_three_digits_are_different_networks() {
        let short = Plmn::parse("31026").unwrap();
        let long = Plmn::parse("310026").unwrap();
        assert_ne!(short, long);
        assert_eq!((short.mcc(), short.mnc(), short.mnc_digits()), (310, 26, 2));
        assert_eq!((long.mcc(), long.mnc(), long.mnc_digits()), (310, 26, 3));
        for text in ["31026", "310026", "00101", "901999"] {
            assert_eq!(Plmn::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(Plmn::parse("640-02").unwrap(), Plmn::parse("64002").unwrap());
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "6", "640", "6400", "640-", "640-0", "6400200", "64x02", "é40002", "+64002"] {
            assert_eq!(Plmn::parse(text), Err(NumberError::Plmn), "{text}");
        }
    }
}
