//! Links with TLS: encrypted as asked for, verified where there is something to verify with.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::super::own::OwnServer;
use super::super::{OpenError, Options, open};
use super::options;
use crate::store::testing;

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn authority() -> Authority {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Authority { pem, issuer: Issuer::new(params, key) }
}

fn write_as(owner: &Path, file: &Path, text: &str) {
    let owner = std::fs::metadata(owner).unwrap();
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::os::unix::fs::chown(file, Some(owner.uid()), Some(owner.gid())).unwrap();
}

#[tokio::test]
async fn a_server_is_who_its_certificate_says() {
    let Some(server) = testing::available(OwnServer::start(&[])) else { return };
    let (ours, other) = (authority(), authority());
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &ours.issuer).unwrap();
    write_as(server.folder(), &server.folder().join("server.pem"), &certificate.pem());
    write_as(server.folder(), &server.folder().join("server.key"), &key.serialize_pem());
    for (name, value) in [("ssl_cert_file", "server.pem"), ("ssl_key_file", "server.key")] {
        let value = server.folder().join(value);
        server.sql("postgres", &format!("ALTER SYSTEM SET {name} = '{}'", value.display())).unwrap();
    }
    server.sql("postgres", "ALTER SYSTEM SET ssl = on").unwrap();
    server.sql("postgres", "SELECT pg_reload_conf()").unwrap();
    // It is told to, and does it in a moment.
    let shows = || server.sql("postgres", "SHOW ssl").unwrap();
    assert!((0..500).any(|_| shows() == "on"), "TLS is never on: {}", server.folder().display());
    let url = server.database().unwrap();

    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, authority: &Authority| {
        let file = dir.path().join(name);
        std::fs::write(&file, &authority.pem).unwrap();
        Some(file)
    };
    let (ours, other) = (file("ours.pem", &ours), file("other.pem", &other));
    let named = url.replace("127.0.0.1", "localhost");
    let with = |url: &str, mode: &str, ca_file| Options { ca_file, ..options(&format!("{url}?sslmode={mode}")) };
    let encrypted = "SELECT count(*) > 0 FROM pg_stat_ssl AS s JOIN pg_stat_activity AS a ON a.pid = s.pid
        WHERE a.application_name = 'flotilla' AND s.ssl";
    for good in [
        with(&url, "require", None),
        with(&url, "prefer", None),
        with(&named, "require", ours.clone()),
        with(&named, "verify-full", ours.clone()),
    ] {
        let stores = open(&good).unwrap();
        assert_eq!(server.sql("postgres", encrypted).unwrap(), "t");
        assert_eq!(stores.rows.positions().await.unwrap().len(), 4);
    }
    drop(open(&with(&url, "disable", None)).unwrap());
    for bad in [
        with(&named, "verify-full", other.clone()),
        with(&named, "require", other),
        // The name in the certificate is another one.
        with(&url, "verify-full", ours),
    ] {
        let refused = open(&bad).err().unwrap();
        assert!(matches!(&refused, OpenError::Unreachable { .. }) && refused.to_string().contains("TLS"), "{refused}");
    }
}
