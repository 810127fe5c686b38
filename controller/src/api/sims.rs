//! SIMs of the tenant's devices.

use axum::extract::State;
use axum::response::Response;
use flotilla_protocol::id::{DeviceId, SimId};
use flotilla_protocol::wire::{Registration, SimHealth, SimState};
use flotilla_routing::Micros;
use flotilla_routing::limits::Invalid;
use flotilla_routing::settings::{Limits, Price, WarmUp, Window};
use flotilla_routing::table::RouteHealth;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, In, Read};
use super::json::{self, Json};
use super::page::Page;
use super::params::{self, Id, Query};
use super::problem::Problem;
use super::time::Time;
use super::{Api, catalog_problem, examples, shard_problem};
use crate::domain::message::Route;
use crate::fleet::sims::{Change, SettingsChange, Sim, SimChange, SimError, SimFilter, SimSettings};
use crate::gateway::FleetEvent;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, patch)).routes(routes!(confirm))
}

/// A SIM. Its health is there while its device is online and has told it.
#[derive(Serialize, ToSchema)]
#[schema(title = "Sim")]
pub struct SimView {
    #[schema(value_type = String)]
    id: SimId,
    name: String,
    /// The card's number, or `device:slot` for a card that does not tell it.
    iccid: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    imsi: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    msisdn: Option<String>,
    operator: String,
    /// Home network: country (MCC) and network (MNC).
    #[serde(skip_serializing_if = "Option::is_none")]
    plmn: Option<String>,
    /// Where it was seen last.
    #[schema(value_type = Option<String>)]
    device: Option<DeviceId>,
    slot: Option<u8>,
    /// Its device is connected and has it.
    online: bool,
    #[schema(value_type = String)]
    first_seen_at: Time,
    #[schema(value_type = String)]
    last_seen_at: Time,
    /// `ready, absent, pin_required, puk_required, blocked, not_registered, faulty`.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal_dbm: Option<i16>,
    /// `unknown, not_registered, searching, denied, home, roaming`.
    #[serde(skip_serializing_if = "Option::is_none")]
    registration: Option<&'static str>,
    /// The network that serves it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    serving: Option<String>,
    /// It took another card's place, and sends nothing until somebody confirms it: `POST /v1/sims/{id}/confirm`.
    held: bool,
    /// What people have set. Other limits may come from its tenant, its carrier and its device.
    settings: SimSettings,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<BalanceView>,
    /// Score, limits, circuit, history; only when one SIM is asked for, and once its device has been connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    routing: Option<RouteHealth>,
}

/// In the tenant's currency, as somebody has told it.
#[derive(Serialize, ToSchema)]
#[schema(title = "Balance")]
pub struct BalanceView {
    #[schema(value_type = String, example = "12.5")]
    amount: Micros,
    #[schema(value_type = String)]
    told_at: Time,
}

pub(crate) const fn state_name(state: SimState) -> &'static str {
    match state {
        SimState::Ready => "ready",
        SimState::Absent => "absent",
        SimState::PinRequired => "pin_required",
        SimState::PukRequired => "puk_required",
        SimState::Blocked => "blocked",
        SimState::NotRegistered => "not_registered",
        SimState::Faulty => "faulty",
    }
}

pub(crate) const fn registration_name(registration: Registration) -> &'static str {
    match registration {
        Registration::Unknown => "unknown",
        Registration::NotRegistered => "not_registered",
        Registration::Searching => "searching",
        Registration::Denied => "denied",
        Registration::Home => "home",
        Registration::Roaming => "roaming",
    }
}

