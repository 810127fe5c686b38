//! `flotilla providers`: accounts at online SMS services.

use std::collections::BTreeMap;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Session;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};

/// A secret in a file is not longer.
const SECRET_BYTES_MAX: usize = 16 * 1024;

#[derive(Debug, Subcommand)]
pub enum Providers {
    /// List accounts, the oldest first
    #[command(after_help = "Example:\n  flotilla providers list")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one account, and what it is doing
    #[command(after_help = "Example:\n  flotilla providers show prv_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Show {
        /// prv_...
        id: String,
    },
    /// Add an account
    #[command(after_help = "Example:\n  flotilla providers add twilio 'Main account' --field account_sid=AC123 \
                      --secret auth_token=@token.txt --sender +15005550006")]
    Add {
        /// One of `flotilla providers makers`
        maker: String,
        /// Up to 64 bytes
        name: String,
        #[command(flatten)]
        settings: Box<SettingsArgs>,
    },
    /// Change an account; what is not named stays
    #[command(
        after_help = "Example:\n  flotilla providers change prv_01kaqmpxm0e8xs6bhkrg5jrqzt --window 32 --disable"
    )]
    Change {
        /// prv_...
        id: String,
        /// Another name
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        settings: Box<SettingsArgs>,
    },
    /// Remove an account
    #[command(after_help = "Example:\n  flotilla providers remove prv_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Remove {
        /// prv_...
        id: String,
    },
    /// See whether an account works, without sending anything
    #[command(after_help = "Example:\n  flotilla providers test prv_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Test {
        /// prv_...
        id: String,
    },
    /// List the services that accounts can be made at, and what they ask for
    #[command(after_help = "Example:\n  flotilla providers makers twilio")]
    Makers {
        /// Only this one, with its fields and secrets
        name: Option<String>,
    },
}

/// What accounts are set to.
#[derive(Debug, Default, Args)]
pub struct SettingsArgs {
    /// A field as the maker names it, NAME=VALUE; VALUE can be @FILE, and NAME= takes it away (repeatable)
    #[arg(long = "field", value_name = "NAME=VALUE", value_parser = pair)]
    fields: Vec<(String, String)>,
    /// A secret as the maker names it, NAME=VALUE; better NAME=@FILE, which leaves no trace in the shell (repeatable)
    #[arg(long = "secret", value_name = "NAME=VALUE", value_parser = pair)]
    secrets: Vec<(String, String)>,
    /// A number or name to send from; all of them have to be named (repeatable)
    #[arg(long = "sender", value_name = "FROM")]
    senders: Vec<String>,
    /// Only recipients in these countries, such as TZ,KE
    #[arg(long, value_delimiter = ',', value_name = "COUNTRY")]
    country: Option<Vec<String>>,
    /// Price of a segment in the tenant's currency, such as 0.0125
    #[arg(long, value_name = "AMOUNT")]
    price: Option<String>,
    /// Messages submitted and not answered at a time, 1 to 500
    #[arg(long, value_name = "N")]
    window: Option<u16>,
    /// Requests per second, 0 for no limit
    #[arg(long, value_name = "N")]
    rate: Option<u16>,
    /// Messages in one request
    #[arg(long, value_name = "N")]
    batch: Option<u16>,
    /// Milliseconds for one request, 500 to 60000
    #[arg(long, value_name = "MS")]
    timeout: Option<u32>,
    /// Another address than the maker's own; empty for that one
    #[arg(long, value_name = "URL")]
    base_url: Option<String>,
    /// Tell when less than this is left on the account; empty for never
    #[arg(long, value_name = "AMOUNT")]
    low_balance: Option<String>,
    /// Take reports that nobody has signed
    #[arg(long, value_name = "BOOL")]
    unsigned_callbacks: Option<bool>,
    /// Give it work
    #[arg(long, conflicts_with = "disable")]
    enable: bool,
    /// Give it no work
    #[arg(long)]
    disable: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("give NAME=VALUE, or NAME=@FILE".to_owned()),
    }
}

/// Values as the API takes them: null for an empty one.
fn pairs(pairs: Vec<(String, String)>) -> Result<Value, CliError> {
    let mut values = Map::new();
    for (name, value) in pairs {
        let value = match value.strip_prefix('@') {
            Some(file) => Value::String(read(file)?),
            None if value.is_empty() => Value::Null,
            None => Value::String(value),
        };
        values.insert(name, value);
    }
    Ok(Value::Object(values))
}

