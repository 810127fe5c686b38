//! The enrolment code: what a QR code tells a device that has never met its controller.
//!
//! Text form: `FLOTILLA:1:` and base 32 (RFC 4648, no padding) of the postcard value and a checksum. Only characters of the QR
//! alphanumeric mode are used, which holds them in 5.5 bits each, so the symbol stays coarse enough for poor cameras.
//! Lower case, spaces and line breaks, as they come from copying by hand, are accepted.

use data_encoding::BASE32_NOPAD;
use serde::{Deserialize, Serialize};

use crate::id::EnrollmentId;

/// Bounds on what a code may hold; a code beyond them is refused, so that it always fits into a QR symbol.
pub const CONTROLLERS_MAX: usize = 8;
pub const CONTROLLER_BYTES_MAX: usize = 260;
pub const TENANT_NAME_BYTES_MAX: usize = 64;
pub const TEXT_BYTES_MAX: usize = 4096;

const SCHEME: &str = "FLOTILLA:";
const VERSION: &str = "1:";
const CHECKSUM_BYTES: usize = 4;

/// Everything a device needs to enrol, and to know whom it trusts before it says anything.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollCode {
    /// `host:port`, most preferred first.
    pub controllers: Vec<String>,
    /// SHA-256 of the CA's SubjectPublicKeyInfo (DER): the present one, and the next while one is prepared.
    pub ca_pins: Vec<[u8; 32]>,
    pub token: EnrollmentId,
    pub secret: [u8; 16],
    /// Unix seconds.
    pub expires_s: u64,
    /// For the person who scans: who is about to own this device.
    pub tenant_name: String,
}

impl std::fmt::Debug for EnrollCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollCode")
            .field("controllers", &self.controllers)
            .field("token", &self.token)
            .field("expires_s", &self.expires_s)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrollCodeError {
    #[error("this is not a Flotilla enrolment code: it must start with `{SCHEME}`")]
    NotACode,
    #[error("this enrolment code is of a newer version: update this program")]
    Version,
    #[error("the enrolment code is damaged or incomplete: copy or scan it again")]
    Damaged,
    #[error("the enrolment code's {0} is out of bounds: ask for a new code")]
    Bounds(&'static str),
}

impl EnrollCode {
    /// The text for a QR code or a command line.
    pub fn to_text(&self) -> Result<String, EnrollCodeError> {
        self.check()?;
        let mut bytes = postcard::to_stdvec(self).map_err(|_| EnrollCodeError::Damaged)?;
        bytes.extend_from_slice(&checksum(&bytes));
        Ok(format!("{SCHEME}{VERSION}{}", BASE32_NOPAD.encode(&bytes)))
    }

    pub fn parse(text: &str) -> Result<Self, EnrollCodeError> {
        if text.len() > TEXT_BYTES_MAX {
            return Err(EnrollCodeError::Bounds("length"));
        }
        let text: String = text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_ascii_uppercase()).collect();
        let rest = text.strip_prefix(SCHEME).ok_or(EnrollCodeError::NotACode)?;
        let digits = rest.strip_prefix(VERSION).ok_or(EnrollCodeError::Version)?;
        let bytes = BASE32_NOPAD.decode(digits.as_bytes()).map_err(|_| EnrollCodeError::Damaged)?;
        let (body, sum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(EnrollCodeError::Damaged)?;
        if checksum(body) != *sum {
            return Err(EnrollCodeError::Damaged);
        }
        let (code, rest) = postcard::take_from_bytes::<Self>(body).map_err(|_| EnrollCodeError::Damaged)?;
        if !rest.is_empty() {
            return Err(EnrollCodeError::Damaged);
        }
        code.check()?;
        Ok(code)
    }

    fn check(&self) -> Result<(), EnrollCodeError> {
        let addresses = &self.controllers;
        if addresses.is_empty() || addresses.len() > CONTROLLERS_MAX {
            return Err(EnrollCodeError::Bounds("number of controllers"));
        }
        if addresses.iter().any(|a| a.is_empty() || a.len() > CONTROLLER_BYTES_MAX) {
            return Err(EnrollCodeError::Bounds("controller address"));
        }
        if self.ca_pins.is_empty() || self.ca_pins.len() > 2 {
            return Err(EnrollCodeError::Bounds("number of CA pins"));
        }
        if self.tenant_name.len() > TENANT_NAME_BYTES_MAX {
            return Err(EnrollCodeError::Bounds("tenant name"));
        }
        Ok(())
    }
}

/// Against slips of the hand, not of an enemy: the secret and the pins do that.
fn checksum(body: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let digest = ring::digest::digest(&ring::digest::SHA256, body);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&digest.as_ref()[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code() -> EnrollCode {
        EnrollCode {
            controllers: vec!["sms.example.org:7443".into(), "[2001:db8::1]:7443".into()],
            ca_pins: vec![[7; 32]],
            token: EnrollmentId::new(1_763_640_000_000, [9; 10]),
            secret: [0xa5; 16],
            expires_s: 1_763_643_600,
            tenant_name: "Zürich Clinic".into(),
        }
    }

    #[test]
    fn text_round_trips_and_forgives_case_and_line_breaks() {
        let text = code().to_text().unwrap();
        assert!(text.bytes().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase() || c == b':'));
        assert_eq!(EnrollCode::parse(&text), Ok(code()));
        let wrapped = text.to_lowercase().replace("a", "a\n ");
        assert_eq!(EnrollCode::parse(&wrapped), Ok(code()));
    }

    #[test]
    fn every_single_slip_is_noticed() {
        let text = code().to_text().unwrap();
        let start = SCHEME.len() + VERSION.len();
        for at in start..text.len() {
            let mut slipped = text.clone().into_bytes();
            slipped[at] = if slipped[at] == b'A' { b'B' } else { b'A' };
            let slipped = String::from_utf8(slipped).unwrap();
            assert!(EnrollCode::parse(&slipped).is_err(), "slip at {at}");
            assert!(EnrollCode::parse(&text[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn foreign_and_newer_codes_are_told_apart() {
        assert_eq!(EnrollCode::parse("https://example.org"), Err(EnrollCodeError::NotACode));
        assert_eq!(EnrollCode::parse("FLOTILLA:2:AAAA"), Err(EnrollCodeError::Version));
        assert_eq!(EnrollCode::parse(&"A".repeat(5000)), Err(EnrollCodeError::Bounds("length")));
    }

    #[test]
    fn bounds_hold_in_both_directions() {
        let mut many = code();
        many.controllers = vec!["a:1".into(); CONTROLLERS_MAX + 1];
        assert_eq!(many.to_text(), Err(EnrollCodeError::Bounds("number of controllers")));
        let mut body = postcard::to_stdvec(&many).unwrap();
        body.extend_from_slice(&checksum(&body));
        let text = format!("{SCHEME}{VERSION}{}", BASE32_NOPAD.encode(&body));
        assert_eq!(EnrollCode::parse(&text), Err(EnrollCodeError::Bounds("number of controllers")));
    }

    proptest::proptest! {
        #[test]
        fn no_body_under_a_right_checksum_makes_it_panic(mut body: Vec<u8>) {
            body.extend_from_slice(&checksum(&body));
            let _ = EnrollCode::parse(&format!("{SCHEME}{VERSION}{}", BASE32_NOPAD.encode(&body)));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = EnrollCode::parse(&text);
        }
    }
}
