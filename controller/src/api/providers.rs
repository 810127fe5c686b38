//! Accounts at online SMS services.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use flotilla_protocol::id::ProviderId;
use flotilla_providers::{Capabilities, Judged};
use flotilla_routing::Micros;
use flotilla_routing::settings::{Limits, Price};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::{Admin, In, Read};
use super::json::{self, Json};
use super::page::Page;
use super::params::{self, Id, Query};
use super::problem::{Code, Problem};
use super::time::Time;
use super::{Api, catalog_problem, examples};
use crate::providers::account::{Decimal, Noted, Provider, Sender, Settings, Wrong};
use crate::providers::accounts::{AccountError, NewProvider};
use crate::providers::kind::Kind;
use crate::providers::live::{Counters, LiveState};

/// Messages in one request of a new account, where the maker takes so many: a lost answer leaves as many in doubt.
const BATCH_DEFAULT: usize = 20;

pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(makers))
        .routes(routes!(get, patch, remove))
        .routes(routes!(test))
}

/// An account at a provider. `live` is there while it is at work.
#[derive(Serialize, ToSchema)]
#[schema(title = "Provider")]
pub struct ProviderView {
    #[schema(value_type = String)]
    id: ProviderId,
    /// As in `GET /v1/providers/makers`.
    maker: &'static str,
    name: String,
    enabled: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    base_url: Option<Box<str>>,
    #[schema(value_type = BTreeMap<String, String>)]
    fields: BTreeMap<Box<str>, Box<str>>,
    /// Whether each is set; their values are never shown.
    secrets: BTreeMap<&'static str, bool>,
    senders: Vec<Sender>,
    /// Shared by all senders.
    limits: Limits,
    price: Price,
    #[schema(value_type = Vec<String>)]
    countries: Vec<Box<str>>,
    #[schema(value_type = String)]
    timezone: Box<str>,
    window: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    requests_per_second: Option<u16>,
    batch_size: u16,
    timeout_ms: u32,
    unsigned_callbacks: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    low_balance: Option<Micros>,
    /// What the provider has to be told where it cannot be told with each message. Only with `http.public_url`.
    #[serde(skip_serializing_if = "Option::is_none")]
    callback_url: Option<String>,
    #[schema(value_type = String)]
    created_at: Time,
    #[schema(value_type = String)]
    changed_at: Time,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<BalanceView>,
    /// What the provider has told last, for a message, by country.
    prices: BTreeMap<String, PriceView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    live: Option<LiveView>,
}

/// What is left on the account, as its provider told it last.
#[derive(Serialize, ToSchema)]
#[schema(title = "Balance")]
pub struct BalanceView {
    amount: String,
    /// ISO 4217, or what the provider counts in.
    currency: String,
    #[schema(value_type = String)]
    at: Time,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "ProviderPrice")]
pub struct PriceView {
    amount: Micros,
    currency: String,
    #[schema(value_type = String)]
    at: Time,
}

/// An account at work.
#[derive(Serialize, ToSchema)]
#[schema(title = "ProviderLive")]
pub struct LiveView {
    /// `up`; `down` after several requests without an answer; `paused` as the provider has asked; `idle` before the first
    /// request.
    state: &'static str,
    #[schema(value_type = String)]
    since: Time,
    /// Messages that wait for their request, and those in requests.
    waiting: usize,
    in_flight: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    last_error_at: Option<Time>,
    /// Since then.
    counters: Counters,
}

impl LiveView {
    fn of(live: &LiveState) -> Self {
        let state = match (live.paused, live.reachable) {
            (_, Some(false)) => "down",
            (true, _) => "paused",
            (false, Some(true)) => "up",
            (false, None) => "idle",
        };
        Self {
            state,
            since: Time(live.since_ms),
            waiting: live.waiting,
            in_flight: live.in_flight,
            last_error: live.last_error.as_ref().map(|(text, _)| text.clone()),
            last_error_at: live.last_error.as_ref().map(|(_, at_ms)| Time(*at_ms)),
            counters: live.counters,
        }
    }
}

