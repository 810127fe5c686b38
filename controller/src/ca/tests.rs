//! The authority on real folders: files, chains that verify, foreign ones that do not, rotation and back.

use std::os::unix::fs::PermissionsExt;

use flotilla_protocol::id::{DeviceId, TenantId};
use rcgen::{CertificateParams, SanType};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::*;

const NOW_S: u64 = 1_763_640_000;

fn domain() -> TrustDomain {
    TrustDomain::parse("test.flotilla").unwrap()
}

fn ca(dir: &Path) -> Ca {
    Ca::open_or_create(&dir.join("ca"), domain(), NOW_S).unwrap()
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

#[test]
fn a_device_certificate_names_its_device_and_lives_a_week() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(dir.path());
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

#[test]
fn another_ca_and_another_trust_domain_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, theirs) = (ca(dir.path()), ca(&dir.path().join("other")));
    let certificate = device(&theirs);
    assert!(!server_accepts(&ours, &certificate, NOW_S));
    assert!(!device_accepts(&theirs.roots_der(), &ours));
    assert!(device_accepts(&ours.roots_der(), &ours));
    let elsewhere = TrustDomain::parse("test.flotilla.example").unwrap();
    let identity = DeviceIdentity::of_certificate(&certificate.chain_der[0], &elsewhere);
    assert_eq!(identity, Err(IdentityError::NotADevice));
}

#[test]
fn names_in_a_request_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(dir.path());
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

#[test]
fn a_controller_certificate_is_no_device() {
    let dir = tempfile::tempdir().unwrap();
    let shown = ca(dir.path()).issue_controller("a", NOW_S).unwrap();
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

#[test]
fn the_same_ca_is_loaded_again_and_its_files_are_private() {
    let dir = tempfile::tempdir().unwrap();
    let first = ca(dir.path());
    let certificate = device(&first);
    let again = ca(dir.path());
    assert_eq!(again.pins(), first.pins());
    assert!(server_accepts(&again, &certificate, NOW_S));
    for entry in std::fs::read_dir(dir.path().join("ca")).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
    }
    let renamed = Ca::open_or_create(&dir.path().join("ca"), TrustDomain::parse("b").unwrap(), NOW_S);
    assert!(matches!(renamed, Err(CaError::TrustDomain { .. })));
}

#[test]
fn damaged_and_missing_files_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let id = ca(dir.path()).rotation().issuing();
    let folder = dir.path().join("ca");
    let open = || Ca::open_or_create(&folder, domain(), NOW_S);
    let key = folder.join(format!("{id}.key.pem"));
    let other_key = KeyPair::generate().unwrap().serialize_pem();
    write_private(&key, other_key.as_bytes()).unwrap();
    assert!(matches!(open(), Err(CaError::Certificate)));
    write_private(&key, b"-----BEGIN").unwrap();
    assert!(matches!(open(), Err(CaError::Damaged { .. })));
    std::fs::remove_file(&key).unwrap();
    assert!(matches!(open(), Err(CaError::MissingKey { .. })));
    write_private(&folder.join("state.json"), b"{}").unwrap();
    assert!(matches!(open(), Err(CaError::Damaged { .. })));
}

#[test]
fn a_rotation_shuts_nobody_out_at_any_step() {
    let dir = tempfile::tempdir().unwrap();
    let ca = ca(dir.path());
    let (old_roots, old_pins, old_device) = (ca.roots_der(), ca.pins(), device(&ca));

    ca.rotate_prepare(NOW_S).unwrap();
    let (both_roots, both_pins) = (ca.roots_der(), ca.pins());
    assert_eq!((both_roots.len(), both_pins.len()), (2, 2));
    assert!(device_accepts(&old_roots, &ca) && device_accepts(&both_roots, &ca));
    assert_eq!(device(&ca).issuer, old_device.issuer);

    ca.rotate_activate(NOW_S).unwrap();
    let new_device = device(&ca);
    assert_ne!(new_device.issuer, old_device.issuer);
    let only_new = vec![ca.roots_der()[0].clone()];
    for (who, roots) in [("old", &old_roots), ("both", &both_roots), ("new", &only_new)] {
        assert!(device_accepts(roots, &ca), "a device with the {who} roots");
    }
    assert!(server_accepts(&ca, &old_device, NOW_S) && server_accepts(&ca, &new_device, NOW_S));
    let shown = shown_pins(&ca);
    assert!(shown.contains(&old_pins[0]) && both_pins.iter().all(|pin| shown.contains(pin)));

    let refused = ca.rotate_finish(1, false);
    assert!(matches!(refused, Err(CaError::InUse { key, certificates: 1 }) if key == old_device.issuer));
    ca.rotate_finish(0, false).unwrap();
    assert!(!server_accepts(&ca, &old_device, NOW_S) && server_accepts(&ca, &new_device, NOW_S));
    assert!(!device_accepts(&old_roots, &ca) && device_accepts(&both_roots, &ca));
    let files = std::fs::read_dir(dir.path().join("ca")).unwrap().count();
    assert_eq!(files, 3, "the dropped key is gone from the disk");
}

#[test]
fn every_step_can_be_taken_back_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let first = ca(dir.path());
    let (old_roots, old_device) = (first.roots_der(), device(&first));
    first.rotate_prepare(NOW_S).unwrap();
    first.rotate_activate(NOW_S).unwrap();
    let new_device = device(&first);

    let active = ca(dir.path());
    assert_eq!(active.rotation(), first.rotation());
    assert!(device_accepts(&old_roots, &active), "the cross certificate is made again");
    active.rotate_rollback(0, false, NOW_S).unwrap();
    assert_eq!(device(&active).issuer, old_device.issuer);
    assert!(server_accepts(&active, &new_device, NOW_S));

    let prepared = ca(dir.path());
    assert!(matches!(prepared.rotate_rollback(1, false, NOW_S), Err(CaError::InUse { .. })));
    prepared.rotate_rollback(1, true, NOW_S).unwrap();
    assert_eq!(prepared.roots_der(), old_roots);
    assert!(server_accepts(&prepared, &old_device, NOW_S) && !server_accepts(&prepared, &new_device, NOW_S));
    assert!(matches!(prepared.rotate_rollback(0, false, NOW_S), Err(CaError::Rotation(_))));
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
