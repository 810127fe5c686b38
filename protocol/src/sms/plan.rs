//! How a text goes into SMS segments: encoding, tables, count. Decided without making the segments, and without
//! allocating, so that a controller can count for every message what its device will send.
//!
//! The order of preference is the default alphabet, then UCS-2, then the national tables; a later one is taken only when
//! it needs fewer segments. UCS-2 before the tables because every handset shows it, and some show the tables' letters
//! wrongly.

use serde::{Deserialize, Serialize};

use super::gsm7::{self, ASCII_COST, COST_UNKNOWN, Shift};
use super::smart::{for_each_char, replacement};
use super::udh::{Concatenation, Ports, Udh};
use crate::wire::{Alphabet, Body, TextEncoding};

/// Octets of user data in one SMS (3GPP TS 23.040 clause 9.2.3.24), the header among them.
pub(super) const USER_DATA_OCTETS: usize = 140;
/// No character of the national tables needs more bytes in UTF-8, and no segment has more characters.
const TEXT_BYTES_PER_SEGMENT: usize = 160 * 3;
/// Encodable rows of the locking tables: all but Spanish, which has none of its own.
const ROWS: u16 = 0x3fff & !(1 << gsm7::Language::Spanish as u16);

/// What a segment's user data is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// The default alphabet or national tables; a unit is a septet.
    Gsm7,
    /// UTF-16, which handsets have long read where the standard says UCS-2; a unit is 16 bits.
    Ucs2,
    /// Bytes of an application; a unit is an octet.
    Data8,
}

/// What [`plan()`] may choose from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    pub alphabet: Alphabet,
    /// Allow the national language tables.
    pub national_tables: bool,
    /// Replace typographic characters by what the GSM alphabet has, where that saves segments or is the only way.
    pub smart: bool,
    /// 1 to 255.
    pub segments_max: u8,
    /// Number concatenated messages with 16 bits instead of 8. Costs one octet a segment, and fewer collide.
    pub wide_reference: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        Self { alphabet: Alphabet::Auto, national_tables: true, smart: false, segments_max: 10, wide_reference: false }
    }
}

/// With as many segments as SMS has: a device sends what its controller has accepted, and a controller sets its own limit.
impl From<TextEncoding> for EncodeOptions {
    fn from(encoding: TextEncoding) -> Self {
        Self {
            alphabet: encoding.alphabet,
            national_tables: encoding.national_tables,
            smart: encoding.smart,
            segments_max: u8::MAX,
            wide_reference: false,
        }
    }
}

/// What a text needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    pub encoding: Encoding,
    /// Number of SMS, from 1.
    pub segments: u8,
    /// Septets, 16-bit units or octets of the whole text, headers not counted.
    pub units: u32,
    /// Units that still fit without another segment.
    pub units_left: u32,
    /// The national tables in force, for GSM-7 only.
    pub shift: Shift,
    /// Typographic characters are replaced.
    pub smart: bool,
    pub wide_reference: bool,
}

/// Why a text can not be sent as asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    #[error("the text needs {segments} segments or more and {max} are allowed; shorten it or allow more segments")]
    TooManySegments { segments: u32, max: u8 },
    #[error("the text has a character that GSM-7 lacks ({character:?}); allow UCS-2 or replace the character")]
    NotInGsm7 { character: char },
    #[error("segments_max is 0; allow at least one segment")]
    NoSegments,
}

/// Chooses how to send `text`. An empty text is one empty segment.
pub fn plan(text: &str, options: &EncodeOptions) -> Result<Plan, EncodeError> {
    if options.segments_max == 0 {
        return Err(EncodeError::NoSegments);
    }
    let fewest = text.len().div_ceil(TEXT_BYTES_PER_SEGMENT);
    if fewest > usize::from(options.segments_max) {
        return Err(EncodeError::TooManySegments { segments: fewest as u32, max: options.segments_max });
    }
    let plain = if options.alphabet == Alphabet::Ucs2 { None } else { plain(text, options.wide_reference) };
    let draft = match plain {
        Some(draft) => draft,
        None => choose(text, options)?,
    };
    if draft.segments > u32::from(options.segments_max) {
        return Err(EncodeError::TooManySegments { segments: draft.segments, max: options.segments_max });
    }
    Ok(draft.plan(options))
}

/// Plans `octets` bytes of application data, for a port of the receiver if one is given.
pub fn plan_data(octets: usize, port: Option<u16>, options: &EncodeOptions) -> Result<Plan, EncodeError> {
    if options.segments_max == 0 {
        return Err(EncodeError::NoSegments);
    }
    let units = u32::try_from(octets).unwrap_or(u32::MAX);
    let header = |concatenation| Udh { ports: port.map(Ports::to), concatenation, ..Udh::default() }.octets();
    let single = capacity(Encoding::Data8, header(None));
    let part = capacity(Encoding::Data8, header(Some(Concatenation::any(options.wide_reference))));
    let (segments, left) = if units <= single { (1, single - units) } else { evenly(units, part) };
    if segments > u32::from(options.segments_max) {
        return Err(EncodeError::TooManySegments { segments, max: options.segments_max });
    }
    Ok(Draft::new(Encoding::Data8, Shift::NONE, segments, units, left).plan(options))
}

