//! Secrets at rest: a key that every controller of a cluster is given, and what is sealed with it before it goes into the
//! shared catalog. Whoever has a copy of the database alone learns no private key from it.
//!
//! Sealed is AES-256-GCM with a random nonce. The *place* (table, row, column) is authenticated with it, so a sealed value that
//! somebody moves to another row does not open there. The id of the key is in front, so that a wrong key is named instead of
//! looking like damage, and so that keys can be exchanged: a node opens with every key it has and seals with the first.

mod files;
mod key;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, MAX_TAG_LEN, NONCE_LEN, Nonce, UnboundKey};

pub use files::{SecretFileError, ensure_private_dir, read_private, write_private};
pub use key::{ClusterKey, ClusterKeyId, ClusterKeys, KEYS_MAX, KeyFileError};

/// The file of a single node's own key in its data folder.
pub const KEY_FILE: &str = "cluster.key";
/// No secret of ours is longer.
pub const SECRET_BYTES_MAX: usize = 16 * 1024;

const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnsealError {
    #[error("the secret {place} is sealed with the cluster key {wanted}, and this controller has {}: add that key to its key file", list(.has))]
    UnknownKey { place: String, wanted: ClusterKeyId, has: Vec<ClusterKeyId> },
    #[error("the secret {place} was sealed by a newer version of this program: update this controller")]
    Version { place: String },
    #[error("the secret {place} is damaged, or belongs elsewhere: restore the store from a backup")]
    Damaged { place: String },
}

fn list(ids: &[ClusterKeyId]) -> String {
    ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("a secret has at most {SECRET_BYTES_MAX} bytes, this one has {bytes}")]
    TooLong { bytes: usize },
    #[error("the system gives no random numbers, or the cipher is not available")]
    Cipher,
}

impl ClusterKeys {
    /// Seals for one place, such as `ca_keys/0123456789abcdef/key`. The same secret looks different each time.
    pub fn seal(&self, place: &str, secret: &[u8]) -> Result<Vec<u8>, SealError> {
        self.seal_with(place, secret, rand::random())
    }

    fn seal_with(&self, place: &str, secret: &[u8], nonce: [u8; NONCE_LEN]) -> Result<Vec<u8>, SealError> {
        if secret.len() > SECRET_BYTES_MAX {
            return Err(SealError::TooLong { bytes: secret.len() });
        }
        let key = self.sealing();
        let mut head = Vec::with_capacity(HEAD_BYTES + secret.len() + MAX_TAG_LEN);
        head.push(VERSION);
        head.extend_from_slice(&key.id().to_bytes());
        let context = context(&head, place);
        head.extend_from_slice(&nonce);
        let mut body = secret.to_vec();
        let cipher = cipher(key).ok_or(SealError::Cipher)?;
        cipher
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&context), &mut body)
            .map_err(|_| SealError::Cipher)?;
        head.append(&mut body);
        Ok(head)
    }

    /// Opens what was sealed for this place, with whichever of the keys it was.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, UnsealError> {
        let damaged = || UnsealError::Damaged { place: place.to_owned() };
        let (wanted, nonce, body) = parts(place, sealed)?;
        let key = self.find(wanted).ok_or_else(|| UnsealError::UnknownKey {
            place: place.to_owned(),
            wanted,
            has: self.ids().collect(),
        })?;
        let context = context(&sealed[..1 + KEY_ID_BYTES], place);
        let mut body = body.to_vec();
        let cipher = cipher(key).ok_or_else(damaged)?;
        let opened = cipher.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(&context), &mut body);
        let length = opened.map_err(|_| damaged())?.len();
        body.truncate(length);
        Ok(body)
    }

    /// Whether a sealed value should be sealed anew, because another key than the first has sealed it.
    pub fn is_outdated(&self, sealed: &[u8]) -> bool {
        parts("", sealed).is_ok_and(|(id, ..)| id != self.sealing().id())
    }
}

fn parts<'a>(place: &str, sealed: &'a [u8]) -> Result<(ClusterKeyId, [u8; NONCE_LEN], &'a [u8]), UnsealError> {
    let damaged = || UnsealError::Damaged { place: place.to_owned() };
    let (version, rest) = sealed.split_first().ok_or_else(damaged)?;
    if *version != VERSION {
        return Err(UnsealError::Version { place: place.to_owned() });
    }
    let (id, rest) = rest.split_first_chunk::<KEY_ID_BYTES>().ok_or_else(damaged)?;
    let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(damaged)?;
    Ok((ClusterKeyId::from_bytes(*id), *nonce, body))
}

/// What is authenticated beside the secret: the version, the key and the place.
fn context(head: &[u8], place: &str) -> Vec<u8> {
    [b"flotilla secret\0".as_slice(), head, place.as_bytes()].concat()
}

fn cipher(key: &ClusterKey) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key.bytes()).ok().map(LessSafeKey::new)
}

#[cfg(test)]
mod tests;
