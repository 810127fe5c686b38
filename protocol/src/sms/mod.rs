//! SMS from text to radio and back: alphabets (3GPP TS 23.038), segments and TPDUs (3GPP TS 23.040).
//!
//! Sending: [`plan()`] chooses the cheapest encoding without allocating, [`segments()`] makes the user data of each
//! segment, [`tpdu::Submit`] wraps it. Receiving: [`tpdu::Deliver`] and [`tpdu::StatusReport`] read what a network sends,
//! [`Reassembler`] joins segments. Everything is a pure function of its arguments.

pub mod gsm7;
mod plan;
mod smart;

pub use gsm7::{Language, Shift};
pub use plan::{EncodeError, EncodeOptions, Encoding, Plan, plan, plan_data};
