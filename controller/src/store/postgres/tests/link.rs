//! Lost connections and a server that goes down: what was acknowledged is there, what is unknown is found out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_protocol::id::{Epoch, ShardId};

use super::super::own::OwnServer;
use super::proxy::{Cut, Proxy};
use super::{Postgres, open, options};
use crate::store::contract::make::batch;
use crate::store::{Batch, CommitError, Journal, StoreError, Stores, testing};

const S: ShardId = ShardId(0);
/// In every statement that appends, and in nothing else: the first event's text.
const WORD: &str = "Text of message";

async fn behind_proxy() -> Option<(Postgres, Proxy, Stores)> {
    let postgres = Postgres::new()?;
    // The tables are there before the proxy sees anything.
    drop(postgres.open());
    let proxy = Proxy::start(testing::server()?.port()).await;
    let url = postgres.url.replace(&testing::server()?.port().to_string(), &proxy.addr.port().to_string());
    let stores = tokio::task::spawn_blocking(move || open(&options(&url)).unwrap()).await.unwrap();
    stores.journal.take(S, Epoch(1)).await.unwrap();
    stores.journal.commit(batch(0, 1, 1, 1)).await.unwrap();
    Some((postgres, proxy, stores))
}

/// Asked until it answers; the journal opens itself again.
async fn answer(journal: &dyn Journal, after: u64) -> Vec<Batch> {
    let mut feed = journal.feed();
    loop {
        match journal.read(S, after, 1 << 20).await {
            Ok(found) => return found,
            Err(StoreError::Unavailable(_)) => feed.changed().await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_lost_answer_is_found_out() {
    let Some((_postgres, proxy, stores)) = behind_proxy().await else { return };
    let feed = stores.journal.feed();
    proxy.plan(WORD, Cut::Answer);
    assert_eq!(stores.journal.commit(batch(0, 1, 2, 1)).await, Ok(()));
    assert_eq!((feed.last(S), feed.events()), (2, 2));
    assert_eq!(stores.journal.read(S, 1, 1 << 20).await, Ok(vec![batch(0, 1, 2, 1)]));
    proxy.plan(WORD, Cut::Question);
    let lost = stores.journal.commit(batch(0, 1, 3, 1)).await;
    assert!(matches!(lost, Err(CommitError::Unavailable(_))), "{lost:?}");
    assert_eq!(stores.journal.last(S).await, Ok(2));
    assert_eq!(stores.journal.commit(batch(0, 1, 3, 1)).await, Ok(()));
}

#[tokio::test]
async fn an_outcome_stays_unknown_until_there_is_a_connection() {
    for (cut, there) in [(Cut::Answer, true), (Cut::Question, false)] {
        let Some((_postgres, proxy, stores)) = behind_proxy().await else { return };
        proxy.plan(WORD, cut);
        proxy.close(true);
        let unknown = stores.journal.commit(batch(0, 1, 2, 1)).await;
        assert!(matches!(unknown, Err(CommitError::Unknown(_))), "{unknown:?}");
        let away = stores.journal.commit(batch(0, 1, 2, 1)).await;
        assert!(matches!(away, Err(CommitError::Unavailable(_))), "{away:?}");
        assert!(matches!(stores.journal.last(S).await, Err(StoreError::Unavailable(_))));
        proxy.close(false);
        let expected: &[Batch] = if there { &[batch(0, 1, 2, 1)] } else { &[] };
        assert_eq!(answer(&*stores.journal, 1).await, expected);
        let next = if there { 3 } else { 2 };
        assert_eq!(stores.journal.commit(batch(0, 1, next, 1)).await, Ok(()));
    }
}

#[tokio::test]
async fn what_comes_late_over_a_lost_connection_changes_nothing() {
    let Some((postgres, proxy, stores)) = behind_proxy().await else { return };
    proxy.plan(WORD, Cut::Delay);
    let cut = stores.journal.commit(batch(0, 1, 2, 1)).await;
    assert!(matches!(cut, Err(CommitError::Unavailable(_))), "known to be absent: {cut:?}");
    // Now the server gets it, over the connection that was given up.
    proxy.release().await;
    assert_eq!(postgres.sql("SELECT last FROM journal_shard WHERE shard = 0"), "1");
    assert_eq!(postgres.sql("SELECT count(*) FROM journal_batch WHERE shard = 0"), "1");
    assert_eq!(stores.journal.commit(batch(0, 1, 2, 2)).await, Ok(()));
    assert_eq!(stores.journal.read(S, 1, 1 << 20).await, Ok(vec![batch(0, 1, 2, 2)]));
}

#[tokio::test]
async fn killed_connections_lose_and_double_nothing() {
    let Some(postgres) = Postgres::new() else { return };
    let stores = postgres.open();
    stores.journal.take(S, Epoch(1)).await.unwrap();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let killer = std::thread::spawn(move || {
        let mut kills = 0;
        while matches!(stopped.try_recv(), Err(std::sync::mpsc::TryRecvError::Empty)) {
            let killed = postgres.sql(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE application_name = 'flotilla' AND datname = current_database()",
            );
            kills += killed.parse::<u32>().unwrap();
        }
        kills
    });
    let mut expected: Vec<Batch> = Vec::new();
    let mut failed = 0;
    while expected.len() < 200 || failed == 0 {
        let next = batch(0, 1, expected.len() as u64 + 1, 1);
        let there = match stores.journal.commit(next.clone()).await {
            Ok(()) => true,
            Err(CommitError::Unknown(_)) => !answer(&*stores.journal, next.seq - 1).await.is_empty(),
            Err(CommitError::Unavailable(_)) => {
                failed += 1;
                false
            }
            Err(error) => panic!("{error}"),
        };
        if there {
            expected.push(next);
        }
        assert!(expected.len() < 20_000, "no connection was ever killed at work");
    }
    stop.send(()).unwrap();
    assert!(killer.join().unwrap() > 0);
    let mut found = Vec::new();
    while found.len() < expected.len() {
        found.extend(answer(&*stores.journal, found.len() as u64).await);
    }
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_server_restarts_in_the_middle_of_commits() {
    let Some(mut server) = testing::available(OwnServer::start(&[])) else { return };
    let url = server.database().unwrap();
    let stores = open(&options(&url)).unwrap();
    stores.journal.take(S, Epoch(1)).await.unwrap();
    let (journal, mut last) = (stores.journal.clone(), 0);
    for _ in 0..2 {
        // A quick restart is over before anybody is told of it.
        let restarted = Arc::new(AtomicBool::new(false));
        let committing = {
            let (journal, restarted) = (journal.clone(), Arc::clone(&restarted));
            tokio::spawn(async move {
                loop {
                    let after = restarted.load(Ordering::SeqCst);
                    match journal.commit(batch(0, 1, last + 1, 3)).await {
                        Ok(()) => last += 1,
                        Err(CommitError::Unknown(_)) => last += answer(&*journal, last).await.len() as u64,
                        // Back when it tells its position again.
                        Err(CommitError::Unavailable(_)) => {
                            answer(&*journal, last).await;
                            continue;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    if after {
                        return last;
                    }
                }
            })
        };
        let mut feed = journal.feed();
        while feed.last(S) < last + 20 {
            feed.changed().await;
        }
        server = tokio::task::spawn_blocking(move || {
            server.crash().unwrap();
            server.restart().unwrap();
            server
        })
        .await
        .unwrap();
        restarted.store(true, Ordering::SeqCst);
        last = committing.await.unwrap();
    }
    drop((stores, journal));
    let stores = open(&options(&url)).unwrap();
    assert_eq!(stores.journal.last(S).await, Ok(last));
    let mut after = 0;
    while after < last {
        let some = stores.journal.read(S, after, 1 << 20).await.unwrap();
        assert!(some.iter().zip(after + 1..).all(|(found, seq)| *found == batch(0, 1, seq, 3)));
        after += some.len() as u64;
    }
    // Rows and catalog come back too.
    assert_eq!(stores.rows.positions().await.unwrap()[0], 0);
}
