//! `flotilla webhooks`: addresses that are told of events.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Session;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};

#[derive(Debug, Subcommand)]
pub enum Webhooks {
    /// List webhooks, the oldest first
    #[command(after_help = "Example:\n  flotilla webhooks list")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Show a webhook, and how many events wait for it
    #[command(after_help = "Example:\n  flotilla webhooks show whk_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Show {
        /// whk_...
        id: String,
    },
    /// Create a webhook; its secret is shown once
    #[command(
        after_help = "Example:\n  flotilla webhooks create https://example.org/hooks --events 'message.*,inbound.received'"
    )]
    Create {
        /// https://...
        address: String,
        #[command(flatten)]
        settings: Settings,
    },
    /// Change a webhook; what is left out stays
    #[command(after_help = "Example:\n  flotilla webhooks change whk_01kaqmpxm0e8xs6bhkrg5jrqzt --rate 100")]
    Change {
        /// whk_...
        id: String,
        /// https://...
        #[arg(long)]
        address: Option<String>,
        #[command(flatten)]
        settings: Settings,
    },
    /// Send it nothing for now; events are not kept for it meanwhile
    #[command(after_help = "Example:\n  flotilla webhooks disable whk_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Disable {
        /// whk_...
        id: String,
    },
    /// Send to it again
    #[command(after_help = "Example:\n  flotilla webhooks enable whk_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Enable {
        /// whk_...
        id: String,
    },
    /// Delete it, with the events that wait for it
    #[command(after_help = "Example:\n  flotilla webhooks delete whk_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Delete {
        /// whk_...
        id: String,
    },
    /// Send it `webhook.test` now, and tell what came back
    #[command(after_help = "Example:\n  flotilla webhooks test whk_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Test {
        /// whk_...
        id: String,
    },
    /// Give it a new secret; the old one signs beside it for a day
    #[command(after_help = "Example:\n  flotilla webhooks rotate whk_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Rotate {
        /// whk_...
        id: String,
    },
    /// List the events that wait for it, or were given up
    #[command(after_help = "Example:\n  flotilla webhooks deliveries whk_01kaqmpxm0e8xs6bhkrg5jrqzt --given-up")]
    Deliveries {
        /// whk_...
        id: String,
        /// Those that were given up in the last 30 days
        #[arg(long)]
        given_up: bool,
        #[command(flatten)]
        paging: Paging,
    },
    /// Send events again that were given up: of a webhook, or of all
    #[command(
        after_help = "Example:\n  flotilla webhooks replay whk_01kaqmpxm0e8xs6bhkrg5jrqzt --since 2026-11-20T14:00:00Z\n  \
                      flotilla webhooks replay --message msg_01kaqmpxm0e8xs6bhkrg5jrqzt --waiting"
    )]
    Replay {
        /// whk_...; all that are enabled when left out
        id: Option<String>,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
pub struct Which {
    /// Given up at this time (RFC 3339) or later; all that are kept when left out
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// And before this time
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// What happened to this message
    #[arg(long, value_name = "ID")]
    message: Option<String>,
    /// These, by their ids in the list of deliveries
    #[arg(long, value_name = "ID", value_delimiter = ',', requires = "id")]
    deliveries: Vec<String>,
    /// Also those that wait for their next try
    #[arg(long)]
    waiting: bool,
}

impl Which {
    fn body(self) -> Value {
        let texts = [("since", self.since), ("until", self.until), ("message", self.message)];
        let given = texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), Value::from(value?))));
        let mut body: Map<_, _> = given.collect();
        if !self.deliveries.is_empty() {
            body.insert("deliveries".to_owned(), self.deliveries.into());
        }
        if self.waiting {
            body.insert("waiting".to_owned(), true.into());
        }
        Value::Object(body)
    }
}

#[derive(Debug, clap::Args)]
pub struct Settings {
    /// What it is for, up to 64 bytes
    #[arg(long)]
    name: Option<String>,
    /// Names of events, or beginnings such as message.*
    #[arg(long, value_delimiter = ',')]
    events: Option<Vec<String>>,
    /// Send texts of messages along
    #[arg(long, value_name = "YES_OR_NO", action = clap::ArgAction::Set)]
    include_text: Option<bool>,
    /// Events per second, 1 to 1,000
    #[arg(long, value_name = "PER_S")]
    rate: Option<u32>,
}

impl Settings {
    fn body(self, url: Option<String>) -> Value {
        let fields = [
            ("url", url.map(Value::from)),
            ("name", self.name.map(Value::from)),
            ("events", self.events.map(Value::from)),
            ("include_text", self.include_text.map(Value::from)),
            ("rate_per_s", self.rate.map(Value::from)),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>())
    }
}

