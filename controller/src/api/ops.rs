//! For whoever runs the node: is it alive, is it ready, what does it count.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Router, body::Body};
use flotilla_protocol::id::ShardId;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::time::timeout;
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
    /// In a cluster: its members, and the shards that nobody leads.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<ClusterReadiness>,
    /// What is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    because: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "ClusterReadiness")]
pub struct ClusterReadiness {
    members: usize,
    shards_without_leader: usize,
}

/// The controller takes messages. Needs no key.
///
/// One of a cluster is ready when it knows who leads and the store answers, whatever it leads itself.
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

/// How long the store may take to be one that answers.
const STORE_DEADLINE: Duration = Duration::from_secs(2);

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
        let together = api.cluster.links.is_some();
        let view = api.cluster.views.borrow().clone();
        let because = if api.closing.is_cancelled() {
            Some("the controller is shutting down")
        } else if full {
            Some("the disk of the data folder is full; free some space")
        } else if together && !view.fresh {
            Some("the cluster's coordination service does not answer")
        } else if together && !store_answers(api).await {
            Some("the store does not answer")
        } else if !together && shards_led == 0 {
            Some("no shard is led")
        } else if !together && working < shards_led {
            Some("some shards are starting")
        } else {
            None
        };
        let ownerless = |number: &u16| view.leader(ShardId(*number)).is_none();
        Self {
            ready: because.is_none(),
            shards_led,
            shards: api.stores.journal.shards(),
            rows_behind: api.rows.lag().events,
            cluster: together.then(|| ClusterReadiness {
                members: view.members.len(),
                shards_without_leader: (0..api.stores.journal.shards()).filter(ownerless).count(),
            }),
            because,
        }
    }
}

async fn store_answers(api: &Api) -> bool {
    matches!(timeout(STORE_DEADLINE, api.stores.journal.epochs()).await, Ok(Ok(_)))
}
