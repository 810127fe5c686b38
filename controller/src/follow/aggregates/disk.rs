//! The sled folder. Everything of sled that can fail, or panic on damaged files, goes through here.
//!
//! Nothing relies on more than that a batch of at most 256 keys is atomic: sled's memory grows without end with larger
//! ones. sled's `flush` hands pages to the kernel without a device flush on Linux, so `sync` adds one.

use std::fs::File;
use std::os::unix::fs::DirBuilderExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use flotilla_protocol::id::{ShardId, TenantId};

use super::changes::Changes;
use super::counters::{Counts, decode_row};
use super::key::{BlockKey, Dimension, OTHER, PREFIX_LEN, Step, bucket_and_value, prefix};
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
    /// One for each shard.
    Shards(Vec<ShardContent>),
    /// New.
    Empty,
}

/// What the folder has of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ShardContent {
    /// The rows are complete up to this journal sequence,
    pub(super) position: u64,
    /// unless they are being replaced, which has not come to its end.
    pub(super) restoring: bool,
    pub(super) changes: Changes,
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

    /// Checks the marks.
    pub(super) fn content(&self, shards: u16) -> Result<Content, DiskError> {
        let meta = |key: &[u8]| guarded(|| self.meta.get(key));
        match meta(b"format")? {
            None if guarded(|| Ok(self.rows.is_empty()))? => return Ok(Content::Empty),
            None => return Err(DiskError::Damaged("it was not filled to its end".into())),
            Some(format) if *format == *FORMAT => {}
            Some(_) => return Err(DiskError::Damaged("the format is unknown".into())),
        }
        if meta(b"shards")?.as_deref() != Some(&shards.to_be_bytes()) || meta(b"complete")?.is_none() {
            return Err(DiskError::Damaged("it is of another store, or was not filled to its end".into()));
        }
        let shard = |shard: u16| {
            let position = match meta(&shard_key(POSITION, shard))? {
                None => 0,
                Some(bytes) => bytes.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| DiskError::Row)?,
            };
            let restoring = meta(&shard_key(RESTORING, shard))?.is_some();
            let changes = match meta(&shard_key(CHANGES, shard))? {
                None => Changes::unknown(),
                Some(bytes) => Changes::decode(&bytes).ok_or(DiskError::Row)?,
            };
            Ok(ShardContent { position, restoring, changes })
        };
        (0..shards).map(shard).collect::<Result<_, _>>().map(Content::Shards)
    }

    /// Marks a new folder as one of so many shards, about which it knows nothing yet. `restoring`: nor does it hold what the
    /// journal had before.
    pub(super) fn begin(&self, shards: u16, restoring: bool) -> Result<(), DiskError> {
        for number in (0..shards).filter(|_| restoring) {
            guarded(|| self.meta.insert(&shard_key(RESTORING, number)[..], &[1]).map(drop))?;
        }
        guarded(|| {
            self.meta.insert("shards", &shards.to_be_bytes())?;
            self.meta.insert("complete", &[1])?;
            self.meta.insert("format", FORMAT).map(drop)
        })?;
        self.sync()
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

    /// Marks the rows as complete up to these positions, with what has changed since the last snapshot of each shard, where
    /// that is kept. The rows must be durable by now, and this is when it returns.
    pub(super) fn set_positions(&self, positions: &[u64], changes: &[Vec<u8>]) -> Result<(), DiskError> {
        let shards: Vec<_> = (0u16..).zip(positions).collect();
        // What belongs to one shard stays together.
        for shards in shards.chunks(BATCH_KEYS_MAX / 2) {
            let mut batch = sled::Batch::default();
            for (shard, position) in shards {
                batch.insert(&shard_key(POSITION, *shard)[..], &position.to_be_bytes()[..]);
                if let Some(changes) = changes.get(usize::from(*shard)) {
                    batch.insert(&shard_key(CHANGES, *shard)[..], &changes[..]);
                }
            }
            guarded(|| self.meta.apply_batch(batch))?;
        }
        self.sync()
    }

    /// From now on the rows of these shards are not to be used, until [`Disk::restored`].
    pub(super) fn restoring(&self, shards: &[ShardId]) -> Result<(), DiskError> {
        for shard in shards {
            guarded(|| self.meta.insert(&shard_key(RESTORING, shard.0)[..], &[1]).map(drop))?;
        }
        self.sync()
    }

    /// The rows of the shard are durable and complete up to this position again.
    pub(super) fn restored(&self, shard: ShardId, position: u64, changes: &Changes) -> Result<(), DiskError> {
        let mut batch = sled::Batch::default();
        batch.insert(&shard_key(POSITION, shard.0)[..], &position.to_be_bytes()[..]);
        batch.insert(&shard_key(CHANGES, shard.0)[..], changes.encode());
        batch.remove(&shard_key(RESTORING, shard.0)[..]);
        guarded(|| self.meta.apply_batch(batch))?;
        self.sync()
    }

    /// From now on nobody knows what has changed since the last snapshots.
    pub(super) fn forget_changes(&self, shards: &mut [ShardContent]) -> Result<(), DiskError> {
        let mut forgotten = false;
        for (number, shard) in (0u16..).zip(shards).filter(|(_, shard)| shard.changes != Changes::unknown()) {
            guarded(|| self.meta.remove(&shard_key(CHANGES, number)[..]).map(drop))?;
            shard.changes = Changes::unknown();
            forgotten = true;
        }
        if forgotten { self.sync() } else { Ok(()) }
    }

    /// Everybody who has rows here.
    pub(super) fn tenants(&self) -> Result<Vec<TenantId>, DiskError> {
        let mut tenants = Vec::new();
        let mut from = vec![0; 16];
        // From each tenant's first row to the first one behind all of them.
        while let Some((key, _)) = guarded(|| self.rows.range(from.clone()..).next().transpose())? {
            let tenant = key.first_chunk::<16>().copied().ok_or(DiskError::Row)?;
            tenants.push(TenantId::from_bytes(tenant));
            from = [&tenant[..], &[0xff; 2]].concat();
        }
        Ok(tenants)
    }

    /// The hours and days in which a tenant has rows.
    pub(super) fn blocks(&self, tenant: TenantId) -> Result<Vec<(Step, u32)>, DiskError> {
        let mut blocks = Vec::new();
        for step in Step::ALL {
            // Every block has a row of its total.
            let start = prefix(&BlockKey { tenant, step, bucket: 0 }, Dimension::Total);
            let keys = self.rows.scan_prefix(&start[..18]).keys();
            let mut keys = keys;
            while let Some(key) = guarded(|| keys.next().transpose())? {
                let (bucket, _) = bucket_and_value(&key).ok_or(DiskError::Row)?;
                blocks.push((step, bucket));
            }
        }
        Ok(blocks)
    }

    /// The rows of a block as they are stored.
    pub(super) fn block_rows(
        &self,
        block: BlockKey,
    ) -> impl Iterator<Item = Result<(sled::IVec, sled::IVec), DiskError>> {
        Dimension::ALL.into_iter().flat_map(move |dimension| {
            let mut iter = self.rows.scan_prefix(prefix(&block, dimension));
            std::iter::from_fn(move || guarded(|| iter.next().transpose()).transpose())
        })
    }

    pub(super) fn delete_block(&self, block: BlockKey) -> Result<(), DiskError> {
        let keys: Vec<_> = self.block_rows(block).map(|row| row.map(|(key, _)| key)).collect::<Result<_, _>>()?;
        self.delete(keys)
    }

    pub(super) fn delete_tenant(&self, tenant: TenantId) -> Result<(), DiskError> {
        loop {
            let keys = self.rows.scan_prefix(tenant.to_bytes()).keys().take(BATCH_KEYS_MAX);
            let keys: Vec<_> = guarded(|| keys.collect::<sled::Result<_>>())?;
            if keys.is_empty() {
                return Ok(());
            }
            self.delete(keys)?;
        }
    }

    fn delete(&self, keys: Vec<sled::IVec>) -> Result<(), DiskError> {
        for keys in keys.chunks(BATCH_KEYS_MAX) {
            let mut batch = sled::Batch::default();
            keys.iter().for_each(|key| batch.remove(key.clone()));
            guarded(|| self.rows.apply_batch(batch))?;
        }
        Ok(())
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

const POSITION: &[u8; 8] = b"position";
const RESTORING: &[u8; 8] = b"restorin";
const CHANGES: &[u8; 8] = b"changes-";

fn shard_key(what: &[u8; 8], shard: u16) -> [u8; 10] {
    let mut key = [0; 10];
    key[..8].copy_from_slice(what);
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
