//! A subscriber's number in E.164, eight bytes.

use std::fmt;
use std::str::FromStr;

use rlibphonenumber::{NumberLengthType, PHONE_NUMBER_UTIL, PhoneNumber, Region as LibraryRegion, ValidationError};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::numbering::{self, Entry};
use super::{NumberError, Region};

/// Most characters looked at: the longest number with a separator after each digit, twice over.
const CHARACTERS_MAX: usize = 64;
const DIGITS_MAX: u32 = 15;
const DIGITS_MIN: u32 = 7;

/// An international phone number: 7 to 15 digits with the calling code, never a leading zero.
///
/// `parse` also checks that the calling code exists and that its numbers can have that length. It does not check
/// that the number is in use: numbering plans change faster than any table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Msisdn(u64);

impl Msisdn {
    /// Parses international input: `+`, then digits with any usual separators between.
    ///
    /// Input with a trunk zero (`+44 (0)20 ...`) or of a doubtful length goes through libphonenumber; everything else is
    /// answered from a table, without allocating.
    pub fn parse(text: &str) -> Result<Self, NumberError> {
        let scanned = scan(text)?;
        if !scanned.plus {
            return Err(NumberError::NotInternational);
        }
        scanned.international()
    }

    /// Parses what a user of `default_region` (ISO 3166, such as `TZ`) would dial: a national number with or without its
    /// trunk prefix, or international input with `+`.
    pub fn parse_in(text: &str, default_region: &str) -> Result<Self, NumberError> {
        let scanned = scan(text)?;
        if scanned.plus {
            return scanned.international();
        }
        let region = Region::parse(default_region)?;
        let library_region = LibraryRegion::try_from(region.as_str()).map_err(|_| NumberError::UnknownRegion)?;
        if PHONE_NUMBER_UTIL.get_country_code_for_region(library_region).is_none() {
            return Err(NumberError::UnknownRegion);
        }
        let digits = scanned.digits();
        match PHONE_NUMBER_UTIL.parse(&digits, Some(library_region)) {
            Ok(number) => from_library(&number),
            Err(_) => Err(NumberError::NotNational { region }),
        }
    }

    /// Takes digits that are already known to be E.164, such as those of a wire frame or of a network's address field.
    /// Only their count is checked: the other side may know newer numbering plans.
    pub fn from_u64(number: u64) -> Result<Self, NumberError> {
        match number.checked_ilog10() {
            Some(n) if (DIGITS_MIN..=DIGITS_MAX).contains(&(n + 1)) => Ok(Self(number)),
            _ => Err(NumberError::NotE164),
        }
    }

    pub fn as_u64(self) -> u64 {
        self.0
    }

    /// The country's calling code, such as 255; 0 when no country has it (possible after [`Msisdn::from_u64`] only).
    pub fn calling_code(self) -> u16 {
        let (entry, digits) = self.entry();
        match entry.calling_code_digits {
            0 => 0,
            n => (self.0 / 10u64.pow(digits - u32::from(n))) as u16,
        }
    }

    /// The main region of the calling code: `US` for all of +1, `RU` for +7, `GB` for +44. Cheap enough to ask for every
    /// message; which of the regions that share a code it is would need the library's regular expressions. None for
    /// worldwide services such as +870.
    pub fn region(self) -> Option<Region> {
        self.entry().0.region
    }

    /// The number for logs and screens: calling code and last two digits, such as `+255*****78`.
    pub fn masked(self) -> Masked {
        Masked(self)
    }

    fn entry(self) -> (Entry, u32) {
        let digits = self.0.checked_ilog10().unwrap_or(0) + 1;
        (numbering::entry(self.0, digits), digits)
    }
}

/// What [`scan`] found: the digits as one number, since an E.164 number cannot start with a zero.
struct Scanned {
    plus: bool,
    leading_zeros: u8,
    number: u64,
    digits: u32,
}

impl Scanned {
    /// All digits, for the library.
    fn digits(&self) -> String {
        let zeros = usize::from(self.leading_zeros);
        if self.digits == 0 {
            "0".repeat(zeros)
        } else {
            format!("{:0>width$}", self.number, width = zeros + self.digits as usize)
        }
    }

    fn international(&self) -> Result<Msisdn, NumberError> {
        if self.leading_zeros > 0 || self.digits < 3 {
            return Err(NumberError::UnknownCallingCode);
        }
        let entry = numbering::entry(self.number, self.digits);
        if entry.calling_code_digits == 0 {
            return Err(NumberError::UnknownCallingCode);
        }
        let national_digits = self.digits - u32::from(entry.calling_code_digits).min(self.digits);
        let national_start = self.number / 10u64.pow(national_digits.saturating_sub(1)) % 10;
        let ordinary = national_start != 0 && entry.allows(national_digits);
        if ordinary && (DIGITS_MIN..=DIGITS_MAX).contains(&self.digits) {
            return Ok(Msisdn(self.number));
        }
        self.by_library(entry, national_digits)
    }

