//! Why a command failed, with what to do about it.

use std::fmt;
use std::io;

use serde::Deserialize;

use super::show::clean;

#[derive(Debug, thiserror::Error)]
pub(super) enum CliError {
    #[error(
        "which controller, and with which key? give --url and --key, or set FLOTILLA_URL (such as http://127.0.0.1:8080) \
         and FLOTILLA_KEY; missing: {0}"
    )]
    Missing(&'static str),
    #[error("the url {0:?} is not one; give --url or FLOTILLA_URL such as http://127.0.0.1:8080")]
    Url(String),
    #[error("{0} has characters that no header can carry; copy it again")]
    Header(&'static str),
    #[error("{0}")]
    Problem(Problem),
    #[error("no answer from {url}: {cause}; is the controller running, and is the address right?")]
    Connect { url: String, cause: String },
    #[error("{url} answered with status {status}, but not as a controller does; is --url (FLOTILLA_URL) right?")]
    NotOurs { url: String, status: u16 },
    #[error("{url} sends us elsewhere: to {to}; give that as --url (FLOTILLA_URL), without the path")]
    Elsewhere { url: String, to: String },
    #[error("{url} answered something that this version does not understand ({cause}); is it of another version?")]
    Unexpected { url: String, cause: String },
    #[error("{0}")]
    Usage(String),
    #[error("{path}: {cause}")]
    File { path: String, cause: io::Error },
    /// Nobody can say how much was accepted, but with the same key it does not matter.
    #[error("{cause}; repeat the upload with --idempotency-key {key}: nothing is sent twice then")]
    Interrupted { cause: Box<CliError>, key: String },
    #[error("tls can not be set up: {0}")]
    Tls(String),
    #[error("the output can not be written")]
    Output(io::Error),
}

impl CliError {
    /// It may go well later, although nobody changes the request.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Connect { .. } => true,
            Self::NotOurs { status, .. } => *status >= 500,
            Self::Problem(problem) => problem.may_be_repeated(),
            _ => false,
        }
    }
}

/// What a controller refuses with: `application/problem+json`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) detail: String,
    field: Option<String>,
    line: Option<u64>,
    column: Option<u64>,
}

impl Problem {
    pub(super) fn may_be_repeated(&self) -> bool {
        matches!(self.status, 429 | 500..)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}", clean(&self.detail), clean(&self.code))?;
        if let Some(field) = &self.field {
            write!(f, ", {}", clean(field))?;
        }
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        if let Some(column) = self.column {
            write!(f, ", column {column}")?;
        }
        f.write_str(")")?;
        match self.code.as_str() {
            // The API names its header; nobody types headers here.
            "tenant_required" => f.write_str("; give it with --tenant or FLOTILLA_TENANT"),
            _ => Ok(()),
        }
    }
}

/// An error with all that is below it: what reqwest itself says is only "error sending request".
pub(super) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let below = error.to_string();
        if !text.contains(&below) {
            text = format!("{text}: {below}");
        }
        source = error.source();
    }
    text
}