/// Plans what a message carries, text or data.
pub fn plan_body(body: &Body, options: &EncodeOptions) -> Result<Plan, EncodeError> {
    match body {
        Body::Text(text) => plan(text, options),
        Body::Data { bytes, port } => plan_data(bytes.len(), *port, options),
    }
}

/// One way to send a text.
#[derive(Clone, Copy)]
struct Draft {
    encoding: Encoding,
    shift: Shift,
    smart: bool,
    segments: u32,
    units: u32,
    units_left: u32,
}

impl Draft {
    fn new(encoding: Encoding, shift: Shift, segments: u32, units: u32, units_left: u32) -> Self {
        Self { encoding, shift, smart: false, segments, units, units_left }
    }

    fn plan(self, options: &EncodeOptions) -> Plan {
        Plan {
            encoding: self.encoding,
            // Within `segments_max` by now, so it fits.
            segments: self.segments as u8,
            units: self.units,
            units_left: self.units_left,
            shift: self.shift,
            smart: self.smart,
            wide_reference: options.wide_reference,
        }
    }
}

/// The short way: a text of the default alphabet that fits one segment or has no pairs, for which nothing is cheaper.
fn plain(text: &str, wide_reference: bool) -> Option<Draft> {
    let (units, pairs) = match ascii_units(text) {
        Some(units) => (units, units as usize > text.len()),
        // No character takes more than three bytes in this alphabet.
        None if text.len() <= 3 * 160 => default_units(text)?,
        None => return None,
    };
    let single = capacity(Encoding::Gsm7, 0);
    let (segments, left) = if units <= single {
        (1, single - units)
    } else if pairs {
        return None;
    } else {
        let concatenation = Some(Concatenation::any(wide_reference));
        evenly(units, capacity(Encoding::Gsm7, Udh { concatenation, ..Udh::default() }.octets()))
    };
    Some(Draft::new(Encoding::Gsm7, Shift::NONE, segments, units, left))
}

/// The septets of an ASCII text in the default alphabet; None when it has anything else.
fn ascii_units(text: &str) -> Option<u32> {
    let (mut units, mut seen) = (0u32, 0u8);
    for byte in text.bytes() {
        let cost = ASCII_COST[usize::from(byte)];
        // At most two a byte, and `plan` has refused texts of more than 255 segments.
        units += u32::from(cost & !COST_UNKNOWN);
        seen |= cost;
    }
    (seen & COST_UNKNOWN == 0).then_some(units)
}

/// The septets of a text in the default alphabet and whether some are pairs; None when it has anything else.
fn default_units(text: &str) -> Option<(u32, bool)> {
    let (mut units, mut pairs) = (0, false);
    for c in text.chars() {
        let holders = gsm7::holders(c);
        if holders.locking & 1 != 0 {
            units += 1;
        } else if holders.single & 1 != 0 {
            units += 2;
            pairs = true;
        } else {
            return None;
        }
    }
    Some((units, pairs))
}

/// The long way: every encoding is counted.
fn choose(text: &str, options: &EncodeOptions) -> Result<Draft, EncodeError> {
    let source = Source { text, smart: false, wide_reference: options.wide_reference };
    let census = Census::of(source);
    let may_gsm = options.alphabet != Alphabet::Ucs2;
    let mut best = None;
    if may_gsm {
        best = census.default_alphabet(source);
    }
    if options.alphabet != Alphabet::Gsm7 {
        best = fewer(best, Some(census.utf16(source)));
    }
    if may_gsm && best.is_none_or(|draft| draft.segments > 1) {
        if options.national_tables {
            best = fewer(best, census.national_tables(source));
        }
        if options.smart && census.replaceable {
            let source = Source { smart: true, ..source };
            let census = Census::of(source);
            best = fewer(best, census.default_alphabet(source));
            if options.national_tables {
                best = fewer(best, census.national_tables(source));
            }
        }
    }
    // UCS-2 takes every text, so here GSM-7 was asked for.
    best.ok_or_else(|| EncodeError::NotInGsm7 { character: first_foreign(text, options) })
}

/// The earlier draft unless the later one needs fewer segments.
fn fewer(earlier: Option<Draft>, later: Option<Draft>) -> Option<Draft> {
    match (earlier, later) {
        (Some(earlier), Some(later)) if later.segments >= earlier.segments => Some(earlier),
        (earlier, later) => later.or(earlier),
    }
}

fn first_foreign(text: &str, options: &EncodeOptions) -> char {
    let known = |c: char| {
        let holders = gsm7::holders(c);
        let rows = if options.national_tables { ROWS } else { 1 };
        (holders.locking | holders.single) & rows != 0 || options.smart && replacement(c).is_some()
    };
    // A text of known letters only may still mix languages that share no table: then the first national one is named.
    let foreign = text.chars().find(|c| !known(*c));
    foreign.or_else(|| text.chars().find(|c| gsm7::code(*c, Shift::NONE).is_none())).unwrap_or_default()
}

