//! API keys of a tenant.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use flotilla_protocol::id::KeyId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, In};
use super::json::{self, Json};
use super::messages::validate::bounded;
use super::page::Page;
use super::params::{self, Id, Query};
use super::problem::Problem;
use super::time::Time;
use super::{Api, catalog_problem, examples};
use crate::fleet::keys::{self, ApiKey, KeyChange, NAME_BYTES_MAX, RATE_PER_MIN_MAX, Scopes, Secret};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(patch)).routes(routes!(rotate))
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Key")]
pub struct KeyView {
    #[schema(value_type = String)]
    id: KeyId,
    name: String,
    /// Of `send`, `read`, `admin`; `admin` includes the others.
    #[schema(value_type = Vec<String>)]
    scopes: Vec<&'static str>,
    /// Requests per minute; 0 for no limit.
    rate_per_min: u32,
    disabled: bool,
    #[schema(value_type = String)]
    created_at: Time,
    /// To within half a minute.
    #[schema(value_type = Option<String>)]
    last_used_at: Option<Time>,
    /// Only in the answer that made it: it is not kept and can not be shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl KeyView {
    fn of(key: ApiKey) -> Self {
        Self {
            id: key.id,
            name: key.name,
            scopes: key.scopes.names(),
            rate_per_min: key.rate_per_min.unwrap_or(0),
            disabled: key.disabled,
            created_at: Time(key.created_ms),
            last_used_at: key.last_used_ms.map(Time),
            secret: None,
        }
    }

    fn with_secret(key: ApiKey, secret: &Secret) -> Self {
        Self { secret: Some(secret.expose().to_owned()), ..Self::of(key) }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// What it is for, up to 64 bytes.
    name: String,
    /// Of `send`, `read`, `admin`.
    scopes: Vec<String>,
    /// Requests per minute, 0 for no limit; the installation's default (100) when left out. A bulk upload is one request.
    #[serde(default)]
    rate_per_min: Option<u32>,
}

/// Create an API key. The answer shows its secret, once.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", operation_id = "createKey",
    request_body(content = NewKey, example = json!(examples::key_new())),
    responses((status = 201, description = "Created", body = KeyView, example = json!(examples::key_created())))
)]
pub async fn create(State(api): State<Api>, who: In<Admin>, Json(new): Json<NewKey>) -> Result<Response, Problem> {
    let name = bounded(&new.name, NAME_BYTES_MAX).map_err(|detail| Problem::field("name", detail))?.to_owned();
    let mut scopes = Scopes::default();
    for (index, word) in new.scopes.iter().enumerate() {
        let scope = Scopes::parse_one(word);
        scopes =
            scopes.with(scope.ok_or_else(|| Problem::field(format!("scopes[{index}]"), "give send, read or admin"))?);
    }
    if scopes.is_empty() {
        return Err(Problem::field("scopes", "give at least one of send, read and admin"));
    }
    let now_ms = api.now_ms();
    let key = ApiKey {
        id: KeyId::new(now_ms, rand::random()),
        tenant: Some(who.tenant),
        name,
        scopes,
        rate_per_min: rate(new.rate_per_min.unwrap_or(api.limits.requests_per_min))?,
        disabled: false,
        created_ms: now_ms,
        last_used_ms: None,
    };
    let secret = Secret::new(rand::random());
    let created = keys::create(&*api.stores.catalog, who.caller.by(now_ms), key, secret.hash()).await;
    let key = created.map_err(|error| catalog_problem(&error))?;
    Ok(json::answer(StatusCode::CREATED, &KeyView::with_secret(key, &secret)))
}

fn rate(per_min: u32) -> Result<Option<u32>, Problem> {
    match per_min {
        0 => Ok(None),
        1..=RATE_PER_MIN_MAX => Ok(Some(per_min)),
        _ => Err(Problem::field("rate_per_min", format!("give 1 to {RATE_PER_MIN_MAX}, or 0 for no limit"))),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeysQuery {
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List the tenant's keys, the oldest first.
#[utoipa::path(
    get, path = "/v1/keys", tag = "keys", operation_id = "listKeys", params(KeysQuery),
    responses((
        status = 200, description = "A page of keys",
        body = Page<KeyView>, example = json!(examples::page(examples::key()))
    ))
)]
pub async fn list(State(api): State<Api>, who: In<Admin>, Query(query): Query<KeysQuery>) -> Result<Response, Problem> {
    api.keys.write_last_used().await;
    let limit = params::limit(query.limit)?;
    let after = params::parse("cursor", query.cursor.as_deref())?;
    let found = keys::list(&*api.stores.catalog, who.tenant, after, limit).await;
    let found = found.map_err(|error| catalog_problem(&error))?;
    Ok(json::ok(&Page::by_id(found, limit, |key| key.id.to_string()).map(KeyView::of)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    #[serde(default)]
    disabled: Option<bool>,
    /// Requests per minute; 0 for no limit.
    #[serde(default)]
    rate_per_min: Option<u32>,
}

/// Disable or enable a key, or change its limit.
#[utoipa::path(
    patch, path = "/v1/keys/{id}", tag = "keys", operation_id = "changeKey",
    params(("id" = String, Path, example = "key_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = KeyPatch, example = json!(examples::key_patch())),
    responses((status = 200, description = "The key", body = KeyView, example = json!(examples::key())))
)]
pub async fn patch(
    State(api): State<Api>,
    who: In<Admin>,
    Id(id): Id<KeyId>,
    Json(patch): Json<KeyPatch>,
) -> Result<Response, Problem> {
    let change = KeyChange { disabled: patch.disabled, rate_per_min: patch.rate_per_min.map(rate).transpose()? };
    let by = who.caller.by(api.now_ms());
    let changed = keys::change(&*api.stores.catalog, by, who.tenant, id, change).await;
    let key = changed.map_err(|error| catalog_problem(&error))?.ok_or_else(|| Problem::not_found("key"))?;
    api.keys.forget(|known, _| known == id);
    Ok(json::ok(&KeyView::of(key)))
}

/// Give a key a new secret. The old one ends at once; the answer shows the new one, once.
#[utoipa::path(
    post, path = "/v1/keys/{id}/rotate", tag = "keys", operation_id = "rotateKey",
    params(("id" = String, Path, example = "key_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The key", body = KeyView, example = json!(examples::key_created())))
)]
pub async fn rotate(State(api): State<Api>, who: In<Admin>, Id(id): Id<KeyId>) -> Result<Response, Problem> {
    let secret = Secret::new(rand::random());
    let by = who.caller.by(api.now_ms());
    let rotated = keys::rotate(&*api.stores.catalog, by, who.tenant, id, secret.hash()).await;
    let key = rotated.map_err(|error| catalog_problem(&error))?.ok_or_else(|| Problem::not_found("key"))?;
    api.keys.forget(|known, _| known == id);
    Ok(json::ok(&KeyView::with_secret(key, &secret)))
}
