//! Who is asking, what they may do, and how often.
//!
//! A key is found by its hash, first in memory. What is remembered is read again after a while, so that a change made by
//! another controller is seen within [`FRESH`]; changes made here are seen at once.

use std::marker::PhantomData;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use flotilla_protocol::id::{KeyId, TenantId};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use parking_lot::RwLock;
use rustc_hash::FxHashMap;

use super::Api;
use super::problem::{Code, Problem};
use crate::fleet::audit::By;
use crate::fleet::keys::{self, FoundKey, KeyHash, Scopes, Secret};
use crate::fleet::tenants;
use crate::store::Catalog;

/// How long a key is believed without asking the catalog.
const FRESH: Duration = Duration::from_secs(15);
/// Remembered keys; beyond it all are forgotten and read again.
const REMEMBERED_MAX: usize = 100_000;
/// Catalog queries for keys that nobody here has seen, per second: guessing must not keep the catalog busy.
const LOOKUPS_PER_S: NonZeroU32 = NonZeroU32::new(500).unwrap();

/// Which tenant a key over all tenants means.
pub const TENANT_HEADER: &str = "x-tenant";
const KEY_HEADER: &str = "x-api-key";

struct Remembered {
    found: FoundKey,
    limiter: Option<Arc<DefaultDirectRateLimiter>>,
    read_at: Instant,
    /// 0 until this process has seen it used.
    used_ms: AtomicU64,
    /// What the catalog has been told.
    written_ms: AtomicU64,
}

/// The keys in memory.
pub struct KeyRing {
    catalog: Arc<dyn Catalog>,
    keys: RwLock<Known>,
    lookups: DefaultDirectRateLimiter,
}

#[derive(Default)]
struct Known {
    by_hash: FxHashMap<KeyHash, Arc<Remembered>>,
    /// Grows with every change, so that an answer which was on its way meanwhile is not remembered.
    generation: u64,
}

/// Whoever a request comes from.
#[derive(Clone)]
pub struct Caller {
    key: Arc<Remembered>,
    tenant: Option<TenantId>,
}

impl Caller {
    pub fn key(&self) -> KeyId {
        self.key.found.key.id
    }

    /// Its name in the audit trail, with the time of the act.
    pub fn by(&self, now_ms: u64) -> By {
        By { actor: self.key().to_string(), at_ms: now_ms }
    }

    pub fn is_root(&self) -> bool {
        self.key.found.key.tenant.is_none()
    }

    /// The tenant it acts in, if it says one.
    pub fn tenant_if_any(&self) -> Option<TenantId> {
        self.tenant
    }

    fn tenant(&self) -> Result<TenantId, Problem> {
        self.tenant.ok_or_else(|| {
            let detail = "this key is over all tenants: say which one with the header x-tenant: ten_...";
            Problem::new(Code::TenantRequired, detail).at(TENANT_HEADER)
        })
    }

    fn require(&self, scope: Scopes) -> Result<(), Problem> {
        if self.key.found.key.scopes.allows(scope) {
            return Ok(());
        }
        let needed = scope.names().join(" ");
        Err(Problem::new(Code::Forbidden, format!("this key may not do that; use one with the scope {needed}")))
    }

    fn require_root(&self) -> Result<(), Problem> {
        if self.is_root() {
            return Ok(());
        }
        let detail = "only the installation's root key may do that; see `flotilla root-key --help`";
        Err(Problem::new(Code::Forbidden, detail))
    }
}

impl KeyRing {
    pub fn new(catalog: Arc<dyn Catalog>) -> Self {
        let lookups = RateLimiter::direct(Quota::per_second(LOOKUPS_PER_S));
        Self { catalog, keys: RwLock::default(), lookups }
    }

