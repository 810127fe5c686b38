//! PDUs on the wire (SMPP v3.4 sections 3 and 4): frames, what we read of them, how ours are written.
//!
//! What we send is made of the types of `rusmpp`. What comes is read here, because that crate is as strict as the
//! specification and SMSCs are not: ids without their NUL, senders that are not ASCII, optional parameters of another length
//! would cost a whole receipt, and with its codec the connection too.

use bytes::{Buf, Bytes, BytesMut};
use rusmpp::encode::{Encode, Length};
use rusmpp::types::AnyOctetString;
use rusmpp::{Command, CommandId, CommandStatus, Pdu};

use super::settings::{Settings, Version};

pub(crate) const HEADER_OCTETS: usize = 16;
/// A message_payload has up to 64 KiB.
pub(crate) const FRAME_OCTETS_MAX: usize = 70_000;
/// Sequence numbers are 1 to 0x7fffffff (v3.4 section 3.2).
pub(crate) const SEQUENCE_MAX: u32 = 0x7fff_ffff;
/// Longer ids are not what a specification allows (64), but harmless.
const ID_OCTETS_MAX: usize = 80;
const ADDRESS_OCTETS_MAX: usize = 65;

/// Optional parameters that are read (v3.4 section 5.3.2; congestion_state: v5.0 section 4.8.4.18).
mod tag {
    pub(super) const RECEIPTED_MESSAGE_ID: u16 = 0x001e;
    pub(super) const SAR_MSG_REF_NUM: u16 = 0x020c;
    pub(super) const SAR_TOTAL_SEGMENTS: u16 = 0x020e;
    pub(super) const SAR_SEGMENT_SEQNUM: u16 = 0x020f;
    pub(super) const SC_INTERFACE_VERSION: u16 = 0x0210;
    pub(super) const NETWORK_ERROR_CODE: u16 = 0x0423;
    pub(super) const MESSAGE_PAYLOAD: u16 = 0x0424;
    pub(super) const MESSAGE_STATE: u16 = 0x0427;
    pub(super) const CONGESTION_STATE: u16 = 0x0428;
}

/// One PDU, its body not yet read.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) command: CommandId,
    pub(crate) status: u32,
    pub(crate) sequence: u32,
    pub(crate) body: Bytes,
}

/// Bodies have numbers and texts of people in them.
impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}(status 0x{:x}, sequence {})", self.command, self.status, self.sequence)
    }
}

/// The stream can not be read any further: nobody knows where the next PDU begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a PDU of {octets} octets, where 16 to 70000 are possible")]
pub(crate) struct FrameError {
    octets: usize,
}

/// Takes one frame off `buffer`; None when it is not there in whole.
pub(crate) fn take_frame(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    let Some(Ok(length)) = buffer.get(..4).map(<[u8; 4]>::try_from) else { return Ok(None) };
    let octets = u32::from_be_bytes(length) as usize;
    if !(HEADER_OCTETS..=FRAME_OCTETS_MAX).contains(&octets) {
        return Err(FrameError { octets });
    }
    if buffer.len() < octets {
        return Ok(None);
    }
    let mut frame = buffer.split_to(octets).freeze();
    frame.advance(4);
    let command = CommandId::from(frame.get_u32());
    let (status, sequence) = (frame.get_u32(), frame.get_u32());
    Ok(Some(Frame { command, status, sequence, body: frame }))
}

/// Writes a PDU.
pub(crate) fn encode(status: u32, sequence: u32, pdu: impl Into<Pdu>) -> Vec<u8> {
    let command = Command::new(CommandStatus::from(status), sequence, pdu);
    let octets = 4 + command.length();
    let mut bytes = vec![0; octets];
    bytes[..4].copy_from_slice(&(octets as u32).to_be_bytes());
    command.encode(&mut bytes[4..]);
    bytes
}

