//! `flotilla stats`: counters by time and by what they are about.

use clap::Args;
use serde::Deserialize;

use super::error::CliError;
use super::list::{Listed, Paging, list};
use super::show::{Column, Screen};
use super::{Session, when};

pub(super) const EXAMPLE: &str = "Example:\n  flotilla stats --by sim --step day --from 7d";

#[derive(Debug, Args)]
pub struct Stats {
    /// What to count by
    #[arg(long, value_parser = [
        "total", "device", "sim", "provider", "sender", "campaign", "region", "priority", "error",
    ])]
    by: Option<String>,
    /// Only this value of --by, such as a device's id
    #[arg(long)]
    value: Option<String>,
    /// One row for each hour or day (UTC), or one for all
    #[arg(long, value_parser = ["hour", "day", "total"])]
    step: Option<String>,
    /// From this time: RFC 3339, or such as 7d; a day ago when left out
    #[arg(long, value_parser = when::past, value_name = "TIME")]
    from: Option<String>,
    /// Up to this time; now when left out
    #[arg(long, value_parser = when::past, value_name = "TIME")]
    to: Option<String>,
    #[command(flatten)]
    paging: Paging,
}

impl Stats {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let ask = || {
            session
                .client
                .get(&["stats"])
                .query("by", self.by.as_deref())
                .query("value", self.value.as_deref())
                .query("step", self.step.as_deref())
                .query("from", self.from.as_deref())
                .query("to", self.to.as_deref())
        };
        list::<Row>(session, &self.paging, ask).await
    }
}

#[derive(Deserialize)]
#[serde(default)]
#[derive(Default)]
pub(super) struct Row {
    at: String,
    value: String,
    other: bool,
    accepted: u64,
    dispatched: u64,
    sent: u64,
    segments_sent: u64,
    delivered: u64,
    failed: u64,
    expired: u64,
    cancelled: u64,
    inbound: u64,
    cost: String,
    accept_to_sent_ms: Option<Quantiles>,
    sent_to_delivered_ms: Option<Quantiles>,
}

#[derive(Deserialize)]
struct Quantiles {
    p50: u64,
    p99: u64,
}

fn quantiles(quantiles: Option<Quantiles>) -> String {
    let short = |ms: u64| match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..120_000 => format!("{}.{}s", ms / 1_000, ms % 1_000 / 100),
        _ => format!("{}m", ms / 60_000),
    };
    quantiles.map(|quantiles| format!("{}/{}", short(quantiles.p50), short(quantiles.p99))).unwrap_or_default()
}

impl Listed for Row {
    const COLUMNS: &'static [Column] = &[
        Column::Whole("from"),
        Column::Whole("value"),
        Column::Number("accepted"),
        Column::Number("tries"),
        Column::Number("sent"),
        Column::Number("segments"),
        Column::Number("delivered"),
        Column::Number("failed"),
        Column::Number("expired"),
        Column::Number("cancelled"),
        Column::Number("inbound"),
        Column::Number("cost"),
        Column::Cut("sent in p50/p99"),
        Column::Cut("delivered in p50/p99"),
    ];
    const NONE: &'static str = "nothing was counted in this time";

    fn cells(self, screen: &Screen) -> Vec<String> {
        let counters = [
            self.accepted,
            self.dispatched,
            self.sent,
            self.segments_sent,
            self.delivered,
            self.failed,
            self.expired,
            self.cancelled,
            self.inbound,
        ];
        let mut cells = vec![screen.hour(&self.at), if self.other { "(others)".to_owned() } else { self.value }];
        cells.extend(counters.map(|count| count.to_string()));
        cells.push(self.cost);
        cells.extend([quantiles(self.accept_to_sent_ms), quantiles(self.sent_to_delivered_ms)]);
        cells
    }
}
