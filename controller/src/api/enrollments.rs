//! Invitations for devices, and their codes.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use flotilla_protocol::enroll_code::EnrollCode;
use flotilla_protocol::id::{DeviceId, EnrollmentId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, In};
use super::json::{self, Json};
use super::page::Page;
use super::params::{self, Id, Query};
use super::problem::{Code, Problem};
use super::time::Time;
use super::{Api, catalog_problem, examples, qr};
use crate::fleet::enrollments::{Enrollment, EnrollmentError, EnrollmentState, NewEnrollment};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(create, list)).routes(routes!(get, revoke)).routes(routes!(picture))
}

/// An invitation for one device.
#[derive(Serialize, ToSchema)]
#[schema(title = "Enrollment")]
pub struct EnrollmentView {
    #[schema(value_type = String)]
    id: EnrollmentId,
    /// The name that the device will get.
    #[serde(skip_serializing_if = "String::is_empty")]
    device_name: String,
    /// `open, used, expired, revoked`.
    #[schema(example = "open")]
    state: &'static str,
    #[schema(value_type = String)]
    created_at: Time,
    #[schema(value_type = String)]
    expires_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    used_at: Option<Time>,
    /// The device that it became.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    device: Option<DeviceId>,
    /// The code for `flotilla-node enroll` and for the QR. Only in the answer that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    /// The QR as SVG.
    #[serde(skip_serializing_if = "Option::is_none")]
    qr_svg: Option<String>,
    /// The QR for a terminal.
    #[serde(skip_serializing_if = "Option::is_none")]
    qr_text: Option<String>,
}

impl EnrollmentView {
    fn of(enrollment: Enrollment) -> Self {
        let (state, used) = match enrollment.state {
            EnrollmentState::Open => ("open", None),
            EnrollmentState::Used { device, at_ms } => ("used", Some((device, at_ms))),
            EnrollmentState::Expired => ("expired", None),
            EnrollmentState::Revoked => ("revoked", None),
        };
        Self {
            id: enrollment.id,
            device_name: enrollment.device_name,
            state,
            created_at: Time(enrollment.created_ms),
            expires_at: Time(enrollment.expires_ms),
            used_at: used.map(|(_, at_ms)| Time(at_ms)),
            device: used.map(|(device, _)| device),
            uri: None,
            qr_svg: None,
            qr_text: None,
        }
    }
}

fn problem(error: EnrollmentError) -> Problem {
    match error {
        EnrollmentError::Ttl => Problem::field("ttl_s", error.to_string()),
        EnrollmentError::DeviceName => Problem::field("device_name", error.to_string()),
        EnrollmentError::NoTenant | EnrollmentError::Used { .. } => Problem::new(Code::Conflict, error.to_string()),
        EnrollmentError::NotFound => Problem::not_found("enrolment"),
        EnrollmentError::Code(_) => {
            Problem::new(Code::Internal, format!("{error}; look at quic.advertise in the configuration"))
        }
        EnrollmentError::Sql(error) => catalog_problem(&error),
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewEnrollmentBody {
    /// The name that the device will get, up to 64 bytes; its own when left out.
    #[serde(default)]
    device_name: String,
    /// How long the code may be used: 60 to 2592000 seconds; an hour when left out.
    #[serde(default)]
    ttl_s: Option<u64>,
}

/// Invite a device. The answer has the code, as text and as QR, once: the controller keeps only its hash.
#[utoipa::path(
    post, path = "/v1/enrollments", tag = "enrollments", operation_id = "createEnrollment",
    request_body(content = NewEnrollmentBody, example = json!(examples::enrollment_new())),
    responses((
        status = 201, description = "Created", body = EnrollmentView, example = json!(examples::enrollment_created())
    ))
)]
pub async fn create(
    State(api): State<Api>,
    who: In<Admin>,
    Json(new): Json<NewEnrollmentBody>,
) -> Result<Response, Problem> {
    let new = NewEnrollment {
        tenant: who.tenant,
        ttl_s: new.ttl_s,
        device_name: new.device_name,
        actor: who.caller.key().to_string(),
    };
    let (enrollment, code) = api.enrollments.create(new, api.now_ms()).await.map_err(problem)?;
    let uri = uri(&code)?;
    let view = EnrollmentView {
        qr_svg: Some(qr::svg(&uri).map_err(|error| Problem::internal(&error))?),
        qr_text: Some(qr::text(&uri).map_err(|error| Problem::internal(&error))?),
        uri: Some(uri),
        ..EnrollmentView::of(enrollment)
    };
    Ok(json::answer(StatusCode::CREATED, &view))
}

