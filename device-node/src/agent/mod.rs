//! One device: its machine, and the task that drives it between link, outbox and radio.

pub mod lease;
pub mod machine;
