//! API keys: who may do what in which tenant. The secret is shown once; the catalog keeps its hash.

use std::fmt;

use data_encoding::BASE32_NOPAD;
use flotilla_protocol::id::{KeyId, TenantId};

use super::audit::{self, By};
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

pub const NAME_BYTES_MAX: usize = 64;
/// The highest limit that can be set; above it, no limit is meant.
pub const RATE_PER_MIN_MAX: u32 = 10_000_000;
const PREFIX: &str = "flk_";
const SECRET_BYTES: usize = 32;
const DIGITS: usize = 52;

/// What a key may do.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    pub const SEND: Self = Self(1);
    pub const READ: Self = Self(2);
    /// Everything within the key's tenant, sending and reading included.
    pub const ADMIN: Self = Self(4 | 2 | 1);

    const NAMES: [(&str, Self); 3] = [("admin", Self::ADMIN), ("send", Self::SEND), ("read", Self::READ)];

    pub const fn allows(self, needed: Self) -> bool {
        self.0 & needed.0 == needed.0
    }

    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub fn parse_one(name: &str) -> Option<Self> {
        Self::NAMES.iter().find(|(text, _)| *text == name).map(|(_, scope)| *scope)
    }

    /// The shortest list of names.
    pub fn names(self) -> Vec<&'static str> {
        if self.allows(Self::ADMIN) {
            return vec!["admin"];
        }
        Self::NAMES.iter().filter(|(_, scope)| self.allows(*scope)).map(|(name, _)| *name).collect()
    }

    /// What a column holds. A word that we do not know gives no right.
    fn parse_words(words: &str) -> Self {
        words.split_ascii_whitespace().filter_map(Self::parse_one).fold(Self(0), Self::with)
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names().join(" "))
    }
}

/// A key's secret: `flk_` and 256 random bits in base 32.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(random: [u8; SECRET_BYTES]) -> Self {
        Self(format!("{PREFIX}{}", BASE32_NOPAD.encode(&random).to_ascii_lowercase()))
    }

    /// Whether a text could be a secret at all.
    pub fn is_one(text: &str) -> bool {
        let digits = text.strip_prefix(PREFIX).unwrap_or("");
        digits.len() == DIGITS && digits.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::is_one(text).then(|| Self(text.to_owned()))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> KeyHash {
        KeyHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flk_...")
    }
}

/// SHA-256 of a secret's text. 256 random bits need no slow hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    pub fn of(text: &str) -> Self {
        let digest = ring::digest::digest(&ring::digest::SHA256, text.as_bytes());
        let mut hash = [0; 32];
        hash.copy_from_slice(digest.as_ref());
        Self(hash)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    /// None for the installation's root key.
    pub tenant: Option<TenantId>,
    pub name: String,
    pub scopes: Scopes,
    /// None for no limit.
    pub rate_per_min: Option<u32>,
    pub disabled: bool,
    pub created_ms: u64,
    pub last_used_ms: Option<u64>,
}

/// A key as requests meet it.
#[derive(Clone, Debug)]
pub struct FoundKey {
    pub key: ApiKey,
    pub tenant_disabled: bool,
}

/// What can be changed of a key; `None` leaves it.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyChange {
    pub disabled: Option<bool>,
    pub rate_per_min: Option<Option<u32>>,
}

const COLUMNS: &str = "k.id AS id, k.tenant AS tenant, k.name AS name, k.scopes AS scopes,
    k.rate_per_min AS rate_per_min, k.disabled AS disabled, k.created_ms AS created_ms, k.last_used_ms AS last_used_ms";

fn key(row: &Row) -> Result<ApiKey, SqlError> {
    Ok(ApiKey {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        name: row.get("name")?,
        scopes: Scopes::parse_words(&row.get::<String>("scopes")?),
        rate_per_min: row.get("rate_per_min")?,
        disabled: row.get("disabled")?,
        created_ms: row.get("created_ms")?,
        last_used_ms: row.get("last_used_ms")?,
    })
}

pub async fn create(catalog: &dyn Catalog, by: By, new: ApiKey, hash: KeyHash) -> Result<ApiKey, SqlError> {
    catalog
        .run(move |tx| {
            insert(tx, &new, hash)?;
            audit::write(tx, &by.act(new.tenant, "key.create", new.id))?;
            Ok(new)
        })
        .await
}

fn insert(tx: &mut dyn Tx, new: &ApiKey, hash: KeyHash) -> Result<(), SqlError> {
    let sql = "INSERT INTO api_keys (id, tenant, name, hash, scopes, rate_per_min, disabled, created_ms)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
    let scopes = new.scopes.names().join(" ");
    let params =
        sql_params![new.id, new.tenant, &new.name, hash.0, scopes, new.rate_per_min, new.disabled, new.created_ms];
    tx.execute(sql, params).map(|_| ())
}

/// Finds the key of a secret, with the state of its tenant.
pub async fn find(catalog: &dyn Catalog, hash: KeyHash) -> Result<Option<FoundKey>, SqlError> {
    catalog
        .read(move |tx| {
            let sql = format!(
                "SELECT {COLUMNS}, COALESCE(t.disabled, 0) AS tenant_disabled
                FROM api_keys k LEFT JOIN tenants t ON t.id = k.tenant WHERE k.hash = $1"
            );
            let found = |row: &Row| Ok(FoundKey { key: key(row)?, tenant_disabled: row.get("tenant_disabled")? });
            tx.query_one(&sql, sql_params![hash.0])?.as_ref().map(found).transpose()
        })
        .await
}

