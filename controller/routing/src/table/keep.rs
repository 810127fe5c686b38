//! How the lists follow what happens. Every event looks again at the routes that it concerns, and at no others: the route of
//! an attempt, and all routes of a device when something changes that they share.

use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::wire::Telemetry;

use super::blocks::{State, View, mono_ms};
use super::entry::{Device, Entry, Key, Mood};
use super::{KnownRoute, Marked, Pause, RouteDevice, RouteSim, Table};
use crate::Now;
use crate::circuit::Circuit;
use crate::fact::Fact;
use crate::health::Vitals;
use crate::ledger::{Applied, Scope};
use crate::limits::Ask;
use crate::route::Route;
use crate::settings::RouteSettings;

impl Table {
    /// A device or account is there, or has changed. What it carries stays counted.
    pub fn set_device(&mut self, device: RouteDevice, now: Now) {
        let known = self.devices.entry(device.device).or_insert_with(|| Device::away(device.tenant));
        let routes = known.routes.clone();
        known.tenant = device.tenant;
        known.online = true;
        known.window = device.window.max(1);
        known.accepts_work = device.accepts_work;
        known.ready = device.sims.iter().filter(|sim| sim.ready).count() as u16;
        for key in routes {
            if !self.lists(&device, key) {
                self.away(key, now);
            }
        }
        for sim in &device.sims {
            let route = Route { kind: device.kind, device: device.device, sim: sim.sim };
            let key = self.key_for(route, device.tenant, now);
            self.set_sim(key, sim, device.tenant, now);
        }
        self.refresh_device(device.device, now);
    }

    fn lists(&self, device: &RouteDevice, key: Key) -> bool {
        let sim = self.entries.get(key).map(|entry| entry.route.sim);
        device.sims.iter().any(|listed| Some(listed.sim) == sim)
    }

    fn set_sim(&mut self, key: Key, sim: &RouteSim, tenant: TenantId, now: Now) {
        self.by_sim.insert(sim.sim, key);
        let Some(entry) = self.entries.get_mut(key) else { return };
        let former_tenant = std::mem::replace(&mut entry.tenant, tenant);
        let changed = !entry.described || entry.settings != sim.settings;
        entry.online = true;
        entry.slot = sim.slot;
        entry.ready = sim.ready;
        entry.depth = sim.depth.max(1);
        if former_tenant != tenant {
            self.leave_tenant(key, former_tenant);
            self.tenant(tenant).routes.push(key);
        }
        if changed {
            self.settle(key, &sim.settings, now);
        }
        if changed || former_tenant != tenant {
            self.join(key, now);
        }
    }

