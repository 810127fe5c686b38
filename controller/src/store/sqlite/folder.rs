//! The data folder: private to its user, and one process at a time.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::OpenError;

/// For how long a lock that is held is asked for again.
const TRIES_MAX: u32 = 20;
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// Held while the folder is in use; the kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct FolderLock {
    _file: File,
    // Behind the file: who waits for it finds the folder unlocked.
    _released: DropGuard,
}

/// `released` is cancelled when the lock is gone.
pub(super) fn lock(dir: &Path, released: CancellationToken) -> Result<FolderLock, OpenError> {
    let failed = |error| OpenError::Folder { dir: dir.to_owned(), error };
    if !dir.is_dir() {
        DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed)?;
    }
    let mut file = private(&dir.join("LOCK")).map_err(failed)?;
    let mut tries = 0;
    let locked = loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            // A process that we have just forked off shares what we held until it runs its own program.
            Err(Errno::WOULDBLOCK) if tries < TRIES_MAX => std::thread::sleep(TRY_AGAIN),
            done => break done,
        }
        tries += 1;
    };
    match locked {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            let mut pid = String::new();
            // The owner writes its number right after it has the lock; for a moment there may be none.
            let _ = file.take(32).read_to_string(&mut pid);
            let pid = if pid.trim().is_empty() { "unknown".to_owned() } else { pid.trim().to_owned() };
            return Err(OpenError::InUse { dir: dir.to_owned(), pid });
        }
        Err(error) => return Err(failed(error.into())),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(FolderLock { _file: file, _released: released.drop_guard() })
}

/// Opens a file for reading and writing that only its user may touch. SQLite gives its side files the same rights.
pub(super) fn private(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}
