//! Endpoints: addresses of a tenant that are told of events.
//!
//! A tenant's callbacks (`callback_url` of its messages) are one endpoint without an address of its own, made when the first
//! such message has something to tell. Its id has the tenant's bytes, so that it is made once.

use std::fmt;

use data_encoding::BASE64;
use flotilla_protocol::id::{TenantId, WebhookId};

use crate::secrets::{SealError, UnsealError};
use crate::store::SqlError;

pub const URL_BYTES_MAX: usize = 1_000;
pub const NAME_BYTES_MAX: usize = 64;
/// Endpoints of one tenant.
pub(super) const ENDPOINTS_MAX: usize = 50;
pub const PATTERNS_MAX: usize = 32;
pub const RATE_MAX: u32 = 1_000;
pub const RATE_DEFAULT: u32 = 20;

/// Every event that can be asked for. Patterns end in `*` or name one.
pub const EVENTS: &[&str] = &[
    "message.accepted",
    "message.queued",
    "message.dispatched",
    "message.unknown",
    "message.sent",
    "message.delivered",
    "message.failed",
    "message.expired",
    "message.cancelled",
    "inbound.received",
    "device.online",
    "device.offline",
    "sim.changed",
    "sim.low_balance",
    "sim.quarantined",
    "sim.recovered",
    "sim.block_predicted",
    "sim.warm_up",
    "provider.up",
    "provider.down",
    "provider.low_balance",
    "provider.quarantined",
    "provider.recovered",
    "provider.block_predicted",
    "provider.warm_up",
    "tenant.budget_warned",
    "tenant.budget_spent",
    "enrollment.reused",
];

/// What callbacks of messages are told: each end, and that it was sent.
const CALLBACK_EVENTS: &[&str] =
    &["message.sent", "message.delivered", "message.failed", "message.expired", "message.cancelled"];

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub id: WebhookId,
    pub tenant: TenantId,
    /// Empty for the tenant's callbacks.
    pub url: String,
    pub name: String,
    pub events: Patterns,
    /// Texts of messages are in it.
    pub include_text: bool,
    pub enabled: bool,
    pub disabled_why: Option<String>,
    pub rate_per_s: u32,
    pub created_ms: u64,
    pub last_success_ms: Option<u64>,
    pub last_failure_ms: Option<u64>,
    pub last_error: Option<String>,
    pub failing_since_ms: Option<u64>,
}

impl Endpoint {
    pub fn is_callbacks(&self) -> bool {
        self.id == callbacks_of(self.tenant)
    }

    /// Whether an event goes to it. `callback`: its message has an address of its own.
    pub(super) fn wants(&self, kind: &str, at_ms: u64, callback: bool) -> bool {
        let asked =
            if self.is_callbacks() { callback && CALLBACK_EVENTS.contains(&kind) } else { self.events.fit(kind) };
        self.enabled && asked && EVENTS.contains(&kind) && at_ms >= self.created_ms
    }

    pub(super) fn callbacks(tenant: TenantId, created_ms: u64) -> Self {
        Self {
            id: callbacks_of(tenant),
            tenant,
            url: String::new(),
            name: "callbacks of messages".to_owned(),
            events: Patterns(CALLBACK_EVENTS.iter().map(|event| Box::from(*event)).collect()),
            include_text: false,
            enabled: true,
            disabled_why: None,
            rate_per_s: RATE_MAX,
            created_ms,
            last_success_ms: None,
            last_failure_ms: None,
            last_error: None,
            failing_since_ms: None,
        }
    }
}

/// The endpoint of a tenant's callbacks.
pub fn callbacks_of(tenant: TenantId) -> WebhookId {
    WebhookId::from_bytes(tenant.to_bytes())
}

/// Which events: `message.*`, `*`, `device.online`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Patterns(Vec<Box<str>>);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    #[error("give at most {PATTERNS_MAX} patterns")]
    TooMany,
    #[error("`{0}` fits no event; give names such as `message.delivered`, `message.*` or `*`")]
    FitsNothing(String),
}

