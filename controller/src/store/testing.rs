//! What tests of several modules need: a PostgreSQL for all of them, and stores on the engine that is asked for.
//!
//! `FLOTILLA_TEST_STORE=postgres` runs tests that only need some store on PostgreSQL instead of SQLite.

use std::path::Path;
use std::sync::OnceLock;

use super::postgres::own::{OwnError, OwnServer};
use super::{Stores, postgres, sqlite};

/// The server that all tests of this process share; each takes a database of its own. Without PostgreSQL's programs there is
/// none, and the test says so and ends; unless everything is required, as in CI.
pub(crate) fn server() -> Option<&'static OwnServer> {
    static SERVER: OnceLock<Option<OwnServer>> = OnceLock::new();
    SERVER.get_or_init(|| available(OwnServer::start(&[]))).as_ref()
}

pub(crate) fn available(server: Result<OwnServer, OwnError>) -> Option<OwnServer> {
    match server {
        Ok(server) => Some(server),
        Err(error @ OwnError::Missing) if std::env::var_os("FLOTILLA_TESTS_REQUIRE_ALL").is_none() => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// A new store: in a folder, or in a new database.
pub(crate) fn new_stores(dir: &Path) -> Stores {
    match std::env::var("FLOTILLA_TEST_STORE").as_deref() {
        Ok("postgres") => {
            let url = server().expect("a PostgreSQL was asked for").database().unwrap();
            postgres::open(&postgres::Options::new(&url)).unwrap()
        }
        Ok("sqlite") | Err(_) => sqlite::open(dir, &sqlite::Options::default()).unwrap(),
        Ok(other) => panic!("FLOTILLA_TEST_STORE is sqlite or postgres, not {other}"),
    }
}
