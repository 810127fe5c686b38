//! The command line of `flotilla-node`.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::config::LogFormat;

/// The agent beside the radios of a Flotilla: enrols this machine, then sends and receives SMS for its owner.
#[derive(Debug, Parser)]
#[command(name = "flotilla-node", version)]
pub struct Cli {
    /// Configuration file; `flotilla-node.toml` in the working folder if there is one.
    #[arg(long, short, global = true, env = "FLOTILLA_NODE_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Where identity, outbox and status socket live.
    #[arg(long, global = true, env = "FLOTILLA_NODE_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Level or directives, such as `info` or `warn,flotilla_device_node=debug`.
    #[arg(long, global = true, env = "FLOTILLA_NODE_LOG", value_name = "LEVEL")]
    pub log: Option<String>,
    #[arg(long, global = true, env = "FLOTILLA_NODE_LOG_FORMAT", value_enum)]
    pub log_format: Option<LogFormat>,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Redeem an enrolment code, as text or from standard input (`-`).
    Enroll {
        /// `FLOTILLA:1:...`, or `-`.
        code: String,
        /// Do not ask whether host and owner are right.
        #[arg(long, short)]
        yes: bool,
        /// The name that the owner sees.
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Connect and work until told to stop.
    Run,
    /// Check everything that sending needs: folder, clock, certificate, controllers, radios.
    Selftest {
        #[arg(long)]
        json: bool,
    },
    /// Show what the running node on this data folder is doing.
    Status {
        #[arg(long)]
        json: bool,
    },
    /// Carry a fleet of simulated devices in this process.
    Simulate(Simulate),
    /// Play a modem on a pseudo-terminal, told what to do by lines on standard input.
    #[command(hide = true)]
    ScriptedModem(ScriptedModem),
    /// Print a completion script.
    Completions { shell: clap_complete::Shell },
}

#[derive(Debug, clap::Args)]
pub struct Simulate {
    /// Enrolment codes, one in each line; `-` is standard input. Codes redeemed here before are passed over.
    #[arg(long, value_name = "FILE")]
    pub codes: Option<PathBuf>,
    /// How the SIMs behave; without it they are a little slow and never fail.
    #[arg(long, value_name = "FILE", conflicts_with = "instant")]
    pub profile: Option<PathBuf>,
    /// SIMs without any delay, for measuring.
    #[arg(long)]
    pub instant: bool,
    /// Write a line for each hand-over to a radio.
    #[arg(long, value_name = "FILE")]
    pub radio_log: Option<PathBuf>,
    /// Of all chance; drawn and printed if it is left out.
    #[arg(long)]
    pub seed: Option<u64>,
    /// UDP sockets that the devices share.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub sockets: u8,
    /// End when this process's standard input ends: whoever started it has gone.
    #[arg(long)]
    pub with_parent: bool,
    /// Print events as JSON lines: `enrolled`, `online`.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, clap::Args)]
pub struct ScriptedModem {
    /// Whose manners it has: `huawei`, `simcom`, `quectel`, `telit`, `ublox`, `slow`, `direct`, `storing`, `wordy`, `standard`.
    #[arg(long, default_value = "standard")]
    pub profile: String,
    /// Gets a line of JSON for each PDU that is handed over.
    #[arg(long, value_name = "FILE")]
    pub transcript: PathBuf,
    /// A link to the port that stays the same when the modem is unplugged and plugged in.
    #[arg(long, value_name = "PATH")]
    pub link: Option<PathBuf>,
    /// From a submission to its delivery report.
    #[arg(long, default_value_t = 500, value_name = "MS")]
    pub report_delay_ms: u64,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
