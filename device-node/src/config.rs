//! The node's configuration: one small TOML file, each value of which a flag can replace.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::radio::modem::{ModemConfig, ModemConfigError};
use crate::radio::simulated::{FleetProfile, Group, ProfileError, SimProfile};

/// Where the identity, the outbox and the status socket live unless the file or a flag says otherwise.
pub const DATA_DIR_DEFAULT: &str = "flotilla-node-data";
const FILE_BYTES_MAX: u64 = 1 << 20;
const NAME_BYTES_MAX: usize = 64;
/// SIMs of one device.
const SLOTS_MAX: usize = 32;

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path} is over 1 MiB: is it a configuration?")]
    TooLong { path: PathBuf },
    #[error("{path}: {detail}")]
    Toml { path: PathBuf, detail: String },
    #[error("`name` has to be 1 to {NAME_BYTES_MAX} bytes")]
    Name,
    #[error("{0}")]
    Profile(#[from] ProfileError),
    #[error("this node has no radio: add a [[modem]] or a [[simulated]] section to its configuration")]
    NoRadio,
    #[error("more than {SLOTS_MAX} modems and simulated SIMs: run a second node for the rest")]
    TooManySlots,
    #[error("{0}")]
    Modem(#[from] ModemConfigError),
    #[error("the port {0} belongs to two [[modem]] sections")]
    SamePort(PathBuf),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    pub format: LogFormat,
    /// A level, or directives such as `info,flotilla_device_node=debug`.
    pub level: String,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, level: "info".into() }
    }
}

/// `flotilla-node.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub data_dir: PathBuf,
    /// What the owner sees; the host's name if it is left out.
    pub name: Option<String>,
    /// Attempts taken in before their results are reported.
    pub window: u16,
    pub log: LogConfig,
    /// One SIM slot each, numbered from 0 in this order.
    pub modem: Vec<ModemConfig>,
    /// Simulated SIMs of this device, for trying things out; their slots follow the modems'.
    pub simulated: Vec<SimProfile>,
    /// Of what the simulated SIMs do; drawn and printed if it is left out.
    pub seed: Option<u64>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: DATA_DIR_DEFAULT.into(),
            name: None,
            window: 64,
            log: LogConfig::default(),
            modem: Vec::new(),
            simulated: Vec::new(),
            seed: None,
        }
    }
}

impl Config {
    /// Reads `path`; without one, `flotilla-node.toml` here if there is one, or else the defaults.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let standard = Path::new("flotilla-node.toml");
        let config = match path {
            Some(path) => Self::parse(path, &read(path)?)?,
            None if standard.exists() => Self::parse(standard, &read(standard)?)?,
            None => Self::default(),
        };
        config.check()?;
        Ok(config)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error| ConfigError::Toml { path: path.to_owned(), detail: error.to_string() })
    }

    fn check(&self) -> Result<(), ConfigError> {
        if self.name.as_ref().is_some_and(|name| name.is_empty() || name.len() > NAME_BYTES_MAX) {
            return Err(ConfigError::Name);
        }
        if self.modem.len() + self.simulated.len() > SLOTS_MAX {
            return Err(ConfigError::TooManySlots);
        }
        for (index, modem) in self.modem.iter().enumerate() {
            modem.check()?;
            if self.modem[..index].iter().any(|other| other.port == modem.port) {
                return Err(ConfigError::SamePort(modem.port.clone()));
            }
        }
        // The window and the simulated SIMs have the bounds of a fleet's group.
        let sim = if self.simulated.is_empty() { vec![SimProfile::default()] } else { self.simulated.clone() };
        Ok(FleetProfile { group: vec![Group { count: 1, window: self.window, sim }] }.check()?)
    }

    /// The name that the owner sees.
    pub fn display_name(&self) -> String {
        let mut name = self.name.clone().unwrap_or_else(|| kernel("hostname"));
        while name.len() > NAME_BYTES_MAX {
            name.pop();
        }
        name
    }
}

/// What the kernel says of itself, such as `hostname` or `osrelease`; `unknown` where it does not.
pub fn kernel(what: &str) -> String {
    let text = std::fs::read_to_string(Path::new("/proc/sys/kernel").join(what)).unwrap_or_default();
    if text.trim().is_empty() { "unknown".into() } else { text.trim().into() }
}

/// A text file of a reasonable size.
pub fn read(path: &Path) -> Result<String, ConfigError> {
    let io = |source| ConfigError::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.len() > FILE_BYTES_MAX {
        return Err(ConfigError::TooLong { path: path.to_owned() });
    }
    std::fs::read_to_string(path).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Some(&path))
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = load("name = \"attic\"\n[[simulated]]\nsilence = 0.1\n[log]\nformat = \"json\"").unwrap();
        assert_eq!(config.display_name(), "attic");
        assert_eq!(config.simulated[0].silence, 0.1);
        assert_eq!(config.log.format, LogFormat::Json);
        assert_eq!(config.data_dir, Path::new(DATA_DIR_DEFAULT));
    }

    #[test]
    fn a_modem_is_a_port() {
        let config =
            load("[[modem]]\nport = \"/dev/ttyUSB2\"\npin = \"0000\"\n[[modem]]\nport = \"b\"\nbaud = 9600").unwrap();
        assert_eq!((config.modem.len(), config.modem[0].baud, config.modem[1].baud), (2, 115_200, 9600));
        assert_ne!(config.modem[0].folder_name(), config.modem[1].folder_name());
    }

    #[test]
    fn mistakes_are_named() {
        for (text, named) in [
            ("nam = 1", "nam"),
            ("name = \"\"", "name"),
            ("window = 0", "window"),
            ("[[simulated]]\nroute = 2.0", "route"),
            ("[[modem]]\nport = \"/dev/a\"\n[[modem]]\nport = \"/dev/a\"", "/dev/a"),
            ("[[modem]]\nspeed = 1", "speed"),
            ("[log]\nformat = \"xml\"", "xml"),
            ("[[modem]]\nport = \"/dev/ttyUSB0\"\nbaud = 1", "baud"),
            ("[[modem]]\nport = \"/dev/ttyUSB0\"\npin = \"12\"", "pin"),
            ("[[modem]]\nport = \"/dev/ttyUSB0\"\npin = 1234", "pin"),
            ("[[modem]]\nport = \"\"", "port"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
        assert!(Config::load(Some(Path::new("/does/not/exist"))).is_err());
    }

    #[test]
    fn the_host_lends_its_name() {
        assert_ne!(Config::default().display_name(), "unknown");
    }
}
