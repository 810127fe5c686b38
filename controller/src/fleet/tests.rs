//! Enrolments, devices and certificates over a real catalog; the gateway's tests go the same way over the network.

use std::sync::Arc;

use flotilla_cluster::NodeName;
use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::wire::Refusal;
use rcgen::{CertificateParams, KeyPair};
use tempfile::TempDir;

use super::audit::By;
use super::certificates::{self, Admission, IssueError};
use super::controllers::Controllers;
use super::cut;
use super::deny::DenyList;
use super::devices::{DeviceError, DeviceFilter, DevicePatch, DeviceState, Devices};
use super::enrollments::*;
use super::tenants::{self, Tenant};
use crate::ca::{Ca, DEVICE_LIFETIME_S, DeviceIdentity, TrustDomain};
use crate::secrets::ClusterKey;
use crate::store::testing::new_stores;
use crate::store::{Catalog, SqlError};

const NOW_MS: u64 = 1_763_640_000_000;

struct World {
    _dir: TempDir,
    catalog: Arc<dyn Catalog>,
    ca: Arc<Ca>,
    enrollments: Enrollments,
    devices: Devices,
    tenant: TenantId,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let catalog = new_stores(&dir.path().join("data")).catalog;
        let domain = TrustDomain::parse("test").unwrap();
        let ca = Ca::open(catalog.clone(), ClusterKey::generate().into(), domain, None, NOW_MS / 1000).await.unwrap();
        let ca = Arc::new(ca);
        let own = NodeName::parse("a").unwrap();
        let controllers = Controllers::alone(own, Arc::from(["a.example:1".to_owned()]));
        let enrollments = Enrollments::new(catalog.clone(), ca.clone(), controllers);
        let devices = Devices::new(catalog.clone(), Arc::new(DenyList::default()));
        let tenant = Self::tenant(&catalog, 1).await;
        Self { _dir: dir, catalog, ca, enrollments, devices, tenant }
    }

    async fn tenant(catalog: &Arc<dyn Catalog>, n: u8) -> TenantId {
        let id = TenantId::new(n.into(), [n; 10]);
        let new = Tenant { id, name: format!("tenant {n}"), disabled: false, created_ms: NOW_MS };
        tenants::create(&**catalog, By { actor: "test".into(), at_ms: NOW_MS }, new).await.unwrap().id
    }

    fn invitation(&self) -> NewEnrollment {
        NewEnrollment { tenant: self.tenant, ttl_s: None, device_name: String::new(), actor: "test".into() }
    }

    async fn device(&self) -> (DeviceId, KeyPair, DeviceIdentity) {
        let (_, code) = self.enrollments.create(self.invitation(), NOW_MS).await.unwrap();
        let key = KeyPair::generate().unwrap();
        let info = flotilla_protocol::wire::DeviceInfo { model: "Model\u{7} X".into(), ..Default::default() };
        let redemption = Redemption { token: code.token, secret: code.secret, csr_der: csr(&key), info };
        let issued = self.enrollments.redeem(redemption, NOW_MS).await.unwrap();
        let identity = DeviceIdentity::of_certificate(&issued.chain_der[0], self.ca.trust_domain()).unwrap();
        (issued.device, key, identity)
    }

    async fn admit(&self, identity: DeviceIdentity) -> Admission {
        self.catalog.read(move |tx| certificates::admit(tx, &identity)).await.unwrap()
    }

    async fn renew(&self, identity: DeviceIdentity, now_ms: u64) -> Result<DeviceIdentity, IssueError> {
        let request = csr(&KeyPair::generate().unwrap());
        let renewed = certificates::renew(&*self.catalog, self.ca.clone(), identity, &request, now_ms).await?;
        Ok(DeviceIdentity { serial: renewed.serial, ..identity })
    }

    async fn used(&self, identity: DeviceIdentity) {
        self.catalog.run(move |tx| certificates::used(tx, &identity, NOW_MS)).await.unwrap();
    }
}

fn csr(key: &KeyPair) -> Vec<u8> {
    CertificateParams::default().serialize_request(key).unwrap().der().to_vec()
}

