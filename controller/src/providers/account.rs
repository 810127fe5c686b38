//! An account at a provider: what people set, how it is checked, and what it means for the routes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use flotilla_protocol::id::{ProviderId, SenderId, TenantId};
use flotilla_protocol::number::Region;
use flotilla_providers::{Account, Capabilities, FieldError};
use flotilla_routing::Micros;
use flotilla_routing::limits::{Invalid, check_limits, check_price, check_windows, zone};
use flotilla_routing::settings::{Limits, Price, RouteSettings, Window};
use serde::{Deserialize, Serialize};
use url::Url;
use utoipa::ToSchema;

use super::kind::Kind;
use crate::net_guard::{GuardError, NetGuard};

pub const NAME_BYTES_MAX: usize = 64;
/// Senders of one account.
pub const SENDERS_MAX: usize = 64;
/// Accounts of one tenant.
pub const ACCOUNTS_MAX: usize = 64;
pub const WINDOW_MAX: u16 = 500;
const FIELDS_MAX: usize = 64;
/// A template of a generic account is the longest field.
const FIELD_BYTES_MAX: usize = 16 * 1024;
const SECRET_BYTES_MAX: usize = 4 * 1024;
/// All secrets of an account together; sealed as one.
const SECRETS_BYTES_MAX: usize = 12 * 1024;
const SENDER_BYTES_MAX: usize = 64;
const COUNTRIES_MAX: usize = 250;
const POOLS_MAX: usize = 16;

/// One number or name that an account sends from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Sender {
    /// `snd_...`; left out for a new one. A sender keeps its id by its `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub id: Option<SenderId>,
    /// Number or name as the provider wants it.
    #[schema(value_type = String)]
    pub from: Box<str>,
    /// Countries (ISO 3166) that it may send to; those of the account when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub countries: Vec<Box<str>>,
    #[serde(default)]
    pub limits: Limits,
    /// The account's when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price: Option<Price>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub windows: Vec<Window>,
    /// Names of pools that it is in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub pools: Vec<Box<str>>,
    /// 0 to 100: its share of new work beside equals.
    #[serde(default = "full_weight")]
    pub weight: u8,
}

const fn full_weight() -> u8 {
    100
}

/// Everything that is set but the secrets. Kept as JSON, so that what is added later has its default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    pub base_url: Option<Box<str>>,
    pub fields: BTreeMap<Box<str>, Box<str>>,
    pub senders: Vec<Sender>,
    /// Shared by all senders.
    pub limits: Limits,
    pub price: Price,
    pub countries: Vec<Box<str>>,
    /// IANA name, of calendar limits and windows; UTC when empty.
    pub timezone: Box<str>,
    /// Messages that are submitted and not answered, at most.
    pub window: u16,
    /// Requests per second; none for no limit.
    pub requests_per_second: Option<u16>,
    /// Messages in one request, within what the maker takes.
    pub batch_size: u16,
    /// For one request, from its beginning to the end of its answer.
    pub timeout_ms: u32,
    pub unsigned_callbacks: bool,
    /// An event when less than this is left, in what the maker counts in.
    pub low_balance: Option<Micros>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            base_url: None,
            fields: BTreeMap::new(),
            senders: Vec::new(),
            limits: Limits::default(),
            price: Price::default(),
            countries: Vec::new(),
            timezone: "".into(),
            window: 16,
            requests_per_second: None,
            batch_size: 1,
            timeout_ms: 10_000,
            unsigned_callbacks: false,
            low_balance: None,
        }
    }
}

/// An account as it is kept. Secrets are opened.
#[derive(Clone)]
pub struct Provider {
    pub id: ProviderId,
    pub tenant: TenantId,
    pub kind: Kind,
    pub name: String,
    pub enabled: bool,
    pub settings: Settings,
    pub secrets: BTreeMap<Box<str>, Box<str>>,
    pub callback_token: [u8; 16],
    pub version: u64,
    pub created_ms: u64,
    pub changed_ms: u64,
    pub noted: Noted,
}

/// Secrets stay out.
impl std::fmt::Debug for Provider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Provider").field("id", &self.id).field("version", &self.version).finish_non_exhaustive()
    }
}

