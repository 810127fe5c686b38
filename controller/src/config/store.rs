//! `[store]`: which engine keeps everything, and where it is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};

use super::Fault;
use crate::store::postgres::{self, AddressError, CONNECTIONS_MIN};

const SHARDS_MAX: u16 = 4096;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreEngine {
    /// Files in the data folder.
    #[default]
    Sqlite,
    /// A database that several controllers share.
    Postgres,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Store {
    pub engine: StoreEngine,
    pub shards: u16,
    pub postgres: Postgres,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Postgres {
    #[serde(skip_serializing_if = "DatabaseUrl::is_empty")]
    pub url: DatabaseUrl,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    pub connections_max: usize,
    pub retention_days: u32,
    pub partitions: bool,
    pub timeout_ms: u64,
}

impl Default for Store {
    fn default() -> Self {
        let shards = flotilla_protocol::id::SHARDS_DEFAULT;
        Self { engine: StoreEngine::Sqlite, shards, postgres: Postgres::default() }
    }
}

impl Default for Postgres {
    fn default() -> Self {
        let options = postgres::Options::new("");
        Self {
            url: DatabaseUrl::default(),
            password_file: None,
            ca_file: None,
            connections_max: options.connections_max,
            retention_days: options.retention_days,
            partitions: options.partitions,
            timeout_ms: options.timeout.as_millis() as u64,
        }
    }
}

/// A URL that may hold a password: shown without it.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    pub fn expose(&self) -> &str {
        &self.0
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<String> for DatabaseUrl {
    fn from(url: String) -> Self {
        Self(url)
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let (base, query) = rest.split_once('?').unwrap_or((rest, ""));
        // The last @: whoever has not escaped one in the password meant it so.
        let base = match base.rsplit_once('@') {
            Some((login, host)) => match login.split_once(':') {
                Some((user, _)) => format!("{user}:***@{host}"),
                None => format!("{login}@{host}"),
            },
            None => base.to_owned(),
        };
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let pairs: Vec<&str> =
            pairs.map(|pair| if pair.starts_with("password=") { "password=***" } else { pair }).collect();
        let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
        write!(f, "{scheme}://{base}{query}")
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for DatabaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Store {
    pub(super) fn faults(&self, faults: &mut Vec<Fault>) {
        let mut need = |good: bool, key: &'static str, remedy: &str| {
            if !good {
                faults.push(Fault { key, remedy: remedy.to_owned() });
            }
        };
        need((1..=SHARDS_MAX).contains(&self.shards), "store.shards", "give 1 to 4096; 64 is enough for most");
        if self.engine == StoreEngine::Sqlite {
            return;
        }
        let postgres = &self.postgres;
        let connections = (CONNECTIONS_MIN..=1_000).contains(&postgres.connections_max);
        need(connections, "store.postgres.connections_max", "give 8 to 1000");
        let days = postgres.retention_days <= 36_500;
        need(days, "store.postgres.retention_days", "give at most 36500 days; 0 keeps everything");
        let timeout = (500..=60_000).contains(&postgres.timeout_ms);
        need(timeout, "store.postgres.timeout_ms", "give 500 to 60000 milliseconds");
        match postgres::check_url(postgres.url.expose(), postgres.ca_file.as_deref()) {
            Ok(()) => {}
            Err(error @ AddressError::NoCa) => need(false, "store.postgres.ca_file", &error.to_string()),
            Err(error) => need(false, "store.postgres.url", &error.to_string()),
        }
    }

    /// For the PostgreSQL engine. Reads the password's file; the error names it.
    pub fn postgres_options(&self) -> Result<postgres::Options, Fault> {
        let Postgres { url, password_file, ca_file, connections_max, retention_days, partitions, timeout_ms } =
            &self.postgres;
        let password = match password_file {
            Some(file) => match std::fs::read_to_string(file) {
                Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    let remedy = format!("{} cannot be read: {error}", file.display());
                    return Err(Fault { key: "store.postgres.password_file", remedy });
                }
            },
            None => None,
        };
        Ok(postgres::Options {
            password,
            ca_file: ca_file.clone(),
            shards: self.shards,
            connections_max: *connections_max,
            retention_days: *retention_days,
            partitions: *partitions,
            timeout: Duration::from_millis(*timeout_ms),
            ..postgres::Options::new(url.expose())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(store: &Store) -> Vec<&'static str> {
        let mut faults = Vec::new();
        store.faults(&mut faults);
        faults.iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn a_database_needs_an_address() {
        assert!(keys(&Store::default()).is_empty());
        let mut store = Store { engine: StoreEngine::Postgres, ..Store::default() };
        assert_eq!(keys(&store), ["store.postgres.url"]);
        store.postgres.url = "postgres://flotilla@db1,db2/flotilla?sslmode=verify-full".to_owned().into();
        assert_eq!(keys(&store), ["store.postgres.ca_file"]);
        store.postgres.ca_file = Some("/etc/flotilla/db-ca.pem".into());
        assert!(keys(&store).is_empty());
        store.postgres.connections_max = 1;
        store.postgres.retention_days = 100_000;
        store.postgres.timeout_ms = 1;
        let expected = ["store.postgres.connections_max", "store.postgres.retention_days", "store.postgres.timeout_ms"];
        assert_eq!(keys(&store), expected);
    }

    #[test]
    fn a_password_is_never_shown() {
        for url in [
            "postgres://u:geheim@h:1/d",
            "postgres://u@h/d?password=geheim&sslmode=disable",
            "postgres://u:ge@heim@h/d",
        ] {
            let store =
                Store { postgres: Postgres { url: url.to_owned().into(), ..Postgres::default() }, ..Store::default() };
            for shown in [format!("{store:?}"), toml::to_string(&store).unwrap()] {
                assert!(!shown.contains("geheim") && !shown.contains("heim@") && shown.contains("***"), "{shown}");
            }
        }
        assert_eq!(
            DatabaseUrl("postgres://u@h/d?sslmode=disable".into()).to_string(),
            "postgres://u@h/d?sslmode=disable"
        );
    }

    #[test]
    fn the_password_comes_from_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        let mut store = Store::default();
        store.postgres.password_file = Some(file.clone());
        let fault = store.postgres_options().unwrap_err();
        assert_eq!(fault.key, "store.postgres.password_file");
        std::fs::write(file, "geheim\n").unwrap();
        let options = store.postgres_options().unwrap();
        assert_eq!(options.password.as_deref(), Some("geheim"));
        assert!(!format!("{options:?}").contains("geheim"));
    }
}
