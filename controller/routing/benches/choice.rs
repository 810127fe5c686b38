//! What one choice costs, by the size of the fleet: it must not grow with it, and nothing may be allocated that does.
//!
//! `cargo bench -p flotilla-routing --bench choice`. Each round chooses, reserves, and lands an attempt, as a shard does; the
//! choice is timed alone, in blocks, and the median of the blocks is told.

#![expect(unsafe_code, reason = "counting allocations takes an allocator")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use flotilla_protocol::id::{DeviceId, MessageId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use flotilla_routing::choice::{Candidate, Choice, Pin, PlanRef};
use flotilla_routing::fact::{Fact, Outcome, recipient_hash};
use flotilla_routing::ledger::Ledger;
use flotilla_routing::route::{Priority, Route, RouteKind};
use flotilla_routing::settings::{Limits, Price, RouteSettings};
use flotilla_routing::table::{RouteDevice, RouteSim, Table, TableSettings};
use flotilla_routing::{Micros, Now};

/// Choices that are timed together.
const BLOCK: usize = 256;
const BLOCKS: usize = 400;
const START_MS: u64 = 1_795_262_400_000;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);

// SAFETY: everything is the system allocator's own work; the counters are beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn id(n: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&n.to_be_bytes());
    bytes
}

fn tenant() -> TenantId {
    TenantId::from_bytes([1; 16])
}

/// Two SIMs in each device, with limits, prices and some history.
fn fleet(sims: u64, limited: bool, now: Now) -> Table {
    let mut table = Table::new(TableSettings::default(), Ledger::default());
    let limits = Limits { per_minute: Some(1_000_000), per_day: Some(100_000_000), ..Limits::default() };
    for n in 0..sims / 2 {
        let one = |slot: u64| {
            let settings = RouteSettings {
                limits: if limited { limits.clone() } else { Limits::default() },
                price: Price { per_segment: Micros(1_000 + (n % 7) * 100), ..Price::default() },
                ..RouteSettings::default()
            };
            let sim = SimId::from_bytes(id(2 * n + slot));
            RouteSim { slot: slot as u8, sim, depth: 32, ready: true, settings: Arc::new(settings) }
        };
        let device = RouteDevice {
            kind: RouteKind::Sim,
            device: DeviceId::from_bytes(id(n)),
            tenant: tenant(),
            window: 64,
            accepts_work: true,
            sims: [one(0), one(1)].into_iter().collect(),
        };
        table.set_device(device, now);
    }
    table
}

fn candidate(n: u64, now: Now) -> Candidate {
    Candidate {
        message: MessageId::from_bytes(id(n.wrapping_mul(0x9e37_79b9_7f4a_7c15))),
        attempt: 1,
        tenant: tenant(),
        class: Priority::Normal,
        pin: Pin::Any,
        plan: PlanRef::default(),
        to: Msisdn::from_u64(255_710_000_000 + n % 9_000_000).expect("a number"),
        segments: 1,
        unicode: false,
        sender: None,
        avoid: None,
        waits_since_ms: now.mono_ms,
        max_cost: None,
        spent: Micros::ZERO,
    }
}

struct Measured {
    choice_ns: f64,
    whole_ns: f64,
    allocations: f64,
    bytes: f64,
}

fn measure(sims: u64, limited: bool) -> Measured {
    let mut now = Now { unix_ms: START_MS, mono_ms: 1_000 };
    let mut table = fleet(sims, limited, now);
    let (mut choice, mut whole, mut n) = (Vec::new(), Vec::new(), 0);
    let (mut allocations, mut bytes) = (0, 0);
    let mut marked = Vec::new();
    for _ in 0..BLOCKS {
        now = Now { unix_ms: now.unix_ms + 50, mono_ms: now.mono_ms + 50 };
        table.advance(now, &mut marked);
        marked.clear();
        let candidates: Vec<Candidate> = (0..BLOCK as u64).map(|one| candidate(n + one, now)).collect();
        n += BLOCK as u64;
        let before = (ALLOCATIONS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
        let began = Instant::now();
        for candidate in &candidates {
            black_box(table.choose(black_box(candidate), now));
        }
        choice.push(began.elapsed().as_nanos() as f64 / BLOCK as f64);
        allocations += ALLOCATIONS.load(Ordering::Relaxed) - before.0;
        bytes += BYTES.load(Ordering::Relaxed) - before.1;
        let began = Instant::now();
        for candidate in &candidates {
            round(&mut table, candidate, now);
        }
        whole.push(began.elapsed().as_nanos() as f64 / BLOCK as f64);
    }
    let choices = (BLOCKS * BLOCK) as f64;
    Measured {
        choice_ns: median(&mut choice),
        whole_ns: median(&mut whole),
        allocations: allocations as f64 / choices,
        bytes: bytes as f64 / choices,
    }
}

/// A message's way over the table: chosen, on its way, sent, charged, landed.
fn round(table: &mut Table, candidate: &Candidate, now: Now) {
    let Choice::Take(route, _) = table.choose(candidate, now) else { panic!("every SIM has room") };
    let recipient = recipient_hash(candidate.to.as_u64());
    table.reserve(route, candidate.tenant, 1, recipient, now);
    land(table, candidate, route, recipient, now);
}

fn land(table: &mut Table, candidate: &Candidate, route: Route, recipient: u64, now: Now) {
    let charge = table.charge(route, candidate.tenant, 1, now.unix_ms, candidate.to);
    table.fact(&Fact::Charged { tenant: candidate.tenant, charge }, now);
    let outcome = Outcome::Sent { took_ms: 800 };
    table.fact(&Fact::Outcome { route, at_ms: now.unix_ms, outcome, region: candidate.to.region() }, now);
    table.release(route, candidate.tenant, 1, recipient, now);
}

fn median(all: &mut [f64]) -> f64 {
    all.sort_unstable_by(f64::total_cmp);
    all[all.len() / 2]
}

fn main() {
    // The table of calling codes is built once, when the first number is asked for its country.
    black_box(candidate(0, Now::default()).to.region());
    println!(
        "{:>8} {:>8} {:>12} {:>12} {:>14} {:>12}",
        "sims", "limits", "choice ns", "whole ns", "allocations", "bytes"
    );
    for limited in [false, true] {
        let mut first = None;
        for sims in [100, 1_000, 10_000] {
            let one = measure(sims, limited);
            let ratio = one.choice_ns / *first.get_or_insert(one.choice_ns);
            println!(
                "{sims:>8} {:>8} {:>12.0} {:>12.0} {:>14.3} {:>12.1}   x{ratio:.2}",
                if limited { "yes" } else { "no" },
                one.choice_ns,
                one.whole_ns,
                one.allocations,
                one.bytes,
            );
        }
    }
}
