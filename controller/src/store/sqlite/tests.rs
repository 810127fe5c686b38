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

contract::contract_tests!(Some(Sqlite::new()), Some(Sqlite::new()));

const S: ShardId = ShardId(0);

#[tokio::test]
async fn a_second_controller_is_told_who_has_the_folder() {
    let sqlite = Sqlite::new();
    let stores = sqlite.open();
    let refused = sqlite.open_with(&options()).err().unwrap();
    let OpenError::InUse { pid, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*pid, std::process::id().to_string());
    assert!(refused.to_string().contains("in use by process"));
    // A commit under way keeps the folder until it is done.
    stores.journal.take(S, Epoch(1)).await.unwrap();
    let commit = stores.journal.commit(batch(0, 1, 1, 1));
    drop(stores);
    assert!(matches!(commit.await, Err(CommitError::Unavailable(_))));
    sqlite.open();
}

#[tokio::test]
async fn only_the_user_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().unwrap();
    let dir = parent.path().join("new").join("data");
    let stores = open(&dir, &options()).unwrap();
    stores.journal.take(S, Epoch(1)).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    for file in std::fs::read_dir(&dir).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

fn set_pragma(path: PathBuf, name: &str, value: u32) {
    rusqlite::Connection::open(path).unwrap().pragma_update(None, name, value).unwrap();
}

#[tokio::test]
async fn a_store_of_a_newer_program_is_refused() {
    for name in ["journal.db", "flotilla.db", "catalog.db"] {
        let sqlite = Sqlite::new();
        drop(sqlite.open());
        set_pragma(sqlite.dir.path().join(name), "user_version", 1_000);
        let refused = sqlite.open_with(&options()).err().unwrap();
        let OpenError::Newer { file, found: 1_000, .. } = &refused else { panic!("{refused}") };
        assert!(file.ends_with(name));
        assert!(refused.to_string().contains("newer program"));
    }
}

#[tokio::test]
async fn files_of_others_and_wrong_numbers_are_refused() {
    let sqlite = Sqlite::new();
    for shards in [0, 4_097] {
        assert!(matches!(sqlite.open_with(&Options { shards, ..options() }), Err(OpenError::Shards { .. })));
    }
    std::fs::write(sqlite.dir.path().join("journal.db"), "this is a text, and long enough to be looked at").unwrap();
    assert!(matches!(sqlite.open_with(&options()), Err(OpenError::NotOurs { .. })));
    let sqlite = Sqlite::new();
    drop(sqlite.open());
    set_pragma(sqlite.dir.path().join("flotilla.db"), "application_id", 5);
    assert!(matches!(sqlite.open_with(&options()), Err(OpenError::NotOurs { .. })));
    // The number of shards is the store's, whatever is asked for later.
    let sqlite = Sqlite::new();
    drop(sqlite.open());
    assert_eq!(sqlite.open_with(&Options { shards: 64, ..options() }).unwrap().journal.shards(), SHARDS);
}

async fn begin(faults: &[Fault]) -> (Sqlite, Stores) {
    let sqlite = Sqlite::new();
    let options = options();
    let stores = sqlite.open_with(&options).unwrap();
    for shard in 0..SHARDS {
        stores.journal.take(ShardId(shard), Epoch(1)).await.unwrap();
    }
    stores.journal.commit(batch(0, 1, 1, 1)).await.unwrap();
    options.faults.plan(faults);
    (sqlite, stores)
}

#[tokio::test]
async fn a_commit_that_failed_is_known_to_be_absent() {
    let (_sqlite, stores) = begin(&[Fault::Commit]).await;
    let failed = stores.journal.commit(batch(0, 1, 2, 1)).await;
    assert!(matches!(failed, Err(CommitError::Unavailable(_))), "{failed:?}");
    assert_eq!(stores.journal.last(S).await, Ok(1));
    assert_eq!(stores.journal.commit(batch(0, 1, 2, 1)).await, Ok(()));
}

#[tokio::test]
async fn a_flush_that_failed_is_settled_by_opening_again() {
    let (_sqlite, stores) = begin(&[Fault::Sync]).await;
    let feed = stores.journal.feed();
    assert_eq!(stores.journal.commit(batch(0, 1, 2, 1)).await, Ok(()));
    assert_eq!(stores.journal.last(S).await, Ok(2));
    assert_eq!(feed.events(), 2);
    assert_eq!(stores.journal.read(S, 1, 1 << 20).await, Ok(vec![batch(0, 1, 2, 1)]));
    // Refusals are what they were.
    assert!(matches!(stores.journal.commit(batch(0, 0, 3, 1)).await, Err(CommitError::Fenced { .. })));
}

#[tokio::test]
async fn an_unknown_outcome_is_found_out_by_reading() {
    for (first, there) in [(Fault::Sync, true), (Fault::Commit, false)] {
        let (_sqlite, stores) = begin(&[first, Fault::Reopen, Fault::Reopen]).await;
        let unknown = stores.journal.commit(batch(0, 1, 2, 1)).await;
        assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
        // Asked until it answers; the journal opens itself again.
        let mut feed = stores.journal.feed();
        let found = loop {
            match stores.journal.read(S, 1, 1 << 20).await {
                Ok(found) => break found,
                Err(StoreError::Unavailable(_)) => feed.changed().await,
                Err(error) => panic!("{error}"),
            }
        };
        let expected: &[Batch] = if there { &[batch(0, 1, 2, 1)] } else { &[] };
        assert_eq!(found, expected);
        let next = if there { 3 } else { 2 };
        assert_eq!(stores.journal.commit(batch(0, 1, next, 1)).await, Ok(()));
    }
}

