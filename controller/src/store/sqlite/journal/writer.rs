//! The thread that commits. Whatever arrives while a group is on its way to the device is the next group: alone, a batch waits
//! for one flush; under load, hundreds share it. No timer, no tuning.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use rusqlite::ErrorCode;
use tokio::sync::oneshot;

use super::checkpoint::{Checkpointer, passive};
use super::file::{Group, JournalFile, ShardState};
use crate::store::sqlite::Options;
use crate::store::sqlite::folder::FolderLock;
#[cfg(test)]
use crate::store::sqlite::{Fault, Faults};
use crate::store::tail::Tail;
use crate::store::{Batch, CommitError};

/// Most encoded bytes, and requests, of one transaction.
const GROUP_BYTES: usize = 8 << 20;
const GROUP_REQUESTS: usize = 4_096;
/// Deleted from the old end with each group at least, so that trimming keeps up with the smallest commits.
const TRIM_BYTES: u64 = 128 << 10;
/// How often a journal that has failed is opened again.
const REOPEN_EVERY: Duration = Duration::from_millis(200);

pub(super) enum Request {
    Append(Append),
    Take(Take),
    Trim { shard: ShardId, up_to: u64 },
    Stop,
}

pub(super) struct Take {
    pub shard: ShardId,
    pub epoch: Epoch,
    pub reply: oneshot::Sender<Result<u64, CommitError>>,
}

pub(super) struct Append {
    pub batch: Batch,
    pub payload: Vec<u8>,
    pub reply: oneshot::Sender<Result<(), CommitError>>,
}

/// The handle; dropping it finishes what was asked before and closes the file.
pub(super) struct Writer {
    inbox: Sender<Request>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    pub(super) fn start(
        file: JournalFile,
        states: Vec<ShardState>,
        tail: Arc<Tail>,
        options: &Options,
        lock: Arc<FolderLock>,
    ) -> std::io::Result<Self> {
        let (inbox, requests) = mpsc::channel();
        let path = file.path.clone();
        #[cfg(test)]
        super::super::limit_pages(&file.connection, options.page_max);
        let checkpointer = Checkpointer::start(path.clone())?;
        let shards = states.into_iter().map(|state| Shard { state, allowed: 0 }).collect();
        let work = Work {
            path,
            file: Some(file),
            shards,
            tail,
            checkpointer,
            retain_bytes: options.retain_bytes,
            checkpoint_bytes: options.checkpoint_bytes,
            log_bytes: 0,
            may_trim: true,
            #[cfg(test)]
            faults: options.faults.clone(),
            _lock: lock,
        };
        let thread = std::thread::Builder::new().name("journal".into()).spawn(move || work.run(&requests))?;
        Ok(Self { inbox, thread: Some(thread) })
    }

