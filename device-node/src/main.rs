//! The command line of a node.

use std::process::ExitCode;

use clap::Parser;
use flotilla_device_node::{app, cli::Cli};

/// Thousands of simulated devices allocate and free small frames all day; it does that in a third of the system's time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("flotilla-node: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(app::run(cli));
    // Whoever still reads standard input must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("flotilla-node: {}", app::told(&error));
            ExitCode::FAILURE
        }
    }
}
