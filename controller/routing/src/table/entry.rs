//! What the table knows of one route and of the device or account that it is in. Routes that are away stay known for
//! weeks, with the attempts that are on them.

use std::cell::Cell;
use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, TenantId};
use flotilla_protocol::number::Region;
use jiff::tz::TimeZone;
use smallvec::SmallVec;

use super::sets::Places;
use crate::Micros;
use crate::choice::sender_hash;
use crate::health::Vitals;
use crate::limits::{Calendar, has_gap, zone};
use crate::opening::Hours;
use crate::route::{Route, RouteKind};
use crate::rules::Prefixes;
use crate::settings::{Limits, RouteSettings};

/// A route's place in the table.
pub(super) type Key = u32;

/// A score is made anew when it is asked for and so old.
pub(super) const SCORE_AGE_MS: u64 = 5_000;

#[derive(Debug)]
pub(super) struct Device {
    pub(super) tenant: TenantId,
    pub(super) online: bool,
    pub(super) window: u16,
    pub(super) accepts_work: bool,
    /// Attempts that it has, or may have.
    pub(super) used: u32,
    /// Their segments, as far as they are not charged.
    pub(super) segments: u32,
    /// SIMs that are there and ready.
    pub(super) ready: u16,
    pub(super) routes: SmallVec<[Key; 2]>,
    /// Changes when something does that concerns all its routes.
    pub(super) mood: Mood,
}

/// What all routes of a device share: while it stays the same, an attempt concerns its own route only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mood {
    pub(super) has_place: [bool; 2],
    pub(super) limits: crate::limits::Room,
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) route: Route,
    pub(super) tenant: TenantId,
    /// Its device has it, and is there.
    pub(super) online: bool,
    /// Since when it is away (monotonic).
    pub(super) away_since_ms: u64,
    pub(super) slot: u8,
    pub(super) ready: bool,
    pub(super) depth: u8,
    /// The settings are its own: its device has told them, or the catalog has.
    pub(super) described: bool,
    pub(super) settings: Arc<RouteSettings>,
    pub(super) terms: Terms,
    pub(super) calendar: Calendar,
    pub(super) used: u32,
    pub(super) segments: u32,
    /// Its circuit is closed.
    pub(super) closed: bool,
    /// What its device tells live.
    pub(super) vitals: Option<Vitals>,
    pub(super) places: Places,
    /// Whether it had room when it was looked at last, for urgent messages and for others.
    pub(super) open: [bool; 2],
    /// Whether the month's bundle still has a segment.
    pub(super) bundle_pays: bool,
    /// The earliest deadline that is set for it (monotonic).
    pub(super) scheduled_ms: Option<u64>,
    /// Somebody is to be told that it has room.
    pub(super) marked: bool,
    /// The stage of its warm-up that was told last.
    pub(super) stage: Option<usize>,
    pub(super) score: Cell<Scored>,
}

/// A score and when it was made (monotonic).
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Scored {
    pub(super) value: u8,
    pub(super) at_ms: Option<u64>,
}

/// Settings, as the choice needs them.
#[derive(Debug)]
pub(super) struct Terms {
    pub(super) zone: TimeZone,
    pub(super) hours: Hours,
    pub(super) countries: Box<[Region]>,
    pub(super) own_prefixes: Prefixes,
    pub(super) sender: Option<u64>,
    pub(super) limited: bool,
    pub(super) device_limited: bool,
    /// It gets what it can send at once, and nothing to keep: what waits there would be counted as if it were being sent.
    pub(super) serial: bool,
    /// The highest price of a segment, for money that is on its way.
    pub(super) dearest: Micros,
    /// Number of its price within the tenant.
    pub(super) price: u8,
}

impl Terms {
    pub(super) fn new(settings: &RouteSettings) -> Self {
        let zone = zone("timezone", &settings.timezone).unwrap_or(TimeZone::UTC);
        let (limits, device) = (&settings.limits, &settings.device_limits);
        let serial = |limits: &Limits| limits.per_minute.is_some() || has_gap(limits);
        let by_country = settings.price.by_country.values().copied().max();
        Self {
            hours: Hours::new(&settings.windows, &zone),
            countries: settings.countries.iter().filter_map(|country| Region::parse(country).ok()).collect(),
            own_prefixes: Prefixes::new(&settings.own_prefixes),
            sender: settings.sender.as_deref().map(sender_hash),
            limited: *limits != Limits::default() || settings.warm_up.is_some(),
            device_limited: *device != Limits::default(),
            serial: serial(limits) || serial(device),
            dearest: by_country.into_iter().chain([settings.price.per_segment]).max().unwrap_or_default(),
            price: 0,
            zone,
        }
    }
}

