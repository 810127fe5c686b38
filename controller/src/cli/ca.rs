//! `flotilla ca` and `flotilla certificates`: whom devices trust, and what was issued to them.

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::Session;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};

pub(super) const CERTIFICATES_EXAMPLE: &str =
    "Example:\n  flotilla certificates --device dev_01kaqmpxm0e8xs6bhkrg5jrqzt";

#[derive(Debug, Subcommand)]
pub enum Ca {
    /// Its keys, and how far a rotation has come
    #[command(after_help = "Example:\n  flotilla ca show")]
    Show,
    /// Change its key, step by step; each step can be taken back until the last (root key)
    Rotate {
        #[command(subcommand)]
        step: Step,
    },
}

#[derive(Debug, Subcommand)]
pub enum Step {
    /// Step 1: make the next key; devices and codes get both
    #[command(after_help = "Example:\n  flotilla ca rotate prepare")]
    Prepare,
    /// Step 2: the next key issues, both are trusted
    #[command(after_help = "Example:\n  flotilla ca rotate activate")]
    Activate,
    /// Step 3: drop the old key for good, once no certificate depends on it
    #[command(after_help = "Example:\n  flotilla ca rotate finish")]
    Finish {
        #[command(flatten)]
        force: Force,
    },
    /// One step back, from step 1 or 2
    #[command(after_help = "Example:\n  flotilla ca rotate rollback")]
    Rollback {
        #[command(flatten)]
        force: Force,
    },
}

#[derive(Debug, Args)]
pub struct Force {
    /// Drop the key although devices depend on it; they have to be enrolled again
    #[arg(long)]
    force: bool,
}

impl Ca {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let rotate = |step: &str| session.client.post(&["ca", "rotate", step]);
        let forced = |step: &str, Force { force }: Force| rotate(step).json(&json!({"force": force}));
        let ask = match self {
            Self::Show => session.client.get(&["ca"]),
            Self::Rotate { step: Step::Prepare } => rotate("prepare"),
            Self::Rotate { step: Step::Activate } => rotate("activate"),
            Self::Rotate { step: Step::Finish { force } } => forced("finish", force),
            Self::Rotate { step: Step::Rollback { force } } => forced("rollback", force),
        };
        let answer = ask.answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Authority>()?.facts(screen)))
    }
}

#[derive(Deserialize)]
pub(super) struct Authority {
    trust_domain: String,
    phase: String,
    issuing: String,
    other: Option<String>,
    still_used: Option<u64>,
    pins: Vec<String>,
}

impl Authority {
    fn facts(self, screen: &Screen) -> String {
        let next = match self.phase.as_str() {
            "prepared" => "flotilla ca rotate activate, or rollback",
            "active" => "flotilla ca rotate finish when nothing depends on the other key, or rollback",
            _ => "",
        };
        let mut facts = vec![
            ("trust domain", self.trust_domain),
            ("phase", self.phase),
            ("issuing key", self.issuing),
            ("other key", self.other.unwrap_or_default()),
            ("certificates of the other key", self.still_used.map(|count| count.to_string()).unwrap_or_default()),
        ];
        facts.extend(self.pins.into_iter().map(|pin| ("pin (sha-256)", pin)));
        facts.push(("next step", next.to_owned()));
        screen.facts(facts)
    }
}

#[derive(Debug, Args)]
pub struct Certificates {
    /// Only those of this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

impl Certificates {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let ask = || session.client.get(&["certificates"]).query("device", self.device.as_deref());
        list::<Certificate>(session, &self.paging, ask).await
    }
}

#[derive(Deserialize)]
pub(super) struct Certificate {
    serial: String,
    device: String,
    not_before: String,
    not_after: String,
    revoked_at: Option<String>,
    replaced_at: Option<String>,
}

impl Listed for Certificate {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("serial"),
        Column::Whole("device"),
        Column::Whole("state"),
        Column::Whole("from"),
        Column::Whole("to"),
    ];
    const NONE: &'static str = "no certificates";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let over = self.not_after.parse::<jiff::Timestamp>().is_ok_and(|to| to <= screen.now);
        let state = match (&self.revoked_at, &self.replaced_at) {
            (Some(_), _) => "revoked",
            (None, Some(_)) => "replaced",
            (None, None) if over => "expired",
            (None, None) => "active",
        };
        let (from, to) = (screen.ago(&self.not_before), screen.ago(&self.not_after));
        vec![self.serial, self.device, state.to_owned(), from, to]
    }
}
