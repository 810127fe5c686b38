//! The controller's program: parses, runs, says what went wrong.

use std::process::ExitCode;

use clap::Parser;
use flotilla_controller::command::{self, Flotilla};

/// Every message is a few small allocations, made on one thread and freed on another.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flotilla = Flotilla::parse();
    // Two libraries bring a provider each; whoever asks for the default gets this one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(command::run(flotilla));
    // What still blocks, such as a read of the terminal, must not hold the process.
    runtime.shutdown_background();
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
