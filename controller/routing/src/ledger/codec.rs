//! The bytes in which a ledger is stored: one byte for the version, then postcard. Maps are written in the order of their
//! keys, so that equal ledgers have equal bytes.

use flotilla_protocol::id::{DeviceId, TenantId};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use super::{Counters, Ledger, RouteState, TenantState};
use crate::route::Route;

/// Grows with each change of what is stored. Never used again for anything else. Version 2 is version 1 with more slots in its
/// sliding windows.
const VERSION: u8 = 2;
const OLDEST: u8 = 1;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error(
        "a ledger of version {version} cannot be read by this program, which knows version {VERSION}; start a newer one"
    )]
    Version { version: u8 },
    #[error("an empty ledger: not even its version is there")]
    Empty,
    #[error("a damaged ledger")]
    Damaged(#[source] postcard::Error),
}

#[derive(Serialize)]
struct Written<'a> {
    newest_ms: u64,
    swept_ms: u64,
    routes: Vec<(&'a Route, &'a RouteState)>,
    devices: Vec<(&'a DeviceId, &'a Counters)>,
    tenants: Vec<(&'a TenantId, &'a TenantState)>,
    sticky: &'a super::sticky::Sticky,
}

#[derive(Deserialize)]
struct Read {
    newest_ms: u64,
    swept_ms: u64,
    routes: Vec<(Route, Box<RouteState>)>,
    devices: Vec<(DeviceId, Box<Counters>)>,
    tenants: Vec<(TenantId, TenantState)>,
    sticky: super::sticky::Sticky,
}

impl Ledger {
    pub fn to_bytes(&self) -> Vec<u8> {
        let written = Written {
            newest_ms: self.newest_ms,
            swept_ms: self.swept_ms,
            routes: sorted(self.routes.iter().map(|(route, known)| (route, &**known))),
            devices: sorted(self.devices.iter().map(|(device, known)| (device, &**known))),
            tenants: sorted(self.tenants.iter()),
            sticky: &self.sticky,
        };
        #[expect(clippy::expect_used, reason = "plain data into memory: postcard has nothing to refuse")]
        postcard::to_extend(&written, vec![VERSION]).expect("a ledger can be written")
    }

    pub fn from_bytes(bytes: &[u8]) -> Result<Self, LedgerError> {
        let (version, bytes) = bytes.split_first().ok_or(LedgerError::Empty)?;
        if !(OLDEST..=VERSION).contains(version) {
            return Err(LedgerError::Version { version: *version });
        }
        let read: Read = postcard::from_bytes(bytes).map_err(LedgerError::Damaged)?;
        Ok(Self {
            routes: read.routes.into_iter().collect(),
            devices: read.devices.into_iter().collect(),
            tenants: read.tenants.into_iter().collect::<FxHashMap<_, _>>(),
            sticky: read.sticky,
            newest_ms: read.newest_ms,
            swept_ms: read.swept_ms,
        })
    }
}

fn sorted<'a, K: Ord, V>(entries: impl Iterator<Item = (&'a K, V)>) -> Vec<(&'a K, V)> {
    let mut entries: Vec<_> = entries.collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}
