//! Endpoints: addresses of a tenant that are told of events.
//!
//! A tenant's callbacks (`callback_url` of its messages) are one endpoint without an address of its own, made when the first
//! such message has something to tell. Its id has the tenant's bytes, so that it is made once.

use std::fmt;
use std::sync::Arc;

use data_encoding::BASE64;
use flotilla_protocol::id::{TenantId, WebhookId};
use rustc_hash::FxHashMap;

use super::shared::Mark;
use crate::fleet::audit::{self, By};
use crate::fleet::cut;
use crate::secrets::{ClusterKeys, SealError, UnsealError};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

pub const URL_BYTES_MAX: usize = 1_000;
pub const NAME_BYTES_MAX: usize = 64;
/// Endpoints of one tenant.
pub(super) const ENDPOINTS_MAX: usize = 50;
pub const PATTERNS_MAX: usize = 32;
pub const RATE_MAX: u32 = 1_000;
pub const RATE_DEFAULT: u32 = 20;
/// For so long after a rotation both secrets sign.
pub(super) const ROTATION_MS: u64 = 86_400_000;

/// Every event that can be asked for. Patterns end in `*` or name one.
pub const EVENTS: &[&str] = &[
    "message.accepted",
    "message.queued",
    "message.dispatched",
    "message.unknown",
    "message.sent",
    "message.delivered",
    "message.failed",
    "message.expired",
    "message.cancelled",
    "inbound.received",
    "device.online",
    "device.offline",
    "sim.changed",
    "sim.low_balance",
    "sim.quarantined",
    "sim.recovered",
    "sim.block_predicted",
    "sim.warm_up",
    "provider.up",
    "provider.down",
    "provider.low_balance",
    "provider.quarantined",
    "provider.recovered",
    "provider.block_predicted",
    "provider.warm_up",
    "tenant.budget_warned",
    "tenant.budget_spent",
    "enrollment.reused",
];

/// What callbacks of messages are told: each end, and that it was sent.
const CALLBACK_EVENTS: &[&str] =
    &["message.sent", "message.delivered", "message.failed", "message.expired", "message.cancelled"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub id: WebhookId,
    pub tenant: TenantId,
    /// Empty for the tenant's callbacks.
    pub url: String,
    pub name: String,
    pub events: Patterns,
    /// Texts of messages are in it.
    pub include_text: bool,
    pub enabled: bool,
    pub disabled_why: Option<String>,
    pub rate_per_s: u32,
    pub created_ms: u64,
    pub last_success_ms: Option<u64>,
    pub last_failure_ms: Option<u64>,
    pub last_error: Option<String>,
    pub failing_since_ms: Option<u64>,
}

impl Endpoint {
    pub fn is_callbacks(&self) -> bool {
        self.id == callbacks_of(self.tenant)
    }

    /// Whether an event goes to it. `callback`: its message has an address of its own.
    pub(super) fn wants(&self, kind: &str, at_ms: u64, callback: bool) -> bool {
        let asked =
            if self.is_callbacks() { callback && CALLBACK_EVENTS.contains(&kind) } else { self.events.fit(kind) };
        self.enabled && asked && EVENTS.contains(&kind) && at_ms >= self.created_ms
    }

    pub(super) fn callbacks(tenant: TenantId, created_ms: u64) -> Self {
        Self {
            id: callbacks_of(tenant),
            tenant,
            url: String::new(),
            name: "callbacks of messages".to_owned(),
            events: Patterns(CALLBACK_EVENTS.iter().map(|event| Box::from(*event)).collect()),
            include_text: false,
            enabled: true,
            disabled_why: None,
            rate_per_s: RATE_MAX,
            created_ms,
            last_success_ms: None,
            last_failure_ms: None,
            last_error: None,
            failing_since_ms: None,
        }
    }
}

/// The endpoint of a tenant's callbacks.
pub fn callbacks_of(tenant: TenantId) -> WebhookId {
    WebhookId::from_bytes(tenant.to_bytes())
}

