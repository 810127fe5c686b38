//! SMS-SUBMIT: a segment on its way to the service centre (3GPP TS 23.040 clause 9.2.2.2).

use super::reader::Reader;
use super::{
    DataCoding, HEADER, MTI_SUBMIT, MessageClass, REJECT_DUPLICATES, REPLY_PATH, REPORT, Timestamp, TpduError,
    UserData, Validity, address, expect_type, flag,
};
use crate::address::Address;
use crate::sms::Segment;

/// Bits 4 and 3 of the first octet.
const VALIDITY: u8 = 0b11 << 3;
const VALIDITY_ENHANCED: u8 = 0b01 << 3;
const VALIDITY_RELATIVE: u8 = 0b10 << 3;
const VALIDITY_ABSOLUTE: u8 = 0b11 << 3;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Submit {
    /// TP-RD: the service centre refuses a message with the same reference and receiver that it still holds.
    pub reject_duplicates: bool,
    /// TP-RP.
    pub reply_path: bool,
    /// TP-SRR: ask for a status report.
    pub status_report: bool,
    /// TP-MR. Modems set it themselves and tell it in `+CMGS`.
    pub message_reference: u8,
    /// TP-DA.
    pub to: Address,
    /// TP-PID.
    pub protocol_id: u8,
    /// TP-DCS.
    pub coding: DataCoding,
    /// TP-VP.
    pub validity: Option<Validity>,
    pub user_data: UserData,
}

impl Submit {
    /// A plain text or data segment: no report, no validity. A `flash` message is shown at once and not stored.
    pub fn new(to: Address, segment: Segment, flash: bool) -> Self {
        Self {
            reject_duplicates: false,
            reply_path: false,
            status_report: false,
            message_reference: 0,
            to,
            protocol_id: 0,
            coding: DataCoding::new(segment.encoding, flash.then_some(MessageClass::Flash)),
            validity: None,
            user_data: segment.into(),
        }
    }

    /// The octets, without the SMSC's address. Fails only for an address or user data that no TPDU can carry.
    pub fn encode(&self) -> Result<Vec<u8>, TpduError> {
        let validity_format = match self.validity {
            None => 0,
            Some(Validity::Relative(_)) => VALIDITY_RELATIVE,
            Some(Validity::Absolute(_)) => VALIDITY_ABSOLUTE,
            Some(Validity::Enhanced(_)) => VALIDITY_ENHANCED,
        };
        let mut octets = Vec::with_capacity(24 + self.user_data.octets.len());
        octets.push(
            MTI_SUBMIT
                | flag(self.reject_duplicates, REJECT_DUPLICATES)
                | validity_format
                | flag(self.status_report, REPORT)
                | flag(self.user_data.has_header, HEADER)
                | flag(self.reply_path, REPLY_PATH),
        );
        octets.push(self.message_reference);
        address::encode(&self.to, &mut octets)?;
        octets.extend([self.protocol_id, self.coding.0]);
        match self.validity {
            None => {}
            Some(Validity::Relative(value)) => octets.push(value),
            Some(Validity::Absolute(time)) => octets.extend(time.encode()),
            Some(Validity::Enhanced(value)) => octets.extend(value),
        }
        self.user_data.encode(&mut octets)?;
        Ok(octets)
    }

    /// An absolute validity that is no date is left out.
    pub fn decode(octets: &[u8]) -> Result<Self, TpduError> {
        let mut reader = Reader::new(octets);
        let first = reader.octet("TP-MTI")?;
        expect_type(first, MTI_SUBMIT, "SUBMIT")?;
        let message_reference = reader.octet("TP-MR")?;
        let to = address::decode(&mut reader, "TP-DA")?;
        let protocol_id = reader.octet("TP-PID")?;
        let coding = DataCoding(reader.octet("TP-DCS")?);
        let validity = match first & VALIDITY {
            VALIDITY_RELATIVE => Some(Validity::Relative(reader.octet("TP-VP")?)),
            VALIDITY_ABSOLUTE => Timestamp::decode(reader.array("TP-VP")?).map(Validity::Absolute),
            VALIDITY_ENHANCED => Some(Validity::Enhanced(reader.array("TP-VP")?)),
            _ => None,
        };
        Ok(Self {
            reject_duplicates: first & REJECT_DUPLICATES != 0,
            reply_path: first & REPLY_PATH != 0,
            status_report: first & REPORT != 0,
            message_reference,
            to,
            protocol_id,
            coding,
            validity,
            user_data: UserData::decode(&mut reader, first & HEADER != 0, coding)?,
        })
    }
}
