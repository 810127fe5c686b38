//! TP-UDL and TP-UD (3GPP TS 23.040 clauses 9.2.3.16 and 9.2.3.24).

use super::reader::Reader;
use super::{DataCoding, TpduError};
use crate::sms::plan::USER_DATA_OCTETS;
use crate::sms::{Content, Encoding, Payload, Segment, Udh, gsm7};

/// User data as it lies in a TPDU.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserData {
    /// TP-UDHI: a header stands in front.
    pub has_header: bool,
    /// TP-UDL: septets for the 7-bit alphabet, octets otherwise.
    pub length: u8,
    pub octets: Vec<u8>,
}

impl UserData {
    /// Opens the header and unpacks the rest.
    pub fn content(&self, coding: DataCoding) -> Result<Content, TpduError> {
        let (udh, header) = if self.has_header {
            Udh::decode(&self.octets).ok_or(TpduError::HeaderOverrun)?
        } else {
            (Udh::default(), 0)
        };
        let octets = self.octets.get(header..).ok_or(TpduError::HeaderOverrun)?;
        let payload = match coding.encoding() {
            Encoding::Gsm7 => {
                let header_septets = (header * 8).div_ceil(7);
                let count = usize::from(self.length).checked_sub(header_septets);
                // A header that ends exactly with the data may leave its fill bits out of the count.
                let count = count.or_else(|| octets.is_empty().then_some(0)).ok_or(TpduError::HeaderOverrun)?;
                let fill = if count == 0 { 0 } else { gsm7::fill_bits(header) };
                let septets = gsm7::unpack(octets, fill, count);
                Payload::Septets(septets.ok_or(TpduError::Truncated { field: "TP-UD" })?)
            }
            Encoding::Ucs2 => {
                let units = octets.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]]));
                Payload::Utf16(units.collect())
            }
            Encoding::Data8 => Payload::Octets(octets.to_vec()),
        };
        Ok(Content { udh, payload })
    }

    pub(super) fn encode(&self, octets: &mut Vec<u8>) -> Result<(), TpduError> {
        if self.octets.len() > USER_DATA_OCTETS {
            let length = self.octets.len();
            return Err(TpduError::TooLong { field: "TP-UD", length, max: USER_DATA_OCTETS });
        }
        octets.push(self.length);
        octets.extend_from_slice(&self.octets);
        Ok(())
    }

    pub(super) fn decode(reader: &mut Reader<'_>, has_header: bool, coding: DataCoding) -> Result<Self, TpduError> {
        let length = reader.octet("TP-UDL")?;
        let (count, max) = match coding.encoding() {
            Encoding::Gsm7 => (gsm7::octets_for(usize::from(length), 0), 160),
            Encoding::Ucs2 | Encoding::Data8 => (usize::from(length), USER_DATA_OCTETS),
        };
        if usize::from(length) > max {
            return Err(TpduError::TooLong { field: "TP-UDL", length: usize::from(length), max });
        }
        let octets = reader.octets(count, "TP-UD")?.to_vec();
        Ok(Self { has_header, length, octets })
    }
}

impl From<Segment> for UserData {
    fn from(segment: Segment) -> Self {
        Self { has_header: segment.udh.octets() > 0, length: segment.length, octets: segment.user_data }
    }
}

/// The message itself is personal.
impl std::fmt::Debug for UserData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UserData({} octets, header {})", self.octets.len(), self.has_header)
    }
}
