//! Gateways: list, rename, drain, revoke, and ask their networks.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use flotilla_protocol::id::DeviceId;
use flotilla_protocol::wire::{Refusal, Settings};
use flotilla_routing::settings::Limits;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, In, Read};
use super::json::{self, Json};
use super::page::Page;
use super::params::{self, Id, Query};
use super::problem::{Code, Problem};
use super::sims::setting_problem;
use super::time::Time;
use super::{Api, catalog_problem, examples};
use crate::fleet::devices::{Device, DeviceError, DeviceFilter, DevicePatch, DeviceState};
use crate::gateway::{SessionInfo, UssdError};

/// Networks answer USSD within half a minute or not at all.
const USSD_DEADLINE: Duration = Duration::from_secs(45);
const INTERVAL_S_MIN: u32 = 5;
const INTERVAL_S_MAX: u32 = 3600;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(get, patch))
        .routes(routes!(drain))
        .routes(routes!(resume))
        .routes(routes!(revoke))
        .routes(routes!(ussd))
}

/// A gateway. What it tells about itself is there while it is online.
#[derive(Serialize, ToSchema)]
#[schema(title = "Device")]
pub struct DeviceView {
    #[schema(value_type = String)]
    id: DeviceId,
    name: String,
    model: String,
    os: String,
    software: String,
    labels: BTreeMap<String, String>,
    /// Shared by all its SIMs.
    limits: Limits,
    /// `active`; `draining`: gets nothing new; `revoked`: never again.
    #[schema(value_type = String, example = "active")]
    state: DeviceState,
    online: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    connected_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remote: Option<String>,
    /// `quic`; `tcp` where the device's network lets no UDP pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    /// Over QUIC only.
    #[serde(skip_serializing_if = "Option::is_none")]
    rtt_ms: Option<u64>,
    #[schema(value_type = String)]
    enrolled_at: Time,
    #[schema(value_type = Option<String>)]
    last_seen_at: Option<Time>,
    #[serde(skip_serializing_if = "Option::is_none")]
    battery_percent: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    charging: Option<bool>,
    /// Messages in its outbox that have no result, and reports that are not acknowledged.
    #[serde(skip_serializing_if = "Option::is_none")]
    outbox_open: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reports_open: Option<u32>,
}

impl DeviceView {
    fn of(device: Device, session: Option<SessionInfo>, now_ms: u64) -> Self {
        let telemetry = session.as_ref().and_then(|session| session.telemetry.clone());
        Self {
            id: device.id,
            name: device.name,
            model: device.model,
            os: device.os,
            software: session.as_ref().map_or(device.software, |session| session.software.clone()),
            labels: device.labels,
            limits: device.limits,
            state: device.state,
            online: session.is_some(),
            connected_at: session.as_ref().map(|session| Time(session.since_ms)),
            remote: session.as_ref().map(|session| session.remote.to_string()),
            transport: session.as_ref().map(|session| session.transport.as_str()),
            rtt_ms: session.as_ref().and_then(|session| session.rtt).map(|rtt| rtt.as_millis() as u64),
            enrolled_at: Time(device.enrolled_ms),
            last_seen_at: session.as_ref().map(|_| now_ms).or(device.last_seen_ms).map(Time),
            battery_percent: telemetry.as_ref().and_then(|telemetry| telemetry.battery_percent),
            charging: telemetry.as_ref().and_then(|telemetry| telemetry.charging),
            outbox_open: telemetry.as_ref().map(|telemetry| telemetry.outbox_open),
            reports_open: telemetry.as_ref().map(|telemetry| telemetry.reports_open),
        }
    }

    fn now(api: &Api, device: Device) -> Self {
        let session = api.gateway.session(device.id);
        Self::of(device, session, api.now_ms())
    }
}

