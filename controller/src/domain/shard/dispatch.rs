//! Which message goes next, and where; grants; and the way back to the queue.
//!
//! Whatever may change the answer (a message is queued, a place gets free, a device or SIM comes) marks the targets that it
//! concerns, and only those are served. So every marked target is served until it is empty or has no room, class by class
//! over all of them: a free place always goes to the highest class that can use it. The same holds for grants on a device.

use flotilla_protocol::id::{DeviceId, SimId};
use flotilla_protocol::wire::{Attempt, Dispatch, Down, ErrorClass};
use flotilla_routing::choice::Why;
use smallvec::{SmallVec, smallvec};

use super::fleet::{Flight, Grant};
use super::residency::Stage;
use super::settings::ATTEMPTS_MAX;
use super::slots::Slot;
use super::timers::Timer;
use super::{Machine, Now};
use crate::domain::event::Change;
use crate::domain::message::{Failure, MessageState, Pin, Priority, Route};
use crate::domain::route::{Candidate, Choice};

/// How long a message that cannot use the room there is waits for other room.
const SET_ASIDE_MS: u64 = 5_000;

enum Served {
    One,
    Empty,
    NoRoom,
}

pub(super) fn failure(class: ErrorClass, code: &str, text: &str) -> Failure {
    Failure { class, code: code.into(), text: text.into() }
}

impl Machine {
    /// Dispatches what can go.
    pub(super) fn serve(&mut self, now: Now) {
        let mut targets = self.lanes.take_marked();
        for class in Priority::ALL {
            if targets.is_empty() {
                return;
            }
            let mut without_room: SmallVec<[Slot; 4]> = SmallVec::new();
            let mut asked: SmallVec<[Slot; 4]> = SmallVec::from_slice(&targets);
            while !asked.is_empty() {
                asked.retain(|target| match self.serve_one(*target, class, now) {
                    Served::One => true,
                    Served::Empty => false,
                    Served::NoRoom => {
                        without_room.push(*target);
                        false
                    }
                });
            }
            targets.retain(|target| !without_room.contains(target));
        }
    }

    fn serve_one(&mut self, target: Slot, class: Priority, now: Now) -> Served {
        loop {
            let messages = &self.messages;
            let queued = |slot| messages.get(slot).is_some_and(|message| message.state == MessageState::Queued);
            let Some(slot) = self.lanes.head(target, class, queued) else { return Served::Empty };
            let Some(message) = self.messages.get(slot) else { return Served::Empty };
            if message.expires_ms <= now.unix_ms {
                self.expire(slot, now);
                continue;
            }
            let key = &self.lanes.get(message.lane).key;
            let avoid = message.route.filter(|_| message.avoid_until_ms > now.mono_ms);
            let candidate = Candidate {
                tenant: key.tenant,
                class,
                pin: key.pin,
                to: message.to,
                segments: message.segments,
                avoid: avoid.map(|route| route.sim),
            };
            match self.routes.choose(&candidate) {
                Choice::Take(route) => {
                    self.lanes.served(target, class, candidate.segments);
                    self.dispatch(slot, class, route, now);
                    return Served::One;
                }
                Choice::Wait => return Served::NoRoom,
                Choice::Unfit => {
                    self.lanes.set_aside(target, class);
                    self.sleep(slot, SET_ASIDE_MS, now);
                }
            }
        }
    }

    /// The intent is an event; the frame leaves when it is committed.
    fn dispatch(&mut self, slot: Slot, class: Priority, route: Route, now: Now) {
        let device = self.devices.get_mut(&route.device).expect("a route is on a device that is known");
        let session = device.session.expect("a route is on a device with a link");
        let sim = device.sim_mut(route.sim).expect("a route is on a SIM of its device");
        let Some(message) = self.messages.get(slot) else { return };
        let attempt = Attempt { message: message.id, number: message.attempt + 1 };
        let send_within_ms = lease_ms(self.settings.send_within_ms, message.expires_ms, now);
        let granted = sim.has_free_grant();
        let frame = Dispatch {
            attempt,
            epoch: self.epoch,
            slot: sim.slot,
            to: message.to,
            body: message.body.clone(),
            encoding: message.encoding,
            flash: message.flash,
            report: true,
            validity_s: (message.expires_ms.saturating_sub(now.unix_ms) / 1_000).clamp(1, u64::from(u32::MAX)) as u32,
            sent_ms: now.mono_ms,
            send_within_ms,
            granted,
        };
        let flight = Flight {
            sim: route.sim,
            class,
            message: Some(slot),
            grant: if granted { Grant::Yes } else { Grant::No },
            carried: false,
            lease_ms: now.mono_ms + u64::from(send_within_ms) + self.settings.lease_margin_ms,
        };
        sim.granted += u16::from(granted);
        device.flights.insert(attempt, flight);
        if !granted {
            device.wait(route.sim, class, attempt);
        }
        self.routes.occupy(route);
        self.post(route.device, Down::Dispatch(frame));
        self.record(slot, Change::Dispatched { attempt: attempt.number, route, session, why: Why::default() }, now);
    }

