//! The agent beside the radios: link to the controllers, durable outbox, radios.
//!
//! A library without a command line's assumptions and without global state: the phone app runs it through JNI, the
//! simulator runs ten thousand of it in one process.

pub mod agent;
pub mod clock;
pub mod outbox;
pub mod radio;
