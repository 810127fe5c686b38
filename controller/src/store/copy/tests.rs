//! A store with something of everything goes from files into a database, and is the same there.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, TenantId};

use super::*;
use crate::domain::message::MessageState;
use crate::store::contract::SHARDS;
use crate::store::contract::make::{T0, batch, inbound, message_id, record_in, route, tenant};
use crate::store::{Page, testing};
use crate::{sql_params, store};

const S: ShardId = ShardId(0);

async fn fill(stores: &Stores) {
    for shard in 0..2 {
        stores.journal.take(ShardId(shard), Epoch(7)).await.unwrap();
        for seq in 1..=40 {
            stores.journal.commit(batch(shard, 7, seq, 1 + seq % 4)).await.unwrap();
        }
    }
    let ours = tenant(0, 0);
    let states = MessageState::ALL;
    let records = (1..=90).map(|n| record_in(ours, n, states[n as usize % states.len()], route(1)));
    let messages = records.map(|record| Upsert { shard: S, record: Arc::new(record), new: true }).collect();
    let used = |n: u8, at_ms| KeyUse { request: [n; 16], messages: vec![message_id(n.into())], at_ms };
    let keys = vec![(ours, [1; 16], used(1, T0)), (ours, [2; 16], used(2, T0))];
    let inbound: Vec<_> = (1..=5).map(|n| (S, inbound(ours, n, 1))).collect();
    let positions = vec![(S, 38), (ShardId(1), 40)];
    stores.rows.write(Flush { messages, inbound, keys, positions, now_ms: T0, ..Flush::default() }).await.unwrap();
    // The same key once more, hours later.
    let again = vec![(ours, [1; 16], used(9, T0 + 7_200_000))];
    stores.rows.write(Flush { keys: again, ..Flush::default() }).await.unwrap();
    let fill = |tx: &mut dyn store::Tx| {
        let id = TenantId::from_bytes([1; 16]);
        tx.execute("INSERT INTO tenants (id, name, created_ms) VALUES ($1, 'Arusha', 5)", sql_params![id])?;
        for n in 0..3u8 {
            let key =
                "INSERT INTO api_keys (id, tenant, name, hash, scopes, created_ms) VALUES ($1, $2, 'k', $3, 'send', 1)";
            tx.execute(key, sql_params![[n; 16], Some(id).filter(|_| n > 0), [n; 32]])?;
            tx.execute("INSERT INTO audit (at_ms, actor, action, subject) VALUES (1, 'cli', 'test', '')", &[])?;
        }
        Ok::<_, SqlError>(())
    };
    stores.catalog.run(fill).await.unwrap();
}

#[tokio::test]
async fn everything_is_there_and_goes_on() {
    let Some(server) = testing::server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = sqlite::Options { shards: SHARDS, retain_bytes: 4 << 10, ..sqlite::Options::default() };
    let source = sqlite::open(dir.path(), &options).unwrap();
    fill(&source).await;
    source.journal.trim(S, 30).await.unwrap();
    source.journal.commit(batch(0, 7, 41, 1)).await.unwrap();
    source.journal.commit(batch(0, 7, 42, 1)).await.unwrap();
    let released = source.released.clone();
    drop(source);
    released.cancelled().await;

    let url = server.database().unwrap();
    let to = postgres::Options { retention_days: 0, ..postgres::Options::new(&url) };
    let copied = copy(dir.path(), to.clone(), |_| {}).await.unwrap();
    assert_eq!((copied.counts.messages, copied.counts.inbound, copied.counts.keys), (90, 5, 2));
    let count = |table: &str| copied.tables.iter().find(|(name, _)| name == table).unwrap().1;
    assert_eq!((count("tenants"), count("api_keys"), count("audit"), count("devices")), (1, 3, 3, 0));

    let source = sqlite::open(dir.path(), &options).unwrap();
    let target = postgres::open(&to).unwrap();
    assert_eq!(target.journal.shards(), SHARDS);
    assert_eq!(target.journal.epochs().await, source.journal.epochs().await);
    let ours = tenant(0, 0);
    let page = || Page { limit: 1_000, cursor: None };
    let list = async |stores: &Stores| stores.rows.list(ours, Default::default(), page()).await.unwrap().items;
    assert_eq!(list(&target).await, list(&source).await);
    for shard in (0..SHARDS).map(ShardId) {
        let mut counts = (target.rows.open_counts(shard).await.unwrap(), source.rows.open_counts(shard).await.unwrap());
        counts.0.sort_by_key(|count| (count.tenant, count.state));
        counts.1.sort_by_key(|count| (count.tenant, count.state));
        assert_eq!(counts.0, counts.1);
        assert_eq!(target.rows.inbound_positions(shard).await, source.rows.inbound_positions(shard).await);
        let begin = match source.journal.read(shard, 0, 0).await {
            Err(StoreError::Trimmed { up_to, .. }) => up_to,
            _ => 0,
        };
        let read = async |stores: &Stores| stores.journal.read(shard, begin, 1 << 20).await.unwrap();
        assert_eq!(read(&target).await, read(&source).await);
    }
    assert!(matches!(target.journal.read(S, 0, 0).await, Err(StoreError::Trimmed { .. })), "the copy tells it too");
    for key in [[1; 16], [2; 16]] {
        assert_eq!(target.rows.idempotent(ours, key, 0).await, source.rows.idempotent(ours, key, 0).await);
    }
    // It goes on where it was: higher epochs only, the next sequence, the next number.
    assert!(target.journal.take(S, Epoch(6)).await.is_err());
    assert_eq!(target.journal.take(S, Epoch(8)).await, Ok(42));
    target.journal.commit(batch(0, 8, 43, 1)).await.unwrap();
    let sql = "INSERT INTO audit (at_ms, actor, action, subject) VALUES (1, 'cli', 'test', '') RETURNING id";
    assert_eq!(target.catalog.run(move |tx| tx.query(sql, &[])?[0].at::<u64>(0)).await, Ok(4));
    drop(source);
    let again = copy(dir.path(), to, |_| {}).await.unwrap_err();
    assert!(matches!(again, CopyError::Target(postgres::OpenError::NotEmpty { .. })), "{again}");
}

#[tokio::test]
async fn an_unfinished_copy_is_not_taken_for_a_store() {
    let Some(server) = testing::server() else { return };
    let url = server.database().unwrap();
    let options = postgres::Options { shards: SHARDS, ..postgres::Options::new(&url) };
    drop(Import::begin(options.clone()).await.unwrap());
    let refused = postgres::open(&options).err().unwrap();
    assert!(matches!(refused, postgres::OpenError::Unfinished { .. }), "{refused}");
    let nowhere = copy(Path::new("/nonexistent"), options, |_| {}).await.unwrap_err();
    assert!(matches!(nowhere, CopyError::NoSource(_)), "{nowhere}");
}