/// Writes a bind. By hand, because the specification's 8 characters of a password are too few for some SMSCs.
pub(crate) fn encode_bind(command: CommandId, sequence: u32, settings: &Settings) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    for text in [&settings.system_id, &settings.password, &settings.system_type] {
        body.extend(text.as_bytes());
        body.push(0);
    }
    body.extend([settings.version.octet(), settings.address_range_ton, settings.address_range_npi]);
    body.extend(settings.address_range.as_bytes());
    body.push(0);
    encode(super::status::OK, sequence, Pdu::Other { command_id: command, body: AnyOctetString::from_vec(body) })
}

/// Writes the answer to a deliver_sm or data_sm: its message id is not used (v3.4 section 4.6.2), so it is empty.
pub(crate) fn encode_deliver_resp(command: CommandId, status: u32, sequence: u32) -> Vec<u8> {
    let command = if command == CommandId::DataSm { CommandId::DataSmResp } else { CommandId::DeliverSmResp };
    encode(status, sequence, Pdu::Other { command_id: command, body: AnyOctetString::from_static_slice(&[0]) })
}

/// Answer to a submit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SubmitAnswer {
    pub(crate) id: Option<Box<str>>,
    /// 0 (idle) to 99 (near congestion), 100 and more (congested).
    pub(crate) congestion: Option<u8>,
}

/// Reads what there is: on errors many SMSCs leave the body out.
pub(crate) fn read_submit_answer(body: &[u8]) -> SubmitAnswer {
    let mut reader = Reader(body);
    let id = reader.c_string(ID_OCTETS_MAX).or_else(|| reader.rest(ID_OCTETS_MAX));
    let mut answer = SubmitAnswer { id: id.and_then(printable), congestion: None };
    for (tag, value) in Tlvs(reader.0) {
        if let (tag::CONGESTION_STATE, [state]) = (tag, value) {
            answer.congestion = Some(*state);
        }
    }
    answer
}

/// The version that the SMSC names in its answer to a bind, if it does.
pub(crate) fn read_bind_version(body: &[u8]) -> Option<Version> {
    let mut reader = Reader(body);
    reader.c_string(body.len())?;
    let version = Tlvs(reader.0).find(|(tag, _)| *tag == tag::SC_INTERFACE_VERSION)?.1.first().copied()?;
    Some(match version {
        0..=0x33 => Version::V33,
        0x34..=0x4f => Version::V34,
        _ => Version::V50,
    })
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PduAddress {
    pub(crate) ton: u8,
    pub(crate) npi: u8,
    pub(crate) digits: String,
}

/// What a deliver_sm or data_sm brings.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Deliver {
    pub(crate) source: PduAddress,
    pub(crate) dest: PduAddress,
    pub(crate) esm_class: u8,
    pub(crate) data_coding: u8,
    /// short_message, or message_payload where there is one.
    pub(crate) message: Vec<u8>,
    pub(crate) receipted_id: Option<Box<str>>,
    pub(crate) message_state: Option<u8>,
    /// Type of network and its code.
    pub(crate) network_error: Option<(u8, u16)>,
    /// Reference, total, number.
    pub(crate) sar: Option<(u16, u8, u8)>,
}

impl std::fmt::Debug for Deliver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliver")
            .field("esm_class", &self.esm_class)
            .field("data_coding", &self.data_coding)
            .field("octets", &self.message.len())
            .finish_non_exhaustive()
    }
}