/// What a maker has told last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Noted {
    pub balance: Option<NotedBalance>,
    /// By country (ISO 3166) of the recipient.
    pub prices: BTreeMap<Box<str>, NotedPrice>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedBalance {
    /// Millionths.
    pub micros: i64,
    /// ISO 4217, or what the maker counts in.
    pub currency: Box<str>,
    /// Unix milliseconds.
    pub at_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotedPrice {
    /// Of one message.
    pub amount: Micros,
    pub currency: Box<str>,
    /// Unix milliseconds.
    pub at_ms: u64,
}

/// Millionths that may be below zero, as people write them: `-1.25`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decimal(pub i64);

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", if self.0 < 0 { "-" } else { "" }, Micros(self.0.unsigned_abs()))
    }
}

/// What is wrong with an account, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct Wrong {
    pub field: String,
    pub problem: String,
}

impl From<Invalid> for Wrong {
    fn from(invalid: Invalid) -> Self {
        wrong(invalid.field, invalid.remedy)
    }
}

fn wrong(field: impl Into<String>, problem: impl Into<String>) -> Wrong {
    Wrong { field: field.into(), problem: problem.into() }
}

impl Provider {
    pub fn capabilities(&self) -> &'static Capabilities {
        self.kind.capabilities()
    }

    /// What the maker's functions take.
    pub fn account(&self, public_url: Option<&Url>) -> Account {
        Account {
            base_url: self.settings.base_url.as_deref().and_then(|url| Url::parse(url).ok()),
            fields: self.settings.fields.clone(),
            secrets: self.secrets.clone(),
            callback_url: public_url.and_then(|base| self.callback_url(base)),
            unsigned_callbacks: self.settings.unsigned_callbacks,
        }
    }

    /// The token of its callbacks as it stands in their path.
    pub fn token_text(&self) -> String {
        data_encoding::BASE32_NOPAD.encode(&self.callback_token).to_ascii_lowercase()
    }

    pub fn callback_path(&self) -> String {
        format!("v1/callbacks/{}/{}/{}", self.capabilities().name, self.id, self.token_text())
    }

    pub fn callback_url(&self, public_url: &Url) -> Option<Url> {
        let base = public_url.as_str().trim_end_matches('/');
        Url::parse(&format!("{base}/{}", self.callback_path())).ok()
    }

    /// Messages in one request.
    pub fn batch_max(&self) -> usize {
        usize::from(self.settings.batch_size).clamp(1, self.capabilities().batch_max.max(1))
    }

    /// Checks everything, the maker's own rules among it.
    pub fn check(&self, guard: NetGuard) -> Result<(), Wrong> {
        check_name(&self.name)?;
        self.settings.check(self.capabilities(), guard)?;
        check_secrets(&self.secrets, self.capabilities())?;
        // An address that a callback would come to is not known here; makers only ask for its form.
        let account = Account { callback_url: None, ..self.account(None) };
        self.kind.check(&account).map_err(|error| self.place(&error))
    }

    /// The maker knows a field by its name; people know it by where they have set it.
    fn place(&self, error: &FieldError) -> Wrong {
        let capabilities = self.capabilities();
        let is_in = |list: &[(&str, bool, &str)]| {
            list.iter().any(|(name, ..)| error.field.split(['.', '[']).next() == Some(*name))
        };
        let field = match &*error.field {
            field if is_in(capabilities.secrets) => format!("secrets.{field}"),
            field if is_in(capabilities.fields) => format!("fields.{field}"),
            field => field.to_owned(),
        };
        wrong(field, &*error.problem)
    }

    /// What the choice of a route needs to know of each sender, in their order.
    pub fn routes(&self) -> Vec<(SenderId, Arc<RouteSettings>)> {
        // What is owed is nothing left.
        let left = self.noted.balance.as_ref().map(|noted| Micros(u64::try_from(noted.micros).unwrap_or(0)));
        self.settings.routes(left)
    }
}