fn uri(code: &EnrollCode) -> Result<String, Problem> {
    code.to_text().map_err(|error| problem(error.into()))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EnrollmentsQuery {
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List enrolments, the newest first.
#[utoipa::path(
    get, path = "/v1/enrollments", tag = "enrollments", operation_id = "listEnrollments", params(EnrollmentsQuery),
    responses((
        status = 200, description = "A page of enrolments",
        body = Page<EnrollmentView>, example = json!(examples::page(examples::enrollment()))
    ))
)]
pub async fn list(
    State(api): State<Api>,
    who: In<Admin>,
    Query(query): Query<EnrollmentsQuery>,
) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let before = params::parse("cursor", query.cursor.as_deref())?;
    let found = api.enrollments.list(who.tenant, before, limit as u32, api.now_ms()).await.map_err(problem)?;
    Ok(json::ok(&Page::by_id(found, limit, |enrollment| enrollment.id.to_string()).map(EnrollmentView::of)))
}

/// One enrolment.
#[utoipa::path(
    get, path = "/v1/enrollments/{id}", tag = "enrollments", operation_id = "getEnrollment",
    params(("id" = String, Path, example = "enr_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The enrolment", body = EnrollmentView, example = json!(examples::enrollment())))
)]
pub async fn get(State(api): State<Api>, who: In<Admin>, Id(id): Id<EnrollmentId>) -> Result<Response, Problem> {
    let found = api.enrollments.get(who.tenant, id, api.now_ms()).await.map_err(problem)?;
    Ok(json::ok(&EnrollmentView::of(found)))
}

/// Take an unused code back. A device that has used it is not touched: revoke the device.
#[utoipa::path(
    delete, path = "/v1/enrollments/{id}", tag = "enrollments", operation_id = "revokeEnrollment",
    params(("id" = String, Path, example = "enr_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "Revoked", body = EnrollmentView, example = json!(examples::enrollment())))
)]
pub async fn revoke(State(api): State<Api>, who: In<Admin>, Id(id): Id<EnrollmentId>) -> Result<Response, Problem> {
    let actor = who.caller.key().to_string();
    let revoked = api.enrollments.revoke(who.tenant, id, actor, api.now_ms()).await.map_err(problem)?;
    Ok(json::ok(&EnrollmentView::of(revoked)))
}

/// Bytes and media type of a picture.
type Draw = fn(&str) -> Result<(Vec<u8>, &'static str), qr::QrError>;

/// The QR of a code, while the controller that made it still knows it.
///
/// The secret in it is kept in memory only: after a restart, or when the code was used, the answer is 410.
#[utoipa::path(
    get, path = "/v1/enrollments/{id}/{picture}", tag = "enrollments", operation_id = "getEnrollmentQr",
    params(
        ("id" = String, Path, example = "enr_01kaqmpxm0e8xs6bhkrg5jrqzt"),
        ("picture" = String, Path, description = "`qr.svg`, `qr.png` or `qr.txt`", example = "qr.svg"),
    ),
    responses((
        status = 200, description = "The QR",
        content(
            (String = "image/svg+xml", example = json!("<svg xmlns=\"http://www.w3.org/2000/svg\">...</svg>")),
            (Vec<u8> = "image/png"),
            (String = "text/plain", example = json!("█▀▀▀▀▀█ ▀▄ █▀▀▀▀▀█\n...")),
        )
    ))
)]
pub async fn picture(
    State(api): State<Api>,
    who: In<Admin>,
    Path((id, picture)): Path<(String, String)>,
) -> Result<Response, Problem> {
    let wrong = |error: &dyn std::fmt::Display| Problem::new(Code::InvalidParameter, error.to_string()).at("id");
    let id: EnrollmentId = id.parse().map_err(|error| wrong(&error))?;
    let draw: Draw = match picture.as_str() {
        "qr.svg" => |uri| Ok((qr::svg(uri)?.into_bytes(), "image/svg+xml")),
        "qr.png" => |uri| Ok((qr::png(uri)?, "image/png")),
        "qr.txt" => |uri| Ok((qr::text(uri)?.into_bytes(), "text/plain; charset=utf-8")),
        _ => return Err(Problem::not_found("picture")),
    };
    let now_ms = api.now_ms();
    // Whose it is comes first: the code in memory does not say.
    let found = api.enrollments.get(who.tenant, id, now_ms).await.map_err(problem)?;
    let code = api.enrollments.code(id, now_ms).filter(|_| found.state == EnrollmentState::Open).ok_or_else(|| {
        let detail = "this code can not be shown again; create a new enrolment with POST /v1/enrollments";
        Problem::new(Code::Gone, detail)
    })?;
    let (bytes, media_type) = draw(&uri(&code)?).map_err(|error| Problem::internal(&error))?;
    let mut response = Response::new(Body::from(bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    // It is a secret.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}