impl SimView {
    fn now(api: &Api, sim: Sim) -> Self {
        let session = sim.device.and_then(|device| api.gateway.session(device));
        let online = session.as_ref().is_some_and(|session| session.sims.iter().any(|route| route.sim == sim.id));
        let session = session.filter(|_| online);
        let state = session.as_ref().and_then(|session| session.sim_state(sim.slot?));
        let telemetry = session.and_then(|session| session.telemetry);
        let health: Option<SimHealth> =
            telemetry.and_then(|telemetry| telemetry.sims.into_iter().find(|health| Some(health.slot) == sim.slot));
        Self {
            id: sim.id,
            name: sim.name,
            iccid: sim.iccid,
            imsi: sim.imsi,
            msisdn: sim.msisdn,
            operator: sim.operator,
            plmn: sim.plmn,
            device: sim.device,
            slot: sim.slot,
            online,
            first_seen_at: Time(sim.first_seen_ms),
            last_seen_at: Time(if online { api.now_ms() } else { sim.last_seen_ms }),
            state: state.map(state_name),
            signal_dbm: health.as_ref().and_then(|health| health.signal_dbm),
            registration: health.as_ref().map(|health| registration_name(health.registration)),
            serving: health.and_then(|health| health.serving).map(|plmn| plmn.to_string()),
            held: sim.held,
            settings: sim.settings,
            routing: None,
            balance: sim.balance.map(|balance| BalanceView { amount: balance.amount, told_at: Time(balance.told_ms) }),
        }
    }
}

fn problem(error: SimError) -> Problem {
    match error {
        SimError::NotFound => Problem::not_found("SIM"),
        SimError::Name => Problem::field("name", error.to_string()),
        SimError::Setting(error) => setting_problem(error),
        SimError::Sql(error) => catalog_problem(&error),
    }
}

pub(super) fn setting_problem(error: Invalid) -> Problem {
    Problem::field(error.field, error.remedy)
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SimsQuery {
    device: Option<String>,
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List SIMs, the longest known first.
#[utoipa::path(
    get, path = "/v1/sims", tag = "sims", operation_id = "listSims", params(SimsQuery),
    responses((
        status = 200, description = "A page of SIMs",
        body = Page<SimView>, example = json!(examples::page(examples::sim()))
    ))
)]
pub async fn list(State(api): State<Api>, who: In<Read>, Query(query): Query<SimsQuery>) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let filter = SimFilter {
        device: params::parse("device", query.device.as_deref())?,
        after: params::parse("cursor", query.cursor.as_deref())?,
        limit: limit as u32,
    };
    let found = api.sims.list(who.tenant, filter).await.map_err(problem)?;
    Ok(json::ok(&Page::by_id(found, limit, |sim| sim.id.to_string()).map(|sim| SimView::now(&api, sim))))
}

/// One SIM.
#[utoipa::path(
    get, path = "/v1/sims/{id}", tag = "sims", operation_id = "getSim",
    params(("id" = String, Path, example = "sim_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The SIM", body = SimView, example = json!(examples::sim())))
)]
pub async fn get(State(api): State<Api>, who: In<Read>, Id(id): Id<SimId>) -> Result<Response, Problem> {
    let sim = api.sims.get(who.tenant, id).await.map_err(problem)?;
    let routing = routing_of(&api, &sim).await?;
    Ok(json::ok(&SimView { routing, ..SimView::now(&api, sim) }))
}

/// How the shard sees it.
async fn routing_of(api: &Api, sim: &Sim) -> Result<Option<RouteHealth>, Problem> {
    let Some(device) = sim.device else { return Ok(None) };
    let shard = api.shards.of(sim.tenant).map_err(shard_problem)?;
    shard.route_health_of(Route::sim(device, sim.id)).await.map_err(shard_problem)
}