/// A secret from a file. The newline that editors put at the end is not part of it.
fn read(file: &str) -> Result<String, CliError> {
    let wrong = |problem: String| CliError::Usage(format!("{file}: {problem}"));
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    if text.len() > SECRET_BYTES_MAX {
        return Err(wrong(format!("longer than {SECRET_BYTES_MAX} bytes")));
    }
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

impl SettingsArgs {
    fn body(self) -> Result<Value, CliError> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        set("fields", (!self.fields.is_empty()).then(|| pairs(self.fields)).transpose()?);
        set("secrets", (!self.secrets.is_empty()).then(|| pairs(self.secrets)).transpose()?);
        let senders: Vec<Value> = self.senders.iter().map(|from| json!({"from": from})).collect();
        set("senders", (!senders.is_empty()).then_some(Value::Array(senders)));
        set("countries", self.country.map(Value::from));
        set("price", self.price.map(|price| json!({"per_segment": price})));
        set("window", self.window.map(Value::from));
        set("requests_per_second", self.rate.map(|rate| if rate == 0 { Value::Null } else { rate.into() }));
        set("batch_size", self.batch.map(Value::from));
        set("timeout_ms", self.timeout.map(Value::from));
        let or_null = |text: String| if text.is_empty() { Value::Null } else { text.into() };
        set("base_url", self.base_url.map(or_null));
        set("low_balance", self.low_balance.map(or_null));
        set("unsigned_callbacks", self.unsigned_callbacks.map(Value::from));
        set("enabled", (self.enable || self.disable).then(|| self.enable.into()));
        Ok(Value::Object(body))
    }
}

impl Providers {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = &session.client;
        let ask = match self {
            Self::List { paging } => {
                return list::<Provider>(session, &paging, || client.get(&["providers"])).await;
            }
            Self::Makers { name } => return makers(session, name).await,
            Self::Remove { id } => {
                let answer = client.delete(&["providers", &id]).answer().await?;
                return session.print(&answer, |_| Ok(format!("{} is removed\n", super::show::clean(&id))));
            }
            Self::Test { id } => {
                let answer = client.post(&["providers", &id, "test"]).answer().await?;
                return session.print(&answer, |_| Ok(answer.view::<Verdict>()?.line()));
            }
            Self::Show { id } => client.get(&["providers", &id]),
            Self::Add { maker, name, settings } => {
                let mut body = settings.body()?;
                (body["maker"], body["name"]) = (maker.into(), name.into());
                client.post(&["providers"]).json(&body)
            }
            Self::Change { id, name, settings } => {
                let mut body = settings.body()?;
                if let Some(name) = name {
                    body["name"] = name.into();
                }
                client.patch(&["providers", &id]).json(&body)
            }
        };
        let answer = ask.answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Provider>()?.facts(screen)))
    }
}

async fn makers(session: &Session, name: Option<String>) -> Result<(), CliError> {
    let answer = session.client.get(&["providers", "makers"]).answer().await?;
    session.print(&answer, |screen| {
        let mut items = answer.view::<Makers>()?.items;
        let Some(name) = name else {
            return Ok(screen.table(Maker::COLUMNS, items.into_iter().map(|maker| maker.cells(screen))));
        };
        items.retain(|maker| maker.name == name);
        let none = || CliError::Usage(format!("there is no maker `{name}`; see flotilla providers makers"));
        Ok(items.pop().ok_or_else(none)?.facts(screen))
    })
}

#[derive(Deserialize)]
struct Verdict {
    verdict: String,
    detail: String,
}

impl Verdict {
    fn line(self) -> String {
        format!("{}: {}\n", self.verdict, super::show::clean(&self.detail))
    }
}

#[derive(Deserialize)]
pub(super) struct Provider {
    id: String,
    maker: String,
    name: String,
    enabled: bool,
    base_url: Option<String>,
    #[serde(default)]
    fields: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, bool>,
    #[serde(default)]
    senders: Vec<Sender>,
    window: u16,
    requests_per_second: Option<u16>,
    batch_size: u16,
    timeout_ms: u32,
    unsigned_callbacks: bool,
    low_balance: Option<String>,
    callback_url: Option<String>,
    balance: Option<Balance>,
    live: Option<Live>,
}

#[derive(Deserialize)]
struct Sender {
    id: String,
    from: String,
}

#[derive(Deserialize)]
struct Balance {
    amount: String,
    currency: String,
    at: String,
}

#[derive(Deserialize)]
struct Live {
    state: String,
    since: String,
    waiting: u64,
    in_flight: u64,
    last_error: Option<String>,
    last_error_at: Option<String>,
    counters: BTreeMap<String, u64>,
}

impl Provider {
    fn state(&self) -> String {
        match (&self.live, self.enabled) {
            (Some(live), _) => live.state.clone(),
            (None, true) => "offline".to_owned(),
            (None, false) => "disabled".to_owned(),
        }
    }

