//! The heart: one shard's messages from acceptance to their end, as a machine without IO.

mod io;
mod settings;

pub use io::{
    AcceptRequest, Acceptance, CancelOutcome, Effect, Input, KeyReused, KnownKey, Link, Order, Output, RequestKey,
    RouteSim, ShardStatus, Token,
};
pub use settings::{ATTEMPTS_MAX, SUBMISSIONS_MAX, ShardSettings};
