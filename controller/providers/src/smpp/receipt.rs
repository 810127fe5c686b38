//! Delivery receipts: what became of a message, in optional parameters, in text, or in both.
//!
//! The text is SMPP's own example (v3.4 appendix B), which every vendor has varied: order, case, spelling, spaces, missing
//! fields, other separators. So fields are looked for by name wherever they stand. The user's text comes last and may look
//! like a field itself; it is only searched when nothing before it tells the state.

use jiff::tz::TimeZone;

use super::pdu::Deliver;
use super::status::MessageState;
use super::times::receipt_date;
use crate::maker::ReceiptState;

/// Receipts are about 120 characters; what a hostile SMSC appends is not read.
const TEXT_CHARACTERS_MAX: usize = 2_048;
const VALUE_OCTETS_MAX: usize = 80;
const ERROR_CHARACTERS_MAX: usize = 16;

/// The network type "GSM" of network_error_code (v3.4 section 5.3.2.31).
const NETWORK_GSM: u8 = 3;

/// Message types of esm_class, bits 5 to 2 (v3.4 section 5.2.12).
const TYPE_MASK: u8 = 0x3c;
const TYPE_RECEIPT: u8 = 0x04;
const TYPE_INTERMEDIATE: u8 = 0x20;
const USER_DATA_HEADER: u8 = 0x40;
const UCS2: u8 = 0x08;

/// Fields of a receipt's text, as they stand there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextFields<'a> {
    pub id: Option<&'a str>,
    pub submitted: Option<&'a str>,
    pub done: Option<&'a str>,
    pub state: Option<&'a str>,
    pub error: Option<&'a str>,
}

/// What a receipt says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Report {
    /// receipted_message_id.
    pub(crate) parameter_id: Option<Box<str>>,
    /// `id:` of the text.
    pub(crate) text_id: Option<Box<str>>,
    pub(crate) state: ReceiptState,
    pub(crate) at_ms: Option<u64>,
}

/// Whether this is a receipt and not a message. `unmarked`: also by its content.
pub(crate) fn is_receipt(deliver: &Deliver, unmarked: bool) -> bool {
    matches!(deliver.esm_class & TYPE_MASK, TYPE_RECEIPT | TYPE_INTERMEDIATE)
        || deliver.receipted_id.is_some() && deliver.message_state.is_some()
        || unmarked && {
            let text = receipt_text(deliver);
            let fields = text_fields(&text);
            fields.id.is_some() && fields.state.and_then(MessageState::from_word).is_some()
        }
}

/// Reads a receipt; None when it names no message or no state.
pub(crate) fn read(deliver: &Deliver, zone: &TimeZone) -> Option<Report> {
    let text = receipt_text(deliver);
    let fields = text_fields(&text);
    let by_parameter = deliver.message_state.and_then(MessageState::from_number);
    let by_text = fields.state.and_then(MessageState::from_word);
    let gsm = deliver.network_error.filter(|(network, _)| *network == NETWORK_GSM).map(|(_, code)| code);
    let other = deliver.network_error.filter(|(network, code)| *network != NETWORK_GSM && *code != 0);
    let error = fields.error.and_then(error_code).or_else(|| other.map(|(_, code)| code.to_string()));
    let outcome = |state: MessageState| state.outcome(error.as_deref(), gsm.filter(|code| *code != 0));
    let state = match (by_parameter.map(outcome), by_text.map(outcome)) {
        // A parameter that still says "on its way" beside a final text is a vendor's constant.
        (Some(ReceiptState::Pending) | None, Some(state)) | (Some(state), _) => state,
        (None, None) if deliver.esm_class & TYPE_MASK == TYPE_INTERMEDIATE => ReceiptState::Pending,
        (None, None) => return None,
    };
    let report = Report {
        parameter_id: deliver.receipted_id.clone(),
        text_id: fields.id.map(Box::from),
        state,
        at_ms: fields.done.and_then(|date| receipt_date(date, zone)),
    };
    (report.parameter_id.is_some() || report.text_id.is_some()).then_some(report)
}

