//! The accounts in the catalog, and all of them in memory: callbacks and sessions look accounts up far more often than people
//! change them.
//!
//! A change here is seen at once; one that another controller has made with the next [`Accounts::refresh`], which compares
//! versions and reads what is new. Secrets are sealed for their row and opened once.

use std::collections::BTreeMap;
use std::sync::Arc;

use flotilla_protocol::id::{ProviderId, SenderId, TenantId};
use flotilla_routing::route::Route;
use flotilla_routing::table::KnownRoute;
use parking_lot::RwLock;
use rustc_hash::{FxHashMap, FxHashSet};
use tokio::sync::watch;

use super::account::{ACCOUNTS_MAX, Noted, Provider, Settings, Wrong};
use super::kind::Kind;
use crate::fleet::LIMIT_MAX;
use crate::fleet::audit::{self, By};
use crate::net_guard::NetGuard;
use crate::secrets::{ClusterKeys, SealError};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

const COLUMNS: &str = "id, tenant, maker, name, enabled, settings, secrets_sealed, callback_token, version, created_ms, \
                       changed_ms, noted";

#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    #[error("there is no such provider account")]
    NotFound,
    #[error(transparent)]
    Wrong(#[from] Wrong),
    #[error("a tenant has at most {ACCOUNTS_MAX} provider accounts; remove one")]
    TooMany,
    #[error("somebody else has changed the account; look at it, and try again")]
    Changed,
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Sql(#[from] SqlError),
}

/// An account that is to be made.
#[derive(Clone, Debug)]
pub struct NewProvider {
    pub kind: Kind,
    pub name: String,
    pub enabled: bool,
    pub settings: Settings,
    pub secrets: BTreeMap<Box<str>, Box<str>>,
}

/// Accounts of all tenants. Cheap to clone.
#[derive(Clone)]
pub struct Accounts(Arc<Inner>);

struct Inner {
    catalog: Arc<dyn Catalog>,
    keys: ClusterKeys,
    guard: NetGuard,
    known: RwLock<FxHashMap<ProviderId, Arc<Provider>>>,
    /// Versions of rows that cannot be read here: told once each.
    unreadable: RwLock<FxHashMap<ProviderId, u64>>,
    changes: watch::Sender<()>,
}

/// What a sender of an account may do, whether the account is at work or not; none when somebody has removed it.
pub(crate) fn of_route(
    tx: &mut dyn Tx,
    tenant: TenantId,
    provider: ProviderId,
    sender: SenderId,
) -> Result<Option<KnownRoute>, SqlError> {
    let sql = "SELECT settings FROM providers WHERE id = $1 AND tenant = $2";
    let Some(row) = tx.query_one(sql, sql_params![provider, tenant])? else { return Ok(None) };
    // Its session tells what cannot be read.
    let settings: Settings = serde_json::from_str(&row.get::<String>("settings")?).unwrap_or_default();
    let found = settings.routes(None).into_iter().find(|(id, _)| *id == sender);
    Ok(found.map(|(_, settings)| KnownRoute { route: Route::provider(provider, sender), tenant, settings }))
}

/// A row as it is written.
struct Written {
    settings: String,
    secrets_sealed: Vec<u8>,
}

impl Accounts {
    pub async fn open(catalog: Arc<dyn Catalog>, keys: ClusterKeys, guard: NetGuard) -> Result<Self, SqlError> {
        let accounts = Self(Arc::new(Inner {
            catalog,
            keys,
            guard,
            known: RwLock::default(),
            unreadable: RwLock::default(),
            changes: watch::Sender::new(()),
        }));
        accounts.refresh().await?;
        accounts.reseal().await?;
        Ok(accounts)
    }

    pub fn guard(&self) -> NetGuard {
        self.0.guard
    }

    /// Word of every change.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changes.subscribe()
    }

    /// As it is known here.
    pub fn known(&self, id: ProviderId) -> Option<Arc<Provider>> {
        self.0.known.read().get(&id).cloned()
    }

    /// Of a tenant; what belongs to another one is not there.
    pub fn of(&self, tenant: TenantId, id: ProviderId) -> Result<Arc<Provider>, AccountError> {
        self.known(id).filter(|provider| provider.tenant == tenant).ok_or(AccountError::NotFound)
    }

    pub fn all(&self) -> Vec<Arc<Provider>> {
        self.0.known.read().values().cloned().collect()
    }

    /// A tenant's accounts by id, so the oldest first.
    pub async fn list(
        &self,
        tenant: TenantId,
        after: Option<ProviderId>,
        limit: usize,
    ) -> Result<Vec<Arc<Provider>>, AccountError> {
        self.refresh().await?;
        let mut found: Vec<_> = self.all().into_iter().filter(|provider| provider.tenant == tenant).collect();
        found.retain(|provider| after.is_none_or(|after| provider.id > after));
        found.sort_unstable_by_key(|provider| provider.id);
        found.truncate(limit.min(LIMIT_MAX as usize));
        Ok(found)
    }

    /// As it is in the store now.
    pub async fn get(&self, tenant: TenantId, id: ProviderId) -> Result<Arc<Provider>, AccountError> {
        self.refresh().await?;
        self.of(tenant, id)
    }

    pub async fn create(&self, by: By, tenant: TenantId, new: NewProvider) -> Result<Arc<Provider>, AccountError> {
        let now_ms = by.at_ms;
        let mut provider = Provider {
            id: ProviderId::new(now_ms, rand::random()),
            tenant,
            kind: new.kind,
            name: new.name,
            enabled: new.enabled,
            settings: new.settings,
            secrets: new.secrets,
            callback_token: rand::random(),
            version: 1,
            created_ms: now_ms,
            changed_ms: now_ms,
            noted: Noted::default(),
        };
        provider.settings.identify(&[], || SenderId::new(now_ms, rand::random()))?;
        provider.check(self.0.guard)?;
        let written = self.written(&provider)?;
        let row = provider.clone();
        self.0.catalog.run(move |tx| insert(tx, &by, &row, &written)).await?;
        Ok(self.keep(provider))
    }

    /// `change` makes the new account of the present one; its version decides whether somebody else was faster.
    pub async fn change(
        &self,
        by: By,
        tenant: TenantId,
        id: ProviderId,
        change: impl FnOnce(&mut Provider) -> Result<(), Wrong>,
    ) -> Result<Arc<Provider>, AccountError> {
        let former = self.get(tenant, id).await?;
        let mut provider = (*former).clone();
        change(&mut provider)?;
        let now_ms = by.at_ms;
        provider.settings.identify(&former.settings.senders, || SenderId::new(now_ms, rand::random()))?;
        provider.check(self.0.guard)?;
        (provider.version, provider.changed_ms) = (former.version + 1, now_ms);
        let written = self.written(&provider)?;
        let detail = serde_json::json!({"changed": differences(&former, &provider)}).to_string();
        let row = provider.clone();
        self.0.catalog.run(move |tx| update(tx, &by, &row, &written, detail)).await?;
        Ok(self.keep(provider))
    }

    pub async fn remove(&self, by: By, tenant: TenantId, id: ProviderId) -> Result<(), AccountError> {
        let gone = self.0.catalog.run(move |tx| {
            let gone = tx.execute("DELETE FROM providers WHERE id = $1 AND tenant = $2", sql_params![id, tenant])?;
            if gone == 1 {
                tx.execute("DELETE FROM provider_references WHERE provider = $1", sql_params![id])?;
                audit::write(tx, &by.act(Some(tenant), "provider.remove", id))?;
            }
            Ok::<_, SqlError>(gone)
        });
        if gone.await? == 0 {
            return Err(AccountError::NotFound);
        }
        self.0.known.write().remove(&id);
        self.0.changes.send_replace(());
        Ok(())
    }

    /// Keeps what the maker has told. It is nobody's change, so the version stays.
    pub async fn note(&self, id: ProviderId, noted: Noted) -> Result<(), SqlError> {
        let text = serde_json::to_string(&noted).unwrap_or_else(|_| "{}".to_owned());
        let sql = "UPDATE providers SET noted = $1 WHERE id = $2";
        self.0.catalog.run(move |tx| tx.execute(sql, sql_params![text, id])).await?;
        if let Some(known) = self.0.known.write().get_mut(&id) {
            *known = Arc::new(Provider { noted, ..(**known).clone() });
        }
        Ok(())
    }

    /// Reads what others have changed.
    pub async fn refresh(&self) -> Result<(), SqlError> {
        let rows = self.0.catalog.read(|tx| tx.query("SELECT id, version FROM providers", &[])).await?;
        let versions = rows.iter().map(|row| Ok((row.get("id")?, row.get("version")?)));
        let versions = versions.collect::<Result<FxHashMap<ProviderId, u64>, SqlError>>()?;
        let (stale, gone) = self.compare(&versions);
        if stale.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let sql = format!("SELECT {COLUMNS} FROM providers WHERE id = $1");
        let read = move |tx: &mut dyn Tx| -> Result<Vec<Option<Row>>, SqlError> {
            stale.iter().map(|id| tx.query_one(&sql, sql_params![*id])).collect()
        };
        for row in self.0.catalog.read(read).await?.into_iter().flatten() {
            if let Some(provider) = self.opened(&row)? {
                self.keep(provider);
            }
        }
        if !gone.is_empty() {
            let mut known = self.0.known.write();
            gone.iter().for_each(|id| drop(known.remove(id)));
            drop(known);
            self.0.changes.send_replace(());
        }
        Ok(())
    }

    /// Those to be read again, and those that are no more.
    fn compare(&self, versions: &FxHashMap<ProviderId, u64>) -> (Vec<ProviderId>, Vec<ProviderId>) {
        let (known, unreadable) = (self.0.known.read(), self.0.unreadable.read());
        let seen = |id: &ProviderId| known.get(id).map(|known| known.version).max(unreadable.get(id).copied());
        let stale = versions.iter().filter(|(id, version)| seen(id).is_none_or(|seen| seen < **version));
        let gone = known.keys().filter(|id| !versions.contains_key(id));
        (stale.map(|(id, _)| *id).collect(), gone.copied().collect())
    }

    fn keep(&self, provider: Provider) -> Arc<Provider> {
        let provider = Arc::new(provider);
        let mut known = self.0.known.write();
        // A read that was under way while somebody changed it here is older.
        let newer = known.get(&provider.id).is_some_and(|known| known.version > provider.version);
        if !newer {
            known.insert(provider.id, Arc::clone(&provider));
        }
        drop(known);
        self.0.changes.send_replace(());
        provider
    }

    fn written(&self, provider: &Provider) -> Result<Written, AccountError> {
        let text = |error: serde_json::Error| AccountError::Sql(SqlError::Statement(error.to_string()));
        let secrets = serde_json::to_vec(&provider.secrets).map_err(text)?;
        Ok(Written {
            settings: serde_json::to_string(&provider.settings).map_err(text)?,
            secrets_sealed: self.0.keys.seal(&place(provider.id), &secrets)?,
        })
    }

    /// `None` for one that this program or its keys cannot read; the others work on.
    fn opened(&self, row: &Row) -> Result<Option<Provider>, SqlError> {
        let id: ProviderId = row.get("id")?;
        let version: u64 = row.get("version")?;
        match self.open_row(id, row) {
            Ok(provider) => {
                self.0.unreadable.write().remove(&id);
                Ok(Some(provider))
            }
            Err(Unreadable::Sql(error)) => Err(error),
            Err(Unreadable::Because(why)) => {
                tracing::error!(provider = %id, why, "a provider account cannot be used");
                self.0.unreadable.write().insert(id, version);
                Ok(None)
            }
        }
    }

    fn open_row(&self, id: ProviderId, row: &Row) -> Result<Provider, Unreadable> {
        let because = |error: &dyn std::fmt::Display| Unreadable::Because(error.to_string());
        let maker: String = row.get("maker")?;
        let kind = Kind::by_name(&maker).ok_or_else(|| because(&format!("this program knows no maker `{maker}`")))?;
        let sealed: Vec<u8> = row.get("secrets_sealed")?;
        let secrets = self.0.keys.open(&place(id), &sealed).map_err(|error| because(&error))?;
        Ok(Provider {
            id,
            tenant: row.get("tenant")?,
            kind,
            name: row.get("name")?,
            enabled: row.get("enabled")?,
            settings: serde_json::from_str(&row.get::<String>("settings")?).map_err(|error| because(&error))?,
            secrets: serde_json::from_slice(&secrets).map_err(|error| because(&error))?,
            callback_token: row.get("callback_token")?,
            version: row.get("version")?,
            created_ms: row.get("created_ms")?,
            changed_ms: row.get("changed_ms")?,
            // What is not understood is only a memory of what can be asked again.
            noted: serde_json::from_str(&row.get::<String>("noted")?).unwrap_or_default(),
        })
    }

    /// Seals anew what another key than the present one has sealed.
    async fn reseal(&self) -> Result<(), SqlError> {
        let rows = self.0.catalog.read(|tx| tx.query("SELECT id, secrets_sealed FROM providers", &[])).await?;
        for row in rows {
            let (id, sealed): (ProviderId, Vec<u8>) = (row.get("id")?, row.get("secrets_sealed")?);
            if !self.0.keys.is_outdated(&sealed) {
                continue;
            }
            let Ok(secrets) = self.0.keys.open(&place(id), &sealed) else { continue };
            let Ok(fresh) = self.0.keys.seal(&place(id), &secrets) else { continue };
            let sql = "UPDATE providers SET secrets_sealed = $1 WHERE id = $2 AND secrets_sealed = $3";
            self.0.catalog.run(move |tx| tx.execute(sql, sql_params![fresh, id, sealed])).await?;
        }
        Ok(())
    }
}

