//! `flotilla inbound`: what the gateways received.

use clap::Args;
use serde::Deserialize;

use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};
use super::{Session, when};

pub(super) const EXAMPLE: &str = "Example:\n  flotilla inbound --from +255712345678 --since 24h";

#[derive(Debug, Args)]
pub struct Inbound {
    /// Sender: a number, a short code or a name
    #[arg(long)]
    from: Option<String>,
    /// Received by this device
    #[arg(long, value_name = "ID")]
    device: Option<String>,
    /// Received by this SIM
    #[arg(long, value_name = "ID")]
    sim: Option<String>,
    /// Received since then: RFC 3339, or such as 2h
    #[arg(long, value_parser = when::past, value_name = "TIME")]
    since: Option<String>,
    /// Received before then
    #[arg(long, value_parser = when::past, value_name = "TIME")]
    until: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

impl Inbound {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let ask = || {
            session
                .client
                .get(&["inbound"])
                .query("from", self.from.as_deref())
                .query("device", self.device.as_deref())
                .query("sim", self.sim.as_deref())
                .query("since", self.since.as_deref())
                .query("until", self.until.as_deref())
        };
        list::<Received>(session, &self.paging, ask).await
    }
}

#[derive(Deserialize)]
pub(super) struct Received {
    id: String,
    from: String,
    text: String,
    sim: String,
    received_at: String,
}

impl Listed for Received {
    const COLUMNS: &'static [Column] =
        &[Column::Whole("id"), Column::Whole("when"), Column::Whole("from"), Column::Cut("text"), Column::Cut("sim")];
    const NONE: &'static str = "nothing was received";

    fn cells(self, screen: &Screen) -> Vec<String> {
        vec![self.id, screen.ago(&self.received_at), self.from, self.text, self.sim]
    }
}
