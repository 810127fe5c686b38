//! Tenants: the organisations that own devices, SIMs, keys and messages.

use flotilla_protocol::id::TenantId;

use super::audit::{self, By};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError};

/// Most bytes of a tenant's name: what an enrolment code has room for.
pub const NAME_BYTES_MAX: usize = flotilla_protocol::enroll_code::TENANT_NAME_BYTES_MAX;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub disabled: bool,
    pub created_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum TenantError {
    #[error("there is a tenant of this name already")]
    NameTaken,
    #[error(transparent)]
    Sql(SqlError),
}

impl From<SqlError> for TenantError {
    fn from(error: SqlError) -> Self {
        match error {
            SqlError::Exists { .. } => Self::NameTaken,
            other => Self::Sql(other),
        }
    }
}

const COLUMNS: &str = "id, name, disabled, created_ms";

fn tenant(row: &Row) -> Result<Tenant, SqlError> {
    Ok(Tenant {
        id: row.get("id")?,
        name: row.get("name")?,
        disabled: row.get("disabled")?,
        created_ms: row.get("created_ms")?,
    })
}

/// Names are unique, so that a person who scans a QR code can tell whose device it becomes.
pub async fn create(catalog: &dyn Catalog, by: By, new: Tenant) -> Result<Tenant, TenantError> {
    catalog
        .run(move |tx| {
            let sql = "INSERT INTO tenants (id, name, disabled, created_ms) VALUES ($1, $2, $3, $4)";
            tx.execute(sql, sql_params![new.id, &new.name, new.disabled, new.created_ms])?;
            audit::write(tx, &by.act(Some(new.id), "tenant.create", new.id))?;
            Ok(new)
        })
        .await
}

pub async fn get(catalog: &dyn Catalog, id: TenantId) -> Result<Option<Tenant>, SqlError> {
    catalog
        .read(move |tx| {
            let sql = format!("SELECT {COLUMNS} FROM tenants WHERE id = $1");
            tx.query_one(&sql, sql_params![id])?.as_ref().map(tenant).transpose()
        })
        .await
}

/// In the order of creation, those after `after`.
pub async fn list(catalog: &dyn Catalog, after: Option<TenantId>, limit: usize) -> Result<Vec<Tenant>, SqlError> {
    catalog
        .read(move |tx| {
            let sql = format!("SELECT {COLUMNS} FROM tenants WHERE id > $1 ORDER BY id LIMIT $2");
            let after = after.unwrap_or(TenantId::from_bytes([0; 16]));
            tx.query(&sql, sql_params![after, limit as u64])?.iter().map(tenant).collect()
        })
        .await
}

/// Those that are disabled now.
pub async fn disabled(catalog: &dyn Catalog) -> Result<Vec<TenantId>, SqlError> {
    catalog
        .read(|tx| {
            let rows = tx.query("SELECT id FROM tenants WHERE disabled = 1", &[])?;
            rows.iter().map(|row| row.get("id")).collect()
        })
        .await
}

/// A disabled tenant's keys are refused and its devices are turned away; nothing of it is deleted. False when there is none.
pub async fn set_disabled(catalog: &dyn Catalog, by: By, id: TenantId, disabled: bool) -> Result<bool, SqlError> {
    catalog
        .run(move |tx| {
            let sql = "UPDATE tenants SET disabled = $1 WHERE id = $2";
            let found = tx.execute(sql, sql_params![disabled, id])? == 1;
            if found {
                let action = if disabled { "tenant.disable" } else { "tenant.enable" };
                audit::write(tx, &by.act(Some(id), action, id))?;
            }
            Ok(found)
        })
        .await
}
