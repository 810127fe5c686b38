//! The follower that puts events of the journal into the lines of the endpoints that want them.
//!
//! Parcels and the position behind which they are complete are one transaction, so a kill loses nothing and adds nothing twice.
//! A tenant without endpoints costs a look into a map for each event, and a position every few seconds.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId, TenantId, WebhookId};

use super::courier::{Parcel, Place};
use super::endpoint;
use super::queue::QueueError;
use super::shared::Shared;
use crate::domain::callback::callback_line;
use crate::domain::event::{Event, EventKind};
use crate::follow::live::rendered;
use crate::follow::{FollowError, Follower};
use crate::store::{Batch, StoreError};

/// Parcels in memory before they are written.
const PENDING_MAX: usize = 4_096;

pub struct WebhooksFollower {
    shared: Arc<Shared>,
    shards: Vec<Followed>,
    pending: Vec<(ShardId, WebhookId, Parcel)>,
}

#[derive(Clone, Copy, Default)]
struct Followed {
    epoch: Epoch,
    position: u64,
    /// Up to where the catalog has it.
    written: u64,
}

impl From<QueueError> for FollowError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Fenced(shard) => StoreError::NotLeading { shard }.into(),
            QueueError::Sql(error) => Self::Own(error.to_string()),
        }
    }
}

impl WebhooksFollower {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let shards = vec![Followed::default(); usize::from(shared.shards)];
        Self { shared, shards, pending: Vec::new() }
    }

    async fn take(&mut self, shard: ShardId, place: Place, event: &Event) -> Result<(), FollowError> {
        let (tenant, subject, lane) = match &event.kind {
            EventKind::Accepted(accepted) => {
                let submission = &accepted.submission;
                (submission.tenant, submission.id.to_bytes(), callback_line(submission.callback_url.as_deref()))
            }
            EventKind::Changed(changed) => (changed.tenant, changed.message.to_bytes(), changed.facts.callback),
            EventKind::Inbound(inbound) => (inbound.tenant, inbound.id.to_bytes(), 0),
        };
        let callback = lane != 0;
        if callback {
            self.open_callbacks(tenant, event.at_ms).await?;
        } else if !self.shared.directory.knows(tenant) {
            return Ok(());
        }
        let Some((kind, data)) = rendered(tenant, event) else { return Ok(()) };
        for webhook in self.shared.directory.wanting(tenant, kind, event.at_ms, callback) {
            let is_callbacks = callback && webhook == endpoint::callbacks_of(tenant);
            let parcel = Parcel {
                place,
                lane: if is_callbacks { lane } else { 0 },
                subject,
                kind: kind.into(),
                at_ms: event.at_ms,
                since_ms: event.at_ms,
                data: data.clone(),
                attempts: 0,
                next_ms: 0,
            };
            self.pending.push((shard, webhook, parcel));
        }
        Ok(())
    }

    /// The first message of a tenant with an address of its own.
    async fn open_callbacks(&self, tenant: TenantId, at_ms: u64) -> Result<(), FollowError> {
        if self.shared.directory.get(tenant, endpoint::callbacks_of(tenant)).is_some() {
            return Ok(());
        }
        let made = self.shared.endpoints.callbacks(tenant, at_ms).await;
        self.shared.put(made.map_err(|error| FollowError::Own(error.to_string()))?);
        Ok(())
    }

    fn moved(&self) -> Vec<(ShardId, Epoch, u64)> {
        let shards = (0u16..).zip(&self.shards).filter(|(_, one)| one.position != one.written);
        shards.map(|(number, one)| (ShardId(number), one.epoch, one.position)).collect()
    }

    async fn write(&mut self) -> Result<(), FollowError> {
        let moved = self.moved();
        if moved.is_empty() {
            return Ok(());
        }
        self.shared.queue.write(moved.clone(), self.pending.clone()).await?;
        for (shard, _, position) in moved {
            self.shards[usize::from(shard.0)].written = position;
        }
        self.shared.append(self.pending.drain(..).map(|(_, webhook, parcel)| (webhook, parcel)));
        Ok(())
    }
}

impl Follower for WebhooksFollower {
    fn name(&self) -> &'static str {
        "webhooks"
    }

    fn position(&self, shard: ShardId) -> u64 {
        self.shards.get(usize::from(shard.0)).map_or(0, |one| one.position)
    }

    async fn gained(&mut self, shards: &[(ShardId, Epoch)]) -> Result<(), FollowError> {
        let positions = self.shared.queue.gain(shards.to_vec()).await?;
        let endpoints = self.shared.endpoints.all().await.map_err(|error| FollowError::Own(error.to_string()))?;
        for ((shard, epoch), position) in shards.iter().zip(positions) {
            if let Some(one) = self.shards.get_mut(usize::from(shard.0)) {
                *one = Followed { epoch: *epoch, position, written: position };
            }
        }
        let of_these = |tenant: TenantId| {
            let shard = ShardId::of(tenant, self.shared.shards);
            shards.iter().any(|(gained, _)| *gained == shard)
        };
        endpoints.into_iter().filter(|one| of_these(one.tenant)).for_each(|one| self.shared.put(one));
        Ok(())
    }

    fn lost(&mut self, shard: ShardId) {
        self.pending.retain(|(of, ..)| *of != shard);
        if let Some(one) = self.shards.get_mut(usize::from(shard.0)) {
            *one = Followed::default();
        }
        self.shared.forget(shard);
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), FollowError> {
        let before = self.pending.len();
        for (index, event) in (0u32..).zip(batch.events.iter()) {
            if let Err(error) = self.take(batch.shard, Place { seq: batch.seq, index }, event).await {
                self.pending.truncate(before);
                return Err(error);
            }
        }
        if let Some(one) = self.shards.get_mut(usize::from(batch.shard.0)) {
            one.position = batch.seq;
        }
        Ok(())
    }

    fn full(&self) -> bool {
        self.pending.len() >= PENDING_MAX
    }

    async fn flush(&mut self) -> Result<(), FollowError> {
        if self.pending.is_empty() { Ok(()) } else { self.write().await }
    }

    async fn sync(&mut self) -> Result<(), FollowError> {
        self.write().await
    }

    async fn missed(&mut self, shard: ShardId, up_to: u64) -> Result<(), FollowError> {
        tracing::warn!(%shard, up_to, "webhooks have missed events that the journal no longer has");
        if let Some(one) = self.shards.get_mut(usize::from(shard.0)) {
            one.position = one.position.max(up_to);
        }
        std::future::ready(Ok(())).await
    }
}
