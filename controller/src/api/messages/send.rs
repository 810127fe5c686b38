//! Accepting the messages of one request, and previewing a text.
//!
//! `send` is the hottest endpoint: it takes the request apart by hand, borrows everything from the body, and makes its
//! answer in one buffer.

use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flotilla_protocol::id::{MessageId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::sms;
use ring::digest::{SHA256, digest};
use serde::Serialize;
use smallvec::SmallVec;
use utoipa::ToSchema;

use super::plans;
use super::request::{Encoding, PreviewRequest, SendRequest};
use super::validate::{check, plan};
use crate::api::auth::sender;
use crate::api::problem::{Code, Problem};
use crate::api::{Api, busy, disk_full, examples, forward, json, not_leading, store_problem};
use crate::domain::message::{Priority, Submission};
use crate::shard::{AcceptError, AcceptRequest, Acceptance, RequestKey};

pub(in crate::api) const PATH: &str = "/v1/messages";
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// Tells that an answer is that of an earlier request with the same key.
pub const REPLAYED_HEADER: &str = "idempotent-replayed";
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 255;

/// What was accepted: durable, and on its way.
#[derive(Serialize, ToSchema)]
#[schema(title = "Accepted")]
pub struct Accepted {
    /// One for each recipient, in the order of `to`.
    messages: Vec<AcceptedMessage>,
    /// Segments of all messages together.
    #[schema(example = 1)]
    segments: u32,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "AcceptedMessage")]
pub struct AcceptedMessage {
    #[schema(value_type = String, example = "msg_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    id: MessageId,
    #[schema(value_type = String, example = "+255712345678")]
    to: Msisdn,
    #[schema(example = 1)]
    segments: u8,
}

/// Send a message to one recipient or to up to 1000.
///
/// The answer comes when the messages are durable: nothing that was acknowledged gets lost. Repeat a request whose answer
/// you have not seen with the same `Idempotency-Key`: it is then accepted once, and the repetition gets the same ids.
#[utoipa::path(
    post, path = "/v1/messages", tag = "messages", operation_id = "sendMessage",
    params(("Idempotency-Key" = Option<String>, Header, description = "Up to 255 bytes; remembered for 24 hours")),
    request_body(content = SendRequest, example = json!(examples::send())),
    responses((status = 202, description = "Accepted, durable", body = Accepted, example = json!(examples::accepted())))
)]
pub async fn send(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let tenant = sender(&api, &parts.headers).await?;
    json::require_json(&parts.headers)?;
    let bytes = json::read(body, api.limits.body_bytes_max).await?;
    if api.serves(tenant) {
        match take(&api, tenant, &parts.headers, &bytes).await {
            // Given up in this moment: its next leader is asked.
            Err(problem) if problem.code() == Code::NotLeading && api.cluster.links.is_some() => {}
            taken => return taken,
        }
    }
    let here = |parts: Parts, bytes: Bytes| {
        let api = api.clone();
        async move { take(&api, tenant, &parts.headers, &bytes).await.unwrap_or_else(IntoResponse::into_response) }
    };
    forward::whole(&api, tenant, parts, bytes, here).await
}

/// Accepts the messages in the shard, which is led here.
async fn take(api: &Api, tenant: TenantId, headers: &HeaderMap, bytes: &Bytes) -> Result<Response, Problem> {
    let client_key = idempotency_key(headers)?;
    let key = client_key.map(|key| RequestKey { key: half_hash(key), request: half_hash(bytes) });
    let known = match key {
        Some(key) => look_up(api, tenant, key).await?,
        None => None,
    };
    // A repetition is judged by the clock of the first time: its `send_at` may have passed meanwhile.
    let now_ms = known.as_deref().and_then(<[_]>::first).map_or_else(|| api.now_ms(), |id| id.unix_ms());
    let checked = check(json::parse::<SendRequest<'_>>(bytes)?, Priority::Normal, now_ms)?;
    let (recipients, segments) = (checked.recipients.clone(), checked.segments);
    if let Some(ids) = known {
        return Ok(answer(&ids, true, &recipients, segments));
    }
    plans::check(api, tenant, checked.plan.as_deref()).await?;
    let pin = api.pins.resolve(tenant, checked.wish, checked.sender.as_deref()).await?;
    let mut submissions = Vec::with_capacity(recipients.len());
    checked.submissions(tenant, pin, || fresh_id(now_ms), &mut submissions);
    let acceptance = accept(api, tenant, key, submissions).await.map_err(accept_problem)?;
    Ok(answer(&acceptance.ids, acceptance.replayed, &recipients, segments))
}

fn answer(ids: &[MessageId], replayed: bool, recipients: &SmallVec<[Msisdn; 1]>, segments: u8) -> Response {
    let pairs = ids.iter().zip(recipients);
    let messages: Vec<_> = pairs.map(|(id, to)| AcceptedMessage { id: *id, to: *to, segments }).collect();
    let segments = u32::from(segments) * messages.len() as u32;
    let mut response = json::answer(StatusCode::ACCEPTED, &Accepted { messages, segments });
    if replayed {
        response.headers_mut().insert(REPLAYED_HEADER, axum::http::HeaderValue::from_static("true"));
    }
    response
}

/// A new id, from the thread's generator: no call into the kernel for each message.
pub(super) fn fresh_id(now_ms: u64) -> MessageId {
    MessageId::new(now_ms, rand::random())
}

pub(super) fn half_hash(bytes: &[u8]) -> [u8; 16] {
    let mut half = [0; 16];
    half.copy_from_slice(&digest(&SHA256, bytes).as_ref()[..16]);
    half
}

/// The client's own key for this request.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_HEADER) else { return Ok(None) };
    let bytes = value.as_bytes();
    if bytes.is_empty() || bytes.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        let detail = "give 1 to 255 bytes, such as a UUID; leave the header out to send without it";
        return Err(Problem::new(Code::InvalidHeader, detail).at(IDEMPOTENCY_HEADER));
    }
    Ok(Some(bytes))
}

