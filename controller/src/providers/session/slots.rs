//! The account's senders, numbered as a device numbers the slots of its SIMs.

use std::sync::Arc;

use flotilla_protocol::id::{SenderId, SimId};
use flotilla_routing::settings::RouteSettings;

use super::super::account::Provider;
use crate::shard::RouteSim;

/// Numbers of the senders towards the shard; given once in a session, so that a frame on its way never means another one.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<(SenderId, u8, Box<str>, Arc<RouteSettings>)>,
    next: u8,
}

impl Slots {
    pub(super) fn set(&mut self, provider: &Provider) {
        let former = std::mem::take(&mut self.slots);
        for (id, settings) in provider.routes() {
            let known = former.iter().find(|(known, ..)| *known == id).map(|(_, slot, ..)| *slot);
            let taken = |slot: u8| former.iter().any(|(_, used, ..)| *used == slot);
            let slot = known.unwrap_or_else(|| {
                // There are far fewer senders than slots.
                while taken(self.next) || self.slots.iter().any(|(_, used, ..)| *used == self.next) {
                    self.next = self.next.wrapping_add(1);
                }
                let slot = self.next;
                self.next = self.next.wrapping_add(1);
                slot
            });
            let from = settings.sender.clone().unwrap_or_default();
            self.slots.push((id, slot, from, settings));
        }
    }

    pub(super) fn numbers(&self) -> Vec<u8> {
        self.slots.iter().map(|(_, slot, ..)| *slot).collect()
    }

    pub(super) fn from(&self, slot: u8) -> Box<str> {
        self.slots.iter().find(|(_, known, ..)| *known == slot).map(|(_, _, from, _)| from.clone()).unwrap_or_default()
    }

    /// The sender that a received message was sent to; the first one for a name or number that is none of them.
    pub(super) fn of(&self, to: &str) -> u8 {
        let plain = |text: &str| text.trim_start_matches('+').to_ascii_lowercase();
        let found = self.slots.iter().find(|(_, _, from, _)| plain(from) == plain(to));
        found.or(self.slots.first()).map_or(0, |(_, slot, ..)| *slot)
    }

    pub(super) fn sims(&self, ready: bool, window: u16) -> Vec<RouteSim> {
        let sim = |(id, slot, _, settings): &(SenderId, u8, Box<str>, Arc<RouteSettings>)| RouteSim {
            slot: *slot,
            sim: SimId::from_bytes(id.to_bytes()),
            depth: u8::try_from(window).unwrap_or(u8::MAX),
            ready,
            settings: Arc::clone(settings),
        };
        self.slots.iter().map(sim).collect()
    }
}
