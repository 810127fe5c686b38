//! The test provider as a process of its own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use chaos_tests::provider_server::{self, Script, Settings};
use clap::Args;

#[derive(Args)]
#[command(
    after_help = "The script is TOML, shares from 0 to 1, such as `throttled = 0.1`: chaos-tests/src/provider_server/script.rs \
    lists them. An account of the maker `twilio` with `base_url` set to the printed address uses it; the controller needs \
    `[providers] allow_private_addresses = true`, and `[http] public_url` for reports."
)]
pub(crate) struct Provider {
    #[arg(long, default_value = "127.0.0.1:8090")]
    addr: SocketAddr,
    /// `account_sid` of its account
    #[arg(long, default_value = "ACtest")]
    account: String,
    /// `auth_token` of its account
    #[arg(long, default_value = "secret")]
    token: String,
    /// How it misbehaves; it does not without one
    #[arg(long, value_name = "FILE")]
    script: Option<PathBuf>,
    /// A line for each request that was decided
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Drawn and printed when it is not given
    #[arg(long)]
    seed: Option<u64>,
}

pub(crate) async fn run(provider: Provider) -> anyhow::Result<()> {
    let script: Script = match &provider.script {
        Some(file) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
            toml::from_str(&text).with_context(|| format!("understanding {}", file.display()))?
        }
        None => Script::default(),
    };
    let seed = provider.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let Provider { addr, account, token, log, .. } = provider;
    match provider_server::run(addr, Settings { account, token, script, seed, log }).await? {}
}
