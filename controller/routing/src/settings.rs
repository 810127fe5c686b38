//! What people set, as it is stored, shown by the API, and used by the choice. Checked once by `check`; wrong values name
//! their field.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, ProviderId, SimId};
use flotilla_protocol::number::Plmn;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use utoipa::ToSchema;

use crate::Micros;
use crate::route::Priority;

/// How many segments may leave. `None` is no limit. A limit of zero stops the route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Segments in any 60 seconds.
    pub per_minute: Option<u32>,
    /// Segments in any 60 minutes.
    pub per_hour: Option<u32>,
    /// Segments of a calendar day in the time zone.
    pub per_day: Option<u32>,
    /// Segments of a calendar month in the time zone.
    pub per_month: Option<u32>,
    /// Different recipients of a calendar month.
    pub recipients_per_month: Option<u32>,
    /// Pause between two messages of a SIM, milliseconds.
    pub gap_ms: Option<u32>,
    /// A random addition to each pause, at most, milliseconds.
    pub gap_jitter_ms: Option<u32>,
}

/// When a route may send, in its time zone. Empty: always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// `mon` ... `sun`; empty for every day.
    #[serde(default)]
    pub days: Vec<Box<str>>,
    /// `08:00`
    pub from: Box<str>,
    /// `20:30`; `24:00` for the end of the day. Before `from`: over midnight.
    pub to: Box<str>,
}

/// A new SIM's budget grows: `per_day[0]` segments up to and on the day of its first message, then the next stage each day, and
/// its own limits when they are through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WarmUp {
    pub per_day: Vec<u32>,
}

/// What a segment costs. The most specific price counts: by country (`TZ`), else `per_segment`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Price {
    /// In the tenant's currency, such as `"0.0125"`.
    pub per_segment: Micros,
    /// By ISO 3166 country of the recipient.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub by_country: std::collections::BTreeMap<Box<str>, Micros>,
    /// Segments of a calendar month that are paid with the plan.
    pub bundle_per_month: Option<u32>,
}

/// One SIM or provider sender, as the choice needs it: resolved from presets, the tenant's defaults, and its own settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteSettings {
    pub limits: Limits,
    /// Shared by all SIMs of the device, or all senders of the account.
    pub device_limits: Limits,
    pub windows: Vec<Window>,
    /// IANA name; UTC when empty.
    pub timezone: Box<str>,
    pub warm_up: Option<WarmUp>,
    pub price: Price,
    /// Home network of a SIM.
    pub network: Option<Plmn>,
    /// Names of pools that it is in.
    pub pools: SmallVec<[Box<str>; 2]>,
    /// Countries (ISO 3166) that it may send to; empty for all.
    pub countries: Vec<Box<str>>,
    /// Calling prefixes (`25571`) of its own network, for the carrier match.
    pub own_prefixes: Vec<Box<str>>,
    /// What recipients see as the sender; a message that names another one cannot use it. A SIM without it shows its own
    /// number, so messages that name a sender pass it by; a provider's sender without it shows whatever a message names.
    pub sender: Option<Box<str>>,
    pub unicode: bool,
    /// Held back until a person confirms it: another card is in the slot.
    pub held: bool,
    /// 0 to 100: the share of new work beside equals. 100 unless set; 0 only when nothing else fits.
    pub weight: u8,
    /// What is left on it, as people or the account's maker have told last.
    pub balance: Option<Micros>,
    /// A balance that is not above this is low.
    pub low_balance: Option<Micros>,
}

impl Default for RouteSettings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            device_limits: Limits::default(),
            windows: Vec::new(),
            timezone: "".into(),
            warm_up: None,
            price: Price::default(),
            network: None,
            pools: SmallVec::new(),
            countries: Vec::new(),
            own_prefixes: Vec::new(),
            sender: None,
            unicode: true,
            held: false,
            weight: 100,
            balance: None,
            low_balance: None,
        }
    }
}

