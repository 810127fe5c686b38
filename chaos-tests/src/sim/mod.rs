//! The deterministic simulation: three controllers, an etcd, a store, devices with modems, provider accounts with the services
//! behind them, and clients in one thread, driven by a queue of events in virtual time, with faults drawn from a seed. Same seed, same log, byte for byte.
//!
//! What decides is the product's own code, unchanged: the ownership machine, the life of a shard with its inbox, batches and
//! machine, the rows follower, the device's agent, outbox and dialer, the frames as bytes, the agent of a provider's session. What is modelled is what lies
//! between them: network, link, etcd, disks, modems, HTTP, online services (docs/adr/0011, docs/adr/0016). `check` judges all along.
//!
//! | module | what |
//! |---|---|
//! | `site` | what people have set up before |
//! | `plan`, `rng` | what will happen, drawn from the seed |
//! | `world` | time, the queue, faults that begin and end |
//! | `node`, `device`, `provider`, `client` | the parts that act |
//! | `etcd`, `store`, `writes`, `net`, `conn`, `clock` | what lies between them |
//! | `check` | the named invariants |
//! | `told` | frames in the words of the log |
//! | `shrink` | the shortest story that still breaks the same promise |

mod check;
mod client;
mod clock;
mod conn;
mod device;
mod etcd;
mod net;
mod node;
mod plan;
mod provider;
mod rng;
mod shrink;
mod site;
mod store;
mod told;
mod world;
mod writes;

pub use check::Violation;
pub use plan::{Op, Size};
pub use shrink::{Story, shrink};
pub use world::Outcome;

use world::World;

/// Virtual milliseconds since the start.
pub type Ms = u64;

/// Deliberate bugs, to see that the checker sees. All of them are in the simulation's own adapters: the product has none of
/// these switches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Flaw {
    /// Clients are answered while the commit is on its way.
    AcknowledgeBeforeCommit,
    /// Devices get work while its intent is on its way to the disk.
    DispatchBeforeCommit,
    /// The store writes what any leader sends.
    NoEpochCheck,
    /// Idempotency keys are ignored.
    NoDedupe,
    /// Reports are acknowledged while they are on their way to the disk.
    LostReport,
    /// A device forgets that it was about to send.
    NoOutbox,
    /// A leader starts without what its routes were charged before.
    ForgottenLedger,
    /// A leader counts the last batch of its predecessor twice.
    FactsTwice,
    /// A modem takes a refusal for good for one that passes.
    PermanentAsTransient,
    /// The API takes urgent messages for bulk ones, and the other way round.
    UrgentAsBulk,
    /// The API gives messages five minutes more than their clients.
    LongValidity,
    /// The limits of SIMs and accounts do not reach the shard.
    NoLimits,
    /// Their pauses do not.
    NoGaps,
    /// Their send windows do not.
    NoWindows,
    /// What a recipient may get is not limited.
    NoRecipientLimit,
    /// The rules of tenants do not reach the shard.
    NoRules,
    /// The steps of plans reach it the other way round.
    StepsReversed,
    /// Routes have limits that nobody has set, so that long messages go elsewhere without need.
    StrangeLimits,
    /// A request to a service without an answer counts as not sent.
    TimeoutAsRefusal,
    /// Callbacks are answered while their reports are on their way to the disk.
    EarlyCallbackAnswer,
    /// A leader goes on after its lease. Harmless: the store fences it.
    NoSelfFence,
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    pub size: Size,
    pub flaw: Option<Flaw>,
}

impl Default for Options {
    fn default() -> Self {
        Self { size: Size { nodes: 3, devices: 50, tenants: 6, minutes: 30 }, flaw: None }
    }
}

/// One seed's story, with its log if wanted.
pub fn run(seed: u64, options: &Options, log: bool) -> Outcome {
    let plan = plan::draw(seed, options.size);
    let enabled = vec![true; plan.len()];
    World::new(seed, options, &plan, &enabled, log).run()
}
