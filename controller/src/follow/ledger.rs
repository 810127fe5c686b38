//! The ledger follower: keeps each led shard's ledger, the fold of what its journal says about routes, and stores it in the
//! catalog with its position. A shard that starts gets a copy of it, exact to the last commit, so that limits, health and
//! circuits go on where they were, whoever led before.
//!
//! A flush stores the ledgers of all shards that have moved in one transaction. It is guarded by the epoch that was noted when
//! the shard was gained: a former leader writes nothing over its successor's. The journal is trimmed behind it.

use std::sync::Arc;

use flotilla_protocol::id::{Epoch, ShardId};
use flotilla_routing::ledger::Ledger;
use parking_lot::Mutex;

use super::{FollowError, FollowHandle, Follower};
use crate::domain::facts;
use crate::sql_params;
use crate::store::{Batch, Catalog, Journal, SqlError, StoreError};

pub struct LedgerFollower {
    /// None where nothing is stored: each start then folds the whole journal.
    catalog: Option<Arc<dyn Catalog>>,
    journal: Arc<dyn Journal>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared(Mutex<Vec<Place>>);

/// One shard. Empty while it is not led.
#[derive(Default)]
struct Place {
    epoch: u64,
    ledger: Ledger,
    /// What was taken, and what is stored.
    position: u64,
    stored: u64,
    /// A later leader writes it.
    fenced: bool,
}

/// Reads ledgers that contain everything which was committed when it was asked.
#[derive(Clone)]
pub struct LedgerReader {
    follow: FollowHandle,
    shared: Arc<Shared>,
}

impl LedgerFollower {
    pub fn new(catalog: Option<Arc<dyn Catalog>>, journal: Arc<dyn Journal>) -> Self {
        let places = (0..journal.shards()).map(|_| Place::default()).collect();
        Self { catalog, journal, shared: Arc::new(Shared(Mutex::new(places))) }
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

/// What the catalog has of a shard; no data before the first flush.
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
        self.0.lock().get_mut(usize::from(shard.0)).map(act)
    }

    /// What has moved since it was stored.
    fn to_write(&self) -> Vec<(ShardId, u64, u64, Vec<u8>)> {
        let places = self.0.lock();
        let moved = (0u16..).zip(places.iter()).filter(|(_, place)| place.is_writable());
        moved.map(|(n, place)| (ShardId(n), place.epoch, place.position, place.ledger.to_bytes())).collect()
    }
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
                *place = Place { epoch: epoch.0, ledger, position, stored: position, fenced };
            });
        }
        Ok(())
    }

    fn lost(&mut self, shard: ShardId) {
        self.shared.with(shard, |place| *place = Place::default());
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), FollowError> {
        self.shared.with(batch.shard, |place| {
            for event in batch.events.iter() {
                facts::of_event(event, |fact| {
                    place.ledger.apply(&fact);
                });
            }
            place.position = batch.seq;
        });
        std::future::ready(Ok(())).await
    }

    async fn flush(&mut self) -> Result<(), FollowError> {
        let Some(catalog) = &self.catalog else { return Ok(()) };
        let writes = self.shared.to_write();
        if writes.is_empty() {
            return Ok(());
        }
        let written = catalog.run(move |tx| {
            let mut written = Vec::with_capacity(writes.len());
            for (shard, epoch, position, data) in writes {
                let sql = "UPDATE shard_ledgers SET position = $3, data = $4
                    WHERE shard = $1 AND epoch = $2 AND position <= $3";
                let rows = tx.execute(sql, sql_params![shard.0, epoch, position, data])?;
                written.push((shard, epoch, position, rows == 1));
            }
            Ok::<_, SqlError>(written)
        });
        for (shard, epoch, position, done) in written.await.map_err(store_error)? {
            self.shared.with(shard, |place| {
                if place.epoch == epoch {
                    place.stored = position;
                    place.fenced |= !done;
                }
            });
        }
        Ok(())
    }

    /// A transaction of the catalog is durable when it has returned.
    async fn sync(&mut self) -> Result<(), FollowError> {
        std::future::ready(Ok(())).await
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
        let ledger = self.shared.with(shard, |place| place.ledger.clone()).unwrap_or_default();
        self.follow.still_led(shard, epoch)?;
        Ok(ledger)
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
