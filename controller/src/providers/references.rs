//! Which of our attempts a maker's news are about: by our own reference where the maker sends it back, else by its id, which is
//! kept in the catalog before the attempt counts as sent.
//!
//! Writes of all sessions go through one task that takes what has come meanwhile together, so that a busy account costs a
//! transaction for many messages.

use std::sync::Arc;
use std::time::Duration;

use flotilla_protocol::id::{MessageId, ProviderId};
use flotilla_protocol::wire::Attempt;
use flotilla_providers::smpp::Tail;
use rustc_hash::FxHashMap;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::clock::Clock;
use crate::domain::message::SEGMENTS_MAX;
use crate::sql_params;
use crate::store::{Catalog, Row, SqlError, Tx};

/// How long a maker's id is remembered. Nobody reports later.
const KEEP_MS: u64 = 7 * 86_400_000;
/// References in one transaction.
const GROUP_MAX: usize = 1_000;
const QUEUE_MAX: usize = 10_000;
/// A store that does not take them for so long loses news, not messages: the attempts count as sent all the same.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_millis(200);
pub const ID_BYTES_MAX: usize = 128;

/// An attempt as a maker's id leads to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    pub attempt: Attempt,
    pub segments: u8,
    /// The one that an id is of (from 0), where each segment has an id of its own.
    pub segment: Option<u8>,
    /// Whom it went to, where that may have to be compared.
    pub to: Option<Tail>,
}

/// Our reference for an attempt: at most 36 characters, with all that a late report needs.
pub fn reference(attempt: Attempt, segments: u8) -> Box<str> {
    format!("{}-{}-{segments}", attempt.message, attempt.number).into()
}

/// Whoever calls back may write anything: each segment makes a report, so there are no more than a message can have.
pub fn parse(reference: &str) -> Option<Known> {
    let mut parts = reference.trim().split('-');
    let message = MessageId::parse(parts.next()?).ok()?;
    let number = parts.next()?.parse().ok()?;
    let segments = parts.next()?.parse().ok().filter(|segments| (1..=SEGMENTS_MAX).contains(segments))?;
    let known = Known { attempt: Attempt { message, number }, segments, segment: None, to: None };
    parts.next().is_none().then_some(known)
}

struct Write {
    provider: ProviderId,
    ids: Vec<(Box<str>, Known)>,
    done: oneshot::Sender<()>,
}

/// Cheap to clone; the writing task ends with the last one.
#[derive(Clone)]
pub struct References {
    catalog: Arc<dyn Catalog>,
    queue: mpsc::Sender<Write>,
}

impl References {
    pub fn start(catalog: Arc<dyn Catalog>, clock: Arc<dyn Clock>) -> Self {
        let (queue, writes) = mpsc::channel(QUEUE_MAX);
        tokio::spawn(write_all(Arc::clone(&catalog), clock, writes));
        Self { catalog, queue }
    }

    /// Returns when they are durable, or when that takes too long; false then.
    pub async fn keep(&self, provider: ProviderId, ids: Vec<(Box<str>, Known)>) -> bool {
        if ids.is_empty() {
            return true;
        }
        let (done, kept) = oneshot::channel();
        let write = Write { provider, ids, done };
        let wait = async { self.queue.send(write).await.is_ok() && kept.await.is_ok() };
        let kept = timeout(WRITE_DEADLINE, wait).await.unwrap_or(false);
        if !kept {
            metrics::counter!("flotilla_provider_references_lost_total").increment(1);
            tracing::warn!(%provider, "the store did not take a provider's message ids: their delivery reports are lost");
        }
        kept
    }

    pub async fn find(&self, provider: ProviderId, ids: Vec<Box<str>>) -> Result<FxHashMap<Box<str>, Known>, SqlError> {
        let sql = "SELECT message, attempt, segments, segment, recipient FROM provider_references \
                   WHERE provider = $1 AND reference = $2";
        let find = move |tx: &mut dyn Tx| {
            let mut found = FxHashMap::default();
            for id in ids {
                if let Some(row) = tx.query_one(sql, sql_params![provider, &*id])? {
                    found.insert(id, known_of(&row)?);
                }
            }
            Ok(found)
        };
        self.catalog.read(find).await
    }

    /// The newest of an account, for makers that have to be asked: what a session before this one has sent.
    pub async fn newest(&self, provider: ProviderId, limit: usize) -> Result<Vec<(Box<str>, Known, u64)>, SqlError> {
        let sql = format!(
            "SELECT reference, message, attempt, segments, segment, recipient, at_ms FROM provider_references WHERE provider = $1 \
             ORDER BY at_ms DESC LIMIT {limit}"
        );
        let rows = self.catalog.read(move |tx| tx.query(&sql, sql_params![provider])).await?;
        let known = rows.iter().map(|row| {
            let id: String = row.get("reference")?;
            Ok((id.into(), known_of(row)?, row.get("at_ms")?))
        });
        known.collect()
    }

    /// Nothing more is to be asked about these.
    pub async fn settle(&self, provider: ProviderId, ids: Vec<Box<str>>) -> Result<(), SqlError> {
        let sql = "DELETE FROM provider_references WHERE provider = $1 AND reference = $2";
        let settle = move |tx: &mut dyn Tx| {
            ids.iter().try_for_each(|id| tx.execute(sql, sql_params![provider, &**id]).map(drop))
        };
        self.catalog.run(settle).await
    }