#[tokio::test]
async fn invitations_have_bounds_and_pages() {
    let world = World::new().await;
    for (ttl_s, fits) in [(59, false), (60, true), (30 * 86_400, true), (30 * 86_400 + 1, false)] {
        let made = world.enrollments.create(NewEnrollment { ttl_s: Some(ttl_s), ..world.invitation() }, NOW_MS).await;
        assert_eq!(made.is_ok(), fits, "{ttl_s}");
    }
    for name in ["x".repeat(65), "a\nb".to_owned()] {
        let made = world.enrollments.create(NewEnrollment { device_name: name, ..world.invitation() }, NOW_MS).await;
        assert!(matches!(made, Err(EnrollmentError::DeviceName)));
    }
    let nobody = NewEnrollment { tenant: TenantId::new(8, [8; 10]), ..world.invitation() };
    assert!(matches!(world.enrollments.create(nobody, NOW_MS).await, Err(EnrollmentError::NoTenant)));

    let (last, code) = world.enrollments.create(world.invitation(), NOW_MS + 5).await.unwrap();
    let page = world.enrollments.list(world.tenant, None, 2, NOW_MS).await.unwrap();
    assert_eq!((page.len(), page[0].id), (2, last.id));
    let rest = world.enrollments.list(world.tenant, Some(page[1].id), 2, NOW_MS).await.unwrap();
    assert_eq!(rest.len(), 1);
    assert_eq!(world.enrollments.code(last.id, NOW_MS), Some(code));
    assert_eq!(world.enrollments.code(last.id, last.expires_ms + 1_000), None);
    let late = world.enrollments.get(world.tenant, last.id, last.expires_ms + 1).await.unwrap();
    assert_eq!(late.state, EnrollmentState::Expired);

    let other = World::tenant(&world.catalog, 2).await;
    assert!(world.enrollments.list(other, None, 9, NOW_MS).await.unwrap().is_empty());
    assert!(matches!(world.enrollments.get(other, last.id, NOW_MS).await, Err(EnrollmentError::NotFound)));
}

#[tokio::test]
async fn the_secret_is_nowhere_in_the_catalog() {
    let world = World::new().await;
    let (enrollment, code) = world.enrollments.create(world.invitation(), NOW_MS).await.unwrap();
    let hash: Vec<u8> = world
        .catalog
        .read(move |tx| {
            let sql = "SELECT secret_hash FROM enrollments WHERE id = $1";
            let row = tx.query_one(sql, crate::sql_params![enrollment.id])?.ok_or(SqlError::Rows { found: 0 })?;
            row.get("secret_hash")
        })
        .await
        .unwrap();
    assert_eq!(hash, crate::ca::sha256(&code.secret));
    assert!(!hash.windows(16).any(|window| window == code.secret));
}

#[tokio::test]
async fn devices_are_listed_changed_and_never_seen_by_another_tenant() {
    let world = World::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(world.device().await.0);
    }
    let filter = DeviceFilter { limit: 2, ..DeviceFilter::default() };
    let mut listed = world.devices.list(world.tenant, filter).await.unwrap();
    let after = Some(listed[1].id);
    listed.extend(world.devices.list(world.tenant, DeviceFilter { after, ..filter }).await.unwrap());
    let mut sorted = ids.clone();
    sorted.sort();
    assert_eq!(listed.iter().map(|device| device.id).collect::<Vec<_>>(), sorted);
    assert_eq!(listed[0].name, "Model X", "a nameless device is called as its model is");

    let labels: std::collections::BTreeMap<_, _> = [("site".to_owned(), "north".to_owned())].into();
    let patch = DevicePatch { labels: Some(labels.clone()), ..DevicePatch::default() };
    let patched = world.devices.patch(world.tenant, ids[0], patch).await.unwrap();
    assert_eq!((patched.name.as_str(), patched.labels), ("Model X", labels));
    let nameless = DevicePatch { name: Some(String::new()), ..DevicePatch::default() };
    assert!(matches!(world.devices.patch(world.tenant, ids[0], nameless).await, Err(DeviceError::Name)));
    let many = (0..33).map(|n| (n.to_string(), String::new())).collect();
    let many = DevicePatch { labels: Some(many), ..DevicePatch::default() };
    assert!(matches!(world.devices.patch(world.tenant, ids[0], many).await, Err(DeviceError::Labels)));

    let stranger = World::tenant(&world.catalog, 2).await;
    assert!(matches!(world.devices.get(stranger, ids[0]).await, Err(DeviceError::NotFound)));
    let revoked = world.devices.revoke(stranger, ids[0], "x".into(), NOW_MS).await;
    assert!(matches!(revoked, Err(DeviceError::NotFound)));

    world.devices.touch(vec![(ids[0], 77), (ids[1], 78)]).await.unwrap();
    assert_eq!(world.devices.get(world.tenant, ids[1]).await.unwrap().last_seen_ms, Some(78));
    let drained = world.devices.set_draining(world.tenant, ids[1], true, "x".into(), NOW_MS).await.unwrap();
    assert_eq!(drained.state, DeviceState::Draining);
    let draining = DeviceFilter { state: Some(DeviceState::Draining), limit: 9, after: None };
    assert_eq!(world.devices.list(world.tenant, draining).await.unwrap().len(), 1);
    world.devices.revoke(world.tenant, ids[1], "x".into(), NOW_MS).await.unwrap();
    let resumed = world.devices.set_draining(world.tenant, ids[1], false, "x".into(), NOW_MS).await;
    assert!(matches!(resumed, Err(DeviceError::Revoked)));
}

