//! The simulation from the command line.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::bail;
use chaos_tests::sim::{self, Flaw, Options, Outcome, Size};
use clap::Args;

/// A line of progress after so many seconds.
const PROGRESS_S: u64 = 10;

#[derive(Args)]
pub(crate) struct Sim {
    /// How many seeds
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them
    #[arg(long, default_value_t = 1)]
    first: u64,
    /// Only this one
    #[arg(long)]
    seed: Option<u64>,
    /// Print the whole story of the seed
    #[arg(long, requires = "seed")]
    log: bool,
    /// Virtual minutes with requests and faults; the rest that follows comes on top
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=200))]
    devices: u64,
    /// With this deliberate bug
    #[arg(long)]
    flaw: Option<Flaw>,
    /// Runs spent on making a failing seed's story short
    #[arg(long, default_value_t = 300)]
    shrink: usize,
}

#[derive(Default)]
struct Sum {
    seeds: u64,
    virtual_ms: u64,
    events: u64,
    messages: usize,
    on_air: usize,
    counts: BTreeMap<&'static str, u64>,
    ends: BTreeMap<&'static str, u64>,
    failed: Vec<u64>,
}

impl Sum {
    fn add(&mut self, seed: u64, outcome: &Outcome) {
        self.seeds += 1;
        self.virtual_ms += outcome.virtual_ms;
        self.events += outcome.events;
        self.messages += outcome.messages;
        self.on_air += outcome.on_air;
        for (what, n) in &outcome.counts {
            *self.counts.entry(what).or_default() += n;
        }
        for (state, n) in &outcome.ends {
            *self.ends.entry(state).or_default() += n;
        }
        if outcome.violation.is_some() {
            self.failed.push(seed);
        }
    }

    fn print(&self, began: Instant) {
        let seconds = began.elapsed().as_secs_f64();
        let hours = self.virtual_ms as f64 / 3_600_000.0;
        println!(
            "{} seeds in {seconds:.1} s: {:.1} seeds/s, {hours:.1} virtual hours, {:.2} of them per second, {:.0} events/s",
            self.seeds,
            self.seeds as f64 / seconds,
            hours / seconds,
            self.events as f64 / seconds,
        );
        println!("{} messages, {} attempts on the air; ends: {:?}", self.messages, self.on_air, self.ends);
        println!("{} failing seeds {:?}", self.failed.len(), self.failed);
    }
}

pub(crate) fn run(sim: &Sim) -> anyhow::Result<()> {
    let devices = usize::try_from(sim.devices)?;
    let size = Size { nodes: 3, devices, tenants: 6.min(devices), minutes: sim.minutes };
    let options = Options { size, flaw: sim.flaw };
    let seeds = match sim.seed {
        Some(seed) => seed..seed + 1,
        None => sim.first..sim.first + sim.seeds,
    };
    let began = Instant::now();
    let mut told = began;
    let mut sum = Sum::default();
    for seed in seeds {
        let outcome = sim::run(seed, &options, sim.log);
        outcome.log.iter().for_each(|line| println!("{line}"));
        sum.add(seed, &outcome);
        if outcome.violation.is_some() {
            tell(seed, &options, sim.shrink);
        }
        if told.elapsed().as_secs() >= PROGRESS_S {
            told = Instant::now();
            sum.print(began);
        }
    }
    println!("what happened: {:#?}", sum.counts);
    sum.print(began);
    if !sum.failed.is_empty() {
        bail!("{} seeds break a promise; repeat one with `sim --seed N --log` and the same size", sum.failed.len());
    }
    Ok(())
}

fn tell(seed: u64, options: &Options, runs: usize) {
    let Some(story) = sim::shrink(seed, options, runs) else { return };
    println!("=== seed {seed} breaks {}: {}", story.violation.invariant, story.violation.detail);
    println!("{} of {} operations are needed ({} runs):", story.ops.len(), story.of, story.runs);
    for op in &story.ops {
        println!("  at {:>9.3} s for {:>6.1} s: {:?}", op.at as f64 / 1e3, op.for_ms as f64 / 1e3, op.what);
    }
    println!("the last of its log:");
    story.log.iter().for_each(|line| println!("{line}"));
}
