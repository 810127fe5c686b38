//! The cluster: who is in it, who leads what, and moving shards between controllers. For the root key.
//!
//! What only the others know (their devices, their shards' work) is asked of each of them over its link, by a route that
//! exists on links alone. Whoever does not answer in time is shown as not answering; the rest is shown all the same.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::get;
use flotilla_cluster::{ControlError, Member, NodeName, View};
use flotilla_protocol::id::{Epoch, ShardId};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Caller, Root};
use super::health::ControllerView;
use super::json::{self, Json};
use super::params::Id;
use super::problem::{Code, Problem};
use super::time::Time;
use super::{Api, catalog_problem, examples};
use crate::fleet::audit;

/// How long a controller may take to tell about itself.
const STATUS_DEADLINE: Duration = Duration::from_secs(1);
/// 4096 shards are well below it.
const STATUS_BYTES_MAX: usize = 2 << 20;
const STATUS_PATH: &str = "/peer/status";

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show)).routes(routes!(drain)).routes(routes!(resume)).routes(routes!(shift))
}

/// What controllers ask each other. Nobody else can: a link's router has it, the clients' has not.
pub fn peer_routes(api: Api) -> Router {
    let status = async |State(api): State<Api>| json::ok(&ControllerView::of(&api).await);
    Router::new().route(STATUS_PATH, get(status)).with_state(api)
}

/// The cluster as this controller has last heard of it.
#[derive(Serialize, ToSchema)]
#[schema(title = "Cluster")]
pub struct ClusterView {
    /// The controller that answers.
    #[schema(value_type = String)]
    node: NodeName,
    /// False while the coordination service does not answer it: what follows may be old.
    fresh: bool,
    members: Vec<MemberView>,
    shards: Vec<PlaceView>,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Member")]
pub struct MemberView {
    #[schema(value_type = String)]
    name: NodeName,
    version: String,
    /// When it was started.
    #[schema(value_type = String)]
    since: Time,
    /// Where other controllers reach it.
    peer: String,
    /// Where devices reach it.
    devices: Vec<String>,
    /// It is to lead nothing; its shards move to the others.
    draining: bool,
    shards_led: usize,
    /// It has told about itself just now.
    answers: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices_connected: Option<usize>,
    /// Events in the journal that are not yet in the rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    rows_behind: Option<u64>,
    /// From this controller to it and back, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<f64>,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Place")]
pub struct PlaceView {
    shard: u16,
    /// Left out while nobody leads it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    leader: Option<NodeName>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    /// An operator has tied it to this controller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pinned_to: Option<NodeName>,
}

/// Members, and who leads which shard. Needs the root key.
#[utoipa::path(
    get, path = "/v1/cluster", tag = "cluster", operation_id = "getCluster",
    responses((status = 200, description = "The cluster", body = ClusterView, example = json!(examples::cluster())))
)]
pub async fn show(State(api): State<Api>, _: Root) -> Result<Response, Problem> {
    let view = api.cluster.views.borrow().clone();
    let told = ask_all(&api, &view).await;
    let members = view.members.iter().zip(told).map(|(member, told)| MemberView::of(&view, member, told)).collect();
    let shards = (0..view.leaders.len() as u16).map(|number| PlaceView::of(&view, ShardId(number))).collect();
    Ok(json::ok(&ClusterView { node: api.cluster.own.clone(), fresh: view.fresh, members, shards }))
}

impl MemberView {
    fn of(view: &View, member: &Member, told: Option<Told>) -> Self {
        let leads = |leader: &&flotilla_cluster::Leader| leader.node == member.name;
        Self {
            name: member.name.clone(),
            version: member.version.clone(),
            since: Time(member.since_ms),
            peer: member.peer.clone(),
            devices: member.quic.clone(),
            draining: member.draining,
            shards_led: view.leaders.iter().flatten().filter(leads).count(),
            answers: told.is_some(),
            devices_connected: told.as_ref().map(|told| told.controller.devices_connected),
            rows_behind: told.as_ref().map(|told| told.controller.rows_behind),
            rtt_ms: told.and_then(|told| told.rtt).map(|rtt| (rtt.as_secs_f64() * 1e6).round() / 1e3),
        }
    }
}

impl PlaceView {
    fn of(view: &View, shard: ShardId) -> Self {
        let leader = view.leader(shard);
        let pin = view.pins.iter().find(|(pinned, _)| *pinned == shard);
        Self {
            shard: shard.0,
            leader: leader.map(|(member, _)| member.name.clone()),
            epoch: leader.map(|(_, epoch)| epoch.0),
            pinned_to: pin.map(|(_, node)| node.clone()),
        }
    }
}

/// What a controller has told about itself.
pub(super) struct Told {
    pub(super) controller: ControllerView,
    /// None for ourselves.
    rtt: Option<Duration>,
}

/// Asks every member about itself, all at once. `None` for those that do not answer in time.
pub(super) async fn ask_all(api: &Api, view: &View) -> Vec<Option<Told>> {
    join_all(view.members.iter().map(|member| ask(api, &member.name))).await
}

