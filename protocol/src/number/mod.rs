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

#[cfg(test)]
mod tests {
    use std::fmt;

    use serde::de::IntoDeserializer;
    use serde::de::value::{Error, StrDeserializer};
    use serde::{Deserialize, Serialize};

    use super::*;

    /// What a format for people makes of a value: `fmt::Formatter` is the one that serde has on board.
    struct Readable<'a, T>(&'a T);

    impl<T: Serialize> fmt::Display for Readable<'_, T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.serialize(f)
        }
    }

    fn round_trips<T>(text: &str)
    where
        T: Serialize + for<'de> Deserialize<'de> + PartialEq + fmt::Debug,
    {
        let deserializer: StrDeserializer<'_, Error> = text.into_deserializer();
        let value = T::deserialize(deserializer).unwrap();
        assert_eq!(Readable(&value).to_string(), text);
        let bytes = postcard::to_allocvec(&value).unwrap();
        assert_eq!(postcard::from_bytes::<T>(&bytes).unwrap(), value);
    }

    #[test]
    fn serialized_for_people_and_for_the_wire() {
        round_trips::<Msisdn>("+255712345678");
        round_trips::<Iccid>("8901410321111851072");
        round_trips::<Imsi>("001010123456789");
        round_trips::<Plmn>("310026");
        round_trips::<Region>("TZ");
    }

    #[test]
    fn nothing_unchecked_comes_in() {
        let refused = |text: &'static str| {
            let read = || -> StrDeserializer<'static, Error> { text.into_deserializer() };
            [
                Msisdn::deserialize(read()).map(drop),
                Iccid::deserialize(read()).map(drop),
                Imsi::deserialize(read()).map(drop),
                Plmn::deserialize(read()).map(drop),
                Region::deserialize(read()).map(drop),
            ]
            .iter()
            .all(Result::is_err)
        };
        assert!(refused("") && refused("0712345678") && refused("+1") && refused("x".repeat(100).leak()));
        let text = postcard::to_allocvec("12x45").unwrap();
        assert!(postcard::from_bytes::<Iccid>(&text).is_err() && postcard::from_bytes::<Plmn>(&text).is_err());
    }
}
