//! SIMs: found again by their ICCID within a tenant, wherever they are plugged in.
//!
//! A SIM whose ICCID cannot be read is known by its device and slot instead. What has changed is decided from the rows and
//! the inventory alone ([`plan`]), so that a device that reconnects unchanged costs no write.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{SimInfo, SimState};

use super::{LIMIT_MAX, cut};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx, Value};

/// SIMs of one device; what it lists beyond is not looked at.
pub const SIMS_MAX: usize = 64;
pub const NAME_BYTES_MAX: usize = 64;
const OPERATOR_BYTES_MAX: usize = 48;
/// Being seen is written down at most this often.
const SEEN_EVERY_MS: u64 = 3_600_000;

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
    pub first_seen_ms: u64,
    pub last_seen_ms: u64,
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
    #[error("the catalog does not answer")]
    Sql(#[from] SqlError),
}

/// What happened to a SIM, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimChange {
    New,
    /// It was in another slot or device.
    Moved,
    /// Number, subscription or operator differ.
    Changed,
    /// It was in this device and is not any more.
    Removed,
}

impl SimChange {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Moved => "moved",
            Self::Changed => "changed",
            Self::Removed => "removed",
        }
    }
}

/// What to write and to tell after an inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By slot, for `Welcome`.
    pub ids: Vec<(u8, SimId)>,
    pub changes: Vec<(SimId, SimChange)>,
    writes: Vec<Sim>,
    inserts: Vec<Sim>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.inserts.is_empty()
    }
}

/// The first of each slot, at most [`SIMS_MAX`], without the slots that hold no card.
pub fn bounded(sims: &[SimInfo]) -> Vec<SimInfo> {
    let mut kept: Vec<SimInfo> = Vec::new();
    for sim in sims.iter().take(SIMS_MAX) {
        let empty = sim.iccid.is_none() && sim.state == SimState::Absent;
        if !empty && kept.iter().all(|other| other.slot != sim.slot) {
            kept.push(SimInfo { operator: cut(&sim.operator, OPERATOR_BYTES_MAX), ..sim.clone() });
        }
    }
    kept
}

fn identity(device: DeviceId, sim: &SimInfo) -> String {
    sim.iccid.map_or_else(|| format!("{device}:{}", sim.slot), |iccid| iccid.to_string())
}

/// Compares the rows that [`rows_for`] has found with what the device has; `fresh` makes ids.
fn plan(
    tenant: TenantId,
    device: DeviceId,
    rows: &[Sim],
    seen: &[SimInfo],
    now_ms: u64,
    mut fresh: impl FnMut() -> SimId,
) -> Plan {
    let mut plan = Plan::default();
    for info in seen {
        let iccid = identity(device, info);
        // A device may claim one card in two slots; the first counts.
        let known =
            rows.iter().find(|row| row.iccid == iccid).filter(|row| !plan.ids.iter().any(|(_, id)| *id == row.id));
        let now = |id: SimId, name: String, first_seen_ms: u64| Sim {
            id,
            tenant,
            iccid: iccid.clone(),
            imsi: info.imsi.map(|imsi| imsi.to_string()),
            msisdn: info.msisdn.map(|msisdn| msisdn.to_string()),
            operator: info.operator.clone(),
            plmn: info.home.map(|plmn| plmn.to_string()),
            name,
            device: Some(device),
            slot: Some(info.slot),
            first_seen_ms,
            last_seen_ms: now_ms,
        };
        match known {
            None if plan.inserts.iter().any(|new| new.iccid == iccid) || rows.iter().any(|row| row.iccid == iccid) => {}
            None => {
                let sim = now(fresh(), String::new(), now_ms);
                plan.ids.push((info.slot, sim.id));
                plan.changes.push((sim.id, SimChange::New));
                plan.inserts.push(sim);
            }
            Some(row) => {
                let sim = now(row.id, row.name.clone(), row.first_seen_ms);
                plan.ids.push((info.slot, row.id));
                let change = change_of(row, &sim);
                plan.changes.extend(change.map(|change| (row.id, change)));
                if change.is_some() || now_ms.saturating_sub(row.last_seen_ms) >= SEEN_EVERY_MS {
                    plan.writes.push(sim);
                }
            }
        }
    }
    let gone = rows.iter().filter(|row| row.device == Some(device) && !plan.ids.iter().any(|(_, id)| *id == row.id));
    for row in gone {
        plan.changes.push((row.id, SimChange::Removed));
        plan.writes.push(Sim { device: None, slot: None, ..row.clone() });
    }
    plan
}

