//! SMS from text to radio and back: alphabets (3GPP TS 23.038), segments and TPDUs (3GPP TS 23.040).
//!
//! Sending: [`plan()`] chooses the cheapest encoding without allocating, [`segments()`] makes the user data of each
//! segment, [`tpdu::Submit`] wraps it. Receiving: [`tpdu::Incoming`] reads what a network sends, [`tpdu::UserData::content`]
//! opens its user data, [`Reassembler`] joins segments. Everything is a pure function of its arguments.

pub mod gsm7;
mod plan;
mod reassemble;
mod segment;
mod smart;
pub mod tpdu;
mod udh;

pub use gsm7::{Language, Shift};
pub use plan::{EncodeError, EncodeOptions, Encoding, Plan, plan, plan_body, plan_data};
pub use reassemble::{Event, Joined, Limits, Reassembler};
pub use segment::{Content, Payload, Segment, body_segments, data_segments, segments};
pub use smart::simplified;
pub use udh::{Concatenation, Ports, Udh};