    pub(super) fn inbox(&self) -> Sender<Request> {
        self.inbox.clone()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.inbox.send(Request::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Shard {
    state: ShardState,
    /// Nobody needs the batches up to here.
    allowed: u64,
}

impl Shard {
    fn trimmable(&self) -> bool {
        self.state.trimmed < self.allowed.min(self.state.last)
    }
}

struct Work {
    path: PathBuf,
    /// None after a failure, until it can be opened again.
    file: Option<JournalFile>,
    shards: Vec<Shard>,
    tail: Arc<Tail>,
    checkpointer: Checkpointer,
    retain_bytes: u64,
    checkpoint_bytes: u64,
    /// Appended since the last checkpoint was asked for.
    log_bytes: u64,
    /// False after a failure, until something was committed again: nothing is tried over and over.
    may_trim: bool,
    #[cfg(test)]
    faults: Faults,
    _lock: Arc<FolderLock>,
}

/// What a group's transaction has done for each request, in its order; valid once it is durable.
struct Done {
    appends: Vec<Result<(), CommitError>>,
    takes: Vec<Result<u64, CommitError>>,
    trimmed: Option<(ShardId, u64, u64)>,
}

/// Why a group's transaction is not durable.
enum Failure {
    /// Before the commit: nothing is there.
    Before(rusqlite::Error),
    /// At the commit or the flush: what was done may be there.
    At(String, Done),
}

/// Nobody can ask any more.
struct End;

enum Unfinished {
    Nothing(rusqlite::Error),
    Unknown(String),
}

#[derive(Default)]
struct Collected {
    appends: Vec<Append>,
    takes: Vec<Take>,
    bytes: usize,
    stop: bool,
}

impl Work {
    fn run(mut self, requests: &Receiver<Request>) {
        loop {
            let mut group = Collected::default();
            match self.first(requests) {
                Ok(Some(first)) => self.gather(first, requests, &mut group),
                Ok(None) => {}
                Err(End) => return,
            }
            let stop = group.stop;
            if self.file.is_none() {
                self.reopen();
            }
            self.serve(group);
            if stop {
                return;
            }
        }
    }

    /// Waits for the next request, or for something else to do.
    fn first(&self, requests: &Receiver<Request>) -> Result<Option<Request>, End> {
        let waiting = if self.file.is_none() {
            requests.recv_timeout(REOPEN_EVERY)
        } else if self.to_trim().is_some() {
            requests.recv_timeout(Duration::ZERO)
        } else {
            requests.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match waiting {
            Ok(request) => Ok(Some(request)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(End),
        }
    }

    /// Takes what has come meanwhile, up to the limits of a group.
    fn gather(&mut self, first: Request, requests: &Receiver<Request>, group: &mut Collected) {
        let mut next = Some(first);
        while let Some(request) = next {
            self.collect(request, group);
            if group.stop || group.bytes >= GROUP_BYTES || group.appends.len() + group.takes.len() >= GROUP_REQUESTS {
                return;
            }
            next = requests.try_recv().ok();
        }
    }

    fn collect(&mut self, request: Request, group: &mut Collected) {
        match request {
            Request::Append(append) => {
                group.bytes += append.payload.len();
                group.appends.push(append);
            }
            Request::Take(take) => group.takes.push(take),
            Request::Trim { shard, up_to } => {
                let shard = &mut self.shards[usize::from(shard.0)];
                shard.allowed = shard.allowed.max(up_to);
            }
            Request::Stop => group.stop = true,
        }
    }

    fn serve(&mut self, group: Collected) {
        let trim = self.to_trim();
        if group.appends.is_empty() && group.takes.is_empty() && trim.is_none() {
            return;
        }
        let Some(file) = &self.file else {
            return refuse(group, &CommitError::Unavailable("it cannot be opened again yet".into()));
        };
        #[cfg(test)]
        super::super::limit_pages(&file.connection, self.faults.take_pages());
        match self.transact(file, &group, trim) {
            Ok(done) => self.answer(group, done),
            Err(Failure::Before(error)) => {
                self.undo();
                self.may_trim = false;
                let refusal = match error.sqlite_error_code() {
                    Some(ErrorCode::DiskFull) => {
                        // A log that is worked off starts anew, in space that it has already.
                        self.checkpointer.wake();
                        CommitError::Full
                    }
                    _ => {
                        self.close(&error.to_string());
                        CommitError::Unavailable(error.to_string())
                    }
                };
                refuse(group, &refusal);
            }
            Err(Failure::At(why, done)) => {
                self.close(&why);
                self.reopen();
                self.settle(group, done, &why);
            }
        }
        self.checkpoint();
    }

    /// One transaction and one flush for all of them.
    fn transact(&self, file: &JournalFile, group: &Collected, trim: Option<ShardId>) -> Result<Done, Failure> {
        let mut statements = Group::begin(&file.connection).map_err(Failure::Before)?;
        let done = self.execute(&mut statements, group, trim).map_err(Failure::Before)?;
        if let Err(failure) = self.finish(file, statements, group) {
            return Err(match failure {
                Unfinished::Nothing(error) => Failure::Before(error),
                Unfinished::Unknown(why) => Failure::At(why, done),
            });
        }
        Ok(done)
    }

    fn finish(&self, file: &JournalFile, statements: Group<'_>, group: &Collected) -> Result<(), Unfinished> {
        #[cfg(test)]
        self.faults.strike(Fault::Commit).map_err(Unfinished::Unknown)?;
        statements.commit().map_err(|error| match error.sqlite_error_code() {
            // The frame that makes a transaction valid is its last one, and it did not fit.
            Some(ErrorCode::DiskFull) => Unfinished::Nothing(error),
            _ => Unfinished::Unknown(error.to_string()),
        })?;
        #[cfg(test)]
        self.faults.strike(Fault::Sync).map_err(Unfinished::Unknown)?;
        // Deletions alone may be lost: they are simply done again.
        if group.appends.is_empty() && group.takes.is_empty() {
            return Ok(());
        }
        file.sync().map_err(|error| Unfinished::Unknown(error.to_string()))
    }

    fn execute(&self, statements: &mut Group<'_>, group: &Collected, trim: Option<ShardId>) -> rusqlite::Result<Done> {
        let takes = group.takes.iter().map(|take| statements.take(take.shard, take.epoch));
        let takes = takes.collect::<rusqlite::Result<_>>()?;
        let appends = group.appends.iter().map(|append| statements.append(&append.batch, &append.payload));
        let appends = appends.collect::<rusqlite::Result<_>>()?;
        let trimmed = match trim {
            Some(shard) => {
                let Shard { state, allowed } = &self.shards[usize::from(shard.0)];
                let over = self.retained().saturating_sub(self.retain_bytes);
                let budget = over.min(TRIM_BYTES.max(group.bytes as u64 * 2));
                let (up_to, bytes) = statements.delete(shard, state.trimmed, (*allowed).min(state.last), budget)?;
                Some((shard, up_to, bytes))
            }
            None => None,
        };
        Ok(Done { appends, takes, trimmed })
    }

    /// What was asked is durable: first those that follow may see it, then those that asked are told.
    fn answer(&mut self, group: Collected, done: Done) {
        if let Some((shard, up_to, bytes)) = done.trimmed {
            let state = &mut self.shards[usize::from(shard.0)].state;
            state.trimmed = up_to;
            state.bytes = state.bytes.saturating_sub(bytes);
        }
        let mut replies = Vec::with_capacity(group.appends.len());
        let mut durable = Vec::with_capacity(group.appends.len());
        for (append, result) in group.appends.into_iter().zip(done.appends) {
            if result.is_ok() {
                let bytes = append.payload.len();
                let state = &mut self.shards[usize::from(append.batch.shard.0)].state;
                state.last = append.batch.seq;
                state.bytes += bytes as u64;
                self.log_bytes += bytes as u64;
                durable.push((append.batch, bytes));
            }
            replies.push((append.reply, result));
        }
        if !durable.is_empty() {
            self.may_trim = true;
            self.tail.publish(durable);
        }
        // Whoever asked may have gone away; what it asked is done all the same.
        for (reply, result) in replies {
            let _ = reply.send(result);
        }
        for (take, result) in group.takes.into_iter().zip(done.takes) {
            let _ = take.reply.send(result);
        }
    }

    /// After a failure at the commit: what is there now decides. Opening again has made it durable, or it is not there.
    fn settle(&self, group: Collected, done: Done, why: &str) {
        let open = self.file.is_some();
        let mut replies = Vec::with_capacity(group.appends.len());
        let mut durable = Vec::new();
        for (append, result) in group.appends.into_iter().zip(done.appends) {
            let there = self.shards[usize::from(append.batch.shard.0)].state.last == append.batch.seq;
            let result = match result {
                Ok(()) if !open => Err(CommitError::Unknown(why.to_owned())),
                Ok(()) if !there => Err(CommitError::Unavailable(why.to_owned())),
                result => result,
            };
            if result.is_ok() {
                durable.push((append.batch, append.payload.len()));
            }
            replies.push((append.reply, result));
        }
        if !durable.is_empty() {
            self.tail.publish(durable);
        }
        for (reply, result) in replies {
            let _ = reply.send(result);
        }
        for take in group.takes {
            let _ = take.reply.send(Err(CommitError::Unknown(why.to_owned())));
        }
    }

    /// The shard to delete from: the largest one that may be trimmed gives first, while there is more than the window.
    fn to_trim(&self) -> Option<ShardId> {
        if !self.may_trim || self.retained() <= self.retain_bytes {
            return None;
        }
        let (number, _) = self
            .shards
            .iter()
            .enumerate()
            .filter(|(_, shard)| shard.trimmable())
            .max_by_key(|(_, shard)| shard.state.bytes)?;
        Some(ShardId(number as u16))
    }

    fn retained(&self) -> u64 {
        self.shards.iter().map(|shard| shard.state.bytes).sum()
    }

    fn undo(&self) {
        if let Some(file) = self.file.as_ref().filter(|file| !file.connection.is_autocommit())
            && let Err(error) = file.connection.execute_batch("ROLLBACK")
        {
            tracing::error!(%error, "the journal's transaction cannot be rolled back");
        }
    }

    fn close(&mut self, why: &str) {
        tracing::error!(error = why, "the journal has failed and is opened again");
        self.tail.fail(why);
        self.file = None;
    }

    fn reopen(&mut self) {
        #[cfg(test)]
        if self.faults.strike(Fault::Reopen).is_err() {
            return;
        }
        let opened = JournalFile::reopen(&self.path).and_then(|file| Ok((file.states()?, file)));
        match opened {
            Ok((states, file)) => {
                let last: Vec<u64> = states.iter().map(|state| state.last).collect();
                for (shard, state) in self.shards.iter_mut().zip(states) {
                    shard.state = state;
                }
                self.file = Some(file);
                self.tail.restore(&last);
                tracing::info!("the journal is open again");
            }
            Err(error) => tracing::warn!(%error, "the journal cannot be opened again yet"),
        }
    }

    fn checkpoint(&mut self) {
        if self.log_bytes >= self.checkpoint_bytes {
            self.log_bytes = 0;
            self.checkpointer.wake();
        }
        if let Some(file) = self.file.as_ref().filter(|_| self.checkpointer.take_rest())
            && let Err(error) = passive(&file.connection)
        {
            tracing::warn!(%error, "the rest of the journal's log cannot be worked off");
        }
    }
}

fn refuse(group: Collected, why: &CommitError) {
    for append in group.appends {
        let _ = append.reply.send(Err(why.clone()));
    }
    for take in group.takes {
        let _ = take.reply.send(Err(why.clone()));
    }
}