fn problem(error: DeviceError) -> Problem {
    match error {
        DeviceError::NotFound => Problem::not_found("device"),
        DeviceError::Revoked => Problem::new(Code::Conflict, error.to_string()),
        DeviceError::Name => Problem::field("name", error.to_string()),
        DeviceError::Limits(error) => setting_problem(error),
        DeviceError::Labels => Problem::field("labels", error.to_string()),
        DeviceError::Sql(error) => catalog_problem(&error),
    }
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DevicesQuery {
    /// `active, draining, revoked`.
    state: Option<String>,
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List devices, the oldest first.
#[utoipa::path(
    get, path = "/v1/devices", tag = "devices", operation_id = "listDevices", params(DevicesQuery),
    responses((
        status = 200, description = "A page of devices",
        body = Page<DeviceView>, example = json!(examples::page(examples::device()))
    ))
)]
pub async fn list(
    State(api): State<Api>,
    who: In<Read>,
    Query(query): Query<DevicesQuery>,
) -> Result<Response, Problem> {
    let known = [DeviceState::Active, DeviceState::Draining, DeviceState::Revoked];
    let state = |word: &str| known.into_iter().find(|state| state.as_str() == word);
    let states = params::words("state", query.state.as_deref(), state, "give active, draining or revoked")?;
    let limit = params::limit(query.limit)?;
    let filter = DeviceFilter {
        state: states.first().copied(),
        after: params::parse("cursor", query.cursor.as_deref())?,
        limit: limit as u32,
    };
    let found = api.devices.list(who.tenant, filter).await.map_err(problem)?;
    let page = Page::by_id(found, limit, |device| device.id.to_string());
    Ok(json::ok(&page.map(|device| DeviceView::now(&api, device))))
}

/// One device.
#[utoipa::path(
    get, path = "/v1/devices/{id}", tag = "devices", operation_id = "getDevice",
    params(("id" = String, Path, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The device", body = DeviceView, example = json!(examples::device())))
)]
pub async fn get(State(api): State<Api>, who: In<Read>, Id(id): Id<DeviceId>) -> Result<Response, Problem> {
    let device = api.devices.get(who.tenant, id).await.map_err(problem)?;
    Ok(json::ok(&DeviceView::now(&api, device)))
}

/// What a device is told to do; in force until it reconnects.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SettingsBody {
    /// Seconds between reports of its health, 5 to 3600.
    #[serde(default)]
    telemetry_interval_s: Option<u32>,
    /// Logs that it sends: 0 none, 1 errors, 2 warnings, 3 information, 4 debug, 5 everything.
    #[serde(default)]
    log_level: Option<u8>,
}

impl SettingsBody {
    fn check(&self) -> Result<Settings, Problem> {
        let mut settings = Settings::default();
        if let Some(interval_s) = self.telemetry_interval_s {
            if !(INTERVAL_S_MIN..=INTERVAL_S_MAX).contains(&interval_s) {
                return Err(Problem::field("settings.telemetry_interval_s", "give 5 to 3600 seconds"));
            }
            settings.telemetry_interval_s = interval_s;
        }
        if let Some(level) = self.log_level {
            if level > 5 {
                return Err(Problem::field("settings.log_level", "give 0 (none) to 5 (everything)"));
            }
            settings.log_level = level;
        }
        Ok(settings)
    }
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePatchBody {
    /// Up to 64 bytes.
    #[serde(default)]
    name: Option<String>,
    /// All labels: those left out are removed. Up to 32 pairs.
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
    /// For all its SIMs together; null for none.
    #[serde(default, deserialize_with = "json::given")]
    #[schema(value_type = Option<Limits>)]
    limits: Option<Option<Limits>>,
    #[serde(default)]
    settings: Option<SettingsBody>,
}

/// Rename or label a device, or set how it reports.
#[utoipa::path(
    patch, path = "/v1/devices/{id}", tag = "devices", operation_id = "changeDevice",
    params(("id" = String, Path, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = DevicePatchBody, example = json!(examples::device_patch())),
    responses((status = 200, description = "The device", body = DeviceView, example = json!(examples::device())))
)]
pub async fn patch(
    State(api): State<Api>,
    who: In<Admin>,
    Id(id): Id<DeviceId>,
    Json(patch): Json<DevicePatchBody>,
) -> Result<Response, Problem> {
    let settings = patch.settings.as_ref().map(SettingsBody::check).transpose()?;
    // Whose it is comes before anything is sent to it.
    api.devices.get(who.tenant, id).await.map_err(problem)?;
    if let Some(settings) = settings
        && !api.gateway.push_settings(id, settings)
    {
        return Err(
            offline("settings need a device that is online; leave them out, or try again when it is").at("settings")
        );
    }
    let limits_change = patch.limits.is_some();
    let change = DevicePatch { name: patch.name, labels: patch.labels, limits: patch.limits };
    let device = api.devices.patch(who.tenant, id, change).await.map_err(problem)?;
    if limits_change {
        api.routing_changed().await?;
    }
    Ok(json::ok(&DeviceView::now(&api, device)))
}

