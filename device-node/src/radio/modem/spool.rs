//! What was delivered directly and acknowledged to the network, until the outbox has it: one small file per TPDU.
//!
//! A modem that delivers directly keeps no copy, and the network forgets a message once it is acknowledged, long before
//! the other parts of a concatenated one arrive. So each TPDU is written here first, then acknowledged.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

/// At 4 KB of disk each: 16 MB. Full, the network keeps what comes.
const FILES_MAX: usize = 4096;
const TPDU_BYTES_MAX: usize = 256;
const SUFFIX: &str = ".tpdu";

/// Cheap to clone; all clones are one spool.
#[derive(Clone, Debug)]
pub(super) struct Spool {
    dir: Arc<PathBuf>,
    keys: Arc<Mutex<BTreeSet<u64>>>,
}

impl Spool {
    /// Opens the spool in `dir`, which is made if need be.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut keys = BTreeSet::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match path.file_name().and_then(|name| name.to_str()).and_then(key_of) {
                Some(key) => {
                    keys.insert(key);
                }
                // Torn by a crash before it was renamed: never acknowledged, so it comes again.
                None if path.extension().is_some_and(|extension| extension == "new") => fs::remove_file(&path)?,
                None => {}
            }
        }
        Ok(Self { dir: Arc::new(dir.to_owned()), keys: Arc::new(Mutex::new(keys)) })
    }

    /// Keeps `tpdu`; durable when this returns. The same TPDU again has the same key.
    pub(super) async fn put(&self, tpdu: &[u8]) -> io::Result<u64> {
        let key = key(tpdu);
        {
            let keys = self.keys.lock();
            if keys.contains(&key) {
                return Ok(key);
            }
            if keys.len() >= FILES_MAX {
                return Err(io::Error::other("the spool of received messages is full"));
            }
        }
        let (dir, bytes) = (self.dir.clone(), tpdu.to_vec());
        run(move || {
            let unfinished = dir.join(format!("{key:016x}.new"));
            let mut file = File::create(&unfinished)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, dir.join(name_of(key)))?;
            File::open(&*dir)?.sync_all()
        })
        .await?;
        self.keys.lock().insert(key);
        Ok(key)
    }

    /// Forgets one. That a crash may undo it does no harm: it is offered again under the same digest.
    pub(super) async fn remove(&self, key: u64) -> io::Result<()> {
        if !self.keys.lock().remove(&key) {
            return Ok(());
        }
        let path = self.dir.join(name_of(key));
        run(move || fs::remove_file(path)).await
    }

    /// Everything that is kept.
    pub(super) async fn load(&self) -> io::Result<Vec<(u64, Vec<u8>)>> {
        let keys: Vec<u64> = self.keys.lock().iter().copied().collect();
        let dir = self.dir.clone();
        run(move || {
            let read = |key: u64| Ok((key, fs::read(dir.join(name_of(key)))?));
            let mut kept: Vec<_> = keys.into_iter().map(read).collect::<io::Result<_>>()?;
            kept.retain(|(_, tpdu)| tpdu.len() <= TPDU_BYTES_MAX);
            Ok(kept)
        })
        .await
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

fn name_of(key: u64) -> String {
    format!("{key:016x}{SUFFIX}")
}

fn key_of(name: &str) -> Option<u64> {
    u64::from_str_radix(name.strip_suffix(SUFFIX)?, 16).ok()
}

/// A repetition by the network may differ in TP-MMS (bit 2 of the first octet, 3GPP TS 23.040 9.2.3.2) only.
fn key(tpdu: &[u8]) -> u64 {
    let mut context = ring::digest::Context::new(&ring::digest::SHA256);
    if let Some((first, rest)) = tpdu.split_first() {
        context.update(&[first & !0x04]);
        context.update(rest);
    }
    let digest = context.finish();
    digest.as_ref().iter().take(8).fold(0, |key, byte| key << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_put_survives_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::open(dir.path()).unwrap();
        let first = spool.put(&[0x04, 1, 2, 3]).await.unwrap();
        let second = spool.put(&[0x04, 9]).await.unwrap();
        assert_eq!(spool.put(&[0x00, 1, 2, 3]).await.unwrap(), first, "the same but for TP-MMS");
        fs::write(dir.path().join("0000000000000001.new"), b"torn").unwrap();
        drop(spool);

        let spool = Spool::open(dir.path()).unwrap();
        let mut kept = spool.load().await.unwrap();
        kept.sort_by_key(|(_, tpdu)| tpdu.len());
        assert_eq!(kept, [(second, vec![0x04, 9]), (first, vec![0x04, 1, 2, 3])]);
        assert!(!dir.path().join("0000000000000001.new").exists());
        spool.remove(first).await.unwrap();
        spool.remove(first).await.unwrap();
        assert_eq!(Spool::open(dir.path()).unwrap().load().await.unwrap(), [(second, vec![0x04, 9])]);
    }
}
