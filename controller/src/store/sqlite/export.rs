//! What a copy needs of a store's files beyond what the traits give: every idempotency key.

use std::path::Path;

use flotilla_protocol::id::TenantId;
use rusqlite::Connection;

use super::rows::key::{KeyPlace, page};
use super::{connect, store_error};
use crate::store::StoreError;
use crate::store::rows::KeyUse;

/// Reads the used idempotency keys, a page at a time.
pub(in crate::store) struct Keys {
    connection: Connection,
    last: Option<KeyPlace>,
}

impl Keys {
    /// The folder is open already, by whoever copies it.
    pub(in crate::store) fn open(dir: &Path) -> Result<Self, StoreError> {
        Ok(Self { connection: connect(&dir.join("flotilla.db"), false).map_err(store_error)?, last: None })
    }

    /// Empty at the end.
    pub(in crate::store) fn next(&mut self, limit: usize) -> Result<Vec<(TenantId, [u8; 16], KeyUse)>, StoreError> {
        let found = page(&self.connection, self.last.as_ref(), limit).map_err(store_error)?;
        self.last = found.last().map(|(place, ..)| *place).or(self.last);
        Ok(found.into_iter().map(|((_, _, key), tenant, used)| (tenant, key, used)).collect())
    }
}
