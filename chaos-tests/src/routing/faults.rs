//! What goes wrong, and when: spread over the run by how much clients have sent.

use std::time::Duration;

use tokio::sync::watch;

use super::Options;
use super::fleet::FLEETS;
use super::site::Site;
use crate::provider_server::{Cut, now_ms};

/// One thing that was away for a while.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub what: What,
    /// Devices or accounts that could not send meanwhile.
    pub routes: Vec<String>,
    /// Unix milliseconds.
    pub from_ms: u64,
    pub to_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// `kill -9` of the process of five devices.
    DevicesKilled,
    /// Requests are not answered.
    ProviderSilent,
    /// Nobody listens.
    ProviderRefuses,
    /// `kill -9`, started again at once.
    ControllerKilled,
}

impl What {
    pub const fn name(self) -> &'static str {
        match self {
            Self::DevicesKilled => "five devices killed",
            Self::ProviderSilent => "provider silent",
            Self::ProviderRefuses => "provider refuses connections",
            Self::ControllerKilled => "controller killed",
        }
    }
}

/// One round, as shares of it: what, when, for how long, and of the second provider or the first.
const ROUND: [(f64, What, Duration, usize); 5] = [
    (0.15, What::DevicesKilled, Duration::from_secs(12), 0),
    (0.35, What::ProviderSilent, Duration::from_secs(12), 0),
    (0.55, What::ControllerKilled, Duration::from_millis(300), 0),
    (0.70, What::ProviderRefuses, Duration::from_secs(10), 1),
    (0.85, What::DevicesKilled, Duration::from_secs(6), 0),
];

pub(super) async fn strike(
    site: &mut Site,
    options: &Options,
    mut seen: watch::Receiver<usize>,
) -> anyhow::Result<Vec<Fault>> {
    let mut faults = Vec::new();
    let round = options.messages as f64 / options.rounds as f64;
    for number in 0..options.rounds {
        for (share, what, down, provider) in ROUND {
            let at = ((number as f64 + share) * round) as usize;
            // The sender half goes away only when all is sent.
            drop(seen.wait_for(|promised| *promised >= at).await);
            site.check_alive()?;
            faults.push(one(site, what, down, provider).await?);
            tracing::info!(what = what.name(), at, "is over");
        }
    }
    Ok(faults)
}

async fn one(site: &mut Site, what: What, down: Duration, provider: usize) -> anyhow::Result<Fault> {
    let routes;
    let from_ms;
    match what {
        What::DevicesKilled => {
            let dying = FLEETS.iter().position(|fleet| fleet.dies).unwrap_or_default();
            routes = site.devices[dying].clone();
            site.fleets[dying].kill().await?;
            from_ms = now_ms();
            tokio::time::sleep(down).await;
            site.fleets[dying].start()?;
        }
        What::ProviderSilent | What::ProviderRefuses => {
            let cut = if what == What::ProviderSilent { Cut::Silent } else { Cut::Refused };
            let provider = &mut site.providers[provider];
            routes = vec![provider.id.clone()];
            provider.server.cut(cut).await;
            from_ms = now_ms();
            tokio::time::sleep(down).await;
            provider.server.restore().await?;
        }
        What::ControllerKilled => {
            routes = Vec::new();
            site.controller.kill().await?;
            from_ms = now_ms();
            tokio::time::sleep(down).await;
            site.controller.start()?;
        }
    }
    Ok(Fault { what, routes, from_ms, to_ms: now_ms() })
}
