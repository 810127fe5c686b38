//! The certificates of devices: which exist, which were replaced or revoked, and whether one may connect.
//!
//! A renewed certificate does not end the older one when it is issued but when it is first used: a device that loses the
//! answer, or its power, in between still gets in with the old one.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::wire::Refusal;

use super::devices::DeviceState;
use crate::ca::{Ca, CaError, CsrError, DeviceCertificate, DeviceIdentity, DeviceKey, KeyId};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

/// Certificates of one device that are valid at a time; more are asked for only by a device that has gone wrong.
pub const OPEN_CERTIFICATES_MAX: u64 = 16;
/// Ended certificates are kept this long, for questions.
const KEPT_S: u64 = 30 * 86_400;

#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    #[error("the certificate request is refused: {0}")]
    Csr(#[from] CsrError),
    #[error("the device is not active")]
    NotActive,
    #[error("the device has {OPEN_CERTIFICATES_MAX} valid certificates already: connect with the newest one")]
    TooMany,
    #[error("cannot issue a certificate")]
    Ca(#[from] CaError),
    #[error("the catalog does not answer")]
    Sql(#[from] SqlError),
}

/// What the catalog says about a certificate that TLS has accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    Admitted {
        state: DeviceState,
        first_use: bool,
    },
    /// Its tenant is disabled, which may pass.
    Disabled,
    Refused(Refusal),
}

/// May this certificate connect? Reads only; [`used`] has to follow when it was the first time.
pub(crate) fn admit(tx: &mut dyn Tx, identity: &DeviceIdentity) -> Result<Admission, SqlError> {
    let device = tx.query_one(
        "SELECT d.tenant, d.state, t.disabled FROM devices d JOIN tenants t ON t.id = d.tenant WHERE d.id = $1",
        sql_params![identity.device],
    )?;
    let Some(device) = device else { return Ok(Admission::Refused(Refusal::UnknownDevice)) };
    if device.get::<TenantId>("tenant")? != identity.tenant {
        return Ok(Admission::Refused(Refusal::UnknownDevice));
    }
    let state = DeviceState::from_row(&device, "state")?;
    if state == DeviceState::Revoked {
        return Ok(Admission::Refused(Refusal::Revoked));
    }
    if device.get("disabled")? {
        return Ok(Admission::Disabled);
    }
    let certificate = tx.query_one(
        "SELECT device, revoked_ms, replaced_ms, used_ms FROM certificates WHERE serial = $1",
        sql_params![identity.serial.to_string()],
    )?;
    let Some(row) = certificate else {
        // We have signed it and the device is known, so the catalog is an older copy of itself.
        return Ok(Admission::Admitted { state, first_use: true });
    };
    if row.get::<DeviceId>("device")? != identity.device {
        return Ok(Admission::Refused(Refusal::UnknownDevice));
    }
    if row.get::<Option<u64>>("revoked_ms")?.is_some() {
        return Ok(Admission::Refused(Refusal::Revoked));
    }
    if row.get::<Option<u64>>("replaced_ms")?.is_some() {
        return Ok(Admission::Refused(Refusal::StaleCertificate));
    }
    Ok(Admission::Admitted { state, first_use: row.get::<Option<u64>>("used_ms")?.is_none() })
}

/// The device has connected with this certificate: the ones issued before it are replaced.
pub(crate) fn used(tx: &mut dyn Tx, identity: &DeviceIdentity, now_ms: u64) -> Result<(), SqlError> {
    let serial = identity.serial.to_string();
    tx.execute(
        "UPDATE certificates SET used_ms = $1 WHERE serial = $2 AND used_ms IS NULL",
        sql_params![now_ms, serial.as_str()],
    )?;
    tx.execute(
        "UPDATE certificates SET replaced_ms = $1 WHERE device = $2 AND serial <> $3 AND replaced_ms IS NULL \
         AND not_before_s <= (SELECT not_before_s FROM certificates WHERE serial = $4)",
        sql_params![now_ms, identity.device, serial.as_str(), serial.as_str()],
    )?;
    Ok(())
}

pub(crate) fn insert(
    tx: &mut dyn Tx,
    tenant: TenantId,
    device: DeviceId,
    key: &DeviceKey,
    certificate: &DeviceCertificate,
) -> Result<(), SqlError> {
    tx.execute(
        "INSERT INTO certificates (serial, tenant, device, not_before_s, not_after_s, issuer, key_point) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        sql_params![
            certificate.serial.to_string(),
            tenant,
            device,
            certificate.validity.not_before_s,
            certificate.validity.not_after_s,
            certificate.issuer.to_string(),
            key.point()
        ],
    )?;
    Ok(())
}

