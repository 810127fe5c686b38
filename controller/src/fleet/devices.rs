//! Enrolled gateways: list, rename, label, drain, revoke.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::wire::DeviceInfo;
use flotilla_routing::limits::{Invalid, check_limits};
use flotilla_routing::settings::Limits;
use serde::{Deserialize, Serialize};

use super::audit::{self, Act};
use super::deny::DenyList;
use super::{LIMIT_MAX, cut, routing};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx, Value};

pub const NAME_BYTES_MAX: usize = 64;
const INFO_BYTES_MAX: usize = 64;
pub const LABELS_MAX: usize = 32;
pub const LABEL_BYTES_MAX: usize = 64;

/// What its owner wants of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceState {
    Active,
    /// Finishes what it has, gets nothing new.
    Draining,
    /// Never again; final.
    Revoked,
}

impl DeviceState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Revoked => "revoked",
        }
    }

    pub(crate) fn from_row(row: &Row, column: &str) -> Result<Self, SqlError> {
        match row.get::<String>(column)?.as_str() {
            "active" => Ok(Self::Active),
            "draining" => Ok(Self::Draining),
            "revoked" => Ok(Self::Revoked),
            _ => Err(SqlError::Type { column: column.to_owned(), expected: "a device state" }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub id: DeviceId,
    pub tenant: TenantId,
    pub name: String,
    pub model: String,
    pub os: String,
    pub software: String,
    pub labels: BTreeMap<String, String>,
    /// Shared by all its SIMs.
    pub limits: Limits,
    pub state: DeviceState,
    pub recoveries: u32,
    pub enrolled_ms: u64,
    /// Written now and then; the gateway knows better while the device is connected.
    pub last_seen_ms: Option<u64>,
}

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("there is no such device")]
    NotFound,
    #[error("the device is revoked, which is final: enrol it again")]
    Revoked,
    #[error("`name` has to be 1 to {NAME_BYTES_MAX} bytes without control characters")]
    Name,
    #[error("`labels` are at most {LABELS_MAX} pairs of texts of at most {LABEL_BYTES_MAX} bytes")]
    Labels,
    #[error(transparent)]
    Limits(#[from] Invalid),
    #[error("the catalog does not answer")]
    Sql(#[from] SqlError),
}

/// What to change; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct DevicePatch {
    pub name: Option<String>,
    pub labels: Option<BTreeMap<String, String>>,
    /// `Some(None)` takes them away.
    pub limits: Option<Option<Limits>>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceFilter {
    pub state: Option<DeviceState>,
    /// Only devices after this one: the last of the page before.
    pub after: Option<DeviceId>,
    /// 1..=LIMIT_MAX.
    pub limit: u32,
}

#[derive(Clone)]
pub struct Devices {
    catalog: Arc<dyn Catalog>,
    deny: Arc<DenyList>,
}

const COLUMNS: &str =
    "id, tenant, name, model, os, software, labels, limits, state, recoveries, enrolled_ms, last_seen_ms";

impl Devices {
    pub fn new(catalog: Arc<dyn Catalog>, deny: Arc<DenyList>) -> Self {
        Self { catalog, deny }
    }

    /// By id, so oldest first.
    pub async fn list(&self, tenant: TenantId, filter: DeviceFilter) -> Result<Vec<Device>, DeviceError> {
        let mut sql = format!("SELECT {COLUMNS} FROM devices WHERE tenant = $1");
        let mut params: Vec<Value> = vec![tenant.into()];
        if let Some(state) = filter.state {
            params.push(state.as_str().into());
            sql.push_str(&format!(" AND state = ${}", params.len()));
        }
        if let Some(after) = filter.after {
            params.push(after.into());
            sql.push_str(&format!(" AND id > ${}", params.len()));
        }
        params.push(filter.limit.clamp(1, LIMIT_MAX).into());
        sql.push_str(&format!(" ORDER BY id LIMIT ${}", params.len()));
        self.catalog.read(move |tx| tx.query(&sql, &params)?.iter().map(device_of).collect()).await
    }

    pub async fn get(&self, tenant: TenantId, device: DeviceId) -> Result<Device, DeviceError> {
        self.catalog.read(move |tx| get(tx, tenant, device)).await
    }

    pub async fn patch(&self, tenant: TenantId, device: DeviceId, patch: DevicePatch) -> Result<Device, DeviceError> {
        if patch.name.as_ref().is_some_and(|name| name.is_empty() || cut(name, NAME_BYTES_MAX) != *name) {
            return Err(DeviceError::Name);
        }
        if patch.labels.as_ref().is_some_and(|labels| !labels_fit(labels)) {
            return Err(DeviceError::Labels);
        }
        let limits = patch.limits.map(Option::unwrap_or_default);
        limits.iter().try_for_each(|limits| check_limits("limits", limits))?;
        let limits = limits.map(|limits| serde_json::json!(limits).to_string());
        let labels = patch.labels.map(|labels| serde_json::json!(labels).to_string());
        self.catalog
            .run(move |tx| {
                tx.execute(
                    "UPDATE devices SET name = COALESCE($1, name), labels = COALESCE($2, labels), \
                     limits = COALESCE($3, limits) WHERE id = $4 AND tenant = $5",
                    sql_params![patch.name, labels, limits.clone(), device, tenant],
                )?;
                if limits.is_some() {
                    routing::touch(tx, tenant)?;
                }
                get(tx, tenant, device)
            })
            .await
    }

    /// Drain or resume. Resuming also gives a device its recoveries back. The gateway has to be told by the caller.
    pub async fn set_draining(
        &self,
        tenant: TenantId,
        device: DeviceId,
        draining: bool,
        actor: String,
        now_ms: u64,
    ) -> Result<Device, DeviceError> {
        let state = if draining { DeviceState::Draining } else { DeviceState::Active };
        self.catalog
            .run(move |tx| {
                let found = get(tx, tenant, device)?;
                if found.state == DeviceState::Revoked {
                    return Err(DeviceError::Revoked);
                }
                let recoveries = if draining { found.recoveries } else { 0 };
                tx.execute(
                    "UPDATE devices SET state = $1, recoveries = $2 WHERE id = $3",
                    sql_params![state.as_str(), recoveries, device],
                )?;
                let action = if draining { "device.drain" } else { "device.resume" };
                write_audit(tx, tenant, device, actor, action, now_ms)?;
                Ok(Device { state, recoveries, ..found })
            })
            .await
    }

    /// Final. All its certificates are void from here on; the caller closes its session.
    pub async fn revoke(
        &self,
        tenant: TenantId,
        device: DeviceId,
        actor: String,
        now_ms: u64,
    ) -> Result<Device, DeviceError> {
        let revoked = self
            .catalog
            .run(move |tx| {
                let found = get(tx, tenant, device)?;
                tx.execute("UPDATE devices SET state = 'revoked' WHERE id = $1", sql_params![device])?;
                tx.execute(
                    "UPDATE certificates SET revoked_ms = $1 WHERE device = $2 AND revoked_ms IS NULL",
                    sql_params![now_ms, device],
                )?;
                tx.execute("UPDATE sims SET device = NULL, slot = NULL WHERE device = $1", sql_params![device])?;
                write_audit(tx, tenant, device, actor, "device.revoke", now_ms)?;
                Ok::<_, DeviceError>(Device { state: DeviceState::Revoked, ..found })
            })
            .await?;
        self.deny.deny_device(device);
        Ok(revoked)
    }

    /// Many at once, seldom: when each was heard of last.
    pub async fn touch(&self, seen: Vec<(DeviceId, u64)>) -> Result<(), SqlError> {
        for part in seen.chunks(1000).map(<[_]>::to_vec) {
            self.catalog
                .run(move |tx| {
                    for (device, at_ms) in part {
                        tx.execute("UPDATE devices SET last_seen_ms = $1 WHERE id = $2", sql_params![at_ms, device])?;
                    }
                    Ok::<_, SqlError>(())
                })
                .await?;
        }
        Ok(())
    }
}

fn get(tx: &mut dyn Tx, tenant: TenantId, device: DeviceId) -> Result<Device, DeviceError> {
    let sql = format!("SELECT {COLUMNS} FROM devices WHERE id = $1 AND tenant = $2");
    let row = tx.query_one(&sql, sql_params![device, tenant])?.ok_or(DeviceError::NotFound)?;
    device_of(&row)
}

fn device_of(row: &Row) -> Result<Device, DeviceError> {
    Ok(Device {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        name: row.get("name")?,
        model: row.get("model")?,
        os: row.get("os")?,
        software: row.get("software")?,
        labels: serde_json::from_str(&row.get::<String>("labels")?)
            .map_err(|_| SqlError::Type { column: "labels".into(), expected: "a JSON object of texts" })?,
        limits: serde_json::from_str(&row.get::<String>("limits")?)
            .map_err(|_| SqlError::Type { column: "limits".into(), expected: "limits as JSON" })?,
        state: DeviceState::from_row(row, "state")?,
        recoveries: row.get("recoveries")?,
        enrolled_ms: row.get("enrolled_ms")?,
        last_seen_ms: row.get("last_seen_ms")?,
    })
}

fn write_audit(
    tx: &mut dyn Tx,
    tenant: TenantId,
    device: DeviceId,
    actor: String,
    action: &'static str,
    at_ms: u64,
) -> Result<(), SqlError> {
    let detail = serde_json::json!({}).to_string();
    audit::write(tx, &Act { at_ms, tenant: Some(tenant), actor, action, subject: device.to_string(), detail })
}

fn labels_fit(labels: &BTreeMap<String, String>) -> bool {
    let fits = |text: &String| cut(text, LABEL_BYTES_MAX) == *text;
    labels.len() <= LABELS_MAX && labels.iter().all(|(name, value)| !name.is_empty() && fits(name) && fits(value))
}

pub(crate) struct NewDevice<'a> {
    pub id: DeviceId,
    pub tenant: TenantId,
    /// What the owner has chosen; empty for the device's own word.
    pub name: &'a str,
    pub info: &'a DeviceInfo,
    pub key_hash: [u8; 32],
    pub enrolled_ms: u64,
}

pub(crate) fn insert(tx: &mut dyn Tx, new: &NewDevice<'_>) -> Result<(), SqlError> {
    let info = bounded(new.info);
    let name = [new.name, &info.name, &info.model, "device"].into_iter().find(|name| !name.is_empty());
    tx.execute(
        "INSERT INTO devices (id, tenant, name, model, os, software, key_hash, enrolled_ms) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        sql_params![
            new.id,
            new.tenant,
            name.unwrap_or_default(),
            info.model.as_str(),
            info.os.as_str(),
            info.software.as_str(),
            new.key_hash,
            new.enrolled_ms
        ],
    )?;
    Ok(())
}