impl Device {
    pub(super) fn away(tenant: TenantId) -> Self {
        let mood = Mood { has_place: [false; 2], limits: crate::limits::Room::Yes };
        Self {
            tenant,
            online: false,
            window: 1,
            accepts_work: false,
            used: 0,
            segments: 0,
            ready: 0,
            routes: SmallVec::new(),
            mood,
        }
    }

    /// Places that only urgent messages may use.
    fn reserve(&self) -> u16 {
        if self.window < 3 { 0 } else { (self.window / 8).max(1) }
    }

    /// Whether its window has a place.
    pub(super) fn has_place(&self, kind: usize) -> bool {
        self.used < u32::from(self.window - if kind == 0 { 0 } else { self.reserve() })
    }

    /// Places that one of its SIMs may take, so that a slow one cannot fill the window of its neighbours.
    pub(super) fn share(&self, kind: usize) -> u32 {
        let reserve = self.reserve();
        u32::from((self.window - reserve).div_ceil(self.ready.max(1)) + if kind == 0 { reserve } else { 0 })
    }
}

impl Entry {
    /// A route that is only known by an attempt on it. What it carries may cost as much as on any other of its tenant.
    pub(super) fn away(route: Route, tenant: TenantId, dearest: Micros, now_ms: u64) -> Self {
        let settings = Arc::<RouteSettings>::default();
        Self {
            route,
            tenant,
            online: false,
            away_since_ms: now_ms,
            slot: 0,
            ready: false,
            depth: 1,
            described: false,
            terms: Terms { dearest, ..Terms::new(&settings) },
            settings,
            calendar: Calendar::default(),
            used: 0,
            segments: 0,
            closed: false,
            vitals: None,
            places: Places::new(),
            open: [false; 2],
            bundle_pays: false,
            scheduled_ms: None,
            marked: false,
            stage: None,
            score: Cell::default(),
        }
    }

    pub(super) fn set(&mut self, settings: Arc<RouteSettings>) {
        self.terms = Terms::new(&settings);
        self.settings = settings;
        self.described = true;
        self.calendar = Calendar::default();
        self.score.set(Scored::default());
    }

    /// What its device tells live, and what is left on it.
    pub(super) fn vitals(&self) -> Option<Vitals> {
        let RouteSettings { balance, low_balance, .. } = *self.settings;
        if balance.is_none() {
            return self.vitals;
        }
        Some(Vitals { balance, low_balance, ..self.vitals.unwrap_or_default() })
    }

    pub(super) fn is_provider(&self) -> bool {
        self.route.kind == RouteKind::Provider
    }

    /// Whether it may have one more attempt.
    pub(super) fn has_place(&self, device: &Device, kind: usize) -> bool {
        device.has_place(kind) && self.used < self.places(device, kind)
    }

    /// Whether its room is the same whatever is charged to it and to its device.
    pub(super) fn is_unlimited(&self) -> bool {
        !self.terms.limited && !self.terms.device_limited && self.settings.price.bundle_per_month.is_none()
    }

    /// Attempts that it may have at once: its share of the device's window, and no more than it can work on when it gets
    /// nothing to keep.
    pub(super) fn places(&self, device: &Device, kind: usize) -> u32 {
        let share = device.share(kind);
        if self.terms.serial { share.min(u32::from(self.depth.max(1))) } else { share }
    }
}

/// Routes by key, and devices by id.
#[derive(Debug, Default)]
pub(super) struct Entries {
    entries: Vec<Option<Box<Entry>>>,
    free: Vec<Key>,
}

impl Entries {
    pub(super) fn insert(&mut self, entry: Entry) -> Key {
        match self.free.pop() {
            Some(key) => {
                self.entries[key as usize] = Some(Box::new(entry));
                key
            }
            None => {
                self.entries.push(Some(Box::new(entry)));
                (self.entries.len() - 1) as Key
            }
        }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Box<Entry>> {
        let entry = self.entries.get_mut(key as usize)?.take()?;
        self.free.push(key);
        Some(entry)
    }

    pub(super) fn get(&self, key: Key) -> Option<&Entry> {
        self.entries.get(key as usize)?.as_deref()
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Entry> {
        self.entries.get_mut(key as usize)?.as_deref_mut()
    }
}

/// The device that a set of ids names.
pub(super) type Devices = rustc_hash::FxHashMap<DeviceId, Device>;
