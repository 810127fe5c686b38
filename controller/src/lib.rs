//! The Flotilla controller.
//!
//! `domain` decides and does no IO; `store` keeps; `shard` and `gateway` are the actors between them; `follow` turns the
//! journal into what people query; `api` and `cli` are the doors. `app` wires one node together.

pub mod api;
pub mod app;
pub mod bench;
pub mod ca;
pub mod cli;
pub mod clock;
pub mod command;
pub mod config;
pub mod domain;
pub mod fleet;
pub mod follow;
pub mod gateway;
pub mod net_guard;
pub mod peer;
pub mod providers;
pub mod secrets;
pub mod settings;
pub mod shard;
pub mod store;
pub mod telemetry;
pub mod webhooks;
