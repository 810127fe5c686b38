//! For whoever runs the node: is it alive, is it ready, what does it count.

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, body::Body};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Api, json};
use crate::shard::ShardError;
use crate::telemetry;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(health)).routes(routes!(ready))
}

/// The metrics, beside the API or on an address of their own.
pub fn metrics_routes(handle: PrometheusHandle) -> Router {
    Router::new().route("/metrics", get(move || async move { metrics(&handle).into_response() }))
}

fn metrics(handle: &PrometheusHandle) -> Response {
    telemetry::measure_process();
    let mut response = Response::new(Body::from(handle.render()));
    let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Health")]
pub struct Health {
    /// `ok`.
    status: &'static str,
}

/// The process is alive. Needs no key.
#[utoipa::path(
    get, path = "/healthz", tag = "operations", operation_id = "healthz", security(()),
    responses((status = 200, description = "Alive", body = Health, example = json!({"status": "ok"})))
)]
pub async fn health() -> Response {
    std::future::ready(json::ok(&Health { status: "ok" })).await
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Readiness")]
pub struct Readiness {
    pub ready: bool,
    /// Shards that this controller leads, of how many.
    shards_led: usize,
    shards: u16,
    /// Events in the journal that are not yet in the rows.
    rows_behind: u64,
    /// What is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
}

/// The controller takes messages. Needs no key.
#[utoipa::path(
    get, path = "/readyz", tag = "operations", operation_id = "readyz", security(()),
    responses(
        (status = 200, description = "Ready", body = Readiness,
            example = json!({"ready": true, "shards_led": 64, "shards": 64, "rows_behind": 0})),
        (status = 503, description = "Not ready", body = Readiness,
            example = json!({"ready": false, "shards_led": 0, "shards": 64, "rows_behind": 0,
                "because": "no shard is led"}))
    )
)]
pub async fn ready(State(api): State<Api>) -> Response {
    let readiness = Readiness::of(&api).await;
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    json::answer(status, &readiness)
}

impl Readiness {
    pub async fn of(api: &Api) -> Self {
        let led = api.shards.all();
        let (mut working, mut full) = (0, false);
        for shard in &led {
            let status = shard.status().await;
            working += usize::from(status.is_ok());
            full |= matches!(status, Err(ShardError::DiskFull));
        }
        let shards_led = led.len();
        let because = if api.closing.is_cancelled() {
            Some("the controller is shutting down")
        } else if shards_led == 0 {
            Some("no shard is led")
        } else if full {
            Some("the disk of the data folder is full; free some space")
        } else if working < shards_led {
            Some("some shards are starting")
        } else {
            None
        };
        Self {
            ready: because.is_none(),
            shards_led,
            shards: api.stores.journal.shards(),
            rows_behind: api.rows.lag().events,
            because,
        }
    }
}
