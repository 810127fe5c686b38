//! Files that hold secrets: written whole or not at all, readable by their owner only.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// No file of ours is longer; a longer one is not ours.
const FILE_BYTES_MAX: u64 = 64 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("cannot {action} {path}")]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{path} can be read by others than its owner (mode {mode:o}): chmod {remedy:o} it, and replace its key if they did"
    )]
    TooOpen { path: PathBuf, mode: u32, remedy: u32 },
    #[error("{path} is longer than {FILE_BYTES_MAX} bytes: it is not a file of this program")]
    TooLong { path: PathBuf },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SecretFileError {
    move |source| SecretFileError::Io { action, path: path.to_owned(), source }
}

/// Makes the folder with mode 0700, or refuses one that others can enter.
pub fn ensure_private_dir(dir: &Path) -> Result<(), SecretFileError> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(io_error("create folder", dir))?;
    refuse_open(dir, 0o700)
}

/// Replaces the file as a whole and durably: a crash leaves the old one or the new one. Mode 0600.
pub fn write_private(path: &Path, bytes: &[u8]) -> Result<(), SecretFileError> {
    let partial = path.with_added_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io_error("remove", &partial)(error)),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)
        .map_err(io_error("create", &partial))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io_error("write", &partial))?;
    fs::rename(&partial, path).map_err(io_error("rename", path))?;
    sync_parent(path)
}

/// `None` when there is no such file.
pub fn read_private(path: &Path) -> Result<Option<Vec<u8>>, SecretFileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", path)(error)),
    };
    refuse_open(path, 0o600)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io_error("read", path))?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(SecretFileError::TooLong { path: path.to_owned() });
    }
    Ok(Some(bytes))
}

fn refuse_open(path: &Path, remedy: u32) -> Result<(), SecretFileError> {
    let mode = fs::metadata(path).map_err(io_error("inspect", path))?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretFileError::TooOpen { path: path.to_owned(), mode, remedy });
    }
    Ok(())
}

fn sync_parent(path: &Path) -> Result<(), SecretFileError> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(io_error("sync folder", parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_private_replaced_whole_and_survive_a_partial_one() {
        let dir = tempfile::tempdir().unwrap();
        let inside = dir.path().join("ca");
        ensure_private_dir(&inside).unwrap();
        assert_eq!(fs::metadata(&inside).unwrap().permissions().mode() & 0o777, 0o700);

        let path = inside.join("state.json");
        assert!(read_private(&path).unwrap().is_none());
        fs::write(inside.join("state.json.partial"), b"left by a crash").unwrap();
        write_private(&path, b"one").unwrap();
        write_private(&path, b"two").unwrap();
        assert_eq!(read_private(&path).unwrap().unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
    }

    #[test]
    fn what_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        write_private(&path, b"secret").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = read_private(&path).unwrap_err();
        assert!(matches!(error, SecretFileError::TooOpen { mode: 0o640, .. }), "{error}");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(ensure_private_dir(dir.path()), Err(SecretFileError::TooOpen { .. })));
    }
}