#[tokio::test]
async fn the_first_use_of_a_certificate_ends_the_older_ones_only() {
    let world = World::new().await;
    let (_, _, first) = world.device().await;
    world.used(first).await;
    let second = world.renew(first, NOW_MS + 1_000).await.unwrap();
    let third = world.renew(first, NOW_MS + 2_000).await.unwrap();
    world.used(second).await;
    assert_eq!(world.admit(first).await, Admission::Refused(Refusal::StaleCertificate));
    assert_eq!(world.admit(second).await, Admission::Admitted { state: DeviceState::Active, first_use: false });
    assert_eq!(world.admit(third).await, Admission::Admitted { state: DeviceState::Active, first_use: true });
    world.used(third).await;
    assert_eq!(world.admit(second).await, Admission::Refused(Refusal::StaleCertificate));
}

#[tokio::test]
async fn renewals_are_bounded_and_counted_by_issuer() {
    let world = World::new().await;
    let (device, _, identity) = world.device().await;
    for n in 1..certificates::OPEN_CERTIFICATES_MAX {
        world.renew(identity, NOW_MS + n).await.unwrap();
    }
    assert!(matches!(world.renew(identity, NOW_MS).await, Err(IssueError::TooMany)));
    let issuer = world.ca.rotation().issuing();
    let now_s = NOW_MS / 1000;
    let open = certificates::open_of_issuer(&*world.catalog, issuer, now_s).await.unwrap();
    assert_eq!(open, certificates::OPEN_CERTIFICATES_MAX);
    world.devices.revoke(world.tenant, device, "x".into(), NOW_MS).await.unwrap();
    assert!(matches!(world.renew(identity, NOW_MS).await, Err(IssueError::NotActive)));
    assert_eq!(certificates::open_of_issuer(&*world.catalog, issuer, now_s).await.unwrap(), 0);
    let deny = DenyList::load(&*world.catalog, now_s).await.unwrap();
    assert!(deny.holds(&identity));

    assert_eq!(certificates::prune(&*world.catalog, now_s + DEVICE_LIFETIME_S).await.unwrap(), 0);
    let long_after_s = now_s + DEVICE_LIFETIME_S + 31 * 86_400;
    let pruned = certificates::prune(&*world.catalog, long_after_s).await.unwrap();
    assert_eq!(pruned, certificates::OPEN_CERTIFICATES_MAX);
}

#[tokio::test]
async fn a_disabled_tenant_has_no_devices_and_no_codes() {
    let world = World::new().await;
    let (_, _, identity) = world.device().await;
    let by = By { actor: "test".into(), at_ms: NOW_MS };
    tenants::set_disabled(&*world.catalog, by, world.tenant, true).await.unwrap();
    assert_eq!(world.admit(identity).await, Admission::Disabled);
    let made = world.enrollments.create(world.invitation(), NOW_MS).await;
    assert!(matches!(made, Err(EnrollmentError::NoTenant)));
}

#[test]
fn texts_are_cut_at_a_characters_end() {
    for (text, bytes, kept) in [("abc", 2, "ab"), ("aé", 2, "a"), ("a\u{1b}[0m", 9, "a[0m"), ("", 3, ""), ("é", 2, "é")]
    {
        assert_eq!(cut(text, bytes), kept);
    }
}
