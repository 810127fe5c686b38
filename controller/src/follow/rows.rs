//! The rows follower: turns the journal into message rows, and lets readers wait for them.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, MessageId, ShardId, TenantId};
use parking_lot::Mutex;
use rustc_hash::{FxHashMap, FxHashSet};

use super::recent::Recent;
use super::{FollowError, FollowHandle, Follower, Lag};
use crate::domain::event::{EventKind, Inbound};
use crate::domain::record::MessageRecord;
use crate::store::{Batch, Flush, IDEMPOTENCY_MS, InboundFilter, KeyUse, MessageFilter, Page, Paged, Rows, StoreError};

/// Inbound messages that are held back at most.
const INBOUND_MAX: usize = 4_096;

pub struct RowsFollower {
    rows: Arc<dyn Rows>,
    recent: Arc<Mutex<Recent>>,
    /// What was taken, by shard.
    positions: Vec<u64>,
    /// Where the stored rows were when we last read or wrote them: what is in memory is built on that.
    bases: Vec<u64>,
    /// What waits for the next flush beside the messages.
    pending: Pending,
}

#[derive(Default)]
struct Pending {
    inbound: Vec<(ShardId, Inbound)>,
    keys: Vec<(TenantId, [u8; 16], KeyUse)>,
    moved: FxHashSet<ShardId>,
    now_ms: u64,
}

impl RowsFollower {
    /// Begins where the rows are, and again with each shard that is gained.
    pub async fn open(rows: Arc<dyn Rows>) -> Result<Self, StoreError> {
        let positions = rows.positions().await?;
        Ok(Self { rows, recent: Arc::default(), bases: positions.clone(), positions, pending: Pending::default() })
    }

    /// What is in memory of a shard is not ours to write any more.
    fn forget(&mut self, shard: ShardId) {
        let shards = self.positions.len() as u16;
        self.recent.lock().forget(shard);
        self.pending.inbound.retain(|(of, _)| *of != shard);
        self.pending.keys.retain(|(tenant, ..)| ShardId::of(*tenant, shards) != shard);
        self.pending.moved.remove(&shard);
    }

    async fn write(&mut self) -> Result<(), StoreError> {
        let moved = &self.pending.moved;
        let positions: Vec<_> = moved.iter().map(|shard| (*shard, self.position(*shard))).collect();
        let flush = Flush {
            messages: self.recent.lock().to_write(),
            inbound: self.pending.inbound.clone(),
            keys: self.pending.keys.clone(),
            positions: positions.clone(),
            bases: moved.iter().map(|shard| (*shard, self.bases[usize::from(shard.0)])).collect(),
            now_ms: self.pending.now_ms,
        };
        self.rows.write(flush).await?;
        for (shard, position) in positions {
            self.bases[usize::from(shard.0)] = position;
        }
        self.pending = Pending::default();
        self.recent.lock().written();
        Ok(())
    }

    /// The reader for this follower; `follow` gives the handle.
    pub fn reader(&self) -> impl FnOnce(FollowHandle) -> RowsReader + use<> {
        let (rows, recent) = (Arc::clone(&self.rows), Arc::clone(&self.recent));
        let shards = self.positions.len() as u16;
        move |follow| RowsReader { follow, rows, recent, shards }
    }

    /// Brings what the batch changes, and what is not here, into memory.
    async fn load_missing(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let missing: Vec<MessageId> = {
            let recent = self.recent.lock();
            let mut fresh = FxHashSet::default();
            let mut missing = FxHashSet::default();
            for event in batch.events.iter() {
                match &event.kind {
                    EventKind::Accepted(accepted) => {
                        fresh.insert(accepted.submission.id);
                    }
                    EventKind::Changed(changed)
                        if !fresh.contains(&changed.message) && !recent.has(changed.message) =>
                    {
                        missing.insert(changed.message);
                    }
                    EventKind::Changed(_) | EventKind::Inbound(_) => {}
                }
            }
            missing.into_iter().collect()
        };
        if missing.is_empty() {
            return Ok(());
        }
        let found = self.rows.get_many(missing).await?;
        let mut recent = self.recent.lock();
        for record in found {
            recent.load(batch.shard, record);
        }
        Ok(())
    }

    fn take(&mut self, batch: &Batch) {
        let shard = batch.shard;
        let mut recent = self.recent.lock();
        let mut keys: FxHashMap<(TenantId, [u8; 16]), KeyUse> = FxHashMap::default();
        for (index, event) in batch.events.iter().enumerate() {
            self.pending.now_ms = self.pending.now_ms.max(event.at_ms);
            match &event.kind {
                EventKind::Accepted(accepted) => {
                    let submission = &accepted.submission;
                    if let Some(idempotency) = &accepted.idempotency {
                        let first =
                            || KeyUse { request: idempotency.request, messages: Vec::new(), at_ms: event.at_ms };
                        let used = keys.entry((submission.tenant, idempotency.key)).or_insert_with(first);
                        used.messages.push(submission.id);
                    }
                    let order = (batch.seq, index as u32);
                    recent.accept(shard, MessageRecord::accepted(submission.clone(), event.at_ms, order));
                }
                EventKind::Changed(changed) => {
                    if !recent.change(event.at_ms, changed) {
                        // Only after the journal had lost batches (`missed`).
                        tracing::error!(message = %changed.message, %shard, seq = batch.seq, "a change of a message that is not there");
                    }
                }
                EventKind::Inbound(inbound) => self.pending.inbound.push((shard, (**inbound).clone())),
            }
        }
        self.pending.keys.extend(keys.into_iter().map(|((tenant, key), used)| (tenant, key, used)));
    }
}

