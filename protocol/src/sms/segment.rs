//! The user data of each segment: text cut, packed and headed for sending, and opened again after receiving.

use super::gsm7::{self, Code, ESCAPE, Shift};
use super::plan::{Encoding, Plan, capacity};
use super::smart::for_each_char;
use super::udh::{Concatenation, Ports, Udh};
use crate::wire::Body;

/// One SMS of a message, ready for a TPDU.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    pub udh: Udh,
    pub encoding: Encoding,
    /// Septets, 16-bit units or octets of the text or data, the header not counted.
    pub units: u8,
    /// TP-UDL: septets or octets of everything, the header and its fill bits among them.
    pub length: u8,
    /// TP-UD, header first.
    pub user_data: Vec<u8>,
}

/// The message itself is personal.
impl std::fmt::Debug for Segment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Segment")
            .field("udh", &self.udh)
            .field("encoding", &self.encoding)
            .field("units", &self.units)
            .finish_non_exhaustive()
    }
}

/// Cuts `text` into the segments of its `plan`. The `reference` tells messages to the same receiver apart; its low 8 bits
/// count, all 16 with [`Plan::wide_reference`].
///
/// The plan must be of this text: a character that the plan's tables lack becomes `?`.
pub fn segments(text: &str, plan: &Plan, reference: u16) -> Vec<Segment> {
    let udh = Udh { shift: plan.shift, ..Udh::default() };
    match plan.encoding {
        Encoding::Gsm7 => {
            let mut septets = Vec::with_capacity(plan.units as usize);
            for_each_char(text, plan.smart, |c| match gsm7::code(c, plan.shift) {
                Some(Code::Plain(septet)) => septets.push(septet),
                Some(Code::Escaped(septet)) => septets.extend([ESCAPE, septet]),
                None => septets.push(b'?'),
            });
            cut(
                &septets,
                plan,
                udh,
                reference,
                |septet| *septet == ESCAPE,
                |septets, header, octets| {
                    gsm7::pack(septets, gsm7::fill_bits(header), octets);
                },
            )
        }
        Encoding::Ucs2 => {
            let units: Vec<u16> = text.encode_utf16().collect();
            let is_lead = |unit: &u16| (0xd800..0xdc00).contains(unit);
            cut(&units, plan, udh, reference, is_lead, |units, _, octets| {
                octets.extend(units.iter().flat_map(|unit| unit.to_be_bytes()));
            })
        }
        Encoding::Data8 => data_segments(text.as_bytes(), None, plan, reference),
    }
}

/// Cuts application data into the segments of its `plan`, for the receiver's `port` if one is given.
pub fn data_segments(data: &[u8], port: Option<u16>, plan: &Plan, reference: u16) -> Vec<Segment> {
    let udh = Udh { ports: port.map(Ports::to), ..Udh::default() };
    let plan = Plan { encoding: Encoding::Data8, ..*plan };
    cut(data, &plan, udh, reference, |_| false, |data, _, octets| octets.extend_from_slice(data))
}

/// The segments of what a message carries, text or data.
pub fn body_segments(body: &Body, plan: &Plan, reference: u16) -> Vec<Segment> {
    match body {
        Body::Text(text) => segments(text, plan, reference),
        Body::Data { bytes, port } => data_segments(bytes, *port, plan, reference),
    }
}

/// Cuts `units` where they fit, never behind a unit that `leads` another.
fn cut<U>(
    units: &[U],
    plan: &Plan,
    udh: Udh,
    reference: u16,
    leads: impl Fn(&U) -> bool,
    write: impl Fn(&[U], usize, &mut Vec<u8>),
) -> Vec<Segment> {
    let whole = capacity(plan.encoding, udh.octets()) as usize;
    let concatenated = |number, total| {
        let concatenation = Concatenation { reference, wide: plan.wide_reference, total, number };
        Udh { concatenation: Some(concatenation), ..udh }
    };
    let part = capacity(plan.encoding, concatenated(1, 1).octets()) as usize;
    let mut pieces = Vec::with_capacity(usize::from(plan.segments));
    let mut rest = units;
    while !rest.is_empty() || pieces.is_empty() {
        let mut length = if units.len() <= whole { whole } else { part }.min(rest.len());
        if length < rest.len() && length > 1 && rest.get(length - 1).is_some_and(&leads) {
            length -= 1;
        }
        let (piece, after) = rest.split_at(length);
        pieces.push(piece);
        rest = after;
    }
    // More than 255 pieces can only come from a plan of another text.
    let total = pieces.len().min(255) as u8;
    let segment = |(piece, number): (&&[U], u8)| {
        let udh = if total == 1 { udh } else { concatenated(number, total) };
        let header = udh.octets();
        let mut user_data = Vec::with_capacity(super::plan::USER_DATA_OCTETS);
        udh.encode(&mut user_data);
        write(piece, header, &mut user_data);
        let length = match plan.encoding {
            Encoding::Gsm7 => (header * 8).div_ceil(7) + piece.len(),
            Encoding::Ucs2 | Encoding::Data8 => user_data.len(),
        };
        Segment { udh, encoding: plan.encoding, units: piece.len() as u8, length: length as u8, user_data }
    };
    pieces.iter().zip(1..=total).map(segment).collect()
}

/// What is in the user data of a received segment.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    pub udh: Udh,
    pub payload: Payload,
}

/// Units as they came. They become text only when all segments are there, since some senders cut a character in two.
#[derive(Clone, PartialEq, Eq)]
pub enum Payload {
    Septets(Vec<u8>),
    Utf16(Vec<u16>),
    Octets(Vec<u8>),
}

impl Content {
    /// Reads the text. Nothing is refused: what can not be read shows a replacement character or a space. Octets are read as
    /// UTF-8, or else as Latin-1, which is what senders of 8-bit text use.
    pub fn text(&self) -> String {
        self.payload.text(self.udh.shift)
    }
}

impl Payload {
    pub(super) fn text(&self, shift: Shift) -> String {
        match self {
            Self::Septets(septets) => gsm7::decode(septets, shift),
            Self::Utf16(units) => String::from_utf16_lossy(units),
            Self::Octets(octets) => match std::str::from_utf8(octets) {
                Ok(text) => text.to_owned(),
                Err(_) => octets.iter().map(|octet| char::from(*octet)).collect(),
            },
        }
    }

    /// Appends `more` when it is of the same kind.
    pub(super) fn append(&mut self, more: &Self) -> bool {
        match (self, more) {
            (Self::Septets(units), Self::Septets(more)) | (Self::Octets(units), Self::Octets(more)) => {
                units.extend(more)
            }
            (Self::Utf16(units), Self::Utf16(more)) => units.extend(more),
            _ => return false,
        }
        true
    }
}

/// The message itself is personal.
impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("udh", &self.udh).field("payload", &self.payload).finish()
    }
}

impl std::fmt::Debug for Payload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Septets(septets) => write!(f, "Septets({})", septets.len()),
            Self::Utf16(units) => write!(f, "Utf16({})", units.len()),
            Self::Octets(octets) => write!(f, "Octets({})", octets.len()),
        }
    }
}

#[cfg(test)]
mod tests;
