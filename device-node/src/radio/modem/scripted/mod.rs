//! A modem made of a script: test support, and `flotilla-node scripted-modem` for trying a node without hardware.
//!
//! [`Machine`] is the modem with its SIM and its network: bytes and time in, bytes out. [`Scripted`] puts it on a stream;
//! [`pty`] on a pseudo-terminal, where a node finds it as it would find a real one.

mod commands;
mod console;
mod machine;
mod play;
mod profile;
pub mod pty;

#[cfg(test)]
pub(super) use console::deliveries;
pub use console::{ConsoleError, ConsoleOptions, run_console};
pub use machine::{Fault, Log, Machine};
pub use play::Scripted;
pub use profile::{Profile, UssdManner};
