//! A message as submits: alphabet, segments, addresses. Pure; the clock and the reference are arguments.
//!
//! Segments are planned by `flotilla_protocol::sms`, so their number is what the controller has counted and charged.

use bytes::Bytes;
use flotilla_protocol::sms::gsm7::{self, Shift};
use flotilla_protocol::sms::{self, EncodeOptions, Encoding, Segment};
use flotilla_protocol::wire::{Alphabet as Choice, ErrorClass};
use rusmpp::pdus::SubmitSm;
use rusmpp::tlvs::MessageSubmissionRequestTlvValue as Parameter;
use rusmpp::types::{AnyOctetString, COctetString, EmptyOrFullCOctetString, OctetString};
use rusmpp::values::{
    DataCoding, EsmClass, MessagePayload, Npi, PriorityFlag, RegisteredDelivery, ReplaceIfPresentFlag, ServiceType, Ton,
};

use super::settings::{Alphabet, LongText, Numbering, Settings};
use super::times::validity_period;
use crate::maker::{Outgoing, Refusal};

/// sm_length (v3.4 section 5.2.18).
const SHORT_MESSAGE_OCTETS_MAX: usize = 254;
const ESM_CLASS_HEADER: u8 = 0x40;
const DATA_CODING_UCS2: u8 = 0x08;
/// Message class 0, shown at once (3GPP TS 23.038 section 4, general data coding).
const DATA_CODING_CLASS_0: u8 = 0x10;
/// Senders of digits up to here are short codes.
const SHORT_CODE_DIGITS_MAX: usize = 8;

/// What is to be submitted.
#[derive(Clone, Debug)]
pub(crate) struct Built {
    pub(crate) submits: Vec<SubmitSm>,
    /// One submit for a message of several segments: ids and receipts are for the whole.
    pub(crate) whole: bool,
}

/// Makes the submits of a message; a refusal when no SMSC could take them as the account is set.
pub(crate) fn build(outgoing: &Outgoing, settings: &Settings, reference: u16, now_ms: u64) -> Result<Built, Refusal> {
    let envelope = envelope(outgoing, settings, now_ms)?;
    let pieces = pieces(outgoing, settings, reference)?;
    let several = pieces.parts.len() > 1;
    let data_coding = pieces.data_coding | if outgoing.flash { DATA_CODING_CLASS_0 } else { 0 };
    let submit = |message: &[u8], header: bool| {
        let mut submit = envelope.clone();
        submit.data_coding = DataCoding::from(data_coding);
        submit.esm_class = EsmClass::from(if header { ESM_CLASS_HEADER } else { 0 });
        let message = OctetString::from_slice(message).map_err(|_| too_long())?;
        submit.set_short_message(message);
        Ok(submit)
    };
    let submits: Vec<SubmitSm> = match settings.long_text {
        LongText::Udh => pieces
            .parts
            .iter()
            .map(|part| submit(&[part.header.as_slice(), &part.body].concat(), !part.header.is_empty()))
            .collect::<Result<_, _>>()?,
        LongText::Sar => {
            let total = pieces.parts.len() as u8;
            let mut submits = Vec::with_capacity(pieces.parts.len());
            for (part, number) in pieces.parts.iter().zip(1..=total) {
                let mut submit = submit(&part.body, false)?;
                if several {
                    submit.push_tlv(Parameter::SarMsgRefNum(reference));
                    submit.push_tlv(Parameter::SarTotalSegments(total));
                    submit.push_tlv(Parameter::SarSegmentSeqnum(number));
                }
                submits.push(submit);
            }
            submits
        }
        LongText::Payload if several => {
            let mut submit = submit(&[], false)?;
            let payload = AnyOctetString::from_bytes(Bytes::from(pieces.joined()));
            submit.push_tlv(Parameter::MessagePayload(MessagePayload::new(payload)));
            vec![submit]
        }
        LongText::Payload | LongText::Single => {
            let message = pieces.joined();
            if message.len() > SHORT_MESSAGE_OCTETS_MAX {
                return Err(too_long());
            }
            vec![submit(&message, false)?]
        }
    };
    let whole = several && submits.len() == 1;
    Ok(Built { submits, whole })
}

fn too_long() -> Refusal {
    refusal("smpp-too-long", "the text is too long for one submit; change `long_text` of the account")
}

fn refusal(code: &str, text: &str) -> Refusal {
    Refusal { class: ErrorClass::Route, code: code.into(), text: text.into(), retry_after_ms: None }
}

/// A text cut into segments, in octets.
struct Pieces {
    data_coding: u8,
    parts: Vec<Part>,
}

struct Part {
    /// The user data header, empty where there is none.
    header: Vec<u8>,
    body: Vec<u8>,
}

impl Pieces {
    fn joined(&self) -> Vec<u8> {
        self.parts.iter().flat_map(|part| part.body.iter().copied()).collect()
    }
}

