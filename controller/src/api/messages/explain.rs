//! What would become of a message, and why, without sending it.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use flotilla_routing::explain::Explanation;

use super::plans;
use super::request::SendRequest;
use super::send::fresh_id;
use super::validate::check;
use crate::api::auth::{In, Send};
use crate::api::problem::Problem;
use crate::api::{Api, examples, json, shard_problem};
use crate::domain::message::Priority;

/// Explain the route that a message would take now.
///
/// The body is that of `POST /v1/messages`, with one recipient; nothing is sent and nothing is changed. The answer shows the
/// rules that were tried, the plan, its steps, up to 50 routes with their scores or with what stands in their way, and what
/// would be done at this moment.
#[utoipa::path(
    post, path = "/v1/routes/explain", tag = "routing", operation_id = "explainRoute",
    request_body(content = SendRequest, example = json!(examples::send())),
    responses((
        status = 200, description = "What would be done, and why", body = Explanation,
        example = json!(examples::explanation())
    ))
)]
pub async fn explain(
    State(api): State<Api>,
    who: In<Send>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    json::require_json(&headers)?;
    let bytes = json::read(body, api.limits.body_bytes_max).await?;
    let now_ms = api.now_ms();
    let checked = check(json::parse::<SendRequest<'_>>(&bytes)?, Priority::Normal, now_ms)?;
    if checked.recipients.len() > 1 {
        return Err(Problem::field("to", "give one number: each recipient may take another route"));
    }
    plans::check(&api, who.tenant, checked.plan.as_deref()).await?;
    let pin = api.pins.resolve(who.tenant, checked.wish, checked.sender.as_deref()).await?;
    let mut submissions = Vec::with_capacity(1);
    checked.submissions(who.tenant, pin, || fresh_id(now_ms), &mut submissions);
    let submission = submissions.pop().ok_or_else(|| Problem::field("to", "give a number"))?;
    let shard = api.shards.of(who.tenant).map_err(shard_problem)?;
    let explanation: Explanation = shard.explain(submission).await.map_err(shard_problem)?;
    Ok(json::ok(&explanation))
}