/// What a tenant has set about all its messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TenantRouting {
    /// ISO 4217; all prices of the tenant are in it.
    #[schema(value_type = String)]
    pub currency: Box<str>,
    /// For all of the tenant's messages.
    pub limits: Limits,
    /// For each of its SIMs, where the SIM has none of its own.
    pub sim_limits: Limits,
    /// IANA name; for the tenant's own limits and the time conditions of rules. UTC when empty.
    #[schema(value_type = String)]
    pub timezone: Box<str>,
    pub recipient_limit: Option<RecipientLimit>,
    pub budget: Option<Budget>,
    /// In order; the first that fits counts.
    pub rules: Vec<Rule>,
    #[schema(value_type = std::collections::BTreeMap<String, Plan>)]
    pub plans: std::collections::BTreeMap<Box<str>, Plan>,
    /// The plan of messages that no rule fits; `sims-first` unless set.
    #[schema(value_type = Option<String>)]
    pub default_plan: Option<Box<str>>,
    /// Recipients keep the route that their last message took, while that is usable and scores at most this much less than
    /// the best one. 0 switches it off.
    pub sticky_points: u8,
    /// Weights learn from what was delivered (Thompson sampling). Off unless set.
    pub learn: bool,
}

impl Default for TenantRouting {
    fn default() -> Self {
        Self {
            currency: "USD".into(),
            limits: Limits::default(),
            sim_limits: Limits::default(),
            timezone: "".into(),
            recipient_limit: None,
            budget: None,
            rules: Vec::new(),
            plans: std::collections::BTreeMap::new(),
            default_plan: None,
            sticky_points: 20,
            learn: false,
        }
    }
}

/// At most so many messages to one recipient in any window. Urgent messages count, and are not held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RecipientLimit {
    /// 1 to 100.
    pub messages: u16,
    /// 1 to 2,592,000 (30 days).
    pub window_s: u32,
}

/// What a calendar month may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    pub per_month: Micros,
    /// Messages wait for the next month once it is spent; otherwise there is only an event.
    pub stop: bool,
    /// An event at this share of it, percent.
    pub warn_percent: u8,
}

/// Chooses a plan for the messages that fit all its conditions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique within the tenant.
    #[schema(value_type = String)]
    pub name: Box<str>,
    #[serde(default)]
    pub when: Conditions,
    /// Name of a plan, or one of the built-in ones: `sims-first`, `providers-first`, `sims-only`, `providers-only`, `cheapest`.
    #[schema(value_type = String)]
    pub plan: Box<str>,
    /// Percent of the fitting messages that it takes, by the message's id; the others look at the next rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_percent: Option<u8>,
}

/// All that are given have to hold; a list holds when one of its entries does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Conditions {
    /// Beginnings of the number, digits without `+`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub prefixes: Vec<Box<str>>,
    /// ISO 3166.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub countries: Vec<Box<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub senders: Vec<Box<str>>,
    /// A regular expression (RE2 syntax) over the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub text: Option<Box<str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub priorities: Vec<Priority>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub tags: Vec<Box<str>>,
    /// In the tenant's time zone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub times: Vec<Window>,
}

/// Steps in order: the next one is for messages for which the former has no usable route, or that have waited too long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// 1 to 8.
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Any of these.
    pub routes: Vec<Select>,
    /// How long a message may wait for room in this step before it may use the next, seconds. 30 unless set; urgent messages
    /// wait a tenth of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patience_s: Option<u32>,
    /// The cheapest route first, the score only among equals.
    #[serde(default)]
    pub cheapest: bool,
}

/// Which routes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Select {
    /// All SIMs of the tenant.
    Sims,
    /// All provider accounts of the tenant.
    Providers,
    /// A named pool.
    #[schema(value_type = String)]
    Pool(Box<str>),
    #[schema(value_type = String)]
    Provider(ProviderId),
    #[schema(value_type = String)]
    Device(DeviceId),
    #[schema(value_type = String)]
    Sim(SimId),
}

/// The settings of the tenants of a shard, as it starts. Tenants without an entry have the defaults.
pub type Tenants = FxHashMap<flotilla_protocol::id::TenantId, Arc<TenantRouting>>;