impl ProviderView {
    fn now(api: &Api, provider: &Provider) -> Self {
        let live = api.providers.sessions().live(provider.id);
        let Noted { balance, prices } = live.as_ref().map_or_else(|| provider.noted.clone(), |live| live.noted.clone());
        let callback_url = api.providers.public_url().and_then(|base| provider.callback_url(base));
        let settings = provider.settings.clone();
        let price = |(country, noted): (Box<str>, crate::providers::account::NotedPrice)| {
            let view = PriceView { amount: noted.amount, currency: noted.currency.into(), at: Time(noted.at_ms) };
            (country.into(), view)
        };
        Self {
            id: provider.id,
            maker: provider.capabilities().name,
            name: provider.name.clone(),
            enabled: provider.enabled,
            base_url: settings.base_url,
            fields: settings.fields,
            secrets: secrets(provider),
            senders: settings.senders,
            limits: settings.limits,
            price: settings.price,
            countries: settings.countries,
            timezone: settings.timezone,
            window: settings.window,
            requests_per_second: settings.requests_per_second,
            batch_size: settings.batch_size,
            timeout_ms: settings.timeout_ms,
            unsigned_callbacks: settings.unsigned_callbacks,
            low_balance: settings.low_balance,
            callback_url: callback_url.map(String::from),
            created_at: Time(provider.created_ms),
            changed_at: Time(provider.changed_ms),
            balance: balance.map(|noted| BalanceView {
                amount: Decimal(noted.micros).to_string(),
                currency: noted.currency.into(),
                at: Time(noted.at_ms),
            }),
            prices: prices.into_iter().map(price).collect(),
            live: live.as_ref().map(LiveView::of),
        }
    }
}

fn secrets(provider: &Provider) -> BTreeMap<&'static str, bool> {
    let is_set = |name: &str| provider.secrets.get(name).is_some_and(|value| !value.is_empty());
    provider.capabilities().secrets.iter().map(|(name, ..)| (*name, is_set(name))).collect()
}

fn problem(error: AccountError) -> Problem {
    match error {
        AccountError::NotFound => Problem::not_found("provider account"),
        AccountError::Wrong(wrong) => Problem::field(wrong.field, wrong.problem),
        AccountError::TooMany | AccountError::Changed => Problem::new(Code::Conflict, error.to_string()),
        AccountError::Seal(error) => Problem::internal(&error),
        AccountError::Sql(error) => catalog_problem(&error),
    }
}

/// Settings of an account. What is left out stays as it is, or has its default in a new one.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ProviderBody {
    /// Of a new account: as in `GET /v1/providers/makers`.
    maker: Option<String>,
    /// Up to 64 bytes.
    name: Option<String>,
    /// An account that is switched off finishes what it has.
    enabled: Option<bool>,
    /// In place of the provider's own address; null takes it away. An account that gets another address needs its secrets again.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    base_url: Option<Option<Box<str>>>,
    /// As the maker names them; null takes one away, the others stay.
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    fields: Option<BTreeMap<Box<str>, Option<Box<str>>>>,
    /// As the maker names them; never shown again. null takes one away, the others stay.
    #[schema(value_type = Option<BTreeMap<String, Option<String>>>)]
    secrets: Option<BTreeMap<Box<str>, Option<Box<str>>>>,
    /// All of them, 1 to 64: numbers and names to send from.
    senders: Option<Vec<Sender>>,
    /// Shared by all senders.
    limits: Option<Limits>,
    /// Of senders that have none of their own.
    price: Option<Price>,
    /// ISO 3166; of senders that name none. Empty for all.
    #[schema(value_type = Option<Vec<String>>)]
    countries: Option<Vec<Box<str>>>,
    /// IANA name, for limits of days and months and for windows; UTC when empty.
    #[schema(value_type = Option<String>)]
    timezone: Option<Box<str>>,
    /// Messages submitted and not answered at a time, 1 to 500; 16 unless set.
    window: Option<u16>,
    /// 1 to 1000; null for no limit.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<u16>)]
    requests_per_second: Option<Option<u16>>,
    /// Messages in one request, within what the provider takes; 20 unless set.
    batch_size: Option<u16>,
    /// 500 to 60000; 10000 unless set. What is not answered by then is in doubt.
    timeout_ms: Option<u32>,
    /// Take reports that nobody has signed, from providers that cannot.
    unsigned_callbacks: Option<bool>,
    /// An event when less than this is left; null for none.
    #[serde(deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    low_balance: Option<Option<Micros>>,
}