fn pieces(outgoing: &Outgoing, settings: &Settings, reference: u16) -> Result<Pieces, Refusal> {
    let text = &*outgoing.text;
    let foreign = match settings.alphabet {
        Alphabet::Gsm7 => false,
        Alphabet::Latin1 => text.chars().any(|c| u32::from(c) > 0xff),
        Alphabet::Ascii => !text.is_ascii(),
    };
    let options = EncodeOptions {
        // With national tables a text may need no UCS-2 where the default alphabet alone would.
        alphabet: if foreign || outgoing.unicode && !settings.national_tables { Choice::Ucs2 } else { Choice::Auto },
        national_tables: settings.national_tables,
        smart: false,
        segments_max: u8::MAX,
        wide_reference: settings.wide_reference && settings.long_text == LongText::Udh,
    };
    let plan = sms::plan(text, &options).map_err(|_| too_long())?;
    let data_coding = if plan.encoding == Encoding::Gsm7 { settings.data_coding } else { DATA_CODING_UCS2 };
    let parts = sms::segments(text, &plan, reference).iter().map(|segment| part(segment, settings.alphabet)).collect();
    Ok(Pieces { data_coding, parts })
}

/// A segment's octets: on this way septets stand one in an octet, or as the characters of another alphabet.
fn part(segment: &Segment, alphabet: Alphabet) -> Part {
    let octets = segment.udh.octets();
    let (header, body) = segment.user_data.split_at_checked(octets).unwrap_or_default();
    let body = match segment.encoding {
        Encoding::Ucs2 | Encoding::Data8 => body.to_vec(),
        Encoding::Gsm7 => {
            let units = usize::from(segment.units);
            let septets = gsm7::unpack(body, gsm7::fill_bits(octets), units).unwrap_or_default();
            match alphabet {
                Alphabet::Gsm7 => septets,
                // Foreign characters have been sent to UCS-2 before.
                Alphabet::Latin1 | Alphabet::Ascii => gsm7::decode(&septets, Shift::NONE)
                    .chars()
                    .map(|c| u8::try_from(u32::from(c)).unwrap_or(b'?'))
                    .collect(),
            }
        }
    };
    Part { header: header.to_vec(), body }
}

/// Everything but the text.
fn envelope(outgoing: &Outgoing, settings: &Settings, now_ms: u64) -> Result<SubmitSm, Refusal> {
    let sender = address(&outgoing.sender, settings.source);
    let recipient = address(&outgoing.to.to_string(), settings.dest);
    let bad_sender =
        || refusal("smpp-sender", "the sender is too long or has characters that SMPP lacks; use another sender");
    let source = COctetString::from_string(sender.digits).map_err(|_| bad_sender())?;
    let dest = COctetString::from_string(recipient.digits)
        .map_err(|_| refusal("smpp-recipient", "the recipient's number does not fit SMPP"))?;
    let service_type = COctetString::from_string(settings.service_type.to_string())
        .map_err(|_| refusal("smpp-service-type", "`service_type` of the account does not fit SMPP"))?;
    let validity = validity_period(settings.validity, outgoing.validity_s, now_ms);
    let validity = EmptyOrFullCOctetString::from_string(validity).map_err(|_| {
        refusal("smpp-validity", "the validity does not fit SMPP; set `validity` of the account to none")
    })?;
    Ok(SubmitSm::builder()
        .service_type(ServiceType::new(service_type))
        .source_addr_ton(Ton::from(sender.ton))
        .source_addr_npi(Npi::from(sender.npi))
        .source_addr(source)
        .dest_addr_ton(Ton::from(recipient.ton))
        .dest_addr_npi(Npi::from(recipient.npi))
        .destination_addr(dest)
        .priority_flag(PriorityFlag::new(settings.priority))
        .validity_period(validity)
        .registered_delivery(RegisteredDelivery::from(settings.registered_delivery))
        .replace_if_present_flag(ReplaceIfPresentFlag::from(0))
        .build())
}

#[derive(Debug, PartialEq, Eq)]
struct Numbered {
    ton: u8,
    npi: u8,
    digits: String,
}

/// TON and NPI as set, or by what the address looks like (v3.4 sections 5.2.5 and 5.2.6): a name is alphanumeric (5, 0), few
/// digits are a short code (3, 0), other digits an international number (1, 1). No address is left to the SMSC.
fn address(text: &str, numbering: Numbering) -> Numbered {
    let text = text.trim();
    let digits = text.strip_prefix('+').unwrap_or(text);
    let numeric = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (ton, npi) = match numeric {
        _ if text.is_empty() => (0, 0),
        false => (5, 0),
        true if !text.starts_with('+') && digits.len() <= SHORT_CODE_DIGITS_MAX => (3, 0),
        true => (1, 1),
    };
    Numbered {
        ton: numbering.ton.unwrap_or(ton),
        npi: numbering.npi.unwrap_or(npi),
        digits: if numeric { digits } else { text }.to_owned(),
    }
}

#[cfg(test)]
mod tests;
