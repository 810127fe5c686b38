//! Works the write-ahead log off into the database file, on a thread and a connection of its own.
//!
//! A log can only start anew when all of it is in the file, and under steady load the writer is always a little ahead. So this
//! thread copies the bulk beside the commits, and the writer, between two groups, copies the small rest (see `Writer`).

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use rusqlite::Connection;

use super::super::connect;
use super::super::worker::{FOLLOWER_NICE, give_way};

/// Rounds beside the writer until the rest is small enough, and how small that is, in pages.
const ROUNDS_MAX: u32 = 4;
const REST_PAGES: i64 = 128;

pub(super) struct Checkpointer {
    wake: Option<SyncSender<()>>,
    rest: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Checkpointer {
    pub(super) fn start(path: PathBuf) -> std::io::Result<Self> {
        let (wake, woken) = sync_channel(1);
        let rest = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&rest);
        let thread =
            std::thread::Builder::new().name("journal-ckpt".into()).spawn(move || serve(path, &woken, &done))?;
        Ok(Self { wake: Some(wake), rest, thread: Some(thread) })
    }

    /// Asks for a checkpoint; one that is under way already is enough.
    pub(super) fn wake(&self) {
        if let Some(wake) = &self.wake {
            let _ = wake.try_send(());
        }
    }

    /// True once after each checkpoint: the writer may now copy the rest.
    pub(super) fn take_rest(&self) -> bool {
        self.rest.swap(false, Ordering::AcqRel)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.wake = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(path: PathBuf, woken: &Receiver<()>, rest: &AtomicBool) {
    give_way(FOLLOWER_NICE);
    let mut connection = None;
    for () in woken {
        if let Err(error) = bulk(&path, &mut connection) {
            // The log grows until it works again; the writer meets the same trouble if it lasts.
            tracing::warn!(%error, "the journal's log cannot be worked off");
            connection = None;
            continue;
        }
        rest.store(true, Ordering::Release);
    }
}

fn bulk(path: &std::path::Path, connection: &mut Option<Connection>) -> rusqlite::Result<()> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(connect(path, true)?),
    };
    connection.pragma_update(None, "synchronous", "normal")?;
    let mut copied = passive(connection)?;
    // Each round copies what was committed during the one before.
    for _ in 1..ROUNDS_MAX {
        let before = std::mem::replace(&mut copied, passive(connection)?);
        if copied - before < REST_PAGES {
            break;
        }
    }
    Ok(())
}

/// Copies what is in the log; answers how many of its pages are in the file now.
pub(super) fn passive(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |row| row.get(2))
}
