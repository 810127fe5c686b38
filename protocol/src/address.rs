//! Who a message is from or to, as a network names them: a subscriber, a short or national number, or a name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::number::Msisdn;

/// An SMS address (3GPP TS 23.040 9.1.2.5): at most 20 digits or 11 characters of the GSM alphabet.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Address {
    International(Msisdn),
    /// Digits without a country code, `*` and `#` among them: short codes, national and unknown numbers.
    Short(String),
    /// A sender's name.
    Alphanumeric(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::International(number) => number.fmt(f),
            Self::Short(text) | Self::Alphanumeric(text) => f.write_str(text),
        }
    }
}

/// Personal, so only its kind is shown.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::International(_) => "International(..)",
            Self::Short(_) => "Short(..)",
            Self::Alphanumeric(_) => "Alphanumeric(..)",
        })
    }
}
