//! Measures the store on the disk that it will run on: durable batches, rows, and beside them what one device flush costs.
//! With PostgreSQL beside SQLite the two take turns, and the median round of each is told.

use std::fs::OpenOptions;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_protocol::id::{DeviceId, Epoch, MessageId, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_protocol::wire::{Body, TextEncoding};
use flotilla_routing::choice::Why;
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{Batch, CommitError, Flush, Journal, Rows, StoreError, Stores, Upsert, postgres, sqlite};
use crate::domain::event::{Accepted, Change, Event, EventKind};
use crate::domain::message::{Duplicates, Pin, Priority, Route, Submission};
use crate::domain::record::MessageRecord;

#[derive(Debug, Clone)]
pub struct BenchOptions {
    /// How long each of the measurements takes.
    pub each: Duration,
    /// Shards that commit at the same time.
    pub writers: u16,
    pub batch_sizes: Vec<usize>,
    /// Messages per flush of the rows.
    pub flush: usize,
    /// How often everything is measured; the median counts.
    pub rounds: usize,
    /// A database to measure beside the files. It should be empty.
    pub postgres: Option<postgres::Options>,
}

impl Default for BenchOptions {
    fn default() -> Self {
        let each = Duration::from_secs(3);
        Self { each, writers: 16, batch_sizes: vec![1, 16, 256], flush: 16_384, rounds: 1, postgres: None }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct StoreBench {
    /// A 4 KiB write and its flush, alone on the same disk.
    pub fdatasync: Latency,
    pub engines: Vec<EngineBench>,
}

#[derive(Debug, Clone, Serialize)]
pub struct EngineBench {
    pub engine: &'static str,
    pub commits: Vec<CommitBench>,
    pub rows: Vec<RowsBench>,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub struct Latency {
    pub p50_us: u64,
    pub p99_us: u64,
    pub max_us: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct CommitBench {
    pub batch_events: usize,
    pub batches_per_s: f64,
    pub events_per_s: f64,
    /// Of the whole process, which does nothing else meanwhile: it stays the same when others use the machine.
    pub cpu_us_per_event: f64,
    /// From the call to its return, encoding included.
    pub latency: Latency,
}

#[derive(Debug, Clone, Serialize)]
pub struct RowsBench {
    /// `queued`: new open messages, as in a bulk load. `delivered`: new and final, four transitions written once. `updated`:
    /// queued ones become final, the second write of a message.
    pub what: &'static str,
    pub rows: u64,
    pub rows_per_s: f64,
    pub cpu_us_per_row: f64,
}

#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error(transparent)]
    Open(#[from] sqlite::OpenError),
    #[error(transparent)]
    Database(#[from] postgres::OpenError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the folder for the measurement: {0}")]
    Io(#[from] std::io::Error),
}

/// Measures in `dir`, which should be empty and can be deleted afterwards.
pub async fn bench_store(dir: &Path, options: &BenchOptions) -> Result<StoreBench, BenchError> {
    std::fs::create_dir_all(dir)?;
    let fdatasync = flushes(&dir.join("flush.bin"), options.each.min(Duration::from_secs(1)))?;
    let mut engines = vec![Engine::new("sqlite", sqlite::open(&dir.join("store"), &sqlite::Options::default())?)];
    if let Some(database) = options.postgres.clone() {
        let opened = tokio::task::spawn_blocking(move || postgres::open(&database)).await;
        let opened = opened.map_err(|error| BenchError::Io(std::io::Error::other(error)))??;
        engines.push(Engine::new("postgres", opened));
    }
    for round in 0..options.rounds.max(1) {
        for engine in &mut engines {
            engine.round(round as u64, options).await?;
        }
    }
    Ok(StoreBench { fdatasync, engines: engines.into_iter().map(|engine| engine.result(options)).collect() })
}

/// One engine under measurement.
struct Engine {
    name: &'static str,
    stores: Stores,
    /// The next sequence of each shard.
    next: Vec<u64>,
    /// Of the rows.
    position: u64,
    commits: Vec<CommitBench>,
    rows: Vec<RowsBench>,
}

impl Engine {
    fn new(name: &'static str, stores: Stores) -> Self {
        Self { name, stores, next: Vec::new(), position: 0, commits: Vec::new(), rows: Vec::new() }
    }

    async fn round(&mut self, round: u64, options: &BenchOptions) -> Result<(), BenchError> {
        let journal = &self.stores.journal;
        if self.next.is_empty() {
            let shards = options.writers.clamp(1, journal.shards());
            try_join_all((0..shards).map(|shard| journal.take(ShardId(shard), Epoch(1)))).await?;
            self.next = vec![1; usize::from(shards)];
        }
        for size in &options.batch_sizes {
            self.commits.push(commit_for(journal, &mut self.next, *size, options.each).await?);
        }
        self.rows.extend(rows_for(&*self.stores.rows, round, &mut self.position, options).await?);
        Ok(())
    }

    fn result(self, options: &BenchOptions) -> EngineBench {
        let commits = options.batch_sizes.iter().filter_map(|size| {
            let rounds = self.commits.iter().filter(|commit| commit.batch_events == *size);
            median(rounds, |commit| commit.events_per_s)
        });
        let rows = WHAT
            .iter()
            .filter_map(|what| median(self.rows.iter().filter(|rows| rows.what == *what), |rows| rows.rows_per_s));
        EngineBench { engine: self.name, commits: commits.collect(), rows: rows.collect() }
    }
}

/// The round in the middle.
fn median<'a, T: Clone + 'a>(rounds: impl Iterator<Item = &'a T>, by: impl Fn(&T) -> f64) -> Option<T> {
    let mut rounds: Vec<&T> = rounds.collect();
    rounds.sort_by(|a, b| by(a).total_cmp(&by(b)));
    rounds.get(rounds.len() / 2).map(|round| T::clone(round))
}

fn flushes(path: &Path, each: Duration) -> Result<Latency, std::io::Error> {
    let mut file = OpenOptions::new().create(true).write(true).truncate(true).open(path)?;
    // Overwritten in place, as a write-ahead log is.
    file.write_all(&vec![0; 1 << 20])?;
    file.sync_all()?;
    let mut times = Times::new();
    let end = Instant::now() + each;
    while Instant::now() < end {
        file.rewind()?;
        file.write_all(&[1; 4_096])?;
        times.measure(|| file.sync_data())?;
    }
    std::fs::remove_file(path)?;
    Ok(times.latency())
}

async fn commit_for(
    journal: &Arc<dyn Journal>,
    next: &mut [u64],
    size: usize,
    each: Duration,
) -> Result<CommitBench, CommitError> {
    let (begin, cpu) = (Instant::now(), cpu_time());
    let end = begin + each;
    let writers = next.iter().enumerate().map(|(shard, seq)| {
        let journal = Arc::clone(journal);
        let first = *seq;
        tokio::spawn(async move {
            let shard = ShardId(shard as u16);
            let mut maker = Maker::new(u64::from(shard.0));
            let events: Arc<[Event]> = (0..size).map(|_| maker.accepted()).collect();
            let mut times = Times::new();
            let mut seq = first;
            while Instant::now() < end {
                let called = Instant::now();
                journal.commit(Batch { shard, epoch: Epoch(1), seq, events: Arc::clone(&events) }).await?;
                times.add(called.elapsed());
                seq += 1;
            }
            Ok::<_, CommitError>((seq, times))
        })
    });
    let mut all = Times::new();
    let mut batches = 0;
    for (writer, next) in writers.collect::<Vec<_>>().into_iter().zip(next) {
        let (seq, times) = writer.await.map_err(|error| CommitError::Unavailable(error.to_string()))??;
        batches += seq - *next;
        *next = seq;
        all.0 += times.0;
    }
    let seconds = begin.elapsed().as_secs_f64();
    Ok(CommitBench {
        batch_events: size,
        batches_per_s: batches as f64 / seconds,
        events_per_s: batches as f64 * size as f64 / seconds,
        cpu_us_per_event: (cpu_time() - cpu).as_secs_f64() * 1e6 / (batches as f64 * size as f64),
        latency: all.latency(),
    })
}

const WHAT: [&str; 3] = ["queued", "delivered", "updated"];

async fn rows_for(
    rows: &dyn Rows,
    round: u64,
    position: &mut u64,
    options: &BenchOptions,
) -> Result<Vec<RowsBench>, StoreError> {
    let mut maker = Maker::new(9_999 + round);
    let mut queued = Vec::new();
    let mut open = Vec::new();
    let mut results = Vec::new();
    for what in WHAT {
        let (mut spent, mut cpu) = (Duration::ZERO, Duration::ZERO);
        let mut count = 0u64;
        while spent < options.each {
            let records: Vec<Arc<MessageRecord>> = match what {
                "queued" => (0..options.flush).map(|_| Arc::new(maker.record())).collect(),
                "delivered" => (0..options.flush).map(|_| Arc::new(delivered(maker.record()))).collect(),
                _ => match open.pop() {
                    Some(records) => records,
                    None => break,
                },
            };
            if what == "queued" {
                queued.push(records.iter().map(|record| Arc::new(delivered(MessageRecord::clone(record)))).collect());
            }
            *position += 1;
            count += records.len() as u64;
            let new = what != "updated";
            let upsert = |record| Upsert { shard: ShardId(0), record, new };
            let messages = records.into_iter().map(upsert).collect();
            let flush =
                Flush { messages, positions: vec![(ShardId(0), *position)], now_ms: maker.now_ms, ..Flush::default() };
            let (begin, cpu_begin) = (Instant::now(), cpu_time());
            rows.write(flush).await?;
            spent += begin.elapsed();
            cpu += cpu_time() - cpu_begin;
        }
        if what == "queued" {
            open = std::mem::take(&mut queued);
        }
        let rows_per_s = count as f64 / spent.as_secs_f64();
        let cpu_us_per_row = cpu.as_secs_f64() * 1e6 / count as f64;
        results.push(RowsBench { what, rows: count, rows_per_s, cpu_us_per_row });
    }
    Ok(results)
}

/// What this process has used so far, all threads together.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

struct Times(Histogram<u64>);

impl Times {
    fn new() -> Self {
        // Microseconds up to a minute.
        Self(Histogram::new_with_bounds(1, 60_000_000, 2).unwrap_or_else(|_| unreachable!("these bounds are allowed")))
    }

    fn add(&mut self, time: Duration) {
        self.0.saturating_record(time.as_micros() as u64);
    }

    fn measure<T>(&mut self, what: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = what();
        self.add(begin.elapsed());
        result
    }

    fn latency(&self) -> Latency {
        Latency { p50_us: self.0.value_at_quantile(0.5), p99_us: self.0.value_at_quantile(0.99), max_us: self.0.max() }
    }
}

/// Makes messages as people send them.
struct Maker {
    tenant: TenantId,
    count: u64,
    now_ms: u64,
    random: u64,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&seed.to_be_bytes());
        Self { tenant: TenantId::new(1, bytes), count: 0, now_ms: 1_763_640_000_000, random: seed | 1 }
    }

    fn next_random(&mut self) -> u64 {
        // xorshift64*: spread is all that is needed.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn submission(&mut self) -> Submission {
        self.count += 1;
        self.now_ms += self.count % 32 / 31;
        let (r, s) = (self.next_random(), self.next_random());
        let mut random = [0; 10];
        random[..8].copy_from_slice(&r.to_be_bytes());
        let text = format!(
            "Dear customer {:06}, your order {:08} has left our warehouse and will be with you on Friday. Track it at \
             https://example.com/t/{:x} or call us.",
            s % 1_000_000,
            r % 100_000_000,
            s
        );
        Submission {
            id: MessageId::new(self.now_ms, random),
            tenant: self.tenant,
            accepted_ms: self.now_ms,
            to: Msisdn::from_u64(255_700_000_000 + s % 100_000_000).unwrap_or_else(|_| unreachable!("twelve digits")),
            body: Body::Text(text),
            encoding: TextEncoding::default(),
            flash: false,
            segments: 1,
            priority: Priority::Normal,
            duplicates: Duplicates::Never,
            pin: Pin::Any,
            due_ms: self.now_ms,
            expires_ms: self.now_ms + 86_400_000,
            campaign: "friday".into(),
            tags: Vec::new(),
            client_ref: Some(format!("order-{r:016x}").into()),
            sender: None,
            plan: None,
            max_cost: None,
            callback_url: None,
        }
    }

    fn accepted(&mut self) -> Event {
        let submission = self.submission();
        let accepted = Accepted { submission, idempotency: None };
        Event { at_ms: self.now_ms, kind: EventKind::Accepted(Box::new(accepted)) }
    }

    fn record(&mut self) -> MessageRecord {
        let submission = self.submission();
        MessageRecord::accepted(submission, self.now_ms, (self.count, 0))
    }
}

fn delivered(mut record: MessageRecord) -> MessageRecord {
    let n = (record.order.0 % 50) as u8;
    let route = Route::sim(DeviceId::new(1, [n; 10]), SimId::new(1, [n; 10]));
    let at = record.submission.accepted_ms;
    for (after, change) in [
        (1, Change::Dispatched { attempt: 1, route, session: 7, why: Why::default() }),
        (900, Change::Sent { attempt: 1, route, sent_ms: at + 880, took_ms: 0 }),
        (2_500, Change::Delivered { attempt: 1, route, sent_ms: at + 880, delivered_ms: at + 2_400 }),
    ] {
        record.apply(at + after, &change);
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_short_run_measures_everything() {
        let dir = tempfile::tempdir().unwrap();
        let each = Duration::from_millis(30);
        let database = crate::store::testing::server().map(|server| server.database().unwrap());
        let postgres = database.map(|url| postgres::Options { retention_days: 0, ..postgres::Options::new(&url) });
        let engines = if postgres.is_some() { vec!["sqlite", "postgres"] } else { vec!["sqlite"] };
        let options = BenchOptions { each, writers: 2, batch_sizes: vec![1, 16], flush: 100, rounds: 2, postgres };
        let result = bench_store(dir.path(), &options).await.unwrap();
        assert!(result.fdatasync.max_us >= result.fdatasync.p50_us);
        assert_eq!(result.engines.iter().map(|engine| engine.engine).collect::<Vec<_>>(), engines);
        for engine in result.engines {
            assert_eq!(engine.commits.len(), 2);
            assert!(engine.commits.iter().all(|commit| commit.events_per_s >= 1.0));
            assert_eq!(engine.rows.iter().map(|rows| rows.what).collect::<Vec<_>>(), WHAT);
            assert!(engine.rows.iter().all(|rows| rows.rows >= 100));
        }
    }
}
