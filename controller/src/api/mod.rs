//! The HTTP API.

pub mod json;
pub mod messages;
pub mod problem;
