//! Errors as the API answers them: `application/problem+json` (RFC 9457) with a stable `code`, the `field` in question
//! and a `detail` that says what to do.
//!
//! The table of codes is here and only here, so that documentation, tests and handlers cannot drift apart.

use std::borrow::Cow;
use std::fmt;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::peer::NotLeading;

pub const CONTENT_TYPE: &str = "application/problem+json";

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $status:ident, $text:literal;)*) => {
        /// What went wrong, for programs. Texts and statuses never change their meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($(#[$doc])* $name,)* }

        impl Code {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }
        }
    };
}

codes! {
    /// The body is not JSON, or not text in UTF-8.
    InvalidJson = BAD_REQUEST, "invalid_json";
    /// The body is not CSV with a header line that we know.
    InvalidCsv = BAD_REQUEST, "invalid_csv";
    /// A parameter of the path or the query.
    InvalidParameter = BAD_REQUEST, "invalid_parameter";
    InvalidHeader = BAD_REQUEST, "invalid_header";
    /// A key over all tenants has to say which one it means.
    TenantRequired = BAD_REQUEST, "tenant_required";
    UnknownField = UNPROCESSABLE_ENTITY, "unknown_field";
    MissingField = UNPROCESSABLE_ENTITY, "missing_field";
    InvalidField = UNPROCESSABLE_ENTITY, "invalid_field";
    InvalidNumber = UNPROCESSABLE_ENTITY, "invalid_number";
    /// The text has a character that no phone can show.
    InvalidText = UNPROCESSABLE_ENTITY, "invalid_text";
    TextTooLong = UNPROCESSABLE_ENTITY, "text_too_long";
    /// The text does not fit the alphabet that was asked for.
    NotEncodable = UNPROCESSABLE_ENTITY, "not_encodable";
    Unauthenticated = UNAUTHORIZED, "unauthenticated";
    Forbidden = FORBIDDEN, "forbidden";
    NotFound = NOT_FOUND, "not_found";
    MethodNotAllowed = METHOD_NOT_ALLOWED, "method_not_allowed";
    Conflict = CONFLICT, "conflict";
    /// The message has left already.
    TooLate = CONFLICT, "too_late";
    DeviceOffline = CONFLICT, "device_offline";
    IdempotencyKeyReused = CONFLICT, "idempotency_key_reused";
    Gone = GONE, "gone";
    /// It has changed since the version in `If-Match`.
    PreconditionFailed = PRECONDITION_FAILED, "precondition_failed";
    PreconditionRequired = PRECONDITION_REQUIRED, "precondition_required";
    BodyTooLarge = PAYLOAD_TOO_LARGE, "body_too_large";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type";
    RateLimited = TOO_MANY_REQUESTS, "rate_limited";
    Internal = INTERNAL_SERVER_ERROR, "internal";
    Busy = SERVICE_UNAVAILABLE, "busy";
    DiskFull = SERVICE_UNAVAILABLE, "disk_full";
    /// No controller leads the tenant's shard at this moment. Nothing was done.
    NotLeading = SERVICE_UNAVAILABLE, "not_leading";
    /// The controller that had the request failed while it worked on it: it may have been carried out.
    OutcomeUnknown = BAD_GATEWAY, "outcome_unknown";
    /// The device did not answer in time.
    DeviceTimeout = GATEWAY_TIMEOUT, "device_timeout";
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One error, whole. Boxed, since it travels in every `Result` of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    code: Code,
    detail: Cow<'static, str>,
    field: Option<Cow<'static, str>>,
    line: Option<u64>,
    column: Option<u64>,
    retry_after_s: Option<u32>,
}

/// The document's schema, for OpenAPI; [`Problem`] writes exactly this.
#[derive(Serialize, ToSchema)]
#[schema(title = "Problem", example = json!({
    "title": "Unprocessable Entity", "status": 422, "code": "invalid_number", "field": "to",
    "detail": "the number has no leading +; give it in international form, such as +255712345678"
}))]
pub struct ProblemDocument<'a> {
    /// The HTTP status in words.
    pub title: &'a str,
    pub status: u16,
    /// Stable, for programs.
    #[schema(value_type = String, example = "invalid_number")]
    pub code: Code,
    /// What is wrong and what to do, for people.
    pub detail: &'a str,
    /// The field, parameter or header in question, such as `to[3]` or `encoding.alphabet`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<&'a str>,
    /// Place in the body, counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<u64>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            code,
            detail: detail.into(),
            field: None,
            line: None,
            column: None,
            retry_after_s: None,
        }))
    }

    /// A field of the body that is wrong by itself.
    pub fn field(field: impl Into<Cow<'static, str>>, detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Code::InvalidField, detail).at(field)
    }

    /// Something that is not there, or belongs to somebody else: the two look the same.
    pub fn not_found(what: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no such {what}; check the id and the key's tenant"))
    }

    /// A fault of ours. The cause goes to the log, never to the client.
    pub fn internal(cause: &dyn fmt::Display) -> Self {
        tracing::error!(%cause, "request failed");
        Self::new(Code::Internal, "the controller failed on this request; its log has the cause")
    }

    pub fn busy(detail: impl Into<Cow<'static, str>>, retry_after_s: u32) -> Self {
        Self::new(Code::Busy, detail).retry_after(retry_after_s)
    }

    #[must_use]
    pub fn at(mut self, field: impl Into<Cow<'static, str>>) -> Self {
        self.0.field = Some(field.into());
        self
    }

    #[must_use]
    pub fn position(mut self, line: u64, column: u64) -> Self {
        self.0.line = Some(line);
        self.0.column = Some(column);
        self
    }

    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.0.retry_after_s = Some(seconds.max(1));
        self
    }

    pub fn code(&self) -> Code {
        self.0.code
    }

    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    pub fn field_name(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    pub fn retry_after_s(&self) -> Option<u32> {
        self.0.retry_after_s
    }

    pub fn document(&self) -> ProblemDocument<'_> {
        let status = self.0.code.status();
        ProblemDocument {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            code: self.0.code,
            detail: &self.0.detail,
            field: self.0.field.as_deref(),
            line: self.0.line,
            column: self.0.column,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.field {
            Some(field) => write!(f, "{field}: {}", self.0.detail),
            None => f.write_str(&self.0.detail),
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document()).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.0.code.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
        if let Some(seconds) = self.0.retry_after_s {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.0.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.0.code == Code::NotLeading {
            response.extensions_mut().insert(NotLeading);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn a_problem_says_where_and_what_to_do() {
        let problem = Problem::field("to[3]", "give one number only").position(2, 7);
        let response = problem.into_response();
        assert_eq!(response.status(), 422);
        assert_eq!(response.headers()["content-type"], CONTENT_TYPE);
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let expected = serde_json::json!({"title": "Unprocessable Entity", "status": 422, "code": "invalid_field",
            "detail": "give one number only", "field": "to[3]", "line": 2, "column": 7});
        assert_eq!(value, expected);
    }

    #[test]
    fn waiting_is_always_announced() {
        let response = Problem::busy("the store is starting", 0).into_response();
        assert_eq!(response.status(), 503);
        assert_eq!(response.headers()["retry-after"], "1");
        let response = Problem::new(Code::Unauthenticated, "send a key").into_response();
        assert_eq!(response.headers()["www-authenticate"], "Bearer");
    }

    #[test]
    fn codes_are_unique_and_errors() {
        let texts: HashSet<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
        assert!(Code::ALL.iter().all(|code| code.status().is_client_error() || code.status().is_server_error()));
    }
}
