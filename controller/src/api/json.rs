//! Bodies in and out: bounded, of the right type, and an error that names line, column and field.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::error::Category;

use super::problem::{Code, Problem};

/// A JSON body of an endpoint that is not in a hurry. Hot ones read their bytes and borrow from them.
pub struct Json<T>(pub T);

/// Bytes of a body of those endpoints.
const SMALL_BODY_BYTES_MAX: usize = 64 * 1024;

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let bytes = read(body, SMALL_BODY_BYTES_MAX).await?;
        parse(&bytes).map(Self)
    }
}

/// The whole body, if it is within `limit` bytes. A body in one piece is not copied.
pub async fn read(body: Body, limit: usize) -> Result<Bytes, Problem> {
    match Limited::new(body, limit).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Err(_) => Err(Problem::new(Code::InvalidJson, "the body ended early; send the request again")),
    }
}

pub fn too_large(limit: usize) -> Problem {
    let detail = format!("the body is over {limit} bytes; send less at once, or use /v1/messages/bulk");
    Problem::new(Code::BodyTooLarge, detail)
}

/// The media type without its parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim()
}

pub fn require_json(headers: &HeaderMap) -> Result<(), Problem> {
    if media_type(headers).eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    Err(Problem::new(Code::UnsupportedMediaType, "send the body as JSON with content-type: application/json")
        .at("content-type"))
}

/// Parses a body. Only a body that fails is parsed a second time, to find the field.
pub fn parse<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Problem> {
    // serde would take an array for a struct, field by field.
    if bytes.iter().find(|byte| !byte.is_ascii_whitespace()).is_some_and(|byte| *byte != b'{') {
        return Err(Problem::new(Code::InvalidJson, "send a JSON object: { ... }").position(1, 1));
    }
    serde_json::from_slice(bytes).map_err(|error| explain::<T>(bytes, &error))
}

#[cold]
fn explain<'de, T: Deserialize<'de>>(bytes: &'de [u8], error: &serde_json::Error) -> Problem {
    let (line, column) = (error.line() as u64, error.column() as u64);
    let text = error.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    if bytes.is_empty() {
        return Problem::new(Code::InvalidJson, "the body is empty; send a JSON object");
    }
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let path = match serde_path_to_error::deserialize::<_, T>(&mut deserializer) {
        Err(error) => error.path().to_string(),
        Ok(_) => String::new(),
    };
    if error.classify() != Category::Data {
        let detail = format!("the body can not be read as JSON: {text}");
        let problem = Problem::new(Code::InvalidJson, detail).position(line, column);
        return if path.is_empty() || path.ends_with(['.', '?']) { problem } else { problem.at(path) };
    }
    let code = if text.starts_with("unknown field") {
        Code::UnknownField
    } else if text.starts_with("missing field") {
        Code::MissingField
    } else {
        Code::InvalidField
    };
    Problem::new(code, text.to_owned()).at(field_of(&path, text, code)).position(line, column)
}

/// The path, completed by the name that serde quotes for fields that are missing or unknown.
fn field_of(path: &str, text: &str, code: Code) -> String {
    let named = code != Code::InvalidField || text.starts_with("duplicate field");
    let quoted = text.split('`').nth(1).filter(|_| named);
    let parent = if path == "." { "" } else { path };
    match quoted {
        None if parent.is_empty() => "body".to_owned(),
        None => parent.to_owned(),
        Some(name) if parent.is_empty() || parent == name || parent.ends_with(&format!(".{name}")) => {
            if parent.is_empty() { name.to_owned() } else { parent.to_owned() }
        }
        Some(name) => format!("{parent}.{name}"),
    }
}

/// A field that can be left out (leave it), null (back to the default), or given. For `deserialize_with`, beside `default`.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// An answer in JSON.
pub fn answer<T: Serialize>(status: StatusCode, value: &T) -> Response {
    let mut body = Vec::with_capacity(256);
    if let Err(error) = serde_json::to_writer(&mut body, value) {
        return Problem::internal(&error).into_response();
    }
    bytes_answer(status, body)
}

pub fn ok<T: Serialize>(value: &T) -> Response {
    answer(StatusCode::OK, value)
}

pub fn bytes_answer(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only parsed")]
        name: String,
        #[serde(default)]
        #[expect(dead_code, reason = "only parsed")]
        inner: Option<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only parsed")]
        size: u8,
    }

    #[test]
    fn errors_name_the_field_and_the_place() {
        let cases: &[(&str, Code, Option<&str>)] = &[
            ("", Code::InvalidJson, None),
            ("{", Code::InvalidJson, None),
            (r#"{"name":"a"} x"#, Code::InvalidJson, None),
            ("{\"name\":\"\u{1}\"}", Code::InvalidJson, Some("name")),
            ("[]", Code::InvalidJson, None),
            ("{}", Code::MissingField, Some("name")),
            (r#"{"name":7}"#, Code::InvalidField, Some("name")),
            (r#"{"name":"a","route":"x"}"#, Code::UnknownField, Some("route")),
            (r#"{"name":"a","name":"b"}"#, Code::InvalidField, Some("name")),
            (r#"{"name":"a","inner":{}}"#, Code::MissingField, Some("inner.size")),
            (r#"{"name":"a","inner":{"size":300}}"#, Code::InvalidField, Some("inner.size")),
            (r#"{"name":"a","inner":{"size":3,"x":1}}"#, Code::UnknownField, Some("inner.x")),
        ];
        for (body, code, field) in cases {
            let problem = parse::<Outer>(body.as_bytes()).unwrap_err();
            assert_eq!((problem.code(), problem.field_name()), (*code, *field), "{body}: {problem}");
        }
        let problem = parse::<Outer>(b"{\n \"name\": 7}").unwrap_err();
        assert_eq!((problem.document().line, problem.document().column), (Some(2), Some(10)));
        assert!(parse::<Outer>(&[b'{', 0xff]).is_err());
    }

    #[tokio::test]
    async fn bodies_are_bounded() {
        assert_eq!(read(Body::from("abc"), 3).await.unwrap(), "abc");
        assert_eq!(read(Body::from("abcd"), 3).await.unwrap_err().code(), Code::BodyTooLarge);
    }
}
