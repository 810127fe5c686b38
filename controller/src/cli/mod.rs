//! The commands of `flotilla` that talk to a controller over its HTTP API, as any other client does.
//!
//! Each command is one module: what it takes, what it asks, how the answer is shown. `http` asks and turns refusals into
//! errors, `list` follows pages, `show` draws. With `--json` the API's own documents are printed and nothing else is, so
//! that a script sees exactly what `curl` would have shown it.

mod audit;
mod bulk;
mod ca;
mod cluster;
mod devices;
mod enroll;
mod error;
mod events;
mod health;
mod http;
mod inbound;
mod keys;
mod list;
mod messages;
mod providers;
mod routing;
mod send;
mod show;
mod sims;
mod sse;
mod stats;
mod tenants;
#[cfg(test)]
mod tests;
mod webhooks;
mod when;

use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use error::CliError;
use http::Client;
use show::Screen;

/// Commands for a running controller.
#[derive(Debug, Subcommand)]
pub enum ClientCommand {
    /// Send a text
    #[command(after_help = send::EXAMPLE)]
    Send(Box<Call<send::Send>>),
    /// Look at messages, cancel them, send many
    Messages(Group<messages::Messages>),
    /// What the gateways received
    #[command(after_help = inbound::EXAMPLE)]
    Inbound(Call<inbound::Inbound>),
    /// Gateways: look, name, drain, revoke
    Devices(Group<devices::Devices>),
    /// Rules, plans, limits and money of the routes that messages take
    Routing(Group<routing::Routing>),
    /// SIMs: look, name, limit, confirm
    Sims(Group<sims::Sims>),
    /// Accounts at online SMS services
    Providers(Group<providers::Providers>),
    /// Invite a gateway: draws the QR code that it scans
    #[command(after_help = enroll::EXAMPLE)]
    Enroll(Call<enroll::Enroll>),
    /// The fleet at a glance, and what to look at
    #[command(after_help = health::EXAMPLE)]
    Health(Call<health::Health>),
    /// Counters by time and by what they are about
    #[command(after_help = stats::EXAMPLE)]
    Stats(Call<stats::Stats>),
    /// Follow what happens, as it happens
    #[command(after_help = events::EXAMPLE)]
    Events(Call<events::Events>),
    /// API keys
    Keys(Group<keys::Keys>),
    /// Webhooks: addresses that are told of events
    Webhooks(Group<webhooks::Webhooks>),
    /// Organisations (root key)
    Tenants(Group<tenants::Tenants>),
    /// The certificate authority
    Ca(Group<ca::Ca>),
    /// Certificates of the devices
    #[command(after_help = ca::CERTIFICATES_EXAMPLE)]
    Certificates(Call<ca::Certificates>),
    /// Controllers and the shards they lead
    Cluster(Group<cluster::Cluster>),
    /// Who changed what
    #[command(after_help = audit::EXAMPLE)]
    Audit(Call<audit::Audit>),
}

/// Which controller, as whom, and for whose eyes.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct ClientOptions {
    /// The controller, such as http://127.0.0.1:8080
    #[arg(long, global = true, env = "FLOTILLA_URL")]
    url: Option<String>,
    /// API key: flk_...
    #[arg(long, global = true, env = "FLOTILLA_KEY", hide_env_values = true)]
    key: Option<String>,
    /// The tenant that a root key means: ten_...
    #[arg(long, global = true, env = "FLOTILLA_TENANT", value_name = "ID")]
    tenant: Option<String>,
    /// Print the API's own JSON
    #[arg(long, global = true)]
    json: bool,
}

/// A command of its own.
#[derive(Debug, Args)]
pub struct Call<T: Args> {
    #[command(flatten)]
    options: ClientOptions,
    #[command(flatten)]
    args: T,
}

/// A command with commands below it.
#[derive(Debug, Args)]
pub struct Group<T: Subcommand> {
    #[command(flatten)]
    options: ClientOptions,
    #[command(subcommand)]
    command: T,
}

/// What a command works with.
struct Session {
    client: Client,
    screen: Screen,
    json: bool,
}

impl Session {
    fn open(options: &ClientOptions) -> Result<Self, CliError> {
        let ClientOptions { url, key, tenant, json } = options;
        let client = Client::new(url.as_deref(), key.as_deref(), tenant.as_deref())?;
        Ok(Self { client, screen: Screen::of_stdout(), json: *json })
    }

    /// The answer as it is, or what `human` makes of it.
    fn print(
        &self,
        answer: &http::Answer,
        human: impl FnOnce(&Screen) -> Result<String, CliError>,
    ) -> Result<(), CliError> {
        if self.json {
            return print(&answer.line());
        }
        print(&human(&self.screen)?)
    }
}

/// Everything goes to stdout in one piece, so that an error is noticed.
fn print(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// For people who watch; never part of the output.
fn note(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}

/// Runs a command and tells on stderr why it failed. The error is for what is neither the controller's nor the user's doing.
pub async fn run(command: ClientCommand) -> anyhow::Result<ExitCode> {
    match dispatch(command).await {
        Ok(code) => Ok(code),
        // `flotilla ... | head` has seen enough.
        Err(CliError::Output(error)) if error.kind() == ErrorKind::BrokenPipe => Ok(ExitCode::SUCCESS),
        Err(CliError::Output(error)) => Err(anyhow::Error::new(error).context("the output can not be written")),
        Err(error) => {
            eprintln!("error: {error}");
            Ok(ExitCode::FAILURE)
        }
    }
}

async fn dispatch(command: ClientCommand) -> Result<ExitCode, CliError> {
    use ClientCommand as C;
    match command {
        C::Send(call) => {
            let Call { options, args } = *call;
            return args.run(&Session::open(&options)?).await;
        }
        C::Messages(Group { options, command }) => return command.run(&Session::open(&options)?).await,
        C::Inbound(Call { options, args }) => args.run(&Session::open(&options)?).await?,
        C::Devices(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Routing(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Sims(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Providers(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Enroll(Call { options, args }) => args.run(&Session::open(&options)?).await?,
        C::Health(Call { options, args }) => args.run(&Session::open(&options)?).await?,
        C::Stats(Call { options, args }) => args.run(&Session::open(&options)?).await?,
        C::Events(Call { options, args }) => args.run(&Session::open(&options)?).await?,
        C::Keys(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Webhooks(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Tenants(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Ca(Group { options, command }) => command.run(&Session::open(&options)?).await?,
        C::Certificates(Call { options, args }) => args.run(&Session::open(&options)?).await?,
        C::Cluster(Group { options, command }) => command.run(&options).await?,
        C::Audit(Call { options, args }) => args.run(&Session::open(&options)?).await?,
    }
    Ok(ExitCode::SUCCESS)
}
