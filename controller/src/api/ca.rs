//! The built-in certificate authority: whom devices trust, and its rotation step by step.

use axum::extract::State;
use axum::response::Response;
use data_encoding::{BASE64, HEXLOWER};
use flotilla_protocol::id::DeviceId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, Caller, In, Read, Root};
use super::json::{self, Json};
use super::page::Page;
use super::params::{self, Query};
use super::problem::{Code, Problem};
use super::time::Time;
use super::{Api, catalog_problem, examples};
use crate::ca::{CaError, Rotation};
use crate::fleet::{audit, certificates};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(get))
        .routes(routes!(prepare))
        .routes(routes!(activate))
        .routes(routes!(finish))
        .routes(routes!(rollback))
        .routes(routes!(list))
}

/// The certificate authority.
#[derive(Serialize, ToSchema)]
#[schema(title = "Ca")]
pub struct CaView {
    trust_domain: String,
    /// `stable`; while it is rotated `prepared` (both keys are trusted, the old one issues), then `active` (the new one issues).
    #[schema(example = "stable")]
    phase: &'static str,
    /// The key that issues.
    issuing: String,
    /// The other key that is trusted.
    #[serde(skip_serializing_if = "Option::is_none")]
    other: Option<String>,
    /// Certificates that still count and were issued by the other key. `finish` waits for 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    still_used: Option<u64>,
    /// SHA-256 of the trusted keys (SubjectPublicKeyInfo), as enrolment codes pin them.
    pins: Vec<String>,
    roots_pem: Vec<String>,
}

/// The certificate authority's state and roots.
#[utoipa::path(
    get, path = "/v1/ca", tag = "ca", operation_id = "getCa",
    responses((status = 200, description = "The authority", body = CaView, example = json!(examples::ca())))
)]
pub async fn get(State(api): State<Api>, _: In<Read>) -> Result<Response, Problem> {
    refreshed(&api).await?;
    view(&api).await
}

async fn view(api: &Api) -> Result<Response, Problem> {
    let rotation = api.ca.rotation();
    let still_used = match rotation.other() {
        Some(other) => {
            let open = certificates::open_of_issuer(&*api.stores.catalog, other, api.now_ms() / 1000).await;
            Some(open.map_err(|error| catalog_problem(&error))?)
        }
        None => None,
    };
    Ok(json::ok(&CaView {
        trust_domain: api.ca.trust_domain().as_str().to_owned(),
        phase: rotation.phase(),
        issuing: rotation.issuing().to_string(),
        other: rotation.other().map(|key| key.to_string()),
        still_used,
        pins: api.ca.pins().iter().map(|pin| HEXLOWER.encode(pin)).collect(),
        roots_pem: api.ca.roots_der().iter().map(|der| pem(der)).collect(),
    }))
}

fn pem(der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in text.as_bytes().chunks(64) {
        pem.extend(line.iter().map(|byte| char::from(*byte)));
        pem.push('\n');
    }
    pem + "-----END CERTIFICATE-----\n"
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Force {
    /// Drop the key although devices still depend on it; they have to be enrolled again.
    #[serde(default)]
    force: bool,
}

/// Step 1 of a rotation: make the next key. From now on devices and codes get both. Needs the root key.
#[utoipa::path(
    post, path = "/v1/ca/rotate/prepare", tag = "ca", operation_id = "prepareCaRotation",
    responses((status = 200, description = "The authority", body = CaView, example = json!(examples::ca())))
)]
pub async fn prepare(State(api): State<Api>, Root(who): Root) -> Result<Response, Problem> {
    let now_s = api.now_ms() / 1000;
    step(&api, &who, "ca.prepare", api.ca.rotate_prepare(now_s)).await
}

/// Step 2: the next key issues, both are trusted. Needs the root key.
#[utoipa::path(
    post, path = "/v1/ca/rotate/activate", tag = "ca", operation_id = "activateCaRotation",
    responses((status = 200, description = "The authority", body = CaView, example = json!(examples::ca())))
)]
pub async fn activate(State(api): State<Api>, Root(who): Root) -> Result<Response, Problem> {
    let now_s = api.now_ms() / 1000;
    step(&api, &who, "ca.activate", api.ca.rotate_activate(now_s)).await
}

