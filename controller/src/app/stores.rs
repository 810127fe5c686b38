//! The store that is configured.

use crate::config::{Config, StoreEngine};
use crate::store::{Stores, postgres, sqlite};

/// Opens it, and makes or updates it where needed.
pub(crate) async fn open_stores(config: &Config) -> anyhow::Result<Stores> {
    let open: Box<dyn FnOnce() -> anyhow::Result<Stores> + Send> = match config.store.engine {
        StoreEngine::Sqlite => {
            let options = sqlite::Options { shards: config.store.shards, ..sqlite::Options::default() };
            let dir = config.data_dir.clone();
            Box::new(move || Ok(sqlite::open(&dir, &options)?))
        }
        StoreEngine::Postgres => {
            let options = config.store.postgres_options()?;
            Box::new(move || Ok(postgres::open(&options)?))
        }
    };
    // Both wait for disks and servers.
    tokio::task::spawn_blocking(open).await?
}
