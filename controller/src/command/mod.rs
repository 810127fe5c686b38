//! The commands that run something on this machine: a controller, a demonstration, and what belongs to its files. Those
//! that talk to a running controller are in `cli`.

mod demo;
mod files;
mod serve;
mod store;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::bench::Bench;
use crate::cli::{self, ClientCommand};

/// One reliable sender over a fleet of SMS gateways.
#[derive(Debug, Parser)]
#[command(
    name = "flotilla",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        flotilla demo --devices 20                     a controller with simulated gateways, to look around\n  \
        flotilla serve --data-dir /var/lib/flotilla    a real one\n  \
        flotilla config example > flotilla.toml        begin a configuration"
)]
pub struct Flotilla {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a controller
    Serve(serve::Serve),
    /// Run a controller with simulated gateways, to look around or to measure
    Demo(demo::Demo),
    Bench(Bench),
    /// Check, show or begin a configuration file
    #[command(subcommand)]
    Config(files::ConfigCommand),
    /// Bring the store up to date, or move it into PostgreSQL
    #[command(subcommand)]
    Store(store::StoreCommand),
    /// Print the installation's own key, which stands above all tenants
    RootKey(files::RootKey),
    /// Print a shell's completion script
    #[command(after_help = "Example:\n  flotilla completions bash > /etc/bash_completion.d/flotilla")]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
    #[command(flatten)]
    Client(ClientCommand),
}

/// Does what the command line says.
pub async fn run(flotilla: Flotilla) -> anyhow::Result<ExitCode> {
    match flotilla.command {
        Command::Serve(serve) => serve.run().await.map(|()| ExitCode::SUCCESS),
        Command::Demo(demo) => demo.run().await.map(|()| ExitCode::SUCCESS),
        Command::Bench(bench) => bench.run().await.map(|()| ExitCode::SUCCESS),
        Command::Config(config) => config.run().map(|()| ExitCode::SUCCESS),
        Command::Store(store) => store.run().await.map(|()| ExitCode::SUCCESS),
        Command::RootKey(root_key) => root_key.run().await.map(|()| ExitCode::SUCCESS),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Flotilla::command(), "flotilla", &mut std::io::stdout());
            Ok(ExitCode::SUCCESS)
        }
        Command::Client(command) => cli::run(command).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Flotilla::command().debug_assert();
    }

    #[test]
    fn commands_parse_as_their_help_says() {
        let good = [
            "flotilla serve",
            "flotilla serve --config /etc/flotilla.toml --http 0.0.0.0:80 --set limits.requests_per_min=5",
            "flotilla demo",
            "flotilla demo --devices 20 --http 127.0.0.1:0 --quic 127.0.0.1:0 --data-dir x --json --instant --window 64",
            "flotilla config check --data-dir x",
            "flotilla config example",
            "flotilla root-key --reset",
            "flotilla store migrate -c /etc/flotilla.toml",
            "flotilla store copy --from /var/lib/flotilla --to postgres://flotilla@db1/flotilla --password-file pw",
            "flotilla completions zsh",
        ];
        for line in good {
            assert!(Flotilla::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        let bad =
            ["flotilla", "flotilla serve --http nowhere", "flotilla demo --devices -1", "flotilla completions cmd"];
        for line in bad {
            assert!(Flotilla::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
