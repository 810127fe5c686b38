//! etcd that lets in only those who show who they are.

use std::path::Path;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, PermissionType, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType};

use super::*;
use crate::testing::ServerTls;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_and_a_password_are_shown_where_etcd_asks_for_them() {
    let _turn = turn().await;
    let Some(servers) = EtcdServers::start(1).await else { return };
    let mut root = servers.client(0).await.unwrap();
    demand_users(&mut root).await;
    let witness = Witness::new();
    let known = |password: &str| EtcdConfig {
        user: Some("flotilla".to_owned()),
        password: Some(password.to_owned()),
        ..config(&servers)
    };
    let nobody = Node::try_start(config(&servers), "a", &witness).await.err();
    assert!(matches!(nobody, Some(StartError::Refused(_))), "{nobody:?}");
    let wrong = Node::try_start(known("wrong"), "a", &witness).await.err();
    assert!(matches!(wrong, Some(StartError::Refused(_))), "{wrong:?}");
    let other = EtcdConfig { prefix: "/elsewhere".to_owned(), ..known("right") };
    let elsewhere = Node::try_start(other, "a", &witness).await.err();
    assert!(matches!(elsewhere, Some(StartError::Refused(_))), "{elsewhere:?}");

    let node = Node::start(known("right"), "a", &witness).await;
    witness.shared_out(&["a"]).await;
    // Changing users makes every token so far worthless.
    let options = ConnectOptions::new().with_user("root", "root");
    let mut root = Client::connect(servers.endpoints(), Some(options)).await.unwrap();
    root.user_add("another", "user", None).await.unwrap();
    node.control.move_shard(ShardId(0), Some(name("a"))).await.unwrap();
    node.leave().await;
}

async fn demand_users(root: &mut Client) {
    root.user_add("root", "root", None).await.unwrap();
    root.user_grant_role("root", "root").await.unwrap_or_else(|error| panic!("{error}"));
    root.role_add("flotilla").await.unwrap();
    let all = Permission::new(PermissionType::Readwrite, "/test/flotilla/").with_prefix();
    root.role_grant_permission("flotilla", all).await.unwrap();
    root.user_add("flotilla", "right", None).await.unwrap();
    root.user_grant_role("flotilla", "flotilla").await.unwrap();
    root.auth_enable().await.unwrap();
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for both ends of a connection on this machine, with its key.
    fn issue(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress([127, 0, 0, 1].into())];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }
}

fn write(dir: &Path, file: &str, text: &str) -> std::path::PathBuf {
    let path = dir.join(file);
    std::fs::write(&path, text).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_ends_show_certificates_where_etcd_speaks_tls() {
    let _turn = turn().await;
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.issue();
    let client = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(&authority.pem))
        .identity(Identity::from_pem(&cert, &key));
    let tls = ServerTls {
        ca_file: write(dir.path(), "ca.pem", &authority.pem),
        cert_file: write(dir.path(), "cert.pem", &cert),
        key_file: write(dir.path(), "key.pem", &key),
        client,
    };
    let Some(servers) = EtcdServers::start_with(1, Some(tls.clone())).await else { return };
    let shown = EtcdConfig {
        ca_file: Some(tls.ca_file.clone()),
        cert_file: Some(tls.cert_file.clone()),
        key_file: Some(tls.key_file.clone()),
        ..config(&servers)
    };
    let witness = Witness::new();
    let node = Node::start(shown.clone(), "a", &witness).await;
    witness.shared_out(&["a"]).await;
    node.leave().await;
    let nothing_shown = EtcdConfig { cert_file: None, key_file: None, ..shown.clone() };
    assert!(Node::try_start(nothing_shown, "b", &witness).await.is_err());
    let stranger = write(dir.path(), "stranger.pem", &Authority::new().pem);
    assert!(Node::try_start(EtcdConfig { ca_file: Some(stranger), ..shown }, "b", &witness).await.is_err());
}