/// What is left out stays. What is given replaces what was there as a whole; null goes back to the default.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SimPatch {
    /// Up to 64 bytes.
    name: Option<String>,
    /// What is left on the card, in the tenant's currency. Null when nobody knows.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<String>)]
    balance: Option<Option<Micros>>,
    /// All its own limits: those left out come from the tenant, the carrier and the device's kind.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<Limits>)]
    limits: Option<Option<Limits>>,
    /// When it may send; empty for always.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<Vec<Window>>)]
    windows: Option<Option<Vec<Window>>>,
    /// IANA name, such as `Africa/Dar_es_Salaam`; the tenant's when null.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<String>)]
    timezone: Option<Option<Box<str>>>,
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<Price>)]
    price: Option<Option<Price>>,
    /// Up to 8 names by which plans select it.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<Vec<String>>)]
    pools: Option<Option<Vec<Box<str>>>>,
    /// Its share of new work beside equals, 0 to 100.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<u8>)]
    weight: Option<Option<u8>>,
    /// Segments of its first days, until its own limits count.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<WarmUp>)]
    warm_up: Option<Option<WarmUp>>,
    /// A carrier's limits by name; `none` for no preset.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<String>)]
    preset: Option<Option<Box<str>>>,
    /// Countries (ISO 3166) that it may send to; empty for all.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<Vec<String>>)]
    countries: Option<Option<Vec<Box<str>>>>,
    /// Beginnings of numbers of its own network, such as `25571`.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<Vec<String>>)]
    own_prefixes: Option<Option<Vec<Box<str>>>>,
    /// An event (`sim.low_balance`) when a balance is told that is not above this.
    #[serde(deserialize_with = "json::given")]
    #[schema(value_type = Option<String>)]
    low_balance: Option<Option<Micros>>,
}

impl SimPatch {
    fn change(self) -> Change {
        Change {
            name: self.name,
            balance: self.balance,
            settings: SettingsChange {
                limits: self.limits,
                windows: self.windows,
                timezone: self.timezone,
                price: self.price,
                pools: self.pools,
                weight: self.weight,
                warm_up: self.warm_up,
                preset: self.preset,
                countries: self.countries,
                own_prefixes: self.own_prefixes,
                low_balance: self.low_balance,
            },
        }
    }
}

/// Change a SIM: its name, balance, limits, hours, price, pools.
///
/// Limits and the like are in force when the answer comes.
#[utoipa::path(
    patch, path = "/v1/sims/{id}", tag = "sims", operation_id = "changeSim",
    params(("id" = String, Path, example = "sim_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = SimPatch, example = json!(examples::sim_patch())),
    responses((status = 200, description = "The SIM", body = SimView, example = json!(examples::sim())))
)]
pub async fn patch(
    State(api): State<Api>,
    who: In<Admin>,
    Id(id): Id<SimId>,
    Json(patch): Json<SimPatch>,
) -> Result<Response, Problem> {
    let by = who.caller.by(api.now_ms());
    let (sim, before) = api.sims.change(who.tenant, id, patch.change(), by).await.map_err(problem)?;
    let left = |sim: &Sim| sim.balance.map(|balance| balance.amount);
    if sim.settings != before.settings || left(&sim) != left(&before) {
        api.routing_changed().await?;
    }
    tell_low_balance(&api, &sim, &before);
    Ok(json::ok(&SimView::now(&api, sim)))
}

/// Once each time that it falls there.
fn tell_low_balance(api: &Api, sim: &Sim, before: &Sim) {
    let is_low = |sim: &Sim| sim.balance.zip(sim.settings.low_balance).filter(|(balance, low)| balance.amount <= *low);
    if let Some((balance, _)) = is_low(sim)
        && is_low(before).is_none()
    {
        let event = FleetEvent::LowBalance { sim: sim.id, amount: balance.amount };
        api.events.publish(sim.tenant, event);
    }
}

/// Let a SIM send that took another one's place.
#[utoipa::path(
    post, path = "/v1/sims/{id}/confirm", tag = "sims", operation_id = "confirmSim",
    params(("id" = String, Path, example = "sim_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The SIM", body = SimView, example = json!(examples::sim())))
)]
pub async fn confirm(State(api): State<Api>, who: In<Admin>, Id(id): Id<SimId>) -> Result<Response, Problem> {
    let by = who.caller.by(api.now_ms());
    let (sim, was_held) = api.sims.confirm(who.tenant, id, by).await.map_err(problem)?;
    if was_held {
        api.routing_changed().await?;
        if let Some(device) = sim.device {
            api.events.publish(who.tenant, FleetEvent::Sim { device, sim: id, change: SimChange::Confirmed });
        }
    }
    Ok(json::ok(&SimView::now(&api, sim)))
}
