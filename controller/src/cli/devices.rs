//! `flotilla devices`: gateways that are enrolled.

use std::collections::BTreeMap;

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen, clean};
use super::{Session, print};

#[derive(Debug, Subcommand)]
pub enum Devices {
    /// List devices, the oldest first
    #[command(after_help = "Example:\n  flotilla devices list --state active")]
    List {
        /// Only these
        #[arg(long, value_parser = ["active", "draining", "revoked"])]
        state: Option<String>,
        #[command(flatten)]
        paging: Paging,
    },
    /// Show one device
    #[command(after_help = "Example:\n  flotilla devices get dev_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Get {
        /// dev_...
        id: String,
    },
    /// Give it a name
    #[command(after_help = "Example:\n  flotilla devices rename dev_01kaqmpxm0e8xs6bhkrg5jrqzt 'Front desk'")]
    Rename {
        /// dev_...
        id: String,
        /// Up to 64 bytes
        name: String,
    },
    /// Set and remove labels; the others stay
    #[command(after_help = "Example:\n  flotilla devices label dev_01kaqmpxm0e8xs6bhkrg5jrqzt site=arusha old-label-")]
    Label {
        /// dev_...
        id: String,
        /// NAME=VALUE to set, NAME- to remove
        #[arg(required = true, value_parser = label)]
        labels: Vec<(String, Option<String>)>,
    },
    /// Let it finish what it has, and give it nothing new
    #[command(after_help = "Example:\n  flotilla devices drain dev_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Drain {
        /// dev_...
        id: String,
    },
    /// Let a drained device work again
    #[command(after_help = "Example:\n  flotilla devices resume dev_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Resume {
        /// dev_...
        id: String,
    },
    /// Shut it out for good; its unsent messages move to others
    #[command(after_help = "Example:\n  flotilla devices revoke dev_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Revoke {
        /// dev_...
        id: String,
    },
    /// Ask the network of one of its SIMs, such as for the balance
    #[command(after_help = "Example:\n  flotilla devices ussd dev_01kaqmpxm0e8xs6bhkrg5jrqzt '*102#'")]
    Ussd {
        /// dev_...
        id: String,
        /// Such as *102#
        code: String,
        /// The SIM's slot, from 0
        #[arg(long, default_value_t = 0)]
        slot: u8,
    },
}

fn label(text: &str) -> Result<(String, Option<String>), String> {
    match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) if !name.is_empty() => Ok((name.to_owned(), Some(value.to_owned()))),
        (None, Some(name)) if !name.is_empty() => Ok((name.to_owned(), None)),
        _ => Err("give NAME=VALUE to set a label, or NAME- to remove it".to_owned()),
    }
}

impl Devices {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = &session.client;
        let ask = match self {
            Self::List { state, paging } => {
                let ask = || client.get(&["devices"]).query("state", state.as_deref());
                return list::<Device>(session, &paging, ask).await;
            }
            Self::Ussd { id, code, slot } => return ussd(session, &id, &code, slot).await,
            Self::Get { id } => client.get(&["devices", &id]),
            Self::Rename { id, name } => client.patch(&["devices", &id]).json(&json!({"name": name})),
            Self::Label { id, labels } => {
                let device: Device = client.get(&["devices", &id]).answer().await?.view()?;
                client.patch(&["devices", &id]).json(&json!({"labels": merged(device.labels, labels)}))
            }
            Self::Drain { id } => client.post(&["devices", &id, "drain"]),
            Self::Resume { id } => client.post(&["devices", &id, "resume"]),
            Self::Revoke { id } => client.post(&["devices", &id, "revoke"]),
        };
        let answer = ask.answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Device>()?.facts(screen)))
    }
}

fn merged(mut labels: BTreeMap<String, String>, changes: Vec<(String, Option<String>)>) -> BTreeMap<String, String> {
    for (name, value) in changes {
        match value {
            Some(value) => labels.insert(name, value),
            None => labels.remove(&name),
        };
    }
    labels
}

#[derive(Deserialize)]
struct Reply {
    reply: String,
}

async fn ussd(session: &Session, id: &str, code: &str, slot: u8) -> Result<(), CliError> {
    let body = json!({"code": code, "slot": slot});
    let answer = session.client.post(&["devices", id, "ussd"]).json(&body).answer().await?;
    if session.json {
        return print(&answer.line());
    }
    // Menus have lines of their own.
    answer.view::<Reply>()?.reply.lines().try_for_each(|line| print(&format!("{}\n", clean(line))))
}

#[derive(Deserialize)]
pub(super) struct Device {
    id: String,
    name: String,
    model: String,
    os: String,
    software: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    state: String,
    online: bool,
    connected_at: Option<String>,
    remote: Option<String>,
    transport: Option<String>,
    rtt_ms: Option<u64>,
    enrolled_at: String,
    last_seen_at: Option<String>,
    battery_percent: Option<u8>,
    charging: Option<bool>,
    outbox_open: Option<u32>,
    reports_open: Option<u32>,
}

impl Device {
    fn battery(&self) -> String {
        match (self.battery_percent, self.charging) {
            (Some(percent), Some(true)) => format!("{percent}% charging"),
            (Some(percent), _) => format!("{percent}%"),
            (None, _) => String::new(),
        }
    }

    fn labels(&self) -> String {
        self.labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
    }

    fn facts(self, screen: &Screen) -> String {
        let (battery, labels) = (self.battery(), self.labels());
        let number = |number: Option<u32>| number.map(|number| number.to_string()).unwrap_or_default();
        screen.facts([
            ("id", self.id),
            ("name", self.name),
            ("state", self.state),
            ("link", link(self.online)),
            ("connected", screen.time_and_ago(&self.connected_at.unwrap_or_default())),
            ("from", self.remote.unwrap_or_default()),
            ("over", self.transport.unwrap_or_default()),
            ("round trip", self.rtt_ms.map(|ms| format!("{ms} ms")).unwrap_or_default()),
            ("last seen", screen.time_and_ago(&self.last_seen_at.unwrap_or_default())),
            ("enrolled", screen.time_and_ago(&self.enrolled_at)),
            ("model", self.model),
            ("system", self.os),
            ("software", self.software),
            ("labels", labels),
            ("battery", battery),
            ("in its outbox", number(self.outbox_open)),
            ("open reports", number(self.reports_open)),
        ])
    }
}

fn link(online: bool) -> String {
    if online { "online" } else { "offline" }.to_owned()
}

impl Listed for Device {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("id"),
        Column::Whole("link"),
        Column::Whole("state"),
        Column::Whole("seen"),
        Column::Cut("name"),
        Column::Cut("model"),
        Column::Cut("battery"),
    ];
    const NONE: &'static str = "there are no devices; invite one with flotilla enroll";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let battery = self.battery();
        let seen = self.last_seen_at.map_or_else(|| "never".to_owned(), |at| screen.ago(&at));
        vec![self.id, link(self.online), self.state, seen, self.name, self.model, battery]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_set_and_removed() {
        assert_eq!(label("site=a=b"), Ok(("site".into(), Some("a=b".into()))));
        assert_eq!(label("site="), Ok(("site".into(), Some(String::new()))));
        assert_eq!(label("site-"), Ok(("site".into(), None)));
        assert!(label("=x").is_err() && label("-").is_err() && label("site").is_err());
        let before = BTreeMap::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())]);
        let after = merged(before, vec![("a".into(), None), ("b".into(), Some("3".into())), ("c".into(), None)]);
        assert_eq!(after, BTreeMap::from([("b".to_owned(), "3".to_owned())]));
    }
}
