//! How a simulated SIM behaves, as a small TOML says it.

use serde::{Deserialize, Serialize};

/// A random time: `min_ms` and an exponential part up to the mean, never above `max_ms`. All zero is at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Delay {
    pub min_ms: u32,
    pub mean_ms: u32,
    pub max_ms: u32,
}

impl Delay {
    /// `random` is in 0..1.
    pub fn draw_ms(&self, random: f64) -> u64 {
        if self.max_ms == 0 {
            return 0;
        }
        let spread = f64::from(self.mean_ms.saturating_sub(self.min_ms));
        let drawn = f64::from(self.min_ms) - spread * (1.0 - random.clamp(0.0, 1.0)).max(1e-12).ln();
        drawn.min(f64::from(self.max_ms)) as u64
    }
}

/// One simulated SIM. Probabilities are from 0 to 1 and for each message, or for each segment where that is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimProfile {
    /// Attempts that it works on at once.
    pub depth: u8,
    /// From the hand-over to the network's acceptance.
    pub latency: Delay,
    /// From acceptance to the status report of a segment.
    pub delivery: Delay,
    /// Refused for good: wrong number.
    pub permanent: f64,
    /// Refused because of the SIM: barred.
    pub route: f64,
    /// Refused for now: congestion.
    pub transient: f64,
    /// Handed over, with an unknown result.
    pub unknown: f64,
    /// The process dies between hand-over and result, and comes back after `crash_pause_ms`.
    pub crash: f64,
    pub crash_pause_ms: u32,
    /// Segments whose status report never comes.
    pub silence: f64,
    /// Segments that the network gives up on.
    pub undelivered: f64,
    pub inbound_per_hour: f64,
    pub operator: String,
}

impl Default for SimProfile {
    fn default() -> Self {
        Self {
            depth: 2,
            latency: Delay { min_ms: 200, mean_ms: 900, max_ms: 5_000 },
            delivery: Delay { min_ms: 300, mean_ms: 1_500, max_ms: 20_000 },
            permanent: 0.0,
            route: 0.0,
            transient: 0.0,
            unknown: 0.0,
            crash: 0.0,
            crash_pause_ms: 2_000,
            silence: 0.0,
            undelivered: 0.0,
            inbound_per_hour: 0.0,
            operator: "Simulated".into(),
        }
    }
}

impl SimProfile {
    /// As fast as the machine, and without a fault: for measuring.
    pub fn instant() -> Self {
        let at_once = Delay::default();
        Self { depth: 16, latency: at_once, delivery: at_once, ..Self::default() }
    }
}

/// Devices of one kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Group {
    /// How many devices; the last group takes the rest, whatever it says.
    pub count: usize,
    /// Attempts that a device takes in before their results are reported.
    pub window: u16,
    /// The SIMs of each of them, slots counted from 0.
    pub sim: Vec<SimProfile>,
}

impl Default for Group {
    fn default() -> Self {
        Self { count: 1, window: 64, sim: vec![SimProfile::default()] }
    }
}

/// What a fleet is made of, in the order of enrolment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FleetProfile {
    pub group: Vec<Group>,
}

impl Default for FleetProfile {
    fn default() -> Self {
        Self { group: vec![Group::default()] }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    #[error("{0}")]
    Toml(String),
    #[error("`{field}` has to be between {low} and {high}")]
    Range { field: &'static str, low: u32, high: u32 },
    #[error("the failure probabilities of a SIM add up to more than 1")]
    Sum,
}

impl FleetProfile {
    pub fn instant() -> Self {
        let group = Group { window: 256, sim: vec![SimProfile::instant()], ..Group::default() };
        Self { group: vec![group] }
    }

    pub fn parse(text: &str) -> Result<Self, ProfileError> {
        let profile: Self = toml::from_str(text).map_err(|error| ProfileError::Toml(error.to_string()))?;
        profile.check()?;
        Ok(profile)
    }

    /// The group of the device with this number.
    pub fn group(&self, device: usize) -> Option<&Group> {
        let mut first = 0;
        for group in &self.group {
            first += group.count;
            if device < first {
                return Some(group);
            }
        }
        self.group.last()
    }

    pub fn check(&self) -> Result<(), ProfileError> {
        range("group", self.group.len(), 1, 64)?;
        for group in &self.group {
            range("window", usize::from(group.window), 1, 4096)?;
            range("sim", group.sim.len(), 1, 32)?;
            group.sim.iter().try_for_each(SimProfile::check)?;
        }
        Ok(())
    }
}

impl SimProfile {
    fn check(&self) -> Result<(), ProfileError> {
        range("depth", usize::from(self.depth), 1, 255)?;
        let rates = [
            ("permanent", self.permanent),
            ("route", self.route),
            ("transient", self.transient),
            ("unknown", self.unknown),
            ("crash", self.crash),
            ("silence", self.silence),
            ("undelivered", self.undelivered),
        ];
        for (field, rate) in rates {
            if !(0.0..=1.0).contains(&rate) {
                return Err(ProfileError::Range { field, low: 0, high: 1 });
            }
        }
        if rates[..5].iter().map(|(_, rate)| rate).sum::<f64>() > 1.0 || self.silence + self.undelivered > 1.0 {
            return Err(ProfileError::Sum);
        }
        if !(0.0..=1_000_000.0).contains(&self.inbound_per_hour) {
            return Err(ProfileError::Range { field: "inbound_per_hour", low: 0, high: 1_000_000 });
        }
        Ok(())
    }
}

fn range(field: &'static str, value: usize, low: u32, high: u32) -> Result<(), ProfileError> {
    let fits = (low as usize..=high as usize).contains(&value);
    if fits { Ok(()) } else { Err(ProfileError::Range { field, low, high }) }
}
