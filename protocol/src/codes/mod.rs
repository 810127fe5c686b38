//! What the error codes of networks, modems and phones mean for a message: one table for each numbering, with its source.
//!
//! The class is ours: *permanent* when no route could do better, *route* when another one could, *transient* when the same one
//! could, later. A code that is in no table is transient: a wrong retry costs less than a lost message. `docs/error-codes.md`
//! shows all of it, and the codes of SMSCs and online providers, whose tables are in `controller/providers`.

mod android;
mod cme;
mod cms;
mod tp_status;

pub use android::ANDROID;
pub use cme::CME;
pub use cms::CMS;
pub use tp_status::undelivered;

use crate::wire::ErrorClass;

/// One code and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    pub number: u16,
    pub class: ErrorClass,
    /// For people, at most 120 characters.
    pub text: &'static str,
    /// Said after the message was handed over, it leaves open whether the network has it.
    pub unclear: bool,
}

/// Codes of one origin, sorted by their number.
#[derive(Clone, Copy, Debug)]
pub struct Numbering {
    /// How a code of it begins in the API: `cms-21`.
    pub prefix: &'static str,
    pub title: &'static str,
    pub source: &'static str,
    pub codes: &'static [Code],
}

impl Numbering {
    pub fn find(&self, number: u16) -> Option<&'static Code> {
        self.codes.binary_search_by_key(&number, |code| code.number).ok().map(|at| &self.codes[at])
    }

    /// The first code with that text, in small letters.
    pub fn named(&self, text: &str) -> Option<&'static Code> {
        self.codes.iter().find(|code| code.text == text)
    }
}

const fn code(number: u16, class: ErrorClass, text: &'static str) -> Code {
    Code { number, class, text, unclear: false }
}

const fn open(number: u16, class: ErrorClass, text: &'static str) -> Code {
    Code { number, class, text, unclear: true }
}

#[cfg(test)]
mod tests;
