//! What a shard reads from the store: everything it starts from, and what its machine asks for later.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{Epoch, ShardId, TenantId};
use flotilla_routing::ledger::Ledger;
use flotilla_routing::settings::Tenants;
use rustc_hash::FxHashSet;
use tokio::time::sleep;

use super::ShardDeps;
use crate::domain::message::Route;
use crate::domain::shard::{Effect, Input, KnownKey, OpenCount, Restored};
use crate::store::{CommitError, IDEMPOTENCY_MS, LOAD_MAX, QueuedQuery, Rows, StoreError};

/// Pauses between tries of a read, doubling. The last one is how long a store may be back before anybody notices.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Why a shard did not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    #[error("cannot take the shard")]
    Take(#[from] CommitError),
    #[error("cannot read its messages")]
    Read(#[from] StoreError),
}

/// Takes the shard and reads what its machine starts from. From the moment it is taken nobody else commits, so the rows, once
/// they have caught up, are exactly the journal's end (docs/adr/0003), and so is the ledger.
pub(super) async fn restore(deps: &ShardDeps, shard: ShardId, epoch: Epoch) -> Result<Restored, StartError> {
    let last_seq = deps.journal.take(shard, epoch).await?;
    deps.followers.lead(shard, epoch);
    deps.reader.caught_up(shard).await?;
    let ledger = deps.ledgers.read(shard).await?;
    let tenants = deps.routing.tenants(shard).await?;
    let restored = restored(&**deps.reader.rows(), shard, epoch, last_seq).await?;
    let in_flight: FxHashSet<(TenantId, Route)> =
        restored.in_flight.iter().filter_map(|record| Some((record.submission.tenant, record.route?))).collect();
    let routes = deps.routing.routes(shard, in_flight.into_iter().collect()).await?;
    Ok(Restored { tenants, routes, ledger, ..restored })
}

/// What a machine starts from, by rows that contain everything up to `last_seq`; without what tenants have set, their routes,
/// and the ledger.
pub async fn restored(rows: &dyn Rows, shard: ShardId, epoch: Epoch, last_seq: u64) -> Result<Restored, StoreError> {
    let mut in_flight = Vec::new();
    loop {
        let after = in_flight.last().map_or((0, 0), |record: &crate::domain::record::MessageRecord| record.order);
        let page = rows.in_flight(shard, after, LOAD_MAX).await?;
        let is_last = page.len() < LOAD_MAX;
        in_flight.extend(page);
        if is_last {
            break;
        }
    }
    let open = rows.open_counts(shard).await?.into_iter().map(|count| OpenCount {
        tenant: count.tenant,
        class: count.class,
        state: count.state,
        messages: count.messages,
    });
    let inbound = rows.inbound_positions(shard).await?;
    Ok(Restored {
        shard,
        epoch,
        last_seq,
        in_flight,
        open: open.collect(),
        inbound,
        tenants: Tenants::default(),
        routes: Vec::new(),
        ledger: Ledger::default(),
    })
}

/// Answers a read of the machine, trying until the store does. `None` for effects that are no reads.
pub(super) async fn answer(deps: Arc<ShardDeps>, shard: ShardId, effect: Effect) -> Option<Input> {
    let mut pause = RETRY_MIN;
    loop {
        match try_answer(&deps, shard, &effect).await {
            Ok(input) => return input,
            Err(error) => {
                tracing::warn!(%shard, %error, "a read of the store failed; trying again");
                sleep(pause).await;
                pause = (2 * pause).min(RETRY_MAX);
            }
        }
    }
}

async fn try_answer(deps: &ShardDeps, shard: ShardId, effect: &Effect) -> Result<Option<Input>, StoreError> {
    let reader = &deps.reader;
    match effect {
        Effect::Load { tenant, message } => {
            let record = reader.get(*tenant, *message).await?.map(Box::new);
            return Ok(Some(Input::Loaded { message: *message, record }));
        }
        Effect::Refill { .. } | Effect::FetchDue { .. } | Effect::FetchOverdue { .. } => {
            reader.caught_up(shard).await?;
        }
        _ => {}
    }
    answer_from(&**reader.rows(), shard, effect, deps.clock.now().unix_ms).await
}

/// Answers a read by rows that contain what was committed when it was asked; for keys older ones will do. `None` for effects
/// that are no reads.
pub async fn answer_from(
    rows: &dyn Rows,
    shard: ShardId,
    effect: &Effect,
    now_ms: u64,
) -> Result<Option<Input>, StoreError> {
    Ok(Some(match effect {
        Effect::Load { tenant, message } => {
            let record = rows.get(*tenant, *message).await?.map(Box::new);
            Input::Loaded { message: *message, record }
        }
        Effect::FindKey { token, tenant, key } => {
            let known = rows.idempotent(*tenant, *key, now_ms.saturating_sub(IDEMPOTENCY_MS)).await?;
            let known = known.map(|known| KnownKey { request: known.request, ids: known.messages });
            Input::KeyFound { token: *token, known }
        }
        Effect::Refill { tenant, class, after, limit } => {
            let query = QueuedQuery { shard, tenant: Some(*tenant), class: Some(*class), after: *after, limit: *limit };
            Input::Refilled { tenant: *tenant, class: *class, records: rows.queued(query).await? }
        }
        Effect::FetchDue { until_ms, limit } => Input::Due { records: rows.due(shard, *until_ms, *limit).await? },
        Effect::FetchOverdue { now_ms, limit } => {
            Input::Overdue { records: rows.overdue(shard, *now_ms, *limit).await? }
        }
        Effect::Accepted { .. } | Effect::Cancelled { .. } | Effect::Send { .. } | Effect::Tell(_) => {
            return Ok(None);
        }
    }))
}
