//! What an SMSC's codes mean: `command_status` of an answer, state and error of a receipt.
//!
//! Sources: SMPP v3.4 issue 1.2, section 5.1.3 (command_status) and 5.2.28 (message_state); SMPP v5.0, section 4.7.6; error
//! codes of GSM networks (network_error_code of type 3) are those of 3GPP TS 29.002 section 17.6.6.

use flotilla_protocol::wire::ErrorClass;
use flotilla_protocol::wire::ErrorClass::{Permanent, Route, Transient};

use crate::maker::{ReceiptState, Refusal};

/// An answer's `command_status`, its name in the specification, what it means for the message.
type Row = (u32, &'static str, ErrorClass, &'static str);

pub(crate) const OK: u32 = 0;
pub(crate) const INVALID_COMMAND_LENGTH: u32 = 0x02;
pub(crate) const INVALID_COMMAND_ID: u32 = 0x03;
/// The link is not bound for what was asked.
pub(crate) const INVALID_BIND_STATUS: u32 = 0x04;
pub(crate) const ALREADY_BOUND: u32 = 0x05;
pub(crate) const SYSTEM_ERROR: u32 = 0x08;
pub(crate) const QUEUE_FULL: u32 = 0x14;
pub(crate) const THROTTLED: u32 = 0x58;
/// We, as a receiver, cannot take it now: the SMSC repeats it later.
pub(crate) const RECEIVER_TEMPORARY: u32 = 0x64;
/// We, as a receiver, refuse it: the SMSC drops it.
pub(crate) const RECEIVER_REJECT: u32 = 0x66;

