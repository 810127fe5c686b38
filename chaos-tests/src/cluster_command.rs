//! `chaos-tests cluster`: faults on a whole cluster of processes, or what clients see of its failovers.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use chaos_tests::cluster::check::Checked;
use chaos_tests::cluster::{self, Options, failover, faults};
use chaos_tests::process::Programs;
use clap::Args;

#[derive(Args)]
pub(crate) struct Cluster {
    /// Each round has every kind of fault once, about 90 s
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[arg(long, default_value_t = 6)]
    tenants: usize,
    #[arg(long, default_value_t = 4)]
    devices_per_tenant: usize,
    /// Processes with devices
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=64))]
    fleets: u8,
    /// While faults happen
    #[arg(long, default_value_t = 60.0)]
    messages_per_s: f64,
    /// Seconds after its acceptance by which a message has ended
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(60..=86_400))]
    valid_for_s: u64,
    /// Only measure what clients see of so many kills, and of as many drains as --drains says
    #[arg(long)]
    failover: Option<usize>,
    #[arg(long, default_value_t = 0, requires = "failover")]
    drains: usize,
    /// Pause between a tenant's probes
    #[arg(long, default_value_t = 50, requires = "failover")]
    probe_ms: u64,
    /// Drawn and printed when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Keep logs, histories and data here; a temporary folder otherwise, kept when something is found
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(crate) async fn run(args: Cluster) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("flotilla-chaos-").tempdir()?;
    let folder = args.folder.clone().unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let seed = args.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let done = run_in(&args, seed, folder.clone()).await;
    if done.is_err() {
        eprintln!("logs and data: {}", folder.display());
        std::mem::forget(temporary);
    }
    done
}

async fn run_in(args: &Cluster, seed: u64, folder: PathBuf) -> anyhow::Result<()> {
    let fleets = usize::from(args.fleets);
    let options = Options {
        seed,
        programs: Programs::beside_this()?,
        folder,
        tenants: args.tenants,
        devices_per_tenant: args.devices_per_tenant,
        fleets,
        messages_per_s: args.messages_per_s,
        valid_for_s: args.valid_for_s,
        faults: faults::schedule(seed, args.rounds, &faults::KINDS, fleets),
    };
    let checked = match args.failover {
        None => cluster::run(&options).await?.map(|outcome| {
            println!(
                "{} faults; {} requests, {} repeated, the slowest took {:.1?}; {:.0} s in all",
                outcome.faults,
                outcome.requests,
                outcome.repeated,
                outcome.slowest,
                outcome.took.as_secs_f64()
            );
            outcome.checked
        }),
        Some(kills) => {
            let probe_pause = Duration::from_millis(args.probe_ms);
            let (drains, valid_for_s) = (args.drains, args.valid_for_s);
            let measurement = failover::Options { kills, drains, probe_pause, valid_for_s };
            cluster::failover(&options, &measurement).await?.map(|(_, checked)| checked)
        }
    };
    match checked {
        Some(checked) => verdict(&checked, seed),
        None => bail!("nothing was run: something is missing on this machine"),
    }
}

fn verdict(checked: &Checked, seed: u64) -> anyhow::Result<()> {
    let Checked { promised, hand_overs, received, states, violations } = checked;
    println!("{promised} promised, {hand_overs} hand-overs, {received} received, {states:?}");
    if violations.is_empty() {
        println!("no violation");
        return Ok(());
    }
    violations.iter().for_each(|violation| println!("{violation}"));
    bail!("{} violations with seed {seed}", violations.len())
}
