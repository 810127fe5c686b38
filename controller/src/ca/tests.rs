//! The authority over a real catalog: chains that verify, foreign ones that do not, rotation and back, two controllers with
//! one CA, and the folder of a former version.

use flotilla_protocol::id::{DeviceId, TenantId};
use rcgen::{CertificateParams, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;
use crate::secrets::ClusterKey;
use crate::store::testing::new_stores;

const NOW_S: u64 = 1_763_640_000;

fn domain() -> TrustDomain {
    TrustDomain::parse("test.flotilla").unwrap()
}

/// A store, and the key for its secrets.
struct Place {
    dir: tempfile::TempDir,
    catalog: Arc<dyn Catalog>,
    secrets: ClusterKeys,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = new_stores(&dir.path().join("store")).catalog;
        Self { dir, catalog, secrets: ClusterKey::from_bytes([1; 32]).into() }
    }

    /// As each controller of a cluster opens it.
    async fn open(&self) -> Result<Ca, CaError> {
        self.open_with(self.secrets.clone(), None).await
    }

    async fn open_with(&self, secrets: ClusterKeys, folder: Option<&Path>) -> Result<Ca, CaError> {
        Ca::open(self.catalog.clone(), secrets, domain(), folder, NOW_S).await
    }

    async fn ca(&self) -> Ca {
        self.open().await.unwrap()
    }

    async fn sealed(&self) -> Vec<Vec<u8>> {
        let rows = self.catalog.read(|tx| tx.query("SELECT key_sealed FROM ca_keys", &[])).await.unwrap();
        rows.iter().map(|row| row.get("key_sealed").unwrap()).collect()
    }

    async fn set(&self, sql: &'static str, params: Vec<crate::store::Value>) {
        self.catalog.run(move |tx| tx.execute(sql, &params).map(drop)).await.unwrap();
    }
}

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

fn ids() -> (TenantId, DeviceId) {
    (TenantId::new(1, [1; 10]), DeviceId::new(2, [2; 10]))
}

fn device(ca: &Ca) -> DeviceCertificate {
    let key = DeviceKey::from_csr(&csr(&KeyPair::generate().unwrap())).unwrap();
    let (tenant, device) = ids();
    ca.issue_device(&key, tenant, device, NOW_S).unwrap()
}

fn server_accepts(ca: &Ca, certificate: &DeviceCertificate, at_s: u64) -> bool {
    let (_, roots) = ca.trust_anchors().unwrap();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let leaf = CertificateDer::from(certificate.chain_der[0].clone());
    verifier.verify_client_cert(&leaf, &[], UnixTime::since_unix_epoch(std::time::Duration::from_secs(at_s))).is_ok()
}

/// Whether a device with these roots accepts what the controller shows.
fn device_accepts(roots_der: &[Vec<u8>], ca: &Ca) -> bool {
    let shown = ca.issue_controller("a", NOW_S).unwrap();
    let roots = client_trust(roots_der).unwrap();
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider()).build().unwrap();
    let name = ServerName::try_from(CONTROLLER_DNS_NAME).unwrap();
    let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(NOW_S));
    verifier.verify_server_cert(&shown.cert[0], &shown.cert[1..], &name, &[], now).is_ok()
}

/// The pins of what the controller shows beside its leaf.
fn shown_pins(ca: &Ca) -> Vec<[u8; 32]> {
    let shown = ca.issue_controller("a", NOW_S).unwrap();
    let pin = |der: &CertificateDer<'_>| {
        let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
        identity::pin_of(parsed.public_key().raw)
    };
    shown.cert[1..].iter().map(pin).collect()
}