/// Sorted by code. What the operator of the account has to put right is of class Route: other routes may do.
pub const COMMAND_STATUS: &[Row] = &[
    (0x01, "ESME_RINVMSGLEN", Permanent, "the message is too long for the SMSC"),
    (0x02, "ESME_RINVCMDLEN", Route, "the SMSC found the length of the command wrong"),
    (0x03, "ESME_RINVCMDID", Route, "the SMSC does not know the command"),
    (0x04, "ESME_RINVBNDSTS", Route, "the session is not bound for sending"),
    (0x05, "ESME_RALYBND", Route, "the account is bound already; the SMSC allows no further session"),
    (0x06, "ESME_RINVPRTFLG", Route, "the priority is not allowed; change `priority` of the account"),
    (0x07, "ESME_RINVREGDLVFLG", Route, "the kind of receipt is not allowed; change `receipts` of the account"),
    (0x08, "ESME_RSYSERR", Transient, "the SMSC has an internal error"),
    (0x0A, "ESME_RINVSRCADR", Route, "the sender is not allowed for this account"),
    (0x0B, "ESME_RINVDSTADR", Permanent, "the recipient's number is not valid"),
    (0x0C, "ESME_RINVMSGID", Route, "the message id is not valid"),
    (0x0D, "ESME_RBINDFAIL", Route, "the SMSC refuses the session"),
    (0x0E, "ESME_RINVPASWD", Route, "the password is wrong"),
    (0x0F, "ESME_RINVSYSID", Route, "the system_id is not known"),
    (0x11, "ESME_RCANCELFAIL", Route, "the message could not be cancelled"),
    (0x13, "ESME_RREPLACEFAIL", Route, "the message could not be replaced"),
    (0x14, "ESME_RMSGQFUL", Transient, "the SMSC's queue is full"),
    (0x15, "ESME_RINVSERTYP", Route, "the service type is not valid; change `service_type` of the account"),
    (0x33, "ESME_RINVNUMDESTS", Route, "the number of destinations is not valid"),
    (0x34, "ESME_RINVDLNAME", Route, "the distribution list is not known"),
    (0x40, "ESME_RINVDESTFLAG", Route, "the destination flag is not valid"),
    (0x42, "ESME_RINVSUBREP", Route, "replacing a message is not allowed"),
    (0x43, "ESME_RINVESMCLASS", Route, "the esm_class is not allowed; change `long_text` of the account"),
    (0x44, "ESME_RCNTSUBDL", Route, "submitting to a distribution list is not allowed"),
    (0x45, "ESME_RSUBMITFAIL", Transient, "the SMSC could not take the message"),
    (0x48, "ESME_RINVSRCTON", Route, "the sender's type of number is not valid; change `source_ton` of the account"),
    (0x49, "ESME_RINVSRCNPI", Route, "the sender's numbering plan is not valid; change `source_npi` of the account"),
    (0x50, "ESME_RINVDSTTON", Route, "the recipient's type of number is not valid; change `dest_ton` of the account"),
    (0x51, "ESME_RINVDSTNPI", Route, "the recipient's numbering plan is not valid; change `dest_npi` of the account"),
    (0x53, "ESME_RINVSYSTYP", Route, "the system_type is not known"),
    (0x54, "ESME_RINVREPFLAG", Route, "the replace flag is not valid"),
    (0x55, "ESME_RINVNUMMSGS", Route, "the number of messages is not valid"),
    (0x58, "ESME_RTHROTTLED", Transient, "more messages than the SMSC allows in this time"),
    (0x61, "ESME_RINVSCHED", Route, "the delivery time is not valid"),
    (0x62, "ESME_RINVEXPIRY", Route, "the validity is not valid; change `validity` of the account"),
    (0x63, "ESME_RINVDFTMSGID", Route, "the predefined message is not known"),
    (0x64, "ESME_RX_T_APPN", Transient, "the receiver has a temporary error"),
    (0x65, "ESME_RX_P_APPN", Permanent, "the receiver has a permanent error"),
    (0x66, "ESME_RX_R_APPN", Permanent, "the receiver refuses the message"),
    (0x67, "ESME_RQUERYFAIL", Route, "the query failed"),
    (0xC0, "ESME_RINVTLVSTREAM", Route, "the optional parameters cannot be read; change `long_text` of the account"),
    (0xC1, "ESME_RTLVNOTALLWD", Route, "an optional parameter is not allowed; change `long_text` of the account"),
    (0xC2, "ESME_RINVTLVLEN", Route, "an optional parameter's length is wrong"),
    (0xC3, "ESME_RMISSINGTLV", Route, "an optional parameter is missing"),
    (0xC4, "ESME_RINVTLVVAL", Route, "an optional parameter's value is wrong"),
    (0xFE, "ESME_RDELIVERYFAILURE", Transient, "the delivery failed"),
    (0xFF, "ESME_RUNKNOWNERR", Transient, "the SMSC has an unknown error"),
    (0x100, "ESME_RSERTYPUNAUTH", Route, "the account is not allowed to use the service type"),
    (0x101, "ESME_RPROHIBITED", Route, "the account is not allowed to do this"),
    (0x102, "ESME_RSERTYPUNAVAIL", Transient, "the service type is not available now"),
    (0x103, "ESME_RSERTYPDENIED", Route, "the service type is denied"),
    (0x104, "ESME_RINVDCS", Route, "the data coding is not supported; change `alphabet` of the account"),
    (0x105, "ESME_RINVSRCADDRSUBUNIT", Route, "the sender's subunit is not valid"),
    (0x106, "ESME_RINVDSTADDRSUBUNIT", Route, "the recipient's subunit is not valid"),
    (0x107, "ESME_RINVBCASTFREQINT", Route, "the broadcast interval is not valid"),
    (0x108, "ESME_RINVBCASTALIAS_NAME", Route, "the broadcast alias is not valid"),
    (0x109, "ESME_RINVBCASTAREAFMT", Route, "the broadcast area is not valid"),
    (0x10A, "ESME_RINVNUMBCAST_AREAS", Route, "the number of broadcast areas is not valid"),
    (0x10B, "ESME_RINVBCASTCNTTYPE", Route, "the broadcast content is not valid"),
    (0x10C, "ESME_RINVBCASTMSGCLASS", Route, "the broadcast class is not valid"),
    (0x10D, "ESME_RBCASTFAIL", Route, "the broadcast failed"),
    (0x10E, "ESME_RBCASTQUERYFAIL", Route, "the broadcast query failed"),
    (0x10F, "ESME_RBCASTCANCELFAIL", Route, "the broadcast could not be cancelled"),
    (0x110, "ESME_RINVBCAST_REP", Route, "the broadcast repetition is not valid"),
    (0x111, "ESME_RINVBCASTSRVGRP", Route, "the broadcast service group is not valid"),
    (0x112, "ESME_RINVBCASTCHANIND", Route, "the broadcast channel is not valid"),
];

