//! The endpoints in the catalog. Secrets are sealed for their row.

use std::sync::Arc;

use flotilla_protocol::id::{TenantId, WebhookId};
use rustc_hash::FxHashMap;

use super::endpoint::{Change, ENDPOINTS_MAX, Endpoint, EndpointError, Patterns, SigningSecret, callbacks_of};
use super::shared::Mark;
use crate::fleet::audit::{self, By};
use crate::fleet::cut;
use crate::secrets::{ClusterKeys, UnsealError};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

/// For so long after a rotation both secrets sign.
const ROTATION_MS: u64 = 86_400_000;

/// The endpoints in the catalog.
#[derive(Clone)]
pub struct Endpoints {
    catalog: Arc<dyn Catalog>,
    keys: Arc<ClusterKeys>,
}

const ERROR_BYTES_MAX: usize = 300;

const COLUMNS: &str = "id, tenant, url, name, events, include_text, enabled, disabled_why, rate_per_s, created_ms,
    last_success_ms, last_failure_ms, last_error, failing_since_ms";

fn endpoint(row: &Row) -> Result<Endpoint, SqlError> {
    let events: String = row.get("events")?;
    Ok(Endpoint {
        id: WebhookId::from_bytes(row.get("id")?),
        tenant: row.get("tenant")?,
        url: row.get("url")?,
        name: row.get("name")?,
        events: Patterns::kept(&events),
        include_text: row.get("include_text")?,
        enabled: row.get("enabled")?,
        disabled_why: row.get("disabled_why")?,
        rate_per_s: row.get("rate_per_s")?,
        created_ms: row.get("created_ms")?,
        last_success_ms: row.get("last_success_ms")?,
        last_failure_ms: row.get("last_failure_ms")?,
        last_error: row.get("last_error")?,
        failing_since_ms: row.get("failing_since_ms")?,
    })
}

fn place_of(id: WebhookId, which: &str) -> String {
    format!("webhooks/{id}/{which}")
}

impl Endpoints {
    pub fn new(catalog: Arc<dyn Catalog>, keys: Arc<ClusterKeys>) -> Self {
        Self { catalog, keys }
    }

    pub async fn create(&self, by: By, new: Endpoint, secret: &SigningSecret) -> Result<Endpoint, EndpointError> {
        let sealed = self.keys.seal(&place_of(new.id, "secret"), secret.expose().as_bytes())?;
        self.catalog
            .run(move |tx| {
                // The one of the tenant's callbacks comes by itself, and does not count.
                let sql = "SELECT COUNT(*) AS n FROM webhooks WHERE tenant = $1 AND id <> $2";
                let params = sql_params![new.tenant, callbacks_of(new.tenant).to_bytes()];
                let known: u64 = tx.query_one(sql, params)?.map_or(Ok(0), |row| row.get("n"))?;
                if known as usize >= ENDPOINTS_MAX {
                    return Err(EndpointError::TooMany);
                }
                insert(tx, &new, sealed)?;
                audit::write(tx, &by.act(Some(new.tenant), "webhook.create", new.id))?;
                Ok(new)
            })
            .await
    }

    /// Makes the endpoint of a tenant's callbacks, unless it is there. The one that is there afterwards.
    pub(super) async fn callbacks(&self, tenant: TenantId, now_ms: u64) -> Result<Endpoint, EndpointError> {
        let new = Endpoint::callbacks(tenant, now_ms);
        let secret = SigningSecret::new(rand::random());
        let sealed = self.keys.seal(&place_of(new.id, "secret"), secret.expose().as_bytes())?;
        self.catalog
            .run(move |tx| {
                if let Some(known) = get(tx, tenant, new.id)? {
                    return Ok(known);
                }
                insert(tx, &new, sealed)?;
                Ok(new)
            })
            .await
    }

    pub async fn get(&self, tenant: TenantId, id: WebhookId) -> Result<Option<Endpoint>, SqlError> {
        self.catalog.read(move |tx| get(tx, tenant, id)).await
    }

    /// A tenant's endpoints in the order of creation.
    pub async fn list(
        &self,
        tenant: TenantId,
        after: Option<WebhookId>,
        limit: usize,
    ) -> Result<Vec<Endpoint>, SqlError> {
        let after = after.map_or([0; 16], WebhookId::to_bytes);
        self.catalog
            .read(move |tx| {
                let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE tenant = $1 AND id > $2 ORDER BY id LIMIT $3");
                tx.query(&sql, sql_params![tenant, after, limit as u64])?.iter().map(endpoint).collect()
            })
            .await
    }