fn offline(detail: &'static str) -> Problem {
    Problem::new(Code::DeviceOffline, detail)
}

/// Drain a device: it finishes what it has and gets nothing new.
#[utoipa::path(
    post, path = "/v1/devices/{id}/drain", tag = "devices", operation_id = "drainDevice",
    params(("id" = String, Path, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The device", body = DeviceView, example = json!(examples::device())))
)]
pub async fn drain(State(api): State<Api>, who: In<Admin>, Id(id): Id<DeviceId>) -> Result<Response, Problem> {
    set_draining(&api, &who, id, true).await
}

/// Let a drained device work again.
#[utoipa::path(
    post, path = "/v1/devices/{id}/resume", tag = "devices", operation_id = "resumeDevice",
    params(("id" = String, Path, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The device", body = DeviceView, example = json!(examples::device())))
)]
pub async fn resume(State(api): State<Api>, who: In<Admin>, Id(id): Id<DeviceId>) -> Result<Response, Problem> {
    set_draining(&api, &who, id, false).await
}

async fn set_draining(api: &Api, who: &In<Admin>, id: DeviceId, draining: bool) -> Result<Response, Problem> {
    let actor = who.caller.key().to_string();
    let device = api.devices.set_draining(who.tenant, id, draining, actor, api.now_ms()).await.map_err(problem)?;
    api.gateway.set_draining(id, draining);
    Ok(json::ok(&DeviceView::now(api, device)))
}

/// Revoke a device, for good: its certificates are void, its connection ends, its unsent messages move elsewhere.
#[utoipa::path(
    post, path = "/v1/devices/{id}/revoke", tag = "devices", operation_id = "revokeDevice",
    params(("id" = String, Path, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The device", body = DeviceView, example = json!(examples::device())))
)]
pub async fn revoke(State(api): State<Api>, who: In<Admin>, Id(id): Id<DeviceId>) -> Result<Response, Problem> {
    let actor = who.caller.key().to_string();
    let device = api.devices.revoke(who.tenant, id, actor, api.now_ms()).await.map_err(problem)?;
    api.gateway.close(id, Refusal::Revoked, "the device was revoked");
    Ok(json::ok(&DeviceView::of(device, None, api.now_ms())))
}

#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UssdBody {
    /// The SIM's slot, from 0.
    #[serde(default)]
    slot: u8,
    /// Such as `*102#`.
    code: String,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "UssdReply")]
pub struct UssdReply {
    reply: String,
}

/// Ask a SIM's network by USSD, and wait for what it says: balances, packages.
#[utoipa::path(
    post, path = "/v1/devices/{id}/ussd", tag = "devices", operation_id = "askUssd",
    params(("id" = String, Path, example = "dev_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = UssdBody, example = json!(examples::ussd())),
    responses((status = 200, description = "The network's answer", body = UssdReply, example = json!(examples::ussd_reply())))
)]
pub async fn ussd(
    State(api): State<Api>,
    who: In<Admin>,
    Id(id): Id<DeviceId>,
    Json(ask): Json<UssdBody>,
) -> Result<Response, Problem> {
    api.devices.get(who.tenant, id).await.map_err(problem)?;
    let answer = api.gateway.ussd(id, ask.slot, &ask.code, USSD_DEADLINE).await;
    match answer {
        Ok(Ok(reply)) => Ok(json::ok(&UssdReply { reply })),
        Ok(Err(refusal)) => Err(Problem::new(Code::Conflict, format!("the device or network refused: {refusal}"))),
        Err(UssdError::Offline) => Err(offline("the device is offline; try again when it is connected")),
        Err(error @ UssdError::Code) => Err(Problem::field("code", error.to_string())),
        Err(UssdError::TooMany) => {
            Err(Problem::busy("other USSD requests of this device are under way; try again", 10))
        }
        Err(UssdError::Timeout) => {
            Err(Problem::new(Code::DeviceTimeout, "the network did not answer in time; try again later"))
        }
    }
}
