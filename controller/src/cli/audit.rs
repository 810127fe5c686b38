//! `flotilla audit`: acts of administration.

use clap::Args;
use serde::Deserialize;
use serde_json::Value;

use super::Session;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};

pub(super) const EXAMPLE: &str = "Example:\n  flotilla audit --limit 20";

#[derive(Debug, Args)]
pub struct Audit {
    #[command(flatten)]
    paging: Paging,
}

impl Audit {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        list::<Entry>(session, &self.paging, || session.client.get(&["audit"])).await
    }
}

#[derive(Deserialize)]
pub(super) struct Entry {
    number: u64,
    at: String,
    actor: String,
    action: String,
    subject: String,
    #[serde(default)]
    detail: Value,
}

impl Listed for Entry {
    const COLUMNS: &'static [Column] = &[
        Column::Number("no"),
        Column::Whole("at"),
        Column::Whole("action"),
        Column::Whole("subject"),
        Column::Cut("actor"),
        Column::Cut("detail"),
    ];
    const NONE: &'static str = "nothing was changed yet";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let empty = self.detail.is_null() || self.detail.as_object().is_some_and(|detail| detail.is_empty());
        let detail = if empty { String::new() } else { self.detail.to_string() };
        vec![self.number.to_string(), screen.ago(&self.at), self.action, self.subject, self.actor, detail]
    }
}
