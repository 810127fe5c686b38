//! Address fields (3GPP TS 23.040 clause 9.1.2.5): a length, a type, then digits in halves of octets or packed letters.

use super::TpduError;
use super::reader::Reader;
use crate::address::Address;
use crate::number::Msisdn;
use crate::sms::gsm7::{self, Shift};

/// Longest address value: ten octets.
const SEMI_OCTETS_MAX: usize = 20;
const LETTERS_MAX: usize = 11;

/// Type of number, bits 6 to 4 of the type octet.
const TON: u8 = 0x70;
const TON_INTERNATIONAL: u8 = 0x10;
const TON_ALPHANUMERIC: u8 = 0x50;
/// The top bit is always set; numbering plan 1 is that of telephony.
const TYPE_INTERNATIONAL: u8 = 0x91;
const TYPE_UNKNOWN: u8 = 0x81;
const TYPE_ALPHANUMERIC: u8 = 0xd0;

/// What the halves of an octet stand for; 15 fills up.
const SEMI_OCTETS: &[u8; 15] = b"0123456789*#abc";

/// Writes TP-DA, TP-OA or TP-RA.
pub(super) fn encode(address: &Address, octets: &mut Vec<u8>) -> Result<(), TpduError> {
    match address {
        Address::Alphanumeric(text) => {
            let mut septets = Vec::with_capacity(LETTERS_MAX);
            // Whatever is this long has too many septets as well.
            if text.len() <= LETTERS_MAX * 3 {
                gsm7::encode(text, Shift::NONE, &mut septets).map_err(|_| TpduError::AddressCharacter)?;
            }
            if septets.len() > LETTERS_MAX || text.len() > LETTERS_MAX * 3 {
                let length = text.chars().count();
                return Err(TpduError::TooLong { field: "alphanumeric address", length, max: LETTERS_MAX });
            }
            octets.push((septets.len() * 7).div_ceil(4) as u8);
            octets.push(TYPE_ALPHANUMERIC);
            gsm7::pack(&septets, 0, octets);
        }
        Address::International(number) => {
            let digits = number.as_u64().to_string();
            octets.push(digits.len() as u8);
            octets.push(TYPE_INTERNATIONAL);
            encode_semi_octets(&digits, octets)?;
        }
        Address::Short(digits) => {
            if digits.len() > SEMI_OCTETS_MAX {
                let length = digits.len();
                return Err(TpduError::TooLong { field: "address", length, max: SEMI_OCTETS_MAX });
            }
            octets.push(digits.len() as u8);
            octets.push(TYPE_UNKNOWN);
            encode_semi_octets(digits, octets)?;
        }
    }
    Ok(())
}

pub(super) fn decode(reader: &mut Reader<'_>, field: &'static str) -> Result<Address, TpduError> {
    let semi_octets = usize::from(reader.octet(field)?);
    let kind = reader.octet(field)?;
    if semi_octets > SEMI_OCTETS_MAX + 2 {
        // Two more than the standard allows, since some senders count 11 letters as 22.
        return Err(TpduError::TooLong { field, length: semi_octets, max: SEMI_OCTETS_MAX });
    }
    let value = reader.octets(semi_octets.div_ceil(2), field)?;
    if kind & TON == TON_ALPHANUMERIC {
        return Ok(Address::Alphanumeric(decode_letters(value, semi_octets)));
    }
    Ok(from_digits(decode_semi_octets(value, semi_octets), kind))
}

fn decode_letters(value: &[u8], semi_octets: usize) -> String {
    let count = (semi_octets * 4 / 7).min(LETTERS_MAX);
    let mut septets = gsm7::unpack(value, 0, count).unwrap_or_default();
    // Senders that count whole octets make room for one letter more behind 7 of them: a zero, which would read as @.
    if septets.len() == 8 && septets.last() == Some(&0) {
        septets.pop();
    }
    gsm7::decode(&septets, Shift::NONE)
}

/// An SMSC's address: like the others, but its length counts octets, the type among them (3GPP TS 24.011 clause 8.2.5.1).
pub(super) fn decode_smsc(value: &[u8]) -> Option<Address> {
    let (kind, digits) = value.split_first()?;
    Some(from_digits(decode_semi_octets(digits, digits.len() * 2), *kind))
}

pub(super) fn encode_smsc(number: Msisdn, octets: &mut Vec<u8>) -> Result<(), TpduError> {
    let digits = number.as_u64().to_string();
    octets.push(1 + digits.len().div_ceil(2) as u8);
    octets.push(TYPE_INTERNATIONAL);
    encode_semi_octets(&digits, octets)
}

fn from_digits(digits: String, kind: u8) -> Address {
    if kind & TON == TON_INTERNATIONAL
        && let Some(number) = digits.parse().ok().and_then(|number| Msisdn::from_u64(number).ok())
        // A leading zero would be lost.
        && !digits.starts_with('0')
    {
        return Address::International(number);
    }
    Address::Short(digits)
}

fn encode_semi_octets(digits: &str, octets: &mut Vec<u8>) -> Result<(), TpduError> {
    let half = |digit: u8| {
        let at = SEMI_OCTETS.iter().position(|known| *known == digit.to_ascii_lowercase());
        at.map(|at| at as u8).ok_or(TpduError::AddressCharacter)
    };
    for pair in digits.as_bytes().chunks(2) {
        let high = pair.get(1).map_or(Ok(0xf), |digit| half(*digit))?;
        octets.push(half(pair[0])? | high << 4);
    }
    Ok(())
}

/// The first `count` halves of `value`, up to a filler.
fn decode_semi_octets(value: &[u8], count: usize) -> String {
    let halves = value.iter().flat_map(|octet| [octet & 0xf, octet >> 4]).take(count);
    halves.map_while(|half| SEMI_OCTETS.get(usize::from(half))).map(|digit| char::from(*digit)).collect()
}
