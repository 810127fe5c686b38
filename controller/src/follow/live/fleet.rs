//! What the gateway publishes, as its tenant's subscribers see it.

use flotilla_protocol::id::{DeviceId, EnrollmentId, SimId, TenantId};
use flotilla_protocol::wire::{SimHealth, SimState, Telemetry};
use serde::Serialize;

use super::Live;
use super::render::Time;
use crate::clock::{Clock, SystemClock};
use crate::gateway::{FleetEvent, FleetEvents};

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
                self.publish(tenant, "sim.changed", at_ms, &SimData { device, at, sim, change: change.as_str() });
            }
            FleetEvent::Telemetry { device, telemetry } => {
                self.publish(tenant, "device.telemetry", at_ms, &TelemetryData::new(device, at, &telemetry));
            }
            FleetEvent::EnrollmentReused { enrollment, device } => {
                self.publish(tenant, "enrollment.reused", at_ms, &ReusedData { enrollment, at, device });
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
