//! The CA in the catalog, where every controller of a cluster finds the same one: its keys sealed, its state under a version.
//!
//! A step of a rotation is one transaction that only takes place on the version it was decided on, so two controllers cannot
//! step at once; who made the first CA of an empty store is decided by the first insert.

use std::sync::Arc;

use super::authority::Authority;
use super::identity::KeyId;
use super::{CaError, Keys, Rotation, TrustDomain};
use crate::secrets::ClusterKeys;
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

const CURRENT: &str = "current";
const NEXT: &str = "next";
const PREVIOUS: &str = "previous";

/// One statement, so that version and keys are of the same moment on every engine.
const LOAD: &str = "SELECT s.version, s.trust_domain, k.id, k.role, k.cert_der, k.key_sealed \
                    FROM ca_state s LEFT JOIN ca_keys k ON k.key_sealed IS NOT NULL WHERE s.id = 1";

pub(super) struct Shared {
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) secrets: ClusterKeys,
}

/// A key as it is written.
struct KeyRow {
    pin: [u8; 32],
    role: &'static str,
    cert_der: Vec<u8>,
    key_sealed: Vec<u8>,
}

impl Shared {
    /// `None` while there is no CA.
    pub(super) async fn version(&self) -> Result<Option<u64>, SqlError> {
        self.catalog.read(version).await
    }

    pub(super) async fn load(&self, trust_domain: &TrustDomain, now_s: u64) -> Result<Option<(u64, Keys)>, CaError> {
        let rows = self.catalog.read(|tx| tx.query(LOAD, &[])).await?;
        let Some(first) = rows.first() else { return Ok(None) };
        let (version, found): (u64, String) = (first.get("version")?, first.get("trust_domain")?);
        if found != trust_domain.as_str() {
            return Err(CaError::TrustDomain { found, wanted: trust_domain.as_str().to_owned() });
        }
        let (mut current, mut next, mut previous) = (None, None, None);
        for row in &rows {
            let place = match row.get::<Option<String>>("role")?.as_deref() {
                Some(CURRENT) => &mut current,
                Some(NEXT) => &mut next,
                Some(PREVIOUS) => &mut previous,
                _ => continue,
            };
            *place = Some(Arc::new(self.authority(row)?));
        }
        let issuing = current.ok_or(CaError::DamagedStore)?;
        let (rotation, other) = match (next, previous) {
            (None, None) => (Rotation::Stable { current: issuing.id }, None),
            (Some(next), None) => (Rotation::Prepared { current: issuing.id, next: next.id }, Some(next)),
            (None, Some(previous)) => (Rotation::Active { previous: previous.id, current: issuing.id }, Some(previous)),
            (Some(_), Some(_)) => return Err(CaError::DamagedStore),
        };
        Ok(Some((version, Keys::new(rotation, issuing, other, now_s)?)))
    }

    fn authority(&self, row: &Row) -> Result<Authority, CaError> {
        let pin: [u8; 32] = row.get("id")?;
        let key_der = self.secrets.open(&place(&pin), &row.get::<Vec<u8>>("key_sealed")?)?;
        let authority = Authority::from_der(row.get("cert_der")?, &key_der)?;
        if authority.pin == pin { Ok(authority) } else { Err(CaError::DamagedStore) }
    }

    /// False when another controller was first.
    pub(super) async fn create(&self, trust_domain: &TrustDomain, keys: &Keys, now_s: u64) -> Result<bool, CaError> {
        let rows = self.rows(keys)?;
        let trust_domain = trust_domain.as_str().to_owned();
        self.catalog
            .run(move |tx| {
                let inserted = tx.execute(
                    "INSERT INTO ca_state (id, version, trust_domain) VALUES (1, 1, $1) ON CONFLICT (id) DO NOTHING",
                    sql_params![trust_domain],
                )?;
                if inserted == 1 {
                    write(tx, &rows, now_s)?;
                }
                Ok(inserted == 1)
            })
            .await
    }

    /// Puts `keys` in the place of the version `from`, and answers the new version.
    pub(super) async fn step(&self, from: u64, keys: &Keys, now_s: u64) -> Result<u64, CaError> {
        let rows = self.rows(keys)?;
        self.catalog
            .run(move |tx| {
                let sql = "UPDATE ca_state SET version = version + 1 WHERE id = 1 AND version = $1";
                if tx.execute(sql, sql_params![from])? != 1 {
                    return Err(CaError::Changed);
                }
                write(tx, &rows, now_s)?;
                Ok(from + 1)
            })
            .await
    }

    /// Seals the keys anew that another cluster key than the present one has sealed. Answers how many.
    pub(super) async fn reseal(&self) -> Result<u64, CaError> {
        let rows = self.catalog.read(|tx| tx.query(LOAD, &[])).await?;
        let mut fresh = Vec::new();
        for row in &rows {
            let Some(sealed) = row.get::<Option<Vec<u8>>>("key_sealed")? else { continue };
            if self.secrets.is_outdated(&sealed) {
                let pin: [u8; 32] = row.get("id")?;
                let key_der = self.secrets.open(&place(&pin), &sealed)?;
                fresh.push((pin, sealed, self.secrets.seal(&place(&pin), &key_der)?));
            }
        }
        if fresh.is_empty() {
            return Ok(0);
        }
        self.catalog
            .run(move |tx| {
                let sql = "UPDATE ca_keys SET key_sealed = $1 WHERE id = $2 AND key_sealed = $3";
                fresh
                    .into_iter()
                    .try_fold(0, |done, (pin, old, new)| Ok(done + tx.execute(sql, sql_params![new, pin, old])?))
            })
            .await
    }

    fn rows(&self, keys: &Keys) -> Result<Vec<KeyRow>, CaError> {
        let role = |id: KeyId| match keys.rotation {
            Rotation::Prepared { next, .. } if next == id => NEXT,
            Rotation::Active { previous, .. } if previous == id => PREVIOUS,
            _ => CURRENT,
        };
        let row = |authority: &Arc<Authority>| {
            Ok(KeyRow {
                pin: authority.pin,
                role: role(authority.id),
                cert_der: authority.certificate.to_vec(),
                key_sealed: self.secrets.seal(&place(&authority.pin), &authority.key_der())?,
            })
        };
        keys.trusted().map(row).collect()
    }
}

/// The version of the CA that a transaction sees.
pub(super) fn version(tx: &mut dyn Tx) -> Result<Option<u64>, SqlError> {
    let row = tx.query_one("SELECT version FROM ca_state WHERE id = 1", &[])?;
    row.map(|row| row.get("version")).transpose()
}

/// These keys and no others. A key that is dropped is gone for good.
fn write(tx: &mut dyn Tx, rows: &[KeyRow], now_s: u64) -> Result<(), SqlError> {
    // Two at most; the same one twice where there is one.
    let (first, last) = (rows.first().map(|row| row.pin), rows.last().map(|row| row.pin));
    tx.execute("DELETE FROM ca_keys WHERE id <> $1 AND id <> $2", sql_params![first, last])?;
    for row in rows {
        tx.execute(
            "INSERT INTO ca_keys (id, role, cert_der, created_ms, key_sealed) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (id) DO UPDATE SET role = excluded.role, key_sealed = excluded.key_sealed",
            sql_params![row.pin, row.role, row.cert_der.as_slice(), now_s * 1000, row.key_sealed.as_slice()],
        )?;
    }
    Ok(())
}

/// What the seal of a CA key is bound to.
fn place(pin: &[u8; 32]) -> String {
    format!("ca_keys/{}/key_sealed", data_encoding::HEXLOWER.encode(pin))
}
