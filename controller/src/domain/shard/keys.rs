//! The idempotency keys of the last minutes. Older ones are in the store, where the caller has looked before.

use std::collections::VecDeque;
use std::sync::Arc;

use flotilla_protocol::id::{MessageId, TenantId};
use rustc_hash::FxHashMap;

use super::io::{Acceptance, KeyReused, RequestKey};

#[derive(Debug)]
pub(super) struct Keys {
    keep_ms: u64,
    max: usize,
    known: FxHashMap<(TenantId, [u8; 16]), Known>,
    /// The oldest first, with its time (monotonic).
    order: VecDeque<(u64, TenantId, [u8; 16])>,
}

#[derive(Debug)]
struct Known {
    request: [u8; 16],
    ids: Arc<[MessageId]>,
}

impl Keys {
    pub(super) fn new(keep_ms: u64, max: usize) -> Self {
        Self { keep_ms, max, known: FxHashMap::default(), order: VecDeque::new() }
    }

    /// What to answer when the key was used before.
    pub(super) fn find(&self, tenant: TenantId, key: RequestKey) -> Option<Result<Acceptance, KeyReused>> {
        let known = self.known.get(&(tenant, key.key))?;
        let replayed = || Acceptance { ids: Arc::clone(&known.ids), replayed: true };
        Some(if known.request == key.request { Ok(replayed()) } else { Err(KeyReused) })
    }

    pub(super) fn remember(&mut self, tenant: TenantId, key: RequestKey, ids: Arc<[MessageId]>, mono_ms: u64) {
        self.known.insert((tenant, key.key), Known { request: key.request, ids });
        self.order.push_back((mono_ms, tenant, key.key));
        while let Some((since_ms, tenant, key)) = self.order.front().copied() {
            if self.order.len() <= self.max && mono_ms.saturating_sub(since_ms) <= self.keep_ms {
                break;
            }
            self.order.pop_front();
            self.known.remove(&(tenant, key));
        }
    }
}
