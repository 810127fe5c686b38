//! What a modem's error codes mean for a message. The one table of them.
//!
//! Sources: RP causes 0-127 of `+CMS ERROR`: 3GPP TS 24.011 8.2.5.4 and annex E. 128-255: TP-FCS, 3GPP TS 23.040
//! 9.2.3.22. From 300: 3GPP TS 27.005 3.2.5. `+CME ERROR`: 3GPP TS 27.007 9.2. TP-Status: 3GPP TS 23.040 9.2.3.15.
//! The class is ours: *permanent* when no SIM could do better, *route* when another SIM could, *transient* when the
//! same SIM could, later. A code that is in no table is transient: a wrong retry costs less than a lost message.

use flotilla_protocol::sms::tpdu::Status;
use flotilla_protocol::wire::{ErrorClass, ErrorDomain, SendError};

use super::at::Final;

use ErrorClass::{Permanent as P, Route as R, Transient as T};

/// `SendError::code` in [`ErrorDomain::Device`], for what no modem has a number for.
pub(super) mod device {
    /// A bare `ERROR`.
    pub(crate) const PLAIN_ERROR: u16 = 1;
    /// An error text that is in no table.
    pub(crate) const UNKNOWN_TEXT: u16 = 2;
    /// The prompt for the PDU did not come.
    pub(crate) const NO_PROMPT: u16 = 3;
    /// The modem answered nothing, or its port failed, before the PDU was handed over.
    pub(crate) const NO_ANSWER: u16 = 4;
    /// The message can not be encoded.
    pub(crate) const ENCODING: u16 = 5;
}

