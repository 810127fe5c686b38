//! Faults on real Flotilla processes, and the checks that nothing was lost or sent twice.
//!
//! A scenario runs a controller and fleets as processes of their own, kills them without warning while clients send, and
//! keeps two histories that no fault can touch: what clients were promised (`promises`) and what radios were handed
//! (`radio_log`). `invariants` compares both with what the installation says afterwards.

pub mod client;
pub mod invariants;
pub mod process;
pub mod promises;
pub mod radio_log;
pub mod scenario;
