//! Which route carries a message, and why. Pure: time, seeds and settings are arguments; nothing here does IO.
//!
//! | module | what |
//! |---|---|
//! | `route` | what can carry a message: a SIM, or a sender of a provider account |
//! | `settings` | what people set: limits, prices, pools, rules, plans |
//! | `fact` | what the journal says about routes; the ledger and the health are folds of it |
//! | `choice` | a message as the choice sees it, and what is chosen |
//! | `money` | amounts |
//! | `ledger` | what the facts of a shard add up to: charges by scope, health and circuit of each route |
//! | `limits` | whether a scope has room, and when it will; send windows, warm-up |
//! | `health` | how a route fares: its score and the reasons for it |
//! | `circuit` | whether a route is used, rests, or is probed |
//! | `presets` | limits of kinds of devices and of carriers |
//! | `price` | what a message costs on a route |
//! | `rules`, `plan` | which steps a message follows |
//! | `check` | what a tenant may set |
//! | `learn` | weights that learn from what was delivered |
//! | `explain` | why a message takes the route that it takes |
//! | `table` | the routes that are there, and the choice among them |

pub mod check;
pub mod choice;
pub mod circuit;
pub mod explain;
pub mod fact;
pub mod health;
pub mod learn;
pub mod ledger;
pub mod limits;
pub mod money;
mod opening;
pub mod plan;
pub mod presets;
pub mod price;
pub mod route;
pub mod rules;
mod seed;
pub mod settings;
pub mod table;

pub use money::Micros;

/// The two clocks of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, Unix milliseconds: schedules, validity, calendar limits. It may jump.
    pub unix_ms: u64,
    /// Milliseconds of a clock that only goes forward, from any origin: leases, gaps, back-off.
    pub mono_ms: u64,
}
