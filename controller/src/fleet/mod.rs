//! The fleet's records: typed functions over the catalog, one module for each kind of thing.

pub mod audit;
pub mod keys;
pub mod tenants;
