//! The contract on PostgreSQL, and what only this engine has: other controllers, lost connections, restarts, partitions.

mod house;
mod link;
mod proxy;
mod schema;
mod tls;
mod two;

use std::time::Duration;

use super::own::OwnServer;
use super::{Options, open};
use crate::store::contract::{self, Engine, SHARDS};
use crate::store::{Stores, testing};

/// A database of the shared server, or of a server that crashed and started again.
struct Postgres {
    url: String,
    /// Stopped with the last test that uses it.
    own: Option<OwnServer>,
}

fn options(url: &str) -> Options {
    Options {
        shards: SHARDS,
        retain_bytes: 64 << 10,
        tail_bytes: 4 << 10,
        // What tests write is a year old.
        retention_days: 0,
        timeout: Duration::from_secs(20),
        ..Options::new(url)
    }
}

impl Postgres {
    fn new() -> Option<Self> {
        let server = testing::server()?;
        Some(Self { url: server.database().unwrap(), own: None })
    }

    /// A server that may be frozen and copied without holding up other tests.
    fn with_own_server() -> Option<Self> {
        let server = testing::available(OwnServer::start(&[]))?;
        Some(Self { url: server.database().unwrap(), own: Some(server) })
    }

    fn open(&self) -> Stores {
        open(&options(&self.url)).unwrap()
    }

    fn sql(&self, statements: &str) -> String {
        let server = self.own.as_ref().or(testing::server()).unwrap();
        server.sql(self.database(), statements).unwrap()
    }

    fn database(&self) -> &str {
        self.url.rsplit('/').next().unwrap()
    }
}

impl Engine for Postgres {
    fn open(&self) -> Stores {
        self.open()
    }

    fn crashed(&self) -> Box<dyn Engine> {
        let server = self.own.as_ref().or(testing::server()).unwrap();
        let copy = server.crashed_copy().unwrap();
        Box::new(Self { url: copy.url(self.database()), own: Some(copy) })
    }
}

contract::contract_tests!(Postgres::new(), Postgres::with_own_server());