/// Tells a null from what is left out.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl ProviderBody {
    /// Whether some of these secrets stay as they are.
    fn secrets_kept(&self, secrets: &BTreeMap<Box<str>, Box<str>>) -> bool {
        secrets.keys().any(|name| self.secrets.as_ref().is_none_or(|given| !given.contains_key(name)))
    }

    fn settle(self, settings: &mut Settings, secrets: &mut BTreeMap<Box<str>, Box<str>>) {
        fn set<T>(place: &mut T, value: Option<T>) {
            if let Some(value) = value {
                *place = value;
            }
        }
        fn merge(place: &mut BTreeMap<Box<str>, Box<str>>, changes: Option<BTreeMap<Box<str>, Option<Box<str>>>>) {
            for (name, value) in changes.unwrap_or_default() {
                match value {
                    Some(value) => place.insert(name, value),
                    None => place.remove(&name),
                };
            }
        }
        set(&mut settings.base_url, self.base_url);
        merge(&mut settings.fields, self.fields);
        merge(secrets, self.secrets);
        set(&mut settings.senders, self.senders);
        set(&mut settings.limits, self.limits);
        set(&mut settings.price, self.price);
        set(&mut settings.countries, self.countries);
        set(&mut settings.timezone, self.timezone);
        set(&mut settings.window, self.window);
        set(&mut settings.requests_per_second, self.requests_per_second);
        set(&mut settings.batch_size, self.batch_size);
        set(&mut settings.timeout_ms, self.timeout_ms);
        set(&mut settings.unsigned_callbacks, self.unsigned_callbacks);
        set(&mut settings.low_balance, self.low_balance);
    }
}

/// What says where an account's secrets go.
fn addresses(settings: &Settings) -> (Option<Box<str>>, Vec<Option<Box<str>>>) {
    let fields = ["settings", "host", "port", "tls", "ca_pem"];
    (settings.base_url.clone(), fields.map(|name| settings.fields.get(name).cloned()).to_vec())
}

/// Create an account. It is at work at once, unless `enabled` is false.
#[utoipa::path(
    post, path = "/v1/providers", tag = "providers", operation_id = "createProvider",
    request_body(content = ProviderBody, example = json!(examples::provider_new())),
    responses((status = 201, description = "Created", body = ProviderView, example = json!(examples::provider())))
)]
pub async fn create(
    State(api): State<Api>,
    who: In<Admin>,
    Json(mut body): Json<ProviderBody>,
) -> Result<Response, Problem> {
    let missing = |field: &'static str, detail: &'static str| Problem::new(Code::MissingField, detail).at(field);
    let maker = body.maker.take().ok_or_else(|| missing("maker", "name one of GET /v1/providers/makers"))?;
    let kind = Kind::by_name(&maker);
    let kind = kind.ok_or_else(|| Problem::field("maker", "give one of those in GET /v1/providers/makers"))?;
    let name = body.name.take().ok_or_else(|| missing("name", "give the account a name, up to 64 bytes"))?;
    let enabled = body.enabled.unwrap_or(true);
    let batch_max = kind.capabilities().batch_max.clamp(1, BATCH_DEFAULT);
    let mut settings = Settings { batch_size: batch_max as u16, ..Settings::default() };
    let mut secrets = BTreeMap::new();
    body.settle(&mut settings, &mut secrets);
    let new = NewProvider { kind, name, enabled, settings, secrets };
    let by = who.caller.by(api.now_ms());
    let provider = api.providers.accounts().create(by, who.tenant, new).await.map_err(problem)?;
    Ok(json::answer(StatusCode::CREATED, &ProviderView::now(&api, &provider)))
}