fn change_of(row: &Sim, sim: &Sim) -> Option<SimChange> {
    if (row.device, row.slot) != (sim.device, sim.slot) {
        Some(SimChange::Moved)
    } else if (&row.imsi, &row.msisdn, &row.operator, &row.plmn) != (&sim.imsi, &sim.msisdn, &sim.operator, &sim.plmn) {
        Some(SimChange::Changed)
    } else {
        None
    }
}

/// What the inventory of a device means. Reads only; [`apply`] has to follow unless the plan is empty.
pub(crate) fn plan_inventory(
    tx: &mut dyn Tx,
    tenant: TenantId,
    device: DeviceId,
    seen: &[SimInfo],
    now_ms: u64,
) -> Result<Plan, SqlError> {
    let rows = rows_for(tx, tenant, device, seen)?;
    Ok(plan(tenant, device, &rows, seen, now_ms, || SimId::new(now_ms, rand::random())))
}

/// The device's present rows, and those of the same cards elsewhere.
fn rows_for(tx: &mut dyn Tx, tenant: TenantId, device: DeviceId, seen: &[SimInfo]) -> Result<Vec<Sim>, SqlError> {
    let mut sql = format!("SELECT {COLUMNS} FROM sims WHERE tenant = $1 AND (device = $2");
    let mut params: Vec<Value> = vec![tenant.into(), device.into()];
    for info in seen {
        params.push(identity(device, info).into());
        sql.push_str(&format!(" OR iccid = ${}", params.len()));
    }
    sql.push(')');
    tx.query(&sql, &params)?.iter().map(sim_of).collect()
}

pub(crate) fn apply(tx: &mut dyn Tx, plan: &Plan) -> Result<(), SqlError> {
    for sim in &plan.inserts {
        tx.execute(
            "INSERT INTO sims (id, tenant, iccid, imsi, msisdn, operator, plmn, device, slot, first_seen_ms, last_seen_ms) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
            sql_params![
                sim.id,
                sim.tenant,
                sim.iccid.as_str(),
                sim.imsi.clone(),
                sim.msisdn.clone(),
                sim.operator.as_str(),
                sim.plmn.clone(),
                sim.device,
                sim.slot,
                sim.first_seen_ms,
                sim.last_seen_ms
            ],
        )?;
    }
    for sim in &plan.writes {
        tx.execute(
            "UPDATE sims SET imsi = $1, msisdn = $2, operator = $3, plmn = $4, device = $5, slot = $6, last_seen_ms = $7 \
             WHERE id = $8",
            sql_params![
                sim.imsi.clone(),
                sim.msisdn.clone(),
                sim.operator.as_str(),
                sim.plmn.clone(),
                sim.device,
                sim.slot,
                sim.last_seen_ms,
                sim.id
            ],
        )?;
    }
    Ok(())
}

const COLUMNS: &str =
    "id, tenant, iccid, imsi, msisdn, operator, plmn, name, device, slot, first_seen_ms, last_seen_ms";

fn sim_of(row: &Row) -> Result<Sim, SqlError> {
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

    pub async fn rename(&self, tenant: TenantId, sim: SimId, name: String) -> Result<Sim, SimError> {
        if cut(&name, NAME_BYTES_MAX) != name {
            return Err(SimError::Name);
        }
        self.catalog
            .run(move |tx| {
                tx.execute(
                    "UPDATE sims SET name = $1 WHERE id = $2 AND tenant = $3",
                    sql_params![name.as_str(), sim, tenant],
                )?;
                get(tx, tenant, sim)
            })
            .await
    }
}

fn get(tx: &mut dyn Tx, tenant: TenantId, sim: SimId) -> Result<Sim, SimError> {
    let sql = format!("SELECT {COLUMNS} FROM sims WHERE id = $1 AND tenant = $2");
    let row = tx.query_one(&sql, sql_params![sim, tenant])?.ok_or(SimError::NotFound)?;
    Ok(sim_of(&row)?)
}

#[cfg(test)]
mod tests;
