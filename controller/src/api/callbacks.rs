//! Where providers call back. No API key: the path has the account's token, and the provider's signature is checked. A body is
//! only read for a path that has the token, so it may be long: some providers tell of a thousand messages at once. All together
//! have so much room; who finds none is told to come again. Whichever controller is called hands the request to the leader of
//! the tenant's shard; it is answered when all of it is durable.
//!
//! Not in the OpenAPI document: providers write these requests, each in its own way.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use flotilla_protocol::id::ProviderId;
use flotilla_providers::{Callback, CallbackError};
use tokio::sync::SemaphorePermit;
use tokio::time::timeout;
use url::Url;

use super::problem::{Code, Problem};
use super::{Api, forward, json};
use crate::providers::account::Provider;
use crate::providers::callbacks::CallbackProblem;

pub const PATH: &str = "/v1/callbacks/{maker}/{id}/{token}";
const BODY_BYTES_MAX: usize = 1024 * 1024;
/// Bodies of all callbacks under way: each is held until the shard has answered.
pub const HELD_BYTES_MAX: usize = 64 * BODY_BYTES_MAX;
/// A maker that sends slower than this holds room that others need.
const BODY_DEADLINE: Duration = Duration::from_secs(10);

pub async fn take(
    State(api): State<Api>,
    Path((maker, id, token)): Path<(String, String, String)>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    // What is no id is as unknown as any other.
    let id = ProviderId::parse(&id).map_err(|_| problem(&CallbackProblem::NotFound))?;
    let provider = api.providers.addressed(&maker, id, &token).await.map_err(|error| problem(&error))?;
    let _held = hold(&api, &body)?;
    let body = read(body).await?;
    let (tenant, leader) = (provider.tenant, api.clone());
    let here = move |parts: Parts, body: Bytes| {
        let (api, provider) = (leader.clone(), provider.clone());
        async move { answer(&api, &provider, &parts, body).await.unwrap_or_else(IntoResponse::into_response) }
    };
    forward::whole(&api, tenant, parts, body, here).await
}

/// Room for a body: as long as it says that it is, else as long as it may be.
fn hold<'a>(api: &'a Api, body: &Body) -> Result<SemaphorePermit<'a>, Problem> {
    let length = body.size_hint().upper().and_then(|length| usize::try_from(length).ok());
    let bytes = length.unwrap_or(BODY_BYTES_MAX).min(BODY_BYTES_MAX) as u32;
    api.callback_bytes.try_acquire_many(bytes).map_err(|_| {
        metrics::counter!("flotilla_provider_callbacks_without_room_total").increment(1);
        Problem::busy("more callbacks are under way than there is room for; send it again", 2)
    })
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    let slow = |_| Problem::busy("the body did not come in time; send it again", 2);
    timeout(BODY_DEADLINE, json::read(body, BODY_BYTES_MAX)).await.map_err(slow)?
}

async fn answer(
    api: &Api,
    provider: &std::sync::Arc<Provider>,
    parts: &Parts,
    body: Bytes,
) -> Result<Response, Problem> {
    let url = called(api, parts).ok_or_else(|| problem(&CallbackProblem::NotFound))?;
    let callback = Callback { method: parts.method.clone(), url, headers: parts.headers.clone(), body };
    let text = api.providers.called_back(provider, &callback).await.map_err(|error| problem(&error))?;
    let kind = match text.as_bytes().first() {
        Some(b'{') => "application/json",
        Some(b'<') => "text/xml",
        _ => "text/plain; charset=utf-8",
    };
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::OK;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

/// The address as the provider has called it: it knows us by `public_url`, or by what somebody has told it.
fn called(api: &Api, parts: &Parts) -> Option<Url> {
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    let base = match api.providers.public_url() {
        Some(url) => url.as_str().trim_end_matches('/').to_owned(),
        None => format!("http://{}", parts.headers.get(header::HOST)?.to_str().ok()?),
    };
    Url::parse(&format!("{base}{path}")).ok()
}

fn problem(error: &CallbackProblem) -> Problem {
    match error {
        CallbackProblem::NotFound => Problem::not_found("callback address"),
        CallbackProblem::Refused(CallbackError::Malformed(_)) => Problem::field("body", error.to_string()),
        CallbackProblem::Refused(_) => Problem::new(Code::Forbidden, error.to_string()),
        CallbackProblem::TooMany => Problem::new(Code::RateLimited, error.to_string()).retry_after(1),
        CallbackProblem::NotTaken => Problem::busy("the report is not taken; send it again", 2),
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let never = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        assert_eq!(read(never).await.unwrap_err().code(), Code::Busy);
        assert_eq!(read(Body::from("abc")).await.unwrap(), "abc");
    }
}
