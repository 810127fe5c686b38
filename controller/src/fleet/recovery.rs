//! A device whose certificate has ended while it was away proves that it still holds its key, and gets a new certificate.
//!
//! The challenge is signed over the enrolment protocol. A revoked device never recovers, and each one only a few times
//! between two acts of its owner (`resume` gives the number back): whoever has copied a key shall not live on it for ever.

use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::wire::{EnrollRefusal, Issued, recovery_statement};

use super::audit::{self, Act};
use super::certificates::{self, IssueError};
use super::devices::DeviceState;
use super::enrollments::{Enrollments, Grant};
use crate::ca::{CsrError, DeviceKey};
use crate::sql_params;
use crate::store::{SqlError, Tx};

pub const RECOVERIES_MAX_DEFAULT: u32 = 10;

#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("no such device, or not with this key: enrol it again")]
    Unknown,
    #[error("the device is revoked: enrol it again")]
    Revoked,
    #[error("the owner of this device is disabled: try again when it is enabled")]
    Disabled,
    #[error("the device has recovered too often: resume it at the controller, or enrol it again")]
    UsedUp,
    #[error("the request is refused: {0}")]
    Csr(#[from] CsrError),
    #[error("no certificate: {0}")]
    Issue(#[source] IssueError),
    #[error("the catalog does not answer, try again")]
    Sql(#[from] SqlError),
}

impl RecoverError {
    pub fn refusal(&self) -> EnrollRefusal {
        match self {
            Self::Unknown | Self::Csr(_) | Self::Issue(IssueError::Csr(_)) => EnrollRefusal::BadRequest,
            Self::Revoked | Self::Issue(IssueError::NotActive) => EnrollRefusal::Revoked,
            Self::UsedUp | Self::Issue(IssueError::TooMany) => EnrollRefusal::RecoveriesUsedUp,
            Self::Disabled | Self::Issue(IssueError::Ca(_) | IssueError::Sql(_)) | Self::Sql(_) => EnrollRefusal::Busy,
        }
    }
}

/// The answer to a challenge.
#[derive(Clone)]
pub struct Proof {
    pub tenant: TenantId,
    pub device: DeviceId,
    pub nonce: [u8; 32],
    pub signature: Vec<u8>,
    pub csr_der: Vec<u8>,
}

impl Enrollments {
    /// Whether a challenge is worth making.
    pub async fn may_recover(
        &self,
        tenant: TenantId,
        device: DeviceId,
        recoveries_max: u32,
    ) -> Result<(), RecoverError> {
        self.catalog.read(move |tx| check(tx, tenant, device, recoveries_max).map(drop)).await
    }

    pub async fn recover(&self, proof: Proof, recoveries_max: u32, now_ms: u64) -> Result<Issued, RecoverError> {
        let key = DeviceKey::from_csr(&proof.csr_der)?;
        let ca = self.ca.clone();
        let grant = self
            .catalog
            .run(move |tx| {
                let tenant_name = check(tx, proof.tenant, proof.device, recoveries_max)?;
                if !proves(tx, &proof)? {
                    return Err(RecoverError::Unknown);
                }
                tx.execute("UPDATE devices SET recoveries = recoveries + 1 WHERE id = $1", sql_params![proof.device])?;
                let certificate = certificates::issue(tx, &ca, proof.tenant, proof.device, &key, now_ms);
                let certificate = certificate.map_err(RecoverError::Issue)?;
                let entry = Act {
                    at_ms: now_ms,
                    tenant: Some(proof.tenant),
                    actor: proof.device.to_string(),
                    action: "device.recover",
                    subject: proof.device.to_string(),
                    detail: serde_json::json!({ "serial": certificate.serial.to_string() }).to_string(),
                };
                audit::write(tx, &entry)?;
                let chain_der = certificate.chain_der;
                Ok(Grant { device: proof.device, tenant: proof.tenant, tenant_name, chain_der })
            })
            .await?;
        tracing::info!(device = %grant.device, tenant = %grant.tenant, "a device has recovered with its key");
        Ok(self.issued(grant))
    }
}

/// Answers the tenant's name.
fn check(tx: &mut dyn Tx, tenant: TenantId, device: DeviceId, recoveries_max: u32) -> Result<String, RecoverError> {
    let row = tx.query_one(
        "SELECT d.state, d.recoveries, t.name, t.disabled FROM devices d JOIN tenants t ON t.id = d.tenant \
         WHERE d.id = $1 AND d.tenant = $2",
        sql_params![device, tenant],
    )?;
    let row = row.ok_or(RecoverError::Unknown)?;
    if DeviceState::from_row(&row, "state")? == DeviceState::Revoked {
        return Err(RecoverError::Revoked);
    }
    if row.get("disabled")? {
        return Err(RecoverError::Disabled);
    }
    if row.get::<u32>("recoveries")? >= recoveries_max {
        return Err(RecoverError::UsedUp);
    }
    Ok(row.get("name")?)
}

/// True when one of the device's keys has signed: those of certificates that were neither replaced nor revoked.
fn proves(tx: &mut dyn Tx, proof: &Proof) -> Result<bool, SqlError> {
    let rows = tx.query(
        "SELECT key_point FROM certificates WHERE device = $1 AND replaced_ms IS NULL AND revoked_ms IS NULL \
         AND key_point IS NOT NULL ORDER BY not_after_s DESC LIMIT $2",
        sql_params![proof.device, certificates::OPEN_CERTIFICATES_MAX],
    )?;
    let statement = recovery_statement(proof.device, &proof.nonce);
    for row in rows {
        let key = DeviceKey::from_point(&row.get::<Vec<u8>>("key_point")?);
        if key.is_some_and(|key| key.verifies(&statement, &proof.signature)) {
            return Ok(true);
        }
    }
    Ok(false)
}