enum Unreadable {
    Sql(SqlError),
    Because(String),
}

impl From<SqlError> for Unreadable {
    fn from(error: SqlError) -> Self {
        Self::Sql(error)
    }
}

/// What a sealed value is bound to.
fn place(id: ProviderId) -> String {
    format!("providers/{id}/secrets")
}

fn insert(tx: &mut dyn Tx, by: &By, row: &Provider, written: &Written) -> Result<(), AccountError> {
    let count = "SELECT COUNT(*) AS n FROM providers WHERE tenant = $1";
    let count = tx.query_one(count, sql_params![row.tenant])?.map_or(Ok(0), |row| row.get::<u64>("n"))?;
    if count >= ACCOUNTS_MAX as u64 {
        return Err(AccountError::TooMany);
    }
    tx.execute(
        "INSERT INTO providers (id, tenant, maker, name, enabled, settings, secrets_sealed, callback_token, version, \
         created_ms, changed_ms) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)",
        sql_params![
            row.id,
            row.tenant,
            row.capabilities().name,
            &row.name,
            row.enabled,
            written.settings.as_str(),
            written.secrets_sealed.as_slice(),
            row.callback_token,
            row.version,
            row.created_ms
        ],
    )?;
    let detail = serde_json::json!({"maker": row.capabilities().name}).to_string();
    audit::write(tx, &audit::Act { detail, ..by.act(Some(row.tenant), "provider.create", row.id) })?;
    Ok(())
}

