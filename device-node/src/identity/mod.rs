//! Who a device is: its certificates with their keys, whom it trusts, where it connects.
//!
//! One file holds it all, replaced atomically, so that a certificate and its key never come apart. A renewed credential
//! stands beside the one it replaces until it has connected once.

mod file;
mod key;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, EnrollmentId, TenantId};
use flotilla_protocol::wire::Issued;
use serde::{Deserialize, Serialize};
use x509_parser::prelude::{FromDer, X509Certificate};

pub(crate) use key::TlsKey;
pub use key::{DeviceKey, KeyError, KeyStore, SoftwareKeys, certificate_request};

const VERSION: u8 = 1;
const CHAIN_MAX: usize = 4;

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} is damaged: enrol this device again")]
    Damaged(PathBuf),
    #[error("{0} was written by a newer version: update this program")]
    Version(PathBuf),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("the controller's certificate for this device is unusable: {0}")]
    Certificate(&'static str),
}

/// A certificate with its key.
#[derive(Clone)]
pub struct Credential {
    pub key: Arc<dyn DeviceKey>,
    /// Leaf first, DER.
    pub chain_der: Vec<Vec<u8>>,
    /// Unix seconds.
    pub not_before_s: u64,
    pub not_after_s: u64,
}

impl Credential {
    /// Checks that the leaf is for this key, and reads its dates.
    pub fn new(key: Arc<dyn DeviceKey>, chain_der: Vec<Vec<u8>>) -> Result<Self, IdentityError> {
        if chain_der.len() > CHAIN_MAX {
            return Err(IdentityError::Certificate("its chain is too long"));
        }
        let leaf = chain_der.first().ok_or(IdentityError::Certificate("its chain is empty"))?;
        let (_, leaf) =
            X509Certificate::from_der(leaf).map_err(|_| IdentityError::Certificate("it can not be read"))?;
        if leaf.public_key().subject_public_key.data.as_ref() != key.public_point() {
            return Err(IdentityError::Certificate("it is for another key"));
        }
        let seconds = |time: i64| u64::try_from(time).unwrap_or(0);
        let not_before_s = seconds(leaf.validity().not_before.timestamp());
        let not_after_s = seconds(leaf.validity().not_after.timestamp());
        Ok(Self { key, chain_der, not_before_s, not_after_s })
    }

    pub fn is_over(&self, now_s: u64) -> bool {
        now_s >= self.not_after_s
    }

    /// From a third of its life, spread by `jitter` (0 to 1) over another sixth, so that a fleet enrolled in one hour
    /// does not renew in one hour for ever.
    pub fn renew_at_s(&self, jitter: f64) -> u64 {
        let life = self.not_after_s.saturating_sub(self.not_before_s);
        self.not_before_s + life / 3 + (life as f64 / 6.0 * jitter.clamp(0.0, 1.0)) as u64
    }
}

/// An enrolled device.
#[derive(Clone)]
pub struct Identity {
    pub device: DeviceId,
    pub tenant: TenantId,
    pub tenant_name: String,
    pub token: EnrollmentId,
    pub credential: Credential,
    /// The credential before, until `credential` has connected.
    pub previous: Option<Credential>,
    pub roots_der: Vec<Vec<u8>>,
    pub controllers: Vec<String>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("device", &self.device).field("tenant", &self.tenant).finish_non_exhaustive()
    }
}

impl Identity {
    pub fn from_issued(token: EnrollmentId, key: Arc<dyn DeviceKey>, issued: Issued) -> Result<Self, IdentityError> {
        let Issued { device, tenant, tenant_name, chain_der, roots_der, controllers } = issued;
        if roots_der.is_empty() {
            return Err(IdentityError::Certificate("no roots came with it"));
        }
        let credential = Credential::new(key, chain_der)?;
        Ok(Self { device, tenant, tenant_name, token, credential, previous: None, roots_der, controllers })
    }

    /// Puts a new credential in front.
    pub fn renewed(&mut self, credential: Credential, roots_der: Vec<Vec<u8>>) {
        self.previous = Some(std::mem::replace(&mut self.credential, credential));
        if !roots_der.is_empty() {
            self.roots_der = roots_der;
        }
    }
}