impl Patterns {
    pub fn parse<'a>(patterns: impl Iterator<Item = &'a str>) -> Result<Self, PatternError> {
        let mut parsed = Vec::new();
        for pattern in patterns {
            if !EVENTS.iter().any(|event| fits(pattern, event)) {
                return Err(PatternError::FitsNothing(pattern.chars().take(64).collect()));
            }
            parsed.push(pattern.into());
        }
        if parsed.len() > PATTERNS_MAX { Err(PatternError::TooMany) } else { Ok(Self(parsed)) }
    }

    pub fn fit(&self, kind: &str) -> bool {
        self.0.iter().any(|pattern| fits(pattern, kind))
    }

    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|pattern| &**pattern)
    }

    /// As they are kept: separated by blanks. What was good once stays.
    pub(super) fn kept(text: &str) -> Self {
        Self(text.split_ascii_whitespace().map(Box::from).collect())
    }
}

fn fits(pattern: &str, kind: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => kind.starts_with(start),
        None => kind == pattern,
    }
}

/// What signs: `whsec_` and 24 random bytes in base64 (Standard Webhooks).
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecret(String);

impl SigningSecret {
    pub fn new(random: [u8; 24]) -> Self {
        Self(format!("whsec_{}", BASE64.encode(&random)))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// One that was made before.
    pub(super) fn kept(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for SigningSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("whsec_...")
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    #[error("a tenant has at most {ENDPOINTS_MAX} webhooks; delete one")]
    TooMany,
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Seal(#[from] SealError),
    #[error(transparent)]
    Unseal(#[from] UnsealError),
}

/// What can be changed; `None` leaves it.
#[derive(Clone, Debug, Default)]
pub struct Change {
    pub url: Option<String>,
    pub name: Option<String>,
    pub events: Option<Patterns>,
    pub include_text: Option<bool>,
    pub enabled: Option<bool>,
    pub rate_per_s: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> Result<Patterns, PatternError> {
        Patterns::parse(list.iter().copied())
    }

    #[test]
    fn patterns_fit_whole_names_and_beginnings() {
        let some = patterns(&["message.*", "device.online"]).unwrap();
        assert!(some.fit("message.sent") && some.fit("device.online"));
        assert!(!some.fit("device.offline") && !some.fit("inbound.received"));
        assert!(patterns(&["*"]).unwrap().fit("sim.changed"));
        assert!(!patterns(&[]).unwrap().fit("message.sent"));
        assert_eq!(patterns(&["mesage.*"]), Err(PatternError::FitsNothing("mesage.*".into())));
        assert_eq!(patterns(&["*"; PATTERNS_MAX + 1]), Err(PatternError::TooMany));
    }

    #[test]
    fn callbacks_hear_of_their_own_messages_only() {
        let tenant = TenantId::from_bytes([3; 16]);
        let callbacks = Endpoint::callbacks(tenant, 1_000);
        assert!(callbacks.wants("message.sent", 1_000, true));
        assert!(!callbacks.wants("message.sent", 1_000, false));
        assert!(!callbacks.wants("message.dispatched", 1_000, true));
        assert!(!callbacks.wants("message.sent", 999, true), "older than the endpoint");
        let own = Endpoint { id: WebhookId::from_bytes([9; 16]), events: patterns(&["*"]).unwrap(), ..callbacks };
        assert!(own.wants("message.sent", 1_000, false));
        assert!(!own.wants("device.telemetry", 1_000, false), "the live stream has that, webhooks do not");
        assert!(!Endpoint { enabled: false, ..own }.wants("message.sent", 1_000, true));
    }

    #[test]
    fn secrets_are_what_the_standard_wants_and_hide() {
        let secret = SigningSecret::new([7; 24]);
        assert!(standardwebhooks::Webhook::new(secret.expose()).is_ok());
        assert_eq!(format!("{secret:?}"), "whsec_...");
    }
}