#[tokio::test]
async fn a_device_certificate_names_its_device_and_lives_a_week() {
    let place = Place::new();
    let ca = place.ca().await;
    let certificate = device(&ca);
    let (tenant, device) = ids();
    let identity = DeviceIdentity::of_certificate(&certificate.chain_der[0], &domain()).unwrap();
    assert_eq!(identity, DeviceIdentity { tenant, device, serial: certificate.serial });
    let end_s = NOW_S + DEVICE_LIFETIME_S;
    for (at_s, accepted) in
        [(NOW_S - CLOCK_SKEW_S - 1, false), (NOW_S - CLOCK_SKEW_S, true), (end_s, true), (end_s + 1, false)]
    {
        assert_eq!(server_accepts(&ca, &certificate, at_s), accepted, "at {at_s}");
    }
}

#[tokio::test]
async fn another_ca_and_another_trust_domain_are_refused() {
    let (here, there) = (Place::new(), Place::new());
    let (ours, theirs) = (here.ca().await, there.ca().await);
    let certificate = device(&theirs);
    assert!(!server_accepts(&ours, &certificate, NOW_S));
    assert!(!device_accepts(&theirs.roots_der(), &ours));
    assert!(device_accepts(&ours.roots_der(), &ours));
    let elsewhere = TrustDomain::parse("test.flotilla.example").unwrap();
    let identity = DeviceIdentity::of_certificate(&certificate.chain_der[0], &elsewhere);
    assert_eq!(identity, Err(IdentityError::NotADevice));
}

#[tokio::test]
async fn names_in_a_request_change_nothing() {
    let place = Place::new();
    let ca = place.ca().await;
    let (tenant, device) = ids();
    let mut params = CertificateParams::default();
    let forged = domain().device_uri(TenantId::new(9, [9; 10]), device);
    params.subject_alt_names = vec![SanType::URI(forged.try_into().unwrap())];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let request = params.serialize_request(&KeyPair::generate().unwrap()).unwrap();
    let key = DeviceKey::from_csr(request.der()).unwrap();
    let certificate = ca.issue_device(&key, tenant, device, NOW_S).unwrap();
    let identity = DeviceIdentity::of_certificate(&certificate.chain_der[0], &domain()).unwrap();
    assert_eq!(identity.tenant, tenant);
    let (_, parsed) = x509_parser::parse_x509_certificate(&certificate.chain_der[0]).unwrap();
    assert!(!parsed.is_ca());
}

#[tokio::test]
async fn a_controller_certificate_is_no_device() {
    let shown = Place::new().ca().await.issue_controller("a", NOW_S).unwrap();
    let identity = DeviceIdentity::of_certificate(&shown.cert[0], &domain());
    assert_eq!(identity, Err(IdentityError::NotADevice));
}

#[test]
fn bad_requests_are_told_apart() {
    let good = csr(&KeyPair::generate().unwrap());
    assert!(DeviceKey::from_csr(&good).is_ok());
    let mut trailing = good.clone();
    trailing.push(0);
    let mut broken = good.clone();
    *broken.last_mut().unwrap() ^= 1;
    let other_curve = csr(&KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    let table = [
        (vec![0; CSR_BYTES_MAX + 1], CsrError::TooLong),
        (b"not a request".to_vec(), CsrError::Malformed),
        (trailing, CsrError::Malformed),
        (broken, CsrError::Signature),
        (other_curve, CsrError::Algorithm),
    ];
    for (request, error) in table {
        assert_eq!(DeviceKey::from_csr(&request), Err(error));
    }
    for cut in 0..good.len() {
        assert!(DeviceKey::from_csr(&good[..cut]).is_err(), "cut at {cut}");
    }
}

#[tokio::test]
async fn every_controller_of_a_store_has_the_same_ca() {
    let place = Place::new();
    let (one, two) = tokio::join!(place.open(), place.open());
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.pins(), two.pins());
    assert_eq!(place.sealed().await.len(), 1);
    assert!(server_accepts(&two, &device(&one), NOW_S) && device_accepts(&one.roots_der(), &two));

    let elsewhere = TrustDomain::parse("b").unwrap();
    let renamed = Ca::open(place.catalog.clone(), place.secrets.clone(), elsewhere, None, NOW_S).await;
    assert!(matches!(renamed, Err(CaError::TrustDomain { .. })));
    let stranger = place.open_with(ClusterKey::generate().into(), None).await;
    assert!(matches!(stranger, Err(CaError::Unseal(UnsealError::UnknownKey { .. }))));
}

