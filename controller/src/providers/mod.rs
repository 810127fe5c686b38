//! Accounts at online SMS services, at work as gateways (docs/adr/0014-providers.md).
//!
//! ```text
//! follow (task)            hears of changes of accounts and leadership, and looks every few seconds
//! supervisor (actor)       has a session for each account whose shard is led here; of a disabled one it rests
//!   └─ session (actor)     towards the shard like a device's session; sends requests, takes what makers tell
//!        ├─ submit (task per request)      line, carrier; keeps the maker's ids
//!        └─ balance, polls (tasks)
//! references (task)        writes makers' ids, those of all sessions together
//! ```
//! | module | what |
//! |---|---|
//! | `account` | an account's settings and their check; what they mean for routes |
//! | `accounts` | the accounts in the catalog, and in memory |
//! | `kind` | what an account speaks |
//! | `agent`, `polls` | what a session decides; pure |
//! | `line`, `carrier` | requests of one account; HTTP, and what its errors mean |
//! | `smpp_line` | the SMPP client of an account |
//! | `news`, `callbacks` | what makers tell |
//! | `live` | what a session shows of itself |

pub mod account;
pub mod accounts;
pub mod agent;
pub mod callbacks;
pub mod carrier;
pub mod kind;
pub mod live;
pub mod news;
pub mod polls;
pub mod references;

mod line;
mod session;
mod smpp_line;
mod supervisor;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use flotilla_protocol::id::TenantId;
use flotilla_providers::Judged;
use ractor::{Actor, ActorRef, SpawnErr};
use rustc_hash::FxHashSet;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use url::Url;

use crate::clock::Clock;
use crate::fleet::tenants;
use crate::gateway::{FleetEvents, ShardDoors};
use crate::store::{Catalog, SqlError};
use account::Provider;
use accounts::Accounts;
use callbacks::Rates;
use carrier::{Carrier, CarrierError};
use references::References;
use session::Parts;
use supervisor::{Message, Supervisor};
pub use supervisor::{NotTaken, Sessions};

/// How soon this controller hears of what others have changed.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_DEADLINE: Duration = Duration::from_secs(5);
/// Sessions that finish their requests get so long.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(12);
/// Looks between two times at which old ids are forgotten: an hour.
const PRUNE_EVERY: u32 = 1_800;

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Sql(#[from] SqlError),
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    #[error("the supervisor of the providers' sessions does not start: {0}")]
    Supervisor(#[from] SpawnErr),
}

/// What is needed of the rest of the controller.
pub struct Needs {
    pub catalog: Arc<dyn Catalog>,
    pub accounts: Accounts,
    pub shards: Arc<dyn ShardDoors>,
    /// Moves when shards come and go.
    pub led: watch::Receiver<()>,
    pub events: Arc<dyn FleetEvents>,
    pub clock: Arc<dyn Clock>,
    /// Where makers reach this installation.
    pub public_url: Option<Url>,
}

/// The providers at work. Cheap to clone; ends with [`Providers::shutdown`].
#[derive(Clone)]
pub struct Providers(Arc<Inner>);

struct Inner {
    parts: Arc<Parts>,
    sessions: Sessions,
    rates: Rates,
    supervisor: ActorRef<Message>,
    following: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.following.abort();
        self.supervisor.stop(None);
    }
}

pub async fn start(needs: Needs) -> Result<Providers, StartError> {
    let carrier = Carrier::new(needs.accounts.guard())?;
    let references = References::start(Arc::clone(&needs.catalog), Arc::clone(&needs.clock));
    let parts = Arc::new(Parts {
        accounts: needs.accounts,
        references,
        carrier,
        clock: needs.clock,
        events: needs.events,
        public_url: needs.public_url,
        numbers: AtomicU64::new(0),
    });
    let sessions = Sessions::default();
    let args = supervisor::Args { parts: Arc::clone(&parts), shards: needs.shards, sessions: sessions.clone() };
    let (supervisor, _) = Actor::spawn(None, Supervisor, args).await?;
    let following = tokio::spawn(follow(Arc::clone(&parts), needs.catalog, needs.led, supervisor.clone()));
    Ok(Providers(Arc::new(Inner { parts, sessions, rates: Rates::default(), supervisor, following })))
}

impl Providers {
    pub fn accounts(&self) -> &Accounts {
        &self.0.parts.accounts
    }

    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    pub fn public_url(&self) -> Option<&Url> {
        self.0.parts.public_url.as_ref()
    }

    /// Whether an account works. Sends nothing.
    pub async fn test(&self, provider: &Arc<Provider>) -> Judged {
        match session::line_of(&self.0.parts, provider) {
            Some(line) => line.test().await,
            None => smpp_line::test(provider, self.0.parts.accounts.guard()).await,
        }
    }

    fn parts(&self) -> &Parts {
        &self.0.parts
    }

    fn rates(&self) -> &Rates {
        &self.0.rates
    }

    /// Takes no new work, and gives requests under way some time.
    pub async fn shutdown(&self) {
        self.0.following.abort();
        let (done, wait) = oneshot::channel();
        if self.0.supervisor.cast(Message::Shutdown(done)).is_ok() && timeout(SHUTDOWN_DEADLINE, wait).await.is_err() {
            tracing::warn!(left = self.0.sessions.count(), "some providers did not answer in time");
        }
    }
}

/// Tells the supervisor of every change that may concern it.
async fn follow(
    parts: Arc<Parts>,
    catalog: Arc<dyn Catalog>,
    mut led: watch::Receiver<()>,
    supervisor: ActorRef<Message>,
) {
    let mut accounts = parts.accounts.changes();
    let mut ticks = interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut disabled: Arc<FxHashSet<TenantId>> = Arc::default();
    let mut looks = 0;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                looks += 1;
                match timeout(LOOK_DEADLINE, look(&parts, &*catalog, looks % PRUNE_EVERY == 1)).await {
                    Ok(Ok(found)) => disabled = Arc::new(found),
                    Ok(Err(error)) => tracing::warn!(%error, "changes of provider accounts are not seen at the moment"),
                    Err(_) => tracing::warn!("changes of provider accounts are not seen at the moment"),
                }
            }
            // What ends with the node is no change.
            Ok(()) = accounts.changed() => {}
            Ok(()) = led.changed() => {}
        }
        accounts.borrow_and_update();
        led.borrow_and_update();
        if supervisor.cast(Message::Reconcile(Arc::clone(&disabled))).is_err() {
            return;
        }
    }
}

async fn look(parts: &Parts, catalog: &dyn Catalog, prune: bool) -> Result<FxHashSet<TenantId>, SqlError> {
    parts.accounts.refresh().await?;
    if prune {
        parts.references.prune(parts.clock.now().unix_ms).await?;
    }
    Ok(tenants::disabled(catalog).await?.into_iter().collect())
}
