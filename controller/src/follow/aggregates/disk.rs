//! The sled folder. Everything of sled that can fail, or panic on damaged files, goes through here.
//!
//! Nothing relies on more than that a batch of at most 256 keys is atomic: sled's memory grows without end with larger
//! ones. sled's `flush` hands pages to the kernel without a device flush on Linux, so `sync` adds one.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::counters::{Counts, decode_row};
use super::key::{OTHER, PREFIX_LEN};
use super::table::Stored;

const FORMAT: &[u8] = b"flotilla-aggregates-1";
const BATCH_KEYS_MAX: usize = 256;
/// sled's helper threads let go of the lock a moment after the database is dropped.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Why the folder can not be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    #[error("the disk of the aggregates is full; free some space")]
    Full,
    #[error("the aggregates are in use by another process; stop it, or set another data folder")]
    Locked,
    #[error("a row of the aggregates is damaged")]
    Row,
    #[error("the files of the aggregates are damaged: {0}")]
    Damaged(String),
    #[error("the aggregates can not be read or written: {0}")]
    Io(String),
}

/// What the folder says about itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Complete up to these positions, one per shard.
    Complete(Vec<u64>),
    /// New, or left in the middle of a rebuild.
    Unfinished,
}

pub(super) struct Disk {
    rows: sled::Tree,
    meta: sled::Tree,
    db: sled::Db,
    file: File,
}

impl Disk {
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, DiskError> {
        // sled makes its files for everybody to read: nobody else is to get as far as that.
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(sled::Error::Io)?;
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            .mode(sled::Mode::LowSpace)
            // Also sled's only garbage collection.
            .flush_every_ms(Some(1_000));
        let until = Instant::now() + LOCK_WAIT;
        let db = loop {
            match guarded(|| config.open()) {
                Err(DiskError::Locked) if Instant::now() < until => std::thread::sleep(Duration::from_millis(20)),
                result => break result?,
            }
        };
        guarded(|| {
            let (rows, meta) = (db.open_tree("rows")?, db.open_tree("meta")?);
            Ok(Self { rows, meta, file: File::open(dir.join("db"))?, db })
        })
    }

    /// Checks the marks. An empty folder is `Unfinished`.
    pub(super) fn content(&self, shards: u16) -> Result<Content, DiskError> {
        let meta = |key: &[u8]| guarded(|| self.meta.get(key));
        match meta(b"format")? {
            None => return Ok(Content::Unfinished),
            Some(format) if *format == *FORMAT => {}
            Some(_) => return Err(DiskError::Damaged("the format is unknown".into())),
        }
        if meta(b"shards")?.as_deref() != Some(&shards.to_be_bytes()) || meta(b"complete")?.is_none() {
            return Ok(Content::Unfinished);
        }
        let position = |shard: u16| match meta(&position_key(shard))? {
            None => Ok(0),
            Some(bytes) => bytes.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| DiskError::Row),
        };
        (0..shards).map(position).collect::<Result<_, _>>().map(Content::Complete)
    }

    /// Writes rows, ordered by key. Durable only after `sync`.
    pub(super) fn write(&self, rows: impl IntoIterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<(), DiskError> {
        let mut rows = rows.into_iter().peekable();
        while rows.peek().is_some() {
            let mut batch = sled::Batch::default();
            rows.by_ref().take(BATCH_KEYS_MAX).for_each(|(key, row)| batch.insert(key, row));
            guarded(|| self.rows.apply_batch(batch))?;
        }
        Ok(())
    }

    /// Everything written before survives a power cut.
    pub(super) fn sync(&self) -> Result<(), DiskError> {
        guarded(|| {
            self.db.flush()?;
            self.file.sync_data()?;
            Ok(())
        })
    }

    /// Marks the rows as complete up to these positions. They must be durable by now, and this is when it returns.
    pub(super) fn set_positions(&self, positions: &[u64]) -> Result<(), DiskError> {
        let keys: Vec<_> = (0u16..).zip(positions).collect();
        for keys in keys.chunks(BATCH_KEYS_MAX) {
            let mut batch = sled::Batch::default();
            for (shard, position) in keys {
                batch.insert(&position_key(*shard)[..], &position.to_be_bytes()[..]);
            }
            guarded(|| self.meta.apply_batch(batch))?;
        }
        self.sync()
    }

    /// The last act of a rebuild.
    pub(super) fn set_complete(&self, positions: &[u64]) -> Result<(), DiskError> {
        self.set_positions(positions)?;
        let shards = u16::try_from(positions.len()).unwrap_or(u16::MAX);
        guarded(|| {
            self.meta.insert("format", FORMAT)?;
            self.meta.insert("shards", &shards.to_be_bytes())?;
            self.meta.insert("complete", &[1])
        })?;
        self.sync()
    }

    /// Rows in the order of their keys, the end exclusive.
    pub(super) fn range(
        &self,
        start: Vec<u8>,
        end: Vec<u8>,
    ) -> impl Iterator<Item = Result<(sled::IVec, Counts), DiskError>> {
        let mut iter = self.rows.range(start..end);
        std::iter::from_fn(move || {
            let next = guarded(|| iter.next().transpose()).transpose()?;
            Some(next.and_then(|(key, row)| Ok((key, decode(&row)?.1))))
        })
    }
}

impl Stored for Disk {
    fn load(&self, key: &[u8]) -> Result<Option<(u64, Counts)>, DiskError> {
        guarded(|| self.rows.get(key))?.map(|row| decode(&row)).transpose()
    }

    fn values(&self, prefix: &[u8; PREFIX_LEN]) -> Result<u32, DiskError> {
        guarded(|| {
            let mut values = 0;
            for key in self.rows.scan_prefix(prefix).keys() {
                if key?[PREFIX_LEN..] != OTHER {
                    values += 1;
                }
            }
            Ok(values)
        })
    }
}

/// Moves a folder that is not to be trusted out of the way, to be looked at. Only the last one is kept.
pub(super) fn move_aside(dir: &Path) -> Result<PathBuf, DiskError> {
    let aside = dir.with_extension("damaged");
    let io = |e: std::io::Error| DiskError::from(sled::Error::Io(e));
    match std::fs::remove_dir_all(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(io(e)),
        _ => {}
    }
    match std::fs::rename(dir, &aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(e)),
        _ => Ok(aside),
    }
}

fn position_key(shard: u16) -> [u8; 10] {
    let mut key = *b"position\0\0";
    key[8..].copy_from_slice(&shard.to_be_bytes());
    key
}

fn decode(row: &[u8]) -> Result<(u64, Counts), DiskError> {
    decode_row(row).map_err(|_| DiskError::Row)
}

/// sled answers some kinds of damage with a panic: that is damage as well, and no reason for the controller to fall.
fn guarded<T>(f: impl FnOnce() -> sled::Result<T>) -> Result<T, DiskError> {
    match catch_unwind(AssertUnwindSafe(f)) {
        Ok(result) => result.map_err(DiskError::from),
        Err(_) => Err(DiskError::Damaged("sled panicked".into())),
    }
}

impl From<sled::Error> for DiskError {
    fn from(error: sled::Error) -> Self {
        match error {
            sled::Error::Io(e) if e.kind() == std::io::ErrorKind::StorageFull => Self::Full,
            sled::Error::Io(e) if e.to_string().contains("could not acquire lock") => Self::Locked,
            sled::Error::Io(e) => Self::Io(e.to_string()),
            other => Self::Damaged(other.to_string()),
        }
    }
}
