//! The ledger follower: keeps each led shard's ledger, the fold of what its journal says about routes, and stores it in the
//! catalog with its position. A shard that starts gets a copy of it, exact to the last commit, so that limits, health and
//! circuits go on where they were, whoever led before.
//!
//! A ledger is stored whole, and has megabytes where there are thousands of routes or followed recipients. So it is written at a
//! pace bound to its size ([`pace`]), beside the follower's work: a copy is shared until the next fact changes it. At once it is
//! written when its shard is handed over and when the program ends. A write is guarded by the epoch that was noted when the
//! shard was gained: a former leader writes nothing over its successor's. The journal is trimmed behind what is stored.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId};
use flotilla_routing::ledger::Ledger;
use parking_lot::Mutex;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::Instant;

use super::{FollowError, FollowHandle, Follower};
use crate::domain::facts;
use crate::sql_params;
use crate::store::{Batch, Catalog, Journal, SqlError, StoreError};

mod pace;

use pace::Pace;

/// How soon a write under way is looked at again.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Pauses after writes that have failed.
const REFUSED_MIN: Duration = Duration::from_secs(1);
const REFUSED_MAX: Duration = Duration::from_secs(30);

pub struct LedgerFollower {
    /// None where nothing is stored: each start then folds the whole journal.
    catalog: Option<Arc<dyn Catalog>>,
    journal: Arc<dyn Journal>,
    shared: Arc<Shared>,
    /// One at a time.
    writing: Option<JoinHandle<Result<Vec<Written>, SqlError>>>,
    /// The last write has failed.
    refused: Option<Refused>,
}

/// A lock for each shard: who changes one, or copies it, keeps nobody from another.
struct Shared(Box<[Mutex<Place>]>);

/// One shard. Empty while it is not led.
#[derive(Default)]
struct Place {
    epoch: u64,
    /// Shared with a write under way, and with shards that start: the next fact makes a copy then.
    ledger: Arc<Ledger>,
    /// What was taken, and what is stored.
    position: u64,
    stored: u64,
    pace: Pace,
    /// A later leader writes it.
    fenced: bool,
}

/// The catalog does not take what is written. To make the bytes again and again would only burden it more.
#[derive(Clone, Copy, Debug)]
struct Refused {
    until: Instant,
    delay: Duration,
}

impl Refused {
    fn again(former: Option<Self>, now: Instant) -> Self {
        let delay = former.map_or(REFUSED_MIN, |former| (former.delay * 2).min(REFUSED_MAX));
        Self { until: now + delay, delay }
    }
}

/// Reads ledgers that contain everything which was committed when it was asked.
#[derive(Clone)]
pub struct LedgerReader {
    follow: FollowHandle,
    shared: Arc<Shared>,
}

impl LedgerFollower {
    pub fn new(catalog: Option<Arc<dyn Catalog>>, journal: Arc<dyn Journal>) -> Self {
        let places = (0..journal.shards()).map(|_| Mutex::default()).collect();
        Self { catalog, journal, shared: Arc::new(Shared(places)), writing: None, refused: None }
    }

    /// The reader for this follower; `follow` gives the handle.
    pub fn reader(&self) -> impl FnOnce(FollowHandle) -> LedgerReader + use<> {
        let shared = Arc::clone(&self.shared);
        move |follow| LedgerReader { follow, shared }
    }

    /// Raises the epochs of shards, and reads what is stored of them; None where a later leader has the shard already.
    async fn take(&self, shards: &[(ShardId, Epoch)]) -> Result<Vec<Option<Stored>>, StoreError> {
        let Some(catalog) = &self.catalog else {
            return Ok(vec![Some(Stored::default()); shards.len()]);
        };
        let shards = shards.to_vec();
        let taken = catalog.run(move |tx| {
            let take = |(shard, epoch): &(ShardId, Epoch)| {
                let sql = "INSERT INTO shard_ledgers (shard, epoch, position, data) VALUES ($1, $2, 0, $3)
                    ON CONFLICT (shard) DO UPDATE SET epoch = excluded.epoch WHERE shard_ledgers.epoch <= excluded.epoch
                    RETURNING position, data";
                let row = tx.query_one(sql, sql_params![shard.0, epoch.0, Vec::<u8>::new()])?;
                row.map(|row| Ok(Stored { position: row.get("position")?, data: row.get("data")? })).transpose()
            };
            shards.iter().map(take).collect::<Result<Vec<_>, SqlError>>()
        });
        taken.await.map_err(store_error)
    }
}

