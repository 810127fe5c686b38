//! Tenants: for the installation's root key.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use flotilla_protocol::id::TenantId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Root;
use super::json::{self, Json};
use super::messages::validate::bounded;
use super::page::Page;
use super::params::{self, Id, Query};
use super::problem::{Code, Problem};
use super::time::Time;
use super::{Api, catalog_problem, examples};
use crate::fleet::tenants::{self, NAME_BYTES_MAX, Tenant, TenantError};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, patch))
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Tenant")]
pub struct TenantView {
    #[schema(value_type = String)]
    id: TenantId,
    name: String,
    /// Its keys and devices are refused; nothing is deleted.
    disabled: bool,
    #[schema(value_type = String)]
    created_at: Time,
}

impl TenantView {
    fn of(tenant: Tenant) -> Self {
        let Tenant { id, name, disabled, created_ms } = tenant;
        Self { id, name, disabled, created_at: Time(created_ms) }
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewTenant {
    /// Up to 64 bytes, unique: people see it when they enrol a device.
    name: String,
}

/// Create a tenant. Needs the root key.
#[utoipa::path(
    post, path = "/v1/tenants", tag = "tenants", operation_id = "createTenant",
    request_body(content = NewTenant, example = json!(examples::tenant_new())),
    responses((status = 201, description = "Created", body = TenantView, example = json!(examples::tenant())))
)]
pub async fn create(State(api): State<Api>, Root(who): Root, Json(new): Json<NewTenant>) -> Result<Response, Problem> {
    let name = bounded(&new.name, NAME_BYTES_MAX).map_err(|detail| Problem::field("name", detail))?.to_owned();
    let now_ms = api.now_ms();
    let tenant = Tenant { id: TenantId::new(now_ms, rand::random()), name, disabled: false, created_ms: now_ms };
    match tenants::create(&*api.stores.catalog, who.by(now_ms), tenant).await {
        Ok(tenant) => Ok(json::answer(StatusCode::CREATED, &TenantView::of(tenant))),
        Err(TenantError::NameTaken) => {
            Err(Problem::new(Code::Conflict, "there is a tenant of this name; choose another one").at("name"))
        }
        Err(TenantError::Sql(error)) => Err(catalog_problem(&error)),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TenantsQuery {
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List tenants, the oldest first. Needs the root key.
#[utoipa::path(
    get, path = "/v1/tenants", tag = "tenants", operation_id = "listTenants", params(TenantsQuery),
    responses((
        status = 200, description = "A page of tenants",
        body = Page<TenantView>, example = json!(examples::page(examples::tenant()))
    ))
)]
pub async fn list(State(api): State<Api>, _: Root, Query(query): Query<TenantsQuery>) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let after = params::parse("cursor", query.cursor.as_deref())?;
    let found = tenants::list(&*api.stores.catalog, after, limit).await.map_err(|error| catalog_problem(&error))?;
    Ok(json::ok(&Page::by_id(found, limit, |tenant| tenant.id.to_string()).map(TenantView::of)))
}

/// One tenant. Needs the root key.
#[utoipa::path(
    get, path = "/v1/tenants/{id}", tag = "tenants", operation_id = "getTenant",
    params(("id" = String, Path, example = "ten_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The tenant", body = TenantView, example = json!(examples::tenant())))
)]
pub async fn get(State(api): State<Api>, _: Root, Id(id): Id<TenantId>) -> Result<Response, Problem> {
    found(&api, id).await
}

async fn found(api: &Api, id: TenantId) -> Result<Response, Problem> {
    let tenant = tenants::get(&*api.stores.catalog, id).await.map_err(|error| catalog_problem(&error))?;
    tenant.map(|tenant| json::ok(&TenantView::of(tenant))).ok_or_else(|| Problem::not_found("tenant"))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TenantPatch {
    disabled: bool,
}

/// Disable or enable a tenant. Needs the root key.
///
/// Keys of a disabled tenant are refused; its devices are sent away within seconds and come back once it is enabled. Nothing
/// is deleted.
#[utoipa::path(
    patch, path = "/v1/tenants/{id}", tag = "tenants", operation_id = "changeTenant",
    params(("id" = String, Path, example = "ten_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = TenantPatch, example = json!(examples::tenant_patch())),
    responses((status = 200, description = "The tenant", body = TenantView, example = json!(examples::tenant())))
)]
pub async fn patch(
    State(api): State<Api>,
    Root(who): Root,
    Id(id): Id<TenantId>,
    Json(patch): Json<TenantPatch>,
) -> Result<Response, Problem> {
    let by = who.by(api.now_ms());
    let changed = tenants::set_disabled(&*api.stores.catalog, by, id, patch.disabled).await;
    if !changed.map_err(|error| catalog_problem(&error))? {
        return Err(Problem::not_found("tenant"));
    }
    api.keys.forget(|_, tenant| tenant == Some(id));
    found(&api, id).await
}