struct Entry(u16, ErrorClass, &'static str);

/// 3GPP TS 24.011 8.2.5.4, TS 23.040 9.2.3.22, TS 27.005 3.2.5.
const CMS: &[Entry] = &[
    Entry(1, P, "unassigned number"),
    Entry(8, R, "operator determined barring"),
    Entry(10, R, "call barred"),
    Entry(11, T, "reserved"),
    // Networks use it for no credit and for senders they hold to be spammers: the number itself may be good.
    Entry(21, R, "short message transfer rejected"),
    Entry(22, T, "memory capacity exceeded"),
    Entry(27, T, "destination out of order"),
    // 28 and 30 speak of the sender's subscription (annex E.2).
    Entry(28, R, "unidentified subscriber"),
    Entry(29, R, "facility rejected"),
    Entry(30, R, "unknown subscriber"),
    Entry(38, T, "network out of order"),
    Entry(41, T, "temporary failure"),
    Entry(42, T, "congestion"),
    Entry(47, T, "resources unavailable, unspecified"),
    Entry(50, R, "requested facility not subscribed"),
    Entry(69, R, "requested facility not implemented"),
    Entry(81, T, "invalid short message transfer reference value"),
    Entry(95, P, "semantically incorrect message"),
    Entry(96, P, "invalid mandatory information"),
    Entry(97, T, "message type non-existent or not implemented"),
    Entry(98, T, "message not compatible with short message protocol state"),
    Entry(99, P, "information element non-existent or not implemented"),
    Entry(111, T, "protocol error, unspecified"),
    Entry(127, T, "interworking, unspecified"),
    Entry(128, P, "telematic interworking not supported"),
    Entry(129, P, "short message type 0 not supported"),
    Entry(130, P, "cannot replace short message"),
    Entry(143, P, "unspecified tp-pid error"),
    Entry(144, P, "data coding scheme (alphabet) not supported"),
    Entry(145, P, "message class not supported"),
    Entry(159, P, "unspecified tp-dcs error"),
    Entry(160, T, "command cannot be actioned"),
    Entry(161, P, "command unsupported"),
    Entry(175, T, "unspecified tp-command error"),
    Entry(176, P, "tpdu not supported"),
    Entry(192, T, "sc busy"),
    Entry(193, R, "no sc subscription"),
    Entry(194, T, "sc system failure"),
    Entry(195, P, "invalid sme address"),
    Entry(196, P, "destination sme barred"),
    Entry(197, T, "sm rejected-duplicate sm"),
    Entry(198, P, "tp-vpf not supported"),
    Entry(199, P, "tp-vp not supported"),
    Entry(208, T, "(u)sim sms storage full"),
    Entry(209, R, "no sms storage capability in (u)sim"),
    Entry(210, T, "error in ms"),
    Entry(211, T, "memory capacity exceeded"),
    Entry(212, T, "(u)sim application toolkit busy"),
    Entry(213, T, "(u)sim data download error"),
    Entry(255, T, "unspecified error cause"),
    Entry(300, T, "me failure"),
    Entry(301, R, "sms service of me reserved"),
    Entry(302, R, "operation not allowed"),
    Entry(303, R, "operation not supported"),
    Entry(304, P, "invalid pdu mode parameter"),
    Entry(305, P, "invalid text mode parameter"),
    Entry(310, R, "sim not inserted"),
    Entry(311, R, "sim pin required"),
    Entry(312, R, "ph-sim pin required"),
    Entry(313, R, "sim failure"),
    Entry(314, T, "sim busy"),
    Entry(315, R, "sim wrong"),
    Entry(316, R, "sim puk required"),
    Entry(317, R, "sim pin2 required"),
    Entry(318, R, "sim puk2 required"),
    Entry(320, T, "memory failure"),
    Entry(321, T, "invalid memory index"),
    Entry(322, T, "memory full"),
    Entry(330, R, "smsc address unknown"),
    Entry(331, R, "no network service"),
    Entry(332, T, "network timeout"),
    Entry(340, T, "no +cnma acknowledgement expected"),
    Entry(500, T, "unknown error"),
];

/// 3GPP TS 27.007 9.2.1 and 9.2.2.
const CME: &[Entry] = &[
    Entry(0, T, "phone failure"),
    Entry(1, T, "no connection to phone"),
    Entry(2, T, "phone-adaptor link reserved"),
    Entry(3, R, "operation not allowed"),
    Entry(4, R, "operation not supported"),
    Entry(5, R, "ph-sim pin required"),
    Entry(6, R, "ph-fsim pin required"),
    Entry(7, R, "ph-fsim puk required"),
    Entry(10, R, "sim not inserted"),
    Entry(11, R, "sim pin required"),
    Entry(12, R, "sim puk required"),
    Entry(13, R, "sim failure"),
    Entry(14, T, "sim busy"),
    Entry(15, R, "sim wrong"),
    Entry(16, R, "incorrect password"),
    Entry(17, R, "sim pin2 required"),
    Entry(18, R, "sim puk2 required"),
    Entry(20, T, "memory full"),
    Entry(21, T, "invalid index"),
    Entry(22, T, "not found"),
    Entry(23, T, "memory failure"),
    Entry(24, P, "text string too long"),
    Entry(25, P, "invalid characters in text string"),
    Entry(26, P, "dial string too long"),
    Entry(27, P, "invalid characters in dial string"),
    Entry(30, R, "no network service"),
    Entry(31, T, "network timeout"),
    Entry(32, R, "network not allowed - emergency calls only"),
    Entry(40, R, "network personalization pin required"),
    Entry(41, R, "network personalization puk required"),
    Entry(42, R, "network subset personalization pin required"),
    Entry(43, R, "network subset personalization puk required"),
    Entry(44, R, "service provider personalization pin required"),
    Entry(45, R, "service provider personalization puk required"),
    Entry(46, R, "corporate personalization pin required"),
    Entry(47, R, "corporate personalization puk required"),
    Entry(48, R, "hidden key required"),
    Entry(50, P, "incorrect parameters"),
    Entry(51, T, "command implemented but currently disabled"),
    Entry(52, T, "command aborted by user"),
    Entry(100, T, "unknown"),
    Entry(103, R, "illegal ms"),
    Entry(106, R, "illegal me"),
    Entry(111, R, "plmn not allowed"),
    Entry(112, R, "location area not allowed"),
    Entry(113, R, "roaming not allowed in this location area"),
];

/// Words of some makers for entries of the tables above.
const SYNONYMS: &[(&str, &str)] = &[
    ("no network", "no network service"),
    ("no service", "no network service"),
    ("sim not ready", "sim busy"),
    ("usim busy", "sim busy"),
    ("sms service of mt reserved", "sms service of me reserved"),
    ("(u)sim not inserted", "sim not inserted"),
    ("(u)sim pin required", "sim pin required"),
    ("(u)sim puk required", "sim puk required"),
    ("(u)sim failure", "sim failure"),
    ("(u)sim busy", "sim busy"),
    ("(u)sim wrong", "sim wrong"),
    ("mt failure", "me failure"),
    ("smsc address not known", "smsc address unknown"),
    ("unknown smsc address", "smsc address unknown"),
];

/// What a command that did not end with `OK` means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) error: SendError,
    /// Said after the PDU was handed over, it leaves open whether the network has the message.
    pub(super) unclear: bool,
}

/// Judges an error of the modem. `Final::Ok` has no error; it is judged as a bare `ERROR`.
pub(super) fn judge(end: &Final) -> Verdict {
    match end {
        Final::Cms(argument) => coded(ErrorDomain::Cms, CMS, argument),
        Final::Cme(argument) => coded(ErrorDomain::Cme, CME, argument),
        Final::Error | Final::Ok => {
            Verdict { error: own(device::PLAIN_ERROR, T, "the modem answered ERROR"), unclear: false }
        }
    }
}

