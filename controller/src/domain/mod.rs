//! What the controller decides, as pure functions and machines: no clock, no randomness, no IO. Time is an argument.

pub mod event;
pub mod message;
pub mod record;
pub mod route;
pub mod shard;

/// The two clocks of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, Unix milliseconds: schedules and validity. It may jump; only what people see depends on it.
    pub unix_ms: u64,
    /// Milliseconds of a clock that only goes forward, from any origin: leases and back-off.
    pub mono_ms: u64,
}
