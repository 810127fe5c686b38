//! The durable outbox: everything a device must still know after a power cut.
//!
//! One file and one writer thread serve all devices of a process, so that ten thousand simulated ones share each
//! fsync. A device's state is the fold of its records; the agent decides, appends, waits until the batch is durable,
//! and only then hands over, reports or acknowledges.

mod compact;
mod record;
mod snapshot;
mod state;
mod store;
mod writer;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;

use flotilla_protocol::id::DeviceId;
use parking_lot::{Condvar, Mutex};
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::oneshot;

pub use record::{Job, Record};
pub use snapshot::FormError;
pub use state::{Awaiting, Limits, Open, Outcome, State};
pub use store::StoreError;
pub use writer::OutboxDown;

use compact::Compactor;
use store::Store;
use writer::{Queue, Shared, Writer};

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub limits: Limits,
    /// The log is folded into snapshots when it is longer.
    pub log_bytes_max: u64,
    /// New work is refused while the disk has less than this left; results still fit.
    pub reserve_bytes: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { limits: Limits::default(), log_bytes_max: 4 << 20, reserve_bytes: 32 << 20 }
    }
}

impl Options {
    /// For thousands of devices in one process.
    pub fn fleet() -> Self {
        Self { limits: Limits::small(), log_bytes_max: 64 << 20, ..Self::default() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{0} is in use: another node runs on this data folder")]
    Locked(PathBuf),
    #[error(transparent)]
    Store(#[from] StoreError),
}

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("this device is already open in this process")]
    InUse,
    #[error(transparent)]
    Down(#[from] OutboxDown),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The outbox of a process. Cheap to clone; call [`Outbox::close`] at the end.
#[derive(Clone)]
pub struct Outbox(Arc<Inner>);

struct Inner {
    path: PathBuf,
    limits: Limits,
    shared: Arc<Shared>,
    directory: Mutex<Directory>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Held for its lock.
    _lock: File,
}

struct Directory {
    keys: FxHashMap<DeviceId, u32>,
    next_key: u32,
    /// Read at the start, and not yet asked for.
    loaded: FxHashMap<u32, State>,
    in_use: FxHashSet<u32>,
}

impl Outbox {
    /// Opens or creates the outbox in `folder`. Blocks while it reads.
    pub fn open(folder: &Path, options: Options) -> Result<Self, OpenError> {
        let lock = lock(folder)?;
        let path = folder.join("outbox.db");
        private_file(&path)?;
        let store = Store::open(&path)?;
        let loaded = store.load(options.limits)?;
        let shared = Arc::new(Shared {
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            full: false.into(),
            free_bytes: u64::MAX.into(),
            commits: 0.into(),
        });
        let floor = options.log_bytes_max;
        let log_bytes_max = Arc::new(AtomicU64::new(floor.max(2 * loaded.snapshot_bytes)));
        let (compact, asked) = mpsc::sync_channel(0);
        let writer = Writer {
            store,
            shared: shared.clone(),
            folder: folder.to_owned(),
            reserve_bytes: options.reserve_bytes,
            seq: loaded.last_seq,
            log_bytes: loaded.log_bytes,
            compact,
            log_bytes_max: log_bytes_max.clone(),
        };
        let compactor = Compactor {
            path: path.clone(),
            shared: shared.clone(),
            limits: options.limits,
            log_bytes_max,
            log_bytes_floor: floor,
            asked,
        };
        let spawn = |name: &str, run: Box<dyn FnOnce() + Send>| {
            std::thread::Builder::new()
                .name(name.into())
                .spawn(run)
                .map_err(|source| OpenError::Io { path: path.clone(), source })
        };
        let threads =
            vec![spawn("outbox", Box::new(|| writer.run()))?, spawn("outbox-compact", Box::new(|| compactor.run()))?];
        let next_key = loaded.devices.values().max().map_or(1, |key| key + 1);
        let directory =
            Directory { keys: loaded.devices, next_key, loaded: loaded.states, in_use: FxHashSet::default() };
        Ok(Self(Arc::new(Inner {
            path,
            limits: options.limits,
            shared,
            directory: Mutex::new(directory),
            threads: Mutex::new(threads),
            _lock: lock,
        })))
    }

    /// A device's part and the state it left. A device that is new here starts with [`Record::Started`].
    pub async fn device(&self, device: DeviceId) -> Result<(DeviceOutbox, Option<State>), DeviceError> {
        let (key, loaded, known) = {
            let mut directory = self.0.directory.lock();
            let known = directory.keys.get(&device).copied();
            let key = known.unwrap_or(directory.next_key);
            if !directory.in_use.insert(key) {
                return Err(DeviceError::InUse);
            }
            if known.is_none() {
                directory.next_key += 1;
                directory.keys.insert(device, key);
                self.0.shared.queue.lock().devices.push((key, device));
            }
            (key, directory.loaded.remove(&key), known.is_some())
        };
        let handle = DeviceOutbox { outbox: self.clone(), key };
        let state = match loaded {
            None if known => self.reload(key).await?,
            loaded => loaded,
        };
        Ok((handle, state))
    }

    /// True while there is too little disk space for new work.
    pub fn is_full(&self) -> bool {
        self.0.shared.full.load(Ordering::Relaxed)
    }

    pub fn limits(&self) -> Limits {
        self.0.limits
    }

    /// `None` until measured.
    pub fn free_bytes(&self) -> Option<u64> {
        Some(self.0.shared.free_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes != u64::MAX)
    }

    /// Commits since the start.
    pub fn commits(&self) -> u64 {
        self.0.shared.commits.load(Ordering::Relaxed)
    }

    /// Makes everything appended durable and ends the threads. Blocks.
    pub fn close(&self) {
        self.0.close();
    }

    /// Waits for what an earlier agent of this device still has on its way, then reads.
    async fn reload(&self, key: u32) -> Result<Option<State>, DeviceError> {
        self.0.append(|_| Ok(()))?.wait().await?;
        let (path, limits) = (self.0.path.clone(), self.0.limits);
        let read = move || Store::open_reader(&path)?.load_device(key, limits);
        match tokio::task::spawn_blocking(read).await {
            Ok(state) => Ok(state?),
            Err(error) => Err(OutboxDown(error.to_string().into()).into()),
        }
    }
}

impl Inner {
    fn append(&self, fill: impl FnOnce(&mut Queue) -> Result<(), FormError>) -> Result<Commit, OutboxDown> {
        let (sender, receiver) = oneshot::channel();
        let mut queue = self.shared.queue.lock();
        if let Some(down) = &queue.failed {
            return Err(down.clone());
        }
        if queue.closing {
            return Err(OutboxDown("closed".into()));
        }
        fill(&mut queue).map_err(|error| OutboxDown(error.to_string().into()))?;
        let first = queue.waiters.is_empty();
        queue.waiters.push(sender);
        drop(queue);
        if first {
            self.shared.wake.notify_one();
        }
        Ok(Commit(receiver))
    }

    fn close(&self) {
        self.shared.queue.lock().closing = true;
        self.shared.wake.notify_all();
        for thread in self.threads.lock().drain(..) {
            drop(thread.join());
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.close();
    }
}

/// One device's part of the outbox. There is at most one at a time.
pub struct DeviceOutbox {
    outbox: Outbox,
    key: u32,
}

impl DeviceOutbox {
    /// Appends in order; durable once the commit says so.
    pub fn append(&self, records: &[Record]) -> Result<Commit, OutboxDown> {
        self.outbox.0.append(|queue| snapshot::encode_records(self.key, records, &mut queue.row))
    }

    pub fn outbox(&self) -> &Outbox {
        &self.outbox
    }
}

impl Drop for DeviceOutbox {
    fn drop(&mut self) {
        self.outbox.0.directory.lock().in_use.remove(&self.key);
    }
}

/// A batch on its way to the disk.
#[derive(Debug)]
pub struct Commit(oneshot::Receiver<Result<(), OutboxDown>>);

impl Commit {
    pub async fn wait(self) -> Result<(), OutboxDown> {
        self.0.await.unwrap_or_else(|_| Err(OutboxDown("its writer has ended".into())))
    }
}

impl Future for Commit {
    type Output = Result<(), OutboxDown>;

    fn poll(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.0)
            .poll(cx)
            .map(|done| done.unwrap_or_else(|_| Err(OutboxDown("its writer has ended".into()))))
    }
}

/// Held by whoever runs on this folder, as long as the file lives.
pub(crate) fn lock(folder: &Path) -> Result<File, OpenError> {
    let path = folder.join("outbox.lock");
    let io = |source| OpenError::Io { path: path.clone(), source };
    std::fs::create_dir_all(folder).map_err(io)?;
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::Locked(folder.to_owned())),
        Err(error) => Err(io(error.into())),
    }
}

/// SQLite gives its side files the mode of the main one.
fn private_file(path: &Path) -> Result<(), OpenError> {
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path);
    opened.map(drop).map_err(|source| OpenError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
