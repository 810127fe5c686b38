//! `flotilla keys`: the tenant's API keys.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::Session;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};

#[derive(Debug, Subcommand)]
pub enum Keys {
    /// List keys, the oldest first
    #[command(after_help = "Example:\n  flotilla keys list")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Create a key; its secret is shown once
    #[command(after_help = "Example:\n  flotilla keys create 'web shop' --scope send,read --rate 6000")]
    Create {
        /// What it is for, up to 64 bytes
        name: String,
        /// What it may do; admin includes the others
        #[arg(long = "scope", value_delimiter = ',', required = true, value_parser = ["send", "read", "admin"])]
        scopes: Vec<String>,
        /// Requests per minute, 0 for no limit; the installation's default when left out
        #[arg(long, value_name = "PER_MIN")]
        rate: Option<u32>,
    },
    /// Give it a new secret; the old one ends at once
    #[command(after_help = "Example:\n  flotilla keys rotate key_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Rotate {
        /// key_...
        id: String,
    },
    /// Refuse it
    #[command(after_help = "Example:\n  flotilla keys disable key_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Disable {
        /// key_...
        id: String,
    },
    /// Take it again
    #[command(after_help = "Example:\n  flotilla keys enable key_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Enable {
        /// key_...
        id: String,
    },
    /// Change how many requests it may make
    #[command(after_help = "Example:\n  flotilla keys rate key_01kaqmpxm0e8xs6bhkrg5jrqzt 6000")]
    Rate {
        /// key_...
        id: String,
        /// Requests per minute, 0 for no limit
        per_min: u32,
    },
}

impl Keys {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = &session.client;
        let ask = match self {
            Self::List { paging } => return list::<Key>(session, &paging, || client.get(&["keys"])).await,
            Self::Create { name, scopes, rate } => {
                let mut body = json!({"name": name, "scopes": scopes});
                if let Some(rate) = rate {
                    body["rate_per_min"] = rate.into();
                }
                client.post(&["keys"]).json(&body)
            }
            Self::Rotate { id } => client.post(&["keys", &id, "rotate"]),
            Self::Disable { id } => client.patch(&["keys", &id]).json(&json!({"disabled": true})),
            Self::Enable { id } => client.patch(&["keys", &id]).json(&json!({"disabled": false})),
            Self::Rate { id, per_min } => client.patch(&["keys", &id]).json(&json!({"rate_per_min": per_min})),
        };
        let answer = ask.answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Key>()?.facts(screen)))
    }
}

#[derive(Deserialize)]
pub(super) struct Key {
    id: String,
    name: String,
    scopes: Vec<String>,
    rate_per_min: u32,
    disabled: bool,
    created_at: String,
    last_used_at: Option<String>,
    secret: Option<String>,
}

impl Key {
    fn state(&self) -> String {
        if self.disabled { "disabled" } else { "enabled" }.to_owned()
    }

    fn rate(&self) -> String {
        match self.rate_per_min {
            0 => "no limit".to_owned(),
            per_min => format!("{per_min}/min"),
        }
    }

    fn facts(self, screen: &Screen) -> String {
        let (state, rate) = (self.state(), self.rate());
        let mut facts = vec![
            ("id", self.id),
            ("name", self.name),
            ("state", state),
            ("scopes", self.scopes.join(", ")),
            ("rate", rate),
            ("created", screen.time_and_ago(&self.created_at)),
            ("last used", screen.time_and_ago(&self.last_used_at.unwrap_or_default())),
        ];
        if let Some(secret) = self.secret {
            facts.push(("secret", secret));
            facts.push(("", "keep it now: it can not be shown again".to_owned()));
        }
        screen.facts(facts)
    }
}

impl Listed for Key {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("id"),
        Column::Whole("state"),
        Column::Whole("scopes"),
        Column::Number("rate"),
        Column::Whole("last used"),
        Column::Cut("name"),
    ];
    const NONE: &'static str = "there are no keys; create one with flotilla keys create NAME --scope send";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let (state, rate) = (self.state(), self.rate());
        let used = self.last_used_at.map_or_else(|| "never".to_owned(), |at| screen.ago(&at));
        vec![self.id, state, self.scopes.join(","), rate, used, self.name]
    }
}
