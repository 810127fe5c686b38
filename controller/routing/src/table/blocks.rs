//! What stands between a route and a message, and for how long.
//!
//! Some obstacles are the route's own (its device is away, its window is closed, it has no place left): a route without any is
//! listed as having room. Others come with the message (its country, its sender, what it may cost). The same code finds them
//! for a choice and for an explanation.

use rustc_hash::FxHashMap;
use serde::Serialize;
use utoipa::ToSchema;

use flotilla_protocol::id::SimId;

use super::Pause;
use super::entry::{Device, Entry};
use super::tenant::Tenant;
use crate::choice::{Candidate, Pin};
use crate::circuit::Gate;
use crate::fact::recipient_hash;
use crate::ledger::{Ledger, Scope};
use crate::limits::{Ask, Limit, Room, room, warmed_up};
use crate::price::cost;
use crate::route::Priority;
use crate::{Micros, Now};

/// Stable names of obstacles, as the API shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    /// Its device has no link, or the SIM is not in it.
    Offline,
    /// The device is drained, or has not listed yet what it holds.
    TakesNoWork,
    /// The SIM is not ready.
    NotReady,
    /// Held back until a person confirms the SIM.
    Held,
    /// It rests after a failure.
    Paused,
    /// Its circuit is open.
    CircuitOpen,
    /// One message is on its way to see whether the route works again.
    Probing,
    /// Outside its send windows.
    WindowClosed,
    /// Its own limit.
    Limit,
    /// The limit of its device or account.
    DeviceLimit,
    /// As many messages are on it as it may have.
    NoPlace,
    /// The message has failed on it before.
    Avoided,
    /// It does not send to the recipient's country.
    CountryNotServed,
    /// It carries GSM-7 only.
    UnicodeNotServed,
    /// The message names another sender.
    SenderNotServed,
    /// It would cost more than the message may.
    MaxCost,
    /// The tenant's budget of the month is spent.
    Budget,
}

impl Obstacle {
    /// As in the API.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::TakesNoWork => "takes-no-work",
            Self::NotReady => "not-ready",
            Self::Held => "held",
            Self::Paused => "paused",
            Self::CircuitOpen => "circuit-open",
            Self::Probing => "probing",
            Self::WindowClosed => "window-closed",
            Self::Limit => "limit",
            Self::DeviceLimit => "device-limit",
            Self::NoPlace => "no-place",
            Self::Avoided => "avoided",
            Self::CountryNotServed => "country-not-served",
            Self::UnicodeNotServed => "unicode-not-served",
            Self::SenderNotServed => "sender-not-served",
            Self::MaxCost => "max-cost",
            Self::Budget => "budget",
        }
    }
}

/// How long an obstacle lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lasts {
    /// Until an attempt has landed.
    Busy,
    /// Until this time (monotonic).
    Until(u64),
    /// Until somebody does something that cannot be foreseen.
    Away,
    /// As long as the settings are what they are.
    Ever,
}

/// What all obstacles of a route come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Open,
    Busy,
    Until(u64),
    Shut,
}

impl State {
    pub(super) fn with(self, lasts: Lasts) -> Self {
        match (self, lasts) {
            (Self::Shut, _) | (_, Lasts::Away | Lasts::Ever) => Self::Shut,
            (Self::Until(a), Lasts::Until(b)) => Self::Until(a.max(b)),
            (Self::Until(a), Lasts::Busy) => Self::Until(a),
            (_, Lasts::Until(b)) => Self::Until(b),
            (_, Lasts::Busy) => Self::Busy,
        }
    }
}

/// Unix time as monotonic time.
pub(super) fn mono_ms(unix_ms: u64, now: Now) -> u64 {
    now.mono_ms.saturating_add(unix_ms.saturating_sub(now.unix_ms))
}

/// What a scope's room means, if it has none.
pub(super) fn lasts(room: Room, now: Now) -> Option<Lasts> {
    match room {
        Room::Yes => None,
        Room::InFlight => Some(Lasts::Busy),
        Room::Until { unix_ms } => Some(Lasts::Until(mono_ms(unix_ms, now))),
        Room::Never => Some(Lasts::Ever),
    }
}

/// What obstacles are looked for with.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) pauses: &'a FxHashMap<SimId, Pause>,
    pub(super) now: Now,
}

/// Somebody, one segment.
const ANYBODY: Ask = Ask { segments: 1, recipient: None };

