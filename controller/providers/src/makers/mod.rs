//! The makers: one file each, and the list of them.
//!
//! A maker writes requests and reads answers without IO, so that each can be tested byte for byte. What several of them need
//! (forms, Basic, signatures, bounded JSON, what an HTTP status means) is in [`kit`].

pub(crate) mod kit;

use crate::maker::Maker;

/// Every maker of an HTTP service, by name.
static ALL: &[&dyn Maker] = &[];

/// All makers of HTTP services. SMPP is not among them: it is a session, not requests.
pub fn all() -> &'static [&'static dyn Maker] {
    ALL
}

/// The maker whose `Capabilities::name` that is.
pub fn by_name(name: &str) -> Option<&'static dyn Maker> {
    ALL.iter().copied().find(|maker| maker.capabilities().name == name)
}
