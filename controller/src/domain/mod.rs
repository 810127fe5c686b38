//! What the controller decides, as pure functions and machines: no clock, no randomness, no IO. Time is an argument.

pub mod callback;
pub mod event;
pub mod facts;
pub mod message;
pub mod record;
pub mod shard;

pub use flotilla_routing::Now;
