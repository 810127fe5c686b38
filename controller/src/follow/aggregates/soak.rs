//! Full load for a while: how fast the aggregates follow, and whether memory and disk stay flat.
//!
//! A second by default; `FLOTILLA_SOAK_S=60 cargo test --release -p flotilla-controller --lib soak -- --nocapture` measures.

use std::path::Path;
use std::time::{Duration, Instant};

use flotilla_protocol::id::{DeviceId, Epoch, ShardId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_routing::choice::Why;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::key::BlockKey;
use super::pieces::Packer;
use super::{Aggregates, AggregatesFollower, Counter, Dimension, Options, StatsQuery, StatsStep};
use crate::domain::event::{Change, Event};
use crate::domain::message::Route;
use crate::follow::Follower;
use crate::follow::testing::{MemoryStore, START_MS, accepted, changed, submission, tenant};
use crate::store::Batch;

const DEVICES: u32 = 10_000;
const TENANTS: u8 = 8;
const MESSAGES_PER_BATCH: u64 = 64;
/// Of the simulated clock: an hour passes in 1.8 million messages.
const MS_PER_MESSAGE: u64 = 2;

/// Makes batches of whole message lives, one tenant each.
struct Load {
    rng: StdRng,
    shards: u16,
    messages: u64,
    seqs: Vec<u64>,
}

impl Load {
    fn batch(&mut self) -> Batch {
        let owner = tenant(self.rng.random_range(1..=TENANTS));
        let shard = ShardId::of(owner, self.shards);
        let seq = &mut self.seqs[usize::from(shard.0)];
        *seq += 1;
        let seq = *seq;
        let events: Vec<Event> = (0..MESSAGES_PER_BATCH).flat_map(|_| self.life(owner)).collect();
        Batch { shard, epoch: Epoch(1), seq, events: events.into() }
    }

    fn life(&mut self, owner: TenantId) -> [Event; 4] {
        self.messages += 1;
        let at_ms = START_MS + self.messages * MS_PER_MESSAGE;
        // Each device belongs to one tenant.
        let tenant_number = u32::from(owner.to_bytes()[15]);
        let device = self.rng.random_range(0..DEVICES / u32::from(TENANTS)) * u32::from(TENANTS) + tenant_number;
        let id = |n: u32| [&[0; 6][..], &n.to_be_bytes()].concat().try_into().unwrap();
        let route = Route::sim(DeviceId::new(1, id(device)), SimId::new(1, id(device)));
        let mut it = submission(owner, at_ms, self.rng.random());
        it.campaign = format!("campaign-{}", self.rng.random_range(0..20)).into();
        it.to = Msisdn::from_u64([255_712_345_678, 447_712_345_678][usize::from(self.rng.random::<bool>())]).unwrap();
        let sent_ms = at_ms + self.rng.random_range(20..3_000);
        let delivered_ms = sent_ms + self.rng.random_range(500..60_000);
        [
            accepted(it.clone()),
            changed(&it, at_ms + 1, Change::Dispatched { attempt: 1, route, session: 1, why: Why::default() }),
            changed(&it, sent_ms, Change::Sent { attempt: 1, route, sent_ms, took_ms: 0 }),
            changed(&it, delivered_ms, Change::Delivered { attempt: 1, route, sent_ms, delivered_ms }),
        ]
    }
}

#[tokio::test]
async fn memory_stays_flat_under_load() {
    let seconds = std::env::var("FLOTILLA_SOAK_S").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let store = MemoryStore::new(4);
    let folder = tempfile::tempdir().unwrap();
    // The measured run has the real limits; the short one has some that are reached.
    let memory_bytes = if seconds > 1 { Options::default().memory_bytes } else { 1 << 20 };
    let options = Options { memory_bytes, fresh_wait: Duration::ZERO, ..Options::default() };
    let (aggregates, mut follower) =
        Aggregates::open(folder.path().to_path_buf(), options, store.clone(), store).unwrap();
    (0..4).for_each(|number| follower.shared.set_led(ShardId(number), true));
    let mut load = Load { rng: StdRng::seed_from_u64(1), shards: 4, messages: 0, seqs: vec![0; 4] };
    let begin = Instant::now();
    let mut cpu = Duration::ZERO;
    for second in 1..=seconds {
        while begin.elapsed() < Duration::from_secs(second) {
            let batch = load.batch();
            let start = cpu_time();
            if follower.full() {
                follower.flush().await.unwrap();
            }
            follower.apply(&batch).await.unwrap();
            cpu += cpu_time() - start;
            // One batch may go over.
            assert!(follower.shared.state.lock().table.bytes() <= memory_bytes + (1 << 20));
        }
        if second % 5 == 0 || second == seconds {
            let start = cpu_time();
            follower.sync().await.unwrap();
            let sync = cpu_time() - start;
            cpu += sync;
            report(&load, &follower, folder.path(), [begin.elapsed(), cpu, sync]);
        }
    }
    report_packed(&follower);
    let mut accepted = 0;
    for n in 1..=TENANTS {
        let query = StatsQuery {
            tenant: tenant(n),
            from_ms: START_MS,
            to_ms: START_MS + 30 * 86_400_000,
            step: StatsStep::Total,
            by: Dimension::Total,
            value: None,
            limit: 1,
            cursor: None,
        };
        let answer = aggregates.query(query).await.unwrap();
        accepted += answer.rows.iter().map(|row| row.counts.get(Counter::Accepted)).sum::<u64>();
    }
    assert_eq!(accepted, load.messages);
}

/// Of the whole process: the load is made outside of what is measured, one after the other.
/// What a first snapshot of everything would take.
fn report_packed(follower: &AggregatesFollower) {
    let disk = follower.shared.disk().unwrap();
    let (mut packer, mut rows, mut bytes) = (Packer::default(), 0, 0);
    for tenant in disk.tenants().unwrap() {
        for (step, bucket) in disk.blocks(tenant).unwrap() {
            for row in disk.block_rows(BlockKey { tenant, step, bucket }) {
                let (key, row) = row.unwrap();
                (rows, bytes) = (rows + 1, bytes + key.len() + row.len());
                packer.add(&key, &row).unwrap();
            }
        }
    }
    let packed: usize = packer.finish().iter().map(Vec::len).sum();
    println!("snapshot: {rows} rows, {} bytes each, {} packed", bytes / rows, packed / rows);
}

fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

fn report(load: &Load, follower: &AggregatesFollower, dir: &Path, [passed, cpu, sync]: [Duration; 3]) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let rss = status.lines().find(|line| line.starts_with("VmRSS")).unwrap_or("VmRSS: unknown");
    let disk = std::fs::metadata(dir.join("db")).map_or(0, |file| file.len()) >> 20;
    println!(
        "{:>4.0} s  {:>9} messages  CPU {:>4.2} us/event  rows {:>3} MB  {rss}  disk {disk} MB  sync CPU {sync:?}",
        passed.as_secs_f64(),
        load.messages,
        cpu.as_secs_f64() * 1e6 / (load.messages * 4) as f64,
        follower.shared.state.lock().table.bytes() >> 20,
    );
}
