//! What a controller and a device both speak: identifiers, numbers, SMS encoding, link frames and the enrolment code.
//!
//! Nothing in this crate does IO, reads a clock or draws a random number. Every decoder takes hostile bytes: it never
//! panics and never allocates more than its input justifies.

pub mod address;
pub mod codes;
pub mod enroll_code;
pub mod id;
pub mod number;
pub mod sms;
pub mod wire;
