//! Reports: what became of a segment, and what the two ends of a link say to each other's TPDUs.

use super::reader::Reader;
use super::{
    LOOP_PREVENTION, MTI_DELIVER, MTI_STATUS, MTI_SUBMIT, NO_MORE_MESSAGES, REPORT, Status, Timestamp, TpduError,
    address, expect_type, flag,
};
use crate::address::Address;

/// SMS-STATUS-REPORT (3GPP TS 23.040 clause 9.2.2.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReport {
    /// TP-MMS: more wait at the service centre.
    pub more_messages: bool,
    /// TP-LP.
    pub loop_prevention: bool,
    /// TP-SRQ: about a COMMAND, not about a SUBMIT.
    pub about_command: bool,
    /// TP-MR of the SUBMIT.
    pub message_reference: u8,
    /// TP-RA: whom the message was for.
    pub to: Address,
    /// TP-SCTS: when the service centre took the SUBMIT; none when it is no date.
    pub sent: Option<Timestamp>,
    /// TP-DT: when it was delivered, or last tried.
    pub discharged: Option<Timestamp>,
    /// TP-ST.
    pub status: Status,
}

impl StatusReport {
    /// What may follow TP-ST (TP-PI and the fields it announces) is ignored.
    pub fn decode(octets: &[u8]) -> Result<Self, TpduError> {
        let mut reader = Reader::new(octets);
        let first = reader.octet("TP-MTI")?;
        expect_type(first, MTI_STATUS, "STATUS-REPORT")?;
        Ok(Self {
            more_messages: first & NO_MORE_MESSAGES == 0,
            loop_prevention: first & LOOP_PREVENTION != 0,
            about_command: first & REPORT != 0,
            message_reference: reader.octet("TP-MR")?,
            to: address::decode(&mut reader, "TP-RA")?,
            sent: Timestamp::decode(reader.array("TP-SCTS")?),
            discharged: Timestamp::decode(reader.array("TP-DT")?),
            status: Status(reader.octet("TP-ST")?),
        })
    }

    /// For simulations and tests. A missing time is written as zeros.
    pub fn encode(&self) -> Result<Vec<u8>, TpduError> {
        let first = MTI_STATUS
            | flag(!self.more_messages, NO_MORE_MESSAGES)
            | flag(self.loop_prevention, LOOP_PREVENTION)
            | flag(self.about_command, REPORT);
        let mut octets = vec![first, self.message_reference];
        address::encode(&self.to, &mut octets)?;
        octets.extend(self.sent.map_or([0; 7], Timestamp::encode));
        octets.extend(self.discharged.map_or([0; 7], Timestamp::encode));
        octets.push(self.status.0);
        Ok(octets)
    }
}

/// SMS-SUBMIT-REPORT: the service centre's answer to a SUBMIT (clause 9.2.2.2a), which some modems print after `+CMGS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubmitReport {
    /// TP-FCS when the SUBMIT was refused; its codes are those of `+CMS ERROR` from 128.
    pub failure_cause: Option<u8>,
    /// TP-SCTS.
    pub taken: Option<Timestamp>,
}

impl SubmitReport {
    pub fn decode(octets: &[u8]) -> Result<Self, TpduError> {
        let mut reader = Reader::new(octets);
        expect_type(reader.octet("TP-MTI")?, MTI_SUBMIT, "SUBMIT-REPORT")?;
        let failure_cause = take_failure_cause(&mut reader)?;
        reader.octet("TP-PI")?;
        Ok(Self { failure_cause, taken: Timestamp::decode(reader.array("TP-SCTS")?) })
    }
}

/// SMS-DELIVER-REPORT: a device's answer to a DELIVER (clause 9.2.2.1a), for `AT+CNMA` in PDU mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeliverReport {
    /// TP-FCS when the DELIVER is refused: 0xd3 for "memory full".
    pub failure_cause: Option<u8>,
}

impl DeliverReport {
    pub fn decode(octets: &[u8]) -> Result<Self, TpduError> {
        let mut reader = Reader::new(octets);
        expect_type(reader.octet("TP-MTI")?, MTI_DELIVER, "DELIVER-REPORT")?;
        let failure_cause = take_failure_cause(&mut reader)?;
        reader.octet("TP-PI")?;
        Ok(Self { failure_cause })
    }

    pub fn encode(self) -> Vec<u8> {
        [Some(MTI_DELIVER), self.failure_cause, Some(0)].into_iter().flatten().collect()
    }
}

/// TP-FCS stands in an answer to an error only. Its values begin at 0x80, and TP-PI has no such bit set.
fn take_failure_cause(reader: &mut Reader<'_>) -> Result<Option<u8>, TpduError> {
    match reader.rest().first() {
        Some(0x80..) => reader.octet("TP-FCS").map(Some),
        _ => Ok(None),
    }
}
