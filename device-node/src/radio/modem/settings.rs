//! What can be set about a modem: one `[[modem]]` section of the node's configuration, and all its times.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::at::to_hex;

const BAUD_DEFAULT: u32 = 115_200;
const BAUDS: std::ops::RangeInclusive<u32> = 300..=4_000_000;
const HEALTH_INTERVAL_S: u64 = 30;

/// One `[[modem]]` section.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModemConfig {
    /// The serial port, best by a name that survives a replug: `/dev/serial/by-id/...`.
    pub port: PathBuf,
    #[serde(default = "baud_default")]
    pub baud: u32,
    /// Unlocks the SIM. Tried once, and never again after it was refused.
    #[serde(default)]
    pub pin: Option<Pin>,
    /// Names the slot in logs; the port's name if it is left out.
    #[serde(default)]
    pub name: Option<String>,
    /// Seconds between two looks at signal and registration.
    #[serde(default)]
    pub health_interval_s: Option<u64>,
    /// How long the network may take for one segment; 60 s by default.
    #[serde(default)]
    pub send_timeout_s: Option<u64>,
}

impl ModemConfig {
    /// Only a port: everything else by default.
    pub fn new(port: impl Into<PathBuf>) -> Self {
        Self {
            port: port.into(),
            baud: BAUD_DEFAULT,
            pin: None,
            name: None,
            health_interval_s: None,
            send_timeout_s: None,
        }
    }

    /// Says what can not be.
    pub fn check(&self) -> Result<(), ModemConfigError> {
        if self.port.as_os_str().is_empty() {
            return Err(ModemConfigError::Port);
        }
        if !BAUDS.contains(&self.baud) {
            return Err(ModemConfigError::Baud(self.baud));
        }
        Ok(())
    }

    /// A name for this modem's folder: the same for the same port, whatever else the configuration holds.
    pub fn folder_name(&self) -> String {
        let digest = ring::digest::digest(&ring::digest::SHA256, self.port.as_os_str().as_encoded_bytes());
        let mark = to_hex(&digest.as_ref()[..4]).to_ascii_lowercase();
        let name = self.port.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(40);
        format!("{}-{mark}", plain.collect::<String>())
    }

    pub(super) fn label(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.port.display().to_string())
    }

    pub(super) fn timing(&self) -> Timing {
        let default = Timing::default();
        let seconds =
            |given: Option<u64>, default: Duration| given.map_or(default, |s| Duration::from_secs(s.clamp(1, 3600)));
        Timing {
            health: seconds(self.health_interval_s, default.health),
            send: seconds(self.send_timeout_s, default.send),
            ..default
        }
    }
}

fn baud_default() -> u32 {
    BAUD_DEFAULT
}

/// Why a `[[modem]]` section can not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModemConfigError {
    #[error("`port` of a [[modem]] is empty; set it to a serial port such as /dev/serial/by-id/...")]
    Port,
    #[error("`baud` of a [[modem]] is {0}; set it to 300 to 4000000, or leave it out for 115200")]
    Baud(u32),
}

/// A SIM's PIN: 4 to 8 digits, never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pin(String);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("pin must be 4 to 8 digits, in quotes")]
pub struct PinError;

impl Pin {
    pub fn parse(text: &str) -> Result<Self, PinError> {
        let fits = (4..=8).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
        fits.then(|| Self(text.to_owned())).ok_or(PinError)
    }

    pub(super) fn digits(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Pin {
    type Error = PinError;

    fn try_from(text: String) -> Result<Self, PinError> {
        Self::parse(&text)
    }
}

impl std::fmt::Debug for Pin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pin(..)")
    }
}

/// How long everything may take. One value, so that tests can be quick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Timing {
    /// An ordinary command.
    pub(super) command: Duration,
    /// A command that looks through storage, or asks the network.
    pub(super) slow_command: Duration,
    /// From `AT+CMGS` to the prompt.
    pub(super) prompt: Duration,
    /// From the PDU to `+CMGS`.
    pub(super) send: Duration,
    /// Between two tries to set a send up.
    pub(super) setup_retry: Duration,
    /// Between an answer and the next command: some makers lose what comes sooner.
    pub(super) gap: Duration,
    /// A line is quiet when nothing has come for so long.
    pub(super) quiet: Duration,
    /// Between two looks at registration while there is none, and at a SIM that is still starting.
    pub(super) registration: Duration,
    pub(super) health: Duration,
    /// How long a SIM may take to become ready after its PIN.
    pub(super) sim_ready: Duration,
    pub(super) ussd: Duration,
    /// Before a port that has failed is opened again; doubles up to `reopen_max`.
    pub(super) reopen: Duration,
    pub(super) reopen_max: Duration,
    /// The same for a port that is not there: to look for a file costs nothing, and whoever plugs a modem in waits for it.
    pub(super) reopen_absent_max: Duration,
    /// What a modem needs to come back after `AT+CFUN=1,1`.
    pub(super) reset: Duration,
    /// An incomplete message is delivered as it is when no part has come for so long.
    pub(super) parts: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            command: Duration::from_secs(5),
            slow_command: Duration::from_secs(30),
            prompt: Duration::from_secs(5),
            send: Duration::from_secs(60),
            setup_retry: Duration::from_secs(1),
            gap: Duration::from_millis(20),
            quiet: Duration::from_millis(100),
            registration: Duration::from_secs(3),
            health: Duration::from_secs(HEALTH_INTERVAL_S),
            sim_ready: Duration::from_secs(20),
            ussd: Duration::from_secs(30),
            reopen: Duration::from_secs(1),
            reopen_max: Duration::from_secs(30),
            reopen_absent_max: Duration::from_secs(3),
            reset: Duration::from_secs(10),
            parts: Duration::from_secs(15 * 60),
        }
    }
}
