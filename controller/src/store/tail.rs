//! The youngest end of the journal in memory: followers that keep up read it from here, and only those that fell behind
//! go to the disk. Bounded by bytes, whatever the number of followers and however slow they are.

use std::collections::VecDeque;
use std::sync::Arc;

use flotilla_protocol::id::ShardId;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{Batch, StoreError};

/// What the engine has committed lately, and how far each shard is.
pub(crate) struct Tail {
    inner: Mutex<Inner>,
    /// Counts publications; followers wait for it to move.
    version: watch::Sender<u64>,
    bytes_max: usize,
}

struct Inner {
    shards: Vec<ShardTail>,
    /// The shards of the kept batches, the oldest first: what to drop next.
    order: VecDeque<ShardId>,
    bytes: usize,
    /// Why the journal cannot tell its positions, while it cannot.
    broken: Option<String>,
}

#[derive(Default)]
struct ShardTail {
    last: u64,
    /// Events committed since this process opened the journal.
    events: u64,
    batches: VecDeque<(Batch, usize)>,
}

impl Tail {
    pub(crate) fn new(last: &[u64], bytes_max: usize) -> Arc<Self> {
        let shards = last.iter().map(|last| ShardTail { last: *last, ..ShardTail::default() }).collect();
        let inner = Inner { shards, order: VecDeque::new(), bytes: 0, broken: None };
        Arc::new(Self { inner: Mutex::new(inner), version: watch::Sender::new(0), bytes_max })
    }

    /// Makes durable batches visible. `bytes` is the encoded size of each; the decoded one is a small multiple of it.
    pub(crate) fn publish(&self, batches: impl IntoIterator<Item = (Batch, usize)>) {
        let mut inner = self.inner.lock();
        for (batch, bytes) in batches {
            let shard = batch.shard;
            let tail = &mut inner.shards[usize::from(shard.0)];
            tail.last = batch.seq;
            tail.events += batch.events.len() as u64;
            tail.batches.push_back((batch, bytes));
            inner.order.push_back(shard);
            inner.bytes += bytes;
        }
        while inner.bytes > self.bytes_max {
            inner.drop_oldest();
        }
        drop(inner);
        self.version.send_modify(|version| *version += 1);
    }

    /// The positions are not known until [`Tail::restore`].
    pub(crate) fn fail(&self, why: &str) {
        self.inner.lock().broken = Some(why.to_owned());
    }

    /// The engine is open again and has read its positions anew.
    pub(crate) fn restore(&self, last: &[u64]) {
        let mut inner = self.inner.lock();
        inner.broken = None;
        inner.order.clear();
        inner.bytes = 0;
        for (tail, last) in inner.shards.iter_mut().zip(last) {
            tail.last = *last;
            tail.batches.clear();
        }
        drop(inner);
        self.version.send_modify(|version| *version += 1);
    }

    /// Where some shards are, as was just read from the engine: others may have committed to them.
    pub(crate) fn moved(&self, positions: &[(ShardId, u64)]) {
        let mut inner = self.inner.lock();
        inner.broken = None;
        for (shard, last) in positions {
            inner.move_to(*shard, *last);
        }
        drop(inner);
        self.version.send_modify(|version| *version += 1);
    }

    /// Where a shard of somebody else is. Two who ask at the same time may be told in the wrong order: it only goes on.
    pub(crate) fn seen(&self, shard: ShardId, last: u64) {
        let mut inner = self.inner.lock();
        if inner.shards.get(usize::from(shard.0)).is_none_or(|tail| tail.last >= last) {
            return;
        }
        inner.move_to(shard, last);
        drop(inner);
        self.version.send_modify(|version| *version += 1);
    }

    pub(crate) fn last(&self, shard: ShardId) -> Result<u64, StoreError> {
        let inner = self.inner.lock();
        if let Some(why) = &inner.broken {
            return Err(StoreError::Unavailable(why.clone()));
        }
        let tail = inner.shards.get(usize::from(shard.0)).ok_or(StoreError::NoSuchShard { shard })?;
        Ok(tail.last)
    }

