//! A CA that is brought to an empty store, in a folder: that of a single node of former versions, or a given key with its
//! certificate (`key.pem`, `cert.pem`). Read once, then set aside.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::authority::Authority;
use super::{CaError, KeyId, Keys, Rotation, TrustDomain};
use crate::secrets::{ensure_private_dir, read_private};

const STATE_FILE: &str = "state.json";
const GIVEN_KEY_FILE: &str = "key.pem";
const GIVEN_CERTIFICATE_FILE: &str = "cert.pem";
const NOTE_FILE: &str = "README";
const NOTE: &str = "The certificate authority is in the store now, sealed with the key in cluster.key, and this folder is not read\n\
                    any more. It holds private keys: remove it once the store and cluster.key are backed up.\n";

#[derive(serde::Deserialize)]
struct StateFile {
    version: u32,
    trust_domain: String,
    #[serde(flatten)]
    rotation: Rotation,
}

/// `None` when there is no CA in this folder.
pub(super) fn load(dir: &Path, trust_domain: &TrustDomain, now_s: u64) -> Result<Option<Keys>, CaError> {
    let path = dir.join(STATE_FILE);
    let Some(bytes) = read_private(&path)? else { return given(dir, now_s) };
    ensure_private_dir(dir)?;
    let state: StateFile = serde_json::from_slice(&bytes).map_err(|_| CaError::Damaged { path: path.clone() })?;
    if state.version != 1 {
        return Err(CaError::Damaged { path });
    }
    if state.trust_domain != trust_domain.as_str() {
        return Err(CaError::TrustDomain { found: state.trust_domain, wanted: trust_domain.as_str().to_owned() });
    }
    let issuing = authority(dir, state.rotation.issuing())?;
    let other = state.rotation.other().map(|id| authority(dir, id)).transpose()?;
    Keys::new(state.rotation, issuing.into(), other.map(Into::into), now_s).map(Some)
}

/// A CA of the owner's own: P-256, with a certificate that makes it one and that is still good.
fn given(dir: &Path, now_s: u64) -> Result<Option<Keys>, CaError> {
    let (key_path, certificate_path) = (dir.join(GIVEN_KEY_FILE), dir.join(GIVEN_CERTIFICATE_FILE));
    let Some(key) = read_private(&key_path)? else { return Ok(None) };
    let fault = |path: &Path, remedy| CaError::Given { path: path.to_owned(), remedy };
    let certificate = std::fs::read(&certificate_path)
        .map_err(|_| fault(&certificate_path, "put the certificate of key.pem (PEM) beside it"))?;
    let key = std::str::from_utf8(&key).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
    let key = key.filter(|key| key.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256);
    let key = key.ok_or_else(|| fault(&key_path, "give an ECDSA P-256 key, PKCS #8 in PEM"))?;
    let certificate = CertificateDer::from_pem_slice(&certificate)
        .map_err(|_| fault(&certificate_path, "give one certificate in PEM"))?;
    {
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|_| CaError::Certificate)?;
        let not_after_s = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
        if !parsed.is_ca() || not_after_s <= now_s {
            return Err(fault(
                &certificate_path,
                "give the certificate of a CA (basicConstraints CA:TRUE) that has not ended",
            ));
        }
    }
    let authority = Authority::from_parts(certificate, key)?;
    let rotation = Rotation::Stable { current: authority.id };
    Keys::new(rotation, authority.into(), None, now_s).map(Some)
}

fn authority(dir: &Path, id: KeyId) -> Result<Authority, CaError> {
    let (key_path, certificate_path) = (dir.join(format!("{id}.key.pem")), dir.join(format!("{id}.crt.pem")));
    let missing = || CaError::MissingKey { id, dir: dir.to_owned() };
    let damaged = |path: &Path| CaError::Damaged { path: path.to_owned() };
    let key = read_private(&key_path)?.ok_or_else(missing)?;
    let certificate = read_private(&certificate_path)?.ok_or_else(missing)?;
    let key = std::str::from_utf8(&key).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
    let key = key.ok_or_else(|| damaged(&key_path))?;
    let certificate = CertificateDer::from_pem_slice(&certificate).map_err(|_| damaged(&certificate_path))?;
    let authority = Authority::from_parts(certificate, key)?;
    if authority.id == id { Ok(authority) } else { Err(damaged(&key_path)) }
}

/// Renames the folder, with a note in it. That it stays is no fault: the next start finds it known and tries again.
pub(super) fn set_aside(dir: &Path) {
    let aside: PathBuf = dir.with_added_extension("imported");
    let moved = if aside.exists() {
        Err(std::io::Error::from(std::io::ErrorKind::AlreadyExists))
    } else {
        fs::rename(dir, &aside).and_then(|()| fs::write(aside.join(NOTE_FILE), NOTE))
    };
    match moved {
        Ok(()) => {
            tracing::info!(was = %dir.display(), now = %aside.display(), "the certificate authority is in the store")
        }
        Err(error) => tracing::warn!(%error, dir = %dir.display(), "the CA's former folder stays where it is"),
    }
}
