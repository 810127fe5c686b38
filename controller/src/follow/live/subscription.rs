//! One subscriber: a cursor over its shard's journal, and the fleet's events between, as long as the shard is led here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_protocol::id::ShardId;
use futures_util::{Stream, stream};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

use super::super::group::Lease;
use super::render::render;
use super::{EventId, LiveEvent, Place};
use crate::store::{Batch, Feed, Journal, StoreError};

/// Taken from the journal at once: what a subscriber holds in memory.
const READ_BYTES: usize = 256 << 10;
/// Commits come by the thousand per second; a subscriber that is at the end looks again after this.
const PAUSE: Duration = Duration::from_millis(20);
const RETRY: Duration = Duration::from_secs(1);

struct Subscription {
    place: Place,
    journal: Arc<dyn Journal>,
    feed: Feed,
    shard: ShardId,
    lease: Lease,
    /// Batches up to this sequence are behind us, and of the next one as many events as `skip` says.
    seq: u64,
    skip: usize,
    /// Read and not yet looked at; the first one is `seq + 1`.
    batches: VecDeque<Batch>,
    /// To be handed out before anything else.
    first: Option<LiveEvent>,
}

pub(super) async fn stream(
    place: Place,
    journal: Arc<dyn Journal>,
    lease: Lease,
    after: Option<EventId>,
) -> Result<impl Stream<Item = LiveEvent> + Send + use<>, StoreError> {
    let shard = lease.shard();
    let last = journal.last(shard).await?;
    let mut subscription = Subscription {
        place,
        feed: journal.feed(),
        journal,
        shard,
        lease,
        seq: last,
        skip: 0,
        batches: VecDeque::new(),
        first: None,
    };
    match after {
        None => subscription.first = Some(subscription.mark("ready", &b"{}"[..])),
        // From another journal, such as one that a backup has replaced.
        Some(id) if id.seq > last => subscription.first = Some(subscription.lost()),
        Some(EventId { seq, index: None, .. }) => subscription.seq = seq,
        Some(EventId { seq, index: Some(index), .. }) => {
            subscription.seq = seq.saturating_sub(1);
            subscription.skip = index as usize + 1;
        }
    }
    Ok(stream::unfold(subscription, |mut subscription| async move {
        let event = subscription.next().await?;
        Some((event, subscription))
    }))
}

impl Subscription {
    /// `None` at the end: the shard is led elsewhere.
    async fn next(&mut self) -> Option<LiveEvent> {
        if let Some(event) = self.first.take() {
            return Some(event);
        }
        loop {
            match self.place.fleet.try_recv() {
                Ok(event) => return Some(event),
                Err(TryRecvError::Lagged(_)) => return Some(missed_fleet()),
                // Closed: not while our place keeps the hub.
                Err(TryRecvError::Empty | TryRecvError::Closed) => {}
            }
            if let Some(event) = self.take() {
                return Some(event);
            }
            if self.lease.is_over() {
                return None;
            }
            if self.seq < self.feed.last(self.shard) {
                match self.journal.read(self.shard, self.seq, READ_BYTES).await {
                    Ok(batches) if !batches.is_empty() => self.batches = batches.into(),
                    Ok(_) => tokio::time::sleep(PAUSE).await,
                    Err(StoreError::Trimmed { .. }) => return Some(self.skip_to_end()),
                    Err(error) => {
                        tracing::debug!(shard = %self.shard, %error, "an event stream cannot read the journal");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            } else if let Some(event) = self.wait().await {
                return Some(event);
            }
        }
    }

    /// The next event of what has been read.
    fn take(&mut self) -> Option<LiveEvent> {
        while let Some(batch) = self.batches.front() {
            while let Some(event) = batch.events.get(self.skip) {
                let index = u32::try_from(self.skip).unwrap_or(u32::MAX);
                self.skip += 1;
                if let Some((kind, data)) = render(self.place.tenant, event) {
                    let id = EventId { shard: self.shard, seq: batch.seq, index: Some(index) };
                    return Some(LiveEvent { id: Some(id), kind, at_ms: event.at_ms, data });
                }
            }
            self.seq = batch.seq;
            self.skip = 0;
            self.batches.pop_front();
        }
        None
    }

    /// Waits for a commit or for the end, or answers an event of the fleet.
    async fn wait(&mut self) -> Option<LiveEvent> {
        tokio::select! {
            event = self.place.fleet.recv() => match event {
                Ok(event) => Some(event),
                Err(RecvError::Lagged(_)) => Some(missed_fleet()),
                Err(RecvError::Closed) => std::future::pending().await,
            },
            () = self.lease.over() => None,
            () = self.feed.changed() => {
                tokio::time::sleep(PAUSE).await;
                None
            }
        }
    }

    fn skip_to_end(&mut self) -> LiveEvent {
        self.seq = self.feed.last(self.shard);
        self.skip = 0;
        self.lost()
    }

    /// The journal does not have what comes next. Whoever lists after this event has missed nothing.
    fn lost(&self) -> LiveEvent {
        self.mark("reset", &br#"{"list":["messages","inbound","devices","sims"]}"#[..])
    }

    /// An event that stands for a place in the journal.
    fn mark(&self, kind: &'static str, data: &'static [u8]) -> LiveEvent {
        let id = EventId { shard: self.shard, seq: self.seq, index: None };
        LiveEvent { id: Some(id), kind, at_ms: 0, data: Bytes::from_static(data) }
    }
}

fn missed_fleet() -> LiveEvent {
    LiveEvent { id: None, kind: "reset", at_ms: 0, data: Bytes::from_static(br#"{"list":["devices","sims"]}"#) }
}
