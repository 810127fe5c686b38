//! Devices come, list what they hold, change, and go.

use flotilla_protocol::id::{DeviceId, SimId};
use flotilla_protocol::wire::{Attempt, Down, ErrorClass, Held};
use smallvec::smallvec;

use super::dispatch::{Left, failure};
use super::fleet::{Device, Flight, Grant};
use super::io::{Link, RouteSim};
use super::message::Message;
use super::slots::Slot;
use super::timers::Timer;
use super::{Machine, Now};
use crate::domain::event::Change;
use crate::domain::facts::codes;
use crate::domain::message::{Duplicates, MessageState, Priority, Route, RouteKind};

impl Machine {
    pub(super) fn device_up(&mut self, link: Link, now: Now) {
        let id = link.device;
        match self.devices.get(&id).and_then(|device| device.session) {
            Some(session) if session > link.session => return,
            Some(session) => self.device_down(id, session, now),
            None => {}
        }
        // A device that has obeyed a later leader refuses this one's work, so it gets none.
        let accepts_work = link.accepts_work && link.epoch_seen <= self.epoch;
        let device = self.devices.entry(id).or_insert_with(|| Device::offline(link.kind, link.tenant));
        device.tenant = link.tenant;
        device.connect(&link, accepts_work);
        let routes = device.routes(id);
        self.routes.set_device(routes, now);
    }

    pub(super) fn device_changed(
        &mut self,
        id: DeviceId,
        session: u64,
        sims: &[RouteSim],
        accepts_work: bool,
        now: Now,
    ) {
        let Some(device) = self.session_mut(id, session) else { return };
        device.change(sims, accepts_work);
        let routes = device.routes(id);
        self.routes.set_device(routes, now);
        self.call_back(id, accepts_work, now);
        for sim in sims {
            self.grant(id, sim.sim, now);
        }
    }

    pub(super) fn device_down(&mut self, id: DeviceId, session: u64, now: Now) {
        let Some(device) = self.session_mut(id, session) else { return };
        device.disconnect();
        self.routes.remove_device(id, now);
        let Some(device) = self.devices.get(&id) else { return };
        let mut flights: Vec<(Attempt, Flight)> = device.flights.iter().map(|(a, f)| (*a, *f)).collect();
        // Each goes to the front of its lane: the youngest first, so that the oldest ends up in front.
        flights.sort_unstable_by_key(|(attempt, _)| std::cmp::Reverse(*attempt));
        for (attempt, flight) in flights {
            self.link_lost(id, attempt, flight, now);
        }
        self.forget_if_idle(id);
    }

    /// What becomes of an attempt whose device is gone.
    fn link_lost(&mut self, id: DeviceId, attempt: Attempt, flight: Flight, now: Now) {
        let slot = flight.message;
        let current = slot.filter(|slot| self.is_current(*slot, attempt));
        let current = current.and_then(|slot| Some((slot, self.messages.get(slot)?)));
        let Some((slot, state, duplicates)) = current.map(|(slot, message)| (slot, message.state, message.duplicates))
        else {
            // The message has ended or moved: nobody asks for this attempt any more.
            self.land(id, attempt, now);
            return;
        };
        self.routes.pause(flight.sim, now);
        let Some(route) = self.devices.get(&id).map(|device| device.route(id, flight.sim)) else { return };
        if flight.grant == Grant::No {
            self.land(id, attempt, now);
            let why = failure(ErrorClass::Route, codes::LINK_LOST, "the device went away before it was told to send");
            return self.give_back(slot, why, 0, now);
        }
        match duplicates {
            Duplicates::Never if state == MessageState::Dispatching => {
                let segments = self.messages.get(slot).map(|message| message.segments);
                let left = segments.map(|segments| Left::until_lease(segments, &flight, now));
                self.record_left(slot, Change::Doubted { attempt: attempt.number, route, lost: false }, left, now);
            }
            Duplicates::Never => {}
            Duplicates::Allowed => self.timers.at_mono(flight.lease_ms, Timer::Lease(slot)),
        }
    }

    /// A device lists the attempts that it has no result for.
    pub(super) fn held(&mut self, id: DeviceId, session: u64, held: &[Held], last: bool, now: Now) {
        // Results were refused before it: the device is asked for everything again, and lists again after that.
        if self.session_mut(id, session).is_none_or(|device| !device.log.is_complete()) {
            return;
        }
        for one in held {
            self.held_one(id, *one, now);
        }
        if !last {
            return;
        }
        let Some(device) = self.devices.get_mut(&id) else { return };
        device.settled = true;
        let routes = device.routes(id);
        let sims: Vec<SimId> = device.sims.iter().map(|sim| sim.sim).collect();
        let carried = device.flights.iter().filter(|(_, flight)| flight.carried);
        let missing: Vec<(Attempt, Option<Slot>)> =
            carried.map(|(attempt, flight)| (*attempt, flight.message)).collect();
        self.routes.set_device(routes, now);
        for (attempt, slot) in missing {
            self.land(id, attempt, now);
            let Some(slot) = slot.filter(|slot| self.is_current(*slot, attempt)) else { continue };
            match self.messages.get(slot).and_then(|message| message.route) {
                // The process that knew what became of it is gone.
                Some(route) if route.is_provider() => self.unknown(slot, route, now),
                _ => {
                    let why = failure(ErrorClass::Route, codes::NEVER_ARRIVED, "the device never got it");
                    self.give_back(slot, why, 0, now);
                }
            }
        }
        for sim in sims {
            self.grant(id, sim, now);
        }
    }

