//! A tenant's rules, plans, limits and money: one document with a version.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use flotilla_routing::check::check;
use flotilla_routing::settings::TenantRouting;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, In, Read};
use super::problem::{Code, Problem};
use super::sims::setting_problem;
use super::time::Time;
use super::{Api, catalog_problem, examples, json};
use crate::fleet::routing::{self, PutError, Versioned};

/// 200 rules with their lists.
const BODY_BYTES_MAX: usize = 1024 * 1024;
const IF_MATCH: &str = "if-match";

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get, put))
}

/// What a tenant has set about the routes of its messages.
#[derive(Serialize, ToSchema)]
#[schema(title = "Routing")]
pub struct RoutingView<'a> {
    /// Grows with each change; 0 while all is as it comes. A change says in `If-Match` which one it was made on.
    #[schema(example = 3)]
    version: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    changed_at: Option<Time>,
    settings: &'a TenantRouting,
}

fn answer(found: &Versioned) -> Response {
    let version = found.version;
    let view = RoutingView { version, changed_at: found.changed_ms.map(Time), settings: &found.settings };
    let mut response = json::ok(&view);
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{version}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// Rules, plans, limits, money: everything that a tenant has set about routing.
#[utoipa::path(
    get, path = "/v1/routing", tag = "routing", operation_id = "getRouting",
    responses((
        status = 200, description = "The settings; their version is in `ETag` too",
        body = RoutingView, example = json!(examples::routing())
    ))
)]
pub async fn get(State(api): State<Api>, who: In<Read>) -> Result<Response, Problem> {
    let found = routing::get(&*api.stores.catalog, who.tenant).await.map_err(|error| catalog_problem(&error))?;
    Ok(answer(&found))
}

/// Replace all of a tenant's routing settings.
///
/// `If-Match` names the version that was read, or `*` for whatever is there: so nobody overwrites what somebody else has
/// just changed. The settings are in force when the answer comes; messages that wait are looked at again.
#[utoipa::path(
    put, path = "/v1/routing", tag = "routing", operation_id = "setRouting",
    params(("If-Match" = String, Header, description = "The version that the change was made on, or `*`", example = "\"3\"")),
    request_body(content = TenantRouting, example = json!(examples::routing_new())),
    responses((
        status = 200, description = "The settings, with their new version",
        body = RoutingView, example = json!(examples::routing())
    ))
)]
pub async fn put(State(api): State<Api>, who: In<Admin>, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    json::require_json(&headers)?;
    let seen = if_match(&headers)?;
    let bytes = json::read(body, BODY_BYTES_MAX).await?;
    let settings = json::parse::<TenantRouting>(&bytes)?;
    check(&settings).map_err(setting_problem)?;
    let by = who.caller.by(api.now_ms());
    let put = routing::put(&*api.stores.catalog, who.tenant, seen, Arc::new(settings), by).await;
    let changed = put.map_err(|error| match error {
        PutError::Changed { .. } => Problem::new(Code::PreconditionFailed, error.to_string()).at(IF_MATCH),
        PutError::Sql(error) => catalog_problem(&error),
    })?;
    api.routing_changed().await?;
    Ok(answer(&changed))
}

/// The version that a client has seen; `None` for `*`.
fn if_match(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else {
        let detail =
            "say in If-Match which version you have read (GET /v1/routing tells it), or * for whatever is there";
        return Err(Problem::new(Code::PreconditionRequired, detail).at(IF_MATCH));
    };
    let text = value.to_str().unwrap_or("?").trim();
    if text == "*" {
        return Ok(None);
    }
    let wrong = |_| Problem::new(Code::InvalidHeader, "give a version such as \"3\", or *").at(IF_MATCH);
    text.trim_start_matches("W/").trim_matches('"').parse().map(Some).map_err(wrong)
}
