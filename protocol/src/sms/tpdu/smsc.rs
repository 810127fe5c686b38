//! The SMSC's address in front of a TPDU, as modems want it in PDU mode (3GPP TS 27.005 clause 3.1).

use data_encoding::{HEXUPPER, HEXUPPER_PERMISSIVE};

use super::{TpduError, address};
use crate::address::Address;
use crate::number::Msisdn;

/// More than any TPDU with its SMSC in hexadecimal: 12 octets of address, 164 of TPDU, and some for trailing octets.
const HEX_MAX: usize = 512;
/// The type and ten octets of digits.
const SMSC_OCTETS_MAX: usize = 11;

/// The hexadecimal text for `AT+CMGS=<n>`, where `n` is `tpdu.len()`: the SMSC does not count. Without an SMSC the one that is
/// stored on the SIM is used.
pub fn with_smsc(smsc: Option<Msisdn>, tpdu: &[u8]) -> String {
    let mut octets = Vec::with_capacity(12 + tpdu.len());
    match smsc {
        // An E.164 number always fits.
        Some(number) if address::encode_smsc(number, &mut octets).is_ok() => {}
        _ => octets = vec![0],
    }
    octets.extend_from_slice(tpdu);
    HEXUPPER.encode(&octets)
}

/// Splits a PDU as modems print it, in either case, into the SMSC's address and the TPDU.
pub fn split_smsc(hex: &str) -> Result<(Option<Address>, Vec<u8>), TpduError> {
    let hex = hex.trim();
    if hex.len() > HEX_MAX {
        return Err(TpduError::TooLong { field: "PDU in hexadecimal", length: hex.len(), max: HEX_MAX });
    }
    let mut octets = HEXUPPER_PERMISSIVE.decode(hex.as_bytes()).map_err(|_| TpduError::NotHex)?;
    let length = usize::from(*octets.first().ok_or(TpduError::Truncated { field: "SMSC address" })?);
    if length > SMSC_OCTETS_MAX {
        return Err(TpduError::TooLong { field: "SMSC address", length, max: SMSC_OCTETS_MAX });
    }
    let smsc = octets.get(1..=length).ok_or(TpduError::Truncated { field: "SMSC address" })?;
    let smsc = address::decode_smsc(smsc);
    octets.drain(..=length);
    Ok((smsc, octets))
}
