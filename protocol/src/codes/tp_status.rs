//! TP-Status of a status report: what the service centre says in the end (3GPP TS 23.040 9.2.3.15).

use crate::sms::tpdu::Status;
use crate::wire::{ErrorClass, ErrorDomain, SendError};

/// The final verdict of a report that says "not delivered". An expired validity and a broken connection between networks say
/// nothing against the number.
pub fn undelivered(status: Status) -> SendError {
    let class = match status.0 {
        0x40 | 0x44 | 0x46 => ErrorClass::Transient,
        0x41..=0x5f => ErrorClass::Permanent,
        0x63 | 0x80.. => ErrorClass::Route,
        _ => ErrorClass::Transient,
    };
    SendError { class, domain: ErrorDomain::TpStatus, code: u16::from(status.0), text: status.reason().to_owned() }
}
