//! Two controllers over one database.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId, TenantId};
use futures_util::future::join_all;

use super::Postgres;
use crate::domain::message::MessageState;
use crate::sql_params;
use crate::store::contract::make::{batch, message_id, record, record_in, route, tenant};
use crate::store::{Batch, CommitError, Flush, Journal, SqlError, StoreError, Tx, Upsert};

const S: ShardId = ShardId(0);

async fn read_all(journal: &dyn Journal, mut after: u64) -> Vec<Batch> {
    let mut all = Vec::new();
    loop {
        let some = journal.read(S, after, 1 << 20).await.unwrap();
        let Some(last) = some.last() else { return all };
        after = last.seq;
        all.extend(some);
    }
}

#[tokio::test]
async fn a_shard_goes_from_one_to_the_other_and_back() {
    let Some(postgres) = Postgres::new() else { return };
    let (one, other) = (postgres.open(), postgres.open());
    let (one, other) = (&one.journal, &other.journal);
    let fenced = |epoch| Err(CommitError::Fenced { shard: S, epoch: Epoch(epoch) });
    assert_eq!(one.take(S, Epoch(1)).await, Ok(0));
    for seq in 1..=5 {
        one.commit(batch(0, 1, seq, 1)).await.unwrap();
    }
    assert_eq!(other.feed().last(S), 0, "nobody has told it");
    assert_eq!(other.last(S).await, Ok(5), "asked, it looks");
    assert_eq!(other.feed().last(S), 5);
    assert_eq!(other.commit(batch(0, 1, 6, 1)).await, fenced(1), "an epoch that it has not taken");
    assert_eq!(other.take(S, Epoch(2)).await, Ok(5));
    assert_eq!(one.commit(batch(0, 1, 6, 1)).await, fenced(2));
    for seq in 6..=9 {
        other.commit(batch(0, 2, seq, 1)).await.unwrap();
    }
    assert_eq!(one.feed().last(S), 5, "as it was when it led");
    assert_eq!(read_all(&**one, 0).await.len(), 9);
    assert_eq!(one.take(S, Epoch(2)).await.map(|_| ()), fenced(2), "with one epoch, the younger connection has it");
    assert_eq!(one.take(S, Epoch(3)).await, Ok(9));
    assert_eq!(one.feed().last(S), 9);
    assert_eq!(other.commit(batch(0, 2, 10, 1)).await, fenced(3));
    one.commit(batch(0, 3, 10, 1)).await.unwrap();
    let epochs: Vec<u64> = read_all(&**one, 0).await.iter().map(|batch| batch.epoch.0).collect();
    assert_eq!(epochs, [1, 1, 1, 1, 1, 2, 2, 2, 2, 3]);
    assert_eq!(read_all(&**other, 3).await.len(), 7);
    assert_eq!(other.epochs().await.unwrap()[0], Epoch(3));
}

#[tokio::test]
async fn whoever_takes_last_wins_and_nothing_is_written_twice() {
    let Some(postgres) = Postgres::new() else { return };
    let stores: Vec<_> = (0..3).map(|_| postgres.open()).collect();
    let epochs = Arc::new(std::sync::atomic::AtomicU64::new(0));
    // Each takes the shard, commits until it is fenced, and takes it again.
    let leaders = stores.iter().map(|store| {
        let (journal, epochs) = (Arc::clone(&store.journal), Arc::clone(&epochs));
        tokio::spawn(async move {
            let mut committed = Vec::new();
            for _ in 0..6 {
                let epoch = epochs.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                let Ok(mut last) = journal.take(S, Epoch(epoch)).await else { continue };
                for _ in 0..10 {
                    let next = batch(0, epoch, last + 1, 1);
                    match journal.commit(next.clone()).await {
                        Ok(()) => committed.push(next),
                        Err(CommitError::Fenced { epoch: by, .. }) => {
                            assert!(by.0 > epoch);
                            break;
                        }
                        Err(error) => panic!("{error}"),
                    }
                    last += 1;
                }
            }
            committed
        })
    });
    let mut committed = Vec::new();
    for leader in leaders.collect::<Vec<_>>() {
        committed.extend(leader.await.unwrap());
    }
    committed.sort_by_key(|batch| batch.seq);
    assert!(!committed.is_empty());
    assert_eq!(read_all(&*postgres.open().journal, 0).await, committed);
    let epochs: Vec<u64> = committed.iter().map(|batch| batch.epoch.0).collect();
    assert!(epochs.is_sorted(), "one leader after the other: {epochs:?}");
}

fn flush(shard: ShardId, state: MessageState, position: u64) -> Flush {
    let record = Arc::new(record_in(tenant(shard.0, 0), u64::from(shard.0) + 1, state, route(1)));
    Flush {
        messages: vec![Upsert { shard, record, new: false }],
        positions: vec![(shard, position)],
        ..Flush::default()
    }
}

#[tokio::test]
async fn a_late_flush_of_a_former_leader_changes_nothing() {
    let Some(postgres) = Postgres::new() else { return };
    let (former, leader) = (postgres.open().rows, postgres.open().rows);
    former.write(flush(S, MessageState::Queued, 5)).await.unwrap();
    leader.write(flush(S, MessageState::Delivered, 9)).await.unwrap();
    // What the former leader still had.
    let late = former.write(flush(S, MessageState::Sent, 7)).await;
    assert_eq!(late, Err(StoreError::Behind { shard: S, position: 9 }));
    former.write(flush(ShardId(1), MessageState::Sent, 3)).await.unwrap();
    assert_eq!(leader.positions().await, Ok(vec![9, 3, 0, 0]));
    let state = async |shard: u16| {
        let found = leader.get(tenant(shard, 0), message_id(u64::from(shard) + 1)).await.unwrap();
        found.unwrap().state
    };
    assert_eq!((state(0).await, state(1).await), (MessageState::Delivered, MessageState::Sent));
    assert_eq!(leader.open_counts(S).await, Ok(vec![]));
}