    /// Finds who is asking and counts the request against its key.
    pub async fn authenticate(&self, headers: &HeaderMap, now_ms: u64) -> Result<Caller, Problem> {
        let hash = KeyHash::of(presented(headers)?);
        let known = self.keys.read().by_hash.get(&hash).cloned();
        let key = match known {
            Some(key) if key.read_at.elapsed() < FRESH => key,
            stale => self.read(hash, stale).await?,
        };
        if key.found.key.disabled {
            return Err(unauthenticated("this key is disabled; use another one"));
        }
        if key.found.tenant_disabled {
            return Err(Problem::new(Code::Forbidden, "this tenant is disabled; ask who runs the installation"));
        }
        if let Some(limiter) = &key.limiter {
            limiter.check().map_err(|not_until| {
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                metrics::counter!("flotilla_http_rate_limited_total").increment(1);
                let detail = "over this key's requests per minute; wait, send in bulk, or have the limit raised";
                Problem::new(Code::RateLimited, detail).retry_after(wait.as_secs_f64().ceil() as u32)
            })?;
        }
        key.used_ms.store(now_ms, Ordering::Relaxed);
        let tenant = match key.found.key.tenant {
            Some(tenant) => Some(tenant),
            None => self.named_tenant(headers).await?,
        };
        Ok(Caller { key, tenant })
    }

    async fn read(&self, hash: KeyHash, stale: Option<Arc<Remembered>>) -> Result<Arc<Remembered>, Problem> {
        if stale.is_none() && self.lookups.check().is_err() {
            return Err(Problem::busy("too many requests with unknown keys; try again", 1));
        }
        let generation = self.keys.read().generation;
        let found = keys::find(&*self.catalog, hash).await.map_err(|error| super::catalog_problem(&error))?;
        let Some(found) = found else {
            self.keys.write().by_hash.remove(&hash);
            return Err(unauthenticated("there is no such key; check it, or make one with `flotilla keys create`"));
        };
        let stale = stale.as_deref();
        let same = stale.filter(|old| old.found.key.rate_per_min == found.key.rate_per_min);
        let limiter = match same {
            Some(old) => old.limiter.clone(),
            None => found.key.rate_per_min.and_then(NonZeroU32::new).map(|rate| {
                // The whole minute's requests may come at once.
                Arc::new(RateLimiter::direct(Quota::per_minute(rate)))
            }),
        };
        let used = |field: fn(&Remembered) -> &AtomicU64| stale.map_or(0, |old| field(old).load(Ordering::Relaxed));
        let key = Arc::new(Remembered {
            limiter,
            read_at: Instant::now(),
            used_ms: AtomicU64::new(used(|old| &old.used_ms)),
            written_ms: AtomicU64::new(used(|old| &old.written_ms)),
            found,
        });
        let mut keys = self.keys.write();
        if keys.generation == generation {
            if keys.by_hash.len() >= REMEMBERED_MAX {
                keys.by_hash.clear();
            }
            keys.by_hash.insert(hash, Arc::clone(&key));
        }
        Ok(key)
    }

    async fn named_tenant(&self, headers: &HeaderMap) -> Result<Option<TenantId>, Problem> {
        let Some(value) = headers.get(TENANT_HEADER) else { return Ok(None) };
        let wrong = |detail: String| Problem::new(Code::InvalidHeader, detail).at(TENANT_HEADER);
        let text = value.to_str().unwrap_or("");
        let id = TenantId::parse(text).map_err(|error| wrong(error.to_string()))?;
        match tenants::get(&*self.catalog, id).await {
            Ok(Some(_)) => Ok(Some(id)),
            Ok(None) => Err(wrong("there is no such tenant; list them with GET /v1/tenants".to_owned())),
            Err(error) => Err(super::catalog_problem(&error)),
        }
    }

    /// A key or a tenant has changed: what is in memory may be wrong.
    pub fn forget(&self, changed: impl Fn(KeyId, Option<TenantId>) -> bool) {
        let mut keys = self.keys.write();
        keys.generation += 1;
        keys.by_hash.retain(|_, key| !changed(key.found.key.id, key.found.key.tenant));
    }

