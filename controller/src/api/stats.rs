//! Statistics from the aggregates.

use axum::extract::State;
use axum::response::Response;
use flotilla_routing::Micros;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{In, Read};
use super::params::{self, Query};
use super::problem::{Code, Problem};
use super::time::Time;
use super::{Api, examples, json};
use crate::follow::aggregates::{Counter, Counts, Dimension, Latency, QueryError, StatsQuery, StatsRow, StatsStep};

const DAY_MS: u64 = 86_400_000;
const LIMIT_DEFAULT: usize = 500;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(query))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct StatsParams {
    /// Counted from this time, moved back to the whole hour (day). A day ago when left out.
    #[param(example = "2026-11-20T00:00:00Z")]
    from: Option<String>,
    /// Up to this time. Now when left out.
    to: Option<String>,
    /// `hour`, `day`, or `total` for one row over the whole time. `hour` when left out.
    step: Option<String>,
    /// `total, device, sim, provider, sender, campaign, region, priority, error`. `total` when left out.
    by: Option<String>,
    /// Only this value of `by`, such as a device's id or a country's two letters.
    value: Option<String>,
    /// 1 to 1000; 500 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Stats")]
pub struct StatsView {
    /// By time, then by value.
    rows: Vec<StatsRowView>,
    next: Option<String>,
    /// False while the statistics are built anew: the counters are too low then.
    complete: bool,
    /// False when they are not quite up to date.
    fresh: bool,
}

/// Counters of one hour or day (UTC) and one value. Messages are counted in the hour of the event, so in a short time there
/// may be more delivered than accepted.
#[derive(Serialize, ToSchema)]
#[schema(title = "StatsRow")]
pub struct StatsRowView {
    /// Start of the hour or day.
    #[schema(value_type = String)]
    at: Time,
    value: String,
    /// The sum of the values that have no row of their own, because there are too many.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    other: bool,
    accepted: u64,
    segments_accepted: u64,
    scheduled: u64,
    due: u64,
    /// Attempts: dispatches of a message to a SIM or a provider.
    dispatched: u64,
    /// Attempts that ended without the message reaching the network.
    returned: u64,
    /// Attempts that came into doubt.
    doubted: u64,
    sent: u64,
    segments_sent: u64,
    segments_delivered: u64,
    delivered: u64,
    failed: u64,
    expired: u64,
    cancelled: u64,
    inbound: u64,
    /// What segments have cost that left, or may have, in the tenant's currency.
    #[schema(value_type = String, example = "14.28")]
    cost: Micros,
    /// Acceptance to the network, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    accept_to_sent_ms: Option<QuantilesView>,
    /// The network to the delivery report, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_to_delivered_ms: Option<QuantilesView>,
}

/// Within a sixteenth of the true values.
#[derive(Serialize, ToSchema)]
#[schema(title = "Quantiles")]
pub struct QuantilesView {
    p50: u64,
    p90: u64,
    p99: u64,
}

impl QuantilesView {
    fn of(counts: &Counts, latency: Latency) -> Option<Self> {
        let histogram = counts.latency(latency);
        let at = |q| histogram.quantile(q);
        Some(Self { p50: at(0.5)?, p90: at(0.9)?, p99: at(0.99)? })
    }
}

impl StatsRowView {
    fn of(row: StatsRow) -> Self {
        let counts = &row.counts;
        let n = |counter| counts.get(counter);
        Self {
            at: Time(row.start_ms),
            value: row.value,
            other: row.other,
            accepted: n(Counter::Accepted),
            segments_accepted: n(Counter::SegmentsAccepted),
            scheduled: n(Counter::Scheduled),
            due: n(Counter::Due),
            dispatched: n(Counter::Dispatched),
            returned: n(Counter::Returned),
            doubted: n(Counter::Doubted),
            sent: n(Counter::Sent),
            segments_sent: n(Counter::SegmentsSent),
            segments_delivered: n(Counter::SegmentsDelivered),
            delivered: n(Counter::Delivered),
            failed: n(Counter::Failed),
            expired: n(Counter::Expired),
            cancelled: n(Counter::Cancelled),
            inbound: n(Counter::Inbound),
            cost: Micros(n(Counter::Cost)),
            accept_to_sent_ms: QuantilesView::of(counts, Latency::AcceptToSent),
            sent_to_delivered_ms: QuantilesView::of(counts, Latency::SentToDelivered),
        }
    }
}

/// Statistics by time and by what they are about.
#[utoipa::path(
    get, path = "/v1/stats", tag = "stats", operation_id = "getStats", params(StatsParams),
    responses((status = 200, description = "Counters", body = StatsView, example = json!(examples::stats())))
)]
pub async fn query(
    State(api): State<Api>,
    who: In<Read>,
    Query(params): Query<StatsParams>,
) -> Result<Response, Problem> {
    let now_ms = api.now_ms();
    let step = |word: &str| match word {
        "hour" => Some(StatsStep::Hour),
        "day" => Some(StatsStep::Day),
        "total" => Some(StatsStep::Total),
        _ => None,
    };
    let by = |word: &str| Dimension::ALL.into_iter().find(|dimension| dimension.as_str() == word);
    let steps = params::words("step", params.step.as_deref(), step, "give hour, day or total")?;
    let dimensions = "give one of total, device, sim, provider, sender, campaign, region, priority, error";
    let to_ms = params::moment("to", params.to.as_deref())?.unwrap_or(now_ms + 1);
    let query = StatsQuery {
        tenant: who.tenant,
        from_ms: params::moment("from", params.from.as_deref())?.unwrap_or(to_ms.saturating_sub(DAY_MS)),
        to_ms,
        step: steps.first().copied().unwrap_or(StatsStep::Hour),
        by: params::words("by", params.by.as_deref(), by, dimensions)?.first().copied().unwrap_or(Dimension::Total),
        value: params.value,
        limit: params.limit.unwrap_or(LIMIT_DEFAULT),
        cursor: params.cursor,
    };
    let answer = api.aggregates.query(query).await.map_err(problem)?;
    let rows = answer.rows.into_iter().map(StatsRowView::of).collect();
    Ok(json::ok(&StatsView { rows, next: answer.next, complete: answer.complete, fresh: answer.fresh }))
}

fn problem(error: QueryError) -> Problem {
    let text = error.to_string();
    let field = match error {
        QueryError::Range => "to",
        QueryError::Limit => "limit",
        QueryError::Cursor => "cursor",
        QueryError::Value(_) => "value",
        QueryError::TooWide => "from",
        QueryError::NotLeading => return super::not_leading(),
        QueryError::Unavailable(cause) => {
            tracing::warn!(%cause, "statistics do not answer");
            return Problem::busy("statistics are not available now; try again", 2);
        }
    };
    Problem::new(Code::InvalidParameter, text).at(field)
}
