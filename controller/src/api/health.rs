//! The fleet's health: counts, and what somebody should look at, with the reason.

use axum::extract::State;
use axum::response::Response;
use flotilla_protocol::id::{DeviceId, ShardId, SimId, TenantId};
use flotilla_protocol::wire::SimState;
use flotilla_routing::Micros;
use flotilla_routing::circuit::{Because, Position};
use flotilla_routing::health::score::Score;
use flotilla_routing::route::RouteIds;
use flotilla_routing::table::{Obstacle, RouteHealth};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{In, Read};
use super::problem::Problem;
use super::sims::state_name;
use super::time::Time;
use super::{Api, catalog_problem, cluster, examples, json, shard_problem, store_problem};
use crate::domain::message::{MessageState, Priority};
use crate::fleet::devices::{Device, DeviceError, DeviceFilter, DeviceState};
use crate::gateway::SessionInfo;

/// Problems that are named; the others are counted.
const NAMED_MAX: usize = 100;
/// Devices that are looked at, in pages.
const DEVICES_MAX: usize = 20_000;
const DEVICES_PAGE: u32 = 500;
const BATTERY_LOW_PERCENT: u8 = 15;
/// Below it many messages fail on GSM.
const SIGNAL_WEAK_DBM: i16 = -105;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(get))
}

/// A tenant's fleet at a glance.
#[derive(Serialize, ToSchema, Default)]
#[schema(title = "FleetHealth")]
pub struct HealthView {
    devices: DeviceCounts,
    sims: SimCounts,
    messages: MessageCounts,
    /// What somebody should look at, at most 100.
    problems: Vec<Trouble>,
    problems_left_out: u64,
    /// SIMs and provider senders that are there or were lately, the worst first, at most 100.
    routes: Vec<RouteScore>,
    routes_left_out: u64,
    /// Only for the root key: this controller and its shards, when it is alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    controller: Option<ControllerView>,
    /// Only for the root key, in a cluster: all controllers that answer.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    controllers: Vec<ControllerView>,
    /// The names of those that do not.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    controllers_missing: Vec<String>,
}

#[derive(Serialize, ToSchema, Default)]
#[schema(title = "DeviceCounts")]
pub struct DeviceCounts {
    /// All but the revoked ones.
    enrolled: u64,
    online: u64,
    draining: u64,
}

#[derive(Serialize, ToSchema, Default)]
#[schema(title = "SimCounts")]
pub struct SimCounts {
    /// In devices that are online.
    online: u64,
    /// Of these, those that can send.
    ready: u64,
}

/// Open messages.
#[derive(Serialize, ToSchema, Default)]
#[schema(title = "MessageCounts")]
pub struct MessageCounts {
    scheduled: u64,
    queued: u64,
    /// Of the queued ones, the urgent.
    queued_urgent: u64,
    dispatching: u64,
    unknown: u64,
    /// Sent, and waiting for a delivery report.
    sent: u64,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "Trouble")]
pub struct Trouble {
    #[schema(value_type = String)]
    device: DeviceId,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    sim: Option<SimId>,
    /// `offline, no_sim, sim_not_ready, weak_signal, battery_low`.
    reason: &'static str,
    detail: String,
}

/// A SIM or a sender of a provider account, as the choice of routes sees it.
#[derive(Serialize, ToSchema)]
#[schema(title = "RouteScore")]
pub struct RouteScore {
    #[serde(flatten)]
    route: RouteIds,
    online: bool,
    /// 0 to 100, with what has taken points.
    score: Score,
    circuit: Position,
    /// Why the circuit is not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit_because: Option<Because>,
    /// What keeps ordinary messages from it now.
    obstacles: Vec<Obstacle>,
    in_flight: u32,
    /// What the month has cost, in the tenant's currency.
    #[schema(value_type = String)]
    month_cost: Micros,
}

impl RouteScore {
    fn of(health: RouteHealth) -> Self {
        Self {
            route: health.route.into(),
            online: health.online,
            score: health.score,
            circuit: health.circuit,
            circuit_because: health.circuit_because,
            obstacles: health.obstacles.into_vec(),
            in_flight: health.in_flight,
            month_cost: health.month_cost,
        }
    }

    /// Those that nobody can send by first, then by what is wrong with them.
    fn rank(&self) -> (bool, u8) {
        (self.circuit == Position::Closed, self.score.value)
    }
}

/// One controller. Also what controllers tell each other, so what is added later has to have a default.
#[derive(Serialize, Deserialize, ToSchema)]
#[schema(title = "Controller")]
pub struct ControllerView {
    name: String,
    version: String,
    /// Devices of all tenants.
    pub(super) devices_connected: usize,
    /// Events in the journal that are not yet in the rows.
    pub(super) rows_behind: u64,
    shards: Vec<ShardView>,
}

#[derive(Serialize, Deserialize, ToSchema)]
#[schema(title = "Shard")]
pub struct ShardView {
    shard: u16,
    epoch: u64,
    queued: u64,
    scheduled: u64,
    in_flight: u64,
    unknown: u64,
    sent: u64,
    devices: usize,
}

