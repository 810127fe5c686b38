//! Messages that the tenant's gateways received.

use axum::extract::State;
use axum::response::Response;
use flotilla_protocol::address::Address;
use flotilla_protocol::number::Msisdn;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{In, Read};
use super::messages::view::InboundView;
use super::page::Page;
use super::params::{self, Query};
use super::problem::Problem;
use super::{Api, examples, json, store_problem};
use crate::store::{InboundFilter, Page as StorePage};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list))
}

/// Conditions hold together; without any, all inbound messages of the tenant.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InboundQuery {
    device: Option<String>,
    sim: Option<String>,
    /// Sender: a number (`%2B255712345678`), a short code or a name.
    from: Option<String>,
    /// Received at or after this time.
    #[param(example = "2026-11-20T00:00:00Z")]
    since: Option<String>,
    /// Received before this time.
    until: Option<String>,
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List received messages, the newest first.
#[utoipa::path(
    get, path = "/v1/inbound", tag = "inbound", operation_id = "listInbound", params(InboundQuery),
    responses((
        status = 200, description = "A page of received messages",
        body = Page<InboundView>, example = json!(examples::page(examples::inbound()))
    ))
)]
pub async fn list(
    State(api): State<Api>,
    who: In<Read>,
    Query(query): Query<InboundQuery>,
) -> Result<Response, Problem> {
    let page =
        StorePage { limit: params::limit(query.limit)?, cursor: params::parse("cursor", query.cursor.as_deref())? };
    let filter = InboundFilter {
        device: params::parse("device", query.device.as_deref())?,
        sim: params::parse("sim", query.sim.as_deref())?,
        from: query.from.as_deref().map(address).transpose()?,
        from_ms: params::moment("since", query.since.as_deref())?,
        until_ms: params::moment("until", query.until.as_deref())?,
    };
    let found = api.rows.inbound(who.tenant, filter, page).await.map_err(|error| store_problem(&error))?;
    let items = found.items.iter().map(InboundView::of).collect();
    Ok(json::ok(&Page { items, next: found.next.map(|cursor| cursor.to_string()) }))
}

/// What a sender looks like, from how it is written.
fn address(text: &str) -> Result<Address, Problem> {
    let text = text.replacen(' ', "+", usize::from(text.starts_with(' ')));
    if text.starts_with('+') {
        return Msisdn::parse(&text)
            .map(Address::International)
            .map_err(|error| Problem::new(super::problem::Code::InvalidParameter, error.to_string()).at("from"));
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'*' || byte == b'#');
    Ok(if digits { Address::Short(text) } else { Address::Alphanumeric(text) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn senders_are_told_apart_by_how_they_are_written() {
        assert!(matches!(address("+255712345678"), Ok(Address::International(_))));
        assert!(matches!(address(" 255712345678"), Ok(Address::International(_))));
        assert_eq!(address("15001").unwrap(), Address::Short("15001".into()));
        assert_eq!(address("My Bank").unwrap(), Address::Alphanumeric("My Bank".into()));
        assert!(address("+1").is_err());
    }
}
