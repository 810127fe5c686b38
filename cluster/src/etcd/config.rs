//! How to reach etcd, and what to ask of it.

use std::fmt;
use std::path::PathBuf;

use etcd_client::{Certificate, Identity, TlsOptions};
use serde::{Deserialize, Serialize};

/// etcd's own lower bound is one and a half of its election timeout, which is one second where nobody changed it.
const LEASE_TTL_S: std::ops::RangeInclusive<u32> = 2..=60;
const ENDPOINTS_MAX: usize = 16;

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EtcdConfig {
    /// `http://host:port` or `https://host:port` of each etcd member.
    pub endpoints: Vec<String>,
    /// All keys of this cluster begin with it. Clusters that share an etcd need different ones.
    pub prefix: String,
    /// A node that dies is noticed when its lease ends. Shorter: others take over earlier. Longer: an etcd that elects a new
    /// leader of its own interrupts nothing.
    pub lease_ttl_s: u32,
    /// For one call to one endpoint.
    pub call_timeout_ms: u32,
    pub user: Option<String>,
    pub password: Option<String>,
    /// PEM. Whom to believe that they are etcd; needed for `https`.
    pub ca_file: Option<PathBuf>,
    /// PEM. What this node shows to etcd.
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Shards that may be on their way from this node to others at once.
    pub moves_at_once: u16,
    /// How long a node has to be there before shards move to it.
    pub settle_ms: u32,
}

impl Default for EtcdConfig {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            prefix: "/flotilla".to_owned(),
            lease_ttl_s: 2,
            call_timeout_ms: 500,
            user: None,
            password: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
            moves_at_once: 4,
            settle_ms: 2_000,
        }
    }
}

impl fmt::Debug for EtcdConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdConfig")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("lease_ttl_s", &self.lease_ttl_s)
            .field("user", &self.user)
            .field("password", &self.password.as_ref().map(|_| "***"))
            .field("ca_file", &self.ca_file)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("endpoints: name 1 to {ENDPOINTS_MAX} etcd members, as in [\"http://10.0.0.1:2379\"]")]
    Endpoints,
    #[error("endpoints: {0} is not http://host:port or https://host:port")]
    Endpoint(String),
    #[error("endpoints: {0} needs ca_file, the certificate of the authority that signed etcd's")]
    NoAuthority(String),
    #[error("prefix: begins with /, does not end with it, and has at most 200 characters")]
    Prefix,
    #[error("lease_ttl_s: {} to {}", LEASE_TTL_S.start(), LEASE_TTL_S.end())]
    LeaseTtl,
    #[error("call_timeout_ms: 50 to half of the lease")]
    CallTimeout,
    #[error("user and password are given together or not at all")]
    HalfUser,
    #[error("cert_file and key_file are given together or not at all")]
    HalfIdentity,
    #[error("{field}: {path}: {error}")]
    File { field: &'static str, path: PathBuf, error: std::io::Error },
}

impl EtcdConfig {
    /// Whether a node could start with it; reads no files.
    pub fn check(&self) -> Result<(), ConfigError> {
        if self.endpoints.is_empty() || self.endpoints.len() > ENDPOINTS_MAX {
            return Err(ConfigError::Endpoints);
        }
        for endpoint in &self.endpoints {
            if address_of(endpoint).is_none() {
                return Err(ConfigError::Endpoint(endpoint.clone()));
            }
            if endpoint.starts_with("https://") && self.ca_file.is_none() {
                return Err(ConfigError::NoAuthority(endpoint.clone()));
            }
        }
        let prefix = &self.prefix;
        if !prefix.starts_with('/') || prefix.len() < 2 || prefix.ends_with('/') || prefix.len() > 200 {
            return Err(ConfigError::Prefix);
        }
        if !LEASE_TTL_S.contains(&self.lease_ttl_s) {
            return Err(ConfigError::LeaseTtl);
        }
        if !(50..=self.lease_ttl_s * 500).contains(&self.call_timeout_ms) {
            return Err(ConfigError::CallTimeout);
        }
        if self.user.is_some() != self.password.is_some() {
            return Err(ConfigError::HalfUser);
        }
        if self.cert_file.is_some() != self.key_file.is_some() {
            return Err(ConfigError::HalfIdentity);
        }
        Ok(())
    }

    pub(super) fn tls(&self) -> Result<Option<TlsOptions>, ConfigError> {
        let Some(ca) = read("ca_file", self.ca_file.as_ref())? else { return Ok(None) };
        let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
        let cert = read("cert_file", self.cert_file.as_ref())?;
        Ok(Some(match (cert, read("key_file", self.key_file.as_ref())?) {
            (Some(cert), Some(key)) => tls.identity(Identity::from_pem(cert, key)),
            _ => tls,
        }))
    }
}

fn read(field: &'static str, path: Option<&PathBuf>) -> Result<Option<Vec<u8>>, ConfigError> {
    let Some(path) = path else { return Ok(None) };
    std::fs::read(path).map(Some).map_err(|error| ConfigError::File { field, path: path.clone(), error })
}

/// `host:port` of an endpoint.
pub(super) fn address_of(endpoint: &str) -> Option<&str> {
    let address = endpoint.strip_prefix("http://").or_else(|| endpoint.strip_prefix("https://"))?;
    let (host, port) = address.rsplit_once(':')?;
    (!host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok()).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> EtcdConfig {
        EtcdConfig { endpoints: vec!["http://127.0.0.1:2379".to_owned()], ..EtcdConfig::default() }
    }

    type Case = (fn(&mut EtcdConfig), &'static str);

    #[test]
    fn each_field_has_its_bounds() {
        good().check().unwrap();
        let cases: [Case; 9] = [
            (|c| c.endpoints.clear(), "endpoints"),
            (|c| c.endpoints = vec!["127.0.0.1:2379".to_owned()], "endpoints"),
            (|c| c.endpoints = vec!["https://127.0.0.1:2379".to_owned()], "endpoints"),
            (|c| c.prefix = "flotilla".to_owned(), "prefix"),
            (|c| c.prefix = "/".to_owned(), "prefix"),
            (|c| c.lease_ttl_s = 1, "lease_ttl_s"),
            (|c| c.call_timeout_ms = 1_001, "call_timeout_ms"),
            (|c| c.user = Some("a".to_owned()), "user"),
            (|c| c.key_file = Some("k".into()), "cert_file"),
        ];
        for (spoil, field) in cases {
            let mut config = good();
            spoil(&mut config);
            let error = config.check().unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let config = EtcdConfig { user: Some("u".to_owned()), password: Some("secret".to_owned()), ..good() };
        assert!(!format!("{config:?}").contains("secret"));
    }
}
