//! What tests of provider accounts share: a maker of their own, and a service that plays it and can misbehave.

pub(crate) mod maker;
pub(crate) mod service;