#[tokio::test]
async fn a_step_is_noticed_elsewhere_and_two_do_not_step_at_once() {
    let place = Place::new();
    let (one, two) = (place.ca().await, place.ca().await);
    one.rotate_prepare(NOW_S).await.unwrap();
    let generation = two.generation();
    // Until it has looked, the other one issues nothing.
    let checked = place.catalog.read({
        let two = Arc::new(place.ca().await);
        one.rotate_activate(NOW_S).await.unwrap();
        move |tx| two.check_current(tx)
    });
    assert!(matches!(checked.await, Err(CaError::Behind)));
    assert!(two.refresh(NOW_S).await.unwrap());
    assert!(!two.refresh(NOW_S).await.unwrap());
    assert_eq!((two.rotation(), two.pins()), (one.rotation(), one.pins()));
    assert!(two.generation() > generation);

    // Both decide on the same state; the store takes one of them.
    let (first, second) = tokio::join!(one.rotate_finish(0, false, NOW_S), two.rotate_rollback(0, false, NOW_S));
    let refused = match (first, second) {
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => error,
        both => panic!("{both:?}"),
    };
    assert!(matches!(refused, CaError::Changed | CaError::Rotation(_)), "{refused}");
    one.refresh(NOW_S).await.unwrap();
    two.refresh(NOW_S).await.unwrap();
    assert_eq!(one.pins(), two.pins());
}

#[tokio::test]
async fn a_step_on_an_older_version_is_refused() {
    let place = Place::new();
    let ca = place.ca().await;
    let keys = ca.keys();
    place.ca().await.rotate_prepare(NOW_S).await.unwrap();
    assert!(matches!(ca.shared.step(1, &keys, NOW_S).await, Err(CaError::Changed)));
    assert_eq!(place.ca().await.rotation().phase(), "prepared");
}

#[tokio::test]
async fn keys_are_sealed_and_sealed_anew_for_a_new_cluster_key() {
    let place = Place::new();
    let pins = place.ca().await.pins();
    let before = place.sealed().await;
    let (old, new) = (ClusterKey::from_bytes([1; 32]), ClusterKey::from_bytes([2; 32]));
    let both = ClusterKeys::parse(&format!("{}\n{}", new.to_line(), old.to_line())).unwrap();
    assert_eq!(place.open_with(both, None).await.unwrap().pins(), pins);
    let after = place.sealed().await;
    assert_ne!(before, after);
    assert_eq!(place.open_with(new.into(), None).await.unwrap().pins(), pins);
    assert!(matches!(place.open().await, Err(CaError::Unseal(_))));
}

#[tokio::test]
async fn damage_in_the_store_is_told() {
    let place = Place::new();
    place.ca().await;
    let foreign = Authority::generate(NOW_S).unwrap().certificate.to_vec();
    place.set("UPDATE ca_keys SET cert_der = $1", vec![foreign.into()]).await;
    assert!(matches!(place.open().await, Err(CaError::Certificate)));
    place.set("UPDATE ca_keys SET key_sealed = $1", vec![vec![1u8; 80].into()]).await;
    assert!(matches!(place.open().await, Err(CaError::Unseal(_))));
    place.set("DELETE FROM ca_keys", vec![]).await;
    assert!(matches!(place.open().await, Err(CaError::DamagedStore)));
}

/// A folder as the first release has left it, with a rotation under way.
fn former_folder(dir: &Path) -> [Authority; 2] {
    let keys = [Authority::generate(NOW_S).unwrap(), Authority::generate(NOW_S).unwrap()];
    ensure_private_dir(dir).unwrap();
    for key in &keys {
        let pem = |what: &str, der: &[u8]| {
            format!("-----BEGIN {what}-----\n{}\n-----END {what}-----\n", data_encoding::BASE64.encode(der))
        };
        write_private(&dir.join(format!("{}.key.pem", key.id)), pem("PRIVATE KEY", &key.key_der()).as_bytes()).unwrap();
        write_private(&dir.join(format!("{}.crt.pem", key.id)), pem("CERTIFICATE", &key.certificate).as_bytes())
            .unwrap();
    }
    let state = serde_json::json!({
        "version": 1, "trust_domain": "test.flotilla", "phase": "active", "previous": keys[0].id, "current": keys[1].id,
    });
    write_private(&dir.join("state.json"), state.to_string().as_bytes()).unwrap();
    keys
}

