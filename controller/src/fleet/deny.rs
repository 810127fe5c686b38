//! The deny list: revoked devices and certificates, in memory, so that a revoked one is turned away before it costs a query.
//!
//! It is a shortcut: the catalog, asked at each `Hello`, is the truth. A revocation made by another controller is found there.

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
}

impl DenyList {
    /// What is revoked and could still connect; the newest, should there be more than one query can give.
    pub async fn load(catalog: &dyn Catalog, now_s: u64) -> Result<Arc<Self>, SqlError> {
        let limit = ROWS_MAX as u64;
        let rows = catalog
            .read(move |tx| {
                tx.query(
                    "SELECT serial FROM certificates WHERE revoked_ms IS NOT NULL AND not_after_s >= $1 \
                     ORDER BY not_after_s DESC LIMIT $2",
                    sql_params![now_s, limit],
                )
            })
            .await?;
        let list = Self::default();
        for row in rows {
            if let Ok(serial) = row.get::<String>("serial")?.parse() {
                list.deny_serial(serial);
            }
        }
        Ok(Arc::new(list))
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
