//! `config` and `root-key`: what is in this machine's files.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::app::root_key;
use crate::config::{self, Sources};

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// Read the configuration from all sources and say what is wrong with it
    Check(Sources),
    /// Print the configuration in force: file, environment and flags together
    Show(Sources),
    /// Print a file with all keys, their defaults and what they mean
    Example,
}

impl ConfigCommand {
    pub(super) fn run(self) -> anyhow::Result<()> {
        match self {
            Self::Check(sources) => {
                config::load(&sources)?;
                print("the configuration is good\n")
            }
            Self::Show(sources) => print(&config::load(&sources)?.to_toml()?),
            Self::Example => print(config::EXAMPLE),
        }
    }
}

#[derive(Debug, Args)]
#[command(
    after_help = "The root key is made when a controller starts for the first time, and kept in root.key in its data\n\
    folder, readable by its owner only. It makes tenants and rotates the CA; for anything within a tenant add --tenant.\n\n\
    Example:\n  export FLOTILLA_KEY=$(flotilla root-key)\n  flotilla tenants create 'Arusha Clinic'"
)]
pub(super) struct RootKey {
    /// Make a new root key, and void the old one; only while the controller is stopped
    #[arg(long)]
    reset: bool,
    /// The data folder; from the configuration when left out
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration file
    #[arg(long, short = 'c', value_name = "FILE", env = "FLOTILLA_CONFIG")]
    config: Option<PathBuf>,
}

impl RootKey {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let sources = Sources { config: self.config, data_dir: self.data_dir, ..Sources::default() };
        let config = config::load(&sources)?;
        let key = if self.reset { root_key::reset(&config).await? } else { root_key::read(&config)? };
        print(&format!("{}\n", key.expose()))
    }
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
