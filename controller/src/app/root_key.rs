//! The installation's own key: made at the first start, kept in a file that only its owner reads.
//!
//! The catalog has its hash, like every key's. Whoever has the data folder can make a new one, but only while the controller
//! is stopped, since the folder is locked: nobody takes over a running installation quietly.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use flotilla_protocol::id::KeyId;

use crate::ca::{read_private, write_private};
use crate::clock::{Clock, SystemClock};
use crate::config::Config;
use crate::fleet::audit::By;
use crate::fleet::keys::{self, ApiKey, Scopes, Secret};
use crate::store::{Catalog, sqlite};

const FILE: &str = "root.key";

fn file(config: &Config) -> PathBuf {
    config.data_dir.join(FILE)
}

/// The key in the file.
pub fn read(config: &Config) -> anyhow::Result<Secret> {
    let file = file(config);
    let Some(bytes) = read_private(&file)? else {
        bail!(
            "{}: no such file; start the controller once, name its folder with --data-dir, or make a new key with \
             `flotilla root-key --reset` while it is stopped",
            file.display()
        );
    };
    let text = String::from_utf8(bytes).unwrap_or_default();
    let damaged = || format!("{} is damaged: make a new key with `flotilla root-key --reset`", file.display());
    Secret::parse(text.trim()).with_context(damaged)
}

/// Makes a root key unless there is one. Answers the file of a new one.
pub(super) async fn ensure(config: &Config, catalog: &dyn Catalog) -> anyhow::Result<Option<PathBuf>> {
    if keys::has_root(catalog).await? {
        return Ok(None);
    }
    make(catalog, "system", &file(config)).await.map(|_| Some(file(config)))
}

/// Voids the root key and makes another one. Fails while a controller uses the folder.
pub async fn reset(config: &Config) -> anyhow::Result<Secret> {
    super::make_data_dir(config)?;
    let options = sqlite::Options { shards: config.store.shards, ..sqlite::Options::default() };
    let dir = config.data_dir.clone();
    let stores = tokio::task::spawn_blocking(move || sqlite::open(&dir, &options)).await??;
    make(&*stores.catalog, "cli", &file(config)).await
}

/// The file first: a key that nobody has seen is worse than a file with a key that does not work yet.
async fn make(catalog: &dyn Catalog, actor: &str, file: &Path) -> anyhow::Result<Secret> {
    let secret = Secret::new(rand::random());
    write_private(file, format!("{}\n", secret.expose()).as_bytes())?;
    let now_ms = SystemClock.now().unix_ms;
    let key = ApiKey {
        id: KeyId::new(now_ms, rand::random()),
        tenant: None,
        name: "root".to_owned(),
        scopes: Scopes::ADMIN,
        rate_per_min: None,
        disabled: false,
        created_ms: now_ms,
        last_used_ms: None,
    };
    let by = By { actor: actor.to_owned(), at_ms: now_ms };
    keys::replace_root(catalog, by, key, secret.hash()).await?;
    Ok(secret)
}