/// What a device says of itself, cut to what is kept.
pub fn bounded(info: &DeviceInfo) -> DeviceInfo {
    DeviceInfo {
        name: cut(&info.name, NAME_BYTES_MAX),
        model: cut(&info.model, INFO_BYTES_MAX),
        os: cut(&info.os, INFO_BYTES_MAX),
        software: cut(&info.software, INFO_BYTES_MAX),
    }
}

/// True when the stored description differs. The name is its owner's and stays.
pub(crate) fn info_differs(tx: &mut dyn Tx, device: DeviceId, info: &DeviceInfo) -> Result<bool, SqlError> {
    let row = tx.query_one("SELECT model, os, software FROM devices WHERE id = $1", sql_params![device])?;
    let Some(row) = row else { return Ok(false) };
    Ok(row.get::<String>("model")? != info.model
        || row.get::<String>("os")? != info.os
        || row.get::<String>("software")? != info.software)
}

pub(crate) fn set_info(tx: &mut dyn Tx, device: DeviceId, info: &DeviceInfo) -> Result<(), SqlError> {
    tx.execute(
        "UPDATE devices SET model = $1, os = $2, software = $3 WHERE id = $4",
        sql_params![info.model.as_str(), info.os.as_str(), info.software.as_str(), device],
    )?;
    Ok(())
}
