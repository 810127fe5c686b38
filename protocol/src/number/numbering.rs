//! Which calling codes exist, how long their numbers are, and whose they are: a flat table for the hot path.
//!
//! libphonenumber answers these questions with maps and regular expressions, at about a microsecond a number. Bulk
//! accept cannot pay that, so its answers are asked once, for every calling code and length, and kept in 8 KB.

use std::sync::OnceLock;

use rlibphonenumber::{NumberLengthType, PHONE_NUMBER_UTIL, PhoneNumber, ValidationError};

use super::Region;

/// Longest national part that E.164 leaves room for (15 digits less one of calling code).
const NATIONAL_DIGITS_MAX: u32 = 14;

/// What the first three digits of an international number tell.
#[derive(Clone, Copy, Default)]
pub(super) struct Entry {
    /// Digits of the calling code, 1 to 3; 0 when no calling code starts so.
    pub(super) calling_code_digits: u8,
    /// Bit `n` is set when numbers with `n` national digits may exist.
    lengths: u16,
    /// The calling code's main region; none for worldwide services.
    pub(super) region: Option<Region>,
}

impl Entry {
    pub(super) fn allows(&self, national_digits: u32) -> bool {
        national_digits <= NATIONAL_DIGITS_MAX && self.lengths >> national_digits & 1 == 1
    }

    pub(super) fn shortest(&self) -> u32 {
        self.lengths.trailing_zeros()
    }

    pub(super) fn longest(&self) -> u32 {
        15 - self.lengths.leading_zeros().min(15)
    }
}

/// The entry for a number of `digits` digits (at least 3).
pub(super) fn entry(number: u64, digits: u32) -> Entry {
    static TABLE: OnceLock<Box<[Entry; 1000]>> = OnceLock::new();
    let prefix = number / 10u64.pow(digits.saturating_sub(3));
    let table = TABLE.get_or_init(build);
    usize::try_from(prefix).ok().and_then(|prefix| table.get(prefix)).copied().unwrap_or_default()
}

fn build() -> Box<[Entry; 1000]> {
    let mut table = Box::new([Entry::default(); 1000]);
    for calling_code in PHONE_NUMBER_UTIL.get_supported_calling_codes() {
        let Ok(code) = u32::try_from(calling_code) else {
            continue;
        };
        let Some(digits @ 1..=3) = code.checked_ilog10().map(|n| n + 1) else {
            continue;
        };
        let entry = Entry {
            calling_code_digits: digits as u8,
            lengths: possible_lengths(calling_code),
            region: main_region(calling_code),
        };
        let block = 10usize.pow(3 - digits);
        let first = code as usize * block;
        table[first..first + block].fill(entry);
    }
    table
}

fn possible_lengths(calling_code: i32) -> u16 {
    let mut lengths = 0;
    for digits in 1..=NATIONAL_DIGITS_MAX {
        // Only the count of digits matters to the library here: any number of that length will do.
        let number = PhoneNumber {
            country_code: calling_code,
            national_number: 10u64.pow(digits - 1),
            ..PhoneNumber::default()
        };
        let possible: Result<NumberLengthType, ValidationError> =
            PHONE_NUMBER_UTIL.is_possible_number_with_reason(&number);
        if possible == Ok(NumberLengthType::IsPossible) {
            lengths |= 1 << digits;
        }
    }
    lengths
}

fn main_region(calling_code: i32) -> Option<Region> {
    let region = PHONE_NUMBER_UTIL.get_region_for_country_code(calling_code)?;
    // Worldwide services (+800, +870, ...) have "001" here, which is no region.
    Region::parse(region.as_region_str().as_str()).ok()
}