async fn ask(api: &Api, node: &NodeName) -> Option<Told> {
    if *node == api.cluster.own {
        return Some(Told { controller: ControllerView::of(api).await, rtt: None });
    }
    let links = api.cluster.links.as_ref()?;
    let began = Instant::now();
    let answer = async {
        let call = links.call(node).await.map_err(|error| error.to_string())?;
        let request = Request::get(STATUS_PATH).body(Body::empty()).map_err(|error| error.to_string())?;
        let response = call.send(Epoch(0), request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let bytes = json::read(response.into_body(), STATUS_BYTES_MAX).await.map_err(|error| error.to_string())?;
        serde_json::from_slice::<ControllerView>(&bytes).map_err(|error| format!("{status}: {error}"))
    };
    let answer = timeout(STATUS_DEADLINE, answer).await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
    let rtt = links.rtt(node).unwrap_or_else(|| began.elapsed());
    answer
        .inspect_err(|cause| tracing::debug!(peer = %node, cause, "a controller does not tell about itself"))
        .ok()
        .map(|controller| Told { controller, rtt: Some(rtt) })
}

/// What was asked of a controller, and recorded.
#[derive(Serialize, ToSchema)]
#[schema(title = "NodeWish")]
pub struct NodeWish {
    #[schema(value_type = String)]
    node: NodeName,
    draining: bool,
}

/// Move everything away from a controller, and keep it so; `GET /v1/cluster` shows how far it is. Needs the root key.
#[utoipa::path(
    post, path = "/v1/cluster/nodes/{name}/drain", tag = "cluster", operation_id = "drainController",
    params(("name" = String, Path, example = "c1")),
    responses((status = 202, description = "It is to drain", body = NodeWish, example = json!(examples::node_wish(true))))
)]
pub async fn drain(State(api): State<Api>, Root(who): Root, Id(name): Id<String>) -> Result<Response, Problem> {
    set_draining(&api, &who, &name, true).await
}

/// Let a drained controller lead again. Needs the root key.
#[utoipa::path(
    post, path = "/v1/cluster/nodes/{name}/resume", tag = "cluster", operation_id = "resumeController",
    params(("name" = String, Path, example = "c1")),
    responses((status = 202, description = "It is to lead again", body = NodeWish,
        example = json!(examples::node_wish(false))))
)]
pub async fn resume(State(api): State<Api>, Root(who): Root, Id(name): Id<String>) -> Result<Response, Problem> {
    set_draining(&api, &who, &name, false).await
}

async fn set_draining(api: &Api, who: &Caller, name: &str, draining: bool) -> Result<Response, Problem> {
    let node = node_name(name, "name")?;
    api.cluster.control.drain(node.clone(), draining).await.map_err(problem)?;
    let action = if draining { "cluster.drain" } else { "cluster.resume" };
    note(api, who, action, node.to_string(), "{}".to_owned()).await?;
    Ok(json::answer(StatusCode::ACCEPTED, &NodeWish { node, draining }))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MoveBody {
    /// The controller that is to lead the shard while it lives; `null` sets the shard free.
    to: Option<String>,
}

/// Where a shard is to be.
#[derive(Serialize, ToSchema)]
#[schema(title = "ShardWish")]
pub struct ShardWish {
    shard: u16,
    #[schema(value_type = Option<String>)]
    to: Option<NodeName>,
}

/// Tie a shard to a controller, or set it free. Needs the root key.
#[utoipa::path(
    post, path = "/v1/cluster/shards/{shard}/move", tag = "cluster", operation_id = "moveShard",
    params(("shard" = u16, Path, example = 7)),
    request_body(content = MoveBody, example = json!(examples::move_shard())),
    responses((status = 202, description = "It is to move", body = ShardWish, example = json!(examples::shard_wish())))
)]
pub async fn shift(
    State(api): State<Api>,
    Root(who): Root,
    Id(shard): Id<String>,
    Json(MoveBody { to }): Json<MoveBody>,
) -> Result<Response, Problem> {
    let wrong = || Problem::new(Code::InvalidParameter, "give a shard's number, from 0").at("shard");
    let shard = ShardId(shard.parse().map_err(|_| wrong())?);
    let to = to.as_deref().map(|name| node_name(name, "to")).transpose()?;
    api.cluster.control.move_shard(shard, to.clone()).await.map_err(problem)?;
    let detail = serde_json::json!({"to": to}).to_string();
    note(&api, &who, "cluster.move", shard.to_string(), detail).await?;
    Ok(json::answer(StatusCode::ACCEPTED, &ShardWish { shard: shard.0, to }))
}

fn node_name(text: &str, field: &'static str) -> Result<NodeName, Problem> {
    NodeName::parse(text).map_err(|error| Problem::field(field, error.to_string()))
}

async fn note(api: &Api, who: &Caller, action: &'static str, subject: String, detail: String) -> Result<(), Problem> {
    let act = audit::Act { detail, ..who.by(api.now_ms()).act(None, action, subject) };
    audit::record(&*api.stores.catalog, act).await.map_err(|error| catalog_problem(&error))
}

fn problem(error: ControlError) -> Problem {
    match error {
        ControlError::NoSuchMember(_) | ControlError::NoSuchShard(_) => Problem::new(Code::NotFound, error.to_string()),
        ControlError::Alone => Problem::new(Code::Conflict, error.to_string()),
        ControlError::Unavailable(_) => Problem::busy(error.to_string(), 2),
    }
}