    /// Tells the catalog which keys were used since the last time.
    pub async fn write_last_used(&self) {
        let used: Vec<(KeyId, u64)> = {
            let keys = self.keys.read();
            let changed = |key: &Arc<Remembered>| {
                let used_ms = key.used_ms.load(Ordering::Relaxed);
                (key.written_ms.swap(used_ms, Ordering::Relaxed) != used_ms).then(|| (key.found.key.id, used_ms))
            };
            keys.by_hash.values().filter_map(changed).collect()
        };
        if used.is_empty() {
            return;
        }
        if let Err(error) = keys::touch(&*self.catalog, used).await {
            tracing::warn!(%error, "the last use of some API keys is not written down");
        }
    }
}

/// The key in a request's headers.
fn presented(headers: &HeaderMap) -> Result<&str, Problem> {
    let missing = || unauthenticated("send an API key: `Authorization: Bearer flk_...` or `x-api-key: flk_...`");
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let bearer = bearer.and_then(|value| value.split_once(' '));
    let text = match bearer {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        Some(_) => return Err(missing()),
        None => headers.get(KEY_HEADER).and_then(|value| value.to_str().ok()).ok_or_else(missing)?,
    };
    // Whatever can not be a key costs no query.
    if Secret::is_one(text) {
        return Ok(text);
    }
    Err(unauthenticated("this is not an API key: it has to start with flk_ and have 56 characters"))
}

fn unauthenticated(detail: &'static str) -> Problem {
    metrics::counter!("flotilla_http_unauthenticated_total").increment(1);
    Problem::new(Code::Unauthenticated, detail)
}

/// A right that an endpoint asks for.
pub trait Right: std::marker::Send {
    const SCOPE: Scopes;
}

pub struct Send;
pub struct Read;
pub struct Admin;

impl Right for Send {
    const SCOPE: Scopes = Scopes::SEND;
}

impl Right for Read {
    const SCOPE: Scopes = Scopes::READ;
}

impl Right for Admin {
    const SCOPE: Scopes = Scopes::ADMIN;
}

/// A caller with a right in a tenant.
pub struct In<R> {
    pub tenant: TenantId,
    pub caller: Caller,
    right: PhantomData<R>,
}

impl<R: Right> FromRequestParts<Api> for In<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        // Whoever has found out who leads has found out who asks.
        let caller = match parts.extensions.remove::<Caller>() {
            Some(caller) => caller,
            None => api.keys.authenticate(&parts.headers, api.now_ms()).await?,
        };
        caller.require(R::SCOPE)?;
        Ok(Self { tenant: caller.tenant()?, caller, right: PhantomData })
    }
}

/// A caller with a right in a tenant, or over the installation: the root key when it names no tenant.
pub struct Over<R> {
    pub tenant: Option<TenantId>,
    right: PhantomData<R>,
}

impl<R: Right> FromRequestParts<Api> for Over<R> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = api.keys.authenticate(&parts.headers, api.now_ms()).await?;
        caller.require(R::SCOPE)?;
        Ok(Self { tenant: caller.tenant_if_any(), right: PhantomData })
    }
}

/// A caller over all tenants.
pub struct Root(pub Caller);

impl FromRequestParts<Api> for Root {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, api: &Api) -> Result<Self, Problem> {
        let caller = api.keys.authenticate(&parts.headers, api.now_ms()).await?;
        caller.require(Scopes::ADMIN)?;
        caller.require_root()?;
        Ok(Self(caller))
    }
}

/// For the endpoints in a hurry: no extractor, no copy of the headers.
pub async fn sender(api: &Api, headers: &HeaderMap) -> Result<TenantId, Problem> {
    let caller = api.keys.authenticate(headers, api.now_ms()).await?;
    caller.require(Scopes::SEND)?;
    caller.tenant()
}
