//! Which message goes next, and where; grants; and the way back to the queue.
//!
//! Whatever may change the answer (a message is queued, a place gets free, a device or SIM comes) marks the targets that it
//! concerns, and only those are served. So every marked target is served until it is empty or has no room, class by class
//! over all of them: a free place always goes to the highest class that can use it. The same holds for grants on a device.

use flotilla_protocol::id::{DeviceId, SimId};
use flotilla_protocol::wire::{Attempt, Dispatch, Down, ErrorClass};
use flotilla_routing::choice::{Candidate, Choice, Why};
use flotilla_routing::fact::recipient_hash;
use flotilla_routing::ledger::AHEAD_MS;
use flotilla_routing::table::Marked;
use smallvec::{SmallVec, smallvec};

use super::fleet::{Flight, Grant};
use super::message::Message;
use super::residency::Stage;
use super::settings::ATTEMPTS_MAX;
use super::slots::{Slot, Slots};
use super::timers::Timer;
use super::{Machine, Now};
use crate::domain::event::Change;
use crate::domain::facts::codes;
use crate::domain::message::{Failure, MessageState, Pin, Priority, Route};

/// Messages of a class that are roused one after the other and find that the room is not for them, before the next class has
/// its turn.
const IN_VAIN_MAX: u32 = 8;

enum Served {
    One,
    /// Nothing of this class can go now; perhaps something of a lower one can.
    Empty,
    /// No room, for lower classes neither.
    NoRoom,
}

pub(super) fn failure(class: ErrorClass, code: &str, text: &str) -> Failure {
    Failure { class, code: code.into(), text: text.into() }
}

impl Machine {
    /// Dispatches what can go. Whether there was anybody to serve.
    pub(super) fn serve(&mut self, now: Now) -> bool {
        let with_room = self.lanes.take_with_room();
        for target in &with_room {
            for class in Priority::ALL {
                self.rouse_one(*target, class);
            }
        }
        let mut targets = self.lanes.take_marked();
        let somebody = !targets.is_empty();
        for class in Priority::ALL {
            if targets.is_empty() {
                break;
            }
            let mut without_room: SmallVec<[Slot; 4]> = SmallVec::new();
            let mut asked: SmallVec<[Slot; 4]> = SmallVec::from_slice(&targets);
            let mut in_vain = 0;
            while !asked.is_empty() {
                asked.retain(|target| match self.serve_one(*target, class, now) {
                    Served::One => {
                        in_vain = 0;
                        true
                    }
                    // Before lower classes take what room is left, others of this one may have a use for it.
                    Served::Empty if class < Priority::Bulk && in_vain < IN_VAIN_MAX && with_room.contains(target) => {
                        in_vain += 1;
                        self.rouse_one(*target, class)
                    }
                    Served::Empty => false,
                    Served::NoRoom => {
                        without_room.push(*target);
                        false
                    }
                });
            }
            targets.retain(|target| !without_room.contains(target));
        }
        somebody
    }

    fn serve_one(&mut self, target: Slot, class: Priority, now: Now) -> Served {
        self.serve_before(target, class, None, now)
    }

    /// `behind_ms`: a message of a lower class has waited since then (monotonic), and goes on to a later step of the plan if
    /// nobody goes before it. Whoever does has as little patience left.
    fn serve_before(&mut self, target: Slot, class: Priority, behind_ms: Option<u64>, now: Now) -> Served {
        let mut turn = None;
        loop {
            let messages = &self.messages;
            let head = self.lanes.head(target, class, |lane, slot| is_ready(messages, lane, slot));
            let Some((slot, message)) = head.and_then(|slot| Some((slot, messages.get(slot)?))) else {
                return Served::Empty;
            };
            if message.expires_ms <= now.unix_ms {
                self.expire(slot, now);
                continue;
            }
            let mut candidate = self.candidate(message, now);
            candidate.waits_since_ms = candidate.waits_since_ms.min(behind_ms.unwrap_or(u64::MAX));
            match self.routes.choose(&candidate, now) {
                Choice::Take(_, why)
                    if why.step > 1 && self.overtakes(target, class, candidate.waits_since_ms, now) =>
                {
                    return Served::One;
                }
                Choice::Take(route, why) => {
                    self.lanes.served(target, class, candidate.segments);
                    self.dispatch(slot, class, route, why, now);
                    return Served::One;
                }
                Choice::Wait { until_ms: None } => return Served::NoRoom,
                Choice::Wait { until_ms: Some(until_ms) } => {
                    self.waits += 1;
                    let until_ms = until_ms.max(now.mono_ms + 1);
                    if self.lanes.serve_at(target, until_ms) {
                        self.timers.at_mono(until_ms, Timer::Serve(target));
                    }
                    // The head of another lane may have waited long enough for a later step: the oldest, if any.
                    if let Some(turn) = turn {
                        self.lanes.turn_back(target, class, turn);
                        return Served::Empty;
                    }
                    let messages = &self.messages;
                    let ready = |lane, slot| is_ready(messages, lane, slot);
                    turn = self.lanes.turn_to_oldest(target, class, ready);
                    if turn.is_none() {
                        return Served::Empty;
                    }
                }
                Choice::Unfit { until_ms } => {
                    self.waits += 1;
                    self.lanes.set_aside(target, class);
                    self.sleep(slot, until_ms.saturating_sub(now.mono_ms).max(1), now);
                    self.put_aside(slot);
                }
                Choice::Refuse { code, text } => {
                    let attempt = candidate.attempt - 1;
                    let why = failure(ErrorClass::Permanent, code, &text);
                    let change = Change::Failed { attempt, route: None, why, undelivered: false };
                    self.record(slot, change, now);
                }
            }
        }
    }

