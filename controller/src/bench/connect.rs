//! `bench connect`: a fleet that connects all at once, and what each connected device costs in memory.

use std::time::Instant;

use super::report::Report;
use super::subject::Subject;

#[derive(Debug, Clone, clap::Args)]
pub(super) struct ConnectOptions {
    /// Simulated devices
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=50_000))]
    pub(super) devices: u32,
}

pub(super) async fn run(options: ConnectOptions) -> anyhow::Result<Report> {
    let mut report = Report::new("connect");
    let empty = Subject::start(0, None).await?;
    let floor = empty.resident_bytes()?;
    empty.stop().await?;

    let start = Instant::now();
    let subject = Subject::start(options.devices, None).await?;
    let taken = start.elapsed().as_secs_f64();
    let devices = f64::from(options.devices);
    let memory = subject.resident_bytes()?.saturating_sub(floor) as f64 / devices / 1024.0;
    report.figure("enrolled and connected, both sides on this machine", devices / taken, "/s");
    report.figure("controller memory per connected device", memory, "KiB");
    report.figure("controller CPU per enrolment and connect", subject.cpu_s()? * 1e6 / devices, "us");
    report.note(format!("{} devices; enrolment is two handshakes and one transaction each", options.devices));
    subject.stop().await?;
    Ok(report)
}
