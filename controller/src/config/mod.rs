//! The configuration: one struct, from a TOML file, the environment and flags, checked once.
//!
//! Every fault is reported at once, each with its key and the remedy. Parts of the program get only their section.

mod cluster;
mod routing;
mod store;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use config::{ConfigError, Environment, File, FileFormat};
use serde::{Deserialize, Serialize};

pub use cluster::{Cluster, Coordinator, Etcd};
pub use routing::Routing;
pub use store::{DatabaseUrl, Postgres, Store, StoreEngine};

/// All defaults, with comments; what `flotilla config example` prints.
pub const EXAMPLE: &str = include_str!("example.toml");

/// Looked for when no file is named.
const FILE_DEFAULT: &str = "flotilla.toml";
/// Keys that hold lists; a flag or a variable gives them with commas.
const LISTS: [&str; 3] = ["quic.advertise", "cluster.etcd.endpoints", "routing.retry_delays_s"];
const ADVERTISE_MAX: usize = flotilla_protocol::enroll_code::CONTROLLERS_MAX;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub data_dir: PathBuf,
    pub http: Http,
    pub quic: Quic,
    pub store: Store,
    pub limits: Limits,
    pub routing: Routing,
    pub log: Log,
    pub ca: Ca,
    pub cluster: Cluster,
    pub providers: Providers,
    pub webhooks: Webhooks,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Http {
    pub addr: SocketAddr,
    /// Where others reach the API from outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub public_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metrics_addr: Option<SocketAddr>,
    pub connections_max: u32,
    pub header_timeout_s: u32,
    pub drain_s: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Quic {
    pub addr: SocketAddr,
    #[serde(skip_serializing_if = "TcpAddr::is_default")]
    pub tcp_addr: TcpAddr,
    pub advertise: Vec<String>,
}

/// Where devices connect over TCP when their network lets no UDP pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TcpAddr {
    /// The address and port of `quic.addr`: devices try the same port.
    #[default]
    Same,
    Off,
    At(SocketAddr),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    pub body_bytes_max: usize,
    pub bulk_line_bytes_max: usize,
    pub bulk_uploads_max: usize,
    pub requests_per_min: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhooks {
    pub allow_private_addresses: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub format: LogFormat,
    pub filter: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// Accounts at online SMS services.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Providers {
    pub allow_private_addresses: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ca {
    pub trust_domain: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("flotilla-data"),
            http: Http::default(),
            quic: Quic::default(),
            store: Store::default(),
            limits: Limits::default(),
            routing: Routing::default(),
            log: Log::default(),
            ca: Ca::default(),
            cluster: Cluster::default(),
            providers: Providers::default(),
            webhooks: Webhooks::default(),
        }
    }
}

impl Default for Http {
    fn default() -> Self {
        Self {
            addr: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            metrics_addr: None,
            connections_max: 4096,
            header_timeout_s: 10,
            drain_s: 10,
        }
    }
}

impl Default for Quic {
    fn default() -> Self {
        let addr = SocketAddr::from(([0, 0, 0, 0], 7443));
        Self { addr, tcp_addr: TcpAddr::Same, advertise: Vec::new() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { body_bytes_max: 256 * 1024, bulk_line_bytes_max: 16 * 1024, bulk_uploads_max: 32, requests_per_min: 100 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

impl Default for Ca {
    fn default() -> Self {
        Self { trust_domain: "flotilla.local".to_owned() }
    }
}

impl TcpAddr {
    fn is_default(&self) -> bool {
        *self == Self::Same
    }

    /// `None` when it is off. `quic` is where QUIC listens.
    pub fn beside(self, quic: SocketAddr) -> Option<SocketAddr> {
        match self {
            Self::Same => Some(quic),
            Self::Off => None,
            Self::At(addr) => Some(addr),
        }
    }
}

impl TryFrom<String> for TcpAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "same" => Ok(Self::Same),
            "" | "off" => Ok(Self::Off),
            text => text.parse().map(Self::At).map_err(|_| {
                format!(
                    "`{text}` is no TCP address: give ip:port such as 0.0.0.0:443, \"same\" as quic.addr, or \"off\""
                )
            }),
        }
    }
}

impl From<TcpAddr> for String {
    fn from(addr: TcpAddr) -> Self {
        match addr {
            TcpAddr::Same => "same".to_owned(),
            TcpAddr::Off => "off".to_owned(),
            TcpAddr::At(addr) => addr.to_string(),
        }
    }
}

/// Where a configuration comes from, and what flags change in it.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Sources {
    /// TOML file; without it `flotilla.toml` in the current folder, if there is one
    #[arg(long, short = 'c', value_name = "FILE", env = "FLOTILLA_CONFIG")]
    pub config: Option<PathBuf>,
    /// Folder for everything the controller keeps
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address of the HTTP API, such as 0.0.0.0:8080
    #[arg(long, value_name = "ADDR")]
    pub http: Option<SocketAddr>,
    /// Address for devices (UDP), such as 0.0.0.0:7443
    #[arg(long, value_name = "ADDR")]
    pub quic: Option<SocketAddr>,
    /// Any other key, such as --set http.connections_max=100 (repeatable)
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub set: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{file}: no such file; create it with `flotilla config example > {file}`")]
    NoFile { file: String },
    #[error("--set {0}: give a key and a value, such as http.connections_max=100")]
    Set(String),
    #[error("configuration: {0}; compare with `flotilla config example`")]
    Read(String),
    #[error("configuration:\n{}", .0.iter().map(|fault| format!("  {fault}")).collect::<Vec<_>>().join("\n"))]
    Faults(Vec<Fault>),
}