/// The text of a receipt: ASCII, whatever the data coding says, unless it is UCS-2.
fn receipt_text(deliver: &Deliver) -> String {
    let mut octets = deliver.message.as_slice();
    if deliver.esm_class & USER_DATA_HEADER != 0 {
        let header = octets.first().map_or(0, |length| usize::from(*length) + 1);
        octets = octets.get(header..).unwrap_or_default();
    }
    if deliver.data_coding == UCS2 {
        let units = octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
        let text = char::decode_utf16(units).map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER));
        return text.take(TEXT_CHARACTERS_MAX).collect();
    }
    octets.iter().take(TEXT_CHARACTERS_MAX).map(|octet| char::from(*octet)).collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field {
    Id,
    Submitted,
    Done,
    State,
    Error,
    /// Counts, which tell nothing about a single segment.
    Count,
    Text,
}

/// Longer names first where one begins another.
const NAMES: &[(&str, Field)] = &[
    ("submit date", Field::Submitted),
    ("submit_date", Field::Submitted),
    ("submitdate", Field::Submitted),
    ("done date", Field::Done),
    ("done_date", Field::Done),
    ("donedate", Field::Done),
    ("message_id", Field::Id),
    ("messageid", Field::Id),
    ("msgid", Field::Id),
    ("id", Field::Id),
    ("dlvrd", Field::Count),
    ("sub", Field::Count),
    ("status", Field::State),
    ("state", Field::State),
    ("stat", Field::State),
    ("error", Field::Error),
    ("err", Field::Error),
    ("text", Field::Text),
];

/// Finds the fields of a receipt's text. The first of a name counts.
pub fn text_fields(text: &str) -> TextFields<'_> {
    let mut fields = TextFields::default();
    let mut at = 0;
    let mut word_before = false;
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if !word_before && let Some((field, octets)) = name_at(rest) {
            if field == Field::Text && fields.state.is_some() {
                break;
            }
            at += octets;
            let value = value_at(text.get(at..).unwrap_or_default());
            fields.set(field, value);
            // Text is looked through for what was not found before it; other values are passed over.
            at += if field == Field::Text { 0 } else { value.len() };
            word_before = field != Field::Text && !value.is_empty();
            continue;
        }
        let Some(first) = rest.chars().next() else { break };
        word_before = first.is_alphanumeric() || first == '_';
        at += first.len_utf8();
    }
    fields
}

impl<'a> TextFields<'a> {
    fn set(&mut self, field: Field, value: &'a str) {
        let place = match field {
            Field::Id => &mut self.id,
            Field::Submitted => &mut self.submitted,
            Field::Done => &mut self.done,
            Field::State => &mut self.state,
            Field::Error => &mut self.error,
            Field::Count | Field::Text => return,
        };
        if place.is_none() && !value.is_empty() && value.len() <= VALUE_OCTETS_MAX {
            *place = Some(value);
        }
    }
}

/// A field's name with its colon at the start of `rest`, and the octets up to its value.
fn name_at(rest: &str) -> Option<(Field, usize)> {
    NAMES.iter().find_map(|(name, field)| {
        let (head, after) = rest.split_at_checked(name.len())?;
        if !head.eq_ignore_ascii_case(name) {
            return None;
        }
        let value = after.trim_start_matches(' ').strip_prefix([':', '='])?;
        // An empty value is followed by a space and the next name.
        let blanks = value.len() - value.trim_start_matches(' ').len();
        let skipped = if name_at(value.get(blanks..).unwrap_or_default()).is_some() { 0 } else { blanks };
        Some((*field, rest.len() - value.len() + skipped))
    })
}

fn value_at(rest: &str) -> &str {
    let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, ',' | ';' | '&' | '|');
    rest.split(ends).next().unwrap_or_default().trim_matches(['"', '\''])
}

/// A vendor's code: decimal, hexadecimal or a word. Zero means that there is none.
fn error_code(value: &str) -> Option<String> {
    let code: String = value.chars().filter(char::is_ascii_alphanumeric).take(ERROR_CHARACTERS_MAX).collect();
    (!code.chars().all(|c| c == '0')).then(|| code.to_ascii_lowercase())
}

#[cfg(test)]
mod tests;