/// The refusal that an answer's status stands for.
pub fn refusal(status: u32) -> Refusal {
    let (class, text) = match COMMAND_STATUS.binary_search_by_key(&status, |row| row.0) {
        Ok(at) => {
            let (_, name, class, text) = COMMAND_STATUS[at];
            (class, format!("{text} ({name})"))
        }
        // 0x400 to 0x4ff are the vendor's own (v3.4 section 5.1.3); whatever it means there, another route does not know it.
        Err(_) if (0x400..0x500).contains(&status) => (Route, "an error of the SMSC's vendor".to_owned()),
        Err(_) => (Transient, "an error that the specification does not name".to_owned()),
    };
    Refusal { class, code: format!("smpp-0x{status:02x}").into(), text: text.into(), retry_after_ms: None }
}

/// Whether a refused bind is for the operator to put right, so that trying again soon only makes a storm.
pub(crate) fn is_account_refusal(status: u32) -> bool {
    !matches!(status, ALREADY_BOUND | SYSTEM_ERROR | QUEUE_FULL | THROTTLED | RECEIVER_TEMPORARY | 0xff)
}

/// `message_state` of a receipt (v3.4 section 5.2.28; 0 and 9 are of v5.0).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageState {
    Scheduled,
    Enroute,
    Delivered,
    Expired,
    Deleted,
    Undeliverable,
    Accepted,
    Unknown,
    Rejected,
    Skipped,
}

impl MessageState {
    pub const ALL: [Self; 10] = [
        Self::Scheduled,
        Self::Enroute,
        Self::Delivered,
        Self::Expired,
        Self::Deleted,
        Self::Undeliverable,
        Self::Accepted,
        Self::Unknown,
        Self::Rejected,
        Self::Skipped,
    ];

    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// From `stat:` of a receipt's text, as vendors spell it.
    pub fn from_word(word: &str) -> Option<Self> {
        if let Ok(number) = word.parse::<u8>() {
            return Self::from_number(number);
        }
        let word: String = word.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_uppercase()).collect();
        Some(match word.as_str() {
            "DELIVRD" | "DELIVERED" | "DELIVRED" | "DELIVERD" | "DELIVERY" | "DLVRD" => Self::Delivered,
            "EXPIRED" | "EXPIRD" => Self::Expired,
            "DELETED" | "CANCELED" | "CANCELLED" => Self::Deleted,
            "UNDELIV" | "UNDELIVERABLE" | "UNDELIVERED" | "UNDELIVRD" | "UNDLVRD" | "FAILED" | "FAIL" => {
                Self::Undeliverable
            }
            "ACCEPTD" | "ACCEPTED" | "ACKED" | "ACK" => Self::Accepted,
            "UNKNOWN" | "UNKNOWND" => Self::Unknown,
            "REJECTD" | "REJECTED" => Self::Rejected,
            "ENROUTE" | "BUFFRED" | "BUFFERED" | "BUFFERD" | "SUBMITD" | "SUBMITTED" | "SENT" | "QUEUED" => {
                Self::Enroute
            }
            "SCHEDLD" | "SCHEDULED" => Self::Scheduled,
            "SKIPPED" => Self::Skipped,
            _ => return None,
        })
    }

    fn word(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Enroute => "enroute",
            Self::Delivered => "delivered",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
            Self::Undeliverable => "undeliverable",
            Self::Accepted => "accepted",
            Self::Unknown => "unknown",
            Self::Rejected => "rejected",
            Self::Skipped => "skipped",
        }
    }

    /// What the state means for the message. `error` is the receipt's own code, `gsm` that of a GSM network.
    pub fn outcome(self, error: Option<&str>, gsm: Option<u16>) -> ReceiptState {
        let (class, text) = match self {
            Self::Scheduled | Self::Enroute | Self::Accepted | Self::Unknown => return ReceiptState::Pending,
            Self::Delivered => return ReceiptState::Delivered,
            Self::Expired => return ReceiptState::Expired,
            Self::Undeliverable => {
                gsm.and_then(gsm_error).unwrap_or((Permanent, "the network cannot deliver the message"))
            }
            Self::Deleted => (Route, "the message was deleted at the SMSC"),
            Self::Rejected => (Route, "the SMSC has refused the message"),
            Self::Skipped => (Route, "the SMSC has skipped the message"),
        };
        let error = match gsm {
            Some(code) => format!("-gsm-{code}"),
            None => error.map(|code| format!("-{code}")).unwrap_or_default(),
        };
        ReceiptState::Failed(Refusal {
            class,
            code: format!("smpp-{}{error}", self.word()).into(),
            text: text.into(),
            retry_after_ms: None,
        })
    }
}