    /// Trunk zeros after the calling code and the like: the library knows where they belong to the number (Italy) and
    /// where they do not.
    #[cold]
    fn by_library(&self, entry: Entry, national_digits: u32) -> Result<Msisdn, NumberError> {
        if let Ok(number) = PHONE_NUMBER_UTIL.parse(format!("+{}", self.number), None)
            && let Ok(msisdn) = from_library(&number)
        {
            return Ok(msisdn);
        }
        let calling_code = (self.number / 10u64.pow(national_digits)) as u16;
        Err(if national_digits < entry.shortest() {
            NumberError::TooShort { calling_code }
        } else if national_digits > entry.longest() {
            NumberError::TooLong { calling_code }
        } else {
            NumberError::ImpossibleLength { calling_code, digits: national_digits as u8 }
        })
    }
}

/// Reads digits and skips separators. More digits than any number has are an error at once.
fn scan(text: &str) -> Result<Scanned, NumberError> {
    if text.len() > CHARACTERS_MAX * 2 {
        return Err(NumberError::TooManyCharacters { limit: CHARACTERS_MAX });
    }
    let mut scanned = Scanned { plus: false, leading_zeros: 0, number: 0, digits: 0 };
    for c in text.chars() {
        let digit = match c {
            '0'..='9' => u64::from(c as u32 - '0' as u32),
            '+' | '＋' if !scanned.plus && scanned.digits == 0 && scanned.leading_zeros == 0 => {
                scanned.plus = true;
                continue;
            }
            _ if is_separator(c) => continue,
            _ => foreign_digit(c).ok_or(NumberError::UnexpectedCharacter(c))?,
        };
        if scanned.digits == 0 && digit == 0 {
            scanned.leading_zeros = scanned.leading_zeros.saturating_add(1);
            continue;
        }
        // One above E.164's 15, so that a trunk zero within a full-length number still reaches the library.
        if scanned.digits > DIGITS_MAX {
            return Err(NumberError::TooManyDigits);
        }
        scanned.number = scanned.number * 10 + digit;
        scanned.digits += 1;
    }
    if scanned.digits == 0 && scanned.leading_zeros == 0 {
        return Err(NumberError::Empty);
    }
    Ok(scanned)
}

/// What people and address books put between digits, with the invisible marks that come along when copying.
fn is_separator(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '(' | ')' | '/' | '\t' | '\u{a0}')
        || matches!(c, '\u{2000}'..='\u{2015}' | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// Decimal digits of the scripts whose users type them into phone fields.
fn foreign_digit(c: char) -> Option<u64> {
    let zeros = ['\u{660}', '\u{6f0}', '\u{966}', '\u{9e6}', '\u{ff10}'];
    let offsets = zeros.into_iter().filter_map(|zero| (c as u32).checked_sub(zero as u32));
    offsets.into_iter().find(|offset| *offset < 10).map(u64::from)
}

fn from_library(number: &PhoneNumber) -> Result<Msisdn, NumberError> {
    let calling_code = u16::try_from(number.country_code).map_err(|_| NumberError::UnknownCallingCode)?;
    let national = rlibphonenumber::get_national_significant_number_owned(number);
    let digits = national.len() as u8;
    match PHONE_NUMBER_UTIL.is_possible_number_with_reason(number) {
        Ok(NumberLengthType::IsPossible) => {}
        Ok(NumberLengthType::IsPossibleLocalOnly) | Err(ValidationError::TooShort) => {
            return Err(NumberError::TooShort { calling_code });
        }
        Err(ValidationError::TooLong) => return Err(NumberError::TooLong { calling_code }),
        Err(ValidationError::InvalidLength) => {
            return Err(NumberError::ImpossibleLength { calling_code, digits });
        }
        Err(ValidationError::InvalidCountryCode) => return Err(NumberError::UnknownCallingCode),
    }
    let whole = format!("{calling_code}{national}").parse().map_err(|_| NumberError::TooLong { calling_code })?;
    let whole = Msisdn::from_u64(whole)?;
    // One trunk zero is dropped; behind a second one the rest would be another number each time it is read.
    let settled = !national.starts_with('0') || PHONE_NUMBER_UTIL.parse(whole.to_string(), None).as_ref() == Ok(number);
    if settled { Ok(whole) } else { Err(NumberError::ImpossibleLength { calling_code, digits }) }
}

impl FromStr for Msisdn {
    type Err = NumberError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Msisdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}", self.0)
    }
}

impl fmt::Debug for Msisdn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.masked(), f)
    }
}

/// A number that shows its calling code and last two digits only.
#[derive(Clone, Copy)]
pub struct Masked(Msisdn);

impl fmt::Display for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.calling_code() {
            0 => write!(f, "+*****{:02}", self.0.0 % 100),
            code => write!(f, "+{code}*****{:02}", self.0.0 % 100),
        }
    }
}

impl fmt::Debug for Masked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A string such as `+255712345678` where people read it, the bare number on the wire.
impl Serialize for Msisdn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { serializer.collect_str(self) } else { serializer.serialize_u64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Msisdn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(NumberVisitor)
        } else {
            Self::from_u64(u64::deserialize(deserializer)?).map_err(de::Error::custom)
        }
    }
}

struct NumberVisitor;

impl de::Visitor<'_> for NumberVisitor {
    type Value = Msisdn;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an international phone number such as +255712345678")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Msisdn, E> {
        Msisdn::parse(text).map_err(E::custom)
    }
}

#[cfg(test)]
mod tests;