    /// Grants what waits on a SIM, as far as it has places: these are known when the device has listed what it holds.
    pub(super) fn grant(&mut self, id: DeviceId, sim: SimId, now: Now) {
        let Some(device) = self.devices.get_mut(&id).filter(|device| device.settled) else { return };
        while let Some(attempt) = device.sim_mut(sim).and_then(|sim| sim.next_waiting()) {
            let Some(flight) = device.flights.get_mut(&attempt) else { continue };
            if flight.grant == Grant::Yes || flight.sim != sim {
                continue;
            }
            let message = flight.message.and_then(|slot| self.messages.get(slot));
            let Some(message) = message.filter(|message| message.has(attempt)) else { continue };
            if message.cancel_asked || message.expires_ms <= now.unix_ms {
                continue;
            }
            let send_within_ms = lease_ms(self.settings.send_within_ms, message.expires_ms, now);
            flight.grant = Grant::Yes;
            flight.lease_ms = now.mono_ms + u64::from(send_within_ms) + self.settings.lease_margin_ms;
            if let Some(sim) = device.sim_mut(sim) {
                sim.granted += 1;
            }
            device.send(Down::Go { attempts: smallvec![attempt], sent_ms: now.mono_ms, send_within_ms });
            if !device.touched {
                device.touched = true;
                self.touched.push(id);
            }
        }
    }

    /// An attempt has left its device: its place and its grant are free for the next one.
    pub(super) fn land(&mut self, id: DeviceId, attempt: Attempt, now: Now) -> Option<Flight> {
        let device = self.devices.get_mut(&id)?;
        let flight = device.flights.remove(&attempt)?;
        if flight.grant == Grant::Yes
            && let Some(sim) = device.sim_mut(flight.sim)
        {
            sim.granted = sim.granted.saturating_sub(1);
        }
        self.routes.release(Route::sim(id, flight.sim));
        self.grant(id, flight.sim, now);
        self.mark_routes(id, flight.sim);
        Some(flight)
    }

    /// There may be room on a SIM.
    pub(super) fn mark_routes(&mut self, id: DeviceId, sim: SimId) {
        let Some(device) = self.devices.get(&id) else { return };
        for pin in [Pin::Sim(sim), Pin::Device(id), Pin::Any] {
            self.lanes.mark_pin(device.tenant, pin);
        }
    }

    /// The SIM could not send, or its device is unreliable: it rests, longer each time until it sends again.
    pub(super) fn pause(&mut self, sim: SimId, now: Now) {
        let until_ms = self.routes.pause(sim, now.mono_ms);
        self.timers.at_mono(until_ms, Timer::Resume(sim));
    }

    /// Takes back an attempt that was not sent, or may be repeated: at once, or after a delay.
    pub(super) fn give_back(&mut self, slot: Slot, why: Failure, delay_ms: u64, now: Now) {
        let Some(message) = self.messages.get(slot) else { return };
        let Some(route) = message.route else { return };
        let attempt = message.attempt;
        if message.cancel_asked {
            return self.record(slot, Change::Cancelled, now);
        }
        if attempt >= ATTEMPTS_MAX {
            let why =
                failure(why.class, "attempts-used-up", &format!("{ATTEMPTS_MAX} attempts; the last: {}", why.code));
            return self.record(slot, Change::Failed { attempt, route: Some(route), why, undelivered: false }, now);
        }
        let lane = message.lane;
        self.record(
            slot,
            Change::Returned { attempt, route, why, retry_ms: now.unix_ms + delay_ms, undelivered: false },
            now,
        );
        if delay_ms > 0 {
            self.sleep(slot, delay_ms, now);
        } else {
            self.lanes.push(lane, slot, true);
        }
    }

    /// A queued message that is in no lane waits.
    pub(super) fn sleep(&mut self, slot: Slot, for_ms: u64, now: Now) {
        let Some(message) = self.messages.get_mut(slot) else { return };
        let wake_ms = now.mono_ms + for_ms;
        message.wake_ms = Some(wake_ms);
        let key = &self.lanes.get(message.lane).key;
        let (tenant, class) = (key.tenant, key.class);
        self.residency.leave(tenant, class, Stage::Ready);
        self.residency.enter(tenant, class, Stage::Asleep);
        self.timers.at_mono(wake_ms, Timer::Wake(slot));
        self.refill(tenant, class);
    }

    /// Its wait is over.
    pub(super) fn wake(&mut self, slot: Slot, now: Now) {
        let Some(message) = self.messages.get_mut(slot) else { return };
        if message.wake_ms.is_none_or(|at| at > now.mono_ms) {
            return;
        }
        message.wake_ms = None;
        let lane = message.lane;
        let key = &self.lanes.get(lane).key;
        let (tenant, class) = (key.tenant, key.class);
        self.residency.leave(tenant, class, Stage::Asleep);
        self.residency.enter(tenant, class, Stage::Ready);
        self.lanes.push(lane, slot, true);
    }
}

/// A grant does not outlive the message.
fn lease_ms(send_within_ms: u32, expires_ms: u64, now: Now) -> u32 {
    expires_ms.saturating_sub(now.unix_ms).min(u64::from(send_within_ms)) as u32
}