    /// Those of all tenants, page by page.
    pub(super) async fn all(&self) -> Result<Vec<Endpoint>, SqlError> {
        const PAGE: usize = 1_000;
        let mut all: Vec<Endpoint> = Vec::new();
        loop {
            let after = all.last().map_or([0; 16], |endpoint| endpoint.id.to_bytes());
            let page: Vec<Endpoint> = self
                .catalog
                .read(move |tx| {
                    let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id > $1 ORDER BY id LIMIT $2");
                    tx.query(&sql, sql_params![after, PAGE as u64])?
                        .iter()
                        .map(endpoint)
                        .collect::<Result<_, SqlError>>()
                })
                .await?;
            let is_last = page.len() < PAGE;
            all.extend(page);
            if is_last {
                return Ok(all);
            }
        }
    }

    /// Changes a tenant's endpoint; None when it has no such one. Enabling it forgets its failures.
    pub async fn change(
        &self,
        by: By,
        tenant: TenantId,
        id: WebhookId,
        change: Change,
    ) -> Result<Option<Endpoint>, SqlError> {
        self.catalog
            .run(move |tx| {
                let Some(mut known) = get(tx, tenant, id)? else { return Ok(None) };
                known.url = change.url.unwrap_or(known.url);
                known.name = change.name.unwrap_or(known.name);
                known.events = change.events.unwrap_or(known.events);
                known.include_text = change.include_text.unwrap_or(known.include_text);
                known.rate_per_s = change.rate_per_s.unwrap_or(known.rate_per_s);
                if let Some(enabled) = change.enabled {
                    known.enabled = enabled;
                    known.disabled_why = None;
                    known.failing_since_ms = None;
                }
                let sql = "UPDATE webhooks SET url = $1, name = $2, events = $3, include_text = $4, rate_per_s = $5,
                    enabled = $6, disabled_why = $7, failing_since_ms = $8 WHERE id = $9 AND tenant = $10";
                let events = known.events.iter().collect::<Vec<_>>().join(" ");
                let params = sql_params![
                    &known.url,
                    &known.name,
                    events,
                    known.include_text,
                    known.rate_per_s,
                    known.enabled,
                    known.disabled_why.clone(),
                    known.failing_since_ms,
                    id.to_bytes(),
                    tenant
                ];
                tx.execute(sql, params)?;
                audit::write(tx, &by.act(Some(tenant), "webhook.change", id))?;
                Ok(Some(known))
            })
            .await
    }

    /// The controller gives up on it. The endpoint as it is then; None when it has gone.
    pub(super) async fn disable(
        &self,
        tenant: TenantId,
        id: WebhookId,
        why: &'static str,
        now_ms: u64,
    ) -> Result<Option<Endpoint>, SqlError> {
        self.catalog
            .run(move |tx| {
                let sql =
                    "UPDATE webhooks SET enabled = 0, disabled_why = $1 WHERE id = $2 AND tenant = $3 AND enabled = 1";
                if tx.execute(sql, sql_params![why, id.to_bytes(), tenant])? == 1 {
                    let by = By { actor: "system".to_owned(), at_ms: now_ms };
                    audit::write(tx, &by.act(Some(tenant), "webhook.disable", id))?;
                }
                get(tx, tenant, id)
            })
            .await
    }

    /// How endpoints did lately.
    pub(super) async fn mark(&self, marks: FxHashMap<WebhookId, (TenantId, Mark)>) -> Result<(), SqlError> {
        if marks.is_empty() {
            return Ok(());
        }
        self.catalog
            .run(move |tx| {
                for (id, (tenant, mark)) in marks {
                    let sql = "UPDATE webhooks SET
                        last_success_ms = COALESCE($1, last_success_ms), last_failure_ms = COALESCE($2, last_failure_ms),
                        last_error = COALESCE($3, last_error),
                        failing_since_ms = CASE WHEN $4 = 1 THEN NULL ELSE COALESCE(failing_since_ms, $5) END
                        WHERE id = $6 AND tenant = $7";
                    let (success_ms, failure_ms) = (mark.success_ms, mark.failure_ms);
                    let error = mark.error.map(|error| cut(&error, ERROR_BYTES_MAX));
                    let works = success_ms.is_some();
                    let params =
                        sql_params![success_ms, failure_ms, error, works, failure_ms, id.to_bytes(), tenant];
                    tx.execute(sql, params)?;
                }
                Ok(())
            })
            .await
    }

