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
use crate::store::Catalog;

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

/// Makes a root key unless there is one. Answers the file of a new one. Of several controllers that begin at once with an
/// empty store, one makes it, and has its file.
pub(super) async fn ensure(config: &Config, catalog: &dyn Catalog) -> anyhow::Result<Option<PathBuf>> {
    if keys::has_root(catalog).await? {
        return Ok(None);
    }
    let (file, (secret, key, by)) = (file(config), fresh("system"));
    keep(&file, &secret)?;
    if keys::first_root(catalog, by, key, secret.hash()).await? {
        return Ok(Some(file));
    }
    std::fs::remove_file(&file)
        .with_context(|| format!("removing {}, whose key counts for nothing", file.display()))?;
    Ok(None)
}

/// Voids the root key and makes another one. Fails while a controller uses the folder.
pub async fn reset(config: &Config) -> anyhow::Result<Secret> {
    super::make_data_dir(config)?;
    let stores = super::stores::open_stores(config).await?;
    make(&*stores.catalog, "cli", &file(config)).await
}

/// The file first: a key that nobody has seen is worse than a file with a key that does not work yet.
async fn make(catalog: &dyn Catalog, actor: &str, file: &Path) -> anyhow::Result<Secret> {
    let (secret, key, by) = fresh(actor);
    keep(file, &secret)?;
    keys::replace_root(catalog, by, key, secret.hash()).await?;
    Ok(secret)
}

fn keep(file: &Path, secret: &Secret) -> anyhow::Result<()> {
    Ok(write_private(file, format!("{}\n", secret.expose()).as_bytes())?)
}

fn fresh(actor: &str) -> (Secret, ApiKey, By) {
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
    (Secret::new(rand::random()), key, By { actor: actor.to_owned(), at_ms: now_ms })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite;

    #[tokio::test]
    async fn of_several_controllers_that_begin_at_once_one_makes_the_root_key() {
        let dir = tempfile::tempdir().unwrap();
        let stores = sqlite::open(&dir.path().join("store"), &sqlite::Options::default()).unwrap();
        let configs = ["c1", "c2", "c3"].map(|name| Config { data_dir: dir.path().join(name), ..Config::default() });
        let made = configs.each_ref().map(|config| {
            std::fs::create_dir(&config.data_dir).unwrap();
            ensure(config, &*stores.catalog)
        });
        let made = futures_util::future::join_all(made).await;
        assert_eq!(made.iter().filter(|made| made.as_ref().unwrap().is_some()).count(), 1);
        for (config, made) in configs.iter().zip(made) {
            match made.unwrap() {
                Some(_) => {
                    let hash = read(config).unwrap().hash();
                    assert!(keys::find(&*stores.catalog, hash).await.unwrap().is_some());
                }
                None => assert!(read(config).is_err()),
            }
        }
    }
}
