//! What online SMS providers and SMSCs speak.
//!
//! Each maker of an HTTP service is one file that implements [`Maker`] without IO: it writes requests, reads answers, reads
//! reports and checks their signatures. Who carries them over a network, retries, and knows which message a report is of, is
//! the controller. [`smpp`] is the exception: its sessions are long-lived, so it is a client with tasks of its own.
//!
//! | module | what |
//! |---|---|
//! | `maker` | the trait, and what goes through it |
//! | `account` | an account's settings: secrets, fields, base address; their check |
//! | `errors` | the makers' codes and what they mean, a file each |
//! | `http_call` | a request and an answer, as values |
//! | `makers` | the makers of HTTP services, and what they share |

pub mod account;
pub mod errors;
pub mod http_call;
pub mod maker;
pub mod makers;
pub mod smpp;

pub use account::{Account, FieldError};
pub use http_call::{Answer, Call, Callback};
pub use maker::{
    Balance, CallbackError, CallbackReply, Capabilities, Inbound, Judged, Maker, Outgoing, Receipt, ReceiptState,
    Refusal, Submitted,
};
