//! What a route's device, or its account, says about itself now. Not in the journal: it is worth something only while fresh.

use flotilla_protocol::wire::{Registration, Telemetry};

use crate::Micros;

/// All that is not known costs nothing in the score.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vitals {
    /// When the device last told (Unix ms); none where nothing is expected to, as with a provider.
    pub at_ms: Option<u64>,
    pub signal_dbm: Option<i16>,
    pub registration: Registration,
    pub battery_percent: Option<u8>,
    pub charging: Option<bool>,
    pub balance: Option<Micros>,
    /// A balance that is not above this is low.
    pub low_balance: Option<Micros>,
}

impl Vitals {
    /// What telemetry says of the SIM in a slot.
    pub fn of(telemetry: &Telemetry, slot: u8, at_ms: u64) -> Self {
        let sim = telemetry.sims.iter().find(|sim| sim.slot == slot);
        Self {
            at_ms: Some(at_ms),
            signal_dbm: sim.and_then(|sim| sim.signal_dbm),
            registration: sim.map(|sim| sim.registration).unwrap_or_default(),
            battery_percent: telemetry.battery_percent,
            charging: telemetry.charging,
            balance: None,
            low_balance: None,
        }
    }
}
