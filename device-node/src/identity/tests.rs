//! Files of identities, and what a certificate must be.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn ids() -> (DeviceId, TenantId, EnrollmentId) {
    (DeviceId::new(1, [1; 10]), TenantId::new(1, [2; 10]), EnrollmentId::new(1, [3; 10]))
}

fn credential(key: &Arc<dyn DeviceKey>) -> Vec<Vec<u8>> {
    let csr = rcgen::CertificateSigningRequestParams::from_der(&certificate_request(key).unwrap().into()).unwrap();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let issuer = rcgen::Issuer::new(rcgen::CertificateParams::default(), ca_key);
    vec![csr.signed_by(&issuer).unwrap().der().to_vec()]
}

fn issued(key: &Arc<dyn DeviceKey>) -> Issued {
    let (device, tenant, _) = ids();
    Issued {
        device,
        tenant,
        tenant_name: "Clinic".into(),
        chain_der: credential(key),
        roots_der: vec![vec![1, 2, 3]],
        controllers: vec!["a:1".into()],
    }
}

#[test]
fn an_identity_comes_back_with_both_credentials_and_nobody_else_reads_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = IdentityStore::new(folder.path().join("identity"), Arc::new(SoftwareKeys));
    assert!(store.load().unwrap().is_none());
    let (device, tenant, token) = ids();
    let key = store.pending_key(token).unwrap();
    let mut identity = Identity::from_issued(token, key.clone(), issued(&key)).unwrap();
    let newer = SoftwareKeys.create().unwrap();
    identity.renewed(Credential::new(newer.clone(), credential(&newer)).unwrap(), Vec::new());
    store.save(&identity).unwrap();
    let loaded = store.load().unwrap().unwrap();
    assert_eq!((loaded.device, loaded.tenant, loaded.token), (device, tenant, token));
    assert_eq!(loaded.credential.key.public_point(), newer.public_point());
    assert_eq!(loaded.previous.unwrap().key.public_point(), key.public_point());
    assert_eq!(loaded.roots_der, [[1, 2, 3]]);
    let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn the_key_of_an_enrolment_that_was_cut_short_is_used_again_for_the_same_token_only() {
    let folder = tempfile::tempdir().unwrap();
    let store = IdentityStore::fleeting(folder.path().join("identity"));
    let (_, _, token) = ids();
    let first = store.pending_key(token).unwrap();
    assert_eq!(store.pending_key(token).unwrap().public_point(), first.public_point());
    let other = store.pending_key(EnrollmentId::new(9, [9; 10])).unwrap();
    assert_ne!(other.public_point(), first.public_point());
    store.forget_pending().unwrap();
    store.forget_pending().unwrap();
    assert_ne!(store.pending_key(token).unwrap().public_point(), first.public_point());
}

#[test]
fn a_certificate_for_another_key_is_refused() {
    let (mine, other) = (SoftwareKeys.create().unwrap(), SoftwareKeys.create().unwrap());
    for chain in [credential(&other), Vec::new(), vec![vec![0x30, 0x00]], vec![Vec::new(); 9]] {
        assert!(matches!(Credential::new(mine.clone(), chain), Err(IdentityError::Certificate(_))));
    }
}

#[test]
fn a_damaged_or_newer_file_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let store = IdentityStore::fleeting(folder.path().join("identity"));
    std::fs::write(store.path(), [VERSION, 1, 2, 3]).unwrap();
    assert!(store.load().unwrap_err().to_string().ends_with("enrol this device again"));
    std::fs::write(store.path(), [VERSION + 1]).unwrap();
    assert!(store.load().unwrap_err().to_string().ends_with("update this program"));
}

#[test]
fn renewal_is_spread_from_a_third_of_the_life_to_a_half() {
    let key = SoftwareKeys.create().unwrap();
    let mut credential = Credential::new(key.clone(), credential(&key)).unwrap();
    (credential.not_before_s, credential.not_after_s) = (1_000, 1_600);
    assert_eq!(credential.renew_at_s(0.0), 1_200);
    assert_eq!(credential.renew_at_s(1.0), 1_300);
    assert!(!credential.is_over(1_599) && credential.is_over(1_600));
}