fn update(tx: &mut dyn Tx, by: &By, row: &Provider, written: &Written, detail: String) -> Result<(), AccountError> {
    let changed = tx.execute(
        "UPDATE providers SET name = $1, enabled = $2, settings = $3, secrets_sealed = $4, version = $5, changed_ms = $6 \
         WHERE id = $7 AND version = $8",
        sql_params![
            &row.name,
            row.enabled,
            written.settings.as_str(),
            written.secrets_sealed.as_slice(),
            row.version,
            row.changed_ms,
            row.id,
            row.version - 1
        ],
    )?;
    if changed != 1 {
        return Err(AccountError::Changed);
    }
    audit::write(tx, &audit::Act { detail, ..by.act(Some(row.tenant), "provider.change", row.id) })?;
    Ok(())
}

/// Names of what has changed; never a value.
fn differences(former: &Provider, new: &Provider) -> Vec<String> {
    let json = |settings: &Settings| match serde_json::to_value(settings) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (old, now) = (json(&former.settings), json(&new.settings));
    let changed = now.iter().filter(|(name, value)| old.get(*name) != Some(*value));
    let mut names: Vec<String> = changed.map(|(name, _)| name.clone()).collect();
    if former.name != new.name {
        names.push("name".to_owned());
    }
    if former.enabled != new.enabled {
        names.push("enabled".to_owned());
    }
    let secrets: FxHashSet<&str> = former.secrets.keys().chain(new.secrets.keys()).map(|name| &**name).collect();
    let differs = |name: &&str| former.secrets.get(*name) != new.secrets.get(*name);
    names.extend(secrets.into_iter().filter(differs).map(|name| format!("secrets.{name}")));
    names.sort_unstable();
    names
}

#[cfg(test)]
mod tests;
