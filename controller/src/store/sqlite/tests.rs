//! The contract on SQLite, and what only this engine has: its files, its folder, its failures.

use std::path::{Path, PathBuf};

use flotilla_protocol::id::{Epoch, ShardId};
use tempfile::TempDir;

use super::{Fault, OpenError, Options, open};
use crate::store::contract::make::{batch, record, tenant};
use crate::store::contract::{self, Engine, SHARDS};
use crate::store::{Batch, CommitError, SqlError, StoreError, Stores};

struct Sqlite {
    dir: TempDir,
}

fn options() -> Options {
    // Checkpoints never come: a copy of the files is then what a crash leaves, whenever it is made.
    Options {
        shards: SHARDS,
        retain_bytes: 64 << 10,
        tail_bytes: 4 << 10,
        checkpoint_bytes: u64::MAX,
        ..Options::default()
    }
}

impl Sqlite {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn open_with(&self, options: &Options) -> Result<Stores, OpenError> {
        open(self.dir.path(), options)
    }
}

impl Engine for Sqlite {
    fn open(&self) -> Stores {
        self.open_with(&options()).unwrap()
    }

    fn crashed(&self) -> Box<dyn Engine> {
        let copy = Self::new();
        // The database first: what the log gets meanwhile is only more at its end, the last of it perhaps cut off.
        for name in ["journal.db", "flotilla.db", "catalog.db"] {
            for name in [name.to_owned(), format!("{name}-wal")] {
                std::fs::copy(self.dir.path().join(&name), copy.dir.path().join(&name)).unwrap();
            }
        }
        Box::new(copy)
    }
}

contract::contract_tests!(Sqlite::new());