#[derive(Serialize, Deserialize)]
struct StoredCredential {
    key: Vec<u8>,
    chain_der: Vec<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct StoredIdentity {
    device: DeviceId,
    tenant: TenantId,
    tenant_name: String,
    token: EnrollmentId,
    credential: StoredCredential,
    previous: Option<StoredCredential>,
    roots_der: Vec<Vec<u8>>,
    controllers: Vec<String>,
}

/// An enrolment that has begun: the same key again gets the same certificate, should the answer be lost.
#[derive(Serialize, Deserialize)]
struct StoredPending {
    token: EnrollmentId,
    key: Vec<u8>,
}

/// The file of one identity.
#[derive(Clone)]
pub struct IdentityStore {
    path: PathBuf,
    keys: Arc<dyn KeyStore>,
    durable: bool,
}

impl IdentityStore {
    pub fn new(path: PathBuf, keys: Arc<dyn KeyStore>) -> Self {
        Self { path, keys, durable: true }
    }

    /// Without waiting for the disk: for simulated devices, which lose nothing but time when they enrol again.
    pub fn fleeting(path: PathBuf) -> Self {
        Self { path, keys: Arc::new(SoftwareKeys), durable: false }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn keys(&self) -> &Arc<dyn KeyStore> {
        &self.keys
    }

    pub fn load(&self) -> Result<Option<Identity>, IdentityError> {
        let Some(stored) = self.read::<StoredIdentity>(&self.path)? else { return Ok(None) };
        let credential = |stored: StoredCredential| -> Result<Credential, IdentityError> {
            Credential::new(self.keys.open(&stored.key)?, stored.chain_der)
        };
        Ok(Some(Identity {
            device: stored.device,
            tenant: stored.tenant,
            tenant_name: stored.tenant_name,
            token: stored.token,
            credential: credential(stored.credential)?,
            previous: stored.previous.map(credential).transpose()?,
            roots_der: stored.roots_der,
            controllers: stored.controllers,
        }))
    }

    pub fn save(&self, identity: &Identity) -> Result<(), IdentityError> {
        let credential = |credential: &Credential| StoredCredential {
            key: credential.key.handle().to_vec(),
            chain_der: credential.chain_der.clone(),
        };
        let stored = StoredIdentity {
            device: identity.device,
            tenant: identity.tenant,
            tenant_name: identity.tenant_name.clone(),
            token: identity.token,
            credential: credential(&identity.credential),
            previous: identity.previous.as_ref().map(credential),
            roots_der: identity.roots_der.clone(),
            controllers: identity.controllers.clone(),
        };
        self.write(&self.path, &stored)
    }

    /// The key for redeeming `token`, kept before it is used.
    pub(crate) fn pending_key(&self, token: EnrollmentId) -> Result<Arc<dyn DeviceKey>, IdentityError> {
        let path = self.pending_path();
        if let Some(pending) = self.read::<StoredPending>(&path)? {
            if pending.token == token {
                return Ok(self.keys.open(&pending.key)?);
            }
            self.keys.discard(&pending.key);
        }
        let key = self.keys.create()?;
        self.write(&path, &StoredPending { token, key: key.handle().to_vec() })?;
        Ok(key)
    }

    pub(crate) fn forget_pending(&self) -> Result<(), IdentityError> {
        let path = self.pending_path();
        file::remove(&path).map_err(|source| IdentityError::Io { path, source })
    }

    fn pending_path(&self) -> PathBuf {
        self.path.with_extension("pending")
    }

    fn read<T: serde::de::DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, IdentityError> {
        let bytes = file::read(path).map_err(|source| IdentityError::Io { path: path.to_owned(), source })?;
        let Some(bytes) = bytes else { return Ok(None) };
        match bytes.split_first() {
            Some((&VERSION, rest)) => {
                postcard::from_bytes(rest).map(Some).map_err(|_| IdentityError::Damaged(path.to_owned()))
            }
            Some((version, _)) if *version > VERSION => Err(IdentityError::Version(path.to_owned())),
            _ => Err(IdentityError::Damaged(path.to_owned())),
        }
    }

    fn write<T: Serialize>(&self, path: &Path, value: &T) -> Result<(), IdentityError> {
        let bytes = postcard::to_extend(value, vec![VERSION]).map_err(|_| IdentityError::Damaged(path.to_owned()))?;
        file::replace(path, &bytes, self.durable).map_err(|source| IdentityError::Io { path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests;