/// Looks for a key that was used before in the rows. The shard knows those that are too young to be there.
pub(super) async fn look_up(api: &Api, tenant: TenantId, key: RequestKey) -> Result<Option<Vec<MessageId>>, Problem> {
    let found = api.rows.idempotent(tenant, key.key, api.now_ms()).await.map_err(|error| store_problem(&error))?;
    match found {
        None => Ok(None),
        Some(used) if used.request == key.request => Ok(Some(used.messages)),
        Some(_) => Err(key_reused()),
    }
}

pub(super) async fn accept(
    api: &Api,
    tenant: TenantId,
    idempotency: Option<RequestKey>,
    submissions: Vec<Submission>,
) -> Result<Acceptance, AcceptError> {
    let (messages, segments) = (submissions.len() as u64, submissions.iter().map(|m| u64::from(m.segments)).sum());
    let shard = api.shards.of(tenant).map_err(|_| AcceptError::NotLeading)?;
    let acceptance = shard.accept(AcceptRequest { tenant, idempotency, submissions }).await?;
    if !acceptance.replayed {
        api.counters.accepted.increment(messages);
        api.counters.accepted_segments.increment(segments);
    }
    Ok(acceptance)
}

pub(super) fn accept_problem(error: AcceptError) -> Problem {
    match error {
        AcceptError::KeyReused => key_reused(),
        AcceptError::Busy { retry_after_ms } => busy(retry_after_ms),
        AcceptError::DiskFull => disk_full(),
        AcceptError::NotLeading => not_leading(),
        AcceptError::Undecided => {
            let detail =
                "no answer in time: repeat the request with the same Idempotency-Key to learn whether it was accepted";
            Problem::busy(detail, 1)
        }
        AcceptError::TooMany { messages } => Problem::field("to", format!("{messages} messages; give at most 1000")),
    }
}

fn key_reused() -> Problem {
    let detail = "this key was used for another request; use a new key for a new request";
    Problem::new(Code::IdempotencyKeyReused, detail).at(IDEMPOTENCY_HEADER)
}

/// How a text would be sent.
#[derive(Serialize, ToSchema)]
#[schema(title = "Preview")]
pub struct Preview {
    /// `gsm7` or `ucs2`.
    #[schema(value_type = String, example = "gsm7")]
    encoding: sms::Encoding,
    #[schema(example = 1)]
    segments: u8,
    /// Septets (gsm7) or 16-bit units (ucs2) of the whole text.
    #[schema(example = 17)]
    units: u32,
    /// Units that still fit without another segment.
    #[schema(example = 143)]
    units_left: u32,
    /// The national language table in use (3GPP TS 23.038), if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "turkish")]
    language: Option<sms::Language>,
    /// Typographic characters would be replaced.
    smart: bool,
}

/// See how a text would be encoded, without sending it.
#[utoipa::path(
    post, path = "/v1/messages/preview", tag = "messages", operation_id = "previewMessage",
    request_body(content = PreviewRequest, example = json!({"text": "Güle güle! Görüşürüz"})),
    responses((status = 200, description = "Encoding and segments", body = Preview, example = json!(examples::preview())))
)]
pub async fn preview(State(api): State<Api>, request: Request) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    sender(&api, &parts.headers).await?;
    json::require_json(&parts.headers)?;
    let bytes = json::read(body, api.limits.body_bytes_max).await?;
    let request = json::parse::<PreviewRequest<'_>>(&bytes)?;
    Ok(json::ok(&Preview::of(&request.text, request.encoding.unwrap_or_default())?))
}

impl Preview {
    fn of(text: &str, encoding: Encoding) -> Result<Self, Problem> {
        let plan = plan(text, encoding)?;
        Ok(Self {
            encoding: plan.encoding,
            segments: plan.segments,
            units: plan.units,
            units_left: plan.units_left,
            language: plan.shift.locking.or(plan.shift.single),
            smart: plan.smart,
        })
    }
}
