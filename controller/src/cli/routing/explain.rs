//! `flotilla routing explain`: which route a message would take now, and why.

use clap::Args;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::Session;
use crate::cli::error::CliError;
use crate::cli::show::{Column, Screen, clean};

#[derive(Debug, Args)]
pub struct Explain {
    /// A number in international form
    to: String,
    text: String,
    /// Whom the recipient sees
    #[arg(long, value_name = "SENDER")]
    from: Option<String>,
    /// The plan that it names
    #[arg(long, value_name = "PLAN")]
    route: Option<String>,
    /// What it may cost, in your currency
    #[arg(long, value_name = "AMOUNT")]
    max_cost: Option<String>,
    /// normal when left out
    #[arg(long, value_parser = ["urgent", "high", "normal", "bulk"])]
    priority: Option<String>,
    /// By this SIM only
    #[arg(long, value_name = "ID")]
    sim: Option<String>,
    /// By this device only
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// May be given up to 16 times
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
}

impl Explain {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let answer = session.client.post(&["routes", "explain"]).json(&self.body()).answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Explained>()?.text(screen)))
    }

    fn body(&self) -> Value {
        let mut body = json!({"to": self.to, "text": self.text});
        let texts = [
            ("from", &self.from),
            ("route", &self.route),
            ("max_cost", &self.max_cost),
            ("priority", &self.priority),
            ("sim", &self.sim),
            ("device", &self.device),
        ];
        for (name, value) in texts.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))) {
            body[name] = value.into();
        }
        if !self.tags.is_empty() {
            body["tags"] = json!(self.tags);
        }
        body
    }
}

#[derive(Deserialize)]
pub(crate) struct Explained {
    rules: Vec<Rule>,
    plan: Option<String>,
    held: Option<Value>,
    steps: Vec<Step>,
    routes: Vec<Seen>,
    routes_left_out: u64,
    choice: Value,
}

#[derive(Deserialize)]
struct Rule {
    name: String,
    unmet: Option<Value>,
}

#[derive(Deserialize)]
struct Step {
    step: u8,
    with_room: u32,
    busy: u32,
    patience_ms: u64,
}

#[derive(Deserialize)]
struct Seen {
    sim: Option<String>,
    sender: Option<String>,
    step: u8,
    eligible: bool,
    reasons: Vec<Reason>,
    score: u8,
    cost: String,
    sticky: bool,
    probe: bool,
}

#[derive(Deserialize)]
struct Reason {
    code: String,
    limit: Option<String>,
    until_unix_ms: Option<u64>,
}

impl Explained {
    pub(crate) fn text(self, screen: &Screen) -> String {
        let rules: Vec<_> = self.rules.iter().map(Rule::words).collect();
        let steps: Vec<_> = self.steps.iter().map(Step::words).collect();
        let mut text = screen.facts([
            ("it would", outcome(screen, &self.choice)),
            ("held back", self.held.map(|held| outcome(screen, &held)).unwrap_or_default()),
            ("plan", self.plan.unwrap_or_default()),
            ("rules", rules.join("; ")),
            ("steps", steps.join("; ")),
        ]);
        if !self.routes.is_empty() {
            let columns = [
                Column::Whole("route"),
                Column::Number("step"),
                Column::Number("score"),
                Column::Number("cost"),
                Column::Cut("state"),
            ];
            text.push('\n');
            text.push_str(&screen.table(&columns, self.routes.into_iter().map(|seen| seen.cells(screen))));
        }
        if self.routes_left_out > 0 {
            text.push_str(&format!("and {} more\n", self.routes_left_out));
        }
        text
    }
}

impl Rule {
    fn words(&self) -> String {
        match &self.unmet {
            None => format!("{} fits", self.name),
            Some(Value::String(unmet)) => format!("{} does not: {unmet}", self.name),
            Some(unmet) => format!("{} does not: {unmet}", self.name),
        }
    }
}

impl Step {
    fn words(&self) -> String {
        let Self { step, with_room, busy, patience_ms } = self;
        format!("{step}: {with_room} with room, {busy} busy, waits {} s", patience_ms / 1_000)
    }
}

impl Seen {
    fn cells(self, screen: &Screen) -> Vec<String> {
        let reasons: Vec<_> = self.reasons.iter().map(|reason| reason.words(screen)).collect();
        let state = match (self.eligible, self.probe, self.sticky) {
            (true, true, _) => "a probe".to_owned(),
            (true, false, true) => "eligible, known to the recipient".to_owned(),
            (true, false, false) => "eligible".to_owned(),
            (false, ..) => reasons.join(", "),
        };
        let route = self.sim.or(self.sender).unwrap_or_default();
        vec![route, self.step.to_string(), self.score.to_string(), self.cost, state]
    }
}

impl Reason {
    fn words(&self, screen: &Screen) -> String {
        let mut words = self.code.clone();
        if let Some(limit) = &self.limit {
            words.push_str(&format!(" {limit}"));
        }
        if let Some(at) = self.until_unix_ms.and_then(moment) {
            words.push_str(&format!(" ({})", screen.ago(&at)));
        }
        words
    }
}

/// What would be done, in words.
fn outcome(screen: &Screen, outcome: &Value) -> String {
    let text = |name: &str| clean(outcome[name].as_str().unwrap_or_default());
    let until = || outcome["until_unix_ms"].as_u64().and_then(moment).map(|at| screen.time_and_ago(&at));
    match outcome["outcome"].as_str() {
        Some("take") => {
            let route = if outcome["sim"].is_string() { text("sim") } else { text("sender") };
            format!("take {route} (step {}, score {}, {})", outcome["step"], outcome["score"], text("because"))
        }
        Some("wait") => until().map_or("wait for a route".to_owned(), |until| format!("wait until {until}")),
        Some("unfit") => format!("wait until {}", until().unwrap_or_default()),
        Some("refuse") => format!("fail: {} ({})", text("text"), text("code")),
        _ => clean(&outcome.to_string()),
    }
}

fn moment(unix_ms: u64) -> Option<String> {
    let at = jiff::Timestamp::from_millisecond(i64::try_from(unix_ms).ok()?).ok()?;
    Some(at.to_string())
}