impl Settings {
    pub(super) fn routes(&self, balance: Option<Micros>) -> Vec<(SenderId, Arc<RouteSettings>)> {
        let route = |sender: &Sender| Some((sender.id?, Arc::new(self.route(sender, balance))));
        self.senders.iter().filter_map(route).collect()
    }

    fn route(&self, sender: &Sender, balance: Option<Micros>) -> RouteSettings {
        let own = !sender.countries.is_empty();
        RouteSettings {
            limits: sender.limits.clone(),
            device_limits: self.limits.clone(),
            windows: sender.windows.clone(),
            timezone: self.timezone.clone(),
            price: sender.price.clone().unwrap_or_else(|| self.price.clone()),
            pools: sender.pools.iter().cloned().collect(),
            countries: if own { sender.countries.clone() } else { self.countries.clone() },
            sender: Some(sender.from.clone()),
            unicode: true,
            weight: sender.weight,
            balance,
            low_balance: self.low_balance,
            ..RouteSettings::default()
        }
    }

    fn check(&self, capabilities: &Capabilities, guard: NetGuard) -> Result<(), Wrong> {
        if let Some(url) = &self.base_url {
            let wrong = |problem: String| wrong("base_url", problem);
            let parsed = Url::parse(url).map_err(|error| wrong(format!("is no address: {error}")))?;
            guard.check(&as_http(parsed)).map_err(|error| wrong(error.to_string()))?;
        }
        self.check_fields(capabilities, guard)?;
        if !(1..=WINDOW_MAX).contains(&self.window) {
            return Err(wrong("window", format!("give 1 to {WINDOW_MAX}")));
        }
        if self.requests_per_second.is_some_and(|rate| !(1..=1000).contains(&rate)) {
            return Err(wrong("requests_per_second", "give 1 to 1000, or leave it out for no limit"));
        }
        let batch_max = capabilities.batch_max.max(1);
        if !(1..=batch_max).contains(&usize::from(self.batch_size)) {
            return Err(wrong("batch_size", format!("{} takes 1 to {batch_max} in a request", capabilities.title)));
        }
        if !(500..=60_000).contains(&self.timeout_ms) {
            return Err(wrong("timeout_ms", "give 500 to 60000 milliseconds"));
        }
        zone("timezone", &self.timezone)?;
        check_countries("countries", &self.countries)?;
        check_limits("limits", &self.limits)?;
        check_price("price", &self.price)?;
        self.check_senders()
    }

    fn check_fields(&self, capabilities: &Capabilities, guard: NetGuard) -> Result<(), Wrong> {
        if self.fields.len() > FIELDS_MAX {
            return Err(wrong("fields", format!("give at most {FIELDS_MAX}")));
        }
        for (name, value) in &self.fields {
            let place = || format!("fields.{name}");
            // What is no number is looked at when it is resolved.
            if &**name == "host" && value.trim().parse().is_ok_and(|ip| !guard.allows(ip)) {
                return Err(wrong(place(), GuardError::Private { host: value.to_string() }.to_string()));
            }
            if !capabilities.fields.iter().any(|(known, ..)| *known == &**name) {
                let secret = capabilities.secrets.iter().any(|(known, ..)| *known == &**name);
                return Err(match secret {
                    true => wrong(place(), "is a secret: give it under `secrets`"),
                    false => wrong(place(), unknown(capabilities.title, capabilities.fields)),
                });
            }
            if value.len() > FIELD_BYTES_MAX {
                return Err(wrong(place(), format!("is longer than {FIELD_BYTES_MAX} bytes")));
            }
        }
        Ok(())
    }