    /// With everything that waits for it.
    pub async fn delete(&self, by: By, tenant: TenantId, id: WebhookId) -> Result<bool, SqlError> {
        self.catalog
            .run(move |tx| {
                let sql = "DELETE FROM webhooks WHERE id = $1 AND tenant = $2";
                if tx.execute(sql, sql_params![id.to_bytes(), tenant])? == 0 {
                    return Ok(false);
                }
                tx.execute("DELETE FROM webhook_parcels WHERE webhook = $1", sql_params![id.to_bytes()])?;
                audit::write(tx, &by.act(Some(tenant), "webhook.delete", id))?;
                Ok(true)
            })
            .await
    }

    /// A new secret; the one from before signs beside it for a day.
    pub async fn rotate(
        &self,
        by: By,
        tenant: TenantId,
        id: WebhookId,
        secret: &SigningSecret,
        now_ms: u64,
    ) -> Result<Option<Endpoint>, EndpointError> {
        let Some(former) = self.secrets(tenant, id, now_ms).await?.into_iter().next() else { return Ok(None) };
        let former = self.keys.seal(&place_of(id, "former_secret"), former.expose().as_bytes())?;
        let sealed = self.keys.seal(&place_of(id, "secret"), secret.expose().as_bytes())?;
        self.catalog
            .run(move |tx| {
                let sql = "UPDATE webhooks SET secret = $1, former_secret = $2, former_until_ms = $3
                    WHERE id = $4 AND tenant = $5";
                let params = sql_params![sealed, former, now_ms + ROTATION_MS, id.to_bytes(), tenant];
                if tx.execute(sql, params)? == 1 {
                    audit::write(tx, &by.act(Some(tenant), "webhook.rotate", id))?;
                }
                Ok(get(tx, tenant, id)?)
            })
            .await
    }

    /// What signs now, the newest first; nothing when there is no such endpoint.
    pub(super) async fn secrets(
        &self,
        tenant: TenantId,
        id: WebhookId,
        now_ms: u64,
    ) -> Result<Vec<SigningSecret>, EndpointError> {
        type Sealed = (Vec<u8>, Option<Vec<u8>>, Option<u64>);
        let found: Option<Sealed> = self
            .catalog
            .read(move |tx| {
                let sql = "SELECT secret, former_secret, former_until_ms FROM webhooks WHERE id = $1 AND tenant = $2";
                let row = tx.query_one(sql, sql_params![id.to_bytes(), tenant])?;
                let parts = |row: Row| Ok((row.at(0)?, row.at(1)?, row.at(2)?));
                row.map(parts).transpose()
            })
            .await
            .map_err(|error: SqlError| error)?;
        let Some((sealed, former, until_ms)) = found else { return Ok(Vec::new()) };
        let mut secrets = vec![self.unseal(&place_of(id, "secret"), &sealed)?];
        if let Some(former) = former.filter(|_| until_ms.is_some_and(|until| now_ms < until)) {
            secrets.push(self.unseal(&place_of(id, "former_secret"), &former)?);
        }
        Ok(secrets)
    }

    fn unseal(&self, place: &str, sealed: &[u8]) -> Result<SigningSecret, EndpointError> {
        let bytes = self.keys.open(place, sealed)?;
        let text = String::from_utf8(bytes).map_err(|_| UnsealError::Damaged { place: place.to_owned() })?;
        Ok(SigningSecret::kept(text))
    }
}

fn get(tx: &mut dyn Tx, tenant: TenantId, id: WebhookId) -> Result<Option<Endpoint>, SqlError> {
    let sql = format!("SELECT {COLUMNS} FROM webhooks WHERE id = $1 AND tenant = $2");
    tx.query_one(&sql, sql_params![id.to_bytes(), tenant])?.as_ref().map(endpoint).transpose()
}

fn insert(tx: &mut dyn Tx, new: &Endpoint, sealed: Vec<u8>) -> Result<(), SqlError> {
    let sql =
        "INSERT INTO webhooks (id, tenant, url, name, events, include_text, enabled, rate_per_s, secret, created_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    let events = new.events.iter().collect::<Vec<_>>().join(" ");
    let params = sql_params![
        new.id.to_bytes(),
        new.tenant,
        &new.url,
        &new.name,
        events,
        new.include_text,
        new.enabled,
        new.rate_per_s,
        sealed,
        new.created_ms
    ];
    tx.execute(sql, params).map(drop)
}
