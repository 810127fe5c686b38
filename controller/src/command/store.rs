//! `store`: brings the configured store's tables up to date, or moves a single node's store into a database.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::files::print;
use crate::config::{self, DatabaseUrl, Sources, StoreEngine};
use crate::store::{copy, postgres};

#[derive(Debug, Subcommand)]
pub(super) enum StoreCommand {
    /// Bring the tables of the configured store up to date, and say what was done
    #[command(
        after_help = "A controller does the same when it starts. Example:\n  flotilla store migrate -c /etc/flotilla.toml"
    )]
    Migrate(Sources),
    /// Copy a single node's store into an empty PostgreSQL database
    #[command(
        after_help = "Stop the controller first: its data folder is locked meanwhile, and only read. Keep the folder: the CA's keys\n\
        and the statistics in it are not part of the store. An interrupted copy cannot be taken for a store: drop the\n\
        database, create it anew, and copy again.\n\n\
        Example:\n  createdb -O flotilla flotilla\n  \
        flotilla store copy --from /var/lib/flotilla --to postgres://flotilla@db1/flotilla --password-file pw"
    )]
    Copy(CopyOptions),
}

#[derive(Debug, Args)]
pub(super) struct CopyOptions {
    /// The data folder of the single node
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The empty database; left out, the one of the configuration
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// File with the password for --to
    #[arg(long, value_name = "FILE", requires = "to")]
    password_file: Option<PathBuf>,
    /// PEM certificates that the server's has to come from
    #[arg(long, value_name = "FILE", requires = "to")]
    ca_file: Option<PathBuf>,
    #[command(flatten)]
    sources: Sources,
}

impl StoreCommand {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Migrate(sources) => migrate(&sources).await,
            Self::Copy(options) => copy_store(options).await,
        }
    }
}

async fn migrate(sources: &Sources) -> anyhow::Result<()> {
    let config = config::load(sources)?;
    if config.store.engine == StoreEngine::Sqlite {
        drop(crate::app::stores::open_stores(&config).await?);
        return print(&format!("the store in {} is up to date\n", config.data_dir.display()));
    }
    let options = config.store.postgres_options()?;
    let (_, done) = tokio::task::spawn_blocking(move || postgres::open_and_tell(&options)).await??;
    for step in &done.applied {
        print(&format!("applied {step}\n"))?;
    }
    print(&format!("the store is up to date: catalog {}, store {}\n", done.catalog, done.store))
}

async fn copy_store(options: CopyOptions) -> anyhow::Result<()> {
    let mut store = match &options.to {
        Some(_) => config::Store { engine: StoreEngine::Postgres, ..config::Store::default() },
        None => config::load(&options.sources)?.store,
    };
    if let Some(url) = options.to {
        store.postgres.url = DatabaseUrl::from(url);
        store.postgres.password_file = options.password_file;
        store.postgres.ca_file = options.ca_file;
    }
    anyhow::ensure!(
        store.engine == StoreEngine::Postgres,
        "give --to, or set store.engine = \"postgres\" and store.postgres.url in the configuration"
    );
    let target = store.postgres_options()?;
    let copied = copy::copy(&options.from, target, |line| eprintln!("{line}")).await?;
    let rows: u64 = copied.tables.iter().map(|(_, count)| count).sum();
    let counts = copied.counts;
    print(&format!(
        "copied and counted: {rows} catalog rows in {} tables, {} messages, {} inbound messages, {} idempotency keys, {} journal \
         batches\n",
        copied.tables.len(),
        counts.messages,
        counts.inbound,
        counts.keys,
        counts.batches
    ))
}
