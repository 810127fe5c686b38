//! `flotilla cluster`: who is in it, who leads what, and moving shards between controllers.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;
use tokio::time::sleep;

use super::error::CliError;
use super::show::{Column, Screen};
use super::{ClientOptions, Session, note, print};
use crate::secrets::ClusterKey;

/// Between two looks at a drain.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Members, what they lead, and whether they answer (root key)
    #[command(after_help = "Example:\n  flotilla cluster status --shards")]
    Status {
        /// Each shard with its leader as well
        #[arg(long)]
        shards: bool,
    },
    /// Move everything away from a controller, and keep it so, before maintenance (root key)
    #[command(after_help = "Example:\n  flotilla cluster drain c1 --wait")]
    Drain {
        /// Its name; see `flotilla cluster status`
        node: String,
        /// Return when it leads nothing
        #[arg(long)]
        wait: bool,
    },
    /// Let a drained controller lead again (root key)
    #[command(after_help = "Example:\n  flotilla cluster resume c1")]
    Resume {
        /// Its name
        node: String,
    },
    /// Tie a shard to a controller as long as that lives, or set it free (root key)
    #[command(after_help = "Example:\n  flotilla cluster move 7 c2\n  flotilla cluster move 7 --free")]
    Move {
        /// Its number
        shard: u16,
        /// The controller that is to lead it
        #[arg(required_unless_present = "free", conflicts_with = "free")]
        node: Option<String>,
        /// Let the cluster decide again
        #[arg(long)]
        free: bool,
    },
    /// Make the key that all controllers of a cluster share
    #[command(after_help = "Example:\n  flotilla cluster key --out /etc/flotilla/cluster.key")]
    Key {
        /// Write it here, readable by its owner only; printed when left out
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

impl Cluster {
    pub(super) async fn run(self, options: &ClientOptions) -> Result<(), CliError> {
        // Needs no controller: it is made before there is one.
        if let Self::Key { out } = self {
            return key(out);
        }
        let session = &Session::open(options)?;
        let node = |name: &str, wish: &str| session.client.post(&["cluster", "nodes", name, wish]);
        match self {
            Self::Key { .. } => Ok(()),
            Self::Status { shards } => {
                let answer = session.client.get(&["cluster"]).answer().await?;
                session.print(&answer, |screen| Ok(answer.view::<Status>()?.text(screen, shards)))
            }
            Self::Drain { node: name, wait } => {
                let answer = node(&name, "drain").answer().await?;
                if wait {
                    return drained(session, &name).await;
                }
                session.print(&answer, |_| Ok(format!("{name} hands its shards over; see flotilla cluster status\n")))
            }
            Self::Resume { node: name } => {
                let answer = node(&name, "resume").answer().await?;
                session.print(&answer, |_| Ok(format!("{name} may lead again\n")))
            }
            Self::Move { shard, node: to, .. } => {
                let path = ["cluster", "shards", &shard.to_string(), "move"];
                let answer = session.client.post(&path).json(&json!({"to": to})).answer().await?;
                session.print(&answer, |_| {
                    Ok(match &to {
                        Some(to) => format!("shard {shard} moves to {to}\n"),
                        None => format!("shard {shard} is free\n"),
                    })
                })
            }
        }
    }
}

fn key(out: Option<PathBuf>) -> Result<(), CliError> {
    let key = ClusterKey::generate();
    let line = format!("{}\n", key.to_line());
    let Some(file) = out else { return print(&line) };
    write_new(&file, &line).map_err(|cause| CliError::File { path: file.display().to_string(), cause })?;
    print(&format!("{}: key {}; put the same file on every controller\n", file.display(), key.id()))
}

/// A key that is there is never written over: without it, what it has sealed is lost.
fn write_new(file: &Path, line: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(line.as_bytes())?;
    file.sync_all()
}

/// Follows a drain to its end.
async fn drained(session: &Session, name: &str) -> Result<(), CliError> {
    let mut told = None;
    loop {
        let answer = session.client.get(&["cluster"]).answer().await?;
        let status: Status = answer.view()?;
        let left = status.members.iter().find(|member| member.name == name).map_or(0, |member| member.shards_led);
        if left == 0 {
            return session.print(&answer, |_| Ok(format!("{name} leads nothing\n")));
        }
        if told.replace(left) != Some(left) {
            note(&format!("{name} still leads {left} shards"));
        }
        sleep(LOOK_AGAIN).await;
    }
}

#[derive(Deserialize)]
pub(super) struct Status {
    node: String,
    fresh: bool,
    members: Vec<Member>,
    shards: Vec<Place>,
}

#[derive(Deserialize)]
struct Member {
    name: String,
    version: String,
    since: String,
    peer: String,
    devices: Vec<String>,
    draining: bool,
    shards_led: u64,
    answers: bool,
    devices_connected: Option<u64>,
    rows_behind: Option<u64>,
    rtt_ms: Option<f64>,
}

#[derive(Deserialize)]
struct Place {
    shard: u16,
    leader: Option<String>,
    epoch: Option<u64>,
    pinned_to: Option<String>,
}

impl Member {
    fn cells(self, screen: &Screen) -> Vec<String> {
        let state = match (self.answers, self.draining) {
            (false, _) => "silent",
            (true, true) => "draining",
            (true, false) => "up",
        };
        let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
        vec![
            self.name,
            state.to_owned(),
            self.shards_led.to_string(),
            number(self.devices_connected),
            number(self.rows_behind),
            self.rtt_ms.map(|rtt_ms| format!("{rtt_ms:.1} ms")).unwrap_or_default(),
            screen.ago(&self.since),
            self.version,
            self.peer,
            self.devices.join(" "),
        ]
    }
}

impl Status {
    const MEMBERS: [Column; 10] = [
        Column::Whole("name"),
        Column::Whole("state"),
        Column::Number("shards"),
        Column::Number("devices"),
        Column::Number("behind"),
        Column::Number("rtt"),
        Column::Whole("since"),
        Column::Whole("version"),
        Column::Cut("peer"),
        Column::Cut("devices connect to"),
    ];

    pub(super) fn text(self, screen: &Screen, all_shards: bool) -> String {
        let mut text = String::new();
        if !self.fresh {
            text.push_str(&format!("{} has lost the coordination service: this may be old\n\n", self.node));
        }
        let members = self.members.into_iter().map(|member| member.cells(screen));
        text.push_str(&screen.table(&Self::MEMBERS, members));
        let ownerless = self.shards.iter().filter(|place| place.leader.is_none()).count();
        if ownerless > 0 {
            text.push_str(&format!("\n{ownerless} of {} shards have no leader\n", self.shards.len()));
        }
        if all_shards {
            text.push('\n');
            let columns =
                [Column::Number("shard"), Column::Whole("leader"), Column::Number("epoch"), Column::Whole("pinned to")];
            let cells = |place: Place| {
                let epoch = place.epoch.map(|epoch| epoch.to_string()).unwrap_or_default();
                let leader = place.leader.unwrap_or_else(|| "nobody".to_owned());
                vec![place.shard.to_string(), leader, epoch, place.pinned_to.unwrap_or_default()]
            };
            text.push_str(&screen.table(&columns, self.shards.into_iter().map(cells)));
        }
        text
    }
}