    /// The batches after a sequence, if all of them that the caller may have are here.
    pub(crate) fn read(&self, shard: ShardId, after: u64, bytes_max: usize) -> Result<Option<Vec<Batch>>, StoreError> {
        let inner = self.inner.lock();
        if let Some(why) = &inner.broken {
            return Err(StoreError::Unavailable(why.clone()));
        }
        let tail = inner.shards.get(usize::from(shard.0)).ok_or(StoreError::NoSuchShard { shard })?;
        if after >= tail.last {
            return Ok(Some(Vec::new()));
        }
        let Some(first) = tail.batches.front().map(|(batch, _)| batch.seq) else { return Ok(None) };
        if after + 1 < first {
            return Ok(None);
        }
        let mut room = bytes_max;
        let mut found = Vec::new();
        for (batch, bytes) in tail.batches.range((after + 1 - first) as usize..) {
            if !found.is_empty() && *bytes > room {
                break;
            }
            room = room.saturating_sub(*bytes);
            found.push(batch.clone());
        }
        Ok(Some(found))
    }

    pub(crate) fn feed(self: &Arc<Self>) -> Feed {
        Feed { changes: self.version.subscribe(), tail: Arc::clone(self) }
    }
}

impl Inner {
    /// What is kept of a shard has to end where the shard does.
    fn move_to(&mut self, shard: ShardId, last: u64) {
        let Some(tail) = self.shards.get_mut(usize::from(shard.0)).filter(|tail| tail.last != last) else { return };
        tail.last = last;
        self.bytes -= tail.batches.drain(..).map(|(_, bytes)| bytes).sum::<usize>();
        self.order.retain(|kept| *kept != shard);
    }

    fn drop_oldest(&mut self) {
        let Some(shard) = self.order.pop_front() else { return };
        if let Some((_, bytes)) = self.shards[usize::from(shard.0)].batches.pop_front() {
            self.bytes -= bytes;
        }
    }
}

/// A follower's ear on the journal: says that, and how far, shards have moved. The batches come by [`super::Journal::read`],
/// which answers from memory for those that keep up; so a slow follower holds nothing and misses nothing.
///
/// Where several controllers share a store, a feed knows what its own node knows. Of a shard that this node has taken and not
/// lost: exactly what is committed, and every commit wakes. Of any other shard: where it was when this node took it last or
/// asked [`super::Journal::last`]; what others commit wakes nobody, and a position never goes back. [`super::Journal::take`] has
/// set the position to what it answers, and woken, before it returns.
#[derive(Clone)]
pub struct Feed {
    changes: watch::Receiver<u64>,
    tail: Arc<Tail>,
}

impl Feed {
    /// The last committed sequence of a shard; 0 for a shard that does not exist.
    pub fn last(&self, shard: ShardId) -> u64 {
        self.tail.inner.lock().shards.get(usize::from(shard.0)).map_or(0, |tail| tail.last)
    }

    /// The same of all shards, shard 0 first.
    pub fn positions(&self) -> Vec<u64> {
        self.tail.inner.lock().shards.iter().map(|tail| tail.last).collect()
    }

    /// How many events were committed since the journal was opened, all shards together.
    pub fn events(&self) -> u64 {
        self.tail.inner.lock().shards.iter().map(|tail| tail.events).sum()
    }

    /// The last committed sequence of each shard and how many of its events were committed since the journal was opened, all as
    /// of one moment.
    pub fn each(&self, mut see: impl FnMut(ShardId, u64, u64)) {
        for (number, shard) in (0u16..).zip(&self.tail.inner.lock().shards) {
            see(ShardId(number), shard.last, shard.events);
        }
    }

    /// The same of one shard; zeros for one that does not exist.
    pub fn place(&self, shard: ShardId) -> (u64, u64) {
        let inner = self.tail.inner.lock();
        inner.shards.get(usize::from(shard.0)).map_or((0, 0), |shard| (shard.last, shard.events))
    }

    /// Waits for a commit after the last call of this (or after the feed was made). Cancel safe.
    pub async fn changed(&mut self) {
        // It cannot be closed: the feed keeps the sender's owner alive.
        let _ = self.changes.changed().await;
    }
}
