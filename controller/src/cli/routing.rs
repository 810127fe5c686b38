//! `flotilla routing`: a tenant's rules, plans, limits and money as a file.

pub(super) mod explain;

use std::io::Read;
use std::path::PathBuf;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::Value;

use super::error::CliError;
use super::{Session, note, print};

/// More than the API takes.
const FILE_BYTES_MAX: u64 = 2 * 1024 * 1024;

#[derive(Debug, Subcommand)]
pub enum Routing {
    /// Print the settings, as `set` takes them
    #[command(after_help = "Example:\n  flotilla routing show > routing.json")]
    Show {},
    /// Replace the settings by a file's
    #[command(after_help = "Example:\n  flotilla routing set routing.json --if-version 3")]
    Set {
        /// JSON; - reads standard input
        file: PathBuf,
        /// Only if nobody has changed them since this version, which `show` tells
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
    },
    /// Say which route a message would take now, and why; nothing is sent
    #[command(after_help = "Example:\n  flotilla routing explain +255712345678 'Your code is 4711' --priority urgent")]
    Explain(Box<explain::Explain>),
}

#[derive(Deserialize)]
struct Settings {
    version: u64,
    settings: Value,
}

impl Routing {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = &session.client;
        match self {
            Self::Explain(explain) => explain.run(session).await,
            Self::Show {} => {
                let answer = client.get(&["routing"]).answer().await?;
                if !session.json {
                    note(&format!("version {}", answer.view::<Settings>()?.version));
                }
                session.print(&answer, |_| Ok(pretty(&answer.view::<Settings>()?.settings)))
            }
            Self::Set { file, if_version } => {
                let settings = read(&file)?;
                let version = if_version.map_or_else(|| "*".to_owned(), |version| format!("\"{version}\""));
                let ask = client.put(&["routing"]).header("if-match", &version)?.json(&settings);
                let answer = ask.answer().await?;
                if session.json {
                    return print(&answer.line());
                }
                print(&format!("the settings are at version {} now\n", answer.view::<Settings>()?.version))
            }
        }
    }
}

fn pretty(settings: &Value) -> String {
    format!("{settings:#}\n")
}

fn read(file: &PathBuf) -> Result<Value, CliError> {
    let name = file.display().to_string();
    let failed = |cause| CliError::File { path: name.clone(), cause };
    let mut text = String::new();
    let read = match name.as_str() {
        "-" => std::io::stdin().lock().take(FILE_BYTES_MAX).read_to_string(&mut text),
        _ => std::fs::File::open(file).map_err(failed)?.take(FILE_BYTES_MAX).read_to_string(&mut text),
    };
    read.map_err(failed)?;
    serde_json::from_str(&text).map_err(|error| CliError::Usage(format!("{name} is not JSON: {error}")))
}