impl LedgerFollower {
    /// Waits for the write under way, if there is one.
    async fn finish(&mut self) -> Result<(), FollowError> {
        let Some(writing) = self.writing.take() else { return Ok(()) };
        let written = writing.await.map_err(|error| FollowError::Own(error.to_string()));
        let now = Instant::now();
        let written = match written.and_then(|written| written.map_err(|error| store_error(error).into())) {
            Ok(written) => written,
            Err(error) => {
                self.refused = Some(Refused::again(self.refused, now));
                return Err(error);
            }
        };
        self.refused = None;
        for Written { shard, epoch, position, bytes, done } in written {
            self.shared.with(shard, |place| {
                if place.epoch == epoch {
                    place.stored = position;
                    place.fenced |= !done;
                    place.pace.wrote(bytes, now);
                }
            });
        }
        Ok(())
    }

    /// What has moved of these, at once.
    async fn store_now(&mut self, which: impl Fn(ShardId) -> bool) -> Result<(), FollowError> {
        if let Err(error) = self.finish().await {
            tracing::debug!(%error, "a write of ledgers has failed; it is made again");
        }
        let Some(catalog) = &self.catalog else { return Ok(()) };
        let mut writes = self.shared.to_write(None);
        writes.retain(|write| which(write.shard));
        self.writing = Some(tokio::spawn(write(Arc::clone(catalog), writes)));
        self.finish().await
    }
}

/// What the catalog has of a shard; no data before the first write.
#[derive(Clone, Default)]
struct Stored {
    position: u64,
    data: Vec<u8>,
}

impl Stored {
    /// One that cannot be read is as good as none: what the journal still has is all that is left then.
    fn open(self, shard: ShardId) -> (u64, Ledger) {
        if self.data.is_empty() {
            return (0, Ledger::default());
        }
        match Ledger::from_bytes(&self.data) {
            Ok(ledger) => (self.position, ledger),
            Err(error) => {
                tracing::error!(%shard, %error, "the ledger of a shard cannot be read: limits count from what the journal has");
                (0, Ledger::default())
            }
        }
    }
}

impl Shared {
    fn with<T>(&self, shard: ShardId, act: impl FnOnce(&mut Place) -> T) -> Option<T> {
        self.0.get(usize::from(shard.0)).map(|place| act(&mut place.lock()))
    }

    /// What has moved since it was stored, and is due at this time; without a time all of it.
    fn to_write(&self, due: Option<Instant>) -> Vec<ToWrite> {
        let write = |(n, place): (u16, &Mutex<Place>)| {
            let place = place.lock();
            let is_due = place.is_writable() && due.is_none_or(|now| place.pace.is_due(now));
            let (epoch, position) = (place.epoch, place.position);
            is_due.then(|| ToWrite { shard: ShardId(n), epoch, position, ledger: Arc::clone(&place.ledger) })
        };
        (0u16..).zip(&self.0).filter_map(write).collect()
    }

    /// When the first write is due.
    fn due_at(&self) -> Option<Instant> {
        let places = self.0.iter().map(|place| place.lock());
        places.filter(|place| place.is_writable()).map(|place| place.pace.due_at()).min()
    }
}

struct ToWrite {
    shard: ShardId,
    epoch: u64,
    position: u64,
    ledger: Arc<Ledger>,
}

/// What has become of a write.
struct Written {
    shard: ShardId,
    epoch: u64,
    position: u64,
    bytes: usize,
    /// Not when a later leader has the shard.
    done: bool,
}

/// Stores ledgers. Making their bytes takes a while, and is done on the thread that runs the transaction.
async fn write(catalog: Arc<dyn Catalog>, writes: Vec<ToWrite>) -> Result<Vec<Written>, SqlError> {
    let mut made = Vec::with_capacity(writes.len());
    for ToWrite { shard, epoch, position, ledger } in writes {
        let bytes = spawn_blocking(move || ledger.to_bytes()).await;
        let bytes = bytes.map_err(|error| SqlError::Statement(error.to_string()))?;
        made.push((shard, epoch, position, bytes));
    }
    catalog
        .run(move |tx| {
            let mut written = Vec::with_capacity(made.len());
            for (shard, epoch, position, data) in made {
                let bytes = data.len();
                let sql = "UPDATE shard_ledgers SET position = $3, data = $4
                    WHERE shard = $1 AND epoch = $2 AND position <= $3";
                let rows = tx.execute(sql, sql_params![shard.0, epoch, position, data])?;
                written.push(Written { shard, epoch, position, bytes, done: rows == 1 });
            }
            Ok(written)
        })
        .await
}

impl Place {
    fn is_writable(&self) -> bool {
        self.epoch != 0 && !self.fenced && self.position > self.stored
    }
}

