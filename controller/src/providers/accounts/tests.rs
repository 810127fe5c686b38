//! Accounts on real stores.