/// A text as it will be encoded.
#[derive(Clone, Copy)]
struct Source<'a> {
    text: &'a str,
    smart: bool,
    wide_reference: bool,
}

impl Source<'_> {
    /// Segments for a text of `units`, and the units left in the last. `cost` gives a character's units; a character of
    /// two is never split, so when there are `pairs` only a walk tells.
    fn draft(self, encoding: Encoding, shift: Shift, units: u32, pairs: bool, cost: impl Fn(char) -> u32) -> Draft {
        let header = |concatenation| Udh { shift, concatenation, ..Udh::default() }.octets();
        let single = capacity(encoding, header(None));
        let (segments, left) = if units <= single {
            (1, single - units)
        } else {
            let part = capacity(encoding, header(Some(Concatenation::any(self.wide_reference))));
            if pairs { self.walk(part, cost) } else { evenly(units, part) }
        };
        Draft { smart: self.smart, ..Draft::new(encoding, shift, segments, units, left) }
    }

    fn walk(self, capacity: u32, cost: impl Fn(char) -> u32) -> (u32, u32) {
        let (mut segments, mut used) = (1, 0);
        for_each_char(self.text, self.smart, |c| {
            let units = cost(c);
            if used + units > capacity {
                segments += 1;
                used = 0;
            }
            used += units;
        });
        (segments, capacity - used)
    }
}

/// What one pass over a text tells about every way to encode it.
struct Census {
    characters: u32,
    utf16_units: u32,
    /// Per alphabet: how many characters it lacks, which then cost two septets.
    lacking: [u32; 14],
    /// Per alphabet: the single shift tables that have all of those. None: the alphabet can not be used.
    singles: [u16; 14],
    /// Some character has a typographic replacement.
    replaceable: bool,
}

impl Census {
    fn of(source: Source<'_>) -> Self {
        let mut census =
            Self { characters: 0, utf16_units: 0, lacking: [0; 14], singles: [0x3fff; 14], replaceable: false };
        let mut usable = ROWS;
        for_each_char(source.text, source.smart, |c| {
            census.characters += 1;
            census.utf16_units += c.len_utf16() as u32;
            let holders = gsm7::holders(c);
            census.replaceable |= holders.locking & 1 == 0 && replacement(c).is_some();
            let mut lacking = usable & !holders.locking;
            while lacking != 0 {
                let row = lacking.trailing_zeros() as usize;
                lacking &= lacking - 1;
                census.lacking[row] += 1;
                census.singles[row] &= holders.single;
                if census.singles[row] == 0 {
                    usable &= !(1 << row);
                }
            }
        });
        census
    }

    fn utf16(&self, source: Source<'_>) -> Draft {
        let pairs = self.utf16_units != self.characters;
        source.draft(Encoding::Ucs2, Shift::NONE, self.utf16_units, pairs, |c| c.len_utf16() as u32)
    }

    fn default_alphabet(&self, source: Source<'_>) -> Option<Draft> {
        (self.singles[0] & 1 != 0).then(|| self.septets(source, 0, Shift::NONE))
    }

    /// The best of the national tables. A single shift alone comes first: a handset that does not know it shows the
    /// letter without its accent, where an unknown locking shift shows another letter.
    fn national_tables(&self, source: Source<'_>) -> Option<Draft> {
        let mut best = None;
        for row in (0..14).filter(|row| ROWS >> row & 1 == 1 && self.singles[usize::from(*row)] != 0) {
            let single = match self.singles[usize::from(row)] {
                every if every & 1 == 1 => 0,
                some if some >> row & 1 == 1 => row,
                some => some.trailing_zeros() as u8,
            };
            let shift = Shift {
                locking: gsm7::Language::from_identifier(row),
                single: gsm7::Language::from_identifier(single),
            };
            if shift != Shift::NONE {
                best = fewer(best, Some(self.septets(source, row, shift)));
            }
        }
        best
    }

    fn septets(&self, source: Source<'_>, row: u8, shift: Shift) -> Draft {
        let lacking = self.lacking[usize::from(row)];
        let cost = |c: char| if gsm7::holders(c).locking >> row & 1 == 1 { 1 } else { 2 };
        source.draft(Encoding::Gsm7, shift, self.characters + lacking, lacking > 0, cost)
    }
}

/// Units that fit beside a header of `header_octets`.
pub(super) fn capacity(encoding: Encoding, header_octets: usize) -> u32 {
    let octets = USER_DATA_OCTETS.saturating_sub(header_octets) as u32;
    match encoding {
        Encoding::Gsm7 => octets * 8 / 7,
        Encoding::Ucs2 => octets / 2,
        Encoding::Data8 => octets,
    }
}

fn evenly(units: u32, capacity: u32) -> (u32, u32) {
    let segments = units.div_ceil(capacity);
    (segments, (u64::from(segments) * u64::from(capacity) - u64::from(units)) as u32)
}

#[cfg(test)]
mod tests;