impl Follower for RowsFollower {
    fn name(&self) -> &'static str {
        "rows"
    }

    fn position(&self, shard: ShardId) -> u64 {
        self.positions.get(usize::from(shard.0)).copied().unwrap_or(0)
    }

    async fn gained(&mut self, shards: &[(ShardId, Epoch)]) -> Result<(), FollowError> {
        // Another node may have written since we last did.
        let stored = self.rows.positions().await?;
        for (shard, _) in shards {
            let number = usize::from(shard.0);
            self.positions[number] = stored.get(number).copied().unwrap_or(0);
            self.bases[number] = self.positions[number];
        }
        Ok(())
    }

    fn lost(&mut self, shard: ShardId) {
        self.forget(shard);
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), FollowError> {
        self.load_missing(batch).await?;
        self.take(batch);
        self.positions[usize::from(batch.shard.0)] = batch.seq;
        self.pending.moved.insert(batch.shard);
        Ok(())
    }

    fn full(&self) -> bool {
        self.recent.lock().full() || self.pending.inbound.len() >= INBOUND_MAX
    }

    async fn flush(&mut self) -> Result<(), FollowError> {
        loop {
            match self.write().await {
                Err(StoreError::Behind { shard, position }) if self.pending.moved.contains(&shard) => {
                    // Whoever led it before has written of it after we had read how far the rows were: go on from there. What
                    // is in memory may hold changes twice, as it was loaded from rows that had them already.
                    tracing::info!(%shard, position, ours = self.position(shard), "the rows of a shard are further than we are");
                    self.forget(shard);
                    self.positions[usize::from(shard.0)] = position;
                    self.bases[usize::from(shard.0)] = position;
                }
                done => return Ok(done?),
            }
        }
    }

    async fn sync(&mut self) -> Result<(), FollowError> {
        Ok(self.rows.sync().await?)
    }

    async fn missed(&mut self, shard: ShardId, up_to: u64) -> Result<(), FollowError> {
        // The journal was the only place, so those rows are lost: somebody has deleted the rows file, or mixed two copies.
        self.positions[usize::from(shard.0)] = up_to;
        self.pending.moved.insert(shard);
        std::future::ready(Ok(())).await
    }
}

/// Reads rows that contain everything which was committed when it was asked.
#[derive(Clone)]
pub struct RowsReader {
    follow: FollowHandle,
    rows: Arc<dyn Rows>,
    recent: Arc<Mutex<Recent>>,
    shards: u16,
}

impl RowsReader {
    /// Returns when the rows contain what is committed now; for queries of one's own through [`RowsReader::rows`]. A new leader
    /// calls it after it has taken the epoch: then nothing more is committed, and the rows are exactly the journal's end.
    pub async fn caught_up(&self, shard: ShardId) -> Result<(), StoreError> {
        self.follow.caught_up(shard).await
    }

    pub fn rows(&self) -> &Arc<dyn Rows> {
        &self.rows
    }

    /// How far the rows are behind the journal: refuse new messages when it is too much.
    pub fn lag(&self) -> Lag {
        self.follow.lag()
    }

    pub async fn get(&self, tenant: TenantId, message: MessageId) -> Result<Option<MessageRecord>, StoreError> {
        let shard = self.shard(tenant);
        // What is taken in memory is here or in the rows; so nobody has to write for a single message to be seen.
        let epoch = self.follow.taken(shard).await?;
        let recent = self.recent.lock().get(message);
        let found = match recent {
            Some(record) => Some(Arc::unwrap_or_clone(record)).filter(|record| record.submission.tenant == tenant),
            None => self.rows.get(tenant, message).await?,
        };
        // With the shard goes what was in memory of it, and the rows alone may be older than what was acknowledged.
        self.follow.still_led(shard, epoch)?;
        Ok(found)
    }

    pub async fn list(
        &self,
        tenant: TenantId,
        filter: MessageFilter,
        page: Page,
    ) -> Result<Paged<MessageRecord>, StoreError> {
        self.caught_up(self.shard(tenant)).await?;
        self.rows.list(tenant, filter, page).await
    }

    pub async fn inbound(
        &self,
        tenant: TenantId,
        filter: InboundFilter,
        page: Page,
    ) -> Result<Paged<Inbound>, StoreError> {
        self.caught_up(self.shard(tenant)).await?;
        self.rows.inbound(tenant, filter, page).await
    }

    /// Who used an idempotency key in the last 24 hours. Does not wait: the shard knows the keys of what it has just accepted.
    pub async fn idempotent(&self, tenant: TenantId, key: [u8; 16], now_ms: u64) -> Result<Option<KeyUse>, StoreError> {
        self.rows.idempotent(tenant, key, now_ms.saturating_sub(IDEMPOTENCY_MS)).await
    }

    fn shard(&self, tenant: TenantId) -> ShardId {
        ShardId::of(tenant, self.shards)
    }
}

#[cfg(test)]
mod tests;
