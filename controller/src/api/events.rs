//! Live events as Server-Sent Events (WHATWG HTML 9.2), resumable by `Last-Event-ID`.

use std::convert::Infallible;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{In, Read};
use super::params::Query;
use super::problem::{Code, Problem};
use super::{Api, examples, store_problem};
use crate::follow::live::{EventId, LiveEvent, SubscribeError};

/// What kinds begin with.
const FAMILIES: [&str; 7] = ["message", "inbound", "device", "sim", "provider", "tenant", "enrollment"];
const LAST_EVENT_ID: &str = "last-event-id";
/// A comment this often keeps proxies from cutting a quiet stream.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(stream))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only these kinds, separated by commas; a part before a dot stands for all of it: `message.delivered,device`.
    #[param(example = "message.delivered,inbound")]
    types: Option<String>,
    /// As the header, for clients that can not set headers.
    last_event_id: Option<String>,
}

/// Follow what happens: messages as they move, inbound messages, devices that come and go.
///
/// A stream of Server-Sent Events: `message.accepted`, `.queued`, `.dispatched`, `.unknown`, `.sent`, `.delivered`, `.failed`,
/// `.expired`, `.cancelled`, `inbound.received`, `device.online`, `.offline`, `.telemetry`, `sim.changed`,
/// `.low_balance`, `provider.up`, `.down`, `.low_balance`, `sim.` and `provider.quarantined`, `.recovered`, `.block_predicted`,
/// `.warm_up`, `tenant.budget_warned`, `.budget_spent`, `enrollment.reused` (a second device came with a used code). The first
/// is `ready` for a new stream. After a lost connection send the last `id` as `Last-Event-ID`: the stream goes on behind it.
/// `reset` says that something was missed which is gone: list again.
#[utoipa::path(
    get, path = "/v1/events", tag = "events", operation_id = "followEvents",
    params(EventsQuery, ("Last-Event-ID" = Option<String>, Header, description = "The last `id` that was seen")),
    responses((
        status = 200, description = "The stream; it does not end", content((
            String = "text/event-stream", example = json!(examples::events())
        ))
    ))
)]
pub async fn stream(
    State(api): State<Api>,
    who: In<Read>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = last_seen(&headers, query.last_event_id.as_deref())?;
    let wanted = Wanted::parse(query.types.as_deref())?;
    let events = api.live.subscribe(who.tenant, after).await.map_err(problem)?;
    let closing = api.closing.clone();
    let events = events
        .filter(move |event| std::future::ready(wanted.has(event.kind)))
        .map(|event| Ok::<_, Infallible>(frame(&event)))
        .take_until(closing.cancelled_owned());
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // nginx would otherwise collect events until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

fn last_seen(headers: &HeaderMap, query: Option<&str>) -> Result<Option<EventId>, Problem> {
    let header = headers.get(LAST_EVENT_ID).map(|value| value.to_str().unwrap_or("?"));
    let Some(text) = header.or(query).filter(|text| !text.is_empty()) else { return Ok(None) };
    let wrong = |detail: String| Problem::new(Code::InvalidHeader, detail).at(LAST_EVENT_ID);
    text.parse().map(Some).map_err(|error: crate::follow::live::EventIdError| wrong(error.to_string()))
}

fn frame(event: &LiveEvent) -> Event {
    // JSON has no line breaks in it, and an event's data can not be anything else.
    let frame = Event::default().event(event.kind).data(String::from_utf8_lossy(&event.data));
    match &event.id {
        Some(id) => frame.id(id.to_string()),
        None => frame,
    }
}

fn problem(error: SubscribeError) -> Problem {
    match error {
        SubscribeError::TooMany { .. } => Problem::busy(error.to_string(), 10),
        SubscribeError::OtherShard => Problem::new(Code::InvalidHeader, error.to_string()).at(LAST_EVENT_ID),
        SubscribeError::Store(error) => store_problem(&error),
    }
}

/// The kinds a client wants; `ready` and `reset` are for everybody.
#[derive(Debug)]
struct Wanted(Vec<Box<str>>);

impl Wanted {
    fn parse(types: Option<&str>) -> Result<Self, Problem> {
        let Some(types) = types else { return Ok(Self(Vec::new())) };
        let known = |word: &&str| FAMILIES.contains(&word.split('.').next().unwrap_or(""));
        let words: Vec<&str> = types.split(',').map(str::trim).collect();
        if words.len() > 32 || !words.iter().all(known) {
            let detail = "give kinds such as message.delivered, or message, inbound, device, sim, provider, tenant, enrollment \
                for all of one";
            return Err(Problem::new(Code::InvalidParameter, detail).at("types"));
        }
        Ok(Self(words.into_iter().map(Into::into).collect()))
    }

    fn has(&self, kind: &str) -> bool {
        let family = kind.split('.').next().unwrap_or(kind);
        self.0.is_empty() || family == kind || self.0.iter().any(|word| **word == *kind || **word == *family)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_filtered_and_control_events_pass() {
        let wanted = Wanted::parse(Some("message.delivered, device")).unwrap();
        let passing = ["message.delivered", "device.online", "ready", "reset"];
        assert!(passing.iter().all(|kind| wanted.has(kind)));
        assert!(!wanted.has("message.sent") && !wanted.has("inbound.received"));
        assert!(Wanted::parse(None).unwrap().has("message.sent"));
        assert!(Wanted::parse(Some("mesage")).is_err());
    }
}
