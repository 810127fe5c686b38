//! SMS-DELIVER: a segment that arrives (3GPP TS 23.040 clause 9.2.2.1).

use super::reader::Reader;
use super::{
    DataCoding, HEADER, LOOP_PREVENTION, MTI, MTI_DELIVER, NO_MORE_MESSAGES, REPLY_PATH, REPORT, Timestamp, TpduError,
    UserData, address, flag,
};
use crate::address::Address;
use crate::sms::Content;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deliver {
    /// TP-MMS: more wait at the service centre. (Its bit is 0 for that.)
    pub more_messages: bool,
    /// TP-LP: forwarded; do not answer automatically.
    pub loop_prevention: bool,
    /// TP-RP.
    pub reply_path: bool,
    /// TP-SRI: the sender gets a report.
    pub status_report: bool,
    /// TP-OA.
    pub from: Address,
    /// TP-PID.
    pub protocol_id: u8,
    /// TP-DCS.
    pub coding: DataCoding,
    /// TP-SCTS; none when it is no date.
    pub sent: Option<Timestamp>,
    pub user_data: UserData,
}

impl Deliver {
    pub fn decode(octets: &[u8]) -> Result<Self, TpduError> {
        let mut reader = Reader::new(octets);
        let first = reader.octet("TP-MTI")?;
        // 11 is reserved and to be read as a DELIVER.
        if !matches!(first & MTI, MTI_DELIVER | 0b11) {
            return Err(TpduError::WrongType { found: first & MTI, expected: "DELIVER" });
        }
        let from = address::decode(&mut reader, "TP-OA")?;
        let protocol_id = reader.octet("TP-PID")?;
        let coding = DataCoding(reader.octet("TP-DCS")?);
        let sent = Timestamp::decode(reader.array("TP-SCTS")?);
        Ok(Self {
            more_messages: first & NO_MORE_MESSAGES == 0,
            loop_prevention: first & LOOP_PREVENTION != 0,
            reply_path: first & REPLY_PATH != 0,
            status_report: first & REPORT != 0,
            from,
            protocol_id,
            coding,
            sent,
            user_data: UserData::decode(&mut reader, first & HEADER != 0, coding)?,
        })
    }

    /// For simulations and tests. A missing time is written as zeros.
    pub fn encode(&self) -> Result<Vec<u8>, TpduError> {
        let mut octets = vec![
            MTI_DELIVER
                | flag(!self.more_messages, NO_MORE_MESSAGES)
                | flag(self.loop_prevention, LOOP_PREVENTION)
                | flag(self.status_report, REPORT)
                | flag(self.user_data.has_header, HEADER)
                | flag(self.reply_path, REPLY_PATH),
        ];
        address::encode(&self.from, &mut octets)?;
        octets.extend([self.protocol_id, self.coding.0]);
        octets.extend(self.sent.map_or([0; 7], Timestamp::encode));
        self.user_data.encode(&mut octets)?;
        Ok(octets)
    }

    /// The user data, opened.
    pub fn content(&self) -> Result<Content, TpduError> {
        self.user_data.content(self.coding)
    }
}
