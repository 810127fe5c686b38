//! The built-in certificate authority: it makes the identities of devices and controllers, and knows whom to trust.
//!
//! Devices trust a CA and not a host name, so that controllers may move: a QR code pins the CA's key, and every controller
//! shows a certificate for [`CONTROLLER_DNS_NAME`] that this CA has issued. Keys are P-256 (ring), in files of mode 0600
//! below one folder; the folder's `state.json` says which key is for what ([`Rotation`]) and is written last, so that a
//! crash leaves at most a key that nobody uses.
//!
//! Which certificates exist, and which are revoked, is in the catalog (`fleet::certificates`), not here.

mod authority;
mod files;
mod identity;
mod rotation;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flotilla_protocol::id::{DeviceId, TenantId};
use parking_lot::{Mutex, RwLock};
use rcgen::KeyPair;
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use authority::Authority;
pub use authority::{CLOCK_SKEW_S, Validity};
pub use files::{SecretFileError, ensure_private_dir, read_private, write_private};
pub(crate) use identity::sha256;
pub use identity::{
    CSR_BYTES_MAX, CsrError, DeviceIdentity, DeviceKey, IdentityError, KeyId, KeyIdError, Serial, SerialError,
    TrustDomain, TrustDomainError,
};
pub use rotation::{Rotation, RotationError};
pub(crate) use tls::LiveCertificate;
pub use tls::{ServerTls, client_trust, provider, server_tls};

/// In every controller's certificate, and what devices send as SNI wherever the controller is.
pub use flotilla_protocol::wire::CONTROLLER_NAME as CONTROLLER_DNS_NAME;

pub const DEVICE_LIFETIME_S: u64 = 7 * 86_400;
/// Controllers renew theirs after a third of it, without a restart.
pub const CONTROLLER_LIFETIME_S: u64 = 3 * 86_400;

const STATE_FILE: &str = "state.json";

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
    #[error("a CA certificate does not fit its key")]
    Certificate,
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

#[derive(serde::Serialize, serde::Deserialize)]
struct StateFile {
    version: u32,
    trust_domain: String,
    #[serde(flatten)]
    rotation: Rotation,
}

/// Cheap to use from any task: reads take one short lock. The rotation steps write files and block.
pub struct Ca {
    dir: PathBuf,
    trust_domain: TrustDomain,
    keys: RwLock<Arc<Keys>>,
    /// Grows with every change of `keys`; whoever keeps something made from them compares it.
    generation: AtomicU64,
    /// One rotation step at a time.
    steps: Mutex<()>,
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
    /// Loads the CA of this folder, or makes one. Blocks on files.
    pub fn open_or_create(dir: &Path, trust_domain: TrustDomain, now_s: u64) -> Result<Self, CaError> {
        ensure_private_dir(dir)?;
        let keys = match read_private(&dir.join(STATE_FILE))? {
            Some(bytes) => Self::load(dir, &trust_domain, &bytes, now_s)?,
            None => {
                let authority = Authority::generate(now_s)?;
                authority.save(dir)?;
                let rotation = Rotation::Stable { current: authority.id };
                save_state(dir, &trust_domain, rotation)?;
                tracing::info!(ca = %authority.id, "made a new certificate authority");
                Keys { rotation, issuing: Arc::new(authority), other: None, cross: None }
            }
        };
        Ok(Self {
            dir: dir.to_owned(),
            trust_domain,
            keys: RwLock::new(Arc::new(keys)),
            generation: AtomicU64::new(0),
            steps: Mutex::new(()),
        })
    }