    fn facts(self, screen: &Screen) -> String {
        let state = self.state();
        let set = |(name, is_set): (&String, &bool)| format!("{name} {}", if *is_set { "set" } else { "not set" });
        let secrets: Vec<String> = self.secrets.iter().map(set).collect();
        let senders: Vec<String> =
            self.senders.iter().map(|sender| format!("{} ({})", sender.from, sender.id)).collect();
        let fields: Vec<String> = self.fields.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let rate = self.requests_per_second.map_or_else(|| "no limit".to_owned(), |rate| format!("{rate}/s"));
        let mut facts = vec![
            ("id", self.id),
            ("name", self.name),
            ("maker", self.maker),
            ("state", state),
            ("address", self.base_url.unwrap_or_default()),
            ("fields", fields.join(", ")),
            ("secrets", secrets.join(", ")),
            ("senders", senders.join(", ")),
            ("window", self.window.to_string()),
            ("requests", rate),
            ("batch", self.batch_size.to_string()),
            ("timeout", format!("{} ms", self.timeout_ms)),
            ("callbacks", self.callback_url.unwrap_or_default()),
            ("unsigned", if self.unsigned_callbacks { "taken".to_owned() } else { String::new() }),
            ("low balance", self.low_balance.unwrap_or_default()),
        ];
        if let Some(balance) = self.balance {
            let at = screen.ago(&balance.at);
            facts.push(("balance", format!("{} {} ({at})", balance.amount, balance.currency)));
        }
        if let Some(live) = self.live {
            let counters: Vec<String> = live.counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
            facts.push(("since", screen.time_and_ago(&live.since)));
            facts.push(("at work", format!("{} in requests, {} waiting", live.in_flight, live.waiting)));
            facts.push(("counters", counters.join(", ")));
            let at = live.last_error_at.map(|at| format!(" ({})", screen.ago(&at))).unwrap_or_default();
            facts.push(("last error", live.last_error.map(|text| text + &at).unwrap_or_default()));
        }
        screen.facts(facts)
    }
}

impl Listed for Provider {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("id"),
        Column::Whole("maker"),
        Column::Whole("state"),
        Column::Number("at work"),
        Column::Whole("balance"),
        Column::Cut("name"),
    ];
    const NONE: &'static str = "there are no provider accounts; add one with flotilla providers add MAKER NAME";

    fn cells(self, _: &Screen) -> Vec<String> {
        let (state, at_work) = (self.state(), self.live.as_ref().map_or(0, |live| live.waiting + live.in_flight));
        let balance = self.balance.map(|balance| format!("{} {}", balance.amount, balance.currency));
        vec![self.id, self.maker, state, at_work.to_string(), balance.unwrap_or_default(), self.name]
    }
}

#[derive(Deserialize)]
struct Makers {
    items: Vec<Maker>,
}

#[derive(Deserialize)]
pub(super) struct Maker {
    name: String,
    title: String,
    fields: Vec<Field>,
    secrets: Vec<Field>,
    batch_max: u64,
    callbacks: bool,
    signature: Option<String>,
    polls: bool,
    balance: bool,
    inbound: bool,
}

#[derive(Deserialize)]
struct Field {
    name: String,
    required: bool,
    meaning: String,
}

impl Maker {
    fn reports(&self) -> String {
        let ways = [(self.callbacks, "calls back"), (self.polls, "is asked")];
        ways.into_iter().filter(|(has, _)| *has).map(|(_, way)| way).collect::<Vec<_>>().join(", ")
    }

    fn more(&self) -> String {
        let ways = [(self.balance, "balance"), (self.inbound, "inbound")];
        ways.into_iter().filter(|(has, _)| *has).map(|(_, what)| what).collect::<Vec<_>>().join(", ")
    }

    fn facts(self, screen: &Screen) -> String {
        let lines = |fields: &[Field]| {
            let line = |field: &Field| {
                let need = if field.required { "" } else { " (optional)" };
                format!("{}{need}: {}", field.name, field.meaning)
            };
            fields.iter().map(line).collect::<Vec<_>>().join("; ")
        };
        let (reports, more) = (self.reports(), self.more());
        screen.facts([
            ("maker", self.name),
            ("title", self.title),
            ("fields", lines(&self.fields)),
            ("secrets", lines(&self.secrets)),
            ("batch", self.batch_max.to_string()),
            ("reports", reports),
            ("signature", self.signature.unwrap_or_default()),
            ("more", more),
        ])
    }
}

impl Listed for Maker {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("maker"),
        Column::Cut("title"),
        Column::Number("batch"),
        Column::Whole("reports"),
        Column::Whole("more"),
    ];
    const NONE: &'static str = "there are no makers";

    fn cells(self, _: &Screen) -> Vec<String> {
        let (reports, more) = (self.reports(), self.more());
        vec![self.name, self.title, self.batch_max.to_string(), reports, more]
    }
}