/// The fleet's health, with what to look at and why.
#[utoipa::path(
    get, path = "/v1/fleet/health", tag = "fleet", operation_id = "getFleetHealth",
    responses((status = 200, description = "Health", body = HealthView, example = json!(examples::health())))
)]
pub async fn get(State(api): State<Api>, who: In<Read>) -> Result<Response, Problem> {
    let mut health = HealthView { messages: messages(&api, who.tenant).await?, ..HealthView::default() };
    let mut after = None;
    for _ in 0..DEVICES_MAX / DEVICES_PAGE as usize {
        let filter = DeviceFilter { state: None, after, limit: DEVICES_PAGE };
        let page = api.devices.list(who.tenant, filter).await.map_err(|error| match error {
            DeviceError::Sql(error) => catalog_problem(&error),
            other => Problem::internal(&other),
        })?;
        let full = page.len() == DEVICES_PAGE as usize;
        after = page.last().map(|device| device.id);
        for device in page {
            let session = api.gateway.session(device.id);
            health.add(device, session);
        }
        if !full {
            break;
        }
    }
    let shard = api.shards.of(who.tenant).map_err(shard_problem)?;
    health.add_routes(shard.route_health(who.tenant).await.map_err(shard_problem)?);
    if who.caller.is_root() {
        health.add_controllers(&api).await;
    }
    Ok(json::ok(&health))
}

impl HealthView {
    fn add(&mut self, device: Device, session: Option<SessionInfo>) {
        if device.state == DeviceState::Revoked {
            return;
        }
        self.devices.enrolled += 1;
        self.devices.draining += u64::from(device.state == DeviceState::Draining);
        let Some(session) = session else {
            let seen = device.last_seen_ms.map_or("never".to_owned(), |ms| Time(ms).to_string());
            self.trouble(&device, None, "offline", format!("last seen: {seen}"));
            return;
        };
        self.devices.online += 1;
        self.sims.online += session.sims.len() as u64;
        self.sims.ready += session.sims.iter().filter(|sim| sim.ready).count() as u64;
        if session.sims.is_empty() {
            self.trouble(&device, None, "no_sim", "no SIM in it".to_owned());
        }
        let telemetry = session.telemetry.as_deref().cloned().unwrap_or_default();
        if let Some(percent) = telemetry.battery_percent.filter(|percent| *percent < BATTERY_LOW_PERCENT)
            && telemetry.charging != Some(true)
        {
            self.trouble(&device, None, "battery_low", format!("{percent} %, not charging"));
        }
        for route in &session.sims {
            let health = telemetry.sims.iter().find(|health| health.slot == route.slot);
            if !route.ready {
                let state = session.sim_state(route.slot).unwrap_or(SimState::NotRegistered);
                self.trouble(
                    &device,
                    Some(route.sim),
                    "sim_not_ready",
                    format!("slot {}: {}", route.slot, state_name(state)),
                );
            } else if let Some(dbm) = health.and_then(|health| health.signal_dbm).filter(|dbm| *dbm < SIGNAL_WEAK_DBM) {
                self.trouble(&device, Some(route.sim), "weak_signal", format!("slot {}: {dbm} dBm", route.slot));
            }
        }
    }

    async fn add_controllers(&mut self, api: &Api) {
        if api.cluster.links.is_none() {
            self.controller = Some(ControllerView::of(api).await);
            return;
        }
        let view = api.cluster.views.borrow().clone();
        for (member, told) in view.members.iter().zip(cluster::ask_all(api, &view).await) {
            match told {
                Some(told) => self.controllers.push(told.controller),
                None => self.controllers_missing.push(member.name.to_string()),
            }
        }
    }

    fn add_routes(&mut self, routes: Vec<RouteHealth>) {
        let mut routes: Vec<_> = routes.into_iter().map(RouteScore::of).collect();
        routes.sort_by_key(RouteScore::rank);
        self.routes_left_out = routes.len().saturating_sub(NAMED_MAX) as u64;
        routes.truncate(NAMED_MAX);
        self.routes = routes;
    }

    fn trouble(&mut self, device: &Device, sim: Option<SimId>, reason: &'static str, detail: String) {
        if self.problems.len() == NAMED_MAX {
            self.problems_left_out += 1;
            return;
        }
        self.problems.push(Trouble { device: device.id, name: device.name.clone(), sim, reason, detail });
    }
}

async fn messages(api: &Api, tenant: TenantId) -> Result<MessageCounts, Problem> {
    let shard = ShardId::of(tenant, api.stores.journal.shards());
    let open = api.stores.rows.open_counts(shard).await.map_err(|error| store_problem(&error))?;
    let mut counts = MessageCounts::default();
    for count in open.into_iter().filter(|count| count.tenant == tenant) {
        match count.state {
            MessageState::Scheduled => counts.scheduled += count.messages,
            MessageState::Queued => {
                counts.queued += count.messages;
                counts.queued_urgent += if count.class == Priority::Urgent { count.messages } else { 0 };
            }
            MessageState::Dispatching => counts.dispatching += count.messages,
            MessageState::Unknown => counts.unknown += count.messages,
            MessageState::Sent => counts.sent += count.messages,
            MessageState::Delivered | MessageState::Failed | MessageState::Expired | MessageState::Cancelled => {}
        }
    }
    Ok(counts)
}

impl ControllerView {
    pub(super) async fn of(api: &Api) -> Self {
        let mut shards = Vec::new();
        for shard in api.shards.all() {
            // A shard that does not answer is one that is starting or stopping.
            let Ok(status) = shard.status().await else { continue };
            shards.push(ShardView {
                shard: status.shard.0,
                epoch: status.epoch.0,
                queued: status.queued.iter().sum(),
                scheduled: status.scheduled,
                in_flight: status.in_flight,
                unknown: status.unknown,
                sent: status.sent,
                devices: status.devices,
            });
        }
        Self {
            name: api.cluster.own.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            devices_connected: api.gateway.connected(),
            rows_behind: api.rows.lag().events,
            shards,
        }
    }
}
