//! SMPP 3.3, 3.4 and 5.0: a client for SMSCs and providers that speak it.
//!
//! [`Settings::from_account`] reads an account, [`start`] keeps its session up and gives a [`Handle`] that submits;
//! receipts, messages and changes come as [`Event`]s. See `docs/smpp.md`.
//!
//! | module | what | IO |
//! |---|---|---|
//! | `settings` | an account's fields, checked | none |
//! | `text` | a message as submits | none |
//! | `session` | one session: window, rate, deadlines, what is known when it ends | none |
//! | `incoming`, `receipt`, `ids` | receipts in the dialects of vendors, messages and their segments | none |
//! | `backoff`, `rate`, `times`, `status`, `pdu` | pauses, limits, dates, codes, octets | none |
//! | `connect`, `link`, `client` | sockets and tasks | network |
//! | `testing` | an SMSC for tests | network |
//!
//! The PDUs that we send are built with `rusmpp`. Its client crate is not used: it speaks version 5.0 only, its queues have no
//! bounds, and it does not tell whether a submit had left when the connection ended.

mod backoff;
mod client;
mod connect;
mod ids;
mod incoming;
mod link;
mod outcome;
mod pdu;
mod rate;
mod receipt;
mod session;
pub mod settings;
mod status;
mod text;
mod times;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use client::{Handle, judge, start, start_seeded};
pub use ids::{Candidate, Tail};
pub use outcome::{Ack, Event, LATE, State, SubmitOutcome};
pub use receipt::{TextFields, text_fields};
pub use settings::{CAPABILITIES, Settings};
pub use status::{COMMAND_STATUS, MessageState, refusal};
