//! What is known of a shard's routes: what each scope has been charged, how each route fares, whether its circuit is closed.
//!
//! A [`Ledger`] is the fold of the journal's facts and of nothing else, by the same code while the shard runs and when it is
//! replayed. So limits are exact over restarts and hand-overs, and two ledgers that took the same facts are equal. It knows
//! neither clock nor settings: what it has to know of those is in the facts.
//!
//! | module | what |
//! |---|---|
//! | `counters` | segments, money, recipients of one scope |
//! | `sliding` | the last minute and hour |
//! | `recipients` | different recipients of a month; the last messages of each recipient |
//! | `sticky` | which SIM a recipient had its last message from |
//! | `codec` | the bytes in which it is stored |

mod codec;
mod counters;
mod recipients;
mod sliding;
mod sticky;
#[cfg(test)]
mod tests;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::circuit::{Circuit, Shift};
use crate::fact::{Charge, Fact, Outcome};
use crate::health::history::History;
use crate::health::score::score;
use crate::health::{Health, Warning};
use crate::learn::Learned;
use crate::limits::Room;
use crate::route::Route;
use crate::settings::RecipientLimit;

pub use codec::LedgerError;
pub use counters::{Counters, FORGOTTEN_AFTER_MS};
pub use recipients::{FOLLOWED_MAX, RECIPIENTS_MAX};
pub use sliding::AHEAD_MS;
pub use sticky::STICKY_MAX;

/// How often everything is looked through for what has become old.
const SWEEP_MS: u64 = 3_600_000;

/// What limits are about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A SIM in its device, or a sender.
    Route(Route),
    /// A device or a provider account: all its SIMs or senders.
    Device(DeviceId),
    Tenant(TenantId),
}

/// See the module's documentation. Equal when the facts were: the history of scores is left out of the comparison, since live
/// values go into it.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    routes: FxHashMap<Route, Box<RouteState>>,
    devices: FxHashMap<DeviceId, Box<Counters>>,
    tenants: FxHashMap<TenantId, TenantState>,
    sticky: sticky::Sticky,
    /// The newest time in a fact, Unix ms: what is old is measured from it.
    newest_ms: u64,
    swept_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct RouteState {
    counters: Counters,
    health: Health,
    circuit: Circuit,
    history: History,
    learned: Learned,
}

impl PartialEq for RouteState {
    fn eq(&self, other: &Self) -> bool {
        self.counters == other.counters
            && self.health == other.health
            && self.circuit == other.circuit
            && self.learned == other.learned
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct TenantState {
    counters: Counters,
    followed: recipients::Followed,
}

impl PartialEq for Ledger {
    fn eq(&self, other: &Self) -> bool {
        self.routes == other.routes
            && self.devices == other.devices
            && self.tenants == other.tenants
            && self.sticky == other.sticky
            && self.newest_ms == other.newest_ms
            && self.swept_ms == other.swept_ms
    }
}

/// What a fact has changed that others are told of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Applied {
    pub circuit: Option<Shift>,
    /// A block is foreseen, and was not before.
    pub warning: Option<Warning>,
}

static NOTHING: Counters = Counters::EMPTY;

impl Ledger {
    /// Takes the next fact. Deterministic: the same facts in the same order make the same ledger.
    pub fn apply(&mut self, fact: &Fact) -> Applied {
        let (at_ms, applied) = match fact {
            Fact::Charged { tenant, charge } => {
                self.charge(*tenant, charge);
                (charge.at_ms, Applied::default())
            }
            Fact::Outcome { route, at_ms, outcome, region } => {
                let known = self.route(*route);
                known.learned.outcome(*region, *outcome, *at_ms);
                (*at_ms, known.outcome(*outcome, *at_ms))
            }
        };
        self.newest_ms = self.newest_ms.max(at_ms);
        if self.newest_ms.saturating_sub(self.swept_ms) >= SWEEP_MS {
            self.sweep();
        }
        applied
    }

    /// What a scope has been charged; all zero for one that is not known.
    pub fn counters(&self, scope: Scope) -> &Counters {
        match scope {
            Scope::Route(route) => self.routes.get(&route).map_or(&NOTHING, |known| &known.counters),
            Scope::Device(device) => self.devices.get(&device).map_or(&NOTHING, |known| known),
            Scope::Tenant(tenant) => self.tenants.get(&tenant).map_or(&NOTHING, |known| &known.counters),
        }
    }

    /// None for a route that nothing is known of: it is presumed healthy.
    pub fn health(&self, route: &Route) -> Option<&Health> {
        self.routes.get(route).map(|known| &known.health)
    }

