//! The agent beside the radios: link to the controllers, durable outbox, radios.
//!
//! A library without a command line's assumptions and without global state: the phone app runs it through JNI, the
//! simulator runs ten thousand of it in one process. Only `app`, `cli` and `telemetry` belong to the program.

pub mod agent;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod enroll;
pub mod fleet;
pub mod identity;
pub mod link;
pub mod netwatch;
pub mod outbox;
pub mod radio;
pub mod selftest;
pub mod status;
pub mod telemetry;
