//! The four fleets: five devices each, of one kind of health, in a process of their own so that they can die together.

/// Devices of a fleet.
pub(super) const DEVICES: usize = 5;

/// What a fleet's devices are like.
pub(super) struct Kind {
    pub name: &'static str,
    pub profile: &'static str,
    /// Segments per minute of each of its SIMs.
    pub per_minute: Option<u32>,
    /// Whether the run kills it.
    pub dies: bool,
}

pub(super) const FLEETS: [Kind; 4] = [
    Kind { name: "healthy", profile: HEALTHY, per_minute: Some(60), dies: false },
    Kind { name: "flaky", profile: FLAKY, per_minute: Some(90), dies: false },
    Kind { name: "ill", profile: ILL, per_minute: Some(120), dies: false },
    Kind { name: "dying", profile: DYING, per_minute: None, dies: true },
];

const HEALTHY: &str = r#"
[[group]]
count = 5
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 60, max_ms = 800 }
delivery = { min_ms = 20, mean_ms = 300, max_ms = 4000 }
permanent = 0.004
"#;

/// Networks that are busy, SIMs that are barred now and then, modems that crash or do not answer.
const FLAKY: &str = r#"
[[group]]
count = 2
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 80, max_ms = 1500 }
delivery = { min_ms = 20, mean_ms = 500, max_ms = 6000 }
permanent = 0.01
transient = 0.15

[[group]]
count = 2
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 80, max_ms = 1500 }
delivery = { min_ms = 20, mean_ms = 500, max_ms = 6000 }
route = 0.25

[[group]]
count = 1
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 80, max_ms = 1500 }
delivery = { min_ms = 20, mean_ms = 500, max_ms = 6000 }
unknown = 0.02
crash = 0.01
crash_pause_ms = 1500
"#;

/// One that is barred for good, a slow one, one without delivery reports, one whose messages hardly arrive, and one that is
/// nearly well.
const ILL: &str = r#"
[[group]]
count = 1
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 50, max_ms = 500 }
route = 1.0

[[group]]
count = 1
window = 16
[[group.sim]]
depth = 1
latency = { min_ms = 1500, mean_ms = 3000, max_ms = 9000 }
delivery = { min_ms = 20, mean_ms = 500, max_ms = 6000 }

[[group]]
count = 1
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 80, max_ms = 1500 }
silence = 1.0

[[group]]
count = 1
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 80, max_ms = 1500 }
delivery = { min_ms = 20, mean_ms = 500, max_ms = 6000 }
undelivered = 0.6

[[group]]
count = 1
window = 16
[[group.sim]]
depth = 2
latency = { min_ms = 10, mean_ms = 80, max_ms = 1500 }
delivery = { min_ms = 20, mean_ms = 500, max_ms = 6000 }
transient = 0.02
"#;

/// Slow enough to have messages waiting at any moment.
const DYING: &str = r#"
[[group]]
count = 5
window = 32
[[group.sim]]
depth = 2
latency = { min_ms = 50, mean_ms = 250, max_ms = 2000 }
delivery = { min_ms = 20, mean_ms = 500, max_ms = 6000 }
transient = 0.005
"#;

#[cfg(test)]
mod tests {
    use flotilla_device_node::radio::simulated::FleetProfile;

    use super::*;

    #[test]
    fn the_profiles_are_of_five_devices_each() {
        for fleet in &FLEETS {
            let profile = FleetProfile::parse(fleet.profile).unwrap();
            assert_eq!(profile.group.iter().map(|group| group.count).sum::<usize>(), DEVICES, "{}", fleet.name);
        }
    }
}