/// Step 3: drop the old key for good, once no certificate depends on it (or with `force`). Needs the root key.
#[utoipa::path(
    post, path = "/v1/ca/rotate/finish", tag = "ca", operation_id = "finishCaRotation",
    request_body(content = Force, example = json!(examples::rotate())),
    responses((status = 200, description = "The authority", body = CaView, example = json!(examples::ca())))
)]
pub async fn finish(
    State(api): State<Api>,
    Root(who): Root,
    Json(Force { force }): Json<Force>,
) -> Result<Response, Problem> {
    let still_used = still_used(&api).await?;
    let now_s = api.now_ms() / 1000;
    step(&api, &who, "ca.finish", api.ca.rotate_finish(still_used, force, now_s)).await
}

/// One step back, from step 1 or 2. Needs the root key.
#[utoipa::path(
    post, path = "/v1/ca/rotate/rollback", tag = "ca", operation_id = "rollBackCaRotation",
    request_body(content = Force, example = json!(examples::rotate())),
    responses((status = 200, description = "The authority", body = CaView, example = json!(examples::ca())))
)]
pub async fn rollback(
    State(api): State<Api>,
    Root(who): Root,
    Json(Force { force }): Json<Force>,
) -> Result<Response, Problem> {
    let still_used = still_used(&api).await?;
    let now_s = api.now_ms() / 1000;
    step(&api, &who, "ca.rollback", api.ca.rotate_rollback(still_used, force, now_s)).await
}

/// Certificates that depend on the key which a step would drop, in the state that the step will find.
async fn still_used(api: &Api) -> Result<u64, Problem> {
    refreshed(api).await?;
    let Some(other) = api.ca.rotation().other() else { return Ok(0) };
    let open = certificates::open_of_issuer(&*api.stores.catalog, other, api.now_ms() / 1000).await;
    open.map_err(|error| catalog_problem(&error))
}

/// Another controller may have rotated a moment ago.
async fn refreshed(api: &Api) -> Result<(), Problem> {
    api.ca.refresh(api.now_ms() / 1000).await.map(drop).map_err(problem)
}

async fn step(
    api: &Api,
    who: &Caller,
    action: &'static str,
    done: impl Future<Output = Result<Rotation, CaError>>,
) -> Result<Response, Problem> {
    let rotation = done.await.map_err(problem)?;
    let act = who.by(api.now_ms()).act(None, action, rotation.issuing());
    audit::record(&*api.stores.catalog, act).await.map_err(|error| catalog_problem(&error))?;
    view(api).await
}

fn problem(error: CaError) -> Problem {
    match error {
        CaError::Rotation(_) | CaError::InUse { .. } | CaError::Changed => {
            Problem::new(Code::Conflict, error.to_string())
        }
        CaError::Sql(error) => catalog_problem(&error),
        other => Problem::internal(&other),
    }
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Certificate")]
pub struct CertificateView {
    serial: String,
    #[schema(value_type = String)]
    device: DeviceId,
    #[schema(value_type = String)]
    not_before: Time,
    #[schema(value_type = String)]
    not_after: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    revoked_at: Option<Time>,
    /// When the device began to use a newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    replaced_at: Option<Time>,
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CertificatesQuery {
    device: Option<String>,
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List device certificates.
#[utoipa::path(
    get, path = "/v1/certificates", tag = "ca", operation_id = "listCertificates", params(CertificatesQuery),
    responses((
        status = 200, description = "A page of certificates",
        body = Page<CertificateView>, example = json!(examples::page(examples::certificate()))
    ))
)]
pub async fn list(
    State(api): State<Api>,
    who: In<Admin>,
    Query(query): Query<CertificatesQuery>,
) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let device = params::parse("device", query.device.as_deref())?;
    let found = certificates::list(&*api.stores.catalog, who.tenant, device, query.cursor, limit).await;
    let found = found.map_err(|error| catalog_problem(&error))?;
    let view = |row: certificates::CertificateRow| CertificateView {
        serial: row.serial,
        device: row.device,
        not_before: Time(row.not_before_s * 1000),
        not_after: Time(row.not_after_s * 1000),
        revoked_at: row.revoked_ms.map(Time),
        replaced_at: row.replaced_ms.map(Time),
    };
    Ok(json::ok(&Page::by_id(found, limit, |row| row.serial.clone()).map(view)))
}