    /// Forgets the old ones.
    pub async fn prune(&self, now_ms: u64) -> Result<u64, SqlError> {
        let before = now_ms.saturating_sub(KEEP_MS);
        let sql = "DELETE FROM provider_references WHERE at_ms < $1";
        self.catalog.run(move |tx| tx.execute(sql, sql_params![before])).await
    }
}

fn known_of(row: &Row) -> Result<Known, SqlError> {
    let attempt = Attempt { message: row.get("message")?, number: row.get("attempt")? };
    let to = row.get::<Option<u32>>("recipient")?.map(Tail::new);
    Ok(Known { attempt, segments: row.get("segments")?, segment: row.get("segment")?, to })
}

async fn write_all(catalog: Arc<dyn Catalog>, clock: Arc<dyn Clock>, mut writes: mpsc::Receiver<Write>) {
    while let Some(first) = writes.recv().await {
        let mut group = vec![first];
        let mut size = group[0].ids.len();
        while size < GROUP_MAX
            && let Ok(more) = writes.try_recv()
        {
            size += more.ids.len();
            group.push(more);
        }
        write_group(&catalog, clock.now().unix_ms, group).await;
    }
}

/// Tries until it is done, or nobody waits for it any more.
async fn write_group(catalog: &Arc<dyn Catalog>, now_ms: u64, mut group: Vec<Write>) {
    loop {
        group.retain(|write| !write.done.is_closed());
        if group.is_empty() {
            return;
        }
        let rows: Vec<(ProviderId, Box<str>, Known)> = group
            .iter()
            .flat_map(|write| write.ids.iter().map(|(id, known)| (write.provider, id.clone(), *known)))
            .collect();
        match catalog.run(move |tx| insert(tx, &rows, now_ms)).await {
            Ok(()) => {
                for write in group {
                    // Whoever waited may have given up.
                    let _ = write.done.send(());
                }
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "providers' message ids cannot be kept; trying again");
                sleep(RETRY).await;
            }
        }
    }
}

fn insert(tx: &mut dyn Tx, rows: &[(ProviderId, Box<str>, Known)], now_ms: u64) -> Result<(), SqlError> {
    let sql = "INSERT INTO provider_references (provider, reference, message, attempt, segments, segment, at_ms, \
               recipient) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (provider, reference) DO UPDATE \
               SET message = excluded.message, attempt = excluded.attempt, segments = excluded.segments, \
               segment = excluded.segment, at_ms = excluded.at_ms, recipient = excluded.recipient";
    rows.iter().try_for_each(|(provider, id, known)| {
        let Known { attempt, segments, segment, to } = *known;
        let (message, number) = (attempt.message, attempt.number);
        let params = sql_params![*provider, &**id, message, number, segments, segment, now_ms, to.map(Tail::digits)];
        tx.execute(sql, params).map(drop)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;
    use crate::domain::Now;
    use crate::store::testing::new_stores;

    #[test]
    fn a_reference_has_everything_and_fits() {
        let message = MessageId::new(1_763_640_000_123, [7; 10]);
        let known = Known { attempt: Attempt { message, number: 30 }, segments: 32, segment: None, to: None };
        let text = reference(known.attempt, known.segments);
        assert_eq!(text.len(), 36);
        assert_eq!(parse(&text), Some(known));
        let wrong = ["", "msg_1-1-1", &text[..34], &format!("{text}-1"), &text.replace("msg", "sim"), "a-b-c"];
        for text in wrong {
            assert_eq!(parse(text), None, "{text}");
        }
        for segments in [0, SEGMENTS_MAX + 1, u8::MAX] {
            assert_eq!(parse(&reference(known.attempt, segments)), None, "{segments} segments");
        }
    }

    #[tokio::test]
    async fn what_a_makers_id_means_is_kept_for_as_long_as_it_may_be_told() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::new(Now { unix_ms: 1_763_640_000_000, mono_ms: 1 }));
        let references = References::start(new_stores(dir.path()).catalog, clock.clone());
        let provider = ProviderId::new(1_763_640_000_000, [1; 10]);
        let attempt = Attempt { message: MessageId::new(1_763_640_000_123, [7; 10]), number: 1 };
        let known = |segment, to| Known { attempt, segments: 3, segment, to };
        let [whole, part] = [known(None, None), known(Some(2), Some(Tail::new(345_678)))];
        assert!(references.keep(provider, vec![("a".into(), whole), ("b".into(), whole)]).await);
        assert!(references.keep(provider, vec![("b".into(), part)]).await, "the later one counts");
        let found = references.find(provider, ["a", "b", "c"].map(Into::into).to_vec()).await.unwrap();
        assert_eq!((found.get("a"), found.get("b"), found.get("c")), (Some(&whole), Some(&part), None));
        let other = ProviderId::from_bytes([9; 16]);
        assert!(references.find(other, vec!["a".into()]).await.unwrap().is_empty());
        references.settle(provider, vec!["a".into()]).await.unwrap();
        let newest = references.newest(provider, 10).await.unwrap();
        assert_eq!(newest, [("b".into(), part, 1_763_640_000_000)]);
        assert_eq!(references.prune(1_763_640_000_000 + KEEP_MS).await.unwrap(), 0);
        assert_eq!(references.prune(1_763_640_000_001 + KEEP_MS).await.unwrap(), 1);
    }
}
