//! Invitations: one token lets one device in, once.
//!
//! The store keeps the SHA-256 of a token's secret only. The code itself (what the QR shows) is held in memory until it is
//! used or ends, so that it can be shown again; after a restart a new one has to be made.
//!
//! Redeeming is one transaction: it binds the token to the key of the certificate request. The same key may come again,
//! because an answer can get lost; another key is somebody else, and is refused, written to the audit log and warned about.

use std::sync::Arc;

use flotilla_protocol::enroll_code::{CONTROLLERS_MAX, EnrollCode, EnrollCodeError, TENANT_NAME_BYTES_MAX};
use flotilla_protocol::id::{DeviceId, EnrollmentId, TenantId};
use flotilla_protocol::wire::{DeviceInfo, EnrollRefusal, Issued};
use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use super::audit::{self, Act};
use super::certificates::{self, IssueError};
use super::controllers::{Controllers, spread_of};
use super::devices::{self, NAME_BYTES_MAX, NewDevice};
use super::{LIMIT_MAX, cut};
use crate::ca::{Ca, CsrError, DeviceKey, sha256};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx, Value};

pub const TTL_DEFAULT_S: u64 = 3600;
pub const TTL_MIN_S: u64 = 60;
pub const TTL_MAX_S: u64 = 30 * 86_400;
/// How long after its first use a token that has ended still answers the same key.
const REPEAT_MS: u64 = 600_000;
/// Codes in memory; beyond it the one that ends first goes.
const CODES_MAX: usize = 20_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnrollmentState {
    Open,
    Used { device: DeviceId, at_ms: u64 },
    Expired,
    Revoked,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrollment {
    pub id: EnrollmentId,
    pub tenant: TenantId,
    /// The name that the device will get; empty for its own.
    pub device_name: String,
    pub created_ms: u64,
    pub expires_ms: u64,
    pub state: EnrollmentState,
}

#[derive(Clone, Debug)]
pub struct NewEnrollment {
    pub tenant: TenantId,
    /// `None`: [`TTL_DEFAULT_S`].
    pub ttl_s: Option<u64>,
    pub device_name: String,
    /// Who asks, for the audit log.
    pub actor: String,
}

#[derive(Debug, thiserror::Error)]
pub enum EnrollmentError {
    #[error("`ttl_s` has to be {TTL_MIN_S} to {TTL_MAX_S} seconds")]
    Ttl,
    #[error("`device_name` has to be at most {NAME_BYTES_MAX} bytes without control characters")]
    DeviceName,
    #[error("there is no such tenant, or it is disabled")]
    NoTenant,
    #[error("there is no such enrolment")]
    NotFound,
    #[error("the enrolment was used by {device}: revoke the device instead")]
    Used { device: DeviceId },
    #[error("the enrolment code cannot be made: {0}")]
    Code(#[from] EnrollCodeError),
    #[error("the catalog does not answer")]
    Sql(#[from] SqlError),
}

/// What comes in over the enrolment protocol.
#[derive(Clone)]
pub struct Redemption {
    pub token: EnrollmentId,
    pub secret: [u8; 16],
    pub csr_der: Vec<u8>,
    pub info: DeviceInfo,
}

#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    #[error("no such token: ask for a new code")]
    UnknownToken,
    #[error("the code has ended: ask for a new one")]
    ExpiredToken,
    #[error("the code was used by another device: ask for a new one, and look into who used it")]
    UsedToken { tenant: TenantId, device: Option<DeviceId> },
    #[error("the secret is wrong: scan the code again")]
    WrongSecret,
    #[error("the code or its device was revoked: ask for a new code")]
    Revoked,
    #[error("the owner of this code is disabled: try again when it is enabled")]
    Disabled,
    #[error("the request is refused: {0}")]
    Csr(#[from] CsrError),
    #[error("no certificate: {0}")]
    Issue(#[source] IssueError),
    #[error("the catalog does not answer, try again")]
    Sql(#[from] SqlError),
}

impl RedeemError {
    pub fn refusal(&self) -> EnrollRefusal {
        match self {
            Self::UnknownToken => EnrollRefusal::UnknownToken,
            Self::ExpiredToken => EnrollRefusal::ExpiredToken,
            Self::UsedToken { .. } => EnrollRefusal::UsedToken,
            Self::WrongSecret => EnrollRefusal::WrongSecret,
            Self::Revoked | Self::Issue(IssueError::NotActive) => EnrollRefusal::Revoked,
            Self::Csr(_) | Self::Issue(IssueError::Csr(_)) => EnrollRefusal::BadRequest,
            Self::Issue(IssueError::TooMany) => EnrollRefusal::UsedToken,
            Self::Disabled | Self::Issue(IssueError::Ca(_) | IssueError::Sql(_)) | Self::Sql(_) => EnrollRefusal::Busy,
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Enrollments {
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) ca: Arc<Ca>,
    controllers: Controllers,
    codes: Arc<Mutex<FxHashMap<EnrollmentId, EnrollCode>>>,
}

const COLUMNS: &str = "id, tenant, device_name, created_ms, expires_ms, used_ms, device, revoked";

impl Enrollments {
    pub fn new(catalog: Arc<dyn Catalog>, ca: Arc<Ca>, controllers: Controllers) -> Self {
        Self { catalog, ca, controllers, codes: Arc::default() }
    }

    /// The code is in the answer, and with [`Enrollments::code`] while this process lives; nowhere else.
    pub async fn create(&self, new: NewEnrollment, now_ms: u64) -> Result<(Enrollment, EnrollCode), EnrollmentError> {
        let ttl_s = new.ttl_s.unwrap_or(TTL_DEFAULT_S);
        if !(TTL_MIN_S..=TTL_MAX_S).contains(&ttl_s) {
            return Err(EnrollmentError::Ttl);
        }
        if cut(&new.device_name, NAME_BYTES_MAX) != new.device_name {
            return Err(EnrollmentError::DeviceName);
        }
        let id = EnrollmentId::new(now_ms, rand::random());
        let secret: [u8; 16] = rand::random();
        let expires_ms = now_ms + ttl_s * 1000;
        let enrollment = Enrollment {
            id,
            tenant: new.tenant,
            device_name: new.device_name,
            created_ms: now_ms,
            expires_ms,
            state: EnrollmentState::Open,
        };
        let (row, actor) = (enrollment.clone(), new.actor);
        let tenant_name = self.catalog.run(move |tx| insert(tx, &row, &secret, actor)).await?;
        let code = EnrollCode {
            controllers: self.controllers.for_code(rand::random(), CONTROLLERS_MAX),
            ca_pins: self.ca.pins(),
            token: id,
            secret,
            expires_s: expires_ms / 1000,
            tenant_name: cut(&tenant_name, TENANT_NAME_BYTES_MAX),
        };
        code.to_text()?;
        self.remember(code.clone(), now_ms / 1000);
        Ok((enrollment, code))
    }

    /// The code of an enrolment that this process has made and that is still open.
    pub fn code(&self, id: EnrollmentId, now_ms: u64) -> Option<EnrollCode> {
        self.codes.lock().get(&id).filter(|code| code.expires_s * 1000 >= now_ms).cloned()
    }

    fn remember(&self, code: EnrollCode, now_s: u64) {
        let mut codes = self.codes.lock();
        if codes.len() >= CODES_MAX {
            codes.retain(|_, code| code.expires_s >= now_s);
        }
        if codes.len() >= CODES_MAX
            && let Some(first) = codes.values().min_by_key(|code| code.expires_s).map(|code| code.token)
        {
            codes.remove(&first);
        }
        codes.insert(code.token, code);
    }

    /// Newest first; `before` is the last of the page before.
    pub async fn list(
        &self,
        tenant: TenantId,
        before: Option<EnrollmentId>,
        limit: u32,
        now_ms: u64,
    ) -> Result<Vec<Enrollment>, EnrollmentError> {
        let mut sql = format!("SELECT {COLUMNS} FROM enrollments WHERE tenant = $1");
        let mut params: Vec<Value> = vec![tenant.into()];
        if let Some(before) = before {
            params.push(before.into());
            sql.push_str(" AND id < $2");
        }
        params.push(limit.clamp(1, LIMIT_MAX).into());
        sql.push_str(&format!(" ORDER BY id DESC LIMIT ${}", params.len()));
        let rows = self.catalog.read(move |tx| tx.query(&sql, &params)).await?;
        rows.iter().map(|row| Ok(enrollment_of(row, now_ms)?)).collect()
    }

    pub async fn get(&self, tenant: TenantId, id: EnrollmentId, now_ms: u64) -> Result<Enrollment, EnrollmentError> {
        self.catalog.read(move |tx| get(tx, tenant, id, now_ms)).await
    }

    /// An unused code becomes worthless.
    pub async fn revoke(
        &self,
        tenant: TenantId,
        id: EnrollmentId,
        actor: String,
        now_ms: u64,
    ) -> Result<Enrollment, EnrollmentError> {
        let revoked = self
            .catalog
            .run(move |tx| {
                if let EnrollmentState::Used { device, .. } = get(tx, tenant, id, now_ms)?.state {
                    return Err(EnrollmentError::Used { device });
                }
                tx.execute("UPDATE enrollments SET revoked = 1 WHERE id = $1", sql_params![id])?;
                let detail = serde_json::json!({}).to_string();
                let action = "enrollment.revoke";
                let subject = id.to_string();
                audit::write(tx, &Act { at_ms: now_ms, tenant: Some(tenant), actor, action, subject, detail })?;
                get(tx, tenant, id, now_ms)
            })
            .await?;
        self.codes.lock().remove(&id);
        Ok(revoked)
    }

    /// Turns a token and a certificate request into a device with a certificate.
    pub async fn redeem(&self, redemption: Redemption, now_ms: u64) -> Result<Issued, RedeemError> {
        let key = DeviceKey::from_csr(&redemption.csr_der)?;
        let token = redemption.token;
        let ca = self.ca.clone();
        let fresh = DeviceId::new(now_ms, rand::random());
        let decided = self.catalog.run(move |tx| redeem(tx, &ca, &redemption, &key, fresh, now_ms)).await?;
        let grant = decided.inspect_err(|error| {
            if matches!(error, RedeemError::UsedToken { .. }) {
                tracing::warn!(enrollment = %token, "an enrolment code was used again with another key: somebody else may have it");
            }
        })?;
        self.codes.lock().remove(&token);
        tracing::info!(enrollment = %token, device = %grant.device, tenant = %grant.tenant, "a device has enrolled");
        Ok(self.issued(grant))
    }

    pub(super) fn issued(&self, grant: Grant) -> Issued {
        Issued {
            device: grant.device,
            tenant: grant.tenant,
            tenant_name: cut(&grant.tenant_name, TENANT_NAME_BYTES_MAX),
            chain_der: grant.chain_der,
            roots_der: self.ca.roots_der(),
            controllers: self.controllers.all(spread_of(grant.device)),
        }
    }
}

/// A certificate for a device, and its tenant's name.
pub(super) struct Grant {
    pub(super) device: DeviceId,
    pub(super) tenant: TenantId,
    pub(super) tenant_name: String,
    pub(super) chain_der: Vec<Vec<u8>>,
}

/// The outer error rolls back. A refusal commits, because the alarm it may have written has to stay.
fn redeem(
    tx: &mut dyn Tx,
    ca: &Ca,
    redemption: &Redemption,
    key: &DeviceKey,
    fresh: DeviceId,
    now_ms: u64,
) -> Result<Result<Grant, RedeemError>, RedeemError> {
    let row = tx.query_one(
        "SELECT e.tenant, e.secret_hash, e.device_name, e.expires_ms, e.used_ms, e.device, e.key_hash, e.revoked, \
         t.name AS tenant_name, t.disabled FROM enrollments e JOIN tenants t ON t.id = e.tenant WHERE e.id = $1",
        sql_params![redemption.token],
    )?;
    let Some(row) = row else { return Ok(Err(RedeemError::UnknownToken)) };
    let expected: [u8; 32] = row.get("secret_hash")?;
    if !same_hash(&expected, &sha256(&redemption.secret)) {
        return Ok(Err(RedeemError::WrongSecret));
    }
    if row.get("revoked")? {
        return Ok(Err(RedeemError::Revoked));
    }
    if row.get("disabled")? {
        return Ok(Err(RedeemError::Disabled));
    }
    let tenant: TenantId = row.get("tenant")?;
    let tenant_name: String = row.get("tenant_name")?;
    let expires_ms: u64 = row.get("expires_ms")?;
    let device = match row.get::<Option<u64>>("used_ms")? {
        None if now_ms > expires_ms => return Ok(Err(RedeemError::ExpiredToken)),
        None => {
            bind(tx, redemption, key, &row, fresh, now_ms)?;
            fresh
        }
        Some(_) if row.get::<Option<[u8; 32]>>("key_hash")? != Some(key.hash()) => {
            alarm(tx, tenant, redemption.token, &row, now_ms)?;
            return Ok(Err(RedeemError::UsedToken { tenant, device: row.get("device")? }));
        }
        Some(used_ms) if now_ms > expires_ms.max(used_ms.saturating_add(REPEAT_MS)) => {
            return Ok(Err(RedeemError::ExpiredToken));
        }
        Some(_) => row.get::<Option<DeviceId>>("device")?.ok_or(RedeemError::UnknownToken)?,
    };
    let certificate = match certificates::issue(tx, ca, tenant, device, key, now_ms) {
        Ok(certificate) => certificate,
        Err(IssueError::Sql(error)) => return Err(error.into()),
        Err(error) => return Err(RedeemError::Issue(error)),
    };
    Ok(Ok(Grant { device, tenant, tenant_name, chain_der: certificate.chain_der }))
}

/// Makes the device and ties the token to it and to its key.
fn bind(
    tx: &mut dyn Tx,
    redemption: &Redemption,
    key: &DeviceKey,
    row: &Row,
    device: DeviceId,
    now_ms: u64,
) -> Result<(), SqlError> {
    let (tenant, name): (TenantId, String) = (row.get("tenant")?, row.get("device_name")?);
    let new = NewDevice {
        id: device,
        tenant,
        name: &name,
        info: &redemption.info,
        key_hash: key.hash(),
        enrolled_ms: now_ms,
    };
    devices::insert(tx, &new)?;
    let bound = tx.execute(
        "UPDATE enrollments SET used_ms = $1, device = $2, key_hash = $3 WHERE id = $4 AND used_ms IS NULL",
        sql_params![now_ms, device, key.hash(), redemption.token],
    )?;
    if bound != 1 {
        // Another controller was faster with the same token. The next try finds out who it was.
        return Err(SqlError::Unavailable("the enrolment was used at the same moment".into()));
    }
    let detail = serde_json::json!({ "enrollment": redemption.token }).to_string();
    let entry = Act {
        at_ms: now_ms,
        tenant: Some(tenant),
        actor: device.to_string(),
        action: "device.enroll",
        subject: device.to_string(),
        detail,
    };
    audit::write(tx, &entry)
}

fn alarm(tx: &mut dyn Tx, tenant: TenantId, token: EnrollmentId, row: &Row, now_ms: u64) -> Result<(), SqlError> {
    let detail = serde_json::json!({ "device": row.get::<Option<DeviceId>>("device")? }).to_string();
    let entry = Act {
        at_ms: now_ms,
        tenant: Some(tenant),
        actor: "system".into(),
        action: "enrollment.reused",
        subject: token.to_string(),
        detail,
    };
    audit::write(tx, &entry)
}

/// Both are hashes of what an enemy would have to guess, so nothing is learnt from where they differ; still, compare all.
fn same_hash(a: &[u8; 32], b: &[u8; 32]) -> bool {
    a.iter().zip(b).fold(0, |different, (x, y)| different | (x ^ y)) == 0
}

fn insert(tx: &mut dyn Tx, new: &Enrollment, secret: &[u8; 16], actor: String) -> Result<String, EnrollmentError> {
    let tenant = tx.query_one("SELECT name, disabled FROM tenants WHERE id = $1", sql_params![new.tenant])?;
    let tenant = tenant.ok_or(EnrollmentError::NoTenant)?;
    if tenant.get("disabled")? {
        return Err(EnrollmentError::NoTenant);
    }
    tx.execute(
        "INSERT INTO enrollments (id, tenant, secret_hash, device_name, created_ms, expires_ms) \
         VALUES ($1, $2, $3, $4, $5, $6)",
        sql_params![new.id, new.tenant, sha256(secret), new.device_name.as_str(), new.created_ms, new.expires_ms],
    )?;
    let detail = serde_json::json!({ "expires_ms": new.expires_ms }).to_string();
    let entry = Act {
        at_ms: new.created_ms,
        tenant: Some(new.tenant),
        actor,
        action: "enrollment.create",
        subject: new.id.to_string(),
        detail,
    };
    audit::write(tx, &entry)?;
    Ok(tenant.get("name")?)
}

fn get(tx: &mut dyn Tx, tenant: TenantId, id: EnrollmentId, now_ms: u64) -> Result<Enrollment, EnrollmentError> {
    let sql = format!("SELECT {COLUMNS} FROM enrollments WHERE id = $1 AND tenant = $2");
    let row = tx.query_one(&sql, sql_params![id, tenant])?.ok_or(EnrollmentError::NotFound)?;
    Ok(enrollment_of(&row, now_ms)?)
}

fn enrollment_of(row: &Row, now_ms: u64) -> Result<Enrollment, SqlError> {
    let expires_ms: u64 = row.get("expires_ms")?;
    let used: (Option<DeviceId>, Option<u64>) = (row.get("device")?, row.get("used_ms")?);
    let state = match used {
        (Some(device), Some(at_ms)) => EnrollmentState::Used { device, at_ms },
        _ if row.get("revoked")? => EnrollmentState::Revoked,
        _ if now_ms > expires_ms => EnrollmentState::Expired,
        _ => EnrollmentState::Open,
    };
    Ok(Enrollment {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        device_name: row.get("device_name")?,
        created_ms: row.get("created_ms")?,
        expires_ms,
        state,
    })
}
