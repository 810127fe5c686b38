//! What one SIM may do: its own settings over those of its tenant over what is known of its carrier and its device. Pure,
//! but for the two queries that find what it is put together from.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::number::Plmn;
use flotilla_routing::presets::{self, Platform};
use flotilla_routing::route::Route;
use flotilla_routing::settings::{Limits, RouteSettings, TenantRouting};
use flotilla_routing::table::KnownRoute;
use rustc_hash::FxHashMap;

use super::settings_of;
use crate::fleet::sims::{self, Sim};
use crate::sql_params;
use crate::store::{Row, SqlError, Tx};

const WEIGHT_DEFAULT: u8 = 100;

/// What a device is, by what it says of itself.
fn platform_of(model: &str, os: &str) -> Platform {
    let android = os.get(..7).is_some_and(|begin| begin.eq_ignore_ascii_case("android"));
    match () {
        () if android => Platform::Phone,
        () if model == "simulated" => Platform::Simulated,
        () => Platform::Modem,
    }
}

/// What counts for all SIMs of a device.
#[derive(Clone, Debug, PartialEq)]
pub struct Surroundings {
    pub platform: Platform,
    pub device_limits: Limits,
    /// The tenant's.
    pub sim_limits: Limits,
    pub timezone: Box<str>,
    /// The number of the change that this is as new as; see [`super::changes_after`].
    pub number: u64,
}

impl Surroundings {
    /// Of a device that nobody has described: nothing is known but what its SIMs have themselves.
    fn unknown() -> Self {
        Self {
            platform: Platform::Modem,
            device_limits: Limits::default(),
            sim_limits: Limits::default(),
            timezone: "".into(),
            number: 0,
        }
    }

    fn at(self, number: u64) -> Self {
        Self { number, ..self }
    }
}

pub fn resolve(sim: &Sim, around: &Surroundings) -> RouteSettings {
    let own = &sim.settings;
    let network = sim.plmn.as_deref().and_then(|plmn| Plmn::parse(plmn).ok());
    RouteSettings {
        limits: presets::resolve(around.platform, own.carrier_limits(network), &around.sim_limits, &own.limits),
        device_limits: around.device_limits.clone(),
        windows: own.windows.clone(),
        timezone: own.timezone.clone().unwrap_or_else(|| around.timezone.clone()),
        warm_up: own.warm_up.clone(),
        price: own.price.clone(),
        network,
        pools: own.pools.iter().cloned().collect(),
        countries: own.countries.clone(),
        own_prefixes: own.own_prefixes.clone(),
        sender: None,
        unicode: true,
        held: sim.held,
        weight: own.weight.unwrap_or(WEIGHT_DEFAULT),
        balance: sim.balance.map(|balance| balance.amount),
        low_balance: own.low_balance,
    }
}

/// What counts for a device's SIMs.
pub(crate) fn of_device(tx: &mut dyn Tx, device: DeviceId) -> Result<Surroundings, SqlError> {
    let sql = "SELECT d.model, d.os, d.limits, r.settings, c.number FROM devices d \
        LEFT JOIN tenant_routing r ON r.tenant = d.tenant LEFT JOIN routing_changes c ON c.tenant = d.tenant WHERE d.id = $1";
    let Some(row) = tx.query_one(sql, sql_params![device])? else { return Ok(Surroundings::unknown()) };
    let settings: Option<String> = row.get("settings")?;
    let tenant = settings.map_or(Ok(TenantRouting::default()), |text| settings_of(&text))?;
    Ok(around(&row, &tenant)?.at(row.get::<Option<u64>>("number")?.unwrap_or(0)))
}

/// The SIMs of a tenant that are in a device which may connect, what each may do, and the number of the change that this is as
/// new as.
pub(crate) fn of_tenant(tx: &mut dyn Tx, tenant: TenantId) -> Result<(u64, FxHashMap<SimId, KnownRoute>), SqlError> {
    let row = tx.query_one("SELECT number FROM routing_changes WHERE tenant = $1", sql_params![tenant])?;
    let number = row.map_or(Ok(0), |row| row.get("number"))?;
    let settings = super::read(tx, tenant)?.settings;
    let mut devices = FxHashMap::default();
    let sql = "SELECT id, model, os, limits FROM devices WHERE tenant = $1 AND state <> 'revoked'";
    for row in tx.query(sql, sql_params![tenant])? {
        devices.insert(row.get::<DeviceId>("id")?, around(&row, &settings)?);
    }
    let known = |sim: Sim| {
        let device = sim.device?;
        let settings = Arc::new(resolve(&sim, devices.get(&device)?));
        Some((sim.id, KnownRoute { route: Route::sim(device, sim.id), tenant, settings }))
    };
    Ok((number, sims::in_devices(tx, tenant)?.into_iter().filter_map(known).collect()))
}

/// What a SIM may do that was in this device, wherever it is now; none when nobody knows it any more.
pub(crate) fn of_route(tx: &mut dyn Tx, tenant: TenantId, route: Route) -> Result<Option<KnownRoute>, SqlError> {
    let Some(sim) = sims::find(tx, tenant, route.sim)? else { return Ok(None) };
    let settings = Arc::new(resolve(&sim, &of_device(tx, route.device)?));
    Ok(Some(KnownRoute { route, tenant, settings }))
}

fn around(row: &Row, tenant: &TenantRouting) -> Result<Surroundings, SqlError> {
    Ok(Surroundings {
        platform: platform_of(&row.get::<String>("model")?, &row.get::<String>("os")?),
        device_limits: serde_json::from_str(&row.get::<String>("limits")?)
            .map_err(|_| SqlError::Type { column: "limits".into(), expected: "limits as JSON" })?,
        sim_limits: tenant.sim_limits.clone(),
        timezone: tenant.timezone.clone(),
        number: 0,
    })
}
