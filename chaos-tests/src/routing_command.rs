//! Routing under faults from the command line.

use std::path::PathBuf;

use anyhow::bail;
use chaos_tests::process::Programs;
use chaos_tests::routing::{self, Options};
use clap::Args;

#[derive(Args)]
pub(crate) struct Routing {
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    messages: u64,
    /// How fast clients send
    #[arg(long, default_value_t = 60.0)]
    messages_per_s: f64,
    /// How often all faults are gone through
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    rounds: u64,
    /// Seconds after its acceptance by which a message has ended
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u64).range(60..=86_400))]
    valid_for_s: u64,
    /// Drawn and printed when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Keep logs and data here; a temporary folder otherwise, kept when something is found
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(crate) async fn run(routing: Routing) -> anyhow::Result<()> {
    let folder = match routing.folder {
        Some(folder) => folder,
        None => tempfile::Builder::new().prefix("flotilla-routing-").tempdir()?.keep(),
    };
    std::fs::create_dir_all(&folder)?;
    let seed = routing.seed.unwrap_or_else(rand::random);
    println!("seed {seed}, logs and data in {}", folder.display());
    let options = Options {
        messages: usize::try_from(routing.messages)?,
        messages_per_s: routing.messages_per_s.max(1.0),
        valid_for_s: routing.valid_for_s,
        rounds: usize::try_from(routing.rounds)?,
        seed,
        programs: Programs::beside_this()?,
        folder,
    };
    let outcome = routing::run(&options).await?;
    println!("{}", outcome.report);
    let (promised, faults) = (outcome.promised, outcome.faults.len());
    println!("{promised} promised, {faults} faults, {}", outcome.phases);
    if outcome.violations.is_empty() {
        println!("no violation");
        return Ok(());
    }
    for violation in &outcome.violations {
        println!("{violation}");
    }
    bail!("{} violations with seed {seed}", outcome.violations.len())
}
