//! Which routes have room, by step of a plan: what a choice draws from.
//!
//! Steps of a tenant's plans that mean the same routes share a [`Family`]. A family has one set, or, where the cheapest
//! route goes first, one for each price. A set lists the routes with room, for urgent messages and for others; a route
//! knows its places in the lists, so it comes and goes without a search.

use smallvec::SmallVec;

use super::entry::Key;
use crate::route::{Route, RouteKind};
use crate::settings::{RouteSettings, Select};

pub(super) type SetId = u16;
pub(super) type FamilyId = u16;

/// Different prices of a tenant that are told apart. Routes with further ones share the last set, in no order.
pub(super) const PRICES_MAX: usize = 64;

/// Nowhere in a list.
const NOWHERE: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Family {
    routes: Box<[Select]>,
    /// For urgent messages, and for others.
    pub(super) patience_ms: [u64; 2],
    pub(super) cheapest: bool,
    pub(super) sets: SmallVec<[SetId; 1]>,
}

#[derive(Debug)]
pub(super) struct Set {
    family: FamilyId,
    price: u8,
    /// Routes with room, for urgent messages and for others.
    pub(super) rooms: [Vec<Key>; 2],
    /// Routes that will have room within the family's patience, or when an attempt has landed.
    busy: [u32; 2],
}

/// A route in a set.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) set: SetId,
    at: [u32; 2],
    busy: [bool; 2],
}

impl Place {
    pub(super) fn has_room(&self, kind: usize) -> bool {
        self.at[kind] != NOWHERE
    }
}

pub(super) type Places = SmallVec<[Place; 4]>;

#[derive(Debug, Default)]
pub(super) struct Sets {
    families: Vec<Family>,
    sets: Vec<Set>,
}

impl Sets {
    /// The family of a step.
    pub(super) fn family_of(&mut self, routes: &[Select], patience_ms: [u64; 2], cheapest: bool) -> FamilyId {
        let same = |family: &Family| {
            *family.routes == *routes && family.patience_ms == patience_ms && family.cheapest == cheapest
        };
        let known = self.families.iter().position(same);
        let place = known.unwrap_or_else(|| {
            self.families.push(Family { routes: routes.into(), patience_ms, cheapest, sets: SmallVec::new() });
            self.families.len() - 1
        });
        place as FamilyId
    }

    pub(super) fn family(&self, id: FamilyId) -> &Family {
        &self.families[usize::from(id)]
    }

    pub(super) fn set(&self, id: SetId) -> &Set {
        &self.sets[usize::from(id)]
    }

    pub(super) fn family_of_set(&self, id: SetId) -> FamilyId {
        self.set(id).family
    }

    /// How long a step waits for the routes of a set.
    pub(super) fn patience_ms(&self, set: SetId, kind: usize) -> u64 {
        self.family(self.set(set).family).patience_ms[kind]
    }

    /// Routes of a family with room, and those that will have some soon.
    pub(super) fn counts(&self, family: &Family, kind: usize) -> (u32, u32) {
        family.sets.iter().fold((0, 0), |(rooms, busy), set| {
            let set = self.set(*set);
            (rooms + set.rooms[kind].len() as u32, busy + set.busy[kind])
        })
    }

    /// Places for a route in the sets of all families that mean it.
    pub(super) fn join(&mut self, route: &Route, settings: &RouteSettings, price: u8) -> Places {
        let mut places = Places::new();
        for id in 0..self.families.len() {
            let family = &self.families[id];
            if !family.routes.iter().any(|select| means(select, route, settings)) {
                continue;
            }
            let price = if family.cheapest { price } else { 0 };
            let known = family.sets.iter().copied().find(|set| self.sets[usize::from(*set)].price == price);
            let set = known.unwrap_or_else(|| {
                let set = self.sets.len() as SetId;
                self.sets.push(Set { family: id as FamilyId, price, rooms: Default::default(), busy: [0; 2] });
                self.families[id].sets.push(set);
                set
            });
            places.push(Place { set, at: [NOWHERE; 2], busy: [false; 2] });
        }
        places
    }

    /// A route has room now.
    pub(super) fn enter(&mut self, place: &mut Place, kind: usize, key: Key) {
        if place.at[kind] == NOWHERE {
            let rooms = &mut self.sets[usize::from(place.set)].rooms[kind];
            place.at[kind] = rooms.len() as u32;
            rooms.push(key);
        }
    }

    /// A route has no room. Answers the route that has taken its place in the list, which has to be told.
    pub(super) fn leave(&mut self, place: &mut Place, kind: usize) -> Option<Moved> {
        let at = std::mem::replace(&mut place.at[kind], NOWHERE);
        if at == NOWHERE {
            return None;
        }
        let rooms = &mut self.sets[usize::from(place.set)].rooms[kind];
        rooms.swap_remove(at as usize);
        rooms.get(at as usize).map(|key| Moved { key: *key, set: place.set, kind, at })
    }

    /// Whether a route will have room soon. Answers whether it was the last one that would.
    pub(super) fn set_busy(&mut self, place: &mut Place, kind: usize, busy: bool) -> bool {
        if place.busy[kind] == busy {
            return false;
        }
        place.busy[kind] = busy;
        let count = &mut self.sets[usize::from(place.set)].busy[kind];
        *count = if busy { *count + 1 } else { *count - 1 };
        *count == 0
    }
}

/// A route's new place in a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moved {
    pub(super) key: Key,
    set: SetId,
    kind: usize,
    at: u32,
}

impl Moved {
    pub(super) fn tell(self, places: &mut Places) {
        if let Some(place) = places.iter_mut().find(|place| place.set == self.set) {
            place.at[self.kind] = self.at;
        }
    }
}

pub(super) fn means(select: &Select, route: &Route, settings: &RouteSettings) -> bool {
    match select {
        Select::Sims => route.kind == RouteKind::Sim,
        Select::Providers => route.kind == RouteKind::Provider,
        Select::Pool(name) => settings.pools.contains(name),
        Select::Provider(id) => route.as_provider().is_some_and(|(provider, _)| provider == *id),
        Select::Device(id) => route.kind == RouteKind::Sim && route.device == *id,
        Select::Sim(id) => route.kind == RouteKind::Sim && route.sim == *id,
    }
}
