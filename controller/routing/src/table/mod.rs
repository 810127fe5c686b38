//! The routes of a shard, and which of them a message takes.
//!
//! A [`Table`] knows the SIMs and senders that are there, what is on its way on each, and, through its [`Ledger`], what they
//! have sent and how they fare. Routes with room are listed by the steps of their tenant's plans, for urgent messages and for
//! others; a list changes only where something has happened to a route, or its time has come. [`Table::choose`] draws from
//! these lists, so it costs the same for ten routes and for ten thousand.
//!
//! Room is per device (its window) and, inside a device, per SIM, so that a slow SIM cannot fill the window of its neighbour.
//! A part of each window is kept for urgent messages: those of the other classes wait ungranted on the device, and an urgent
//! one must find a place among them, from where it gets the next grant.
//!
//! How it is kept: [`Table::reserve`] once when an attempt begins and [`Table::release`] once when it has landed, whether its
//! device is there meanwhile or not; [`Table::know`] for what the catalog has; [`Table::fact`] for everything that is journaled about routes; after each input
//! [`Table::advance`], which says who is to be served again.
//!
//! | module | what |
//! |---|---|
//! | `entry` | one route, its device, its compiled settings |
//! | `sets` | lists of routes with room |
//! | `tenant` | a tenant's compiled settings, what is on its way for it |
//! | `blocks` | what stands between a route and a message |
//! | `choose`, `merit` | the choice, and how two routes compare |
//! | `keep` | how lists follow what happens |
//! | `deadlines` | when routes are looked at again |
//! | `notices`, `health` | what people are told |

mod blocks;
mod choose;
mod deadlines;
mod entry;
mod explain;
mod glance;
mod health;
mod keep;
mod merit;
mod notices;
mod sets;
mod tenant;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use jiff::tz::TimeZone;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use deadlines::Deadlines;
use entry::{Devices, Entries, Entry, Key};
use tenant::Tenant;

use crate::Now;
use crate::choice::{Candidate, Choice, Classify, Pin, PlanRef};
use crate::fact::{Charge, recipient_hash};
use crate::ledger::Ledger;
use crate::limits::Calendar;
use crate::route::{Route, RouteKind};
use crate::settings::{RouteSettings, TenantRouting};

pub use blocks::Obstacle;
pub use glance::RouteState;
pub use health::RouteHealth;
pub use merit::Parts;
pub use notices::Notice;

/// How far clocks are ahead of UTC where the day begins first.
const EASTERNMOST_MS: u64 = 14 * 3_600_000;

/// The numbers of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableSettings {
    /// The pause of a SIM that could not send: doubles from the first to the second number, until it sends again.
    pub pause_min_ms: u64,
    pub pause_max_ms: u64,
    /// So long after its start the table takes it that every route has been there once: from then on a message that none of
    /// them could ever carry is refused.
    pub known_after_ms: u64,
    /// Routes that are away are forgotten after this time.
    pub forget_after_ms: u64,
}

impl Default for TableSettings {
    fn default() -> Self {
        const MINUTE: u64 = 60_000;
        const DAY: u64 = 24 * 60 * MINUTE;
        Self { pause_min_ms: 1_000, pause_max_ms: 10 * MINUTE, known_after_ms: 10 * MINUTE, forget_after_ms: 30 * DAY }
    }
}

/// One SIM of a device that is online, or one sender of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSim {
    pub slot: u8,
    pub sim: SimId,
    /// Attempts the radio can work on at once; taken as 1 at least.
    pub depth: u8,
    pub ready: bool,
    pub settings: Arc<RouteSettings>,
}

/// A SIM or sender as the catalog has it, whether its device is there or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownRoute {
    pub route: Route,
    pub tenant: TenantId,
    pub settings: Arc<RouteSettings>,
}

/// A device or an account that is online, as the table needs it.
#[derive(Clone, Debug)]
pub struct RouteDevice {
    pub kind: RouteKind,
    pub device: DeviceId,
    pub tenant: TenantId,
    /// Attempts it takes in before their results are reported; taken as 1 at least.
    pub window: u16,
    /// False for a drained device, and for one that has not listed yet what it holds.
    pub accepts_work: bool,
    pub sims: SmallVec<[RouteSim; 2]>,
}

/// Somebody may have room who had none: what is to be served again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Marked {
    /// Messages that may take this route: those pinned to it or to its device, and those of all plans of the tenant.
    Route { tenant: TenantId, route: Route },
    /// All plans and pins of the tenant.
    Tenant(TenantId),
}

/// A SIM rests.
#[derive(Clone, Copy, Debug)]
struct Pause {
    /// How often it has doubled.
    level: u32,
    /// Monotonic.
    until_ms: u64,
}

#[derive(Debug)]
pub struct Table {
    settings: TableSettings,
    ledger: Ledger,
    tenants: FxHashMap<TenantId, Tenant>,
    devices: Devices,
    entries: Entries,
    by_route: FxHashMap<Route, Key>,
    /// Where each SIM is, or was last.
    by_sim: FxHashMap<SimId, Key>,
    /// SIMs that could not send lately.
    pauses: FxHashMap<SimId, Pause>,
    deadlines: Deadlines,
    marked: Vec<Marked>,
    notices: Vec<Notice>,
    /// When it was first asked (monotonic).
    began_ms: Option<u64>,
}