    /// None as for `health`: the circuit is closed then.
    pub fn circuit(&self, route: &Route) -> Option<&Circuit> {
        self.routes.get(route).map(|known| &known.circuit)
    }

    /// What a route has delivered by country; none for a route that nothing is known of.
    pub fn learned(&self, route: &Route) -> Option<&Learned> {
        self.routes.get(route).map(|known| &known.learned)
    }

    /// Scores of the last day.
    pub fn history(&self, route: &Route) -> Option<&History> {
        self.routes.get(route).map(|known| &known.history)
    }

    /// Keeps a score as it is now, with what is known live. Not a fact: without it the history has the score by outcomes only.
    pub fn note_score(&mut self, route: &Route, unix_ms: u64, value: u8) {
        if let Some(known) = self.routes.get_mut(route) {
            known.history.note(unix_ms, value);
        }
    }

    /// The SIM or sender that sent the last message to this recipient (a hash).
    pub fn sticky(&self, tenant: TenantId, recipient: u64) -> Option<SimId> {
        self.sticky.get(tenant, recipient)
    }

    /// Whether a recipient (a hash) may have another message, with so many on their way to it. `Until` is exact to the second,
    /// except that a recipient nobody knows waits a minute when the tenant follows [`FOLLOWED_MAX`] of them.
    pub fn recipient_room(
        &self,
        tenant: TenantId,
        recipient: u64,
        limit: RecipientLimit,
        in_flight: u32,
        unix_ms: u64,
    ) -> Room {
        use recipients::Wait;
        if limit.messages == 0 {
            return Room::Never;
        }
        let none = recipients::Followed::default();
        let followed = self.tenants.get(&tenant).map_or(&none, |known| &known.followed);
        match followed.until(recipient, limit, in_flight, unix_ms, FOLLOWED_MAX) {
            Wait::No => Room::Yes,
            Wait::InFlight => Room::InFlight,
            Wait::Until(unix_ms) => Room::Until { unix_ms },
        }
    }

    /// Routes that anything is known of, in no order.
    pub fn routes(&self) -> impl Iterator<Item = (&Route, &Health, &Circuit)> {
        self.routes.iter().map(|(route, known)| (route, &known.health, &known.circuit))
    }

    /// Recipients of the tenant that are followed for its limit by recipient.
    pub fn followed(&self, tenant: TenantId) -> usize {
        self.tenants.get(&tenant).map_or(0, |known| known.followed.len())
    }

    fn route(&mut self, route: Route) -> &mut RouteState {
        self.routes.entry(route).or_insert_with(|| Box::new(RouteState::new(route)))
    }

    fn charge(&mut self, tenant: TenantId, charge: &Charge) {
        self.route(charge.route).counters.charge(charge, charge.day);
        self.devices.entry(charge.route.device).or_default().charge(charge, charge.day);
        let known = self.tenants.entry(tenant).or_default();
        known.counters.charge(charge, charge.tenant_day);
        known.followed.add(charge.recipient, charge.at_ms, charge.recipient_window_s, FOLLOWED_MAX);
        self.sticky.set(tenant, charge.recipient, charge.route.sim);
    }

    /// Forgets what is too old to matter. By the facts' own time, so that every copy forgets the same.
    fn sweep(&mut self) {
        let now_ms = self.newest_ms.saturating_sub(AHEAD_MS);
        self.swept_ms = self.newest_ms;
        self.routes.retain(|_, known| {
            let charged = known.counters.prune(now_ms);
            charged || known.health.last_ms().is_some_and(|last| last.saturating_add(FORGOTTEN_AFTER_MS) > now_ms)
        });
        self.devices.retain(|_, known| known.prune(now_ms));
        self.tenants.retain(|_, known| {
            let followed = known.followed.prune(now_ms);
            known.counters.prune(now_ms) || followed
        });
    }
}

impl RouteState {
    fn new(route: Route) -> Self {
        Self {
            counters: Counters::EMPTY,
            health: Health::default(),
            circuit: Circuit::new(route.kind),
            history: History::default(),
            learned: Learned::default(),
        }
    }

    fn outcome(&mut self, outcome: Outcome, at_ms: u64) -> Applied {
        // The score that its last slot ended with.
        if self.history.begins_slot(at_ms) {
            self.history.note(at_ms, score(&self.health, None, at_ms).value);
        }
        let warning = self.health.outcome(outcome, at_ms);
        Applied { circuit: self.circuit.on(outcome, warning, at_ms), warning }
    }
}