impl Webhooks {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = &session.client;
        let ask = match self {
            Self::List { paging } => return list::<Webhook>(session, &paging, || client.get(&["webhooks"])).await,
            Self::Deliveries { id, given_up, paging } => {
                let state = if given_up { "given_up" } else { "waiting" };
                let ask = || client.get(&["webhooks", &id, "deliveries"]).query("state", Some(state));
                return list::<Delivery>(session, &paging, ask).await;
            }
            Self::Test { id } => {
                let answer = client.post(&["webhooks", &id, "test"]).answer().await?;
                return session.print(&answer, |screen| Ok(answer.view::<Tested>()?.facts(screen)));
            }
            Self::Replay { id, which } => {
                let ask = match &id {
                    Some(id) => client.post(&["webhooks", id, "replay"]),
                    None => client.post(&["webhooks", "replay"]),
                };
                let answer = ask.json(&which.body()).answer().await?;
                return session.print(&answer, |_| Ok(answer.view::<Replayed>()?.sentence()));
            }
            Self::Delete { id } => {
                let answer = client.delete(&["webhooks", &id]).answer().await?;
                return session.print(&answer, |_| Ok(format!("{id} is deleted")));
            }
            Self::Show { id } => client.get(&["webhooks", &id]),
            Self::Create { address, settings } => client.post(&["webhooks"]).json(&settings.body(Some(address))),
            Self::Change { id, address, settings } => client.patch(&["webhooks", &id]).json(&settings.body(address)),
            Self::Disable { id } => client.patch(&["webhooks", &id]).json(&json!({"enabled": false})),
            Self::Enable { id } => client.patch(&["webhooks", &id]).json(&json!({"enabled": true})),
            Self::Rotate { id } => client.post(&["webhooks", &id, "rotate"]),
        };
        let answer = ask.answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Webhook>()?.facts(screen)))
    }
}

#[derive(Deserialize)]
pub(super) struct Webhook {
    id: String,
    url: Option<String>,
    name: String,
    events: Vec<String>,
    include_text: bool,
    enabled: bool,
    disabled_why: Option<String>,
    rate_per_s: u32,
    last_success_at: Option<String>,
    last_failure_at: Option<String>,
    last_error: Option<String>,
    failing_since: Option<String>,
    waiting: Option<u64>,
    given_up: Option<u64>,
    secret: Option<String>,
}

impl Webhook {
    fn state(&self) -> &'static str {
        match (self.enabled, &self.failing_since) {
            (false, _) => "disabled",
            (true, Some(_)) => "failing",
            (true, None) => "enabled",
        }
    }

    fn address(&self) -> String {
        self.url.clone().unwrap_or_else(|| "each message's own callback_url".to_owned())
    }

    fn facts(self, screen: &Screen) -> String {
        let (state, url) = (self.state().to_owned(), self.address());
        let time = |at: &Option<String>| at.as_ref().map_or_else(|| "never".to_owned(), |at| screen.time_and_ago(at));
        let (success, failure) = (time(&self.last_success_at), time(&self.last_failure_at));
        let mut facts = vec![
            ("id", self.id),
            ("url", url),
            ("name", self.name),
            ("state", self.disabled_why.map_or(state, |why| format!("disabled: {why}"))),
            ("events", self.events.join(", ")),
            ("texts", if self.include_text { "sent along" } else { "left out" }.to_owned()),
            ("rate", format!("{}/s", self.rate_per_s)),
            ("last success", success),
            ("last failure", failure),
        ];
        facts.extend(self.last_error.map(|error| ("last error", error)));
        facts.extend(self.waiting.map(|events| ("waiting", events.to_string())));
        facts.extend(self.given_up.map(|events| ("given up", events.to_string())));
        if let Some(secret) = self.secret {
            facts.push(("secret", secret));
            facts.push(("", "keep it now: it can not be shown again".to_owned()));
        }
        screen.facts(facts)
    }
}

impl Listed for Webhook {
    const COLUMNS: &'static [Column] =
        &[Column::Whole("id"), Column::Whole("state"), Column::Whole("last success"), Column::Cut("url")];
    const NONE: &'static str = "there are no webhooks; create one with flotilla webhooks create URL";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let (state, url) = (self.state().to_owned(), self.address());
        let success = self.last_success_at.map_or_else(|| "never".to_owned(), |at| screen.ago(&at));
        vec![self.id, state, success, url]
    }
}

#[derive(Deserialize)]
pub(super) struct Delivery {
    id: String,
    event: String,
    at: String,
    attempts: u16,
    next_at: Option<String>,
    last_error: Option<String>,
}

impl Listed for Delivery {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("id"),
        Column::Whole("event"),
        Column::Whole("happened"),
        Column::Number("tries"),
        Column::Whole("next try"),
        Column::Cut("last error"),
    ];
    const NONE: &'static str = "nothing is there";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let next = self.next_at.map_or_else(|| "given up".to_owned(), |at| screen.ago(&at));
        let error = self.last_error.unwrap_or_default();
        vec![self.id, self.event, screen.ago(&self.at), self.attempts.to_string(), next, error]
    }
}

#[derive(Deserialize)]
struct Tested {
    delivered: bool,
    #[serde(default)]
    error: String,
    took_ms: u64,
}

impl Tested {
    fn facts(self, screen: &Screen) -> String {
        let outcome = if self.delivered { "delivered".to_owned() } else { format!("not delivered: {}", self.error) };
        screen.facts(vec![("outcome", outcome), ("took", format!("{} ms", self.took_ms))])
    }
}

#[derive(Deserialize)]
struct Replayed {
    events: u64,
}

impl Replayed {
    fn sentence(self) -> String {
        format!("{} events are sent again", self.events)
    }
}
