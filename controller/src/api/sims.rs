//! SIMs of the tenant's devices.

use axum::extract::State;
use axum::response::Response;
use flotilla_protocol::id::{DeviceId, SimId};
use flotilla_protocol::wire::{Registration, SimHealth, SimState};
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
use super::{Api, catalog_problem, examples};
use crate::fleet::sims::{Sim, SimError, SimFilter};

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(get, patch))
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
        }
    }
}

fn problem(error: SimError) -> Problem {
    match error {
        SimError::NotFound => Problem::not_found("SIM"),
        SimError::Name => Problem::field("name", error.to_string()),
        SimError::Sql(error) => catalog_problem(&error),
    }
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
    Ok(json::ok(&SimView::now(&api, sim)))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SimPatch {
    /// Up to 64 bytes.
    name: String,
}

/// Rename a SIM.
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
    let sim = api.sims.rename(who.tenant, id, patch.name).await.map_err(problem)?;
    Ok(json::ok(&SimView::now(&api, sim)))
}
