//! The machine in a rig: a store that is the fold of its journal, and devices that the test moves by hand.

mod failover;
mod model;
mod residency;
mod rig;
mod rules;
