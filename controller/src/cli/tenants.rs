//! `flotilla tenants`: for whoever holds the installation's root key.

use clap::Subcommand;
use serde::Deserialize;
use serde_json::json;

use super::Session;
use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};

#[derive(Debug, Subcommand)]
pub enum Tenants {
    /// List tenants, the oldest first
    #[command(after_help = "Example:\n  flotilla tenants list")]
    List {
        #[command(flatten)]
        paging: Paging,
    },
    /// Create a tenant
    #[command(after_help = "Example:\n  flotilla tenants create 'Arusha Clinic'")]
    Create {
        /// Unique; people see it when they enrol a device
        name: String,
    },
    /// Refuse its keys and devices; nothing is deleted
    #[command(after_help = "Example:\n  flotilla tenants disable ten_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Disable {
        /// ten_...
        id: String,
    },
    /// Take its keys and devices again
    #[command(after_help = "Example:\n  flotilla tenants enable ten_01kaqmpxm0e8xs6bhkrg5jrqzt")]
    Enable {
        /// ten_...
        id: String,
    },
}

impl Tenants {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let client = &session.client;
        let ask = match self {
            Self::List { paging } => return list::<Tenant>(session, &paging, || client.get(&["tenants"])).await,
            Self::Create { name } => client.post(&["tenants"]).json(&json!({"name": name})),
            Self::Disable { id } => client.patch(&["tenants", &id]).json(&json!({"disabled": true})),
            Self::Enable { id } => client.patch(&["tenants", &id]).json(&json!({"disabled": false})),
        };
        let answer = ask.answer().await?;
        session.print(&answer, |screen| Ok(answer.view::<Tenant>()?.facts(screen)))
    }
}

#[derive(Deserialize)]
pub(super) struct Tenant {
    id: String,
    name: String,
    disabled: bool,
    created_at: String,
}

fn state(disabled: bool) -> String {
    if disabled { "disabled" } else { "enabled" }.to_owned()
}

impl Tenant {
    fn facts(self, screen: &Screen) -> String {
        screen.facts([
            ("id", self.id),
            ("name", self.name),
            ("state", state(self.disabled)),
            ("created", screen.time_and_ago(&self.created_at)),
        ])
    }
}

impl Listed for Tenant {
    const COLUMNS: &'static [Column] =
        &[Column::Whole("id"), Column::Whole("state"), Column::Whole("created"), Column::Cut("name")];
    const NONE: &'static str = "there are no tenants yet; create one with flotilla tenants create NAME";

    fn cells(self, screen: &Screen) -> Vec<String> {
        vec![self.id, state(self.disabled), screen.ago(&self.created_at), self.name]
    }
}
