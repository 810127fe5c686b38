//! What people set about routing: a tenant's rules, plans, limits and money as one document with a version, and what each
//! SIM may do, put together from everything that says something about it.
//!
//! Every change raises the tenant's number in `routing_changes`, in the same transaction. Controllers ask for the numbers
//! above the last one that they know ([`changes_after`]), so a change made anywhere is felt everywhere within seconds.

mod resolve;

use std::sync::Arc;

use flotilla_protocol::id::{ShardId, TenantId};
use flotilla_routing::settings::{TenantRouting, Tenants};

use super::audit::{self, By};
use crate::sql_params;
use crate::store::{Catalog, SqlError, Tx};

pub use resolve::{Surroundings, resolve};
pub(crate) use resolve::{of_device, of_route, of_tenant};

/// A tenant's settings, and which version they are. Version 0: nobody has set anything, and the defaults count.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Versioned {
    pub version: u64,
    pub changed_ms: Option<u64>,
    pub settings: Arc<TenantRouting>,
}

#[derive(Debug, thiserror::Error)]
pub enum PutError {
    #[error("the settings have changed meanwhile: they are at version {version} now; read them, and change those")]
    Changed { version: u64 },
    #[error("the catalog does not answer")]
    Sql(#[from] SqlError),
}

pub async fn get(catalog: &dyn Catalog, tenant: TenantId) -> Result<Versioned, SqlError> {
    catalog.read(move |tx| read(tx, tenant)).await
}

fn read(tx: &mut dyn Tx, tenant: TenantId) -> Result<Versioned, SqlError> {
    let sql = "SELECT version, settings, changed_ms FROM tenant_routing WHERE tenant = $1";
    let Some(row) = tx.query_one(sql, sql_params![tenant])? else { return Ok(Versioned::default()) };
    Ok(Versioned {
        version: row.get("version")?,
        changed_ms: Some(row.get("changed_ms")?),
        settings: Arc::new(settings_of(&row.get::<String>("settings")?)?),
    })
}

fn settings_of(text: &str) -> Result<TenantRouting, SqlError> {
    serde_json::from_str(text)
        .map_err(|_| SqlError::Type { column: "settings".into(), expected: "a tenant's routing as JSON" })
}

/// Replaces a tenant's settings, which have been checked, when they are at this version; `None` whatever they are.
pub async fn put(
    catalog: &dyn Catalog,
    tenant: TenantId,
    seen: Option<u64>,
    settings: Arc<TenantRouting>,
    by: By,
) -> Result<Versioned, PutError> {
    let text = serde_json::to_string(&*settings)
        .map_err(|_| SqlError::Type { column: "settings".into(), expected: "JSON" })?;
    catalog
        .run(move |tx| {
            let sql = "SELECT version FROM tenant_routing WHERE tenant = $1";
            let row = tx.query_one(sql, sql_params![tenant])?;
            let version: u64 = row.map(|row| row.get("version")).transpose()?.unwrap_or(0);
            if seen.is_some_and(|seen| seen != version) {
                return Err(PutError::Changed { version });
            }
            let next = version + 1;
            tx.execute(
                "INSERT INTO tenant_routing (tenant, version, settings, changed_ms) VALUES ($1, $2, $3, $4) \
                 ON CONFLICT (tenant) DO UPDATE SET version = excluded.version, settings = excluded.settings, \
                 changed_ms = excluded.changed_ms",
                sql_params![tenant, next, text, by.at_ms],
            )?;
            let detail = serde_json::json!({ "version": next }).to_string();
            audit::write(tx, &audit::Act { detail, ..by.act(Some(tenant), "routing.change", tenant) })?;
            touch(tx, tenant)?;
            Ok(Versioned { version: next, changed_ms: Some(by.at_ms), settings })
        })
        .await
}

/// Something about the tenant's routing changes in this transaction.
pub(crate) fn touch(tx: &mut dyn Tx, tenant: TenantId) -> Result<(), SqlError> {
    // Transactions that write take turns, so the numbers are given in the order of the commits.
    let row = tx.query_one("SELECT COALESCE(MAX(number), 0) AS last FROM routing_changes", &[])?;
    let last: u64 = row.map_or(Ok(0), |row| row.get("last"))?;
    tx.execute(
        "INSERT INTO routing_changes (tenant, number) VALUES ($1, $2) \
         ON CONFLICT (tenant) DO UPDATE SET number = excluded.number",
        sql_params![tenant, last + 1],
    )
    .map(drop)
}

/// Tenants with a change after this number, each with the number of its last one, in order.
pub async fn changes_after(catalog: &dyn Catalog, number: u64) -> Result<Vec<(TenantId, u64)>, SqlError> {
    catalog
        .read(move |tx| {
            let sql = "SELECT tenant, number FROM routing_changes WHERE number > $1 ORDER BY number LIMIT 10000";
            tx.query(sql, sql_params![number])?.iter().map(|row| Ok((row.get("tenant")?, row.get("number")?))).collect()
        })
        .await
}

/// The settings of all tenants of a shard: what it starts with.
pub async fn of_shard(catalog: &dyn Catalog, shard: ShardId, shards: u16) -> Result<Tenants, SqlError> {
    let ids: Vec<TenantId> = catalog
        .read(|tx| tx.query("SELECT tenant FROM tenant_routing", &[])?.iter().map(|row| row.get("tenant")).collect())
        .await?;
    let mut tenants = Tenants::default();
    for tenant in ids.into_iter().filter(|tenant| ShardId::of(*tenant, shards) == shard) {
        tenants.insert(tenant, get(catalog, tenant).await?.settings);
    }
    Ok(tenants)
}

/// The tenants of a shard.
pub async fn tenants_of(catalog: &dyn Catalog, shard: ShardId, shards: u16) -> Result<Vec<TenantId>, SqlError> {
    let all: Vec<TenantId> =
        catalog.read(|tx| tx.query("SELECT id FROM tenants", &[])?.iter().map(|row| row.get("id")).collect()).await?;
    Ok(all.into_iter().filter(|tenant| ShardId::of(*tenant, shards) == shard).collect())
}

#[cfg(test)]
mod tests;
