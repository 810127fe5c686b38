//! The cluster's keys and the file that holds them: one key to a line, 64 hexadecimal digits, the first one seals.

use std::fmt;
use std::path::{Path, PathBuf};

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use ring::digest;

use super::files::{SecretFileError, read_private, write_private};

/// Keys in one file: the present one, and those that are being exchanged.
pub const KEYS_MAX: usize = 8;
const KEY_BYTES: usize = 32;

/// Names a key without telling anything of it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKeyId([u8; 8]);

impl ClusterKeyId {
    pub(super) const fn from_bytes(bytes: [u8; 8]) -> Self {
        Self(bytes)
    }

    pub(super) const fn to_bytes(self) -> [u8; 8] {
        self.0
    }
}

impl fmt::Display for ClusterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for ClusterKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// 256 random bits.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKey {
    id: ClusterKeyId,
    bytes: [u8; KEY_BYTES],
}

impl fmt::Debug for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterKey({})", self.id)
    }
}

impl ClusterKey {
    pub fn generate() -> Self {
        Self::from_bytes(rand::random())
    }

    pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
        let hash = digest::digest(&digest::SHA256, &[b"flotilla cluster key id\0".as_slice(), &bytes].concat());
        let mut id = [0; 8];
        id.copy_from_slice(&hash.as_ref()[..8]);
        Self { id: ClusterKeyId(id), bytes }
    }

    pub fn id(&self) -> ClusterKeyId {
        self.id
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.bytes
    }

    /// The line of a key file. It is the secret itself.
    pub fn to_line(&self) -> String {
        HEXLOWER.encode(&self.bytes)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    #[error(transparent)]
    File(#[from] SecretFileError),
    #[error("{path}: no such key file; make one with `flotilla cluster key`, and give the same to every node")]
    Missing { path: PathBuf },
    #[error("the cluster key in line {line} has to be 64 hexadecimal digits, as `flotilla cluster key` prints them")]
    Line { line: usize },
    #[error("a file of cluster keys has 1 to {KEYS_MAX} keys, this one has {found}")]
    Count { found: usize },
}

/// All keys of a node; never empty.
#[derive(Clone, PartialEq, Eq)]
pub struct ClusterKeys(Vec<ClusterKey>);

impl fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl From<ClusterKey> for ClusterKeys {
    fn from(key: ClusterKey) -> Self {
        Self(vec![key])
    }
}

impl ClusterKeys {
    /// From the text of a key file. Empty lines and those that begin with `#` do not count.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut keys = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line_text = line.trim();
            if line_text.is_empty() || line_text.starts_with('#') {
                continue;
            }
            let bytes = HEXLOWER_PERMISSIVE.decode(line_text.as_bytes()).ok();
            let bytes = bytes.and_then(|bytes| <[u8; KEY_BYTES]>::try_from(bytes).ok());
            keys.push(ClusterKey::from_bytes(bytes.ok_or(KeyFileError::Line { line: number + 1 })?));
        }
        match keys.len() {
            1..=KEYS_MAX => Ok(Self(keys)),
            found => Err(KeyFileError::Count { found }),
        }
    }

    /// Blocks on the file, which only its owner may be able to read.
    pub fn read(path: &Path) -> Result<Self, KeyFileError> {
        let bytes = read_private(path)?.ok_or_else(|| KeyFileError::Missing { path: path.to_owned() })?;
        Self::parse(&String::from_utf8_lossy(&bytes))
    }

    /// For a node that is alone: its own key, made when there is none.
    pub fn read_or_create(path: &Path) -> Result<Self, KeyFileError> {
        if let Some(bytes) = read_private(path)? {
            return Self::parse(&String::from_utf8_lossy(&bytes));
        }
        let key = ClusterKey::generate();
        tracing::info!(key = %key.id(), path = %path.display(), "made a key for the secrets in the store");
        let text = format!(
            "# Seals the secrets in the store. Without it every device has to be enrolled again: keep a copy.\n{}\n",
            key.to_line()
        );
        write_private(path, text.as_bytes())?;
        Ok(key.into())
    }

    pub fn ids(&self) -> impl Iterator<Item = ClusterKeyId> {
        self.0.iter().map(ClusterKey::id)
    }

    pub(super) fn sealing(&self) -> &ClusterKey {
        &self.0[0]
    }

    pub(super) fn find(&self, id: ClusterKeyId) -> Option<&ClusterKey> {
        self.0.iter().find(|key| key.id == id)
    }
}
