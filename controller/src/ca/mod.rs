//! The built-in certificate authority: it makes the identities of devices and controllers, and knows whom to trust.
//!
//! Devices trust a CA and not a host name, so that controllers may move: a QR code pins the CA's key, and every controller
//! shows a certificate for [`CONTROLLER_DNS_NAME`] that this CA has issued. Its keys are P-256 (ring). They are in the store,
//! sealed with the cluster's key, so that every controller has the same CA ([`shared`]); which key is for what is a small state
//! machine ([`Rotation`]) under a version. What another controller has changed is noticed by [`Ca::refresh`].
//!
//! Which certificates exist, and which are revoked, is in the catalog too (`fleet::certificates`), not here.

mod authority;
mod folder;
mod identity;
mod rotation;
mod shared;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_protocol::id::{DeviceId, TenantId};
use parking_lot::RwLock;
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;
use tokio::sync::Mutex;

use crate::secrets::{ClusterKeys, SealError, UnsealError};
pub use crate::secrets::{SecretFileError, ensure_private_dir, read_private, write_private};
use crate::store::{Catalog, SqlError, Tx};
use authority::Authority;
pub use authority::{CLOCK_SKEW_S, Validity};
pub(crate) use identity::sha256;
pub use identity::{
    CSR_BYTES_MAX, CsrError, DeviceIdentity, DeviceKey, IdentityError, KeyId, KeyIdError, Serial, SerialError,
    TrustDomain, TrustDomainError,
};
pub use rotation::{Rotation, RotationError};
use shared::Shared;
pub(crate) use tls::LiveCertificate;
pub use tls::{ServerTls, client_trust, provider, server_tls};

/// In every controller's certificate, and what devices send as SNI wherever the controller is.
pub use flotilla_protocol::wire::CONTROLLER_NAME as CONTROLLER_DNS_NAME;

pub const DEVICE_LIFETIME_S: u64 = 7 * 86_400;
/// Controllers renew theirs after a third of it, without a restart.
pub const CONTROLLER_LIFETIME_S: u64 = 3 * 86_400;