/// Errors of the MAP protocol that tell whether another try can help.
fn gsm_error(code: u16) -> Option<(ErrorClass, &'static str)> {
    Some(match code {
        1 | 5 => (Permanent, "the recipient's number is not in use"),
        9 => (Permanent, "the recipient is not a subscriber any more"),
        11 => (Permanent, "the recipient has no short messages"),
        13 => (Permanent, "the recipient bars messages"),
        21 => (Permanent, "the recipient's network lacks the facility"),
        6 | 27 => (Transient, "the recipient is not reachable now"),
        31 => (Transient, "the recipient is busy"),
        32 => (Transient, "the recipient's device could not take the message"),
        34 => (Transient, "the network has a failure"),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_names_every_status_of_the_codec() {
        assert!(COMMAND_STATUS.is_sorted_by(|a, b| a.0 < b.0));
        for status in 1..=0x1000 {
            let known = !matches!(rusmpp::CommandStatus::from(status), rusmpp::CommandStatus::Other(_));
            let row = COMMAND_STATUS.iter().any(|row| row.0 == status);
            assert_eq!(known, row, "status 0x{status:x}");
        }
    }

    #[test]
    fn statuses_mean() {
        let class = |status| refusal(status).class;
        assert_eq!(class(0x0b), Permanent);
        assert_eq!(class(0x0a), Route);
        assert_eq!((class(0x58), class(0x14), class(0x08)), (Transient, Transient, Transient));
        assert_eq!((class(0x401), class(0x9999)), (Route, Transient));
        assert_eq!(&*refusal(0x58).code, "smpp-0x58");
        assert_eq!(&*refusal(0x104).code, "smpp-0x104");
        assert!(is_account_refusal(0x0e) && is_account_refusal(0x0d) && !is_account_refusal(0x08));
        assert!(!is_account_refusal(0x05), "the SMSC may not have noticed the end of our last session");
    }

    #[test]
    fn states_mean() {
        let failed = |state: MessageState, error, gsm| match state.outcome(error, gsm) {
            ReceiptState::Failed(refusal) => (refusal.class, refusal.code.to_string()),
            other => panic!("{other:?}"),
        };
        use MessageState::{Accepted, Deleted, Enroute, Rejected, Undeliverable};
        assert_eq!(failed(Undeliverable, Some("069"), None), (Permanent, "smpp-undeliverable-069".to_owned()));
        assert_eq!(failed(Undeliverable, None, Some(27)), (Transient, "smpp-undeliverable-gsm-27".to_owned()));
        assert_eq!(failed(Undeliverable, None, Some(1)).0, Permanent);
        assert_eq!(failed(Undeliverable, None, Some(999)).0, Permanent);
        assert_eq!(failed(Rejected, Some("1"), None), (Route, "smpp-rejected-1".to_owned()));
        assert_eq!(failed(Deleted, None, None), (Route, "smpp-deleted".to_owned()));
        assert_eq!(Accepted.outcome(None, None), ReceiptState::Pending);
        assert_eq!(Enroute.outcome(None, None), ReceiptState::Pending);
        assert_eq!(MessageState::Delivered.outcome(Some("5"), None), ReceiptState::Delivered);
        assert_eq!(MessageState::from_number(2), Some(MessageState::Delivered));
        assert_eq!((MessageState::from_number(10), MessageState::from_word("what")), (None, None));
    }
}
