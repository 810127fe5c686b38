//! `flotilla messages`: look at messages, cancel them, see how a text would be sent, and send many.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Value, json};

use super::bulk::Bulk;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen, clean};
use super::{Session, when};

#[derive(Debug, Subcommand)]
pub enum Messages {
    /// List messages, the newest first; conditions hold together
    #[command(after_help = "Example:\n  flotilla messages list --state queued,sent --since 2h")]
    List(Box<Filter>),
    /// Show one message with its trace
    #[command(after_help = "Example:\n  flotilla messages get msg_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Get {
        /// msg_...
        id: String,
    },
    /// Take a message back that has not left
    #[command(after_help = "Example:\n  flotilla messages cancel msg_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Cancel {
        /// msg_...
        id: String,
    },
    /// How a text would be sent: alphabet and segments
    #[command(after_help = "Example:\n  flotilla messages preview 'Güle güle! Görüşürüz'")]
    Preview {
        text: String,
        #[command(flatten)]
        encoding: EncodingOptions,
    },
    /// Send many: lines of JSON, or CSV with a header
    #[command(after_help = super::bulk::EXAMPLE)]
    Bulk(Bulk),
}

#[derive(Debug, Args)]
pub struct Filter {
    /// Any of these, separated by commas
    #[arg(long)]
    state: Option<String>,
    /// Recipient, such as +255712345678
    #[arg(long)]
    to: Option<String>,
    /// Device of the last attempt
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// SIM of the last attempt
    #[arg(long, value_name = "ID")]
    sim: Option<String>,
    #[arg(long)]
    campaign: Option<String>,
    #[arg(long)]
    tag: Option<String>,
    /// Your own name for the message
    #[arg(long)]
    client_ref: Option<String>,
    #[arg(long, value_parser = ["urgent", "high", "normal", "bulk"])]
    priority: Option<String>,
    /// Accepted since then: RFC 3339, or such as 2h
    #[arg(long, value_parser = when::past, value_name = "TIME")]
    since: Option<String>,
    /// Accepted before then
    #[arg(long, value_parser = when::past, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

/// How a text becomes segments.
#[derive(Debug, Args)]
pub struct EncodingOptions {
    /// The one with the fewest segments when left out
    #[arg(long, value_parser = ["auto", "gsm7", "ucs2"])]
    alphabet: Option<String>,
    /// Without the national language tables, which some old handsets show wrongly
    #[arg(long)]
    no_national_tables: bool,
    /// Replace typographic characters where that saves segments
    #[arg(long)]
    smart: bool,
}

impl EncodingOptions {
    pub(super) fn body(&self) -> Option<Value> {
        let mut body = json!({});
        if let Some(alphabet) = &self.alphabet {
            body["alphabet"] = alphabet.as_str().into();
        }
        if self.no_national_tables {
            body["national_tables"] = false.into();
        }
        if self.smart {
            body["smart"] = true.into();
        }
        (body != json!({})).then_some(body)
    }
}

impl Messages {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let client = &session.client;
        match self {
            Self::List(filter) => filter.run(session).await?,
            Self::Get { id } => {
                let answer = client.get(&["messages", &id]).answer().await?;
                session.print(&answer, |screen| Ok(answer.view::<Message>()?.text(screen)))?;
            }
            Self::Cancel { id } => {
                let answer = client.delete(&["messages", &id]).answer().await?;
                session.print(&answer, |_| Ok(answer.view::<Cancelled>()?.text()))?;
            }
            Self::Preview { text, encoding } => {
                let mut body = json!({"text": text});
                if let Some(encoding) = encoding.body() {
                    body["encoding"] = encoding;
                }
                let answer = client.post(&["messages", "preview"]).json(&body).answer().await?;
                session.print(&answer, |screen| Ok(answer.view::<Preview>()?.text(screen)))?;
            }
            Self::Bulk(bulk) => return bulk.run(session).await,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Filter {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let ask = || {
            session
                .client
                .get(&["messages"])
                .query("state", self.state.as_deref())
                .query("to", self.to.as_deref())
                .query("device", self.device.as_deref())
                .query("sim", self.sim.as_deref())
                .query("campaign", self.campaign.as_deref())
                .query("tag", self.tag.as_deref())
                .query("client_ref", self.client_ref.as_deref())
                .query("priority", self.priority.as_deref())
                .query("since", self.since.as_deref())
                .query("until", self.until.as_deref())
        };
        list::<Message>(session, &self.paging, ask).await
    }
}

#[derive(Deserialize)]
pub(super) struct Message {
    id: String,
    pub(super) state: String,
    to: String,
    text: Option<String>,
    data: Option<String>,
    port: Option<u16>,
    segments: u64,
    segments_delivered: u64,
    priority: String,
    duplicates: String,
    flash: bool,
    device: Option<String>,
    sim: Option<String>,
    provider: Option<String>,
    sender: Option<String>,
    only_by: Option<String>,
    from: Option<String>,
    route: Option<String>,
    max_cost: Option<String>,
    #[serde(default)]
    cost: String,
    attempts: u64,
    #[serde(default)]
    campaign: String,
    #[serde(default)]
    tags: Vec<String>,
    client_ref: Option<String>,
    accepted_at: String,
    send_at: Option<String>,
    expires_at: String,
    sent_at: Option<String>,
    delivered_at: Option<String>,
    error: Option<Failure>,
    #[serde(default)]
    trace: Vec<Step>,
}

#[derive(Deserialize)]
struct Failure {
    class: String,
    code: String,
    detail: String,
}

impl Failure {
    fn text(&self) -> String {
        format!("{} ({}, {})", self.detail, self.code, self.class)
    }
}

#[derive(Deserialize)]
struct Why {
    rule: Option<String>,
    step: u64,
    score: u64,
    because: String,
}

impl Why {
    fn text(&self) -> String {
        let rule = self.rule.as_ref().map(|rule| format!(", rule {rule}")).unwrap_or_default();
        format!("{}, step {}, score {}{rule}", self.because, self.step, self.score)
    }
}

#[derive(Deserialize)]
struct Step {
    at: String,
    state: String,
    attempt: u64,
    device: Option<String>,
    sim: Option<String>,
    provider: Option<String>,
    sender: Option<String>,
    why: Option<Why>,
    segment: Option<u64>,
    error: Option<Failure>,
}

impl Step {
    fn what(&self) -> String {
        self.segment.map_or_else(|| self.state.clone(), |segment| format!("segment {segment} delivered"))
    }

