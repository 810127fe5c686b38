//! Nodes against a controller of a few lines, over real QUIC.

mod fleet;
mod link;
mod selftest;
mod support;
