//! Who changed what.

use axum::extract::State;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, Over};
use super::page::Page;
use super::params::{self, Query};
use super::problem::Problem;
use super::time::Time;
use super::{Api, catalog_problem, examples, json};
use crate::fleet::audit::{self, Entry};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

#[derive(Serialize, ToSchema)]
#[schema(title = "AuditEntry")]
pub struct EntryView {
    number: u64,
    #[schema(value_type = String)]
    at: Time,
    /// Who: `key_...`, `dev_...`, `cli`, `system`.
    actor: String,
    #[schema(example = "device.revoke")]
    action: String,
    /// To whom: an id.
    subject: String,
    #[schema(value_type = Object)]
    detail: Option<Box<RawValue>>,
}

impl EntryView {
    fn of(entry: Entry) -> Self {
        Self {
            number: entry.number,
            at: Time(entry.at_ms),
            actor: entry.actor,
            action: entry.action,
            subject: entry.subject,
            detail: RawValue::from_string(entry.detail).ok(),
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AuditQuery {
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List acts of administration, the newest first.
///
/// With the root key and no tenant: those that concern the installation, such as steps of the CA's rotation.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit", operation_id = "listAudit", params(AuditQuery),
    responses((
        status = 200, description = "A page of acts",
        body = Page<EntryView>, example = json!(examples::page(examples::audit()))
    ))
)]
pub async fn list(
    State(api): State<Api>,
    who: Over<Admin>,
    Query(query): Query<AuditQuery>,
) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let before = params::parse("cursor", query.cursor.as_deref())?;
    let found = audit::list(&*api.stores.catalog, who.tenant, before, limit).await;
    let found = found.map_err(|error| catalog_problem(&error))?;
    Ok(json::ok(&Page::by_id(found, limit, |entry| entry.number.to_string()).map(EntryView::of)))
}
