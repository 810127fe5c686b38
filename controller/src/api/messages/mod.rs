//! Messages: accepting, previewing, listing, cancelling.

pub mod request;
pub mod validate;