#[tokio::test]
async fn a_former_folder_is_imported_once_and_set_aside() {
    let place = Place::new();
    let folder = place.dir.path().join("ca");
    let [previous, current] = former_folder(&folder);
    let imported = place.open_with(place.secrets.clone(), Some(&folder)).await.unwrap();
    assert_eq!(imported.rotation(), Rotation::Active { previous: previous.id, current: current.id });
    assert_eq!(imported.pins(), [current.pin, previous.pin]);
    let aside = place.dir.path().join("ca.imported");
    assert!(!folder.exists() && aside.join("README").is_file() && aside.join("state.json").is_file());
    let again = place.open_with(place.secrets.clone(), Some(&folder)).await.unwrap();
    assert_eq!(again.pins(), imported.pins());

    // A crash came between the store and the folder: it is known and set aside later. Another CA's folder is not.
    std::fs::rename(&aside, &folder).unwrap();
    place.open_with(place.secrets.clone(), Some(&folder)).await.unwrap();
    assert!(!folder.exists());
    former_folder(&folder);
    let foreign = place.open_with(place.secrets.clone(), Some(&folder)).await;
    assert!(matches!(foreign, Err(CaError::Foreign { .. })));
    assert!(folder.exists());
}

#[tokio::test]
async fn damaged_and_missing_files_of_a_former_folder_are_named() {
    let place = Place::new();
    let folder = place.dir.path().join("ca");
    let [previous, _] = former_folder(&folder);
    let open = async || place.open_with(place.secrets.clone(), Some(&folder)).await;
    let key = folder.join(format!("{}.key.pem", previous.id));
    write_private(&key, KeyPair::generate().unwrap().serialize_pem().as_bytes()).unwrap();
    assert!(matches!(open().await, Err(CaError::Certificate)));
    write_private(&key, b"-----BEGIN").unwrap();
    assert!(matches!(open().await, Err(CaError::Damaged { .. })));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(open().await, Err(CaError::MissingKey { .. })));
    write_private(&folder.join("state.json"), b"{}").unwrap();
    assert!(matches!(open().await, Err(CaError::Damaged { .. })));
    assert_eq!(place.sealed().await.len(), 0, "nothing was made in its place");
}

#[tokio::test]
async fn a_rotation_shuts_nobody_out_at_any_step() {
    let place = Place::new();
    let ca = place.ca().await;
    let (old_roots, old_pins, old_device) = (ca.roots_der(), ca.pins(), device(&ca));

    ca.rotate_prepare(NOW_S).await.unwrap();
    let (both_roots, both_pins) = (ca.roots_der(), ca.pins());
    assert_eq!((both_roots.len(), both_pins.len()), (2, 2));
    assert!(device_accepts(&old_roots, &ca) && device_accepts(&both_roots, &ca));
    assert_eq!(device(&ca).issuer, old_device.issuer);

    ca.rotate_activate(NOW_S).await.unwrap();
    let new_device = device(&ca);
    assert_ne!(new_device.issuer, old_device.issuer);
    let only_new = vec![ca.roots_der()[0].clone()];
    for (who, roots) in [("old", &old_roots), ("both", &both_roots), ("new", &only_new)] {
        assert!(device_accepts(roots, &ca), "a device with the {who} roots");
    }
    assert!(server_accepts(&ca, &old_device, NOW_S) && server_accepts(&ca, &new_device, NOW_S));
    let shown = shown_pins(&ca);
    assert!(shown.contains(&old_pins[0]) && both_pins.iter().all(|pin| shown.contains(pin)));

    let refused = ca.rotate_finish(1, false, NOW_S).await;
    assert!(matches!(refused, Err(CaError::InUse { key, certificates: 1 }) if key == old_device.issuer));
    ca.rotate_finish(0, false, NOW_S).await.unwrap();
    assert!(!server_accepts(&ca, &old_device, NOW_S) && server_accepts(&ca, &new_device, NOW_S));
    assert!(!device_accepts(&old_roots, &ca) && device_accepts(&both_roots, &ca));
    assert_eq!(place.sealed().await.len(), 1, "the dropped key is gone from the store");
}

