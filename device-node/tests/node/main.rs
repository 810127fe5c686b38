//! Nodes against a controller of a few lines, over real QUIC and TCP.

mod fallback;
mod fleet;
mod link;
mod selftest;
mod support;
