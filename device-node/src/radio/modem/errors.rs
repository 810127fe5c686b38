//! What a modem's errors mean for a message: its numbers and its words, judged by the tables of `flotilla_protocol::codes`.

use flotilla_protocol::codes::{CME, CMS, Code, Numbering};
use flotilla_protocol::wire::ErrorClass::{self, Transient as T};
use flotilla_protocol::wire::{ErrorDomain, SendError};

use super::at::Final;

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
        Final::Cms(argument) => coded(ErrorDomain::Cms, &CMS, argument),
        Final::Cme(argument) => coded(ErrorDomain::Cme, &CME, argument),
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

/// An error of Flotilla's own numbering.
pub(super) fn own(code: u16, class: ErrorClass, text: &str) -> SendError {
    SendError { class, domain: ErrorDomain::Device, code, text: text.to_owned() }
}

fn coded(domain: ErrorDomain, numbering: &Numbering, argument: &str) -> Verdict {
    let found = match argument.parse::<u16>() {
        Ok(code) => match numbering.find(code) {
            Some(found) => found,
            None => {
                let error = SendError { class: T, domain, code, text: "not in any table".to_owned() };
                return Verdict { error, unclear: false };
            }
        },
        Err(_) => match named(numbering, argument) {
            Some(found) => found,
            None => {
                let error = own(device::UNKNOWN_TEXT, T, "the modem answered with an error text that is not known");
                return Verdict { error, unclear: false };
            }
        },
    };
    let error = SendError { class: found.class, domain, code: found.number, text: found.text.to_owned() };
    Verdict { error, unclear: found.unclear }
}

fn named(numbering: &Numbering, text: &str) -> Option<&'static Code> {
    let text = text.trim().trim_matches('"').to_ascii_lowercase();
    let text = SYNONYMS.iter().find(|(other, _)| *other == text).map_or(text.as_str(), |(_, ours)| ours);
    numbering.named(text)
}

#[cfg(test)]
mod tests {
    use flotilla_protocol::wire::ErrorClass::{Permanent as P, Route as R};

    use super::*;

    #[test]
    fn other_words_stand_for_words_of_the_tables() {
        let texts: Vec<_> = CMS.codes.iter().chain(CME.codes).map(|code| code.text).collect();
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
    }
}