#[tokio::test]
async fn flushes_of_many_shards_at_once_do_not_collide_for_good() {
    let Some(postgres) = Postgres::new() else { return };
    let stores: Vec<_> = (0..3).map(|_| postgres.open().rows).collect();
    let writes = stores.iter().enumerate().map(|(n, rows)| async move {
        for round in 1..=20u64 {
            let ours = tenant(0, n as u64);
            let record = Arc::new(record(ours, round * 10 + n as u64));
            // The same shards in another order each time.
            let mut positions: Vec<_> = (0..4).map(|shard| (ShardId(shard), round)).collect();
            positions.rotate_left((n + round as usize) % 4);
            let messages = vec![Upsert { shard: S, record, new: true }];
            // Who is overtaken is told so; anything else would be a lock that was not waited for.
            match rows.write(Flush { messages, positions, ..Flush::default() }).await {
                Ok(()) | Err(StoreError::Behind { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    join_all(writes).await;
    assert_eq!(stores[0].positions().await, Ok(vec![20; 4]));
}

fn insert(tx: &mut dyn Tx, n: u8) -> Result<u64, SqlError> {
    let id = TenantId::from_bytes([n; 16]);
    let sql = "INSERT INTO tenants (id, name, created_ms) VALUES ($1, $2, 5)";
    tx.execute(sql, sql_params![id, format!("tenant {n}")])
}

#[tokio::test]
async fn catalog_transactions_run_one_after_the_other_everywhere() {
    let Some(postgres) = Postgres::new() else { return };
    let catalogs: Vec<_> = (0..3).map(|_| postgres.open().catalog).collect();
    catalogs[0].run(|tx| insert(tx, 1)).await.unwrap();
    let add = |place: usize| {
        let catalog = Arc::clone(&catalogs[place % 3]);
        async move {
            let add = |tx: &mut dyn Tx| {
                let now: i64 = tx.query("SELECT created_ms FROM tenants", &[])?[0].at(0)?;
                tx.execute("UPDATE tenants SET created_ms = $1", sql_params![now + 1])
            };
            catalog.run(add).await
        }
    };
    let results = join_all((0..90).map(add)).await;
    assert!(results.iter().all(Result::is_ok), "{results:?}");
    let last: i64 = catalogs[1].read(|tx| tx.query("SELECT created_ms FROM tenants", &[])?[0].at(0)).await.unwrap();
    assert_eq!(last, 95);
}

#[tokio::test]
async fn one_that_fails_takes_no_other_with_it() {
    let Some(postgres) = Postgres::new() else { return };
    let catalog = postgres.open().catalog;
    // All in one transaction, most likely; each alone as far as anybody can tell.
    let run = |n: u8| {
        let catalog = Arc::clone(&catalog);
        async move {
            catalog
                .run(move |tx| {
                    insert(tx, n)?;
                    match n % 3 {
                        0 => Ok(()),
                        1 => insert(tx, n).map(|_| ()),
                        _ => panic!("on purpose"),
                    }
                })
                .await
        }
    };
    let results = join_all((0..30).map(run)).await;
    for (n, result) in results.iter().enumerate() {
        match n % 3 {
            0 => assert_eq!(*result, Ok(()), "{n}"),
            1 => assert!(matches!(result, Err(SqlError::Exists { .. })), "{n}: {result:?}"),
            _ => assert!(matches!(result, Err(SqlError::Unavailable(_))), "{n}: {result:?}"),
        }
    }
    let count: u64 = catalog.read(|tx| tx.query("SELECT count(*) FROM tenants", &[])?[0].at(0)).await.unwrap();
    assert_eq!(count, 10);
    // A body that overlooks an error is not committed.
    let overlooked: Result<(), SqlError> = catalog
        .run(|tx| {
            insert(tx, 100)?;
            let _ = tx.execute("INSERT INTO nowhere VALUES (1)", &[]);
            Ok(())
        })
        .await;
    assert!(matches!(overlooked, Err(SqlError::Statement(_))), "{overlooked:?}");
}

#[tokio::test]
async fn sums_and_truths_are_numbers() {
    let Some(postgres) = Postgres::new() else { return };
    let catalog = postgres.open().catalog;
    let row = catalog
        .run(|tx| {
            insert(tx, 3)?;
            insert(tx, 4)?;
            let sql = "SELECT sum(created_ms) AS sum, name = $1 AS same, CASE WHEN disabled = 0 THEN 'no' END AS word,
                CAST($2 AS BIGINT) AS nothing FROM tenants GROUP BY name, disabled ORDER BY name LIMIT 1";
            Ok::<_, SqlError>(tx.query(sql, sql_params!["tenant 3", None::<u64>])?.remove(0))
        })
        .await
        .unwrap();
    assert_eq!((row.get::<u64>("sum"), row.get::<bool>("same")), (Ok(5), Ok(true)));
    assert_eq!((row.get::<String>("word"), row.get::<Option<u64>>("nothing")), (Ok("no".into()), Ok(None)));
}