    fn attempt(&self) -> String {
        if self.attempt == 0 { String::new() } else { self.attempt.to_string() }
    }
}

impl Message {
    pub(super) fn text(self, screen: &Screen) -> String {
        let trace = self.trace(screen);
        let one_of = |text: Option<String>| text.unwrap_or_default();
        let time = |at: Option<String>| screen.time_and_ago(&at.unwrap_or_default());
        let mut text = screen.facts([
            ("id", self.id),
            ("state", self.state),
            ("error", self.error.map(|error| error.text()).unwrap_or_default()),
            ("to", self.to),
            ("text", one_of(self.text)),
            ("data", one_of(self.data)),
            ("port", self.port.map(|port| port.to_string()).unwrap_or_default()),
            ("segments", format!("{} of {} delivered", self.segments_delivered, self.segments)),
            ("priority", self.priority),
            ("duplicates", self.duplicates),
            ("flash", if self.flash { "yes".to_owned() } else { String::new() }),
            ("attempts", self.attempts.to_string()),
            ("device", one_of(self.device)),
            ("sim", one_of(self.sim)),
            ("provider", one_of(self.provider)),
            ("sender", one_of(self.sender)),
            ("from", one_of(self.from)),
            ("route", one_of(self.route)),
            ("max cost", one_of(self.max_cost)),
            ("cost", self.cost),
            ("only by", one_of(self.only_by)),
            ("campaign", self.campaign),
            ("tags", self.tags.join(", ")),
            ("client ref", one_of(self.client_ref)),
            ("accepted", screen.time_and_ago(&self.accepted_at)),
            ("not before", time(self.send_at)),
            ("expires", screen.time_and_ago(&self.expires_at)),
            ("sent", time(self.sent_at)),
            ("delivered", time(self.delivered_at)),
        ]);
        if !trace.is_empty() {
            text.push('\n');
            text.push_str(&screen.title("trace"));
            text.push_str(&trace);
        }
        text
    }