    /// Whether a message of a higher class goes in place of one that has waited so long that it may use a later step: nobody
    /// is overtaken for having had patience.
    fn overtakes(&mut self, target: Slot, class: Priority, behind_ms: u64, now: Now) -> bool {
        let higher = Priority::ALL.into_iter().take_while(|higher| *higher < class);
        higher.into_iter().any(|higher| matches!(self.serve_before(target, higher, Some(behind_ms), now), Served::One))
    }

    /// A queued message as the choice sees it.
    pub(super) fn candidate(&self, message: &Message, now: Now) -> Candidate {
        let key = &self.lanes.get(message.lane).key;
        Candidate {
            message: message.id,
            attempt: message.attempt + 1,
            tenant: key.tenant,
            class: key.class,
            pin: key.pin,
            plan: key.plan,
            to: message.to,
            segments: message.segments,
            unicode: message.unicode,
            sender: message.sender(),
            avoid: message.route.filter(|_| message.avoid_until_ms > now.mono_ms),
            waits_since_ms: message.since_ms,
            max_cost: message.max_cost(),
            spent: message.spent,
        }
    }

    /// The intent is an event; the frame leaves when it is committed.
    fn dispatch(&mut self, slot: Slot, class: Priority, route: Route, why: Why, now: Now) {
        let device = self.devices.get_mut(&route.device).expect("a route is on a device that is known");
        let session = device.session.expect("a route is on a device with a link");
        let sim = device.sim_mut(route.sim).expect("a route is on a SIM of its device");
        let Some(message) = self.messages.get_mut(slot) else { return };
        // What it waits for from now on, if for anything, is not room.
        message.aside = false;
        let attempt = Attempt { message: message.id, number: message.attempt + 1 };
        let send_within_ms = lease_ms(self.settings.send_within_ms, message.expires_ms, now);
        // An account submits what it gets: nothing of it may count as never granted.
        let granted = route.is_provider() || sim.has_free_grant();
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
            segments: message.segments,
            recipient: recipient_hash(message.to.as_u64()),
        };
        sim.granted += u16::from(granted);
        device.flights.insert(attempt, flight);
        if !granted {
            device.wait(route.sim, class, attempt);
        }
        self.routes.reserve(route, device.tenant, flight.segments, flight.recipient, now);
        self.post(route.device, Down::Dispatch(frame));
        self.record(slot, Change::Dispatched { attempt: attempt.number, route, session, why }, now);
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
        let (route, tenant) = (device.route(id, flight.sim), device.tenant);
        self.routes.release(route, tenant, flight.segments, flight.recipient, now);
        self.grant(id, flight.sim, now);
        Some(flight)
    }

    /// Takes note of what the table says has changed, and of what its time has brought.
    pub(super) fn follow_routes(&mut self, now: Now) {
        let mut marked = std::mem::take(&mut self.marked);
        self.routes.advance(now, &mut marked);
        for one in marked.drain(..) {
            match one {
                Marked::Route { tenant, route } => {
                    for pin in [Pin::Sim(route.sim), Pin::Device(route.device), Pin::Any] {
                        self.lanes.mark_pin(tenant, pin);
                    }
                }
                Marked::Tenant(tenant) => self.lanes.mark_tenant(tenant),
            }
        }
        self.marked = marked;
    }

    /// Takes back an attempt that certainly was not sent: at once, or after a delay.
    pub(super) fn give_back(&mut self, slot: Slot, why: Failure, delay_ms: u64, now: Now) {
        self.take_back(slot, Back { why, delay_ms, left: None, undelivered: false }, now);
    }

    /// Takes back an attempt that may be repeated, though it has left or may have.
    pub(super) fn take_back(&mut self, slot: Slot, back: Back, now: Now) {
        let Back { why, delay_ms, left, undelivered } = back;
        let Some(message) = self.messages.get(slot) else { return };
        let Some(route) = message.route else { return };
        let attempt = message.attempt;
        if message.cancel_asked {
            return self.record_left(slot, Change::Cancelled, left, now);
        }
        if attempt >= ATTEMPTS_MAX {
            let why = failure(
                why.class,
                codes::ATTEMPTS_USED_UP,
                &format!("{ATTEMPTS_MAX} attempts; the last: {}", why.code),
            );
            let change = Change::Failed { attempt, route: Some(route), why, undelivered };
            return self.record_left(slot, change, left, now);
        }
        let was_sent = message.state == MessageState::Sent;
        let retry_ms = now.unix_ms + delay_ms;
        self.record_left(slot, Change::Returned { attempt, route, why, retry_ms, undelivered }, left, now);
        if was_sent {
            // Its text is in the store only.
            self.fetch_again(slot);
        } else if delay_ms > 0 {
            self.sleep(slot, delay_ms, now);
        } else {
            self.enqueue(slot, true);
        }
    }

    /// A message waits for its turn: in front of its equals when it has waited before.
    pub(super) fn enqueue(&mut self, slot: Slot, in_front: bool) {
        let Some(message) = self.messages.get(slot) else { return };
        self.lanes.push(message.lane, slot, message.since_ms, in_front);
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

    /// Lists a message that sleeps among those that other room is offered to, once.
    fn put_aside(&mut self, slot: Slot) {
        let Some(message) = self.messages.get_mut(slot) else { return };
        if !std::mem::replace(&mut message.aside, true) {
            let (lane, messages) = (message.lane, &self.messages);
            self.lanes.put_aside(lane, slot, |slot| messages.get(slot).is_some_and(|message| message.aside));
        }
    }

    /// A route has got room: one message of those that were set aside may look at it. False when there is none.
    fn rouse_one(&mut self, target: Slot, class: Priority) -> bool {
        while let Some(slot) = self.lanes.next_aside(target, class) {
            let Some(message) = self.messages.get_mut(slot) else { continue };
            let aside = std::mem::replace(&mut message.aside, false);
            if aside && message.wake_ms.is_some() {
                self.rouse(slot);
                return true;
            }
        }
        false
    }

    /// Its wait is over.
    pub(super) fn wake(&mut self, slot: Slot, now: Now) {
        let due = |message: &Message| message.wake_ms.is_some_and(|at| at <= now.mono_ms);
        if self.messages.get(slot).is_some_and(due) {
            self.rouse(slot);
        }
    }

    fn rouse(&mut self, slot: Slot) {
        let Some(message) = self.messages.get_mut(slot) else { return };
        message.wake_ms = None;
        let key = &self.lanes.get(message.lane).key;
        let (tenant, class) = (key.tenant, key.class);
        self.residency.leave(tenant, class, Stage::Asleep);
        self.residency.enter(tenant, class, Stage::Ready);
        self.enqueue(slot, true);
    }
}

