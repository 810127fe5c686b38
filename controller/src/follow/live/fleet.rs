//! What the gateway publishes, as its tenant's subscribers see it.

use flotilla_protocol::id::{DeviceId, EnrollmentId, ProviderId, SimId, TenantId};
use flotilla_protocol::wire::{SimHealth, SimState, Telemetry};
use flotilla_routing::Micros;
use serde::Serialize;

use super::render::Time;
use super::{Live, routing};
use crate::clock::{Clock, SystemClock};
use crate::fleet::sims::SimChange;
use crate::gateway::{FleetEvent, FleetEvents};
use crate::providers::account::Decimal;

impl FleetEvents for Live {
    fn publish(&self, tenant: TenantId, event: FleetEvent) {
        let at_ms = SystemClock.now().unix_ms;
        let at = Time(at_ms);
        match event {
            FleetEvent::Online { device, software } => {
                self.publish(tenant, "device.online", at_ms, &DeviceData { device, at, software: Some(software) });
            }
            FleetEvent::Offline { device } => {
                self.publish(tenant, "device.offline", at_ms, &DeviceData { device, at, software: None });
            }
            FleetEvent::Sim { device, sim, change } => {
                self.publish(tenant, "sim.changed", at_ms, &SimData::new(device, at, sim, change));
            }
            FleetEvent::Telemetry { device, telemetry } => {
                self.publish(tenant, "device.telemetry", at_ms, &TelemetryData::new(device, at, &telemetry));
            }
            FleetEvent::Routing(notice) => routing::publish(self, tenant, at_ms, &notice),
            FleetEvent::LowBalance { sim, amount } => {
                self.publish(tenant, "sim.low_balance", at_ms, &BalanceData { sim, at, balance: amount });
            }
            FleetEvent::EnrollmentReused { enrollment, device } => {
                self.publish(tenant, "enrollment.reused", at_ms, &ReusedData { enrollment, at, device });
            }
            FleetEvent::ProviderUp { provider } => {
                self.publish(tenant, "provider.up", at_ms, &ProviderData { provider, at, reason: None });
            }
            FleetEvent::ProviderDown { provider, reason } => {
                self.publish(tenant, "provider.down", at_ms, &ProviderData { provider, at, reason: Some(reason) });
            }
            FleetEvent::ProviderLowBalance { provider, balance } => {
                let (amount, currency) = (Decimal(balance.micros).to_string(), balance.currency);
                self.publish(
                    tenant,
                    "provider.low_balance",
                    at_ms,
                    &ProviderBalanceData { provider, at, amount, currency },
                );
            }
        }
    }
}

#[derive(Serialize)]
struct DeviceData {
    device: DeviceId,
    at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    software: Option<String>,
}

#[derive(Serialize)]
struct BalanceData {
    sim: SimId,
    at: Time,
    /// In the tenant's currency.
    balance: Micros,
}

#[derive(Serialize)]
struct ProviderData {
    provider: ProviderId,
    at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

#[derive(Serialize)]
struct ProviderBalanceData {
    provider: ProviderId,
    at: Time,
    /// A decimal.
    amount: String,
    currency: Box<str>,
}

#[derive(Serialize)]
struct ReusedData {
    enrollment: EnrollmentId,
    at: Time,
    /// Which had used it before.
    device: Option<DeviceId>,
}

#[derive(Serialize)]
struct SimData {
    device: DeviceId,
    at: Time,
    sim: SimId,
    change: &'static str,
    /// The card that was in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    former: Option<SimId>,
    /// It sends nothing until somebody confirms it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    held: bool,
}

impl SimData {
    fn new(device: DeviceId, at: Time, sim: SimId, change: SimChange) -> Self {
        let (former, held) = match change {
            SimChange::Replaced { former, held } => (Some(former), held),
            _ => (None, false),
        };
        Self { device, at, sim, change: change.as_str(), former, held }
    }
}

#[derive(Serialize)]
struct TelemetryData<'a> {
    device: DeviceId,
    at: Time,
    battery_percent: Option<u8>,
    charging: Option<bool>,
    outbox_open: u32,
    reports_open: u32,
    disk_free_bytes: Option<u64>,
    sims: Vec<SlotData<'a>>,
}

#[derive(Serialize)]
struct SlotData<'a> {
    slot: u8,
    ready: bool,
    signal_dbm: Option<i16>,
    operator: &'a str,
}

impl<'a> TelemetryData<'a> {
    fn new(device: DeviceId, at: Time, telemetry: &'a Telemetry) -> Self {
        let slot = |sim: &'a SimHealth| SlotData {
            slot: sim.slot,
            ready: sim.state == SimState::Ready,
            signal_dbm: sim.signal_dbm,
            operator: &sim.operator,
        };
        Self {
            device,
            at,
            battery_percent: telemetry.battery_percent,
            charging: telemetry.charging,
            outbox_open: telemetry.outbox_open,
            reports_open: telemetry.reports_open,
            disk_free_bytes: telemetry.disk_free_bytes,
            sims: telemetry.sims.iter().map(slot).collect(),
        }
    }
}
