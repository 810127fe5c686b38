//! `flotilla send`: one text to one or many numbers, and with `--wait` what becomes of it.

use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::error::CliError;
use super::messages::{EncodingOptions, Message};
use super::show::Column;
use super::{Session, note, print, when};
use crate::domain::message::MessageState;

pub(super) const EXAMPLE: &str = "Example:\n  flotilla send +255712345678 'Your code is 4711' --priority urgent --wait\n\n\
    With --wait the exit code is 0 when all messages are delivered, and 1 when any ended otherwise.";

/// Text read from standard input. Longer than any message can be.
const STDIN_BYTES_MAX: u64 = 64 * 1024;
/// More would be polled too slowly to be called following.
const WAIT_MESSAGES_MAX: usize = 100;
const POLL_MIN: Duration = Duration::from_millis(250);
const POLL_MAX: Duration = Duration::from_secs(2);

#[derive(Debug, Args)]
pub struct Send {
    /// Numbers in international form, such as +255712345678; up to 1000
    #[arg(required = true)]
    to: Vec<String>,
    /// The text; - reads it from standard input
    #[arg(required = true)]
    text: String,
    /// TEXT is 8-bit data in base64
    #[arg(long)]
    data: bool,
    /// Application port of the data
    #[arg(long, requires = "data")]
    port: Option<u16>,
    /// Whom the recipient sees: the number of one of your SIMs, or a sender of one of your providers
    #[arg(long, value_name = "SENDER")]
    from: Option<String>,
    /// The plan that chooses its route: one of yours, or sims-first, providers-first, sims-only, providers-only, cheapest
    #[arg(long, value_name = "PLAN")]
    route: Option<String>,
    /// What it may cost, in your currency
    #[arg(long, value_name = "AMOUNT")]
    max_cost: Option<String>,
    /// Its events are sent here as well
    #[arg(long, value_name = "URL")]
    callback_url: Option<String>,
    /// normal when left out
    #[arg(long, value_parser = ["urgent", "high", "normal", "bulk"])]
    priority: Option<String>,
    /// Not before this time: RFC 3339, or such as 30m
    #[arg(long, value_parser = when::future, value_name = "TIME")]
    send_at: Option<String>,
    /// It expires this long after, such as 10m; a day when left out
    #[arg(long, value_parser = when::seconds, value_name = "TIME")]
    valid_for: Option<u64>,
    /// When nobody can tell whether an attempt was sent: wait for its device (never) or send again (allowed)
    #[arg(long, value_parser = ["never", "allowed"])]
    duplicates: Option<String>,
    /// Send by this SIM only
    #[arg(long, value_name = "ID")]
    sim: Option<String>,
    /// Send by this device only
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Capacity is shared fairly between campaigns
    #[arg(long, value_name = "NAME")]
    campaign: Option<String>,
    /// May be given up to 16 times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Your own name for the message
    #[arg(long, value_name = "NAME")]
    client_ref: Option<String>,
    #[command(flatten)]
    encoding: EncodingOptions,
    /// Show on the screen at once (class 0)
    #[arg(long)]
    flash: bool,
    /// The same key again sends nothing twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Follow the messages until they are delivered, or are not
    #[arg(long)]
    wait: bool,
    /// How long to follow them
    #[arg(long, value_parser = when::seconds, default_value = "10m", value_name = "TIME", requires = "wait")]
    wait_max: u64,
}

#[derive(Deserialize)]
struct Accepted {
    messages: Vec<AcceptedMessage>,
}

#[derive(Deserialize)]
struct AcceptedMessage {
    id: String,
    to: String,
    segments: u64,
}

impl Send {
    pub(super) async fn run(mut self, session: &Session) -> Result<ExitCode, CliError> {
        if self.wait && self.to.len() > WAIT_MESSAGES_MAX {
            let detail =
                format!("--wait follows up to {WAIT_MESSAGES_MAX} messages; leave it out, and use flotilla events");
            return Err(CliError::Usage(detail));
        }
        if self.text == "-" {
            self.text = standard_input()?;
        }
        // A key of our own makes it safe to come back when the controller says so.
        let key = self.idempotency_key.clone().unwrap_or_else(fresh_key);
        let answer = session.client.post(&["messages"]).json(&self.body()).idempotent(&key)?.answer().await?;
        let accepted: Accepted = answer.view()?;
        let ids: Vec<_> = accepted.messages.iter().map(|message| message.id.clone()).collect();
        session.print(&answer, |screen| {
            let columns = [Column::Whole("id"), Column::Whole("to"), Column::Number("segments")];
            let cells = |message: AcceptedMessage| vec![message.id, message.to, message.segments.to_string()];
            Ok(screen.table(&columns, accepted.messages.into_iter().map(cells)))
        })?;
        match self.wait {
            true => follow(session, ids, Duration::from_secs(self.wait_max)).await,
            false => Ok(ExitCode::SUCCESS),
        }
    }

