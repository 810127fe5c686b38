//! `flotilla health`: the fleet at a glance, and what somebody should look at.

use clap::Args;
use serde::Deserialize;

use super::Session;
use super::error::CliError;
use super::show::{Column, Screen};
use super::sims::Score;

/// Routes that are shown, and below which score.
const WORST_MAX: usize = 10;
const NOTABLE_SCORE: u8 = 90;

pub(super) const EXAMPLE: &str = "Example:\n  flotilla health";

#[derive(Debug, Args)]
pub struct Health {}

impl Health {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let answer = session.client.get(&["fleet", "health"]).answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Fleet>()?.text(screen)))
    }
}

#[derive(Deserialize)]
pub(super) struct Fleet {
    devices: Devices,
    sims: Sims,
    messages: Messages,
    problems: Vec<Trouble>,
    problems_left_out: u64,
    #[serde(default)]
    routes: Vec<Route>,
    controller: Option<Controller>,
    #[serde(default)]
    controllers: Vec<Controller>,
    #[serde(default)]
    controllers_missing: Vec<String>,
}

#[derive(Deserialize)]
struct Devices {
    enrolled: u64,
    online: u64,
    draining: u64,
}

#[derive(Deserialize)]
struct Sims {
    online: u64,
    ready: u64,
}

#[derive(Deserialize)]
struct Messages {
    scheduled: u64,
    queued: u64,
    queued_urgent: u64,
    dispatching: u64,
    unknown: u64,
    sent: u64,
}

#[derive(Deserialize)]
struct Trouble {
    device: String,
    name: String,
    sim: Option<String>,
    reason: String,
    detail: String,
}

#[derive(Deserialize)]
struct Route {
    sim: Option<String>,
    sender: Option<String>,
    score: Score,
    circuit: String,
    obstacles: Vec<String>,
}

#[derive(Deserialize)]
struct Controller {
    name: String,
    version: String,
    devices_connected: u64,
    rows_behind: u64,
    shards: Vec<Shard>,
}

#[derive(Deserialize)]
struct Shard {
    shard: u16,
    epoch: u64,
    queued: u64,
    scheduled: u64,
    in_flight: u64,
    unknown: u64,
    sent: u64,
    devices: u64,
}

impl Shard {
    fn is_idle(&self) -> bool {
        self.queued + self.scheduled + self.in_flight + self.unknown + self.sent + self.devices == 0
    }
}

impl Fleet {
    pub(super) fn text(self, screen: &Screen) -> String {
        let Self { devices, sims, messages, problems, problems_left_out, routes, controller, .. } = self;
        let mut text = screen.facts([
            ("devices", format!("{} of {} online, {} draining", devices.online, devices.enrolled, devices.draining)),
            ("SIMs", format!("{} of {} ready", sims.ready, sims.online)),
            (
                "messages",
                format!(
                    "{} queued ({} urgent), {} scheduled, {} dispatching, {} unknown, {} waiting for their report",
                    messages.queued,
                    messages.queued_urgent,
                    messages.scheduled,
                    messages.dispatching,
                    messages.unknown,
                    messages.sent
                ),
            ),
        ]);
        text.push('\n');
        if problems.is_empty() {
            text.push_str("no problems\n");
        } else {
            text.push_str(&screen.title("problems"));
            let columns = [
                Column::Whole("device"),
                Column::Whole("reason"),
                Column::Cut("detail"),
                Column::Cut("name"),
                Column::Cut("sim"),
            ];
            let cells = |trouble: Trouble| {
                let detail = in_words(screen, &trouble.detail);
                vec![trouble.device, trouble.reason, detail, trouble.name, trouble.sim.unwrap_or_default()]
            };
            text.push_str(&screen.table(&columns, problems.into_iter().map(cells)));
            if problems_left_out > 0 {
                text.push_str(&format!("and {problems_left_out} more\n"));
            }
        }
        let mut worst = routes.into_iter().filter(Route::is_notable).take(WORST_MAX).peekable();
        if worst.peek().is_some() {
            text.push('\n');
            text.push_str(&screen.title("worst routes"));
            let columns =
                [Column::Whole("route"), Column::Whole("circuit"), Column::Cut("score"), Column::Cut("obstacles")];
            text.push_str(&screen.table(&columns, worst.map(Route::cells)));
        }
        for controller in controller.into_iter().chain(self.controllers) {
            text.push('\n');
            text.push_str(&controller.text(screen));
        }
        if !self.controllers_missing.is_empty() {
            text.push_str(&format!("\nno answer from {}\n", self.controllers_missing.join(", ")));
        }
        text
    }
}

impl Route {
    fn is_notable(&self) -> bool {
        self.circuit != "closed" || self.score.value < NOTABLE_SCORE
    }

    fn cells(self) -> Vec<String> {
        let route = self.sim.or(self.sender).unwrap_or_default();
        vec![route, self.circuit, self.score.words(), self.obstacles.join(", ")]
    }
}

/// Details end in a moment where there is one.
fn in_words(screen: &Screen, detail: &str) -> String {
    match detail.rsplit_once(' ') {
        Some((before, at)) if at.parse::<jiff::Timestamp>().is_ok() => format!("{before} {}", screen.ago(at)),
        _ => detail.to_owned(),
    }
}

impl Controller {
    fn text(self, screen: &Screen) -> String {
        let mut text = screen.title(&format!("controller {}", self.name));
        text.push_str(&screen.facts([
            ("version", self.version),
            ("devices connected", self.devices_connected.to_string()),
            ("events not in the rows yet", self.rows_behind.to_string()),
            ("shards led", self.shards.len().to_string()),
        ]));
        let busy: Vec<_> = self.shards.into_iter().filter(|shard| !shard.is_idle()).collect();
        if busy.is_empty() {
            return text;
        }
        let columns = ["shard", "epoch", "queued", "scheduled", "in flight", "unknown", "sent", "devices"];
        let cells = |shard: Shard| {
            let Shard { shard, epoch, queued, scheduled, in_flight, unknown, sent, devices } = shard;
            [u64::from(shard), epoch, queued, scheduled, in_flight, unknown, sent, devices]
                .map(|number| number.to_string())
                .to_vec()
        };
        text.push('\n');
        text.push_str(&screen.table(&columns.map(Column::Number), busy.into_iter().map(cells)));
        text
    }
}