/// Limits the size of a database for its writer, as a full disk does.
fn limited(page_max: &'static str) -> Options {
    Options { page_max: Some(page_max.parse().unwrap()), ..options() }
}

#[tokio::test]
async fn a_full_disk_stops_commits_and_they_go_on_when_there_is_space() {
    let sqlite = Sqlite::new();
    let limit = limited("40");
    let stores = sqlite.open_with(&limit).unwrap();
    let journal = &stores.journal;
    journal.take(S, Epoch(1)).await.unwrap();
    journal.take(ShardId(1), Epoch(1)).await.unwrap();
    let mut seq = 0;
    loop {
        match journal.commit(batch(0, 1, seq + 1, 200)).await {
            Ok(()) => seq += 1,
            Err(CommitError::Full) => break,
            Err(error) => panic!("{error}"),
        }
        assert!(seq < 1_000, "it is never full");
    }
    assert!(seq > 0);
    assert_eq!(journal.last(S).await, Ok(seq), "nothing was written, and it is known");
    assert_eq!(journal.commit(batch(0, 1, seq + 1, 200)).await, Err(CommitError::Full));
    assert_eq!(journal.commit(batch(1, 1, 1, 1)).await, Ok(()), "what fits is still taken");
    limit.faults.more_pages(400);
    assert_eq!(journal.commit(batch(0, 1, seq + 1, 200)).await, Ok(()));
    drop(stores);
    assert_eq!(sqlite.open().journal.last(S).await, Ok(seq + 1));
}

#[tokio::test]
async fn the_log_is_worked_off_beside_the_commits() {
    let sqlite = Sqlite::new();
    let options = Options { checkpoint_bytes: 100 << 10, retain_bytes: 100 << 10, ..options() };
    let stores = sqlite.open_with(&options).unwrap();
    stores.journal.take(S, Epoch(1)).await.unwrap();
    for seq in 1..=1_000 {
        stores.journal.commit(batch(0, 1, seq, 50)).await.unwrap();
        stores.journal.trim(S, seq).await.unwrap();
    }
    // Each commit changes three pages at least: without checkpoints the log would have 12 MiB, without trimming the file 2 MiB.
    // A busy machine may keep the threads that do it waiting for a while, so the bounds are wide.
    let size = |name: &str| std::fs::metadata(sqlite.dir.path().join(name)).unwrap().len();
    assert!(size("journal.db-wal") < 8 << 20, "{}", size("journal.db-wal"));
    assert!(size("journal.db") < 1536 << 10, "{}", size("journal.db"));
    drop(stores);
    assert_eq!(sqlite.open_with(&options).unwrap().journal.last(S).await, Ok(1_000));
}

#[tokio::test]
async fn rows_that_do_not_fit_are_written_later() {
    let sqlite = Sqlite::new();
    let stores = sqlite.open_with(&limited("100")).unwrap();
    let ours = tenant(0, 0);
    let flush = |n: u64| crate::store::Flush {
        messages: (n * 100..n * 100 + 100)
            .map(|n| crate::store::Upsert { shard: S, record: std::sync::Arc::new(record(ours, n)), new: true })
            .collect(),
        positions: vec![(S, n)],
        ..Default::default()
    };
    let mut n = 1;
    while stores.rows.write(flush(n)).await.is_ok() {
        n += 1;
        assert!(n < 1_000, "it is never full");
    }
    assert_eq!(stores.rows.write(flush(n)).await, Err(StoreError::Full));
    assert_eq!(stores.rows.positions().await.unwrap()[0], n - 1);
    drop(stores);
    let stores = sqlite.open();
    assert_eq!(stores.rows.write(flush(n)).await, Ok(()));
    let first = crate::store::Page { limit: 1_000, cursor: None };
    let listed = stores.rows.list(ours, Default::default(), first).await.unwrap();
    assert_eq!(listed.items.len() as u64, (n * 100).min(1_000));
}

#[tokio::test]
async fn the_catalog_applies_each_step_once_and_names_the_one_that_fails() {
    use crate::store::migrations::Migration;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.db");
    let lock = std::sync::Arc::new(super::folder::lock(dir.path(), Default::default()).unwrap());
    let open = |steps: &[Migration]| super::catalog::open_with(&path, std::sync::Arc::clone(&lock), steps);
    let one = Migration {
        number: 1,
        name: "0001_one",
        breaks: true,
        sql: "CREATE TABLE one (n {int}) {strict}; INSERT INTO one VALUES (1)",
    };
    let step = |number, name, sql| Migration { number, name, breaks: false, sql };
    let two = step(2, "0002_two", "CREATE TABLE two (n {int}); INSERT INTO one VALUES (2)");
    let bad = step(3, "0003_bad", "INSERT INTO one VALUES (3); INSERT INTO nowhere VALUES (1)");
    drop(open(&[one]).unwrap());
    drop(open(&[one, two]).unwrap());
    let failed = open(&[one, two, bad]).err().unwrap();
    assert!(failed.to_string().contains("0003_bad"), "{failed}");
    let refused = open(&[one]).err().unwrap();
    assert!(matches!(refused, OpenError::Newer { found: 2, known: 1, .. }), "{refused}");
    let catalog = open(&[one, two]).unwrap();
    let catalog: &dyn crate::store::Catalog = &catalog;
    let sum = catalog.read(|tx| tx.query("SELECT sum(n) FROM one", &[])?[0].at::<i64>(0)).await;
    assert_eq!(sum, Ok::<_, SqlError>(3));
}
