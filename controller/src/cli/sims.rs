//! `flotilla sims`: the cards in the gateways.

mod change;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Session;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};

#[derive(Debug, Subcommand)]
pub enum Sims {
    /// List SIMs, the longest known first
    #[command(after_help = "Example:\n  flotilla sims list --device dev_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    List {
        /// Only those in this device
        #[arg(long, value_name = "ID")]
        device: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one SIM
    #[command(after_help = "Example:\n  flotilla sims get sim_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Get {
        /// sim_...
        id: String,
    },
    /// Set its limits, hours, price, pools; what is not named stays
    #[command(after_help = change::EXAMPLE)]
    Change(Box<change::ChangeSim>),
    /// Let a card send that took another one's place
    #[command(after_help = "Example:\n  flotilla sims confirm sim_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Confirm {
        /// sim_...
        id: String,
    },
    /// Give it a name
    #[command(after_help = "Example:\n  flotilla sims rename sim_01kaqmpxm0e8xs6bhkrg5jrqzt 'Vodacom 1'")]
    Rename {
        /// sim_...
        id: String,
        /// Up to 64 bytes
        name: String,
    },
}

impl Sims {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = &session.client;
        let ask = match self {
            Self::List { device, paging } => {
                return list::<Sim>(session, &paging, || client.get(&["sims"]).query("device", device.as_deref()))
                    .await;
            }
            Self::Get { id } => client.get(&["sims", &id]),
            Self::Change(change) => {
                let present = client.get(&["sims", change.id()]).answer().await?.view::<change::Present>()?;
                client.patch(&["sims", change.id()]).json(&change.body(present))
            }
            Self::Confirm { id } => client.post(&["sims", &id, "confirm"]),
            Self::Rename { id, name } => client.patch(&["sims", &id]).json(&json!({"name": name})),
        };
        let answer = ask.answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Sim>()?.facts(screen)))
    }
}

#[derive(Deserialize)]
pub(super) struct Sim {
    id: String,
    name: String,
    iccid: String,
    imsi: Option<String>,
    msisdn: Option<String>,
    operator: String,
    plmn: Option<String>,
    device: Option<String>,
    slot: Option<u8>,
    online: bool,
    first_seen_at: String,
    last_seen_at: String,
    state: Option<String>,
    signal_dbm: Option<i16>,
    registration: Option<String>,
    serving: Option<String>,
    #[serde(default)]
    held: bool,
    #[serde(default)]
    settings: Value,
    balance: Option<Balance>,
    routing: Option<Routing>,
}

/// How the choice of routes sees it.
#[derive(Deserialize)]
struct Routing {
    score: Score,
    circuit: String,
    obstacles: Vec<String>,
    limits: Vec<Usage>,
    month_cost: String,
}

#[derive(Deserialize)]
pub(super) struct Score {
    pub(super) value: u8,
    reasons: Vec<ScoreReason>,
}

#[derive(Deserialize)]
struct ScoreReason {
    name: String,
    points: u8,
}

#[derive(Deserialize)]
struct Usage {
    name: String,
    limit: u32,
    left: u32,
}

impl Score {
    pub(super) fn words(&self) -> String {
        let reasons: Vec<_> = self.reasons.iter().map(|reason| format!("{} -{}", reason.name, reason.points)).collect();
        if reasons.is_empty() { self.value.to_string() } else { format!("{} ({})", self.value, reasons.join(", ")) }
    }
}

#[derive(Deserialize)]
struct Balance {
    amount: String,
    told_at: String,
}

impl Sim {
    /// What it is fit for, as far as anybody knows.
    fn state(&self) -> String {
        match (self.online, &self.state) {
            _ if self.held => "held".to_owned(),
            (false, _) => "offline".to_owned(),
            (true, Some(state)) => state.clone(),
            (true, None) => "online".to_owned(),
        }
    }

    fn signal(&self) -> String {
        self.signal_dbm.map(|dbm| format!("{dbm} dBm")).unwrap_or_default()
    }

    pub(super) fn facts(self, screen: &Screen) -> String {
        let (state, signal) = (self.state(), self.signal());
        let settings = in_words(&self.settings);
        let told = |balance: &Balance| format!("{} (told {})", balance.amount, screen.ago(&balance.told_at));
        let routing = self.routing.as_ref();
        let score = routing.map(|routing| routing.score.words()).unwrap_or_default();
        let circuit = routing.map(|routing| routing.circuit.clone()).unwrap_or_default();
        let obstacles = routing.map(|routing| routing.obstacles.join(", ")).unwrap_or_default();
        let left = |usage: &Usage| format!("{} {} of {}", usage.name, usage.left, usage.limit);
        let limits: Vec<_> = routing.into_iter().flat_map(|routing| routing.limits.iter().map(left)).collect();
        let month_cost = routing.map(|routing| routing.month_cost.clone()).unwrap_or_default();
        let balance = self.balance.as_ref().map(told).unwrap_or_default();
        screen.facts([
            ("id", self.id),
            ("name", self.name),
            ("state", state),
            ("number", self.msisdn.unwrap_or_default()),
            ("operator", self.operator),
            ("home network", self.plmn.unwrap_or_default()),
            ("registration", self.registration.unwrap_or_default()),
            ("serving network", self.serving.unwrap_or_default()),
            ("signal", signal),
            ("ICCID", self.iccid),
            ("IMSI", self.imsi.unwrap_or_default()),
            ("device", self.device.unwrap_or_default()),
            ("slot", self.slot.map(|slot| slot.to_string()).unwrap_or_default()),
            ("score", score),
            ("circuit", circuit),
            ("obstacles", obstacles),
            ("left of limits", limits.join(", ")),
            ("cost of the month", month_cost),
            ("settings", settings),
            ("balance", balance),
            ("first seen", screen.time_and_ago(&self.first_seen_at)),
            ("last seen", screen.time_and_ago(&self.last_seen_at)),
        ])
    }
}

/// Settings as `limits.per_day 300, pools ["otp"]`, those that are not set left out.
pub(super) fn in_words(settings: &Value) -> String {
    fn add(path: &str, value: &Value, words: &mut Vec<String>) {
        match value {
            Value::Null => {}
            Value::Object(fields) => {
                for (name, value) in fields {
                    let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                    add(&path, value, words);
                }
            }
            Value::String(text) => words.push(format!("{path} {text}")),
            Value::Array(entries) if entries.is_empty() => {}
            other => words.push(format!("{path} {other}")),
        }
    }
    let mut words = Vec::new();
    add("", settings, &mut words);
    words.join(", ")
}

impl Listed for Sim {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("id"),
        Column::Whole("state"),
        Column::Whole("number"),
        Column::Cut("name"),
        Column::Cut("operator"),
        Column::Cut("signal"),
        Column::Cut("device"),
    ];
    const NONE: &'static str = "there are no SIMs yet; they show up when their device connects";

    fn cells(self, _: &Screen) -> Vec<String> {
        let (state, signal) = (self.state(), self.signal());
        let (number, device) = (self.msisdn.unwrap_or_default(), self.device.unwrap_or_default());
        vec![self.id, state, number, self.name, self.operator, signal, device]
    }
}
