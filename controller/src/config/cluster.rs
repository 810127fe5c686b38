//! `[cluster]`: whether this controller is one of several, and how they find each other.

use std::net::SocketAddr;
use std::path::PathBuf;

use flotilla_cluster::NodeName;
use serde::{Deserialize, Serialize};

use super::{Fault, is_named_address};

const ENDPOINTS_MAX: usize = 16;
/// etcd gives no shorter leases at its own default timing.
const LEASE_S_MIN: u32 = 2;
const LEASE_S_MAX: u32 = 60;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Coordinator {
    /// This controller is alone and leads everything.
    #[default]
    Embedded,
    /// Several share the shards out, over etcd.
    Etcd,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    pub coordinator: Coordinator,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    pub peer_addr: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_advertise: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
    pub etcd: Etcd,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Etcd {
    pub endpoints: Vec<String>,
    pub prefix: String,
    pub lease_ttl_s: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub password_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cert_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key_file: Option<PathBuf>,
}

impl std::fmt::Debug for Etcd {
    /// An endpoint may hold a password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd")
            .field("endpoints", &self.endpoints.len())
            .field("prefix", &self.prefix)
            .field("lease_ttl_s", &self.lease_ttl_s)
            .finish_non_exhaustive()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            coordinator: Coordinator::Embedded,
            node: None,
            peer_addr: SocketAddr::from(([0, 0, 0, 0], 7444)),
            peer_advertise: None,
            key_file: None,
            etcd: Etcd::default(),
        }
    }
}

impl Default for Etcd {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "/flotilla".to_owned(),
            lease_ttl_s: 2,
            user: None,
            password_file: None,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

impl Cluster {
    /// The configured name, or the machine's. An error tells what to configure.
    pub fn node_name(&self) -> Result<NodeName, Fault> {
        let name = match &self.node {
            Some(name) => NodeName::parse(name).ok(),
            // On systems without /proc there is nothing to ask without unsafe code.
            None => std::fs::read_to_string("/proc/sys/kernel/hostname")
                .ok()
                .and_then(|name| NodeName::parse(&name.trim().to_ascii_lowercase()).ok())
                .or_else(|| (self.coordinator == Coordinator::Embedded).then(|| NodeName::parse("controller").ok())?),
        };
        let remedy = "give this controller a name of its own: 1 to 63 of a-z 0-9 - ., such as c1";
        name.ok_or_else(|| Fault { key: "cluster.node", remedy: remedy.to_owned() })
    }

    pub(super) fn faults(&self, faults: &mut Vec<Fault>) {
        faults.extend(self.node_name().err());
        let mut need = |good: bool, key: &'static str, remedy: &str| {
            if !good {
                faults.push(Fault { key, remedy: remedy.to_owned() });
            }
        };
        let advertised = self.peer_advertise.as_ref().is_none_or(|text| is_named_address(text));
        need(advertised, "cluster.peer_advertise", "give host:port, such as c1.internal:7444");
        if self.coordinator == Coordinator::Embedded {
            return;
        }
        let key = "name the file that `flotilla cluster key` made; every controller needs the same";
        need(self.key_file.is_some(), "cluster.key_file", key);
        let etcd = &self.etcd;
        let urls = etcd.endpoints.iter().all(|url| url.starts_with("http://") || url.starts_with("https://"));
        let few = (1..=ENDPOINTS_MAX).contains(&etcd.endpoints.len());
        need(urls && few, "cluster.etcd.endpoints", "give 1 to 16 addresses such as https://etcd1:2379");
        let trusted = etcd.ca_file.is_some() || !etcd.endpoints.iter().any(|url| url.starts_with("https://"));
        need(trusted, "cluster.etcd.ca_file", "name the certificate of the authority that signed etcd's");
        let prefix = etcd.prefix.starts_with('/') && (2..=128).contains(&etcd.prefix.len()) && etcd.prefix.is_ascii();
        need(prefix, "cluster.etcd.prefix", "give a path such as /flotilla, up to 128 characters");
        let ttl = (LEASE_S_MIN..=LEASE_S_MAX).contains(&etcd.lease_ttl_s);
        need(ttl, "cluster.etcd.lease_ttl_s", "give 2 to 60 seconds");
        let user = etcd.user.is_some() == etcd.password_file.is_some();
        need(user, "cluster.etcd.password_file", "give both user and password_file, or neither");
        let pair = etcd.cert_file.is_some() == etcd.key_file.is_some();
        need(pair, "cluster.etcd.key_file", "give both cert_file and key_file, or neither");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(cluster: &Cluster) -> Vec<&'static str> {
        let mut faults = Vec::new();
        cluster.faults(&mut faults);
        faults.iter().map(|fault| fault.key).collect()
    }

    #[test]
    fn a_controller_that_is_alone_needs_nothing() {
        assert!(keys(&Cluster::default()).is_empty());
    }

    #[test]
    fn one_of_several_needs_a_name_a_key_and_etcd() {
        let mut cluster = Cluster { coordinator: Coordinator::Etcd, node: Some("c1".into()), ..Cluster::default() };
        assert_eq!(keys(&cluster), ["cluster.key_file"]);
        cluster.key_file = Some("/etc/flotilla/cluster.key".into());
        assert!(keys(&cluster).is_empty());
        cluster.node = Some("C 1".into());
        cluster.peer_advertise = Some("c1".into());
        cluster.etcd = Etcd {
            endpoints: vec!["etcd:2379".into()],
            prefix: "flotilla".into(),
            lease_ttl_s: 1,
            user: Some("root".into()),
            cert_file: Some("a".into()),
            ..Etcd::default()
        };
        let expected = [
            "cluster.node",
            "cluster.peer_advertise",
            "cluster.etcd.endpoints",
            "cluster.etcd.prefix",
            "cluster.etcd.lease_ttl_s",
            "cluster.etcd.password_file",
            "cluster.etcd.key_file",
        ];
        assert_eq!(keys(&cluster), expected);
        cluster = Cluster { node: Some("c1".into()), peer_advertise: None, etcd: Etcd::default(), ..cluster };
        cluster.etcd.endpoints = vec!["https://etcd:2379".into()];
        assert_eq!(keys(&cluster), ["cluster.etcd.ca_file"]);
        cluster.etcd.endpoints = vec!["http://root:secret@etcd:2379".into()];
        assert!(!format!("{cluster:?}").contains("secret"));
    }
}