impl Table {
    pub fn new(settings: TableSettings, ledger: Ledger) -> Self {
        Self {
            settings,
            ledger,
            tenants: FxHashMap::default(),
            devices: Devices::default(),
            entries: Entries::default(),
            by_route: FxHashMap::default(),
            by_sim: FxHashMap::default(),
            pauses: FxHashMap::default(),
            deadlines: Deadlines::default(),
            marked: Vec::new(),
            notices: Vec::new(),
            began_ms: None,
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Which plan a message follows, by its client's word or its tenant's rules.
    pub fn classify(&mut self, tenant: TenantId, message: &Classify<'_>, now: Now) -> PlanRef {
        self.tenant(tenant).classify(message, now.unix_ms)
    }

    /// When [`Table::classify`] may answer otherwise for messages of a tenant (Unix ms); none while settings stay.
    pub fn reclassify_at(&self, tenant: TenantId, now: Now) -> Option<u64> {
        self.tenants.get(&tenant)?.reclassify_at(now.unix_ms)
    }

    /// The name of a plan, for people.
    pub fn plan_name(&self, tenant: TenantId, plan: PlanRef) -> Option<&str> {
        self.tenants.get(&tenant)?.way(plan).map(|(steps, _)| &*steps.name)
    }

    /// The charge for segments that have left on a route, or may have, at this Unix time. A route that nobody knows any more is
    /// taken to be as dear as the tenant's dearest, and in the last of the days that it may be anywhere: a later day's segments
    /// count for those before it.
    pub fn charge(&mut self, route: Route, tenant: TenantId, segments: u8, at_ms: u64, to: Msisdn) -> Charge {
        let now = Now { unix_ms: at_ms, mono_ms: 0 };
        let country = to.region();
        let (tenant_day, recipient_window_s, dearest) = {
            let tenant = self.tenant(tenant);
            let window_s = tenant.routing.recipient_limit.map_or(0, |limit| limit.window_s);
            (tenant.day_of(at_ms), window_s, tenant.dearest)
        };
        let entry = self.by_route.get(&route).and_then(|key| self.entries.get(*key)).filter(|entry| entry.described);
        let view = blocks::View { ledger: &self.ledger, pauses: &self.pauses, now };
        let (cost, day) = match entry {
            Some(entry) => (
                view.charged(entry, country.as_ref().map(|is| is.as_str()), segments),
                entry.calendar.at(&entry.terms.zone, at_ms).day,
            ),
            None => (dearest.times(segments), Calendar::new(&TimeZone::UTC, at_ms + EASTERNMOST_MS).day),
        };
        let recipient = recipient_hash(to.as_u64());
        Charge { route, segments, at_ms, recipient, cost, day, tenant_day, recipient_window_s }
    }

    /// What people are to be told since this was asked last; each once.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Whether a SIM rests because it could not send.
    pub fn is_paused(&self, sim: SimId, now: Now) -> bool {
        let view = blocks::View { ledger: &self.ledger, pauses: &self.pauses, now };
        view.paused(sim).is_some()
    }

    /// Takes a route, or says when to ask again.
    pub fn choose(&mut self, candidate: &Candidate, now: Now) -> Choice {
        self.began_ms.get_or_insert(now.mono_ms);
        self.tenant(candidate.tenant);
        let choice = match candidate.pin {
            Pin::Any => self.by_plan(candidate, now),
            Pin::Sim(_) | Pin::Device(_) => self.by_pin(candidate, now),
        };
        match choice {
            Choice::Take(..) | Choice::Refuse { .. } => {}
            Choice::Wait { .. } | Choice::Unfit { .. } => {
                if let Some(refused) = self.never(candidate, now) {
                    return refused;
                }
            }
        }
        choice
    }

    /// The settings of a tenant: changed, or to be used from now on. Messages in memory are to be classified again, and its
    /// targets served.
    pub fn set_tenant(&mut self, tenant: TenantId, routing: Arc<TenantRouting>, now: Now) {
        match self.tenants.get_mut(&tenant) {
            Some(known) if known.routing == routing => return,
            Some(known) => known.change(routing),
            None => {
                self.tenants.insert(tenant, Tenant::new(routing));
            }
        }
        let routes = self.tenants.get(&tenant).map(|tenant| tenant.routes.clone()).unwrap_or_default();
        for key in &routes {
            // The sets of the former plans are gone.
            if let Some(entry) = self.entries.get_mut(*key) {
                entry.places.clear();
            }
        }
        for key in &routes {
            self.join(*key, now);
        }
        for key in routes {
            self.refresh(key, now);
        }
        self.know_budget(tenant, now);
        self.marked.push(Marked::Tenant(tenant));
    }

    fn tenant(&mut self, tenant: TenantId) -> &mut Tenant {
        self.tenants.entry(tenant).or_insert_with(|| Tenant::new(Arc::default()))
    }

    fn key_of(&self, sim: SimId) -> Option<(Key, &Entry)> {
        let key = *self.by_sim.get(&sim)?;
        Some((key, self.entries.get(key)?))
    }
}