    fn trace(&self, screen: &Screen) -> String {
        if self.trace.is_empty() {
            return String::new();
        }
        let columns = [
            Column::Whole("at"),
            Column::Whole("state"),
            Column::Number("attempt"),
            Column::Cut("error"),
            Column::Cut("device or provider"),
            Column::Cut("sim or sender"),
            Column::Cut("why"),
        ];
        let cells = |step: &Step| {
            let error = step.error.as_ref().map(Failure::text).unwrap_or_default();
            let gateway = step.device.as_ref().or(step.provider.as_ref()).cloned().unwrap_or_default();
            let route = step.sim.as_ref().or(step.sender.as_ref()).cloned().unwrap_or_default();
            let why = step.why.as_ref().map(Why::text).unwrap_or_default();
            vec![screen.time(&step.at), step.what(), step.attempt(), error, gateway, route, why]
        };
        screen.table(&columns, self.trace.iter().map(cells))
    }

    /// The transitions after the first `shown`, a line each.
    pub(super) fn step_lines(&self, screen: &Screen, shown: usize) -> Vec<String> {
        let line = |step: &Step| {
            let mut line = format!("{}  {}  {}", screen.time(&step.at), clean(&self.id), clean(&step.what()));
            if step.attempt > 0 {
                line.push_str(&format!("  attempt {}", step.attempt));
            }
            if let Some(sim) = step.sim.as_ref().or(step.sender.as_ref()) {
                line.push_str(&format!("  {}", clean(sim)));
            }
            if let Some(error) = &step.error {
                line.push_str(&format!("  {}", clean(&error.text())));
            }
            line + "\n"
        };
        self.trace.iter().skip(shown).map(line).collect()
    }
}

impl Listed for Message {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("id"),
        Column::Whole("state"),
        Column::Whole("to"),
        Column::Whole("when"),
        Column::Number("tries"),
        Column::Cut("text"),
        Column::Whole("error"),
    ];
    const NONE: &'static str = "no messages";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let text = self.text.or(self.data).unwrap_or_default();
        let error = self.error.map(|error| error.code).unwrap_or_default();
        vec![self.id, self.state, self.to, screen.ago(&self.accepted_at), self.attempts.to_string(), text, error]
    }
}

#[derive(Deserialize)]
struct Cancelled {
    id: String,
    cancel: String,
}

impl Cancelled {
    fn text(self) -> String {
        let said = match self.cancel.as_str() {
            "cancelled" => "cancelled: it will not be sent",
            "requested" => "requested: a device may just be sending it and was asked not to; see flotilla messages get",
            other => other,
        };
        format!("{}  {}\n", clean(&self.id), clean(said))
    }
}

#[derive(Deserialize)]
struct Preview {
    encoding: String,
    segments: u64,
    units: u64,
    units_left: u64,
    language: Option<String>,
}

impl Preview {
    fn text(self, screen: &Screen) -> String {
        screen.facts([
            ("encoding", self.encoding),
            ("language", self.language.unwrap_or_default()),
            ("segments", self.segments.to_string()),
            ("units", format!("{}, {} left in the last segment", self.units, self.units_left)),
        ])
    }
}
