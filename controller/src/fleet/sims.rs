//! SIMs: found again by their ICCID within a tenant, wherever they are plugged in.
//!
//! A SIM whose ICCID cannot be read is known by its device and slot instead. `inventory` says what a device's list of cards
//! means, `settings` what people set about one.

mod inventory;
mod settings;

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_routing::Micros;
use flotilla_routing::limits::Invalid;

use super::audit::{self, By};
use super::{LIMIT_MAX, cut, routing};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx, Value};

pub use inventory::{HoldNewSims, Inventory, Plan, SIMS_MAX, SimChange, bounded};
pub(crate) use inventory::{apply, plan_inventory};
pub use settings::{SettingsChange, SimSettings};

pub const NAME_BYTES_MAX: usize = 64;

#[derive(Clone, PartialEq, Eq)]
pub struct Sim {
    pub id: SimId,
    pub tenant: TenantId,
    /// The ICCID, or `device:slot` of a SIM that does not tell it.
    pub iccid: String,
    pub imsi: Option<String>,
    pub msisdn: Option<String>,
    pub operator: String,
    pub plmn: Option<String>,
    /// The owner's.
    pub name: String,
    pub device: Option<DeviceId>,
    pub slot: Option<u8>,
    pub settings: SimSettings,
    /// It took another card's place, and sends nothing until a person confirms it.
    pub held: bool,
    pub balance: Option<Balance>,
    pub first_seen_ms: u64,
    pub last_seen_ms: u64,
}

/// What is left on a card, as somebody has told it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    pub amount: Micros,
    pub told_ms: u64,
}

