//! Checks of [`crate::store::Catalog`].

use std::sync::Arc;

use flotilla_protocol::id::TenantId;
use futures_util::future::join_all;

use super::Engine;
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx, Value};

const INSERT: &str = "INSERT INTO tenants (id, name, created_ms) VALUES ($1, $2, $3)";

fn id(n: u8) -> TenantId {
    TenantId::from_bytes([n; 16])
}

fn insert(tx: &mut dyn Tx, n: u8) -> Result<u64, SqlError> {
    tx.execute(INSERT, sql_params![id(n), format!("tenant {n}"), 5u64])
}

async fn count(catalog: &dyn Catalog) -> u64 {
    catalog.read(|tx| tx.query("SELECT count(*) AS n FROM tenants", &[])?[0].get("n")).await.unwrap()
}

pub(crate) async fn a_transaction_is_all_or_nothing(engine: &impl Engine) {
    let stores = engine.open();
    let catalog = &*stores.catalog;
    let done: Result<u64, SqlError> = catalog.run(|tx| Ok(insert(tx, 1)? + insert(tx, 2)?)).await;
    assert_eq!(done, Ok(2));
    let refused = catalog.run(|tx| Ok::<_, SqlError>(insert(tx, 3)? + insert(tx, 1)?)).await;
    assert!(matches!(refused, Err(SqlError::Exists { .. })), "{refused:?}");
    assert_eq!(count(catalog).await, 2);
    #[derive(Debug, PartialEq)]
    enum Own {
        Mine,
        Sql(SqlError),
    }
    impl From<SqlError> for Own {
        fn from(error: SqlError) -> Self {
            Self::Sql(error)
        }
    }
    let mine: Result<(), Own> = catalog
        .run(|tx| {
            insert(tx, 4)?;
            Err(Own::Mine)
        })
        .await;
    assert_eq!(mine, Err(Own::Mine));
    drop(stores);
    assert_eq!(count(&*engine.open().catalog).await, 2);
}

pub(crate) async fn errors_have_names(engine: &impl Engine) {
    let stores = engine.open();
    let catalog = &*stores.catalog;
    let run = async |sql: &'static str, params: Vec<Value>| catalog.run(move |tx| tx.query(sql, &params)).await;
    let wrong = |result: Result<Vec<Row>, SqlError>| result.map(|rows| rows.len()).unwrap_err();
    assert!(matches!(wrong(run("SELEKT 1", vec![]).await), SqlError::Statement(_)));
    assert!(matches!(wrong(run("SELECT $1", vec![]).await), SqlError::Statement(_)));
    assert!(matches!(wrong(run("SELECT 1", vec![Value::Null]).await), SqlError::Statement(_)));
    let orphan = "INSERT INTO api_keys (id, tenant, name, hash, scopes, created_ms) VALUES ($1, $1, 'n', $1, '', 1)";
    assert!(matches!(wrong(run(orphan, vec![id(1).into()]).await), SqlError::Constraint { .. }));
    let typed = "INSERT INTO tenants (id, name, created_ms) VALUES ($1, $2, 'soon')";
    assert!(matches!(wrong(run(typed, vec![id(1).into(), "n".into()]).await), SqlError::Constraint { .. }));
    let rows = run("SELECT 1 AS one, NULL AS nil, 'text' AS text, $1 AS id", vec![id(9).into()]).await.unwrap();
    let row = &rows[0];
    assert_eq!(row.get::<u64>("one"), Ok(1));
    assert_eq!(row.get::<bool>("one"), Ok(true));
    assert_eq!(row.get::<Option<u64>>("nil"), Ok(None));
    assert_eq!(row.get::<Option<String>>("text"), Ok(Some("text".into())));
    assert_eq!(row.at::<TenantId>(3), Ok(id(9)));
    assert_eq!(row.get::<[u8; 16]>("id"), Ok([9; 16]));
    assert_eq!(row.get::<u64>("text"), Err(SqlError::Type { column: "text".into(), expected: u64_what() }));
    assert_eq!(row.get::<u64>("two"), Err(SqlError::NoColumn { column: "two".into() }));
    assert!(row.at::<u64>(4).is_err());
}

