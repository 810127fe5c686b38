//! The frames of the device link and of the enrolment dialogue, and how they lie on a stream.
//!
//! A frame is a length (u32, little endian) and a postcard value. Enum variants and struct fields only ever grow at the
//! end, within what `PROTOCOL` both sides have agreed on in their first frames; golden bytes keep that honest.

mod enroll;
mod frame;
mod link;

pub use enroll::{DeviceInfo, EnrollDown, EnrollRefusal, EnrollUp, Issued, recovery_statement};
pub use frame::{FRAME_BYTES_MAX, FrameError, decode_frame, encode_frame};
pub use link::{
    Alphabet, Attempt, Body, Dispatch, Down, ErrorClass, ErrorDomain, Held, Hello, InboundMessage, NotSent, Refusal,
    Registration, Report, ReportKind, SendError, Settings, SimHealth, SimInfo, SimState, Telemetry, TextEncoding, Up,
    Welcome,
};

/// ALPN of the link of an enrolled device.
pub const ALPN_LINK: &[u8] = b"flotilla/1";
/// ALPN of the enrolment dialogue: no client certificate.
pub const ALPN_ENROLL: &[u8] = b"flotilla-enroll/1";
/// The DNS name in every controller's certificate, and what a device asks for (SNI) wherever the controller is.
pub const CONTROLLER_NAME: &str = "controller.flotilla";
/// The newest frame set of the link that this build speaks. A device says in `Hello` which one it speaks, and gets no frame
/// that is newer.
///
/// 2 adds `Down::Controllers`, and `Redirect` on a link that is up.
pub const PROTOCOL: u16 = 2;
/// The oldest frame set that a controller of this build still speaks with a device.
pub const PROTOCOL_MIN: u16 = 1;
/// The frame set of the enrolment dialogue.
pub const ENROLL_PROTOCOL: u16 = 1;

#[cfg(test)]
mod tests;
