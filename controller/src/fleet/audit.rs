//! Who changed what: one row for each act of administration, in the order of the acts.

use flotilla_protocol::id::TenantId;

use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Act {
    pub at_ms: u64,
    /// None for what concerns the installation.
    pub tenant: Option<TenantId>,
    /// `key_...`, `dev_...`, `cli`, `system`.
    pub actor: String,
    /// Thing and verb, such as `device.revoke`.
    pub action: &'static str,
    /// The id of what was changed.
    pub subject: String,
    /// A JSON object; no secrets, no message texts.
    pub detail: String,
}

/// Who acts, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    pub actor: String,
    pub at_ms: u64,
}

impl By {
    pub(crate) fn act(&self, tenant: Option<TenantId>, action: &'static str, subject: impl ToString) -> Act {
        let (actor, at_ms) = (self.actor.clone(), self.at_ms);
        Act { at_ms, tenant, actor, action, subject: subject.to_string(), detail: "{}".to_owned() }
    }
}

/// An act as it is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub number: u64,
    pub at_ms: u64,
    pub tenant: Option<TenantId>,
    pub actor: String,
    pub action: String,
    pub subject: String,
    pub detail: String,
}

pub async fn record(catalog: &dyn Catalog, act: Act) -> Result<(), SqlError> {
    catalog.run(move |tx| write(tx, &act)).await
}

/// In the transaction of the act itself: neither without the other.
pub(crate) fn write(tx: &mut dyn Tx, act: &Act) -> Result<(), SqlError> {
    let sql = "INSERT INTO audit (at_ms, tenant, actor, action, subject, detail) VALUES ($1, $2, $3, $4, $5, $6)";
    let params = sql_params![act.at_ms, act.tenant, &act.actor, act.action, &act.subject, &act.detail];
    tx.execute(sql, params).map(drop)
}

/// The newest first, those before a number. Without a tenant: the installation's own.
pub async fn list(
    catalog: &dyn Catalog,
    tenant: Option<TenantId>,
    before: Option<u64>,
    limit: usize,
) -> Result<Vec<Entry>, SqlError> {
    catalog
        .read(move |tx| {
            let before = before.unwrap_or(u64::MAX);
            let sql = |owner: &str| {
                format!(
                    "SELECT id, at_ms, tenant, actor, action, subject, detail FROM audit
                    WHERE id < $1 AND {owner} ORDER BY id DESC LIMIT {limit}"
                )
            };
            let rows = match tenant {
                Some(tenant) => tx.query(&sql("tenant = $2"), sql_params![before, tenant])?,
                None => tx.query(&sql("tenant IS NULL"), sql_params![before])?,
            };
            rows.iter().map(entry).collect()
        })
        .await
}

fn entry(row: &Row) -> Result<Entry, SqlError> {
    Ok(Entry {
        number: row.get("id")?,
        at_ms: row.get("at_ms")?,
        tenant: row.get("tenant")?,
        actor: row.get("actor")?,
        action: row.get("action")?,
        subject: row.get("subject")?,
        detail: row.get("detail")?,
    })
}
