//! Faults on real Flotilla processes, and the checks that nothing was lost or sent twice.
//!
//! A scenario runs a controller and fleets as processes of their own, kills them without warning while clients send, and
//! keeps two histories that no fault can touch: what clients were promised (`promises`) and what radios were handed
//! (`radio_log`) and providers have taken (`provider_server`). `invariants` compares both with what the installation says afterwards. `scenario` does so with a single
//! controller, `cluster` with three of them, etcd and PostgreSQL; `routing` with SIMs of mixed health and providers that misbehave.
//!
//! Beside it, `sim` runs a whole cluster in one thread and virtual time.

pub mod client;
pub mod cluster;
mod fleet;
pub mod invariants;
pub mod process;
pub mod promises;
pub mod provider_server;
pub mod radio_log;
pub mod routing;
pub mod scenario;
pub mod sim;
pub mod speed;
