//! Statistics queries: a range of keys on disk, overlaid by the rows in memory, which are newer.
//!
//! Bounded: a page has at most `ROWS_MAX` rows, a query looks at no more than `SCAN_MAX`.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, ProviderId, SenderId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Region;

use super::Aggregates;
use super::contribution::priority_code;
use super::counters::Counts;
use super::disk::{Disk, DiskError};
use super::key::{BlockKey, Dimension, OTHER, Place, Step, bucket_and_value, name_place, place, prefix, row_key};
use super::shared::Shared;
use super::table::Stored;
use crate::domain::message::Priority;
use crate::store::StoreError;

/// Most rows of one answer.
pub const ROWS_MAX: usize = 1_000;
/// Most stored rows that one query reads, and most groups of a total.
const SCAN_MAX: usize = 200_000;
const GROUPS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatsStep {
    Hour,
    Day,
    /// One row per value over the whole range.
    Total,
}

#[derive(Clone, Debug)]
pub struct StatsQuery {
    pub tenant: TenantId,
    /// Unix milliseconds; moved down and up to whole hours (for days: to whole days, UTC). The end is exclusive.
    pub from_ms: u64,
    pub to_ms: u64,
    pub step: StatsStep,
    pub by: Dimension,
    /// Only this value of the dimension, as answers print it.
    pub value: Option<String>,
    /// 1..=ROWS_MAX
    pub limit: usize,
    /// `next` of the page before.
    pub cursor: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StatsAnswer {
    /// Ordered by time, then by value (in the order of its bytes).
    pub rows: Vec<StatsRow>,
    pub next: Option<String>,
    /// False while the statistics are built anew: counters are too low then.
    pub complete: bool,
    /// False when what was committed before the query is not all in it, because the follower is behind.
    pub fresh: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct StatsRow {
    /// Start of the bucket, Unix milliseconds; that of the range for a total.
    pub start_ms: u64,
    /// Empty where there is none: no campaign, no known country.
    pub value: String,
    /// The sum of the values beyond the number that get rows of their own. `value` is empty then.
    pub other: bool,
    pub counts: Counts,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    #[error("`to` must be after `from`")]
    Range,
    #[error("`limit` must be 1 to {ROWS_MAX}")]
    Limit,
    #[error("`cursor` is not one that this query has given; leave it out to start at the beginning")]
    Cursor,
    #[error("`value` is no {0}; give it as answers print it")]
    Value(&'static str),
    #[error("the query covers too many rows; narrow `from` and `to`, ask for days, or filter by one `value`")]
    TooWide,
    #[error("this controller does not lead the tenant's shard now; try again")]
    NotLeading,
    #[error("statistics are not available now ({0}); try again later")]
    Unavailable(String),
}

impl Aggregates {
    /// Waits (up to `Options::fresh_wait`) until everything is counted that was committed when it was called, then answers.
    pub async fn query(&self, query: StatsQuery) -> Result<StatsAnswer, QueryError> {
        let plan = Plan::new(&query)?;
        let shared = &self.shared;
        let fresh = shared.wait(ShardId::of(query.tenant, shared.shards)).await?;
        let permit = shared.queries.acquire().await.map_err(|e| QueryError::Unavailable(e.to_string()))?;
        let reader = Arc::clone(shared);
        let read = tokio::task::spawn_blocking(move || plan.run(&reader)).await;
        drop(permit);
        let (rows, next, complete) = read.map_err(|e| QueryError::Unavailable(e.to_string()))??;
        Ok(StatsAnswer { rows, next, complete, fresh: fresh && complete })
    }
}

impl Shared {
    /// True when what is committed now has been counted.
    async fn wait(&self, shard: ShardId) -> Result<bool, QueryError> {
        if !self.is_led(shard) {
            return Err(QueryError::NotLeading);
        }
        let target = self.journal.last(shard).await.map_err(|e: StoreError| QueryError::Unavailable(e.to_string()))?;
        let mut moved = self.moved.subscribe();
        let reached = async {
            loop {
                moved.borrow_and_update();
                let reached = self.applied(shard) >= target;
                if !self.is_led(shard) {
                    return Err(QueryError::NotLeading);
                }
                if reached || !self.is_complete(shard) {
                    return Ok(reached);
                }
                if moved.changed().await.is_err() {
                    return Ok(false);
                }
            }
        };

        tokio::time::timeout(self.options.fresh_wait, reached).await.unwrap_or(Ok(false))
    }
}

/// Buckets of one step, the end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    step: Step,
    from: u32,
    to: u32,
}

/// A checked query.
struct Plan {
    tenant: TenantId,
    by: Dimension,
    spans: Vec<Span>,
    /// The start of the range when rows are summed over it.
    total_ms: Option<u64>,
    value: Option<Place>,
    limit: usize,
    /// Rows up to this one are left out.
    after: Option<(u32, Vec<u8>)>,
}

type Page = (Vec<StatsRow>, Option<String>, bool);

impl Plan {
    fn new(query: &StatsQuery) -> Result<Self, QueryError> {
        if query.to_ms <= query.from_ms {
            return Err(QueryError::Range);
        }
        if !(1..=ROWS_MAX).contains(&query.limit) {
            return Err(QueryError::Limit);
        }
        let step = if query.step == StatsStep::Day { Step::Day } else { Step::Hour };
        let (from, to) = (step.bucket(query.from_ms), step.bucket_from(query.to_ms));
        let (spans, total_ms) = match query.step {
            StatsStep::Total => (total_spans(from, to), Some(Step::Hour.start_ms(from))),
            _ => (vec![Span { step, from, to }], None),
        };
        Ok(Self {
            tenant: query.tenant,
            by: query.by,
            spans,
            total_ms,
            value: query.value.as_deref().map(|value| value_place(query.by, value)).transpose()?,
            limit: query.limit,
            after: query.cursor.as_deref().map(parse_cursor).transpose()?,
        })
    }

    fn run(&self, shared: &Shared) -> Result<Page, QueryError> {
        let mut rows = match (self.total_ms, &self.value) {
            (Some(_), _) => self.totals(shared)?,
            (None, Some(value)) => self.one_value(shared, value)?,
            (None, None) => self.page(shared)?,
        };
        if let Some(after) = &self.after {
            rows.retain(|key, _| key > after);
        }
        let mut next = None;
        if rows.len() > self.limit {
            rows = rows.into_iter().take(self.limit).collect();
            next = rows.keys().next_back().map(|(bucket, value)| print_cursor(*bucket, value));
        }
        let step = self.spans.first().map_or(Step::Hour, |span| span.step);
        let row = |((bucket, value), counts): ((u32, Vec<u8>), Counts)| StatsRow {
            start_ms: self.total_ms.unwrap_or_else(|| step.start_ms(bucket)),
            other: value == OTHER,
            value: print_value(self.by, &value),
            counts,
        };
        Ok((rows.into_iter().map(row).collect(), next, shared.is_complete(ShardId::of(self.tenant, shared.shards))))
    }

    /// The first rows after the cursor, one more than asked for.
    fn page(&self, shared: &Shared) -> Result<Rows, QueryError> {
        let Some(&span) = self.spans.first() else { return Ok(Rows::new()) };
        let wanted = self.limit + 1;
        let start = self.after.clone().unwrap_or((span.from, Vec::new()));
        let (disk, mut rows) = {
            let state = shared.state.lock();
            let mut newer: Vec<_> = state
                .table
                .overlay((self.block(span.step, span.from), span.to), self.by)
                .filter(|(bucket, value, _)| {
                    self.after.as_ref().is_none_or(|(b, v)| (*bucket, *value) > (*b, v.as_slice()))
                })
                .collect();
            newer.sort_unstable_by_key(|(bucket, value, _)| (*bucket, *value));
            newer.truncate(wanted);
            let rows: Rows = newer.into_iter().map(|(b, v, counts)| ((b, v.to_vec()), counts.clone())).collect();
            (open(state.disk.clone())?, rows)
        };
        let mut read = 0;
        for row in disk.range(self.key(span.step, start.0, &start.1), self.key(span.step, span.to, &[])) {
            let (key, counts) = row.map_err(unavailable)?;
            let Some((bucket, value)) = bucket_and_value(&key) else { continue };
            if self.after.as_ref().is_some_and(|(b, v)| (bucket, value) <= (*b, v.as_slice())) {
                continue;
            }
            rows.entry((bucket, value.to_vec())).or_insert(counts);
            read += 1;
            // Whatever comes now is behind as many from the disk.
            if read == wanted {
                break;
            }
        }
        Ok(rows)
    }

    /// One row per bucket of one value.
    fn one_value(&self, shared: &Shared, value: &Place) -> Result<Rows, QueryError> {
        let mut rows = Rows::new();
        let mut read = 0;
        for span in &self.spans {
            let mut newer = BTreeMap::new();
            let disk = {
                let state = shared.state.lock();
                let overlay = state.table.overlay((self.block(span.step, span.from), span.to), self.by);
                newer.extend(overlay.filter(|(_, v, _)| *v == &value[1..]).map(|(b, _, counts)| (b, counts.clone())));
                open(state.disk.clone())?
            };
            for bucket in span.from..span.to {
                read += 1;
                if read > SCAN_MAX / 10 {
                    return Err(QueryError::TooWide);
                }
                let key = || row_key(&self.block(span.step, bucket), value);
                let counts = match newer.remove(&bucket) {
                    Some(counts) => Some(counts),
                    None => disk.load(&key()).map_err(unavailable)?.map(|(_, counts)| counts),
                };
                if let Some(counts) = counts {
                    let place = if self.total_ms.is_some() { 0 } else { bucket };
                    rows.entry((place, value[1..].to_vec())).or_default().merge(&counts);
                }
            }
        }
        Ok(rows)
    }

    /// One row per value, summed over all spans.
    fn totals(&self, shared: &Shared) -> Result<Rows, QueryError> {
        if let Some(value) = &self.value {
            return self.one_value(shared, value);
        }
        let mut rows = Rows::new();
        let mut read = 0;
        for span in &self.spans {
            let mut newer = HashSet::new();
            let disk = {
                let state = shared.state.lock();
                for (bucket, value, counts) in state.table.overlay((self.block(span.step, span.from), span.to), self.by)
                {
                    newer.insert((bucket, value.to_vec()));
                    rows.entry((0, value.to_vec())).or_default().merge(counts);
                }
                open(state.disk.clone())?
            };
            for row in disk.range(self.key(span.step, span.from, &[]), self.key(span.step, span.to, &[])) {
                let (key, counts) = row.map_err(unavailable)?;
                let Some((bucket, value)) = bucket_and_value(&key) else { continue };
                let value = value.to_vec();
                read += 1;
                if read > SCAN_MAX || rows.len() > GROUPS_MAX {
                    return Err(QueryError::TooWide);
                }
                if !newer.contains(&(bucket, value.clone())) {
                    rows.entry((0, value)).or_default().merge(&counts);
                }
            }
        }
        Ok(rows)
    }

    fn block(&self, step: Step, bucket: u32) -> BlockKey {
        BlockKey { tenant: self.tenant, step, bucket }
    }

    fn key(&self, step: Step, bucket: u32, value: &[u8]) -> Vec<u8> {
        [&prefix(&self.block(step, bucket), self.by)[..], value].concat()
    }
}

type Rows = BTreeMap<(u32, Vec<u8>), Counts>;

/// Whole days in the middle, hours at both ends.
fn total_spans(from: u32, to: u32) -> Vec<Span> {
    let (first_day, last_day) = (from.div_ceil(24), to / 24);
    let hours = |from, to| Span { step: Step::Hour, from, to };
    let spans = if first_day < last_day {
        vec![
            hours(from, first_day * 24),
            Span { step: Step::Day, from: first_day, to: last_day },
            hours(last_day * 24, to),
        ]
    } else {
        vec![hours(from, to)]
    };
    spans.into_iter().filter(|span| span.from < span.to).collect()
}

fn open(disk: Option<Arc<Disk>>) -> Result<Arc<Disk>, QueryError> {
    disk.ok_or_else(|| QueryError::Unavailable("they are being opened".into()))
}

fn unavailable(error: DiskError) -> QueryError {
    QueryError::Unavailable(error.to_string())
}

fn value_place(by: Dimension, value: &str) -> Result<Place, QueryError> {
    let wrong = || QueryError::Value(by.as_str());
    Ok(match by {
        Dimension::Total if value.is_empty() => place(by, &[]),
        Dimension::Total => return Err(wrong()),
        Dimension::Device => place(by, &DeviceId::parse(value).map_err(|_| wrong())?.to_bytes()),
        Dimension::Sim => place(by, &SimId::parse(value).map_err(|_| wrong())?.to_bytes()),
        Dimension::Provider => place(by, &ProviderId::parse(value).map_err(|_| wrong())?.to_bytes()),
        Dimension::Sender => place(by, &SenderId::parse(value).map_err(|_| wrong())?.to_bytes()),
        Dimension::Region if value.is_empty() => place(by, &[]),
        Dimension::Region => name_place(by, Region::parse(value).map_err(|_| wrong())?.as_str()),
        Dimension::Priority => {
            let found = Priority::ALL.into_iter().find(|priority| priority_name(*priority) == value);
            place(by, &[priority_code(found.ok_or_else(wrong)?)])
        }
        Dimension::Campaign | Dimension::Error => name_place(by, value),
    })
}

fn print_value(by: Dimension, value: &[u8]) -> String {
    let id = || <[u8; 16]>::try_from(value).ok();
    match by {
        Dimension::Device => id().map(|id| DeviceId::from_bytes(id).to_string()).unwrap_or_default(),
        Dimension::Sim => id().map(|id| SimId::from_bytes(id).to_string()).unwrap_or_default(),
        Dimension::Provider => id().map(|id| ProviderId::from_bytes(id).to_string()).unwrap_or_default(),
        Dimension::Sender => id().map(|id| SenderId::from_bytes(id).to_string()).unwrap_or_default(),
        Dimension::Priority => {
            let found = Priority::ALL.into_iter().find(|priority| value == [priority_code(*priority)]);
            found.map(priority_name).unwrap_or_default().to_owned()
        }
        _ => std::str::from_utf8(value).unwrap_or_default().to_owned(),
    }
}

const fn priority_name(priority: Priority) -> &'static str {
    match priority {
        Priority::Urgent => "urgent",
        Priority::High => "high",
        Priority::Normal => "normal",
        Priority::Bulk => "bulk",
    }
}

fn print_cursor(bucket: u32, value: &[u8]) -> String {
    data_encoding::BASE64URL_NOPAD.encode(&[&bucket.to_be_bytes()[..], value].concat())
}

fn parse_cursor(text: &str) -> Result<(u32, Vec<u8>), QueryError> {
    if text.len() > 200 {
        return Err(QueryError::Cursor);
    }
    let bytes = data_encoding::BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| QueryError::Cursor)?;
    let (bucket, value) = bytes.split_first_chunk::<4>().ok_or(QueryError::Cursor)?;
    Ok((u32::from_be_bytes(*bucket), value.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_total_takes_whole_days_where_it_can() {
        let plan = |from, to| total_spans(from, to).into_iter().map(|s| (s.step, s.from, s.to)).collect::<Vec<_>>();
        assert_eq!(plan(5, 30), [(Step::Hour, 5, 30)]);
        assert_eq!(plan(24, 48), [(Step::Day, 1, 2)]);
        assert_eq!(plan(23, 73), [(Step::Hour, 23, 24), (Step::Day, 1, 3), (Step::Hour, 72, 73)]);
    }

    #[test]
    fn values_are_read_as_they_are_printed() {
        let device = DeviceId::new(7, [1; 10]).to_string();
        for (by, value) in [
            (Dimension::Device, &*device),
            (Dimension::Provider, &*ProviderId::new(7, [1; 10]).to_string()),
            (Dimension::Sender, &*SenderId::new(7, [1; 10]).to_string()),
            (Dimension::Region, "TZ"),
            (Dimension::Region, ""),
            (Dimension::Priority, "bulk"),
            (Dimension::Campaign, ""),
            (Dimension::Campaign, "may"),
            (Dimension::Error, "cms-38"),
        ] {
            assert_eq!(print_value(by, &value_place(by, value).unwrap()[1..]), value);
        }
        assert_eq!(value_place(Dimension::Priority, "later"), Err(QueryError::Value("priority")));
        assert_eq!(value_place(Dimension::Device, "sim_1"), Err(QueryError::Value("device")));
    }

    #[test]
    fn cursors_come_back_and_others_are_refused() {
        assert_eq!(parse_cursor(&print_cursor(9, b"may")), Ok((9, b"may".to_vec())));
        for wrong in ["", "*", "AAA", &"A".repeat(201)] {
            assert_eq!(parse_cursor(wrong), Err(QueryError::Cursor));
        }
    }
}