    fn body(&self) -> Value {
        let mut body = json!({"to": self.to});
        body[if self.data { "data" } else { "text" }] = self.text.as_str().into();
        let texts = [
            ("from", &self.from),
            ("route", &self.route),
            ("max_cost", &self.max_cost),
            ("callback_url", &self.callback_url),
            ("priority", &self.priority),
            ("send_at", &self.send_at),
            ("duplicates", &self.duplicates),
            ("sim", &self.sim),
            ("device", &self.device),
            ("campaign", &self.campaign),
            ("client_ref", &self.client_ref),
        ];
        for (name, value) in texts {
            if let Some(value) = value {
                body[name] = value.as_str().into();
            }
        }
        if let Some(port) = self.port {
            body["port"] = port.into();
        }
        if let Some(valid_for_s) = self.valid_for {
            body["valid_for_s"] = valid_for_s.into();
        }
        if !self.tags.is_empty() {
            body["tags"] = json!(self.tags);
        }
        if let Some(encoding) = self.encoding.body() {
            body["encoding"] = encoding;
        }
        if self.flash {
            body["flash"] = true.into();
        }
        body
    }
}

pub(super) fn fresh_key() -> String {
    format!("cli-{:032x}", rand::random::<u128>())
}

fn standard_input() -> Result<String, CliError> {
    let failed = |cause| CliError::File { path: "standard input".to_owned(), cause };
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(STDIN_BYTES_MAX + 1);
    input.read_to_string(&mut text).map_err(failed)?;
    if text.len() as u64 > STDIN_BYTES_MAX {
        return Err(CliError::Usage(format!("the text is over {STDIN_BYTES_MAX} bytes; no message is that long")));
    }
    // The line break is the shell's, not the text's.
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// A message that is followed, and how much of its trace was shown.
struct Followed {
    id: String,
    steps: usize,
    state: Option<MessageState>,
}

impl Followed {
    fn is_final(&self) -> bool {
        self.state.is_some_and(MessageState::is_final)
    }
}

/// Shows each transition as it comes, until all have ended or the time is over.
async fn follow(session: &Session, ids: Vec<String>, at_most: Duration) -> Result<ExitCode, CliError> {
    let mut all: Vec<_> = ids.into_iter().map(|id| Followed { id, steps: 0, state: None }).collect();
    let (begin, mut pause) = (Instant::now(), POLL_MIN);
    loop {
        for followed in all.iter_mut().filter(|followed| !followed.is_final()) {
            look(session, followed).await?;
        }
        let open = all.iter().filter(|followed| !followed.is_final()).count();
        if open == 0 {
            break;
        }
        if begin.elapsed() + pause > at_most {
            return Err(CliError::Usage(format!(
                "{open} of {} messages have not ended after {} s; they go on: look with flotilla messages get, or wait \
                 longer with --wait-max",
                all.len(),
                at_most.as_secs()
            )));
        }
        sleep(pause).await;
        pause = (pause * 3 / 2).min(POLL_MAX);
    }
    let delivered = all.iter().filter(|followed| followed.state == Some(MessageState::Delivered)).count();
    if delivered < all.len() {
        note(&format!("{delivered} of {} delivered", all.len()));
        return Ok(ExitCode::FAILURE);
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(session: &Session, followed: &mut Followed) -> Result<(), CliError> {
    let answer = session.client.get(&["messages", &followed.id]).answer().await?;
    let message: Message = answer.view()?;
    followed.state = MessageState::ALL.into_iter().find(|state| state.as_str() == message.state);
    if session.json {
        return if followed.is_final() { print(&answer.line()) } else { Ok(()) };
    }
    let lines = message.step_lines(&session.screen, followed.steps);
    followed.steps += lines.len();
    lines.into_iter().try_for_each(|line| print(&line))
}
