//! `flotilla enroll`: invite a gateway, by a code that its camera or `flotilla-node` reads.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};
use super::{Session, note, when};

pub(super) const EXAMPLE: &str = "Example:\n  flotilla enroll --name 'Front desk' --ttl 1h";

#[derive(Debug, Args)]
pub struct Enroll {
    #[command(flatten)]
    new: New,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Default, PartialEq, Eq, Args)]
struct New {
    /// The name that the device will get; its own when left out
    #[arg(long)]
    name: Option<String>,
    /// How long the code may be used, such as 30m or 7d; an hour when left out
    #[arg(long, value_parser = when::seconds, value_name = "TIME")]
    ttl: Option<u64>,
    /// Do not draw the QR code
    #[arg(long)]
    no_qr: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List invitations, the newest first
    #[command(after_help = "Example:\n  flotilla enroll list")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Take an unused code back
    #[command(after_help = "Example:\n  flotilla enroll revoke enr_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Revoke {
        /// enr_...
        id: String,
    },
}

impl Enroll {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        if self.command.is_some() && self.new != New::default() {
            let detail = "--name, --ttl and --no-qr make a new invitation; leave them out with list and revoke";
            return Err(CliError::Usage(detail.to_owned()));
        }
        match self.command {
            None => create(session, self.new).await,
            Some(Command::List { paging }) => {
                list::<Enrollment>(session, &paging, || session.client.get(&["enrollments"])).await
            }
            Some(Command::Revoke { id }) => {
                let answer = session.client.delete(&["enrollments", &id]).answer().await?;
                session.print(&answer, |screen| Ok(answer.view::<Enrollment>()?.facts(screen)))
            }
        }
    }
}

async fn create(session: &Session, new: New) -> Result<(), CliError> {
    let mut body = json!({"device_name": new.name.unwrap_or_default()});
    if let Some(ttl_s) = new.ttl {
        body["ttl_s"] = ttl_s.into();
    }
    let answer = session.client.post(&["enrollments"]).json(&body).answer().await?;
    session.print(&answer, |screen| Ok(answer.view::<Enrollment>()?.invitation(screen, !new.no_qr)))
}

#[derive(Deserialize)]
pub(super) struct Enrollment {
    id: String,
    #[serde(default)]
    device_name: String,
    state: String,
    created_at: String,
    expires_at: String,
    device: Option<String>,
    uri: Option<String>,
    qr_text: Option<String>,
}

impl Enrollment {
    /// The code, and what to do with it.
    pub(super) fn invitation(self, screen: &Screen, qr: bool) -> String {
        let (uri, drawn) = (self.uri.clone().unwrap_or_default(), self.qr_text.clone().filter(|_| qr));
        let mut text = String::new();
        if let Some(drawn) = drawn {
            match screen.picture(&drawn) {
                Some(picture) => text = picture + "\n",
                None => note("the terminal is too narrow for the QR code; widen it and repeat, or use the code below"),
            }
        }
        // On a line of its own it can be copied whole, whatever the terminal's width.
        text.push_str(&format!("{}\n\n", super::show::clean(&uri)));
        text.push_str(&self.facts(screen));
        text.push_str("\nscan it with the app, or run on the device: flotilla-node enroll CODE\n");
        text
    }

    fn facts(self, screen: &Screen) -> String {
        screen.facts([
            ("id", self.id),
            ("device name", self.device_name),
            ("state", self.state),
            ("device", self.device.unwrap_or_default()),
            ("created", screen.time_and_ago(&self.created_at)),
            ("expires", screen.time_and_ago(&self.expires_at)),
        ])
    }
}

impl Listed for Enrollment {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("id"),
        Column::Whole("state"),
        Column::Whole("expires"),
        Column::Whole("device"),
        Column::Cut("device name"),
    ];
    const NONE: &'static str = "there are no invitations; make one with flotilla enroll";

    fn cells(self, screen: &Screen) -> Vec<String> {
        vec![self.id, self.state, screen.ago(&self.expires_at), self.device.unwrap_or_default(), self.device_name]
    }
}