    fn held_one(&mut self, id: DeviceId, held: Held, now: Now) {
        let attempt = held.attempt;
        let slot = self.ids.get(&attempt.message).copied();
        let message = slot.and_then(|slot| self.messages.get(slot));
        let here = |route: Option<Route>| route.is_some_and(|route| route.device == id);
        let wanted = message.filter(|message| message.has(attempt) && here(message.route) && !message.cancel_asked);
        let wanted = wanted.map(|message| (message.lane, message.route.map(|route| route.sim)));
        let weight = message.map_or((0, 0), Message::weight);
        let Some(device) = self.devices.get_mut(&id) else { return };
        let first_sim = device.sims.first().map(|sim| sim.sim);
        let known = device.flights.get_mut(&attempt);
        let is_new = known.is_none();
        let (sim, class) = match (&known, wanted) {
            (Some(flight), _) => (flight.sim, flight.class),
            (None, Some((lane, Some(sim)))) => (sim, self.lanes.get(lane).key.class),
            // It occupies the device until it is given up there; which SIM does not matter.
            (None, _) => (first_sim.unwrap_or(SimId::from_bytes([0; 16])), Priority::Bulk),
        };
        // What an account has is under way, or will be without another word.
        let sending = held.sending || device.kind == RouteKind::Provider;
        let grant = if sending { Grant::Yes } else { Grant::Earlier };
        if let Some(flight) = known {
            if !flight.carried {
                return;
            }
            flight.carried = false;
            flight.grant = grant;
        } else {
            let (segments, recipient) = weight;
            let flight = Flight { sim, class, message: slot, grant, carried: false, lease_ms: 0, segments, recipient };
            device.flights.insert(attempt, flight);
        }
        if sending {
            if let Some(sim) = device.sim_mut(sim) {
                sim.granted += 1;
            }
        } else if wanted.is_some() {
            device.wait(sim, class, attempt);
            if device.sim(sim).is_none() {
                // Nothing to wait for: it answers that it has no such SIM.
                let send_within_ms = self.settings.send_within_ms;
                device.send(Down::Go { attempts: smallvec![attempt], sent_ms: now.mono_ms, send_within_ms });
            }
        }
        if is_new {
            let (route, tenant) = (device.route(id, sim), device.tenant);
            self.routes.reserve(route, tenant, weight.0, weight.1, now);
        }
        if wanted.is_none() {
            self.post(id, Down::Cancel { attempts: smallvec![attempt] });
        }
    }

    /// Takes back what waits ungranted where it cannot be sent now: on a drained device, on a SIM that is not ready.
    fn call_back(&mut self, id: DeviceId, accepts_work: bool, now: Now) {
        let Some(device) = self.devices.get(&id) else { return };
        let stuck = |flight: &Flight| {
            let ready = device.sim(flight.sim).is_some_and(|sim| sim.ready);
            flight.grant == Grant::No && (!accepts_work || !ready)
        };
        let flights = device.flights.iter().filter(|(_, flight)| stuck(flight));
        let waiting: Vec<(Attempt, Option<Slot>)> =
            flights.map(|(attempt, flight)| (*attempt, flight.message)).collect();
        for (attempt, slot) in waiting {
            if let Some(slot) = slot.filter(|slot| self.is_current(*slot, attempt)) {
                self.post(id, Down::Cancel { attempts: smallvec![attempt] });
                let why = failure(ErrorClass::Route, codes::CALLED_BACK, "the device or SIM takes no more work");
                self.give_back(slot, why, 0, now);
            }
        }
    }

    /// A message that came into memory with an open attempt: nobody knows any more whether it was granted.
    pub(super) fn resume_flight(&mut self, slot: Slot, now: Now) {
        let Some(message) = self.messages.get(slot).filter(|message| message.is_in_flight() && !message.lost) else {
            return;
        };
        let Some(route) = message.route else { return };
        let attempt = Attempt { message: message.id, number: message.attempt };
        let key = &self.lanes.get(message.lane).key;
        let lease_ms = now.mono_ms + u64::from(self.settings.send_within_ms) + self.settings.lease_margin_ms;
        let (sim, class, tenant) = (route.sim, key.class, key.tenant);
        let device = self.devices.entry(route.device).or_insert_with(|| Device::offline(route.kind, key.tenant));
        let (segments, recipient) = message.weight();
        let flight = Flight {
            sim,
            class,
            message: Some(slot),
            grant: Grant::Earlier,
            carried: true,
            lease_ms,
            segments,
            recipient,
        };
        device.flights.insert(attempt, flight);
        self.timers.at_mono(lease_ms, Timer::Lease(slot));
        self.routes.reserve(route, tenant, flight.segments, flight.recipient, now);
    }

    /// A device without a link and without attempts is nothing to remember.
    pub(super) fn forget_if_idle(&mut self, id: DeviceId) {
        if self.devices.get(&id).is_some_and(|device| device.session.is_none() && device.flights.is_empty()) {
            self.devices.remove(&id);
        }
    }

    /// Whether this is the open attempt of the message.
    fn is_current(&self, slot: Slot, attempt: Attempt) -> bool {
        self.messages.get(slot).is_some_and(|message| message.has(attempt))
    }

    pub(super) fn session_mut(&mut self, id: DeviceId, session: u64) -> Option<&mut Device> {
        self.devices.get_mut(&id).filter(|device| device.session == Some(session))
    }
}