/// Reads the body of a deliver_sm (v3.4 section 4.6.1) or data_sm (section 4.7.1).
pub(crate) fn read_deliver(command: CommandId, body: &[u8]) -> Option<Deliver> {
    let mut reader = Reader(body);
    reader.c_string(body.len())?;
    let source = reader.address()?;
    let dest = reader.address()?;
    let esm_class = reader.octet()?;
    let (data_coding, message) = if command == CommandId::DataSm {
        reader.octet()?;
        (reader.octet()?, Vec::new())
    } else {
        // protocol_id and priority_flag, then two times, registered_delivery and replace_if_present_flag.
        reader.take(2)?;
        reader.c_string(body.len())?;
        reader.c_string(body.len())?;
        reader.take(2)?;
        let data_coding = reader.octet()?;
        reader.octet()?;
        let octets = usize::from(reader.octet()?);
        (data_coding, reader.take(octets)?.to_vec())
    };
    let mut deliver = Deliver {
        source,
        dest,
        esm_class,
        data_coding,
        message,
        receipted_id: None,
        message_state: None,
        network_error: None,
        sar: None,
    };
    deliver.read_tlvs(reader.0);
    Some(deliver)
}

impl Deliver {
    fn read_tlvs(&mut self, octets: &[u8]) {
        let (mut reference, mut total, mut number) = (None, None, None);
        for (tag, value) in Tlvs(octets) {
            match (tag, value) {
                (tag::RECEIPTED_MESSAGE_ID, value) => self.receipted_id = printable(value),
                (tag::MESSAGE_STATE, [state, ..]) => self.message_state = Some(*state),
                (tag::NETWORK_ERROR_CODE, [network, high, low]) => {
                    self.network_error = Some((*network, u16::from_be_bytes([*high, *low])));
                }
                (tag::MESSAGE_PAYLOAD, value) if !value.is_empty() => self.message = value.to_vec(),
                (tag::SAR_MSG_REF_NUM, [high, low]) => reference = Some(u16::from_be_bytes([*high, *low])),
                (tag::SAR_TOTAL_SEGMENTS, [value]) => total = Some(*value),
                (tag::SAR_SEGMENT_SEQNUM, [value]) => number = Some(*value),
                _ => {}
            }
        }
        if let (Some(reference), Some(total), Some(number)) = (reference, total, number)
            && (1..=total).contains(&number)
        {
            self.sar = Some((reference, total, number));
        }
    }
}

/// An id as text: without what stands around it, and without anything that is not printable.
fn printable(octets: &[u8]) -> Option<Box<str>> {
    let octets = octets.split(|octet| *octet == 0).next().unwrap_or_default();
    let text: String = octets.iter().filter(|octet| octet.is_ascii_graphic()).map(|octet| char::from(*octet)).collect();
    let text: String = text.chars().take(ID_OCTETS_MAX).collect();
    (!text.is_empty()).then(|| text.into())
}

/// Mandatory fields, one after the other.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, octets: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(octets)?;
        self.0 = rest;
        Some(taken)
    }

    fn octet(&mut self) -> Option<u8> {
        self.take(1).map(|octets| octets[0])
    }

    /// Up to its NUL, which has to be there.
    fn c_string(&mut self, octets_max: usize) -> Option<&'a [u8]> {
        let end = self.0.iter().take(octets_max.saturating_add(1)).position(|octet| *octet == 0)?;
        let text = self.take(end)?;
        self.take(1)?;
        Some(text)
    }

    fn rest(&mut self, octets_max: usize) -> Option<&'a [u8]> {
        let octets = self.0.len();
        self.take(octets).filter(|rest| rest.len() <= octets_max)
    }

    /// Names of senders come in Latin-1 from some.
    fn address(&mut self) -> Option<PduAddress> {
        let (ton, npi) = (self.octet()?, self.octet()?);
        let digits = self.c_string(ADDRESS_OCTETS_MAX)?.iter().map(|octet| char::from(*octet)).collect();
        Some(PduAddress { ton, npi, digits })
    }
}

/// Optional parameters, as far as they can be read.
struct Tlvs<'a>(&'a [u8]);

impl<'a> Iterator for Tlvs<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (head, rest) = self.0.split_at_checked(4)?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([head[2], head[3]])))?;
        self.0 = rest;
        Some((u16::from_be_bytes([head[0], head[1]]), value))
    }
}

#[cfg(test)]
mod tests;
