//! `cargo run -p chaos-tests -- real`: the scenario of `scenario.rs` at any size, from the command line.
//! `cargo run -p chaos-tests -- cluster`: three controllers with etcd and PostgreSQL.
//! `cargo run -p chaos-tests -- routing`: devices of mixed health and providers that misbehave.
//! `cargo run -p chaos-tests -- provider`: one of those providers alone.
//! `cargo run -p chaos-tests -- sim`: seeds of the simulation, or the whole story of one.
//! `cargo run -p chaos-tests -- speed`: one controller and three of them, by turns.

mod cluster_command;
mod provider_command;
mod routing_command;
mod sim_command;
mod speed_command;

use anyhow::bail;
use chaos_tests::process::Programs;
use chaos_tests::scenario::{self, Options};
use clap::{Args, Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Faults on real Flotilla processes, and the checks that nothing was lost or sent twice")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Send messages while the controller and the fleets are killed with -9, then check every invariant
    Real(Real),
    /// Break a whole cluster under load and check every invariant, or measure its failovers
    Cluster(cluster_command::Cluster),
    /// Let devices of mixed health and providers that misbehave fail under load, check every promise, and tell where messages
    /// went
    Routing(routing_command::Routing),
    /// Play an online provider that misbehaves, until the end
    Provider(provider_command::Provider),
    /// Run a cluster in virtual time, with faults drawn from seeds, and check every invariant
    Sim(sim_command::Sim),
    /// Compare three controllers over PostgreSQL with a single one, by turns; or measure how one kind grows
    Speed(speed_command::Speed),
}

#[derive(Args)]
struct Real {
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(100..=10_000_000))]
    messages: u64,
    /// How often the controller is killed
    #[arg(long, default_value_t = 10)]
    controller_kills: usize,
    /// Processes with devices
    #[arg(long, default_value_t = 4)]
    fleets: usize,
    #[arg(long, default_value_t = 25)]
    devices_per_fleet: usize,
    /// How often some fleet is killed
    #[arg(long, default_value_t = 20)]
    fleet_kills: usize,
    /// Seconds after its acceptance by which a message has ended
    #[arg(long, default_value_t = 180, value_parser = clap::value_parser!(u64).range(60..=86_400))]
    valid_for_s: u64,
    /// Drawn and printed when it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Keep logs and data here; a temporary folder otherwise, kept when something is found
    #[arg(long)]
    folder: Option<std::path::PathBuf>,
}

fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_env_filter(tracing_subscriber::EnvFilter::from_default_env()).init();
    match Cli::parse().command {
        Command::Real(real) => tokio::runtime::Runtime::new()?.block_on(run_real(real)),
        Command::Cluster(cluster) => tokio::runtime::Runtime::new()?.block_on(cluster_command::run(cluster)),
        Command::Routing(routing) => tokio::runtime::Runtime::new()?.block_on(routing_command::run(routing)),
        Command::Provider(provider) => tokio::runtime::Runtime::new()?.block_on(provider_command::run(provider)),
        // Outside of any runtime: the simulation is one thread and waits for nobody.
        Command::Sim(sim) => sim_command::run(&sim),
        Command::Speed(speed) => tokio::runtime::Runtime::new()?.block_on(speed_command::run(speed)),
    }
}

async fn run_real(real: Real) -> anyhow::Result<()> {
    let temporary = tempfile::Builder::new().prefix("flotilla-chaos-").tempdir()?;
    let folder = real.folder.unwrap_or_else(|| temporary.path().to_owned());
    std::fs::create_dir_all(&folder)?;
    let seed = real.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let options = Options {
        messages: usize::try_from(real.messages)?,
        controller_kills: real.controller_kills,
        fleets: real.fleets,
        devices_per_fleet: real.devices_per_fleet,
        fleet_kills: real.fleet_kills,
        valid_for_s: real.valid_for_s,
        seed,
        programs: Programs::beside_this()?,
        folder,
    };
    let outcome = scenario::run(&options).await.inspect_err(|_| keep(&options))?;
    println!("{} promised, {} hand-overs, {:?}", outcome.promised, outcome.hand_overs, outcome.states);
    println!(
        "{} kills of the controller, {} of fleets, {:.0} s",
        outcome.controller_kills,
        outcome.fleet_kills,
        outcome.took.as_secs_f64()
    );
    if outcome.violations.is_empty() {
        println!("no violation");
        return Ok(());
    }
    for violation in &outcome.violations {
        println!("{violation}");
    }
    keep(&options);
    std::mem::forget(temporary);
    bail!("{} violations with seed {seed}", outcome.violations.len())
}

fn keep(options: &Options) {
    eprintln!("logs and data: {}", options.folder.display());
}