#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProvidersQuery {
    /// 1 to 500; 50 when left out.
    #[serde(default, deserialize_with = "params::count")]
    limit: Option<usize>,
    /// `next` of the page before.
    cursor: Option<String>,
}

/// List accounts, the oldest first.
#[utoipa::path(
    get, path = "/v1/providers", tag = "providers", operation_id = "listProviders", params(ProvidersQuery),
    responses((
        status = 200, description = "A page of accounts",
        body = Page<ProviderView>, example = json!(examples::page(examples::provider()))
    ))
)]
pub async fn list(
    State(api): State<Api>,
    who: In<Read>,
    Query(query): Query<ProvidersQuery>,
) -> Result<Response, Problem> {
    let limit = params::limit(query.limit)?;
    let after = params::parse("cursor", query.cursor.as_deref())?;
    let found = api.providers.accounts().list(who.tenant, after, limit).await.map_err(problem)?;
    let page = Page::by_id(found, limit, |provider| provider.id.to_string());
    Ok(json::ok(&page.map(|provider: Arc<Provider>| ProviderView::now(&api, &provider))))
}

/// One account, with what it is doing now.
#[utoipa::path(
    get, path = "/v1/providers/{id}", tag = "providers", operation_id = "getProvider",
    params(("id" = String, Path, example = "prv_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The account", body = ProviderView, example = json!(examples::provider())))
)]
pub async fn get(State(api): State<Api>, who: In<Read>, Id(id): Id<ProviderId>) -> Result<Response, Problem> {
    let provider = api.providers.accounts().get(who.tenant, id).await.map_err(problem)?;
    Ok(json::ok(&ProviderView::now(&api, &provider)))
}

/// Change an account, or switch it off and on. What is under way goes on.
#[utoipa::path(
    patch, path = "/v1/providers/{id}", tag = "providers", operation_id = "changeProvider",
    params(("id" = String, Path, example = "prv_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    request_body(content = ProviderBody, example = json!(examples::provider_patch())),
    responses((status = 200, description = "The account", body = ProviderView, example = json!(examples::provider())))
)]
pub async fn patch(
    State(api): State<Api>,
    who: In<Admin>,
    Id(id): Id<ProviderId>,
    Json(body): Json<ProviderBody>,
) -> Result<Response, Problem> {
    if body.maker.is_some() {
        return Err(Problem::field("maker", "an account stays with its maker; make another account"));
    }
    let by = who.caller.by(api.now_ms());
    let change = |provider: &mut Provider| {
        if let Some(name) = &body.name {
            provider.name.clone_from(name);
        }
        provider.enabled = body.enabled.unwrap_or(provider.enabled);
        let kept = body.secrets_kept(&provider.secrets);
        let addresses = addresses(&provider.settings);
        body.settle(&mut provider.settings, &mut provider.secrets);
        if kept && addresses != self::addresses(&provider.settings) {
            let problem =
                "the account gets another address: give its secrets again, since those it has are for the old one";
            return Err(Wrong { field: "secrets".to_owned(), problem: problem.to_owned() });
        }
        Ok(())
    };
    let provider = api.providers.accounts().change(by, who.tenant, id, change).await.map_err(problem)?;
    Ok(json::ok(&ProviderView::now(&api, &provider)))
}

#[derive(Serialize, ToSchema)]
#[schema(title = "ProviderRemoved")]
pub struct RemovedView {
    #[schema(value_type = String)]
    id: ProviderId,
    removed: bool,
}