    fn check_senders(&self) -> Result<(), Wrong> {
        if self.senders.is_empty() || self.senders.len() > SENDERS_MAX {
            return Err(wrong("senders", format!("give 1 to {SENDERS_MAX}: the numbers or names to send from")));
        }
        let mut seen = BTreeSet::new();
        for (place, sender) in self.senders.iter().enumerate() {
            let at = |field: &str| format!("senders[{place}].{field}");
            let from = &*sender.from;
            if from.is_empty() || from.len() > SENDER_BYTES_MAX || from.chars().any(char::is_control) {
                return Err(wrong(at("from"), format!("give 1 to {SENDER_BYTES_MAX} bytes")));
            }
            if !seen.insert(from) {
                return Err(wrong(at("from"), "is there twice"));
            }
            if sender.weight > 100 {
                return Err(wrong(at("weight"), "give 0 to 100"));
            }
            if sender.pools.len() > POOLS_MAX || sender.pools.iter().any(|pool| !(1..=64).contains(&pool.len())) {
                return Err(wrong(at("pools"), format!("give at most {POOLS_MAX} names of 1 to 64 bytes")));
            }
            check_windows(&at("windows"), &sender.windows)?;
            check_limits(&at("limits"), &sender.limits)?;
            check_countries(&at("countries"), &sender.countries)?;
            if let Some(price) = &sender.price {
                check_price(&at("price"), price)?;
            }
        }
        Ok(())
    }

    /// Gives new senders their ids; those that were there before keep theirs, by id or by what they send from.
    pub fn identify(&mut self, former: &[Sender], mut fresh: impl FnMut() -> SenderId) -> Result<(), Wrong> {
        let known = |id: SenderId| former.iter().any(|sender| sender.id == Some(id));
        let mut used = BTreeSet::new();
        for (place, sender) in self.senders.iter_mut().enumerate() {
            let by_name = || former.iter().find(|known| known.from == sender.from).and_then(|known| known.id);
            let id = match sender.id {
                Some(id) if !known(id) => {
                    return Err(wrong(format!("senders[{place}].id"), "is no sender of this account; leave it out"));
                }
                Some(id) => id,
                None => by_name().unwrap_or_else(&mut fresh),
            };
            if !used.insert(id) {
                return Err(wrong(format!("senders[{place}].id"), "is there twice"));
            }
            sender.id = Some(id);
        }
        Ok(())
    }
}

/// An SMSC's address follows the same rule as any other; only its scheme is another one.
fn as_http(url: Url) -> Url {
    let rest = url.as_str().strip_prefix("smpps://").or_else(|| url.as_str().strip_prefix("smpp://"));
    rest.and_then(|rest| Url::parse(&format!("http://{rest}")).ok()).unwrap_or(url)
}

pub fn check_name(name: &str) -> Result<(), Wrong> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(wrong("name", format!("give 1 to {NAME_BYTES_MAX} bytes")));
    }
    Ok(())
}

fn check_secrets(secrets: &BTreeMap<Box<str>, Box<str>>, capabilities: &Capabilities) -> Result<(), Wrong> {
    let mut bytes = 0;
    for (name, value) in secrets {
        if !capabilities.secrets.iter().any(|(known, ..)| *known == &**name) {
            return Err(wrong(format!("secrets.{name}"), unknown(capabilities.title, capabilities.secrets)));
        }
        if value.len() > SECRET_BYTES_MAX {
            return Err(wrong(format!("secrets.{name}"), format!("is longer than {SECRET_BYTES_MAX} bytes")));
        }
        bytes += name.len() + value.len();
    }
    if bytes > SECRETS_BYTES_MAX {
        return Err(wrong("secrets", format!("are longer than {SECRETS_BYTES_MAX} bytes together")));
    }
    Ok(())
}

fn unknown(title: &str, known: &[(&str, bool, &str)]) -> String {
    match known {
        [] => format!("{title} has none; leave it out"),
        known => {
            let names: Vec<&str> = known.iter().map(|(name, ..)| *name).collect();
            format!("{title} has no such one; it has {}", names.join(", "))
        }
    }
}

fn check_countries(field: &str, countries: &[Box<str>]) -> Result<(), Wrong> {
    if countries.len() > COUNTRIES_MAX {
        return Err(wrong(field, format!("give at most {COUNTRIES_MAX}")));
    }
    for country in countries {
        check_country(field, country)?;
    }
    Ok(())
}

fn check_country(field: &str, country: &str) -> Result<(), Wrong> {
    let good = Region::parse(country).is_ok_and(|region| region.as_str() == country);
    if good {
        Ok(())
    } else {
        Err(wrong(field, format!("`{country}`: give ISO 3166 codes of two capitals, such as TZ")))
    }
}
