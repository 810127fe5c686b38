//! Fleets of simulated devices, each in a process of its own so that its devices can die together. Every run starts them in
//! the same way: from codes, a profile and a seed, in files that lie beside each other and are told apart by a number.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::json;

use crate::client::Client;
use crate::process::{Program, Programs};
use crate::scenario::path;

const ONLINE_DEADLINE: Duration = Duration::from_secs(60);
/// Between two questions.
const POLL_PAUSE: Duration = Duration::from_millis(500);

/// Invites devices of these names. Their codes, one in a line.
pub(crate) async fn invite(client: &Client, names: impl Iterator<Item = String>) -> anyhow::Result<String> {
    let mut codes = String::new();
    for name in names {
        let enrolment = client.call(Method::POST, "/v1/enrollments", Some(json!({ "device_name": name }))).await?;
        codes.push_str(enrolment["uri"].as_str().context("no uri in the answer")?);
        codes.push('\n');
    }
    Ok(codes)
}

/// Waits until all of so many devices are online, unless the check of the processes fails.
pub(crate) async fn wait_until_online(
    client: &Client,
    devices: usize,
    mut check: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let until = Instant::now() + ONLINE_DEADLINE;
    loop {
        check()?;
        let health = client.call(Method::GET, "/v1/fleet/health", None).await?;
        let online = health["devices"]["online"].as_u64().context("no count of devices online")?;
        if online as usize == devices {
            return Ok(());
        }
        ensure!(Instant::now() < until, "{online} of {devices} devices are online");
        tokio::time::sleep(POLL_PAUSE).await;
    }
}

/// What a fleet is made of.
pub(crate) struct Fleet<'a> {
    /// Of the run.
    pub folder: &'a Path,
    pub number: usize,
    /// One line for each device.
    pub codes: &'a str,
    /// TOML.
    pub profile: &'a str,
    /// Of the run: each fleet of it has another one.
    pub seed: u64,
}

impl Fleet<'_> {
    pub(crate) fn start(&self, programs: &Programs) -> anyhow::Result<Program> {
        let file = |end: &str| self.folder.join(format!("fleet-{}{end}", self.number));
        let (codes, profile) = (file(".codes"), file(".toml"));
        std::fs::write(&codes, self.codes)?;
        std::fs::write(&profile, self.profile)?;
        let (data, log) = (file(""), radio_log(self.folder, self.number));
        let seed = (self.seed ^ self.number as u64).to_string();
        let arguments = [
            "simulate",
            "--data-dir",
            path(&data)?,
            "--codes",
            path(&codes)?,
            "--profile",
            path(&profile)?,
            "--radio-log",
            path(&log)?,
            "--seed",
            &seed,
        ];
        let mut program = Program::new(&programs.node, &arguments, file(".log"));
        program.start()?;
        Ok(program)
    }
}

fn radio_log(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("fleet-{number}.radio"))
}

/// The logs of what radios were handed; a fleet that was handed nothing has none.
pub(crate) fn radio_logs(folder: &Path, fleets: usize) -> Vec<PathBuf> {
    (0..fleets).map(|number| radio_log(folder, number)).filter(|log| log.exists()).collect()
}

/// A profile of quick SIMs with every kind of trouble a network has.
pub(crate) fn troubled(inbound_per_hour: u32) -> String {
    format!("{TROUBLED}inbound_per_hour = {inbound_per_hour}.0\n")
}

const TROUBLED: &str = r#"
[[group]]
count = 1
window = 32
[[group.sim]]
depth = 4
latency = { min_ms = 2, mean_ms = 20, max_ms = 500 }
delivery = { min_ms = 5, mean_ms = 100, max_ms = 5000 }
permanent = 0.003
route = 0.002
transient = 0.005
unknown = 0.001
crash = 0.001
silence = 0.002
undelivered = 0.003
"#;

#[cfg(test)]
mod tests {
    use flotilla_device_node::radio::simulated::FleetProfile;

    use super::*;

    #[test]
    fn a_profile_of_trouble_is_one() {
        for inbound_per_hour in [0, 400] {
            let profile = FleetProfile::parse(&troubled(inbound_per_hour)).unwrap();
            assert_eq!(profile.group.len(), 1);
        }
    }
}
