//! What time does: schedules, back-off, pauses, leases, and the end of every message's validity.

use flotilla_protocol::id::DeviceId;
use flotilla_protocol::wire::{Attempt, Down, ErrorClass};
use smallvec::smallvec;

use super::dispatch::{Back, Left, failure};
use super::fleet::Grant;
use super::message::Message;
use super::slots::Slot;
use super::timers::Timer;
use super::{Machine, Now};
use crate::domain::event::Change;
use crate::domain::facts::codes;
use crate::domain::message::{Duplicates, MessageState};

/// While a device that has come back has not listed what it holds, a lease that is over waits for the list this long.
const LIST_MS: u64 = 1_000;

impl Machine {
    /// Does everything whose time has come.
    pub(super) fn advance(&mut self, now: Now) {
        while let Some(timer) = self.timers.next_mono(now.mono_ms) {
            match timer {
                Timer::Wake(slot) => self.wake(slot, now),
                Timer::Lease(slot) => self.lease_over(slot, now),
                Timer::Serve(target) => self.lanes.serve_now(target, now.mono_ms),
                Timer::Due(_) | Timer::Expires(_) | Timer::Reclassify(_) => {}
            }
        }
        while let Some(timer) = self.timers.next_wall(now.unix_ms) {
            match timer {
                Timer::Due(slot) => self.due(slot, now),
                Timer::Expires(slot) => self.expire(slot, now),
                Timer::Reclassify(tenant) => self.reclassify_in_time(tenant, now),
                Timer::Wake(_) | Timer::Lease(_) | Timer::Serve(_) => {}
            }
        }
        self.fetch(now);
    }

    fn due(&mut self, slot: Slot, now: Now) {
        let scheduled = |message: &&mut Message| message.state == MessageState::Scheduled;
        let Some(message) = self.messages.get_mut(slot).filter(scheduled) else { return };
        message.since_ms = now.mono_ms;
        let order = message.order;
        let key = &self.lanes.get(message.lane).key;
        let (tenant, class) = (key.tenant, key.class);
        let stays = self.must_spill(tenant, class);
        self.record(slot, Change::Due, now);
        if stays {
            self.remove(slot);
            self.spill(tenant, class, order);
        } else {
            self.enqueue(slot, false);
        }
    }

    /// The validity is over: the message ends as what it is by now.
    pub(super) fn expire(&mut self, slot: Slot, now: Now) {
        let Some(message) = self.messages.get(slot).filter(|message| message.expires_ms <= now.unix_ms) else { return };
        let attempt = message.attempt;
        let route = message.route;
        let number = Attempt { message: message.id, number: attempt };
        let mut left = None;
        let segments = message.segments;
        let (code, text) = match message.state {
            MessageState::Scheduled | MessageState::Queued => (codes::VALIDITY_OVER, "not sent within its validity"),
            MessageState::Dispatching | MessageState::Unknown => {
                let device = route.and_then(|route| self.devices.get(&route.device));
                let flight = device.and_then(|device| device.flights.get(&number));
                let never_granted = flight.is_some_and(|flight| flight.grant == Grant::No);
                let whole = flight.map(|flight| Left::until_lease(segments, flight, now));
                if let Some(route) = route {
                    self.give_up(route.device, number, now);
                }
                if never_granted {
                    (codes::VALIDITY_OVER, "not sent within its validity")
                } else {
                    left = whole.or(Some(Left { segments, at_ms: now.unix_ms }));
                    (codes::IN_DOUBT, "its device has not told whether it was sent")
                }
            }
            _ => (codes::NO_REPORT, "sent, and no delivery report came within its validity"),
        };
        let why = failure(ErrorClass::Transient, code, text);
        self.record_left(slot, Change::Expired { attempt, route, why }, left, now);
    }

    /// The attempt of a message that ends: its device is told, and keeps its place until it answers.
    fn give_up(&mut self, id: DeviceId, attempt: Attempt, now: Now) {
        if self.devices.get(&id).is_some_and(|device| device.session.is_some()) {
            self.post(id, Down::Cancel { attempts: smallvec![attempt] });
        } else {
            self.land(id, attempt, now);
            self.forget_if_idle(id);
        }
    }

    /// Nothing can hand the attempt to a radio any more, unless its device did so before.
    fn lease_over(&mut self, slot: Slot, now: Now) {
        let Some(message) = self.messages.get(slot).filter(|message| message.is_in_flight()) else { return };
        let Some(route) = message.route else { return };
        let attempt = Attempt { message: message.id, number: message.attempt };
        let (duplicates, state) = (message.duplicates, message.state);
        let left = Some(Left { segments: message.segments, at_ms: now.unix_ms });
        let Some(device) = self.devices.get(&route.device) else { return };
        let Some(flight) = device.flights.get(&attempt).filter(|flight| flight.lease_ms <= now.mono_ms) else { return };
        if device.session.is_some() {
            // It will say itself what became of the attempt.
            if flight.carried {
                self.timers.at_mono(now.mono_ms + LIST_MS, Timer::Lease(slot));
            }
            return;
        }
        match duplicates {
            Duplicates::Allowed => {
                self.land(route.device, attempt, now);
                self.forget_if_idle(route.device);
                let why =
                    failure(ErrorClass::Route, codes::LEASE_OVER, "the device went silent; it may have been sent");
                self.take_back(slot, Back { why, delay_ms: 0, left, undelivered: false }, now);
            }
            Duplicates::Never if state == MessageState::Dispatching => {
                let change = Change::Doubted { attempt: attempt.number, route, lost: false };
                self.record_left(slot, change, left, now);
            }
            Duplicates::Never => {}
        }
    }
}