/// The numeric code of a `+CMS`/`+CME ERROR`, from its number or its text.
pub(super) fn code_of(end: &Final) -> Option<(ErrorDomain, u16)> {
    let verdict = judge(end);
    (verdict.error.domain != ErrorDomain::Device).then_some((verdict.error.domain, verdict.error.code))
}

/// The final verdict of a status report. An expired validity and a broken connection between networks say nothing
/// against the number.
pub(super) fn undelivered(status: Status) -> SendError {
    let class = match status.0 {
        0x40 | 0x44 | 0x46 => T,
        0x41..=0x5f => P,
        0x63 | 0x80.. => R,
        _ => T,
    };
    SendError { class, domain: ErrorDomain::TpStatus, code: u16::from(status.0), text: status.reason().to_owned() }
}

/// An error of Flotilla's own numbering.
pub(super) fn own(code: u16, class: ErrorClass, text: &str) -> SendError {
    SendError { class, domain: ErrorDomain::Device, code, text: text.to_owned() }
}

fn coded(domain: ErrorDomain, table: &'static [Entry], argument: &str) -> Verdict {
    let entry = match argument.parse::<u16>() {
        Ok(code) => match find(table, code) {
            Some(entry) => entry,
            None => {
                let error = SendError { class: T, domain, code, text: "not in any table".to_owned() };
                return Verdict { error, unclear: false };
            }
        },
        Err(_) => match named(table, argument) {
            Some(entry) => entry,
            None => {
                let error = own(device::UNKNOWN_TEXT, T, "the modem answered with an error text that is not known");
                return Verdict { error, unclear: false };
            }
        },
    };
    let error = SendError { class: entry.1, domain, code: entry.0, text: entry.2.to_owned() };
    Verdict { error, unclear: entry.2 == "network timeout" }
}

fn find(table: &'static [Entry], code: u16) -> Option<&'static Entry> {
    table.iter().find(|entry| entry.0 == code)
}

fn named(table: &'static [Entry], text: &str) -> Option<&'static Entry> {
    let text = text.trim().trim_matches('"').to_ascii_lowercase();
    let text = SYNONYMS.iter().find(|(other, _)| *other == text).map_or(text.as_str(), |(_, ours)| ours);
    table.iter().find(|entry| entry.2 == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_appears_once_and_in_order() {
        for table in [CMS, CME] {
            assert!(table.is_sorted_by(|a, b| a.0 < b.0));
            assert!(table.iter().all(|entry| entry.2.len() <= 120 && entry.2 == entry.2.to_ascii_lowercase()));
        }
        let texts: Vec<_> = CMS.iter().chain(CME).map(|entry| entry.2).collect();
        assert!(SYNONYMS.iter().all(|(other, ours)| texts.contains(ours) && !texts.contains(other)));
    }

    #[test]
    fn numbers_and_texts_mean_the_same() {
        for (number, text, class) in [
            ("1", "Unassigned number", P),
            ("310", "SIM not inserted", R),
            ("331", "no network", R),
            ("38", "Network out of order", T),
            ("195", "Invalid SME address", P),
        ] {
            let by_number = judge(&Final::Cms(number.to_owned()));
            assert_eq!(by_number, judge(&Final::Cms(text.to_owned())), "{text}");
            assert_eq!(by_number.error.class, class, "{text}");
            assert_eq!(by_number.error.domain, ErrorDomain::Cms);
        }
        assert_eq!(judge(&Final::Cme("SIM PUK required".to_owned())).error.code, 12);
    }

    #[test]
    fn only_a_network_timeout_leaves_the_outcome_open() {
        assert!(judge(&Final::Cms("332".to_owned())).unclear);
        assert!(judge(&Final::Cms("network timeout".to_owned())).unclear);
        assert!(judge(&Final::Cme("31".to_owned())).unclear);
        for end in [Final::Error, Final::Cms("500".to_owned()), Final::Cms("41".to_owned()), Final::Cme("0".to_owned())]
        {
            assert!(!judge(&end).unclear, "{end:?}");
        }
    }

    #[test]
    fn unknown_codes_are_worth_another_try() {
        let verdict = judge(&Final::Cms("517".to_owned()));
        assert_eq!((verdict.error.class, verdict.error.code), (T, 517));
        let verdict = judge(&Final::Cms("Bad weather".to_owned()));
        assert_eq!((verdict.error.class, verdict.error.domain), (T, ErrorDomain::Device));
        assert_eq!(judge(&Final::Error).error.code, device::PLAIN_ERROR);
        assert_eq!(undelivered(Status(0x41)).class, P);
        assert_eq!(undelivered(Status(0x7f)).class, T);
    }
}
