//! Phone numbers and the numbers of a SIM, parsed once at the edge and trusted from there on.
//!
//! Every type here is a small `Copy` value with a private field: holding one means that it was checked.
//! `Debug` masks what identifies a person; `Display` gives the whole number, for protocols and answers.

mod msisdn;
mod numbering;
mod plmn;
mod region;
mod sim;

pub use msisdn::Msisdn;
pub use plmn::Plmn;
pub use region::Region;
pub use sim::{Iccid, Imsi};

/// Why a text is not a number. The messages name the remedy and never repeat the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NumberError {
    #[error("the number is empty; give it in international form, such as +255712345678")]
    Empty,
    #[error("the number has no leading +; give it in international form, such as +255712345678")]
    NotInternational,
    #[error("the number has {0:?} in it; only digits and separators may follow the +")]
    UnexpectedCharacter(char),
    #[error("the number has more than {limit} characters; give one number only")]
    TooManyCharacters { limit: usize },
    #[error("the number has more than 15 digits; check it for doubled digits and give one number only")]
    TooManyDigits,
    #[error("no country has the calling code at the start of the number; check the digits after the +")]
    UnknownCallingCode,
    #[error("the number is too short for the calling code +{calling_code}; give it with its area or network code")]
    TooShort { calling_code: u16 },
    #[error("the number is too long for the calling code +{calling_code}; check it for doubled digits")]
    TooLong { calling_code: u16 },
    #[error("no number of the calling code +{calling_code} has {digits} digits; check for missing or doubled digits")]
    ImpossibleLength { calling_code: u16, digits: u8 },
    #[error("the number is no national number of {region}; check its digits or give it with + and the calling code")]
    NotNational { region: Region },
    #[error("the region is not known; give two letters of ISO 3166, such as TZ")]
    UnknownRegion,
    #[error("an E.164 number has 7 to 15 digits and does not start with 0")]
    NotE164,
    #[error("an ICCID has 18 to 20 digits; read it again from the SIM")]
    IccidDigits,
    #[error("the ICCID's check digit is wrong; read it again from the SIM")]
    IccidCheckDigit,
    #[error("an IMSI has 14 or 15 digits; read it again from the SIM")]
    ImsiDigits,
    #[error("a network has 3 digits of country (MCC) and 2 or 3 of network (MNC), such as 64002")]
    Plmn,
}
