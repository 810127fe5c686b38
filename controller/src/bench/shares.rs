//! `bench shares`: the shard's machine alone, with very many queued messages of ten tenants.

use super::report::{Report, median};
use crate::domain::shard::bench::bench_shares;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct SharesOptions {
    /// Queued messages
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1_000..=5_000_000))]
    messages: u32,
}

pub(super) fn run(options: &SharesOptions) -> Report {
    let bench = bench_shares(options.messages as usize);
    let mut report = Report::new("shares");
    let ratio = |shares: &[u64]| {
        let (least, most) = (shares.iter().min().copied().unwrap_or(0), shares.iter().max().copied().unwrap_or(0));
        least as f64 / most.max(1) as f64
    };
    report.figure("tenants: least share / greatest", ratio(&bench.tenants), "");
    report.figure("campaigns: least share / greatest", ratio(&bench.campaigns), "");
    let mut urgent: Vec<f64> = bench.urgent.iter().map(|took| took.as_secs_f64() * 1e3).collect();
    report.figure("urgent message to its grant, median", median(&mut urgent), "ms");
    report.figure("urgent message to its grant, worst", urgent.last().copied().unwrap_or(f64::NAN), "ms");
    report.note(format!(
        "{} messages of 10 tenants and 20 campaigns; shares when half were granted; {} urgent ones; no store, no network",
        bench.messages,
        bench.urgent.len()
    ));
    report
}
