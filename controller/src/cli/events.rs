//! `flotilla events`: what happens, as it happens. A lost connection is taken up again where it broke.

use std::time::Duration;

use clap::Args;
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use super::error::CliError;
use super::http::{Ask, unreachable};
use super::show::{Screen, clean};
use super::sse::{Parser, SseEvent};
use super::{Session, note, print};

pub(super) const EXAMPLE: &str = "Example:\n  flotilla events --types message.delivered,message.failed,inbound";

/// The controller says something at least every 15 s.
const SILENCE_MAX: Duration = Duration::from_secs(50);
const PAUSE_MIN_MS: u64 = 500;
const PAUSE_MAX_MS: u64 = 15_000;

#[derive(Debug, Args)]
pub struct Events {
    /// Only these kinds, separated by commas; message, inbound, device, sim for all of one
    #[arg(long)]
    types: Option<String>,
    /// Go on after this event, which an earlier stream has shown with --json
    #[arg(long, value_name = "ID")]
    after: Option<String>,
    /// End after so many events; never when left out
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Why a stream ended.
enum End {
    Enough,
    Lost { why: String, seen: bool },
}

impl Events {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let mut last_id = self.after.clone().unwrap_or_default();
        let mut left = self.limit.unwrap_or(u64::MAX);
        let (mut connected, mut pause_ms) = (false, PAUSE_MIN_MS);
        loop {
            let why = match self.ask(session, &last_id)?.open().await {
                Ok(response) => match follow(session, response, &mut last_id, &mut left).await? {
                    End::Enough => return Ok(()),
                    End::Lost { why, seen } => {
                        connected = true;
                        if seen {
                            pause_ms = PAUSE_MIN_MS;
                        }
                        why
                    }
                },
                Err(error) if connected && error.may_pass() => error.to_string(),
                Err(error) => return Err(error),
            };
            note(&format!("{why}; connecting again"));
            // Not all at once, when it was the controller that went away.
            sleep(Duration::from_millis(rand::random_range(pause_ms / 2..=pause_ms))).await;
            pause_ms = (pause_ms * 2).min(PAUSE_MAX_MS);
        }
    }

    fn ask<'a>(&self, session: &'a Session, last_id: &str) -> Result<Ask<'a>, CliError> {
        let ask = session.client.get(&["events"]).query("types", self.types.as_deref());
        let ask = ask.header("accept", "text/event-stream")?;
        match last_id {
            "" => Ok(ask),
            id => ask.header("last-event-id", id),
        }
    }
}

async fn follow(
    session: &Session,
    response: reqwest::Response,
    last_id: &mut String,
    left: &mut u64,
) -> Result<End, CliError> {
    let (url, mut seen) = (response.url().clone(), false);
    let mut pieces = response.bytes_stream();
    let mut parser = Parser::new(last_id);
    loop {
        let piece = match timeout(SILENCE_MAX, pieces.next()).await {
            Err(_) => return Ok(End::Lost { why: "nothing was heard for long".to_owned(), seen }),
            Ok(None) => return Ok(End::Lost { why: "the controller ended the stream".to_owned(), seen }),
            Ok(Some(Err(error))) => return Ok(End::Lost { why: unreachable(&url, &error).to_string(), seen }),
            Ok(Some(Ok(piece))) => piece,
        };
        seen = true;
        let unexpected = |cause: &dyn ToString| CliError::Unexpected { url: url.to_string(), cause: cause.to_string() };
        let events = parser.push(&piece).map_err(|error| unexpected(&error))?;
        parser.last_id().clone_into(last_id);
        for event in events {
            match session.json {
                true => print(&json_line(&event).map_err(|error| unexpected(&error))?)?,
                false => print(&human_line(&event, &session.screen))?,
            }
            *left = left.saturating_sub(u64::from(!matches!(event.kind.as_str(), "ready" | "reset")));
            if *left == 0 {
                return Ok(End::Enough);
            }
        }
    }
}

#[derive(Serialize)]
struct Line<'a> {
    id: &'a str,
    event: &'a str,
    data: &'a RawValue,
}

/// The data as it came.
pub(super) fn json_line(event: &SseEvent) -> Result<String, serde_json::Error> {
    let line = Line { id: &event.id, event: &event.kind, data: serde_json::from_str(&event.data)? };
    Ok(serde_json::to_string(&line)? + "\n")
}

/// Time, kind, id, and all the rest as name=value.
pub(super) fn human_line(event: &SseEvent, screen: &Screen) -> String {
    let data: Value = serde_json::from_str(&event.data).unwrap_or_default();
    let text = |name: &str| data.get(name).and_then(Value::as_str);
    let at = text("at").or_else(|| text("received_at")).map_or_else(|| screen.now_text(), |at| screen.time(at));
    let mut line = format!("{}  {:<18}", clean(&at), clean(&event.kind));
    if let Some(id) = text("id") {
        line.push_str(&format!("  {}", clean(id)));
    }
    for (name, value) in data.as_object().into_iter().flatten() {
        // The kind says the state.
        let shown = ["id", "at", "received_at"].contains(&name.as_str())
            || name == "state" && event.kind.starts_with("message.") && event.kind != "message.accepted";
        if !shown {
            line.push_str(&format!("  {}={}", clean(name), clean(&short(value))));
        }
    }
    line.truncate(line.trim_end().len());
    line + "\n"
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) if text.contains([' ', '"']) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Object(error) if error.contains_key("code") && error.contains_key("detail") => {
            let part = |name| error.get(name).and_then(Value::as_str).unwrap_or_default();
            format!("{} ({})", part("code"), part("detail"))
        }
        other => other.to_string(),
    }
}