#[tokio::test]
async fn every_step_can_be_taken_back_also_after_a_restart() {
    let place = Place::new();
    let first = place.ca().await;
    let (old_roots, old_device) = (first.roots_der(), device(&first));
    first.rotate_prepare(NOW_S).await.unwrap();
    first.rotate_activate(NOW_S).await.unwrap();
    let new_device = device(&first);

    let active = place.ca().await;
    assert_eq!(active.rotation(), first.rotation());
    assert!(device_accepts(&old_roots, &active), "the cross certificate is made again");
    active.rotate_rollback(0, false, NOW_S).await.unwrap();
    assert_eq!(device(&active).issuer, old_device.issuer);
    assert!(server_accepts(&active, &new_device, NOW_S));

    let prepared = place.ca().await;
    assert!(matches!(prepared.rotate_rollback(1, false, NOW_S).await, Err(CaError::InUse { .. })));
    prepared.rotate_rollback(1, true, NOW_S).await.unwrap();
    assert_eq!(prepared.roots_der(), old_roots);
    assert!(server_accepts(&prepared, &old_device, NOW_S) && !server_accepts(&prepared, &new_device, NOW_S));
    assert!(matches!(prepared.rotate_rollback(0, false, NOW_S).await, Err(CaError::Rotation(_))));
}

#[tokio::test]
async fn a_given_ca_is_taken_and_rotated_like_our_own() {
    let place = Place::new();
    let folder = place.dir.path().join("ca");
    ensure_private_dir(&folder).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = |is_ca| {
        let mut params = CertificateParams::default();
        params.is_ca = is_ca;
        params.self_signed(&key).unwrap().pem()
    };
    let open = async || place.open_with(place.secrets.clone(), Some(&folder)).await;
    let put = |name: &str, text: &str| write_private(&folder.join(name), text.as_bytes()).unwrap();
    put("key.pem", &key.serialize_pem());
    assert!(matches!(open().await, Err(CaError::Given { .. })), "without a certificate");
    put("cert.pem", &certificate(rcgen::IsCa::ExplicitNoCa));
    assert!(matches!(open().await, Err(CaError::Given { .. })), "no certificate of a CA");
    put("key.pem", &KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap().serialize_pem());
    assert!(matches!(open().await, Err(CaError::Given { .. })), "another curve");
    put("key.pem", &key.serialize_pem());
    put("cert.pem", &certificate(rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)));

    let ca = open().await.unwrap();
    assert!(!folder.exists());
    assert_eq!(ca.pins(), [identity::pin_of(&rcgen::PublicKeyData::subject_public_key_info(&key))]);
    let (roots, certificate) = (ca.roots_der(), device(&ca));
    assert!(device_accepts(&roots, &ca) && server_accepts(&ca, &certificate, NOW_S));
    ca.rotate_prepare(NOW_S).await.unwrap();
    ca.rotate_activate(NOW_S).await.unwrap();
    assert!(device_accepts(&roots, &ca), "through the cross certificate");
    assert!(server_accepts(&ca, &certificate, NOW_S));
}

#[test]
fn trust_domains_are_parsed() {
    for good in ["a", "sms.example.org", "x-1_y"] {
        assert!(TrustDomain::parse(good).is_ok(), "{good}");
    }
    for bad in ["", "A", "a/b", "a b", &"a".repeat(129)] {
        assert!(TrustDomain::parse(bad).is_err(), "{bad}");
    }
}
