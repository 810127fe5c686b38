//! The command line of `speed`.

use anyhow::ensure;
use chaos_tests::process::Programs;
use chaos_tests::speed::{self, Kind, Options};
use clap::Args;

#[derive(Args)]
pub(crate) struct Speed {
    /// What takes turns, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Kind::ALL)]
    kinds: Vec<Kind>,
    /// Of each installation
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    shards: u16,
    /// Of each installation; as many of them in the shards of each controller
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=2_000))]
    tenants: u32,
    /// Simulated, with radios that answer at once; without any, only acceptance is measured
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=10_000))]
    devices_per_tenant: u32,
    /// Messages that a device may hold
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..=4096))]
    window: u16,
    /// Of each turn, in all tenants together
    #[arg(long, default_value_t = 120_000, value_parser = clap::value_parser!(u64).range(1_000..=10_000_000))]
    messages: u64,
    /// Turns of each installation; the median is reported
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) async fn run(speed: Speed) -> anyhow::Result<()> {
    ensure!(speed.messages >= u64::from(speed.tenants), "--messages is less than one for each tenant");
    let folder = tempfile::Builder::new().prefix("flotilla-speed-").tempdir()?;
    let options = Options {
        kinds: speed.kinds,
        shards: speed.shards,
        tenants: speed.tenants as usize,
        devices_per_tenant: speed.devices_per_tenant as usize,
        window: speed.window,
        messages: speed.messages,
        rounds: speed.rounds,
        programs: Programs::beside_this()?,
        folder: folder.path().to_owned(),
    };
    let Some(report) = speed::run(&options).await? else { return Ok(()) };
    if speed.json {
        println!("{}", serde_json::to_string(&report)?);
    } else {
        print!("{report}");
    }
    Ok(())
}