/// Which events: `message.*`, `*`, `device.online`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Box<str>>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("give at most {PATTERNS_MAX} patterns")]
    TooMany,
    #[error("`{0}` fits no event; give names such as `message.delivered`, `message.*` or `*`")]
    FitsNothing(String),
}

impl Patterns {
    pub fn parse<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut parsed = Vec::new();
        for pattern in patterns {
            if !EVENTS.iter().any(|event| fits(pattern, event)) {
                return Err(PatternError::FitsNothing(pattern.chars().take(64).collect()));
            }
            parsed.push(pattern.into());
        }
        if parsed.len() > PATTERNS_MAX { Err(PatternError::TooMany) } else { Ok(Self(parsed)) }
    }

    pub fn fit(&self, kind: &str) -> bool {
        self.0.iter().any(|pattern| fits(pattern, kind))
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| &**pattern)
    }
}

fn fits(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => kind.starts_with(start),
        None => kind == pattern,
    }
}

/// What signs: `whsec_` and 24 random bytes in base64 (Standard Webhooks).
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(String);

impl SigningSecret {
    pub fn new(random: [u8; 24]) -> Self {
        Self(format!("whsec_{}", BASE64.encode(&random)))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_...")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("a tenant has at most {ENDPOINTS_MAX} webhooks; delete one")]
    TooMany,
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Unseal(#[from] UnsealError),
}

/// What can be changed; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub url: Option<String>,
    pub name: Option<String>,
    pub events: Option<Patterns>,
    pub include_text: Option<bool>,
    pub enabled: Option<bool>,
    pub rate_per_s: Option<u32>,
}

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
        events: Patterns(events.split_ascii_whitespace().map(Box::from).collect()),
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
                let sql = "SELECT COUNT(*) AS n FROM webhooks WHERE tenant = $1";
                let known: u64 = tx.query_one(sql, sql_params![new.tenant])?.map_or(Ok(0), |row| row.get("n"))?;
                if known as usize > ENDPOINTS_MAX {
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
        Ok(SigningSecret(text))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Result<Patterns, PatternError> {
        Patterns::parse(list.iter().copied())
    }

    #[test]
    fn patterns_fit_whole_names_and_beginnings() {
        let some = patterns(&["message.*", "device.online"]).unwrap();
        assert!(some.fit("message.sent") && some.fit("device.online"));
        assert!(!some.fit("device.offline") && !some.fit("inbound.received"));
        assert!(patterns(&["*"]).unwrap().fit("sim.changed"));
        assert!(!patterns(&[]).unwrap().fit("message.sent"));
        assert_eq!(patterns(&["mesage.*"]), Err(PatternError::FitsNothing("mesage.*".into())));
        assert_eq!(patterns(&["*"; PATTERNS_MAX + 1]), Err(PatternError::TooMany));
    }

    #[test]
    fn callbacks_hear_of_their_own_messages_only() {
        let tenant = TenantId::from_bytes([3; 16]);
        let callbacks = Endpoint::callbacks(tenant, 1_000);
        assert!(callbacks.wants("message.sent", 1_000, true));
        assert!(!callbacks.wants("message.sent", 1_000, false));
        assert!(!callbacks.wants("message.dispatched", 1_000, true));
        assert!(!callbacks.wants("message.sent", 999, true), "older than the endpoint");
        let own = Endpoint { id: WebhookId::from_bytes([9; 16]), events: patterns(&["*"]).unwrap(), ..callbacks };
        assert!(own.wants("message.sent", 1_000, false));
        assert!(!own.wants("device.telemetry", 1_000, false), "the live stream has that, webhooks do not");
        assert!(!Endpoint { enabled: false, ..own }.wants("message.sent", 1_000, true));
    }

    #[test]
    fn secrets_are_what_the_standard_wants_and_hide() {
        let secret = SigningSecret::new([7; 24]);
        assert!(standardwebhooks::Webhook::new(secret.expose()).is_ok());
        assert_eq!(format!("{secret:?}"), "whsec_...");
    }
}
