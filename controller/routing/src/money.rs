//! Amounts of money: whole millionths inside, decimal numbers of the currency wherever people read or write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Millionths in one unit of a currency.
const UNIT: u64 = 1_000_000;
/// Digits after the point.
const DECIMALS: usize = 6;

/// Money in millionths of the tenant's currency. One currency per tenant, so amounts are never converted.
///
/// In JSON a decimal text such as `"0.0125"`, which no reader rounds; a number is taken as well. In binary formats the
/// millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, example = "0.0125")]
pub struct Micros(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("give an amount of 0 or more with at most {DECIMALS} decimals, such as \"0.0125\"")]
pub struct AmountError;

impl Micros {
    pub const ZERO: Self = Self(0);

    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The price of so many segments.
    pub const fn times(self, segments: u8) -> Self {
        Self(self.0.saturating_mul(segments as u64))
    }
}

impl FromStr for Micros {
    type Err = AmountError;

    fn from_str(text: &str) -> Result<Self, AmountError> {
        let (units, decimals) = text.split_once('.').unwrap_or((text, "0"));
        // `FromStr` of integers would also take a sign.
        let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_digits(units) || !is_digits(decimals) || decimals.len() > DECIMALS {
            return Err(AmountError);
        }
        let units: u64 = units.parse().map_err(|_| AmountError)?;
        let scale = 10u64.pow((DECIMALS - decimals.len()) as u32);
        let decimals: u64 = decimals.parse().map_err(|_| AmountError)?;
        units.checked_mul(UNIT).and_then(|micros| micros.checked_add(decimals * scale)).map(Self).ok_or(AmountError)
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (units, decimals) = (self.0 / UNIT, self.0 % UNIT);
        if decimals == 0 {
            return write!(f, "{units}");
        }
        write!(f, "{units}.{}", format!("{decimals:06}").trim_end_matches('0'))
    }
}

impl Serialize for Micros {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(self),
            false => serializer.serialize_u64(self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Micros {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match deserializer.is_human_readable() {
            true => deserializer.deserialize_any(AmountVisitor),
            false => u64::deserialize(deserializer).map(Self),
        }
    }
}

struct AmountVisitor;

impl de::Visitor<'_> for AmountVisitor {
    type Value = Micros;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an amount such as \"0.0125\", with at most {DECIMALS} decimals")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Micros, E> {
        text.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_u64<E: de::Error>(self, units: u64) -> Result<Micros, E> {
        units.checked_mul(UNIT).map(Micros).ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(units), &self))
    }

    fn visit_f64<E: de::Error>(self, units: f64) -> Result<Micros, E> {
        // The shortest text that is this number: what was written, as long as it has up to 15 digits.
        units.to_string().parse().map_err(|_| E::invalid_value(de::Unexpected::Float(units), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_and_written_as_decimals() {
        for (text, micros, shown) in [
            ("0", 0, "0"),
            ("12", 12_000_000, "12"),
            ("12.50", 12_500_000, "12.5"),
            ("0.000001", 1, "0.000001"),
            ("007.10", 7_100_000, "7.1"),
            ("18446744073709.551615", u64::MAX, "18446744073709.551615"),
        ] {
            let amount: Micros = text.parse().unwrap();
            assert_eq!((amount.0, amount.to_string().as_str()), (micros, shown), "{text}");
        }
        let wrong =
            ["", ".", "1.", ".5", "-1", "+1", "1e3", "0.0000001", "1,5", "18446744073709.551616", "99999999999999"];
        for text in wrong {
            assert_eq!(text.parse::<Micros>(), Err(AmountError), "{text}");
        }
    }

    #[test]
    fn json_has_decimals_and_binary_formats_millionths() {
        assert_eq!(serde_json::to_string(&Micros(12_500)).unwrap(), "\"0.0125\"");
        for text in ["\"0.0125\"", "0.0125", "1.25e-2"] {
            assert_eq!(serde_json::from_str::<Micros>(text).unwrap(), Micros(12_500), "{text}");
        }
        assert_eq!(serde_json::from_str::<Micros>("3").unwrap(), Micros(3_000_000));
        assert_eq!(serde_json::from_str::<Micros>("0.1").unwrap(), Micros(100_000));
        for text in ["-1", "0.00000012", "true", "\"much\"", "18446744073710", "1e300"] {
            let error = serde_json::from_str::<Micros>(text).unwrap_err().to_string();
            assert!(error.contains("0.0125"), "{text}: {error}");
        }
        let bytes = postcard::to_allocvec(&Micros(12_500)).unwrap();
        assert_eq!(bytes, [0xd4, 0x61]);
        assert_eq!(postcard::from_bytes::<Micros>(&bytes).unwrap(), Micros(12_500));
    }
}