impl View<'_> {
    /// Obstacles that every message of this kind meets on the route.
    pub(super) fn of_route(&self, entry: &Entry, device: &Device, kind: usize, tell: &mut impl FnMut(Obstacle, Lasts)) {
        self.of_all(entry, device, tell);
        if entry.online && device.online && !entry.has_place(device, kind) {
            tell(Obstacle::NoPlace, Lasts::Busy);
        }
    }

    /// What they come to, for urgent messages and for others.
    pub(super) fn states(&self, entry: &Entry, device: &Device) -> [State; 2] {
        let mut state = State::Open;
        self.of_all(entry, device, &mut |_, lasts| state = state.with(lasts));
        [0, 1].map(|kind| if entry.has_place(device, kind) { state } else { state.with(Lasts::Busy) })
    }

    /// Those that are the same for urgent messages.
    fn of_all(&self, entry: &Entry, device: &Device, tell: &mut impl FnMut(Obstacle, Lasts)) {
        if !entry.online || !device.online {
            return tell(Obstacle::Offline, Lasts::Away);
        }
        if !device.accepts_work {
            tell(Obstacle::TakesNoWork, Lasts::Away);
        }
        if !entry.ready {
            tell(Obstacle::NotReady, Lasts::Away);
        }
        let now = self.now;
        if entry.settings.held {
            tell(Obstacle::Held, Lasts::Away);
        }
        if let Some(until_ms) = self.paused(entry.route.sim) {
            tell(Obstacle::Paused, Lasts::Until(until_ms));
        }
        match self.gate(entry) {
            Gate::Yes | Gate::Probe => {}
            Gate::Probing => tell(Obstacle::Probing, Lasts::Busy),
            Gate::Until(unix_ms) => tell(Obstacle::CircuitOpen, Lasts::Until(mono_ms(unix_ms, now))),
        }
        if !entry.terms.hours.is_always() {
            let opening = entry.terms.hours.at(now.unix_ms);
            if !opening.open {
                tell(Obstacle::WindowClosed, Lasts::Until(mono_ms(opening.until_ms, now)));
            }
        }
        if let Some(lasts) = lasts(self.room(entry, ANYBODY), now) {
            tell(Obstacle::Limit, lasts);
        }
        if let Some(lasts) = lasts(self.device_room(entry, device, ANYBODY), now) {
            tell(Obstacle::DeviceLimit, lasts);
        }
    }

    /// Whether it has failed and rests, or tries with single messages.
    pub(super) fn rests(&self, entry: &Entry) -> bool {
        self.paused(entry.route.sim).is_some() || self.gate(entry) != Gate::Yes
    }

    /// What its circuit lets through. Nearly all are closed, and the entry knows that: no look into the ledger then.
    fn gate(&self, entry: &Entry) -> Gate {
        if entry.closed {
            return Gate::Yes;
        }
        let circuit = self.ledger.circuit(&entry.route);
        circuit.map_or(Gate::Yes, |circuit| circuit.may_send(self.now.unix_ms, entry.used))
    }

    /// Until when a SIM rests (monotonic).
    pub(super) fn paused(&self, sim: SimId) -> Option<u64> {
        if self.pauses.is_empty() {
            return None;
        }
        self.pauses.get(&sim).map(|pause| pause.until_ms).filter(|until_ms| *until_ms > self.now.mono_ms)
    }

    /// Whether the route's next message would be a probe.
    pub(super) fn probes(&self, entry: &Entry) -> bool {
        self.gate(entry) == Gate::Probe
    }

    pub(super) fn room(&self, entry: &Entry, ask: Ask) -> Room {
        if !entry.terms.limited {
            return Room::Yes;
        }
        let counters = self.ledger.counters(Scope::Route(entry.route));
        let today = entry.calendar.at(&entry.terms.zone, self.now.unix_ms);
        let limits = warmed_up(&entry.settings.limits, entry.settings.warm_up.as_ref(), counters, today.day);
        room(&limits, counters, entry.segments, ask, &today)
    }

    pub(super) fn device_room(&self, entry: &Entry, device: &Device, ask: Ask) -> Room {
        if !entry.terms.device_limited {
            return Room::Yes;
        }
        let counters = self.ledger.counters(Scope::Device(entry.route.device));
        let today = entry.calendar.at(&entry.terms.zone, self.now.unix_ms);
        room(&entry.settings.device_limits, counters, device.segments, ask, &today)
    }

    pub(super) fn cost(&self, entry: &Entry, to_country: Option<&str>, segments: u8) -> Micros {
        let used = self.bundle_used(entry).saturating_add(entry.segments);
        cost(&entry.settings.price, segments, to_country, used)
    }

    /// What segments cost that have left: they are on their way no more.
    pub(super) fn charged(&self, entry: &Entry, to_country: Option<&str>, segments: u8) -> Micros {
        cost(&entry.settings.price, segments, to_country, self.bundle_used(entry))
    }

    /// Segments that the month's bundle has paid; nobody asks where there is none.
    fn bundle_used(&self, entry: &Entry) -> u32 {
        entry.settings.price.bundle_per_month.map_or(0, |_| {
            let month = entry.calendar.at(&entry.terms.zone, self.now.unix_ms).month;
            self.ledger.counters(Scope::Route(entry.route)).bundle_used(month)
        })
    }

    /// Obstacles that this message meets on a route that others may have no trouble with.
    pub(super) fn of_message(
        &self,
        candidate: &Candidate,
        tenant: &Tenant,
        entry: &Entry,
        device: &Device,
        tell: &mut impl FnMut(Obstacle, Lasts),
    ) {
        self.settled(candidate, entry, tell);
        if candidate.avoid == Some(entry.route) && !matches!(candidate.pin, Pin::Sim(_)) {
            tell(Obstacle::Avoided, Lasts::Away);
        }
        let limits = &entry.settings.limits;
        if candidate.segments > 1 || limits.recipients_per_month.is_some() {
            let recipient = recipient_hash(candidate.to.as_u64());
            let ask = Ask { segments: candidate.segments, recipient: Some(recipient) };
            if let Some(lasts) = lasts(self.room(entry, ask), self.now) {
                tell(Obstacle::Limit, lasts);
            }
        }
        if candidate.segments > 1 || entry.settings.device_limits.recipients_per_month.is_some() {
            let recipient = recipient_hash(candidate.to.as_u64());
            let ask = Ask { segments: candidate.segments, recipient: Some(recipient) };
            if let Some(lasts) = lasts(self.device_room(entry, device, ask), self.now) {
                tell(Obstacle::DeviceLimit, lasts);
            }
        }
        if candidate.max_cost.is_some() || tenant.stops_at.is_some() {
            self.of_money(candidate, tenant, entry, tell);
        }
    }

    /// What only settings can change: nobody has to wait for it.
    fn settled(&self, candidate: &Candidate, entry: &Entry, tell: &mut impl FnMut(Obstacle, Lasts)) {
        let terms = &entry.terms;
        if !terms.countries.is_empty() && !candidate.to.region().is_some_and(|is| terms.countries.contains(&is)) {
            tell(Obstacle::CountryNotServed, Lasts::Ever);
        }
        if candidate.unicode && !entry.settings.unicode {
            tell(Obstacle::UnicodeNotServed, Lasts::Ever);
        }
        if let Some(named) = candidate.sender {
            let shows = terms.sender.map_or(entry.is_provider(), |own| own == named);
            if !shows {
                tell(Obstacle::SenderNotServed, Lasts::Ever);
            }
        }
    }

    fn of_money(&self, candidate: &Candidate, tenant: &Tenant, entry: &Entry, tell: &mut impl FnMut(Obstacle, Lasts)) {
        let country = candidate.to.region();
        let cost = self.cost(entry, country.as_ref().map(|country| country.as_str()), candidate.segments);
        if candidate.max_cost.is_some_and(|most| candidate.spent.saturating_add(cost) > most) {
            // A bundle may pay it next month.
            let bundled = entry.settings.price.bundle_per_month.is_some();
            tell(Obstacle::MaxCost, if bundled { Lasts::Away } else { Lasts::Ever });
        }
        let Some(budget) = tenant.stops_at.filter(|_| cost > Micros::ZERO) else { return };
        let today = tenant.today(self.now);
        let spent = self.ledger.counters(Scope::Tenant(candidate.tenant)).cost(today.month).saturating_add(cost);
        if spent > budget {
            tell(Obstacle::Budget, Lasts::Until(mono_ms(today.next_month_ms, self.now)));
        } else if spent.saturating_add(Micros(tenant.flight_cost)) > budget {
            tell(Obstacle::Budget, Lasts::Busy);
        }
    }
}

/// Index of a class in everything that is kept for urgent messages and for others.
pub(super) fn kind(class: Priority) -> usize {
    usize::from(class != Priority::Urgent)
}

/// Whether the obstacle is about a limit of this name; for explanations.
pub(super) fn limits_in_the_way(
    view: &View<'_>,
    entry: &Entry,
    device: &Device,
    candidate: &Candidate,
    mut tell: impl FnMut(Obstacle, Limit, Room),
) {
    let ask = Ask { segments: candidate.segments, recipient: Some(recipient_hash(candidate.to.as_u64())) };
    let today = entry.calendar.at(&entry.terms.zone, view.now.unix_ms);
    let counters = view.ledger.counters(Scope::Route(entry.route));
    let limits = warmed_up(&entry.settings.limits, entry.settings.warm_up.as_ref(), counters, today.day);
    crate::limits::each(&limits, counters, entry.segments, ask, &today, |limit, room| {
        tell(Obstacle::Limit, limit, room)
    });
    let counters = view.ledger.counters(Scope::Device(entry.route.device));
    let own = &entry.settings.device_limits;
    crate::limits::each(own, counters, device.segments, ask, &today, |limit, room| {
        tell(Obstacle::DeviceLimit, limit, room)
    });
}
