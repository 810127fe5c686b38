//! Which route carries a message, and why. Pure: time, seeds and settings are arguments; nothing here does IO.
//!
//! | module | what |
//! |---|---|
//! | `route` | what can carry a message: a SIM, or a sender of a provider account |
//! | `settings` | what people set: limits, prices, pools, rules, plans |
//! | `fact` | what the journal says about routes; the ledger and the health are folds of it |
//! | `choice` | a message as the choice sees it, and what is chosen |

pub mod choice;
pub mod fact;
pub mod route;
pub mod settings;

use serde::{Deserialize, Serialize};

/// The two clocks of a decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Wall clock, Unix milliseconds: schedules, validity, calendar limits. It may jump.
    pub unix_ms: u64,
    /// Milliseconds of a clock that only goes forward, from any origin: leases, gaps, back-off.
    pub mono_ms: u64,
}

/// Money in millionths of the tenant's currency. One currency per tenant, so amounts are never converted.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Micros(pub u64);

impl Micros {
    pub const ZERO: Self = Self(0);

    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The price of so many segments.
    pub const fn times(self, segments: u8) -> Self {
        Self(self.0.saturating_mul(segments as u64))
    }
}
