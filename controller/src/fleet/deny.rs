//! The deny list: revoked devices and certificates, in memory, so that a revoked one is turned away before it costs a query.
//!
//! It is a shortcut: the catalog, asked at each `Hello`, is the truth. What another controller has revoked comes with
//! [`DenyList::refresh`], which also tells whose live link has to end.

use std::sync::Arc;

use flotilla_protocol::id::DeviceId;
use parking_lot::RwLock;
use rustc_hash::FxHashSet;

use crate::ca::{DeviceIdentity, Serial};
use crate::sql_params;
use crate::store::{Catalog, ROWS_MAX, SqlError};

#[derive(Debug, Default)]
pub struct DenyList {
    lists: RwLock<Lists>,
}

#[derive(Debug, Default)]
struct Lists {
    devices: FxHashSet<DeviceId>,
    serials: FxHashSet<Serial>,
    /// When the newest revocation that was read took place, by the clock of whoever revoked.
    newest_ms: u64,
}

/// Clocks of controllers may differ by so much, and commits take their time: what is read again is known already.
const OVERLAP_MS: u64 = 600_000;

impl DenyList {
    /// What is revoked and could still connect.
    pub async fn load(catalog: &dyn Catalog, now_s: u64) -> Result<Arc<Self>, SqlError> {
        let list = Self::default();
        list.refresh(catalog, now_s).await?;
        Ok(Arc::new(list))
    }

    /// Reads what was revoked since the last look, wherever that was, and answers what is new.
    pub async fn refresh(&self, catalog: &dyn Catalog, now_s: u64) -> Result<Vec<(DeviceId, Serial)>, SqlError> {
        let since_ms = self.lists.read().newest_ms.saturating_sub(OVERLAP_MS);
        let limit = ROWS_MAX as u64;
        let rows = catalog
            .read(move |tx| {
                tx.query(
                    "SELECT serial, device, revoked_ms FROM certificates WHERE revoked_ms >= $1 AND not_after_s >= $2 \
                     ORDER BY revoked_ms LIMIT $3",
                    sql_params![since_ms, now_s, limit],
                )
            })
            .await?;
        let mut fresh = Vec::new();
        let mut lists = self.lists.write();
        for row in rows {
            lists.newest_ms = lists.newest_ms.max(row.get("revoked_ms")?);
            if let Ok(serial) = row.get::<String>("serial")?.parse()
                && lists.serials.insert(serial)
            {
                fresh.push((row.get("device")?, serial));
            }
        }
        Ok(fresh)
    }

    pub fn deny_device(&self, device: DeviceId) {
        self.lists.write().devices.insert(device);
    }

    pub fn deny_serial(&self, serial: Serial) {
        self.lists.write().serials.insert(serial);
    }

    pub fn holds(&self, identity: &DeviceIdentity) -> bool {
        let lists = self.lists.read();
        lists.devices.contains(&identity.device) || lists.serials.contains(&identity.serial)
    }
}
