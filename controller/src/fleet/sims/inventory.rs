//! What the inventory of a device means: which cards are known, which have moved, and which took another one's place.
//!
//! What has changed is decided from the rows and the inventory alone ([`plan`]), so that a device that reconnects unchanged
//! costs no write.

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::wire::{SimInfo, SimState};
use serde::{Deserialize, Serialize};

use super::super::cut;
use super::{COLUMNS, Sim, SimSettings, sim_of};
use crate::sql_params;
use crate::store::{SqlError, Tx, Value};

/// SIMs of one device; what it lists beyond is not looked at.
pub const SIMS_MAX: usize = 64;
const OPERATOR_BYTES_MAX: usize = 48;
/// Being seen is written down at most this often.
const SEEN_EVERY_MS: u64 = 3_600_000;

/// Which new cards send nothing until a person has confirmed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldNewSims {
    /// Those in a slot where another card was. The first card of a slot is let through.
    #[default]
    Changed,
    Never,
}

/// What happened to a SIM, for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SimChange {
    New,
    /// A new card is where another one was.
    Replaced {
        former: SimId,
        held: bool,
    },
    /// It was in another slot or device.
    Moved,
    /// Number, subscription or operator differ.
    Changed,
    /// It was in this device and is not any more.
    Removed,
    /// A person has let a held one go.
    Confirmed,
}

impl SimChange {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Replaced { .. } => "replaced",
            Self::Moved => "moved",
            Self::Changed => "changed",
            Self::Removed => "removed",
            Self::Confirmed => "confirmed",
        }
    }
}

/// What to write and to tell after an inventory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By slot, for `Welcome`.
    pub ids: Vec<(u8, SimId)>,
    pub changes: Vec<(SimId, SimChange)>,
    /// The SIMs of `ids` as they are afterwards.
    pub present: Vec<Sim>,
    writes: Vec<Sim>,
    inserts: Vec<Sim>,
    /// Slots whose last card is another one now.
    slots: Vec<(u8, SimId)>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.inserts.is_empty() && self.slots.is_empty()
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

/// Whose inventory, and how it is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Inventory {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub hold: HoldNewSims,
    pub now_ms: u64,
}

/// Compares what [`rows_for`] has found with what the device has; `fresh` makes ids. `former` are the last cards of its slots.
fn plan(
    of: Inventory,
    rows: &[Sim],
    former: &[(u8, SimId)],
    seen: &[SimInfo],
    mut fresh: impl FnMut() -> SimId,
) -> Plan {
    let Inventory { device, now_ms, .. } = of;
    let mut plan = Plan::default();
    for info in seen {
        let iccid = identity(device, info);
        // A device may claim one card in two slots; the first counts.
        let known =
            rows.iter().find(|row| row.iccid == iccid).filter(|row| !plan.ids.iter().any(|(_, id)| *id == row.id));
        let sim = match known {
            None if plan.inserts.iter().any(|new| new.iccid == iccid) || rows.iter().any(|row| row.iccid == iccid) => {
                continue;
            }
            None => {
                // A card that does not tell its number may be any, also the one that was there.
                let before = former.iter().find(|(slot, _)| *slot == info.slot && info.iccid.is_some());
                let held = before.is_some() && of.hold == HoldNewSims::Changed;
                let sim = now(of, info, Sim { held, ..blank(of, fresh(), iccid) });
                let change = before.map_or(SimChange::New, |(_, former)| SimChange::Replaced { former: *former, held });
                plan.changes.push((sim.id, change));
                plan.inserts.push(sim.clone());
                sim
            }
            Some(row) => {
                let sim = now(of, info, row.clone());
                let change = change_of(row, &sim);
                plan.changes.extend(change.map(|change| (row.id, change)));
                if change.is_some() || now_ms.saturating_sub(row.last_seen_ms) >= SEEN_EVERY_MS {
                    plan.writes.push(sim.clone());
                }
                sim
            }
        };
        if info.iccid.is_some() && !former.contains(&(info.slot, sim.id)) {
            plan.slots.push((info.slot, sim.id));
        }
        plan.ids.push((info.slot, sim.id));
        plan.present.push(sim);
    }
    let gone = rows.iter().filter(|row| row.device == Some(device) && !plan.ids.iter().any(|(_, id)| *id == row.id));
    for row in gone {
        plan.changes.push((row.id, SimChange::Removed));
        plan.writes.push(Sim { device: None, slot: None, ..row.clone() });
    }
    plan
}

/// A card that nobody has seen before.
fn blank(of: Inventory, id: SimId, iccid: String) -> Sim {
    Sim {
        id,
        tenant: of.tenant,
        iccid,
        imsi: None,
        msisdn: None,
        operator: String::new(),
        plmn: None,
        name: String::new(),
        device: None,
        slot: None,
        settings: SimSettings::default(),
        held: false,
        balance: None,
        first_seen_ms: of.now_ms,
        last_seen_ms: of.now_ms,
    }
}

/// The card as the device sees it now.
fn now(of: Inventory, info: &SimInfo, sim: Sim) -> Sim {
    Sim {
        imsi: info.imsi.map(|imsi| imsi.to_string()),
        msisdn: info.msisdn.map(|msisdn| msisdn.to_string()),
        operator: info.operator.clone(),
        plmn: info.home.map(|plmn| plmn.to_string()),
        device: Some(of.device),
        slot: Some(info.slot),
        last_seen_ms: of.now_ms,
        ..sim
    }
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
pub(crate) fn plan_inventory(tx: &mut dyn Tx, of: Inventory, seen: &[SimInfo]) -> Result<Plan, SqlError> {
    let rows = rows_for(tx, of, seen)?;
    let former = tx.query("SELECT slot, sim FROM sim_slots WHERE device = $1", sql_params![of.device])?;
    let former =
        former.iter().map(|row| Ok((row.get("slot")?, row.get("sim")?))).collect::<Result<Vec<_>, SqlError>>()?;
    Ok(plan(of, &rows, &former, seen, || SimId::new(of.now_ms, rand::random())))
}

/// The device's present rows, and those of the same cards elsewhere.
fn rows_for(tx: &mut dyn Tx, of: Inventory, seen: &[SimInfo]) -> Result<Vec<Sim>, SqlError> {
    let mut sql = format!("SELECT {COLUMNS} FROM sims WHERE tenant = $1 AND (device = $2");
    let mut params: Vec<Value> = vec![of.tenant.into(), of.device.into()];
    for info in seen {
        params.push(identity(of.device, info).into());
        sql.push_str(&format!(" OR iccid = ${}", params.len()));
    }
    sql.push(')');
    tx.query(&sql, &params)?.iter().map(sim_of).collect()
}

pub(crate) fn apply(tx: &mut dyn Tx, device: DeviceId, plan: &Plan) -> Result<(), SqlError> {
    for sim in &plan.inserts {
        tx.execute(
            "INSERT INTO sims (id, tenant, iccid, imsi, msisdn, operator, plmn, device, slot, held, first_seen_ms, \
             last_seen_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
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
                sim.held,
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
    for (slot, sim) in &plan.slots {
        tx.execute(
            "INSERT INTO sim_slots (device, slot, sim) VALUES ($1, $2, $3) \
             ON CONFLICT (device, slot) DO UPDATE SET sim = excluded.sim",
            sql_params![device, *slot, *sim],
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
