//! Starts at the same time, and beside other versions.

use super::super::schema::{MigrateError, STORE, migrate};
use super::super::{OpenError, Options, open, open_and_tell};
use super::{Postgres, options};
use crate::store::migrations::{CATALOG, Migration};

#[tokio::test]
async fn many_start_at_once_and_each_step_is_applied_once() {
    let Some(postgres) = Postgres::new() else { return };
    let starts: Vec<_> = (0..6)
        .map(|_| {
            let options = options(&postgres.url);
            std::thread::spawn(move || open_and_tell(&options).unwrap())
        })
        .collect();
    let opened: Vec<_> = starts.into_iter().map(|start| start.join().unwrap()).collect();
    let applied: Vec<usize> = opened.iter().map(|(_, migrated)| migrated.applied.len()).collect();
    let steps = *applied.iter().max().unwrap();
    assert!(steps > 2);
    assert_eq!(applied.iter().sum::<usize>(), steps, "one of them did everything: {applied:?}");
    assert_eq!(postgres.sql("SELECT count(*) FROM flotilla_schema"), steps.to_string());
    assert!(opened.iter().all(|(stores, _)| stores.journal.shards() == super::SHARDS));
}

#[tokio::test]
async fn an_older_program_goes_on_beside_additions_and_refuses_breaks() {
    let Some(postgres) = Postgres::new() else { return };
    drop(postgres.open());
    postgres.sql("INSERT INTO flotilla_schema VALUES ('catalog', 90, '0090_more', 1, 0)");
    drop(postgres.open());
    postgres.sql("INSERT INTO flotilla_schema VALUES ('catalog', 91, '0091_other', 91, 0)");
    let refused = open(&options(&postgres.url)).err().unwrap();
    let OpenError::Newer { found: 91, min_reader: 91, series: "catalog", .. } = &refused else { panic!("{refused}") };
    assert!(refused.to_string().contains("newer program"), "{refused}");
}

#[tokio::test]
async fn a_step_that_fails_leaves_nothing_and_is_named() {
    let Some(postgres) = Postgres::new() else { return };
    drop(postgres.open());
    let options = options(&postgres.url);
    let connector = options.connector().unwrap();
    let mut session = connector.connect().await.unwrap();
    let step = |number, name, sql| Migration { number, name, breaks: false, sql };
    let good = step(51, "0051_good", "CREATE TABLE good (n {int}) {strict}");
    let bad = step(52, "0052_bad", "INSERT INTO good VALUES (1); INSERT INTO nowhere VALUES (1)");
    let failed = migrate(&mut session, &options, [("catalog", &[good, bad]), ("store", STORE)]).await.unwrap_err();
    let MigrateError::Step { name, .. } = &failed else { panic!("{failed:?}") };
    assert_eq!(name, "catalog 0052_bad");
    let missing = "SELECT count(*) FROM pg_tables WHERE tablename = 'good'";
    assert_eq!(postgres.sql(missing), "0", "all or nothing");
    let migrated = migrate(&mut session, &options, [("catalog", &[good]), ("store", STORE)]).await.unwrap();
    assert_eq!((migrated.applied, migrated.catalog), (vec!["catalog 0051_good".to_owned()], 51));
    let breaking = CATALOG.iter().filter(|step| step.breaks).map(|step| step.number).max().unwrap();
    assert_eq!(postgres.sql("SELECT min_reader FROM flotilla_schema WHERE number = 51"), breaking.to_string());
}

#[tokio::test]
async fn faults_have_names() {
    let Some(postgres) = Postgres::new() else { return };
    let failed = |options: Options| open(&options).err().unwrap();
    for shards in [0, 4_097] {
        assert!(matches!(failed(Options { shards, ..options(&postgres.url) }), OpenError::Shards { .. }));
    }
    let nowhere = postgres.url.replace(postgres.database(), "nowhere");
    assert!(matches!(failed(options(&nowhere)), OpenError::NoDatabase { .. }));
    let stranger = postgres.url.replace("flotilla@", "stranger:geheim@");
    let refused = failed(options(&stranger));
    assert!(matches!(refused, OpenError::Login { .. }), "{refused}");
    assert!(!format!("{refused} {refused:?}").contains("geheim"));
    let unreachable = failed(options("postgres://u@127.0.0.1:1/d"));
    assert!(matches!(unreachable, OpenError::Unreachable { .. }), "{unreachable}");
    let tls = failed(options(&format!("{}?sslmode=require", postgres.url)));
    assert!(tls.to_string().contains("TLS"), "{tls}");
    // A primary is wanted; of several hosts, the one that is.
    let port = postgres.url.split([':', '/']).nth(4).unwrap();
    let several = postgres.url.replace("@127.0.0.1:", "@127.0.0.1:1,127.0.0.1:");
    assert!(several.contains(port));
    drop(open(&options(&several)).unwrap());
    postgres.sql(&format!("ALTER DATABASE {} SET default_transaction_read_only = on", postgres.database()));
    let standby = failed(options(&postgres.url));
    assert!(standby.to_string().contains("standby"), "{standby}");
}