/// A value that can be read but not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {remedy}")]
pub struct Fault {
    pub key: &'static str,
    pub remedy: String,
}

/// Reads all sources and checks the result.
pub fn load(sources: &Sources) -> Result<Config, LoadError> {
    load_with(sources, std::env::vars().collect())
}

fn load_with(sources: &Sources, env: Vec<(String, String)>) -> Result<Config, LoadError> {
    let mut builder = config::Config::builder();
    let file = match &sources.config {
        Some(file) if !file.is_file() => return Err(LoadError::NoFile { file: file.display().to_string() }),
        Some(file) => Some(file.as_path()),
        None => Some(Path::new(FILE_DEFAULT)).filter(|file| file.is_file()),
    };
    if let Some(file) = file {
        builder = builder.add_source(File::from(file).format(FileFormat::Toml));
    }
    let mut environment = Environment::with_prefix("FLOTILLA")
        .prefix_separator("__")
        .separator("__")
        .try_parsing(true)
        .list_separator(",")
        .ignore_empty(true)
        .source(Some(env.into_iter().collect()));
    for list in LISTS {
        environment = environment.with_list_parse_key(list);
    }
    builder = builder.add_source(environment);
    for (key, value) in overrides(sources)? {
        builder = builder.set_override(&key, value).map_err(|error| read_error(&error))?;
    }
    let config: Config =
        builder.build().and_then(config::Config::try_deserialize).map_err(|error| read_error(&error))?;
    let faults = config.faults();
    if faults.is_empty() { Ok(config) } else { Err(LoadError::Faults(faults)) }
}

fn read_error(error: &ConfigError) -> LoadError {
    LoadError::Read(error.to_string())
}

fn overrides(sources: &Sources) -> Result<Vec<(String, config::Value)>, LoadError> {
    let mut all = Vec::new();
    let mut set = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            all.push((key.to_owned(), config::Value::from(value)));
        }
    };
    set("data_dir", sources.data_dir.as_ref().map(|dir| dir.display().to_string()));
    set("http.addr", sources.http.map(|addr| addr.to_string()));
    set("quic.addr", sources.quic.map(|addr| addr.to_string()));
    for pair in &sources.set {
        let (key, value) = pair.split_once('=').ok_or_else(|| LoadError::Set(pair.clone()))?;
        if key.is_empty() {
            return Err(LoadError::Set(pair.clone()));
        }
        let value = if LISTS.contains(&key) {
            value.split(',').filter(|part| !part.is_empty()).collect::<Vec<_>>().into()
        } else {
            config::Value::from(value)
        };
        all.push((key.to_owned(), value));
    }
    Ok(all)
}

