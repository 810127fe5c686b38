//! Looking at messages, and cancelling them.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use flotilla_protocol::id::MessageId;
use flotilla_protocol::number::Msisdn;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::view::MessageView;
use crate::api::auth::{In, Read, Send};
use crate::api::page::Page;
use crate::api::params::{self, Id, Query};
use crate::api::problem::{Code, Problem};
use crate::api::{Api, examples, json, shard_problem, store_problem};
use crate::domain::message::{MessageState, Priority};
use crate::shard::CancelOutcome;
use crate::store::{MessageFilter, Page as StorePage};

/// Conditions hold together; without any, all messages of the tenant.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// Any of these, separated by commas: `queued,sent`.
    #[param(example = "queued,sent")]
    state: Option<String>,
    /// Recipient (`%2B255712345678`).
    to: Option<String>,
    /// Device of the last attempt.
    device: Option<String>,
    /// SIM of the last attempt.
    sim: Option<String>,
    campaign: Option<String>,
    tag: Option<String>,
    client_ref: Option<String>,
    /// `urgent, high, normal, bulk`.
    priority: Option<String>,
    /// Accepted at or after this time.
    #[param(example = "2026-11-20T00:00:00Z")]
    since: Option<String>,
    /// Accepted before this time.
    until: Option<String>,
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

impl ListQuery {
    fn filter(&self) -> Result<MessageFilter, Problem> {
        let state = |word: &str| MessageState::ALL.into_iter().find(|state| state.as_str() == word);
        let states = "give states such as queued,sent; the documentation lists them";
        let class = |word: &str| match word {
            "urgent" => Some(Priority::Urgent),
            "high" => Some(Priority::High),
            "normal" => Some(Priority::Normal),
            "bulk" => Some(Priority::Bulk),
            _ => None,
        };
        let priority = params::words("priority", self.priority.as_deref(), class, "give urgent, high, normal or bulk")?;
        // A plus sign that was not escaped arrives as a space.
        let to = self.to.as_deref().map(|to| to.replacen(' ', "+", 1));
        let label = |label: &Option<String>| label.as_deref().map(Into::into);
        Ok(MessageFilter {
            states: params::words("state", self.state.as_deref(), state, states)?,
            to: params::parse::<Msisdn>("to", to.as_deref())?,
            sim: params::parse("sim", self.sim.as_deref())?,
            device: params::parse("device", self.device.as_deref())?,
            campaign: label(&self.campaign),
            tag: label(&self.tag),
            client_ref: label(&self.client_ref),
            priority: priority.first().copied(),
            from_ms: params::moment("since", self.since.as_deref())?,
            until_ms: params::moment("until", self.until.as_deref())?,
        })
    }
}

/// List messages, the newest first.
#[utoipa::path(
    get, path = "/v1/messages", tag = "messages", operation_id = "listMessages", params(ListQuery),
    responses((
        status = 200, description = "A page of messages, without their traces",
        body = Page<MessageView>, example = json!(examples::page(examples::message(false)))
    ))
)]
pub async fn list(State(api): State<Api>, who: In<Read>, Query(query): Query<ListQuery>) -> Result<Response, Problem> {
    let page =
        StorePage { limit: params::limit(query.limit)?, cursor: params::parse("cursor", query.cursor.as_deref())? };
    let filter = query.filter()?;
    let found = api.rows.list(who.tenant, filter, page).await.map_err(|error| store_problem(&error))?;
    let items = found.items.iter().map(MessageView::short).collect();
    Ok(json::ok(&Page { items, next: found.next.map(|cursor| cursor.to_string()) }))
}

/// One message with its trace: every transition with its time, attempt, device, SIM and error.
#[utoipa::path(
    get, path = "/v1/messages/{id}", tag = "messages", operation_id = "getMessage",
    params(("id" = String, Path, example = "msg_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((
        status = 200, description = "The message", body = MessageView, example = json!(examples::message(true))
    ))
)]
pub async fn get(State(api): State<Api>, who: In<Read>, Id(id): Id<MessageId>) -> Result<Response, Problem> {
    let found = api.rows.get(who.tenant, id).await.map_err(|error| store_problem(&error))?;
    let record = found.ok_or_else(|| Problem::not_found("message"))?;
    Ok(json::ok(&MessageView::whole(&record)))
}

/// What became of a cancellation.
#[derive(Serialize, ToSchema)]
#[schema(title = "Cancelled")]
pub struct Cancelled {
    #[schema(value_type = String)]
    id: MessageId,
    /// `cancelled`: it will not be sent. `requested`: its device was asked; look at the message's state.
    #[schema(example = "cancelled")]
    cancel: &'static str,
}

/// Cancel a message that has not left.
///
/// 200: it will not be sent. 202: a device may just be sending it and was asked not to; the message's state will tell.
/// 409: too late.
#[utoipa::path(
    delete, path = "/v1/messages/{id}", tag = "messages", operation_id = "cancelMessage",
    params(("id" = String, Path, example = "msg_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses(
        (status = 200, description = "Cancelled", body = Cancelled, example = json!(examples::cancelled("cancelled"))),
        (status = 202, description = "Requested", body = Cancelled, example = json!(examples::cancelled("requested"))),
    )
)]
pub async fn cancel(State(api): State<Api>, who: In<Send>, Id(id): Id<MessageId>) -> Result<Response, Problem> {
    let shard = api.shards.of(who.tenant).map_err(shard_problem)?;
    match shard.cancel(who.tenant, id).await.map_err(shard_problem)? {
        CancelOutcome::Cancelled => Ok(json::ok(&Cancelled { id, cancel: "cancelled" })),
        CancelOutcome::Requested => Ok(json::answer(StatusCode::ACCEPTED, &Cancelled { id, cancel: "requested" })),
        CancelOutcome::TooLate(state) => {
            let detail = format!("the message is {} already; it can not be taken back", state.as_str());
            Err(Problem::new(Code::TooLate, detail))
        }
        CancelOutcome::NotFound => Err(Problem::not_found("message")),
    }
}
