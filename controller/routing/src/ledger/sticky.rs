//! Which SIM or sender a recipient had its last message from.
//!
//! Two generations make a bounded memory of the most recent ones: what is written goes into the young one; when that is full
//! it becomes the old one, and the old one is forgotten. So at least the last half of the bound is always known, no list of
//! uses has to be kept, and the same facts always leave the same memory.

use flotilla_protocol::id::{SimId, TenantId};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::fact::recipient_hash;

/// Recipients of a shard that are remembered at most. Half of it is the number that certainly are.
pub const STICKY_MAX: usize = 32_768;

/// By a hash of tenant and recipient. Should two be the same, a recipient begins with the SIM of another one; whether its
/// tenant may use that is always asked of the fleet.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sticky {
    young: FxHashMap<u64, SimId>,
    old: FxHashMap<u64, SimId>,
}

impl Sticky {
    pub(super) fn set(&mut self, tenant: TenantId, recipient: u64, sim: SimId) {
        let key = key(tenant, recipient);
        self.young.insert(key, sim);
        if self.young.len() >= STICKY_MAX / 2 {
            // The room of what is forgotten is used again: growing into new room would move everything several times.
            std::mem::swap(&mut self.old, &mut self.young);
            self.young.clear();
        }
    }

    pub(super) fn get(&self, tenant: TenantId, recipient: u64) -> Option<SimId> {
        let key = key(tenant, recipient);
        self.young.get(&key).or_else(|| self.old.get(&key)).copied()
    }
}

fn key(tenant: TenantId, recipient: u64) -> u64 {
    let tenant = u128::from_be_bytes(tenant.to_bytes());
    recipient ^ recipient_hash((tenant >> 64) as u64 ^ recipient_hash(tenant as u64))
}

type Generation = Vec<([u8; 8], SimId)>;

fn sorted(generation: &FxHashMap<u64, SimId>) -> Generation {
    let mut entries: Generation = generation.iter().map(|(key, sim)| (key.to_be_bytes(), *sim)).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}

impl Serialize for Sticky {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (sorted(&self.young), sorted(&self.old)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Sticky {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (young, old) = <(Generation, Generation)>::deserialize(deserializer)?;
        let map = |entries: Generation| entries.into_iter().map(|(key, sim)| (u64::from_be_bytes(key), sim)).collect();
        Ok(Self { young: map(young), old: map(old) })
    }
}