/// Its numbers are personal and stay out.
impl std::fmt::Debug for Sim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sim")
            .field("id", &self.id)
            .field("device", &self.device)
            .field("slot", &self.slot)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum SimError {
    #[error("there is no such SIM")]
    NotFound,
    #[error("`name` has to be at most {NAME_BYTES_MAX} bytes without control characters")]
    Name,
    #[error(transparent)]
    Setting(#[from] Invalid),
    #[error("the catalog does not answer")]
    Sql(#[from] SqlError),
}

const COLUMNS: &str = "id, tenant, iccid, imsi, msisdn, operator, plmn, name, device, slot, settings, held, \
    balance_micros, balance_ms, first_seen_ms, last_seen_ms";

pub(crate) fn sim_of(row: &Row) -> Result<Sim, SqlError> {
    let balance = row.get::<Option<u64>>("balance_micros")?.zip(row.get::<Option<u64>>("balance_ms")?);
    Ok(Sim {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        iccid: row.get("iccid")?,
        imsi: row.get("imsi")?,
        msisdn: row.get("msisdn")?,
        operator: row.get("operator")?,
        plmn: row.get("plmn")?,
        name: row.get("name")?,
        device: row.get("device")?,
        slot: row.get("slot")?,
        settings: serde_json::from_str(&row.get::<String>("settings")?)
            .map_err(|_| SqlError::Type { column: "settings".into(), expected: "a SIM's settings as JSON" })?,
        held: row.get("held")?,
        balance: balance.map(|(micros, told_ms)| Balance { amount: Micros(micros), told_ms }),
        first_seen_ms: row.get("first_seen_ms")?,
        last_seen_ms: row.get("last_seen_ms")?,
    })
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SimFilter {
    pub device: Option<DeviceId>,
    /// Only SIMs after this one: the last of the page before.
    pub after: Option<SimId>,
    /// 1..=LIMIT_MAX.
    pub limit: u32,
}

#[derive(Clone)]
pub struct Sims {
    catalog: Arc<dyn Catalog>,
}

impl Sims {
    pub fn new(catalog: Arc<dyn Catalog>) -> Self {
        Self { catalog }
    }

    /// By id, so the longest known first.
    pub async fn list(&self, tenant: TenantId, filter: SimFilter) -> Result<Vec<Sim>, SimError> {
        let mut sql = format!("SELECT {COLUMNS} FROM sims WHERE tenant = $1");
        let mut params: Vec<Value> = vec![tenant.into()];
        if let Some(device) = filter.device {
            params.push(device.into());
            sql.push_str(&format!(" AND device = ${}", params.len()));
        }
        if let Some(after) = filter.after {
            params.push(after.into());
            sql.push_str(&format!(" AND id > ${}", params.len()));
        }
        params.push(filter.limit.clamp(1, LIMIT_MAX).into());
        sql.push_str(&format!(" ORDER BY id LIMIT ${}", params.len()));
        self.catalog.read(move |tx| Ok(tx.query(&sql, &params)?.iter().map(sim_of).collect::<Result<_, _>>()?)).await
    }

    pub async fn get(&self, tenant: TenantId, sim: SimId) -> Result<Sim, SimError> {
        self.catalog.read(move |tx| get(tx, tenant, sim)).await
    }

    /// The SIM with this number; the one that was seen last, should several claim it.
    pub async fn by_number(&self, tenant: TenantId, number: Msisdn) -> Result<Sim, SimError> {
        self.catalog
            .read(move |tx| {
                let sql = format!(
                    "SELECT {COLUMNS} FROM sims WHERE tenant = $1 AND msisdn = $2 ORDER BY last_seen_ms DESC LIMIT 1"
                );
                let row = tx.query_one(&sql, sql_params![tenant, number.to_string()])?.ok_or(SimError::NotFound)?;
                Ok(sim_of(&row)?)
            })
            .await
    }

    /// Changes what is named, and nothing when any of it is wrong. The second answer is the SIM as it was.
    pub async fn change(&self, tenant: TenantId, sim: SimId, change: Change, by: By) -> Result<(Sim, Sim), SimError> {
        if change.name.as_ref().is_some_and(|name| cut(name, NAME_BYTES_MAX) != *name) {
            return Err(SimError::Name);
        }
        self.catalog
            .run(move |tx| {
                let before = get(tx, tenant, sim)?;
                let mut after = before.clone();
                after.name = change.name.unwrap_or(after.name);
                if let Some(amount) = change.balance {
                    after.balance = amount.map(|amount| Balance { amount, told_ms: by.at_ms });
                }
                change.settings.apply(&mut after.settings);
                if after.settings != before.settings {
                    after.settings.check()?;
                    let changed = fields_of_change(&before.settings, &after.settings);
                    let detail = serde_json::json!({ "settings": changed }).to_string();
                    audit::write(tx, &audit::Act { detail, ..by.act(Some(tenant), "sim.change", sim) })?;
                }
                let amount = |sim: &Sim| sim.balance.map(|balance| balance.amount);
                if after.settings != before.settings || amount(&after) != amount(&before) {
                    routing::touch(tx, tenant)?;
                }
                write(tx, &after)?;
                Ok((after, before))
            })
            .await
    }

    /// Lets a held card send. True when it was held.
    pub async fn confirm(&self, tenant: TenantId, sim: SimId, by: By) -> Result<(Sim, bool), SimError> {
        self.catalog
            .run(move |tx| {
                let found = get(tx, tenant, sim)?;
                if !found.held {
                    return Ok((found, false));
                }
                tx.execute("UPDATE sims SET held = 0 WHERE id = $1", sql_params![sim])?;
                audit::write(tx, &by.act(Some(tenant), "sim.confirm", sim))?;
                routing::touch(tx, tenant)?;
                Ok((Sim { held: false, ..found }, true))
            })
            .await
    }
}

/// What to change about a SIM; `None` leaves it, `Some(None)` takes it away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub name: Option<String>,
    pub balance: Option<Option<Micros>>,
    pub settings: SettingsChange,
}

/// Names of the settings that differ, for the audit trail.
fn fields_of_change(before: &SimSettings, after: &SimSettings) -> Vec<String> {
    let fields = |settings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (before, after) = (fields(before), fields(after));
    let names: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != after.get(*name)).cloned().collect()
}

fn write(tx: &mut dyn Tx, sim: &Sim) -> Result<(), SqlError> {
    let settings = serde_json::to_string(&sim.settings)
        .map_err(|_| SqlError::Type { column: "settings".into(), expected: "JSON" })?;
    tx.execute(
        "UPDATE sims SET name = $1, settings = $2, balance_micros = $3, balance_ms = $4 WHERE id = $5",
        sql_params![
            sim.name.as_str(),
            settings,
            sim.balance.map(|balance| balance.amount.0),
            sim.balance.map(|balance| balance.told_ms),
            sim.id
        ],
    )
    .map(drop)
}

/// All of a tenant's that are in a device.
pub(crate) fn in_devices(tx: &mut dyn Tx, tenant: TenantId) -> Result<Vec<Sim>, SqlError> {
    let sql = format!("SELECT {COLUMNS} FROM sims WHERE tenant = $1 AND device IS NOT NULL");
    tx.query(&sql, sql_params![tenant])?.iter().map(sim_of).collect()
}

pub(crate) fn find(tx: &mut dyn Tx, tenant: TenantId, sim: SimId) -> Result<Option<Sim>, SqlError> {
    let sql = format!("SELECT {COLUMNS} FROM sims WHERE id = $1 AND tenant = $2");
    tx.query_one(&sql, sql_params![sim, tenant])?.map(|row| sim_of(&row)).transpose()
}

fn get(tx: &mut dyn Tx, tenant: TenantId, sim: SimId) -> Result<Sim, SimError> {
    find(tx, tenant, sim)?.ok_or(SimError::NotFound)
}