    /// New settings of a route.
    fn settle(&mut self, key: Key, settings: &Arc<RouteSettings>, now: Now) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let flying = u64::from(entry.segments);
        let former = entry.terms.dearest.0.saturating_mul(flying);
        entry.set(Arc::clone(settings));
        let present = entry.terms.dearest.0.saturating_mul(flying);
        let (tenant, dearest) = (entry.tenant, entry.terms.dearest);
        let tenant = self.tenant(tenant);
        tenant.flight_cost = tenant.flight_cost.saturating_sub(former).saturating_add(present);
        tenant.dearest = tenant.dearest.max(dearest);
        self.note_stage(key, now, false);
    }

    pub fn remove_device(&mut self, device: DeviceId, now: Now) {
        let Some(known) = self.devices.get_mut(&device) else { return };
        known.online = false;
        known.accepts_work = false;
        known.ready = 0;
        for key in known.routes.clone() {
            self.away(key, now);
        }
    }

    /// A route is not there any more. It stays known for a while, with what is on its way on it.
    fn away(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.online) else { return };
        entry.online = false;
        entry.ready = false;
        entry.away_since_ms = now.mono_ms;
        entry.vitals = None;
        self.refresh(key, now);
    }

    /// What the catalog has of routes whose devices are away: they are known from then on, though they may never have been
    /// here. Those that are here have told their settings themselves.
    pub fn know(&mut self, routes: &[KnownRoute], now: Now) {
        for known in routes {
            let key = self.key_for(known.route, known.tenant, now);
            let Some(entry) = self.entries.get(key).filter(|entry| !entry.online && entry.tenant == known.tenant)
            else {
                continue;
            };
            self.by_sim.entry(known.route.sim).or_insert(key);
            if !entry.described || entry.settings != known.settings {
                self.settle(key, &known.settings, now);
                self.join(key, now);
                self.refresh(key, now);
            }
        }
    }

    /// A route's place in the table; an unknown one gets one.
    fn key_for(&mut self, route: Route, tenant: TenantId, now: Now) -> Key {
        if let Some(key) = self.by_route.get(&route) {
            return *key;
        }
        let dearest = self.tenant(tenant).dearest;
        let mut entry = Entry::away(route, tenant, dearest, now.mono_ms);
        entry.closed = self.is_closed(&route);
        let key = self.entries.insert(entry);
        self.by_route.insert(route, key);
        self.devices.entry(route.device).or_insert_with(|| Device::away(tenant)).routes.push(key);
        self.tenant(tenant).routes.push(key);
        self.join(key, now);
        self.refresh(key, now);
        key
    }

    fn forget(&mut self, key: Key) {
        let Some(entry) = self.entries.get(key) else { return };
        let (route, tenant) = (entry.route, entry.tenant);
        self.leave_tenant(key, tenant);
        self.entries.remove(key);
        self.by_route.remove(&route);
        if self.by_sim.get(&route.sim) == Some(&key) {
            self.by_sim.remove(&route.sim);
        }
        if let Some(device) = self.devices.get_mut(&route.device) {
            device.routes.retain(|known| *known != key);
            if device.routes.is_empty() && !device.online {
                self.devices.remove(&route.device);
            }
        }
    }

    /// Takes a route out of the lists of a tenant.
    fn leave_tenant(&mut self, key: Key, tenant: TenantId) {
        self.unlist(key, tenant);
        let tenant = self.tenant(tenant);
        tenant.routes.retain(|known| *known != key);
        tenant.forget_reach();
    }

    fn unlist(&mut self, key: Key, tenant: TenantId) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        let mut places = std::mem::take(&mut entry.places);
        let Some(tenant) = self.tenants.get_mut(&tenant) else { return };
        for place in &mut places {
            for kind in 0..2 {
                tenant.sets.set_busy(place, kind, false);
                if let Some(moved) = tenant.sets.leave(place, kind)
                    && let Some(other) = self.entries.get_mut(moved.key)
                {
                    moved.tell(&mut other.places);
                }
            }
        }
    }

    /// Gives a route its places in the sets of its tenant, as it and the plans are now. Sets that are gone need no leave.
    pub(super) fn join(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get(key) else { return };
        let tenant = entry.tenant;
        let pays = self.bundle_pays(entry, now);
        self.tenant(tenant);
        self.unlist(key, tenant);
        let Some(entry) = self.entries.get_mut(key) else { return };
        let Some(tenant) = self.tenants.get_mut(&tenant) else { return };
        tenant.dearest = tenant.dearest.max(entry.terms.dearest);
        entry.terms.price = tenant.price_number(&entry.settings.price, pays);
        entry.places = tenant.sets.join(&entry.route, &entry.settings, entry.terms.price);
        tenant.forget_reach();
    }

    /// Whether the month's bundle still has a segment.
    fn bundle_pays(&self, entry: &Entry, now: Now) -> bool {
        entry.settings.price.bundle_per_month.is_some_and(|bundle| {
            let month = entry.calendar.at(&entry.terms.zone, now.unix_ms).month;
            let used = self.ledger.counters(Scope::Route(entry.route)).bundle_used(month);
            used.saturating_add(entry.segments) < bundle
        })
    }

    /// An attempt of so many segments begins on a route: dispatched, or found on its way. Once for each, whether the device is
    /// there or not. `recipient` is [`crate::fact::recipient_hash`]. Zero segments take a place only: for attempts that are
    /// charged already (release those with zero segments too), and for those that nobody knows.
    pub fn reserve(&mut self, route: Route, tenant: TenantId, segments: u8, recipient: u64, now: Now) {
        let key = self.key_for(route, tenant, now);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.used += 1;
        entry.segments += u32::from(segments);
        let cost = entry.terms.dearest.times(segments);
        if let Some(device) = self.devices.get_mut(&route.device) {
            device.used += 1;
            device.segments += u32::from(segments);
        }
        let known = self.tenant(tenant);
        known.segments += u32::from(segments);
        known.flight_cost = known.flight_cost.saturating_add(cost.0);
        if segments > 0 {
            *known.flying.entry(recipient).or_default() += 1;
        }
        self.touch(key, now);
    }

    /// The attempt has landed, or is charged from now on instead: then reserve its place again with zero segments.
    pub fn release(&mut self, route: Route, tenant: TenantId, segments: u8, recipient: u64, now: Now) {
        let Some(key) = self.by_route.get(&route).copied() else { return };
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.used = entry.used.saturating_sub(1);
        entry.segments = entry.segments.saturating_sub(u32::from(segments));
        let cost = entry.terms.dearest.times(segments);
        if let Some(device) = self.devices.get_mut(&route.device) {
            device.used = device.used.saturating_sub(1);
            device.segments = device.segments.saturating_sub(u32::from(segments));
        }
        let known = self.tenant(tenant);
        known.segments = known.segments.saturating_sub(u32::from(segments));
        known.flight_cost = known.flight_cost.saturating_sub(cost.0);
        if segments > 0
            && let Some(flying) = known.flying.get_mut(&recipient)
        {
            *flying -= 1;
            if *flying == 0 {
                known.flying.remove(&recipient);
            }
        }
        if known.waits.take() {
            self.marked.push(Marked::Tenant(tenant));
        }
        self.touch(key, now);
    }

    /// What the journal says about a route.
    pub fn fact(&mut self, fact: &Fact, now: Now) -> Applied {
        let applied = self.ledger.apply(fact);
        match fact {
            Fact::Charged { tenant, charge } => self.was_charged(*tenant, charge.route, now),
            Fact::Outcome { route, .. } => self.had_outcome(*route, applied, now),
        }
        applied
    }

    fn was_charged(&mut self, tenant: TenantId, route: Route, now: Now) {
        self.charged(tenant, now);
        let Some(key) = self.by_route.get(&route).copied() else { return };
        let Some(entry) = self.entries.get(key).filter(|entry| !entry.is_unlimited()) else { return };
        if entry.settings.warm_up.is_some() {
            self.note_stage(key, now, true);
        }
        self.touch(key, now);
    }

    fn had_outcome(&mut self, route: Route, applied: Applied, now: Now) {
        let Some(key) = self.by_route.get(&route).copied() else { return };
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.score.set(Default::default());
        // Of what an outcome changes, only the circuit decides about room.
        if entry.closed && applied == Applied::default() {
            return;
        }
        let tenant = entry.tenant;
        let closed = self.is_closed(&route);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.closed = closed;
        }
        self.note_applied(tenant, route, applied);
        self.touch(key, now);
    }

    /// Whether a route's circuit is closed.
    pub(super) fn is_closed(&self, route: &Route) -> bool {
        self.ledger.circuit(route).is_none_or(Circuit::is_closed)
    }

    /// What a device says about itself and its SIMs.
    pub fn telemetry(&mut self, device: DeviceId, telemetry: &Telemetry, now: Now) {
        let Some(device) = self.devices.get(&device) else { return };
        for key in device.routes.clone() {
            let Some(entry) = self.entries.get_mut(key).filter(|entry| entry.online) else { continue };
            entry.vitals = Some(Vitals::of(telemetry, entry.slot, now.unix_ms));
            entry.score.set(Default::default());
            self.note_score(key, now);
        }
    }

    /// Rests a SIM that could not send; answers until when (monotonic).
    pub fn pause(&mut self, sim: SimId, now: Now) -> u64 {
        let settings = self.settings;
        let pause = self.pauses.entry(sim).or_insert(Pause { level: 0, until_ms: 0 });
        if pause.until_ms <= now.mono_ms {
            let length = settings.pause_min_ms.saturating_mul(1 << pause.level.min(30)).min(settings.pause_max_ms);
            *pause = Pause { level: pause.level.saturating_add(1), until_ms: now.mono_ms + length };
        }
        let until_ms = pause.until_ms;
        if let Some(key) = self.by_sim.get(&sim).copied() {
            self.refresh(key, now);
        }
        until_ms
    }

    /// A SIM has sent: the next pause is a short one again.
    pub fn succeeded(&mut self, sim: SimId, now: Now) {
        if !self.pauses.is_empty() && self.pauses.get(&sim).is_some_and(|pause| pause.until_ms <= now.mono_ms) {
            self.pauses.remove(&sim);
        }
    }

    /// When something happens by itself next (monotonic).
    pub fn next_deadline(&self) -> Option<u64> {
        self.deadlines.first()
    }

    /// Does what time does, and tells who is to be served again, by that and by all that has happened since this was asked
    /// last.
    pub fn advance(&mut self, now: Now, marked: &mut Vec<Marked>) {
        while let Some((at_ms, key)) = self.deadlines.next(now.mono_ms) {
            let Some(entry) = self.entries.get_mut(key) else { continue };
            if entry.scheduled_ms == Some(at_ms) {
                entry.scheduled_ms = None;
            }
            let away = !entry.online && entry.used == 0;
            if away && now.mono_ms.saturating_sub(entry.away_since_ms) >= self.settings.forget_after_ms {
                self.forget(key);
                continue;
            }
            self.note_score(key, now);
            self.touch(key, now);
        }
        for mark in &self.marked {
            if let Marked::Route { route, .. } = mark
                && let Some(entry) = self.by_route.get(route).and_then(|key| self.entries.get_mut(*key))
            {
                entry.marked = false;
            }
        }
        marked.append(&mut self.marked);
    }

    /// Looks at a route again, and at all of its device when something has changed that they share.
    fn touch(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get(key) else { return };
        let id = entry.route.device;
        let Some(mood) = self.mood(entry, now) else { return };
        let Some(device) = self.devices.get_mut(&id) else { return };
        if device.mood == mood || device.routes.len() == 1 {
            device.mood = mood;
            self.refresh(key, now);
        } else {
            self.refresh_device(id, now);
        }
    }

    fn mood(&self, entry: &Entry, now: Now) -> Option<Mood> {
        let device = self.devices.get(&entry.route.device)?;
        let view = View { ledger: &self.ledger, pauses: &self.pauses, now };
        let limits = view.device_room(entry, device, Ask { segments: 1, recipient: None });
        Some(Mood { has_place: [device.has_place(0), device.has_place(1)], limits })
    }

    fn refresh_device(&mut self, id: DeviceId, now: Now) {
        let Some(device) = self.devices.get(&id) else { return };
        let routes = device.routes.clone();
        let there = routes.iter().filter_map(|key| self.entries.get(*key)).find(|entry| entry.online);
        let mood = there.and_then(|entry| self.mood(entry, now));
        if let Some((device, mood)) = self.devices.get_mut(&id).zip(mood) {
            device.mood = mood;
        }
        for key in routes {
            self.refresh(key, now);
        }
    }

    /// Looks at a route again: which lists it belongs to, and when that may change by itself.
    pub(super) fn refresh(&mut self, key: Key, now: Now) {
        self.refresh_price(key, now);
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.calendar = entry.calendar.at(&entry.terms.zone, now.unix_ms);
        let Some(device) = self.devices.get(&entry.route.device) else { return };
        let view = View { ledger: &self.ledger, pauses: &self.pauses, now };
        let states = view.states(entry, device);
        // Nobody waits for a route that has just failed, however short its rest: the next step is there for that.
        let rests = view.rests(entry);
        let Some(tenant) = self.tenants.get_mut(&entry.tenant) else { return };
        let mut wake_ms = match states {
            [State::Shut, State::Shut] => None,
            _ => entry.closes_at(now),
        };
        let mut places = std::mem::take(&mut entry.places);
        let (mut entered, mut unusable, mut moves) = (false, false, smallvec::SmallVec::<[_; 4]>::new());
        for place in &mut places {
            for (kind, state) in states.iter().enumerate() {
                let patience_ms = tenant.sets.patience_ms(place.set, kind);
                let soon = match state {
                    State::Open | State::Shut => false,
                    State::Busy => true,
                    State::Until(at_ms) => {
                        let from_ms = at_ms.saturating_sub(patience_ms);
                        let next_ms = if from_ms > now.mono_ms { from_ms } else { *at_ms };
                        wake_ms = Some(wake_ms.map_or(next_ms, |known| known.min(next_ms)));
                        from_ms <= now.mono_ms
                    }
                };
                let soon = soon && !rests;
                unusable |= tenant.sets.set_busy(place, kind, soon) && *state != State::Open;
                if *state == State::Open {
                    entered |= !place.has_room(kind);
                    tenant.sets.enter(place, kind, key);
                } else {
                    moves.extend(tenant.sets.leave(place, kind));
                }
            }
        }
        // Pinned messages may use it though no plan does.
        for state in states {
            if let State::Until(at_ms) = state {
                wake_ms = Some(wake_ms.map_or(at_ms, |known| known.min(at_ms)));
            }
        }
        let opened = states.map(|state| state == State::Open);
        entered |= (0..2).any(|kind| opened[kind] && !entry.open[kind]);
        entry.open = opened;
        entry.places = places;
        if !entry.online {
            let forgotten_ms = entry.away_since_ms.saturating_add(self.settings.forget_after_ms);
            self.deadlines.set_exactly(key, forgotten_ms.max(now.mono_ms + 1), &mut entry.scheduled_ms);
        } else if let Some(wake_ms) = wake_ms {
            self.deadlines.set(key, wake_ms, &mut entry.scheduled_ms, now.mono_ms);
        }
        if entered && !entry.marked {
            entry.marked = true;
            self.marked.push(Marked::Route { tenant: entry.tenant, route: entry.route });
        }
        if unusable {
            // Who waited for the last route of a step goes on to the next.
            self.marked.push(Marked::Tenant(entry.tenant));
        }
        for moved in moves {
            if let Some(other) = self.entries.get_mut(moved.key) {
                moved.tell(&mut other.places);
            }
        }
    }

    /// A bundle that is used up, or begins anew, makes another price.
    fn refresh_price(&mut self, key: Key, now: Now) {
        let Some(entry) = self.entries.get(key).filter(|entry| entry.settings.price.bundle_per_month.is_some()) else {
            return;
        };
        let pays = self.bundle_pays(entry, now);
        if self.entries.get(key).is_some_and(|entry| entry.bundle_pays != pays) {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.bundle_pays = pays;
            }
            self.join(key, now);
        }
    }
}

impl Entry {
    /// When its send window closes (monotonic).
    fn closes_at(&self, now: Now) -> Option<u64> {
        if self.terms.hours.is_always() {
            return None;
        }
        let opening = self.terms.hours.at(now.unix_ms);
        opening.open.then(|| mono_ms(opening.until_ms, now))
    }
}