/// Whether a message still waits in this lane.
fn is_ready(messages: &Slots<Message>, lane: Slot, slot: Slot) -> bool {
    messages.get(slot).is_some_and(|message| {
        message.state == MessageState::Queued && message.wake_ms.is_none() && message.lane == lane
    })
}

/// An attempt that is taken back.
pub(super) struct Back {
    pub(super) why: Failure,
    pub(super) delay_ms: u64,
    /// What has left, or may have.
    pub(super) left: Option<Left>,
    pub(super) undelivered: bool,
}

/// Segments of an attempt that have left, or may have, and when at the latest (Unix ms).
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    pub(super) segments: u8,
    pub(super) at_ms: u64,
}

impl Left {
    /// Its device may hand it over until the lease is over, and may never tell: a window has to hold it until then.
    pub(super) fn until_lease(segments: u8, flight: &Flight, now: Now) -> Self {
        let lease_ms = flight.lease_ms.saturating_sub(now.mono_ms);
        Self { segments, at_ms: now.unix_ms + lease_ms.min(AHEAD_MS) }
    }
}

/// A grant does not outlive the message.
fn lease_ms(send_within_ms: u32, expires_ms: u64, now: Now) -> u32 {
    expires_ms.saturating_sub(now.unix_ms).min(u64::from(send_within_ms)) as u32
}