/// A tenant's keys in the order of creation.
pub async fn list(
    catalog: &dyn Catalog,
    tenant: TenantId,
    after: Option<KeyId>,
    limit: usize,
) -> Result<Vec<ApiKey>, SqlError> {
    catalog
        .read(move |tx| {
            let sql =
                format!("SELECT {COLUMNS} FROM api_keys k WHERE k.tenant = $1 AND k.id > $2 ORDER BY k.id LIMIT $3");
            let after = after.unwrap_or(KeyId::from_bytes([0; 16]));
            tx.query(&sql, sql_params![tenant, after, limit as u64])?.iter().map(key).collect()
        })
        .await
}

/// Changes a tenant's key; the changed key, or None when the tenant has no such key.
pub async fn change(
    catalog: &dyn Catalog,
    by: By,
    tenant: TenantId,
    id: KeyId,
    change: KeyChange,
) -> Result<Option<ApiKey>, SqlError> {
    catalog
        .run(move |tx| {
            if let Some(disabled) = change.disabled {
                let sql = "UPDATE api_keys SET disabled = $1 WHERE id = $2 AND tenant = $3";
                if tx.execute(sql, sql_params![disabled, id, tenant])? == 1 {
                    let action = if disabled { "key.disable" } else { "key.enable" };
                    audit::write(tx, &by.act(Some(tenant), action, id))?;
                }
            }
            if let Some(rate) = change.rate_per_min {
                let sql = "UPDATE api_keys SET rate_per_min = $1 WHERE id = $2 AND tenant = $3";
                if tx.execute(sql, sql_params![rate, id, tenant])? == 1 {
                    audit::write(tx, &by.act(Some(tenant), "key.rate", id))?;
                }
            }
            get(tx, tenant, id)
        })
        .await
}

/// Gives a key a new secret; the old one ends at once.
pub async fn rotate(
    catalog: &dyn Catalog,
    by: By,
    tenant: TenantId,
    id: KeyId,
    hash: KeyHash,
) -> Result<Option<ApiKey>, SqlError> {
    catalog
        .run(move |tx| {
            let sql = "UPDATE api_keys SET hash = $1 WHERE id = $2 AND tenant = $3";
            if tx.execute(sql, sql_params![hash.0, id, tenant])? == 1 {
                audit::write(tx, &by.act(Some(tenant), "key.rotate", id))?;
            }
            get(tx, tenant, id)
        })
        .await
}

fn get(tx: &mut dyn Tx, tenant: TenantId, id: KeyId) -> Result<Option<ApiKey>, SqlError> {
    let sql = format!("SELECT {COLUMNS} FROM api_keys k WHERE k.id = $1 AND k.tenant = $2");
    tx.query_one(&sql, sql_params![id, tenant])?.as_ref().map(key).transpose()
}

/// Writes down when keys were used last, many at a time.
pub async fn touch(catalog: &dyn Catalog, used: Vec<(KeyId, u64)>) -> Result<(), SqlError> {
    catalog
        .run(move |tx| {
            for (id, at_ms) in used {
                let sql = "UPDATE api_keys SET last_used_ms = $1
                    WHERE id = $2 AND COALESCE(last_used_ms, 0) < $3";
                tx.execute(sql, sql_params![at_ms, id, at_ms])?;
            }
            Ok(())
        })
        .await
}

/// Whether this installation has a root key that works.
pub async fn has_root(catalog: &dyn Catalog) -> Result<bool, SqlError> {
    catalog
        .read(|tx| {
            let sql = "SELECT id FROM api_keys WHERE tenant IS NULL AND disabled = 0 LIMIT 1";
            Ok(!tx.query(sql, &[])?.is_empty())
        })
        .await
}

/// Makes `new` the root key, if there is none that works. False when another controller was first.
pub async fn first_root(catalog: &dyn Catalog, by: By, new: ApiKey, hash: KeyHash) -> Result<bool, SqlError> {
    catalog
        .run(move |tx| {
            let sql = "SELECT id FROM api_keys WHERE tenant IS NULL AND disabled = 0 LIMIT 1";
            if !tx.query(sql, &[])?.is_empty() {
                return Ok(false);
            }
            insert(tx, &new, hash)?;
            audit::write(tx, &by.act(None, "key.root", new.id))?;
            Ok(true)
        })
        .await
}

/// Makes `new` the only root key.
pub async fn replace_root(catalog: &dyn Catalog, by: By, new: ApiKey, hash: KeyHash) -> Result<(), SqlError> {
    catalog
        .run(move |tx| {
            tx.execute("DELETE FROM api_keys WHERE tenant IS NULL", &[])?;
            insert(tx, &new, hash)?;
            audit::write(tx, &by.act(None, "key.root", new.id))
        })
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admin_includes_the_others_and_nothing_else_does() {
        let both = Scopes::SEND.with(Scopes::READ);
        assert!(Scopes::ADMIN.allows(both));
        assert!(!both.allows(Scopes::ADMIN));
        assert!(!Scopes::SEND.allows(Scopes::READ));
        assert_eq!(Scopes::ADMIN.with(both).names(), ["admin"]);
        assert_eq!(Scopes::parse_words("read  send owner"), both);
        assert_eq!(Scopes::parse_one("Admin"), None);
        assert!(Scopes::parse_words("").is_empty());
    }

    #[test]
    fn secrets_parse_back_and_hide() {
        let secret = Secret::new([0xab; 32]);
        assert!(Secret::is_one(secret.expose()));
        assert_eq!(format!("{secret:?}"), "flk_...");
        assert_ne!(secret.hash(), Secret::new([0xac; 32]).hash());
        for wrong in ["", "flk_", "flk_abc", &secret.expose().to_uppercase(), &format!("{}a", secret.expose())] {
            assert!(!Secret::is_one(wrong), "{wrong}");
        }
    }
}
