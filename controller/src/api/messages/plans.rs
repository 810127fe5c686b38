//! Whether a plan that a message names is one of its tenant's.

use flotilla_protocol::id::TenantId;
use flotilla_routing::plan::BUILT_IN;

use crate::api::problem::Problem;
use crate::api::{Api, catalog_problem};

/// Looked up in memory but for the first time.
pub async fn check(api: &Api, tenant: TenantId, plan: Option<&str>) -> Result<(), Problem> {
    let Some(plan) = plan.filter(|plan| !BUILT_IN.contains(plan)) else { return Ok(()) };
    let settings = api.settings.of(tenant).await.map_err(|error| catalog_problem(&error))?;
    if settings.plans.contains_key(plan) {
        return Ok(());
    }
    let built_in = BUILT_IN.join(", ");
    Err(Problem::field("route", format!("no such plan; name one of yours (GET /v1/routing), or {built_in}")))
}