fn u64_what() -> &'static str {
    <u64 as crate::store::FromValue>::WHAT
}

pub(crate) async fn a_panic_rolls_back(engine: &impl Engine) {
    let stores = engine.open();
    let catalog = &*stores.catalog;
    let panicked: Result<(), SqlError> = catalog
        .run(|tx| {
            insert(tx, 1)?;
            panic!("on purpose");
        })
        .await;
    assert!(matches!(panicked, Err(SqlError::Unavailable(_))), "{panicked:?}");
    assert_eq!(count(catalog).await, 0);
    assert_eq!(catalog.run(|tx| insert(tx, 2)).await, Ok(1));
}

pub(crate) async fn readers_cannot_write_and_do_not_wait(engine: &impl Engine) {
    let stores = engine.open();
    let refused = stores.catalog.read(|tx| insert(tx, 1)).await;
    assert!(matches!(refused, Err(SqlError::Statement(_))), "{refused:?}");
    // A writer stands still in the middle of its transaction; the reader answers, and sees nothing of it.
    let (inside, is_inside) = tokio::sync::oneshot::channel();
    let (go_on, may_go_on) = std::sync::mpsc::channel();
    let writing = stores.catalog.run(move |tx| {
        insert(tx, 1)?;
        let _ = inside.send(());
        let _ = may_go_on.recv();
        Ok::<_, SqlError>(())
    });
    let reading = async {
        is_inside.await.unwrap();
        let seen = count(&*stores.catalog).await;
        go_on.send(()).unwrap();
        seen
    };
    let (written, seen) = tokio::join!(writing, reading);
    written.unwrap();
    assert_eq!(seen, 0);
    assert_eq!(count(&*stores.catalog).await, 1);
}

pub(crate) async fn concurrent_transactions_do_not_lose_updates(engine: &impl Engine) {
    let stores = engine.open();
    let catalog = Arc::clone(&stores.catalog);
    catalog.run(|tx| insert(tx, 1)).await.unwrap();
    let add = || async {
        let add = |tx: &mut dyn Tx| {
            let rows = tx.query("SELECT created_ms FROM tenants", &[])?;
            let now: i64 = rows[0].at(0)?;
            tx.execute("UPDATE tenants SET created_ms = $1", sql_params![now + 1])
        };
        catalog.run(add).await
    };
    let results = join_all((0..50).map(|_| add())).await;
    assert!(results.iter().all(Result::is_ok));
    let last: i64 = catalog.read(|tx| tx.query("SELECT created_ms FROM tenants", &[])?[0].at(0)).await.unwrap();
    assert_eq!(last, 55);
}

pub(crate) async fn parameters_go_by_number(engine: &impl Engine) {
    let stores = engine.open();
    let all: Vec<Value> = (1..=12).map(Value::Int).collect();
    let row = stores
        .catalog
        .read(move |tx| tx.query("SELECT $12 AS a, $1 AS b, $2+$3+$4+$5+$6+$7+$8+$9+$10+$11 AS c, $1 AS d", &all))
        .await
        .unwrap();
    let numbers: Vec<i64> = (0..4).map(|place| row[0].at(place).unwrap()).collect();
    assert_eq!(numbers, [12, 1, 65, 1]);
}

pub(crate) async fn the_tables_are_there(engine: &impl Engine) {
    let stores = engine.open();
    for table in ["tenants", "api_keys", "devices", "sims", "enrollments", "certificates", "ca_keys", "audit"] {
        let sql = format!("SELECT * FROM {table}");
        let rows = stores.catalog.read(move |tx| tx.query(&sql, &[])).await.unwrap();
        assert!(rows.is_empty(), "{table}");
    }
    let returned: Result<Vec<Row>, SqlError> = stores
        .catalog
        .run(|tx| {
            let sql = "INSERT INTO audit (at_ms, actor, action, subject) VALUES ($1, 'cli', 'test', '') RETURNING id";
            tx.query(sql, sql_params![7u64])?;
            tx.query(sql, sql_params![8u64])
        })
        .await;
    assert_eq!(returned.unwrap()[0].get::<i64>("id"), Ok(2));
}
