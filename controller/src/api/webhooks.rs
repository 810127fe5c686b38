//! Webhooks of a tenant.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use flotilla_protocol::id::WebhookId;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, In, Read};
use super::json::{self, Json};
use super::messages::validate::bounded;
use super::page::Page;
use super::params::{self, Id, Query};
use super::problem::{Code, Problem};
use super::time::Time;
use super::{Api, catalog_problem, examples};
use crate::webhooks::{
    Again, Change, Endpoint, EndpointError, NAME_BYTES_MAX, Patterns, RATE_DEFAULT, RATE_MAX, SigningSecret,
    URL_BYTES_MAX, Waiting,
};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(create, list))
        .routes(routes!(get, patch, delete))
        .routes(routes!(test))
        .routes(routes!(rotate))
        .routes(routes!(deliveries))
        .routes(routes!(replay))
        .routes(routes!(replay_all))
}

/// An address that is told of events.
#[derive(Serialize, ToSchema)]
#[schema(title = "Webhook")]
pub struct WebhookView {
    #[schema(value_type = String)]
    id: WebhookId,
    /// Null for the tenant's callbacks: each message has its own address (`callback_url`).
    url: Option<String>,
    name: String,
    events: Vec<String>,
    include_text: bool,
    enabled: bool,
    /// Why the controller has disabled it.
    #[serde(skip_serializing_if = "Option::is_none")]
    disabled_why: Option<String>,
    /// Events per second at most.
    rate_per_s: u32,
    #[schema(value_type = String)]
    created_at: Time,
    #[schema(value_type = Option<String>)]
    last_success_at: Option<Time>,
    #[schema(value_type = Option<String>)]
    last_failure_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// Since when nothing could be delivered, while that is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    failing_since: Option<Time>,
    /// Events that wait for it; in the answer about one webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<u64>,
    /// Events that were given up in the last 30 days; in the answer about one webhook.
    #[serde(skip_serializing_if = "Option::is_none")]
    given_up: Option<u64>,
    /// What signs, for `webhook-signature`. Only in the answer that made it: it can not be shown again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

impl WebhookView {
    fn of(endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id,
            events: endpoint.events.iter().map(str::to_owned).collect(),
            url: (!endpoint.is_callbacks()).then_some(endpoint.url),
            name: endpoint.name,
            include_text: endpoint.include_text,
            enabled: endpoint.enabled,
            disabled_why: endpoint.disabled_why,
            rate_per_s: endpoint.rate_per_s,
            created_at: Time(endpoint.created_ms),
            last_success_at: endpoint.last_success_ms.map(Time),
            last_failure_at: endpoint.last_failure_ms.map(Time),
            last_error: endpoint.last_error,
            failing_since: endpoint.failing_since_ms.map(Time),
            waiting: None,
            given_up: None,
            secret: None,
        }
    }

    fn with_secret(endpoint: Endpoint, secret: &SigningSecret) -> Self {
        Self { secret: Some(secret.expose().to_owned()), ..Self::of(endpoint) }
    }
}

fn problem(error: EndpointError) -> Problem {
    match error {
        EndpointError::TooMany => Problem::new(Code::Conflict, error.to_string()),
        EndpointError::Sql(error) => catalog_problem(&error),
        other => Problem::internal(&other),
    }
}

fn not_found() -> Problem {
    Problem::not_found("webhook")
}

fn url(api: &Api, text: &str) -> Result<String, Problem> {
    let text = bounded(text, URL_BYTES_MAX).map_err(|detail| Problem::field("url", detail))?;
    api.webhooks.check(text).map_err(|error| Problem::field("url", error.to_string()))?;
    Ok(text.to_owned())
}

fn name(text: &str) -> Result<String, Problem> {
    Ok(bounded(text, NAME_BYTES_MAX).map_err(|detail| Problem::field("name", detail))?.to_owned())
}

fn patterns(events: &[String]) -> Result<Patterns, Problem> {
    if events.is_empty() {
        return Err(Problem::field("events", "give at least one, such as message.*"));
    }
    Patterns::parse(events.iter().map(String::as_str)).map_err(|error| Problem::field("events", error.to_string()))
}

fn rate(per_s: u32) -> Result<u32, Problem> {
    let fits = (1..=RATE_MAX).contains(&per_s);
    fits.then_some(per_s).ok_or_else(|| Problem::field("rate_per_s", format!("give 1 to {RATE_MAX}")))
}