impl Config {
    /// Everything that is wrong with it, at once.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut need = |good: bool, key: &'static str, remedy: &str| {
            if !good {
                faults.push(Fault { key, remedy: remedy.to_owned() });
            }
        };
        need(!self.data_dir.as_os_str().is_empty(), "data_dir", "name a folder");
        need((1..=1_000_000).contains(&self.http.connections_max), "http.connections_max", "give 1 to 1000000");
        need((1..=300).contains(&self.http.header_timeout_s), "http.header_timeout_s", "give 1 to 300 seconds");
        let public_url = self.http.public_url.as_deref().is_none_or(is_public_url);
        need(public_url, "http.public_url", "give an address such as https://sms.example.org, without a query");
        need(self.http.drain_s <= 300, "http.drain_s", "give at most 300 seconds");
        need(self.quic.advertise.len() <= ADVERTISE_MAX, "quic.advertise", "name at most 8 addresses");
        let named = self.quic.advertise.iter().all(|text| is_named_address(text));
        need(named, "quic.advertise", "give host:port, such as sms.example.org:7443");
        let limits = &self.limits;
        let body = 1024..=16 * 1024 * 1024;
        need(body.contains(&limits.body_bytes_max), "limits.body_bytes_max", "give 1024 to 16777216 bytes");
        let line = 1024..=256 * 1024;
        need(line.contains(&limits.bulk_line_bytes_max), "limits.bulk_line_bytes_max", "give 1024 to 262144 bytes");
        need((1..=1024).contains(&limits.bulk_uploads_max), "limits.bulk_uploads_max", "give 1 to 1024");
        let filter = tracing_subscriber::EnvFilter::try_new(&self.log.filter);
        need(filter.is_ok(), "log.filter", "give what RUST_LOG takes, such as info or flotilla_controller=debug");
        need(is_trust_domain(&self.ca.trust_domain), "ca.trust_domain", "give a DNS name in lower case");
        self.routing.faults(&mut faults);
        self.store.faults(&mut faults);
        self.cluster.faults(&mut faults);
        if self.cluster.coordinator == Coordinator::Etcd && self.store.engine != StoreEngine::Postgres {
            let remedy = "controllers of a cluster share one database: give postgres, and its url".to_owned();
            faults.push(Fault { key: "store.engine", remedy });
        }
        faults
    }

    /// The effective configuration as a file would hold it.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string_pretty(self)
    }
}

/// `https://host` with a path perhaps.
fn is_public_url(text: &str) -> bool {
    let good =
        |url: &url::Url| matches!(url.scheme(), "http" | "https") && url.query().is_none() && url.fragment().is_none();
    url::Url::parse(text).is_ok_and(|url| good(&url) && url.has_host())
}

