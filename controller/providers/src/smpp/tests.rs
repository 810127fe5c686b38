//! The client against the test SMSC over real sockets.

mod receiving;
mod sending;
mod sessions;
mod support;