/// Issues one more certificate for a device that is known and active.
pub(crate) fn issue(
    tx: &mut dyn Tx,
    ca: &Ca,
    tenant: TenantId,
    device: DeviceId,
    key: &DeviceKey,
    now_ms: u64,
) -> Result<DeviceCertificate, IssueError> {
    let now_s = now_ms / 1000;
    let state = tx.query_one("SELECT state FROM devices WHERE id = $1 AND tenant = $2", sql_params![device, tenant])?;
    let state = state.map(|row| DeviceState::from_row(&row, "state")).transpose()?;
    if state.is_none_or(|state| state == DeviceState::Revoked) {
        return Err(IssueError::NotActive);
    }
    let open = tx.query_one(
        "SELECT COUNT(*) AS n FROM certificates WHERE device = $1 AND not_after_s >= $2 AND replaced_ms IS NULL \
         AND revoked_ms IS NULL",
        sql_params![device, now_s],
    )?;
    if open.map(|row| row.get::<u64>("n")).transpose()?.unwrap_or(0) >= OPEN_CERTIFICATES_MAX {
        return Err(IssueError::TooMany);
    }
    ca.check_current(tx)?;
    let certificate = ca.issue_device(key, tenant, device, now_s)?;
    insert(tx, tenant, device, key, &certificate)?;
    Ok(certificate)
}

/// The answer to `Renew`: the link's certificate stays good until the new one has connected.
pub async fn renew(
    catalog: &dyn Catalog,
    ca: Arc<Ca>,
    identity: DeviceIdentity,
    csr_der: &[u8],
    now_ms: u64,
) -> Result<DeviceCertificate, IssueError> {
    let key = DeviceKey::from_csr(csr_der)?;
    catalog.run(move |tx| issue(tx, &ca, identity.tenant, identity.device, &key, now_ms)).await
}

/// How many certificates that still count were signed by this CA key: what a rotation asks before it drops the key.
pub async fn open_of_issuer(catalog: &dyn Catalog, issuer: KeyId, now_s: u64) -> Result<u64, SqlError> {
    catalog
        .read(move |tx| {
            let row = tx.query_one(
                "SELECT COUNT(*) AS n FROM certificates WHERE issuer = $1 AND not_after_s >= $2 AND replaced_ms IS NULL \
                 AND revoked_ms IS NULL",
                sql_params![issuer.to_string(), now_s],
            )?;
            row.map(|row| row.get("n")).transpose().map(Option::unwrap_or_default)
        })
        .await
}

/// A certificate as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateRow {
    pub serial: String,
    pub device: DeviceId,
    pub not_before_s: u64,
    pub not_after_s: u64,
    pub revoked_ms: Option<u64>,
    pub replaced_ms: Option<u64>,
}

/// A tenant's certificates by serial, those after one.
pub async fn list(
    catalog: &dyn Catalog,
    tenant: TenantId,
    device: Option<DeviceId>,
    after: Option<String>,
    limit: usize,
) -> Result<Vec<CertificateRow>, SqlError> {
    catalog
        .read(move |tx| {
            let mut sql =
                "SELECT serial, device, not_before_s, not_after_s, revoked_ms, replaced_ms FROM certificates \
                 WHERE tenant = $1 AND serial > $2"
                    .to_owned();
            let mut params = vec![tenant.into(), after.unwrap_or_default().into()];
            if let Some(device) = device {
                params.push(device.into());
                sql.push_str(" AND device = $3");
            }
            sql.push_str(&format!(" ORDER BY serial LIMIT {limit}"));
            tx.query(&sql, &params)?.iter().map(row_of).collect()
        })
        .await
}

fn row_of(row: &Row) -> Result<CertificateRow, SqlError> {
    Ok(CertificateRow {
        serial: row.get("serial")?,
        device: row.get("device")?,
        not_before_s: row.get("not_before_s")?,
        not_after_s: row.get("not_after_s")?,
        revoked_ms: row.get("revoked_ms")?,
        replaced_ms: row.get("replaced_ms")?,
    })
}

/// Forgets certificates that ended long ago. Answers how many.
pub async fn prune(catalog: &dyn Catalog, now_s: u64) -> Result<u64, SqlError> {
    let before_s = now_s.saturating_sub(KEPT_S);
    catalog.run(move |tx| tx.execute("DELETE FROM certificates WHERE not_after_s < $1", sql_params![before_s])).await
}
