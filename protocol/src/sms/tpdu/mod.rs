//! Transfer protocol data units: what a radio exchanges with a service centre (3GPP TS 23.040 clause 9.2).
//!
//! Decoders take whatever a modem prints: they refuse what ends early or contradicts itself, and ignore spare bits and
//! octets behind the end.

mod address;
mod coding;
mod deliver;
mod reader;
mod report;
mod smsc;
mod status;
mod submit;
mod time;
mod user_data;

pub use coding::{DataCoding, MessageClass, MessageWaiting, WaitingKind};
pub use deliver::Deliver;
pub use report::{DeliverReport, StatusReport, SubmitReport};
pub use smsc::{split_smsc, with_smsc};
pub use status::{Status, StatusOutcome};
pub use submit::Submit;
pub use time::{Timestamp, Validity};
pub use user_data::UserData;

/// Why octets are no TPDU, or a value can not become one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TpduError {
    #[error("the PDU ends within {field}; read it again")]
    Truncated { field: &'static str },
    #[error("the PDU is of type {found}, expected {expected}; check the direction")]
    WrongType { found: u8, expected: &'static str },
    #[error("the length of {field} is {length}, at most {max} is possible; the PDU is damaged, read it again")]
    TooLong { field: &'static str, length: usize, max: usize },
    #[error("the user data header is longer than the user data; the PDU is damaged, read it again")]
    HeaderOverrun,
    #[error("the PDU is not hexadecimal; read it again")]
    NotHex,
    #[error(
        "the address has a character that an SMS address can not carry; use digits, * and #, or 11 letters of GSM-7"
    )]
    AddressCharacter,
}

/// What a device receives from the service centre.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    Deliver(Deliver),
    StatusReport(StatusReport),
    SubmitReport(SubmitReport),
}

impl Incoming {
    /// Decodes by TP-MTI. The reserved type is read as a DELIVER, as clause 9.2.3.1 asks.
    pub fn decode(octets: &[u8]) -> Result<Self, TpduError> {
        match octets.first().map(|first| first & MTI) {
            Some(MTI_SUBMIT) => SubmitReport::decode(octets).map(Self::SubmitReport),
            Some(MTI_STATUS) => StatusReport::decode(octets).map(Self::StatusReport),
            Some(_) => Deliver::decode(octets).map(Self::Deliver),
            None => Err(TpduError::Truncated { field: "TP-MTI" }),
        }
    }
}

/// The first octet of every TPDU (clauses 9.2.3.1 to 9.2.3.7, 9.2.3.17, 9.2.3.23, 9.2.3.25, 9.2.3.26).
const MTI: u8 = 0b11;
const MTI_DELIVER: u8 = 0b00;
const MTI_SUBMIT: u8 = 0b01;
const MTI_STATUS: u8 = 0b10;
const NO_MORE_MESSAGES: u8 = 1 << 2;
const REJECT_DUPLICATES: u8 = 1 << 2;
const LOOP_PREVENTION: u8 = 1 << 3;
const REPORT: u8 = 1 << 5;
const HEADER: u8 = 1 << 6;
const REPLY_PATH: u8 = 1 << 7;

fn flag(set: bool, bit: u8) -> u8 {
    if set { bit } else { 0 }
}

fn expect_type(first: u8, mti: u8, expected: &'static str) -> Result<(), TpduError> {
    if first & MTI == mti { Ok(()) } else { Err(TpduError::WrongType { found: first & MTI, expected }) }
}

#[cfg(test)]
mod tests;