/// Remove an account. What it has submitted keeps its state; later reports about it are not understood any more.
#[utoipa::path(
    delete, path = "/v1/providers/{id}", tag = "providers", operation_id = "removeProvider",
    params(("id" = String, Path, example = "prv_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((
        status = 200, description = "Removed", body = RemovedView, example = json!(examples::provider_removed())
    ))
)]
pub async fn remove(State(api): State<Api>, who: In<Admin>, Id(id): Id<ProviderId>) -> Result<Response, Problem> {
    let by = who.caller.by(api.now_ms());
    api.providers.accounts().remove(by, who.tenant, id).await.map_err(problem)?;
    Ok(json::ok(&RemovedView { id, removed: true }))
}

/// What a test of an account has found.
#[derive(Serialize, ToSchema)]
#[schema(title = "ProviderTest")]
pub struct TestView {
    /// `works`; `refused`: the provider does not take the secrets or fields; `unclear`: it could not be asked now.
    verdict: &'static str,
    detail: String,
}

/// Test an account: asks the provider something harmless with the account's secrets. Never sends a message.
#[utoipa::path(
    post, path = "/v1/providers/{id}/test", tag = "providers", operation_id = "testProvider",
    params(("id" = String, Path, example = "prv_01kaqmpxm0e8xs6bhkrg5jrqzt")),
    responses((status = 200, description = "The verdict", body = TestView, example = json!(examples::provider_test())))
)]
pub async fn test(State(api): State<Api>, who: In<Admin>, Id(id): Id<ProviderId>) -> Result<Response, Problem> {
    let provider = api.providers.accounts().get(who.tenant, id).await.map_err(problem)?;
    let (verdict, detail) = match api.providers.test(&provider).await {
        Judged::Works(detail) => ("works", detail),
        Judged::Refused(detail) => ("refused", detail),
        Judged::Unclear(detail) => ("unclear", detail),
    };
    Ok(json::ok(&TestView { verdict, detail: detail.into() }))
}

/// A service that accounts can be made at, and what it can do.
#[derive(Serialize, ToSchema)]
#[schema(title = "Maker")]
pub struct MakerView {
    name: &'static str,
    title: &'static str,
    fields: Vec<FieldView>,
    secrets: Vec<FieldView>,
    /// Messages in one request.
    batch_max: usize,
    batch: &'static str,
    /// Delivery reports come to our address; how they are signed.
    callbacks: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    signature: Option<&'static str>,
    /// Delivery reports can be asked for.
    polls: bool,
    balance: bool,
    inbound: bool,
}

#[derive(Serialize, ToSchema)]
#[schema(title = "MakerField")]
pub struct FieldView {
    name: &'static str,
    required: bool,
    meaning: &'static str,
}

impl MakerView {
    fn of(capabilities: &'static Capabilities) -> Self {
        let field = |(name, required, meaning): &(&'static str, bool, &'static str)| FieldView {
            name,
            required: *required,
            meaning,
        };
        Self {
            name: capabilities.name,
            title: capabilities.title,
            fields: capabilities.fields.iter().map(field).collect(),
            secrets: capabilities.secrets.iter().map(field).collect(),
            batch_max: capabilities.batch_max,
            batch: capabilities.batch,
            callbacks: capabilities.callbacks,
            signature: capabilities.signature,
            polls: capabilities.polls,
            balance: capabilities.balance,
            inbound: capabilities.inbound,
        }
    }
}

/// List the services that accounts can be made at.
#[utoipa::path(
    get, path = "/v1/providers/makers", tag = "providers", operation_id = "listMakers",
    responses((
        status = 200, description = "All of them, on one page",
        body = Page<MakerView>, example = json!(examples::page(examples::maker()))
    ))
)]
pub async fn makers(_: In<Read>) -> Result<Response, Problem> {
    let items = Kind::all().into_iter().map(|kind| MakerView::of(kind.capabilities())).collect();
    std::future::ready(Ok(json::ok(&Page { items, next: None }))).await
}
