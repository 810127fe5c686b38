//! `flotilla bench`: Flotilla measures itself, the way its users would load it.
//!
//! The controller and the simulated fleet run as processes of their own (`flotilla demo`), this process is only the load
//! generator; all of them share the machine. What is compared is measured in turns within one run, medians are reported,
//! and the disk's own fdatasync time stands beside every figure that waits for it.

mod accept;
mod bulk;
mod client;
mod connect;
pub mod disk;
mod e2e;
mod forward;
mod link;
pub mod report;
mod shares;
mod store;
mod subject;
mod takeover;

use clap::{Args, Subcommand};

/// Measure this machine
#[derive(Debug, Clone, Args)]
pub struct Bench {
    /// Print one JSON object
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Clone, Subcommand)]
enum What {
    /// Single messages over HTTP, each durable before it is answered
    Accept(accept::AcceptOptions),
    /// One large NDJSON upload
    Bulk(bulk::BulkOptions),
    /// From HTTP to the delivery report and the statistics
    E2e(e2e::EndToEndOptions),
    /// A request that comes to a controller which does not lead its shard
    Forward(forward::ForwardOptions),
    /// Frames over one device link
    Link(link::LinkOptions),
    /// A shard with very many queued messages: who gets which share, and how soon urgent ones leave
    Shares(shares::SharesOptions),
    /// Journal and rows alone
    Store(store::StoreOptions),
    /// A shard with many open messages moves from node to node
    Takeover(takeover::TakeoverOptions),
    /// Enrolment and connection of a whole fleet, and its memory
    Connect(connect::ConnectOptions),
}

impl Bench {
    pub async fn run(self) -> anyhow::Result<()> {
        let report = match self.what {
            What::Accept(options) => accept::run(options).await?,
            What::Bulk(options) => bulk::run(options).await?,
            What::E2e(options) => e2e::run(options).await?,
            What::Forward(options) => forward::run(options).await?,
            What::Link(options) => link::run(options).await?,
            What::Shares(options) => shares::run(&options),
            What::Store(options) => store::run(options).await?,
            What::Takeover(options) => takeover::run(options).await?,
            What::Connect(options) => connect::run(options).await?,
        };
        let text = if self.json { format!("{}\n", serde_json::to_string(&report)?) } else { report.to_string() };
        std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes())?;
        Ok(())
    }
}
