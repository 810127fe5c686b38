//! Remembers a PIN that was tried, so that no restart tries a refused one again: three refusals lock the SIM.
//!
//! The file is written before the try and removed when the SIM is open. It names PINs by digests that take the file's
//! path in; a few digits cannot be hidden from whoever reads the configuration beside it anyway.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::settings::Pin;

#[derive(Debug)]
pub(super) struct PinGuard {
    path: PathBuf,
}

impl PinGuard {
    pub(super) fn new(dir: &Path) -> Self {
        Self { path: dir.join("pin-tried") }
    }

    /// True when `pin` was not tried yet, which is then noted durably. An unreadable or unwritable note forbids the try.
    pub(super) fn may_try(&self, pin: &Pin) -> io::Result<bool> {
        let digest = self.digest(pin);
        match fs::read(&self.path) {
            Ok(tried) if tried.chunks(digest.len()).any(|tried| tried == digest) => return Ok(false),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        file.write_all(&digest)?;
        file.sync_all()?;
        Ok(true)
    }

    /// The SIM is open.
    pub(super) fn opened(&self) {
        let _ = fs::remove_file(&self.path);
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn digest(&self, pin: &Pin) -> Vec<u8> {
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        context.update(self.path.as_os_str().as_encoded_bytes());
        context.update(pin.digits().as_bytes());
        context.finish().as_ref().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_tried_once_until_the_sim_was_open() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (Pin::parse("1234").unwrap(), Pin::parse("4321").unwrap());
        assert!(PinGuard::new(dir.path()).may_try(&first).unwrap());
        assert!(!PinGuard::new(dir.path()).may_try(&first).unwrap());
        assert!(PinGuard::new(dir.path()).may_try(&second).unwrap());
        assert!(!PinGuard::new(dir.path()).may_try(&first).unwrap(), "also after another one");
        PinGuard::new(dir.path()).opened();
        assert!(PinGuard::new(dir.path()).may_try(&second).unwrap());
    }
}