impl Follower for LedgerFollower {
    fn name(&self) -> &'static str {
        "ledger"
    }

    fn position(&self, shard: ShardId) -> u64 {
        self.shared.with(shard, |place| place.position).unwrap_or(0)
    }

    async fn gained(&mut self, shards: &[(ShardId, Epoch)]) -> Result<(), FollowError> {
        let taken = self.take(shards).await?;
        for ((shard, epoch), stored) in shards.iter().zip(taken) {
            let fenced = stored.is_none();
            let (position, ledger) = stored.unwrap_or_default().open(*shard);
            let last = self.journal.last(*shard).await?;
            if position > last {
                // As after a restored backup: what it counts more is not given back.
                tracing::error!(%shard, position, last, "the ledger of a shard is ahead of its journal");
            }
            let position = position.min(last);
            self.shared.with(*shard, |place| {
                let pace = Pace::new(Instant::now());
                *place = Place { epoch: epoch.0, ledger: Arc::new(ledger), position, stored: position, pace, fenced };
            });
        }
        Ok(())
    }

    fn lost(&mut self, shard: ShardId) {
        self.shared.with(shard, |place| *place = Place::default());
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), FollowError> {
        self.shared.with(batch.shard, |place| {
            let ledger = Arc::make_mut(&mut place.ledger);
            for event in batch.events.iter() {
                facts::of_event(event, |fact| {
                    ledger.apply(&fact);
                });
            }
            place.position = batch.seq;
            place.pace.took(batch.events.len());
        });
        std::future::ready(Ok(())).await
    }

    /// Whoever reads a ledger reads it here: there is nothing to make visible.
    async fn flush(&mut self) -> Result<(), FollowError> {
        std::future::ready(Ok(())).await
    }

    /// A transaction of the catalog is durable when it has returned.
    async fn sync(&mut self) -> Result<(), FollowError> {
        std::future::ready(Ok(())).await
    }

    fn safe(&self, shard: ShardId, synced: u64) -> u64 {
        match self.catalog {
            Some(_) => self.shared.with(shard, |place| place.stored).unwrap_or(0),
            None => synced,
        }
    }

    /// Writes what is due, beside everything else.
    async fn step(&mut self) -> Result<bool, FollowError> {
        if self.writing.as_ref().is_some_and(|writing| !writing.is_finished()) {
            return Ok(false);
        }
        self.finish().await?;
        let now = Instant::now();
        let Some(catalog) = self.catalog.as_ref().filter(|_| self.refused.is_none_or(|refused| refused.until <= now))
        else {
            return Ok(false);
        };
        let writes = self.shared.to_write(Some(now));
        if !writes.is_empty() {
            self.writing = Some(tokio::spawn(write(Arc::clone(catalog), writes)));
        }
        Ok(false)
    }

    fn step_at(&self) -> Option<Instant> {
        match self.writing {
            Some(_) => Some(Instant::now() + LOOK_AGAIN),
            None => {
                let due_at = self.catalog.as_ref().and_then(|_| self.shared.due_at());
                due_at.map(|due_at| self.refused.map_or(due_at, |refused| due_at.max(refused.until)))
            }
        }
    }

    async fn hand_over(&mut self, shards: &[ShardId]) -> Result<(), FollowError> {
        self.store_now(|shard| shards.contains(&shard)).await
    }

    async fn end(&mut self) -> Result<(), FollowError> {
        self.store_now(|_| true).await
    }

    async fn missed(&mut self, shard: ShardId, up_to: u64) -> Result<(), FollowError> {
        // A store from before there were ledgers begins here; otherwise somebody has deleted the catalog's copy.
        tracing::info!(%shard, up_to, "the ledger of a shard begins with what the journal has");
        self.shared.with(shard, |place| place.position = place.position.max(up_to));
        std::future::ready(Ok(())).await
    }
}

impl LedgerReader {
    /// The ledger of a shard with everything that is committed now; of one that nobody commits to any more, all of it.
    pub async fn read(&self, shard: ShardId) -> Result<Ledger, StoreError> {
        let epoch = self.follow.taken(shard).await?;
        let ledger = self.shared.with(shard, |place| Arc::clone(&place.ledger)).unwrap_or_default();
        self.follow.still_led(shard, epoch)?;
        // Copied here, where nobody waits for it.
        Ok(Arc::unwrap_or_clone(ledger))
    }
}

fn store_error(error: SqlError) -> StoreError {
    match error {
        SqlError::Full => StoreError::Full,
        other => StoreError::Unavailable(other.to_string()),
    }
}

#[cfg(test)]
mod tests;
