//! The application codes with which the gateway closes a QUIC connection. On the wire, so never reused.
//!
//! A refusal also goes out as a frame where a stream is open; the code is for peers that got no stream, and for captures.

use flotilla_protocol::wire::Refusal;
use quinn::VarInt;

/// The dialogue is over and all went well.
pub const DONE: VarInt = VarInt::from_u32(0);
/// `flotilla/1` without a client certificate.
pub const NO_CERTIFICATE: VarInt = VarInt::from_u32(1);
/// The peer did not say what it had to in time.
pub const TOO_SLOW: VarInt = VarInt::from_u32(2);
/// A fault of the controller; come back.
pub const INTERNAL: VarInt = VarInt::from_u32(3);
/// Enrolment was refused.
pub const NOT_ENROLLED: VarInt = VarInt::from_u32(4);
/// The client's end of the stream, or the whole link, was closed by the device.
pub const DEVICE_LEFT: VarInt = VarInt::from_u32(5);
/// Another controller leads the tenant's shard; `Redirect` has said which.
pub const REDIRECTED: VarInt = VarInt::from_u32(6);

/// Why a session is ended from this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Refused(Refusal),
    Redirected,
}

impl End {
    pub(super) fn code(self) -> VarInt {
        match self {
            Self::Refused(reason) => code_of(reason),
            Self::Redirected => REDIRECTED,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Refused(reason) => name_of(reason),
            Self::Redirected => "redirected",
        }
    }
}

/// 256 and up: the reasons of `Refused`.
pub fn code_of(refusal: Refusal) -> VarInt {
    VarInt::from_u32(match refusal {
        Refusal::UnsupportedProtocol => 256,
        Refusal::UnknownDevice => 257,
        Refusal::Revoked => 258,
        Refusal::StaleCertificate => 259,
        Refusal::BadFrame => 260,
        Refusal::Superseded => 261,
        Refusal::TooFast => 262,
        Refusal::Busy => 263,
        Refusal::ShuttingDown => 264,
    })
}

/// For metrics.
pub fn name_of(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnsupportedProtocol => "unsupported_protocol",
        Refusal::UnknownDevice => "unknown_device",
        Refusal::Revoked => "revoked",
        Refusal::StaleCertificate => "stale_certificate",
        Refusal::BadFrame => "bad_frame",
        Refusal::Superseded => "superseded",
        Refusal::TooFast => "too_fast",
        Refusal::Busy => "busy",
        Refusal::ShuttingDown => "shutting_down",
    }
}