#[derive(Debug, thiserror::Error)]
pub enum CaError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("{path} is damaged: restore it from a backup")]
    Damaged { path: PathBuf },
    #[error("the key {id} of the CA is missing in {dir}: restore it from a backup")]
    MissingKey { id: KeyId, dir: PathBuf },
    #[error("the CA belongs to the trust domain `{found}`, not to `{wanted}`: set trust_domain to `{found}`")]
    TrustDomain { found: String, wanted: String },
    #[error("the CA in the store is damaged: restore the store from a backup")]
    DamagedStore,
    #[error(
        "the folder {dir} holds another CA than the store: start with the store that belongs to it, or move the folder away if no device depends on it"
    )]
    Foreign { dir: PathBuf },
    #[error("{path}: {remedy}")]
    Given { path: PathBuf, remedy: &'static str },
    #[error("a CA certificate does not fit its key")]
    Certificate,
    #[error(
        "another controller has changed the CA at the same moment: look at its state, and repeat what is still to be done"
    )]
    Changed,
    #[error("another controller has changed the CA a moment ago: try again")]
    Behind,
    #[error(transparent)]
    Unseal(#[from] UnsealError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error("the store does not answer: {0}")]
    Sql(#[from] SqlError),
    #[error("cannot make a certificate")]
    Issue(#[from] rcgen::Error),
    #[error("cannot use a certificate for TLS")]
    Tls(#[from] rustls::Error),
    #[error(transparent)]
    Rotation(#[from] RotationError),
    #[error(
        "{certificates} device certificates still depend on the CA key {key}: wait until they are renewed, or force it and enrol those devices again"
    )]
    InUse { key: KeyId, certificates: u64 },
}

/// A new certificate, and what its row in the catalog holds.
#[derive(Clone, Debug)]
pub struct DeviceCertificate {
    pub serial: Serial,
    pub issuer: KeyId,
    pub validity: Validity,
    /// Leaf first.
    pub chain_der: Vec<Vec<u8>>,
}

/// Cheap to use from any task: reads take one short lock. Opening, rotating and refreshing ask the catalog.
pub struct Ca {
    shared: Shared,
    trust_domain: TrustDomain,
    state: RwLock<State>,
    /// Grows with every change of the keys; whoever keeps something made from them compares it.
    generation: AtomicU64,
    /// One at a time reads the store and takes over what it says, so that nothing older comes after something newer.
    changes: Mutex<()>,
}

#[derive(Clone)]
struct State {
    /// The store's.
    version: u64,
    keys: Arc<Keys>,
}

struct Keys {
    rotation: Rotation,
    issuing: Arc<Authority>,
    other: Option<Arc<Authority>>,
    /// While the former key is still trusted: the issuing key's certificate as signed by the former.
    cross: Option<CertificateDer<'static>>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca")
            .field("trust_domain", &self.trust_domain)
            .field("rotation", &self.rotation())
            .finish_non_exhaustive()
    }
}

impl Ca {
    /// The CA of this store; an empty one gets that of `folder` if there is one in it (where a single node kept it formerly, or
    /// one that is given; it is then set aside), or else a new one. Of several controllers that begin at once, one is first, and all have its CA.
    pub async fn open(
        catalog: Arc<dyn Catalog>,
        secrets: ClusterKeys,
        trust_domain: TrustDomain,
        folder: Option<&Path>,
        now_s: u64,
    ) -> Result<Self, CaError> {
        let shared = Shared { catalog, secrets };
        let brought = match folder {
            Some(dir) => folder::load(dir, &trust_domain, now_s)?.map(|keys| (dir, keys)),
            None => None,
        };
        let state = match shared.load(&trust_domain, now_s).await? {
            Some((version, keys)) => State { version, keys: Arc::new(keys) },
            None => first(&shared, &trust_domain, brought.as_ref().map(|(_, keys)| keys), now_s).await?,
        };
        if let Some((dir, brought)) = brought {
            if !state.keys.trusted().any(|authority| authority.id == brought.issuing.id) {
                return Err(CaError::Foreign { dir: dir.to_owned() });
            }
            folder::set_aside(dir);
        }
        if shared.reseal().await? > 0 {
            tracing::info!("the CA's keys are sealed with the present cluster key");
        }
        let (generation, changes) = (AtomicU64::new(0), Mutex::new(()));
        Ok(Self { shared, trust_domain, state: RwLock::new(state), generation, changes })
    }

    /// Takes over what another controller has changed. One small query when nothing has. True when something has.
    pub async fn refresh(&self, now_s: u64) -> Result<bool, CaError> {
        let _one = self.changes.lock().await;
        self.refresh_locked(now_s).await
    }

    async fn refresh_locked(&self, now_s: u64) -> Result<bool, CaError> {
        let version = self.shared.version().await?.ok_or(CaError::DamagedStore)?;
        if version == self.state.read().version {
            return Ok(false);
        }
        let (version, keys) = self.shared.load(&self.trust_domain, now_s).await?.ok_or(CaError::DamagedStore)?;
        self.adopt(version, keys);
        Ok(true)
    }

    /// Refuses to issue from keys that another controller has changed: asked in the transaction that keeps the certificate.
    pub(crate) fn check_current(&self, tx: &mut dyn Tx) -> Result<(), CaError> {
        let version = shared::version(tx)?;
        if version == Some(self.state.read().version) { Ok(()) } else { Err(CaError::Behind) }
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn rotation(&self) -> Rotation {
        self.keys().rotation
    }

    /// SHA-256 of the trusted keys' SubjectPublicKeyInfo, the issuing one first: for enrolment codes.
    pub fn pins(&self) -> Vec<[u8; 32]> {
        self.keys().trusted().map(|authority| authority.pin).collect()
    }

    /// Certificates of the trusted keys, DER, the issuing one first: what devices trust for controllers.
    pub fn roots_der(&self) -> Vec<Vec<u8>> {
        self.keys().trusted().map(|authority| authority.certificate.to_vec()).collect()
    }

    /// A certificate for a device: [`DEVICE_LIFETIME_S`] from `now_s`, and valid a while before it for clocks that are late.
    pub fn issue_device(
        &self,
        key: &DeviceKey,
        tenant: TenantId,
        device: DeviceId,
        now_s: u64,
    ) -> Result<DeviceCertificate, CaError> {
        let keys = self.keys();
        let serial = Serial::from_random(rand::random());
        let validity =
            Validity { not_before_s: now_s.saturating_sub(CLOCK_SKEW_S), not_after_s: now_s + DEVICE_LIFETIME_S };
        let uri = self.trust_domain.device_uri(tenant, device);
        let leaf = keys.issuing.sign_device(key, &uri, &device.to_string(), serial, validity)?;
        Ok(DeviceCertificate { serial, issuer: keys.issuing.id, validity, chain_der: vec![leaf.to_vec()] })
    }

    /// A key and certificate for this controller, with the chain that proves it to devices of every root they may hold.
    pub(crate) fn issue_controller(&self, name: &str, now_s: u64) -> Result<CertifiedKey, CaError> {
        let keys = self.keys();
        let key = KeyPair::generate()?;
        let serial = Serial::from_random(rand::random());
        let validity =
            Validity { not_before_s: now_s.saturating_sub(CLOCK_SKEW_S), not_after_s: now_s + CONTROLLER_LIFETIME_S };
        let uri = self.trust_domain.controller_uri(name);
        let leaf = keys.issuing.sign_controller(&key, &uri, name, serial, validity)?;
        let mut chain = vec![leaf];
        chain.extend(keys.issuers());
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        Ok(CertifiedKey::new(chain, rustls::crypto::ring::sign::any_ecdsa_type(&key)?))
    }

    /// The trusted roots, and the generation they belong to.
    pub(crate) fn trust_anchors(&self) -> Result<(u64, RootCertStore), CaError> {
        // The number before the keys: a change in between makes the result look older than it is, which is harmless.
        let generation = self.generation();
        let mut roots = RootCertStore::empty();
        for authority in self.keys().trusted() {
            roots.add(authority.certificate.clone())?;
        }
        Ok((generation, roots))
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Makes the next key. From here on devices and codes get both.
    pub async fn rotate_prepare(&self, now_s: u64) -> Result<Rotation, CaError> {
        self.step(now_s, |keys| {
            let next = Arc::new(Authority::generate(now_s)?);
            Keys::new(keys.rotation.prepare(next.id)?, keys.issuing.clone(), Some(next), now_s)
        })
        .await
    }

    /// From here on the next key issues; both are trusted.
    pub async fn rotate_activate(&self, now_s: u64) -> Result<Rotation, CaError> {
        self.step(now_s, |keys| keys.swapped(keys.rotation.activate()?, now_s)).await
    }

    /// Drops the old key for good. `still_used` counts the valid device certificates that it has issued; unless it is 0
    /// the step is refused, or forced.
    pub async fn rotate_finish(&self, still_used: u64, force: bool, now_s: u64) -> Result<Rotation, CaError> {
        self.step(now_s, |keys| keys.without_other(keys.rotation.finish()?, still_used, force)).await
    }

    /// One step back. `still_used` as for [`Ca::rotate_finish`], of the next key; it only matters while prepared.
    pub async fn rotate_rollback(&self, still_used: u64, force: bool, now_s: u64) -> Result<Rotation, CaError> {
        self.step(now_s, |keys| {
            let rotation = keys.rotation.rollback()?;
            match rotation.other() {
                Some(_) => keys.swapped(rotation, now_s),
                None => keys.without_other(rotation, still_used, force),
            }
        })
        .await
    }

    /// Decided on the newest state; durable first, then in force. Another controller's step in between refuses it.
    async fn step(&self, now_s: u64, change: impl FnOnce(&Keys) -> Result<Keys, CaError>) -> Result<Rotation, CaError> {
        let _one = self.changes.lock().await;
        self.refresh_locked(now_s).await?;
        let State { version, keys } = self.state.read().clone();
        let changed = change(&keys)?;
        let version = self.shared.step(version, &changed, now_s).await?;
        Ok(self.adopt(version, changed))
    }

    fn keys(&self) -> Arc<Keys> {
        self.state.read().keys.clone()
    }

    fn adopt(&self, version: u64, keys: Keys) -> Rotation {
        let rotation = keys.rotation;
        *self.state.write() = State { version, keys: Arc::new(keys) };
        self.generation.fetch_add(1, Ordering::AcqRel);
        tracing::info!(phase = rotation.phase(), issuing = %rotation.issuing(), "the certificate authority has changed");
        rotation
    }
}

/// Puts a CA into a store that has none, unless another controller is faster.
async fn first(
    shared: &Shared,
    trust_domain: &TrustDomain,
    brought: Option<&Keys>,
    now_s: u64,
) -> Result<State, CaError> {
    let made;
    let keys = match brought {
        Some(keys) => keys,
        None => {
            let issuing = Arc::new(Authority::generate(now_s)?);
            made = Keys::new(Rotation::Stable { current: issuing.id }, issuing, None, now_s)?;
            &made
        }
    };
    if shared.create(trust_domain, keys, now_s).await? {
        tracing::info!(ca = %keys.issuing.id, imported = brought.is_some(), "the store has a certificate authority");
    }
    let (version, keys) = shared.load(trust_domain, now_s).await?.ok_or(CaError::DamagedStore)?;
    Ok(State { version, keys: Arc::new(keys) })
}

impl Keys {
    fn new(
        rotation: Rotation,
        issuing: Arc<Authority>,
        other: Option<Arc<Authority>>,
        now_s: u64,
    ) -> Result<Self, CaError> {
        let cross = match (&rotation, &other) {
            (Rotation::Active { .. }, Some(previous)) => {
                Some(previous.sign_cross(&issuing, Serial::from_random(rand::random()), now_s)?)
            }
            _ => None,
        };
        Ok(Self { rotation, issuing, other, cross })
    }

    /// The same two keys with their roles exchanged.
    fn swapped(&self, rotation: Rotation, now_s: u64) -> Result<Self, CaError> {
        let issuing = self.other.clone().ok_or(CaError::Certificate)?;
        Self::new(rotation, issuing, Some(self.issuing.clone()), now_s)
    }

    /// The issuing key alone. Refused while certificates depend on the other one, unless forced.
    fn without_other(&self, rotation: Rotation, still_used: u64, force: bool) -> Result<Self, CaError> {
        let dropped = self.rotation.drops(rotation);
        if let Some(key) = dropped.filter(|_| still_used > 0 && !force) {
            return Err(CaError::InUse { key, certificates: still_used });
        }
        Ok(Self { rotation, issuing: self.issuing.clone(), other: None, cross: None })
    }

    fn trusted(&self) -> impl Iterator<Item = &Arc<Authority>> {
        std::iter::once(&self.issuing).chain(&self.other)
    }

    /// What follows a controller's leaf. The roots are among them: who has only a pin must find the pinned key here.
    fn issuers(&self) -> impl Iterator<Item = CertificateDer<'static>> {
        let former =
            self.cross.iter().cloned().chain(
                self.other.iter().filter(|_| self.cross.is_some()).map(|authority| authority.certificate.clone()),
            );
        std::iter::once(self.issuing.certificate.clone()).chain(former)
    }
}

#[cfg(test)]
mod tests;