/// `host:port`.
fn is_named_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// SPIFFE's rule for trust domain names.
fn is_trust_domain(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, Sources) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("flotilla.toml");
        std::fs::write(&path, text).unwrap();
        (dir, Sources { config: Some(path), ..Sources::default() })
    }

    #[test]
    fn the_example_is_the_default() {
        assert_eq!(toml::from_str::<Config>(EXAMPLE).unwrap(), Config::default());
        let shown = Config::default().to_toml().unwrap();
        assert_eq!(toml::from_str::<Config>(&shown).unwrap(), Config::default());
    }

    #[test]
    fn flags_win_over_environment_over_file() {
        let (_dir, mut sources) = file("[http]\naddr = \"127.0.0.1:1\"\nconnections_max = 5\ndrain_s = 3\n");
        sources.http = Some("127.0.0.1:3".parse().unwrap());
        sources.set = vec!["limits.bulk_uploads_max=7".into(), "quic.advertise=a:1,b:2".into()];
        let env = env(&[
            ("FLOTILLA__HTTP__ADDR", "127.0.0.1:2"),
            ("FLOTILLA__HTTP__CONNECTIONS_MAX", "6"),
            ("FLOTILLA__QUIC__ADVERTISE", "c:3"),
            ("FLOTILLA_URL", "http://ignored"),
        ]);
        let config = load_with(&sources, env).unwrap();
        assert_eq!(config.http.addr.port(), 3);
        assert_eq!((config.http.connections_max, config.http.drain_s), (6, 3));
        assert_eq!((config.limits.bulk_uploads_max, config.quic.advertise), (7, vec!["a:1".into(), "b:2".into()]));
    }

    #[test]
    fn lists_come_from_the_environment_too() {
        let (_dir, sources) = file("");
        let config = load_with(&sources, env(&[("FLOTILLA__QUIC__ADVERTISE", "a.example:1,b.example:2")])).unwrap();
        assert_eq!(config.quic.advertise, ["a.example:1", "b.example:2"]);
    }

    #[test]
    fn pauses_are_numbers_wherever_they_come_from() {
        let (_dir, mut sources) = file("[routing]\nretry_delays_s = [0, 60]\nhold_new_sims = \"never\"\n");
        let config = load_with(&sources, Vec::new()).unwrap();
        assert_eq!(config.routing.retry_delays_ms(), [0, 60_000]);
        assert_eq!(config.routing.hold_new_sims, crate::fleet::sims::HoldNewSims::Never);
        let from_env = env(&[("FLOTILLA__ROUTING__RETRY_DELAYS_S", "0,30,90")]);
        assert_eq!(load_with(&sources, from_env).unwrap().routing.retry_delays_s, [0, 30, 90]);
        sources.set = vec!["routing.retry_delays_s=5,86401".into()];
        let Err(LoadError::Faults(faults)) = load_with(&sources, Vec::new()) else { panic!("no faults") };
        assert_eq!(faults[0].key, "routing.retry_delays_s");
    }

    #[test]
    fn tcp_is_where_quic_is_unless_it_is_said_otherwise() {
        let quic = "10.0.0.1:7443".parse().unwrap();
        for (text, expected) in [
            ("", Some("10.0.0.1:7443")),
            ("tcp_addr = \"same\"", Some("10.0.0.1:7443")),
            ("tcp_addr = \"off\"", None),
            ("tcp_addr = \"\"", None),
            ("tcp_addr = \"0.0.0.0:443\"", Some("0.0.0.0:443")),
        ] {
            let (_dir, sources) = file(&format!("[quic]\n{text}\n"));
            let config = load_with(&sources, Vec::new()).unwrap();
            assert_eq!(config.quic.tcp_addr.beside(quic), expected.map(|addr| addr.parse().unwrap()), "{text}");
            assert_eq!(toml::from_str::<Config>(&config.to_toml().unwrap()).unwrap(), config);
        }
    }

    #[test]
    fn errors_name_the_key_and_the_remedy() {
        let cases = [
            ("colour = 1\n", "colour"),
            ("[http]\nport = 1\n", "port"),
            ("[http]\naddr = \"nowhere\"\n", "http.addr"),
            ("[quic]\ntcp_addr = \"443\"\n", "quic.tcp_addr"),
            ("[http]\nconnections_max = \"many\"\n", "http.connections_max"),
            ("[log]\nformat = \"xml\"\n", "log.format"),
            ("[http\n", "flotilla.toml"),
        ];
        for (text, word) in cases {
            let (_dir, sources) = file(text);
            let error = load_with(&sources, Vec::new()).unwrap_err().to_string();
            assert!(error.contains(word), "{text:?}: {error}");
        }
        let (_dir, sources) =
            file("[quic]\nadvertise = [\"nohost\"]\n[store]\nshards = 0\n[ca]\ntrust_domain = \"A b\"\n");
        let Err(LoadError::Faults(faults)) = load_with(&sources, Vec::new()) else { panic!("no faults") };
        let keys: Vec<_> = faults.iter().map(|fault| fault.key).collect();
        assert_eq!(keys, ["quic.advertise", "ca.trust_domain", "store.shards"]);
    }

    #[test]
    fn a_cluster_needs_a_store_that_it_can_share() {
        let text = "[cluster]\ncoordinator = \"etcd\"\nnode = \"c1\"\nkey_file = \"k\"\n";
        let (_dir, sources) = file(text);
        let Err(LoadError::Faults(faults)) = load_with(&sources, Vec::new()) else { panic!("no faults") };
        assert_eq!(faults.iter().map(|fault| fault.key).collect::<Vec<_>>(), ["store.engine"]);
        let env = env(&[
            ("FLOTILLA__STORE__ENGINE", "postgres"),
            ("FLOTILLA__STORE__POSTGRES__URL", "postgres://flotilla@db/flotilla?sslmode=disable"),
            ("FLOTILLA__CLUSTER__ETCD__ENDPOINTS", "http://e1:2379,http://e2:2379"),
        ]);
        let config = load_with(&sources, env).unwrap();
        assert_eq!(config.cluster.etcd.endpoints, ["http://e1:2379", "http://e2:2379"]);
    }

    #[test]
    fn a_named_file_has_to_exist() {
        let sources = Sources { config: Some("/nonexistent/flotilla.toml".into()), ..Sources::default() };
        assert!(matches!(load_with(&sources, Vec::new()), Err(LoadError::NoFile { .. })));
        let sources = Sources { set: vec!["http.addr".into()], ..Sources::default() };
        assert!(matches!(load_with(&sources, Vec::new()), Err(LoadError::Set(_))));
    }
}