fn default_events() -> Vec<String> {
    ["message.sent", "message.delivered", "message.failed", "message.expired", "message.cancelled", "inbound.received"]
        .map(str::to_owned)
        .to_vec()
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhook {
    /// An https address that answers 2xx within 15 seconds, up to 1,000 bytes. None of a private network, unless the
    /// controller allows that.
    url: String,
    /// What it is for, up to 64 bytes.
    #[serde(default)]
    name: Option<String>,
    /// Names of events, or beginnings with `*`; each end of a message and received messages when left out.
    #[serde(default = "default_events")]
    events: Vec<String>,
    /// Texts of messages are sent along. They are not, unless this is set.
    #[serde(default)]
    include_text: bool,
    /// Events per second, 1 to 1,000; 20 when left out.
    #[serde(default)]
    rate_per_s: Option<u32>,
}

/// Create a webhook. The answer shows its secret, once.
#[utoipa::path(
    post, path = "/v1/webhooks", tag = "webhooks", operation_id = "createWebhook",
    request_body(content = NewWebhook, example = json!(examples::webhook_new())),
    responses((
        status = 201, description = "Created", body = WebhookView, example = json!(examples::webhook_created())
    ))
)]
pub async fn create(State(api): State<Api>, who: In<Admin>, Json(new): Json<NewWebhook>) -> Result<Response, Problem> {
    let now_ms = api.now_ms();
    let endpoint = Endpoint {
        id: WebhookId::new(now_ms, rand::random()),
        tenant: who.tenant,
        url: url(&api, &new.url)?,
        name: new.name.as_deref().map(name).transpose()?.unwrap_or_default(),
        events: patterns(&new.events)?,
        include_text: new.include_text,
        enabled: true,
        disabled_why: None,
        rate_per_s: rate(new.rate_per_s.unwrap_or(RATE_DEFAULT))?,
        created_ms: now_ms,
        last_success_ms: None,
        last_failure_ms: None,
        last_error: None,
        failing_since_ms: None,
    };
    let secret = SigningSecret::new(rand::random());
    let created = api.webhooks.create(who.caller.by(now_ms), endpoint, &secret).await.map_err(problem)?;
    Ok(json::answer(StatusCode::CREATED, &WebhookView::with_secret(created, &secret)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WebhooksQuery {
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List the tenant's webhooks, the oldest first.
#[utoipa::path(
    get, path = "/v1/webhooks", tag = "webhooks", operation_id = "listWebhooks", params(WebhooksQuery),
    responses((
        status = 200, description = "A page of webhooks",
        body = Page<WebhookView>, example = json!(examples::page(examples::webhook()))
    ))
)]
pub async fn list(
    State(api): State<Api>,
    who: In<Read>,
    Query(query): Query<WebhooksQuery>,
) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let after = params::parse("cursor", query.cursor.as_deref())?;
    let found = api.webhooks.endpoints().list(who.tenant, after, limit).await;
    let found = found.map_err(|error| catalog_problem(&error))?;
    Ok(json::ok(&Page::by_id(found, limit, |endpoint| endpoint.id.to_string()).map(WebhookView::of)))
}

async fn find(api: &Api, tenant: flotilla_protocol::id::TenantId, id: WebhookId) -> Result<Endpoint, Problem> {
    let found = api.webhooks.endpoints().get(tenant, id).await.map_err(|error| catalog_problem(&error))?;
    found.ok_or_else(not_found)
}

/// One webhook, and how many events wait for it.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "getWebhook",
    params(("id" = String, Path, example = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The webhook", body = WebhookView, example = json!(examples::webhook())))
)]
pub async fn get(State(api): State<Api>, who: In<Read>, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    let endpoint = find(&api, who.tenant, id).await?;
    let (waiting, given_up) = api.webhooks.counts(id).await.map_err(|error| catalog_problem(&error))?;
    let view = WebhookView { waiting: Some(waiting), given_up: Some(given_up), ..WebhookView::of(endpoint) };
    Ok(json::ok(&view))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookPatch {
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    events: Option<Vec<String>>,
    #[serde(default)]
    include_text: Option<bool>,
    /// While it is disabled, events are not kept for it.
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    rate_per_s: Option<u32>,
}

/// Change a webhook; what is left out stays.
#[utoipa::path(
    patch, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "changeWebhook",
    params(("id" = String, Path, example = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = WebhookPatch, example = json!(examples::webhook_patch())),
    responses((status = 200, description = "The webhook", body = WebhookView, example = json!(examples::webhook())))
)]
pub async fn patch(
    State(api): State<Api>,
    who: In<Admin>,
    Id(id): Id<WebhookId>,
    Json(patch): Json<WebhookPatch>,
) -> Result<Response, Problem> {
    let known = find(&api, who.tenant, id).await?;
    if known.is_callbacks() && (patch.url.is_some() || patch.events.is_some()) {
        return Err(Problem::field("url", "the tenant's callbacks have the address of each message, and fixed events"));
    }
    let change = Change {
        url: patch.url.as_deref().map(|text| url(&api, text)).transpose()?,
        name: patch.name.as_deref().map(name).transpose()?,
        events: patch.events.as_deref().map(patterns).transpose()?,
        include_text: patch.include_text,
        enabled: patch.enabled,
        rate_per_s: patch.rate_per_s.map(rate).transpose()?,
    };
    let changed = api.webhooks.change(who.caller.by(api.now_ms()), who.tenant, id, change).await;
    let changed = changed.map_err(|error| catalog_problem(&error))?.ok_or_else(not_found)?;
    Ok(json::ok(&WebhookView::of(changed)))
}

/// A webhook that has gone.
#[derive(Serialize, ToSchema)]
pub struct DeletedWebhook {
    #[schema(value_type = String)]
    id: WebhookId,
    deleted: bool,
}

/// Delete a webhook, with the events that wait for it.
#[utoipa::path(
    delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "deleteWebhook",
    params(("id" = String, Path, example = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((
        status = 200, description = "Deleted", body = DeletedWebhook, example = json!(examples::webhook_deleted())
    ))
)]
pub async fn delete(State(api): State<Api>, who: In<Admin>, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    let deleted = api.webhooks.delete(who.caller.by(api.now_ms()), who.tenant, id).await;
    let deleted = deleted.map_err(|error| catalog_problem(&error))?;
    if deleted { Ok(json::ok(&DeletedWebhook { id, deleted })) } else { Err(not_found()) }
}

/// What a test has found.
#[derive(Serialize, ToSchema)]
pub struct WebhookTest {
    delivered: bool,
    /// What went wrong.
    #[serde(skip_serializing_if = "String::is_empty")]
    error: String,
    took_ms: u64,
}

/// Send `webhook.test` to a webhook now, and tell what came back.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/test", tag = "webhooks", operation_id = "testWebhook",
    params(("id" = String, Path, example = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((
        status = 200, description = "What came back", body = WebhookTest, example = json!(examples::webhook_test())
    ))
)]
pub async fn test(State(api): State<Api>, who: In<Admin>, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    let endpoint = find(&api, who.tenant, id).await?;
    if endpoint.is_callbacks() {
        return Err(Problem::new(
            Code::Conflict,
            "the tenant's callbacks have no address of their own; send a message",
        ));
    }
    let tested = api.webhooks.test(&endpoint).await.map_err(problem)?;
    let view =
        WebhookTest { delivered: tested.delivered, error: tested.error, took_ms: tested.took.as_millis() as u64 };
    Ok(json::ok(&view))
}

/// Give a webhook a new secret, shown once. The old one signs beside it for a day.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/rotate", tag = "webhooks", operation_id = "rotateWebhook",
    params(("id" = String, Path, example = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((
        status = 200, description = "The webhook", body = WebhookView, example = json!(examples::webhook_created())
    ))
)]
pub async fn rotate(State(api): State<Api>, who: In<Admin>, Id(id): Id<WebhookId>) -> Result<Response, Problem> {
    let secret = SigningSecret::new(rand::random());
    let rotated = api.webhooks.rotate(who.caller.by(api.now_ms()), who.tenant, id, &secret).await.map_err(problem)?;
    Ok(json::ok(&WebhookView::with_secret(rotated.ok_or_else(not_found)?, &secret)))
}

/// One event for a webhook.
#[derive(Serialize, ToSchema)]
#[schema(title = "Delivery")]
pub struct DeliveryView {
    /// Its `webhook-id`.
    id: String,
    /// `message.delivered`...
    event: String,
    #[schema(value_type = String)]
    at: Time,
    attempts: u16,
    /// Not before this time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    next_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    given_up_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
}

impl DeliveryView {
    fn of(webhook: WebhookId, waiting: Waiting) -> Self {
        Self {
            id: format!("{webhook}-{}-{}", waiting.place.0, waiting.place.1),
            event: waiting.kind,
            at: Time(waiting.at_ms),
            attempts: waiting.attempts,
            next_at: waiting.dead_ms.is_none().then_some(Time(waiting.next_ms.max(waiting.at_ms))),
            given_up_at: waiting.dead_ms.map(Time),
            last_error: waiting.last_error,
        }
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveriesQuery {
    /// `waiting` (the first ones first) or `given_up` (the last ones first); `waiting` when left out.
    state: Option<String>,
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// Events that wait for a webhook, or were given up in the last 30 days. What was delivered is not kept.
#[utoipa::path(
    get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "listDeliveries",
    params(("id" = String, Path, example = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt"), DeliveriesQuery),
    responses((
        status = 200, description = "A page of events",
        body = Page<DeliveryView>, example = json!(examples::page(examples::delivery()))
    ))
)]
pub async fn deliveries(
    State(api): State<Api>,
    who: In<Read>,
    Id(id): Id<WebhookId>,
    Query(query): Query<DeliveriesQuery>,
) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let wrong = |field, detail| Problem::new(Code::InvalidParameter, detail).at(field);
    let dead = match query.state.as_deref() {
        None | Some("waiting") => false,
        Some("given_up") => true,
        Some(_) => return Err(wrong("state", "give waiting or given_up")),
    };
    let after =
        query.cursor.as_deref().map(|text| place_of(text).ok_or_else(|| wrong("cursor", "not a cursor of this list")));
    find(&api, who.tenant, id).await?;
    let found = api.webhooks.waiting(id, dead, after.transpose()?, limit).await;
    let found = found.map_err(|error| catalog_problem(&error))?;
    let page = Page::by_id(found, limit, |waiting| format!("{}-{}", waiting.place.0, waiting.place.1));
    Ok(json::ok(&page.map(|waiting| DeliveryView::of(id, waiting))))
}

/// Which events to send again. All that were given up and are kept, unless something is said.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Replay {
    /// Those that were given up at this time (RFC 3339) or later.
    since: Option<String>,
    /// And before this time.
    until: Option<String>,
    /// What happened to this message (`msg_...`).
    message: Option<String>,
    /// These, by their `webhook-id`; at most 500.
    deliveries: Vec<String>,
    /// Also those that wait for their next try: they are tried at once. Times are of what happened, for those.
    waiting: bool,
}

const REPLAYED_MAX: usize = 500;

impl Replay {
    /// Places of deliveries are those of this webhook; `None`: of all, by name.
    fn again(&self, webhook: Option<WebhookId>) -> Result<Again, Problem> {
        if self.deliveries.len() > REPLAYED_MAX {
            return Err(Problem::field("deliveries", format!("give at most {REPLAYED_MAX}")));
        }
        let place = |(at, text): (usize, &String)| {
            let wrong = || Problem::field(format!("deliveries[{at}]"), "give the id of a delivery of this webhook");
            let (id, place) = text.split_once('-').ok_or_else(wrong)?;
            let mine = WebhookId::parse(id).is_ok_and(|id| Some(id) == webhook);
            place_of(place).filter(|_| mine).ok_or_else(wrong)
        };
        Ok(Again {
            since_ms: params::moment("since", self.since.as_deref())?.unwrap_or(0),
            until_ms: params::moment("until", self.until.as_deref())?,
            message: params::parse("message", self.message.as_deref())?,
            places: self.deliveries.iter().enumerate().map(place).collect::<Result<_, _>>()?,
            waiting: self.waiting,
        })
    }
}

/// Of a delivery within its webhook: `8123-4`.
fn place_of(text: &str) -> Option<(u64, u32)> {
    let (seq, index) = text.split_once('-')?;
    Some((seq.parse().ok()?, index.parse().ok()?))
}

/// How many events are sent again.
#[derive(Serialize, ToSchema)]
pub struct Replayed {
    events: u64,
}

/// Send events again that were given up. What was delivered is not kept.
#[utoipa::path(
    post, path = "/v1/webhooks/{id}/replay", tag = "webhooks", operation_id = "replayWebhook",
    params(("id" = String, Path, example = "whk_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = Replay, example = json!({"since": "2026-11-20T14:00:00Z"})),
    responses((status = 200, description = "How many", body = Replayed, example = json!({"events": 17})))
)]
pub async fn replay(
    State(api): State<Api>,
    who: In<Admin>,
    Id(id): Id<WebhookId>,
    Json(replay): Json<Replay>,
) -> Result<Response, Problem> {
    let again = replay.again(Some(id))?;
    let endpoint = find(&api, who.tenant, id).await?;
    if !endpoint.enabled {
        return Err(Problem::new(Code::Conflict, "the webhook is disabled; enable it first"));
    }
    let events = api.webhooks.replay(id, again).await.map_err(|error| catalog_problem(&error))?;
    Ok(json::ok(&Replayed { events }))
}

/// Send events again that were given up, of all webhooks that are enabled.
#[utoipa::path(
    post, path = "/v1/webhooks/replay", tag = "webhooks", operation_id = "replayWebhooks",
    request_body(content = Replay, example = json!({"since": "2026-11-20T14:00:00Z"})),
    responses((status = 200, description = "How many", body = Replayed, example = json!({"events": 17})))
)]
pub async fn replay_all(
    State(api): State<Api>,
    who: In<Admin>,
    Json(replay): Json<Replay>,
) -> Result<Response, Problem> {
    let again = replay.again(None)?;
    // More than a tenant can have.
    let endpoints = api.webhooks.endpoints().list(who.tenant, None, 1_000).await;
    let mut events = 0;
    for endpoint in endpoints.map_err(|error| catalog_problem(&error))?.iter().filter(|endpoint| endpoint.enabled) {
        let replayed = api.webhooks.replay(endpoint.id, again.clone()).await;
        events += replayed.map_err(|error| catalog_problem(&error))?;
    }
    Ok(json::ok(&Replayed { events }))
}