    fn load(dir: &Path, trust_domain: &TrustDomain, state: &[u8], now_s: u64) -> Result<Keys, CaError> {
        let damaged = || CaError::Damaged { path: dir.join(STATE_FILE) };
        let state: StateFile = serde_json::from_slice(state).map_err(|_| damaged())?;
        if state.version != 1 {
            return Err(damaged());
        }
        if state.trust_domain != trust_domain.as_str() {
            return Err(CaError::TrustDomain { found: state.trust_domain, wanted: trust_domain.as_str().to_owned() });
        }
        let load = |id| {
            let missing = || CaError::MissingKey { id, dir: dir.to_owned() };
            Ok::<_, CaError>(Arc::new(Authority::load(dir, id)?.ok_or_else(missing)?))
        };
        let issuing = load(state.rotation.issuing())?;
        let other = state.rotation.other().map(load).transpose()?;
        Keys::new(state.rotation, issuing, other, now_s)
    }

    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    pub fn rotation(&self) -> Rotation {
        self.keys.read().rotation
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
    pub fn rotate_prepare(&self, now_s: u64) -> Result<Rotation, CaError> {
        let _step = self.steps.lock();
        let keys = self.keys();
        let next = Arc::new(Authority::generate(now_s)?);
        let rotation = keys.rotation.prepare(next.id)?;
        next.save(&self.dir)?;
        self.adopt(Keys::new(rotation, keys.issuing.clone(), Some(next), now_s)?)
    }

    /// From here on the next key issues; both are trusted.
    pub fn rotate_activate(&self, now_s: u64) -> Result<Rotation, CaError> {
        let _step = self.steps.lock();
        let keys = self.keys();
        self.adopt(keys.swapped(keys.rotation.activate()?, now_s)?)
    }

    /// Drops the old key for good. `still_used` counts the valid device certificates that it has issued; unless it is 0
    /// the step is refused, or forced.
    pub fn rotate_finish(&self, still_used: u64, force: bool) -> Result<Rotation, CaError> {
        let _step = self.steps.lock();
        let keys = self.keys();
        self.drop_other(&keys, keys.rotation.finish()?, still_used, force)
    }

    /// One step back. `still_used` as for [`Ca::rotate_finish`], of the next key; it only matters while prepared.
    pub fn rotate_rollback(&self, still_used: u64, force: bool, now_s: u64) -> Result<Rotation, CaError> {
        let _step = self.steps.lock();
        let keys = self.keys();
        let rotation = keys.rotation.rollback()?;
        match rotation.other() {
            Some(_) => self.adopt(keys.swapped(rotation, now_s)?),
            None => self.drop_other(&keys, rotation, still_used, force),
        }
    }

    fn drop_other(&self, keys: &Keys, rotation: Rotation, still_used: u64, force: bool) -> Result<Rotation, CaError> {
        let dropped = keys.rotation.drops(rotation);
        if let Some(key) = dropped.filter(|_| still_used > 0 && !force) {
            return Err(CaError::InUse { key, certificates: still_used });
        }
        self.adopt(Keys { rotation, issuing: keys.issuing.clone(), other: None, cross: None })?;
        if let Some(key) = dropped {
            Authority::remove(&self.dir, key)?;
        }
        Ok(rotation)
    }

    fn keys(&self) -> Arc<Keys> {
        self.keys.read().clone()
    }

    /// Durable first, then in force.
    fn adopt(&self, keys: Keys) -> Result<Rotation, CaError> {
        let rotation = keys.rotation;
        save_state(&self.dir, &self.trust_domain, rotation)?;
        *self.keys.write() = Arc::new(keys);
        self.generation.fetch_add(1, Ordering::AcqRel);
        tracing::info!(phase = rotation.phase(), issuing = %rotation.issuing(), "the certificate authority has changed");
        Ok(rotation)
    }
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

fn save_state(dir: &Path, trust_domain: &TrustDomain, rotation: Rotation) -> Result<(), CaError> {
    let state = StateFile { version: 1, trust_domain: trust_domain.as_str().to_owned(), rotation };
    let text = serde_json::to_vec_pretty(&state).map_err(|_| CaError::Damaged { path: dir.join(STATE_FILE) })?;
    Ok(write_private(&dir.join(STATE_FILE), &text)?)
}

#[cfg(test)]
mod tests;
