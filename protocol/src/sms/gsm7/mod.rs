//! The GSM 7-bit alphabets (3GPP TS 23.038 clause 6.2.1 and annex A) and their packing (clause 6.1.2.1).
//!
//! A *septet* is one 7-bit code in a `u8`. Text becomes septets by a [`Shift`], the pair of tables in force, and septets
//! become octets by [`pack`]. The crates that exist know the default alphabet only, so the tables are our own.

mod language;
mod packing;
mod tables;

pub use language::{Language, Shift};
pub use packing::{fill_bits, octets_for, pack, unpack};

use tables::{LOCKING, NONE, SINGLE};

/// Escapes the next septet to the single shift table.
pub const ESCAPE: u8 = 0x1b;

/// How a character stands in a pair of tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// In the alphabet itself: one septet.
    Plain(u8),
    /// In the extension or single shift table: this septet after [`ESCAPE`], so two.
    Escaped(u8),
}

/// The code of `c` under `shift`, if it has one.
pub fn code(c: char, shift: Shift) -> Option<Code> {
    if shift == Shift::NONE {
        return default_code(c);
    }
    let value = u16::try_from(u32::from(c)).ok().filter(|value| *value != NONE)?;
    let position = |table: &[u16; 128]| table.iter().position(|entry| *entry == value).map(|at| at as u8);
    let (locking, single) = shift.rows();
    position(&LOCKING[locking]).map(Code::Plain).or_else(|| position(&SINGLE[single]).map(Code::Escaped))
}

/// Appends the septets of `text` under `shift`; gives the first character that has none.
pub fn encode(text: &str, shift: Shift, septets: &mut Vec<u8>) -> Result<(), char> {
    for c in text.chars() {
        match code(c, shift).ok_or(c)? {
            Code::Plain(septet) => septets.push(septet),
            Code::Escaped(septet) => septets.extend([ESCAPE, septet]),
        }
    }
    Ok(())
}

/// The text of `septets` under `shift`. The top bit of each is ignored.
///
/// Nothing is refused: an unknown escaped septet shows the alphabet's own character and a doubled or last escape a
/// space, as clause 6.2.1.1 asks; a septet without meaning shows a space.
pub fn decode(septets: &[u8], shift: Shift) -> String {
    let (locking, single) = shift.rows();
    let mut text = String::with_capacity(septets.len());
    let mut rest = septets.iter().map(|septet| usize::from(septet & 0x7f));
    while let Some(septet) = rest.next() {
        let value = if septet != usize::from(ESCAPE) {
            LOCKING[locking][septet]
        } else {
            match rest.next() {
                None => NONE,
                Some(escaped) if SINGLE[single][escaped] != NONE => SINGLE[single][escaped],
                Some(escaped) => LOCKING[locking][escaped],
            }
        };
        let shown = if value == NONE { ' ' } else { char::from_u32(u32::from(value)).unwrap_or(' ') };
        text.push(shown);
    }
    text
}

/// The septets that each byte of UTF-8 costs in the default alphabet: 1 or 2 for ASCII, [`COST_UNKNOWN`] otherwise.
pub(super) static ASCII_COST: [u8; 256] = ascii_cost();
pub(super) const COST_UNKNOWN: u8 = 0x80;

/// Which tables have a character: bit `n` for the language with identifier `n`.
#[derive(Clone, Copy)]
pub(super) struct Holders {
    pub(super) locking: u16,
    pub(super) single: u16,
}

pub(super) fn holders(c: char) -> Holders {
    let value = u32::from(c);
    match PAGE_OF.get((value >> 8) as usize) {
        Some(page) => HOLDERS[usize::from(*page)][(value & 0xff) as usize],
        None => Holders { locking: 0, single: 0 },
    }
}

/// Latin-1 by table, the few others by a look through the alphabet.
fn default_code(c: char) -> Option<Code> {
    static LATIN: [u8; 256] = latin();
    let value = u32::from(c);
    if value < 256 {
        return match LATIN[value as usize] {
            0xff => None,
            entry if entry & 0x80 != 0 => Some(Code::Escaped(entry & 0x7f)),
            entry => Some(Code::Plain(entry)),
        };
    }
    match value {
        0x20ac => Some(Code::Escaped(0x65)),
        0x0393..=0x03a9 => LOCKING[0][0x10..0x1b]
            .iter()
            .position(|entry| u32::from(*entry) == value)
            .map(|at| Code::Plain(at as u8 + 0x10)),
        _ => None,
    }
}

/// For each Latin-1 character its septet, with the top bit set when it is escaped, or 0xff.
const fn latin() -> [u8; 256] {
    let mut latin = [0xff; 256];
    let mut septet = 0;
    while septet < 128 {
        let (plain, escaped) = (LOCKING[0][septet], SINGLE[0][septet]);
        if plain < 256 {
            latin[plain as usize] = septet as u8;
        }
        if escaped < 256 {
            latin[escaped as usize] = septet as u8 | 0x80;
        }
        septet += 1;
    }
    latin
}

const fn ascii_cost() -> [u8; 256] {
    let latin = latin();
    let mut cost = [COST_UNKNOWN; 256];
    let mut byte = 0;
    while byte < 128 {
        if latin[byte] != 0xff {
            cost[byte] = if latin[byte] & 0x80 == 0 { 1 } else { 2 };
        }
        byte += 1;
    }
    cost
}

/// The blocks of 256 code points in which any table has a character; the first stands for "none".
const PAGES: [u16; 12] = [0xffff, 0x00, 0x01, 0x03, 0x06, 0x09, 0x0a, 0x0b, 0x0c, 0x0d, 0x20, 0x22];
static PAGE_OF: [u8; 0x23] = page_of();
static HOLDERS: [[Holders; 256]; PAGES.len()] = all_holders();

const fn page_of() -> [u8; 0x23] {
    let mut page_of = [0; 0x23];
    let mut page = 1;
    while page < PAGES.len() {
        page_of[PAGES[page] as usize] = page as u8;
        page += 1;
    }
    page_of
}

const fn all_holders() -> [[Holders; 256]; PAGES.len()] {
    let page_of = page_of();
    let mut all = [[Holders { locking: 0, single: 0 }; 256]; PAGES.len()];
    let mut row = 0;
    while row < 14 {
        let mut septet = 0;
        while septet < 128 {
            let (plain, escaped) = (LOCKING[row][septet], SINGLE[row][septet]);
            if plain != NONE {
                let page = page_of[plain as usize >> 8] as usize;
                assert!(page != 0, "a table has a character outside of PAGES");
                all[page][plain as usize & 0xff].locking |= 1 << row;
            }
            if escaped != NONE {
                let page = page_of[escaped as usize >> 8] as usize;
                assert!(page != 0, "a table has a character outside of PAGES");
                all[page][escaped as usize & 0xff].single |= 1 << row;
            }
            septet += 1;
        }
        row += 1;
    }
    all
}

#[cfg(test)]
mod tests;
