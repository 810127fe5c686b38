//! Logs and metrics: set up once per process, before anything else runs.

use std::io::IsTerminal;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{Log, LogFormat};

/// Bounds of latency histograms in seconds: from a fast commit to a slow provider.
const SECONDS: [f64; 14] = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];

#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("logging is set up already")]
    Log,
    #[error("metrics can not be set up: {0}")]
    Metrics(String),
}

/// Starts logging to standard error. `RUST_LOG` wins over the configured filter.
pub fn logs(log: &Log) -> Result<(), TelemetryError> {
    let filter = EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(&log.filter)).unwrap_or_default();
    // A file or a service manager is no terminal: colours there are noise.
    let ansi = std::io::stderr().is_terminal();
    let builder = fmt().with_env_filter(filter).with_ansi(ansi).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|_| TelemetryError::Log)
}

/// The process's metrics, set up on first use: `metrics` has one recorder for each process.
pub fn metrics() -> Result<PrometheusHandle, TelemetryError> {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    static SETUP: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one_at_a_time = SETUP.lock();
    if let Some(handle) = HANDLE.get() {
        return Ok(handle.clone());
    }
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS)
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(|error| TelemetryError::Metrics(error.to_string()))?;
    Ok(HANDLE.get_or_init(|| handle).clone())
}

/// What the kernel counts for this process, read when somebody asks. Nothing on systems without `/proc`.
pub fn measure_process() {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // The second field is the program's name in parentheses and may hold anything; the rest is numbers.
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    let fields: Vec<u64> = rest.split_ascii_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or(0) as f64;
    let ticks_per_s = rustix::param::clock_ticks_per_second().max(1) as f64;
    metrics::gauge!("process_cpu_seconds_total").set((field(14) + field(15)) / ticks_per_s);
    metrics::gauge!("process_threads").set(field(20));
    metrics::gauge!("process_virtual_memory_bytes").set(field(23));
    metrics::gauge!("process_resident_memory_bytes").set(field(24) * rustix::param::page_size() as f64);
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        metrics::gauge!("process_open_fds").set(files.count() as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_is_measured() {
        let handle = metrics().unwrap();
        measure_process();
        let text = handle.render();
        let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes "));
        let bytes: f64 = resident.expect("the gauge").parse().unwrap();
        assert!(bytes > 1e6, "{bytes}");
        assert!(text.contains("process_open_fds"));
    }
}
