//! Which route may carry a message now: the seam that scores, budgets and circuits will fill.
//!
//! A [`RouteTable`] knows the SIMs that are online and how much of each device's window is in use. [`RouteTable::choose`]
//! takes any SIM of the tenant that is ready and has room, in turn.
//!
//! Room is per device (its window) and, inside a device, per SIM, so that a slow SIM cannot fill the window of its
//! neighbour. A part of each window is kept for urgent messages: those of the other classes wait ungranted on the device,
//! and an urgent one must find a place among them, from where it gets the next grant.

use std::collections::VecDeque;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::number::Msisdn;
use rustc_hash::{FxHashMap, FxHashSet};
use smallvec::SmallVec;

use super::message::{Pin, Priority, Route};

/// What the choice may look at.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    pub tenant: TenantId,
    pub class: Priority,
    pub pin: Pin,
    pub to: Msisdn,
    pub segments: u8,
    /// The SIM that could not send it before.
    pub avoid: Option<SimId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Take(Route),
    /// No route of this tenant and pin has room for this class, or for a lower one.
    Wait,
    /// There is room, but this message cannot use it.
    Unfit,
}

/// A device that is online, as the table needs it.
#[derive(Clone, Debug)]
pub struct RouteDevice {
    pub device: DeviceId,
    pub tenant: TenantId,
    pub window: u16,
    pub accepts_work: bool,
    /// SIMs, and whether each is ready.
    pub sims: SmallVec<[(SimId, bool); 2]>,
}

/// How SIMs that could not send are rested.
#[derive(Clone, Copy, Debug)]
pub struct PauseLimits {
    pub min_ms: u64,
    pub max_ms: u64,
}

#[derive(Debug)]
pub struct RouteTable {
    limits: PauseLimits,
    devices: FxHashMap<DeviceId, Online>,
    /// Where each SIM is.
    sims: FxHashMap<SimId, DeviceId>,
    turns: FxHashMap<TenantId, Turns>,
    /// SIMs that could not send lately.
    pauses: FxHashMap<SimId, Pause>,
}

#[derive(Debug)]
struct Online {
    tenant: TenantId,
    window: u16,
    used: u16,
    accepts_work: bool,
    sims: SmallVec<[OnlineSim; 2]>,
}

#[derive(Debug)]
struct OnlineSim {
    sim: SimId,
    ready: bool,
    used: u16,
}

/// SIMs that had room when they were last looked at, the next one first: for urgent messages, and for others.
type Turns = [Rotation; 2];

/// Each route is in it once at most; one that has lost its room goes when its turn comes.
#[derive(Debug, Default)]
struct Rotation {
    queue: VecDeque<Route>,
    members: FxHashSet<Route>,
}

impl Rotation {
    fn add(&mut self, route: Route) {
        if self.members.insert(route) {
            self.queue.push_back(route);
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    level: u32,
    until_ms: u64,
    /// Whether it is over; until then the SIM is left alone.
    over: bool,
}

/// Index of a class in [`Turns`].
fn kind(class: Priority) -> usize {
    usize::from(class != Priority::Urgent)
}

impl Online {
    /// Places that only urgent messages may use.
    fn reserve(&self) -> u16 {
        if self.window < 3 { 0 } else { (self.window / 8).max(1) }
    }

    fn has_room(&self, sim: &OnlineSim, kind: usize) -> bool {
        let reserve = self.reserve();
        let open = self.window - if kind == 0 { 0 } else { reserve };
        let ready = self.sims.iter().filter(|sim| sim.ready).count().max(1) as u16;
        let share = (self.window - reserve).div_ceil(ready) + if kind == 0 { reserve } else { 0 };
        self.accepts_work && sim.ready && self.used < open && sim.used < share
    }
}

impl RouteTable {
    pub fn new(limits: PauseLimits) -> Self {
        Self {
            limits,
            devices: FxHashMap::default(),
            sims: FxHashMap::default(),
            turns: FxHashMap::default(),
            pauses: FxHashMap::default(),
        }
    }

    /// A device is online, or has changed. What it carries stays counted.
    pub fn set_device(&mut self, device: RouteDevice) {
        let former = self.devices.remove(&device.device);
        let used_by = |sim: SimId| {
            let sims = former.iter().flat_map(|former| &former.sims);
            sims.filter(|known| known.sim == sim).map(|known| known.used).sum()
        };
        let sims = device.sims.iter().map(|(sim, ready)| OnlineSim { sim: *sim, ready: *ready, used: used_by(*sim) });
        let online = Online {
            tenant: device.tenant,
            window: device.window.max(1),
            used: former.as_ref().map_or(0, |former| former.used),
            accepts_work: device.accepts_work,
            sims: sims.collect(),
        };
        for (sim, _) in &device.sims {
            self.sims.insert(*sim, device.device);
        }
        self.devices.insert(device.device, online);
        self.refresh(device.device);
    }

    pub fn remove_device(&mut self, device: DeviceId) {
        let Some(online) = self.devices.remove(&device) else { return };
        for sim in online.sims {
            if self.sims.get(&sim.sim) == Some(&device) {
                self.sims.remove(&sim.sim);
            }
        }
    }

    /// An attempt is on its way to a device, or was found there.
    pub fn occupy(&mut self, route: Route) {
        if let Some(online) = self.devices.get_mut(&route.device) {
            online.used += 1;
            if let Some(sim) = online.sims.iter_mut().find(|sim| sim.sim == route.sim) {
                sim.used += 1;
            }
        }
    }

    /// An attempt has left its device.
    pub fn release(&mut self, route: Route) {
        if let Some(online) = self.devices.get_mut(&route.device) {
            online.used = online.used.saturating_sub(1);
            if let Some(sim) = online.sims.iter_mut().find(|sim| sim.sim == route.sim) {
                sim.used = sim.used.saturating_sub(1);
            }
            self.refresh(route.device);
        }
    }

    /// Rests a SIM that could not send; answers until when (monotonic).
    pub fn pause(&mut self, sim: SimId, now_ms: u64) -> u64 {
        let limits = self.limits;
        let pause = self.pauses.entry(sim).or_insert(Pause { level: 0, until_ms: 0, over: true });
        if pause.over {
            let length = limits.min_ms.saturating_mul(1 << pause.level.min(30)).min(limits.max_ms);
            *pause = Pause { level: pause.level + 1, until_ms: now_ms + length, over: false };
        }
        pause.until_ms
    }

    /// Ends a pause whose time has come; answers the SIM's device if it is online.
    pub fn resume(&mut self, sim: SimId, now_ms: u64) -> Option<DeviceId> {
        let pause = self.pauses.get_mut(&sim).filter(|pause| pause.until_ms <= now_ms)?;
        pause.over = true;
        let device = *self.sims.get(&sim)?;
        self.refresh(device);
        Some(device)
    }

    /// A SIM has sent: the next pause is a short one again.
    pub fn succeeded(&mut self, sim: SimId) {
        if !self.pauses.is_empty() && self.pauses.get(&sim).is_some_and(|pause| pause.over) {
            self.pauses.remove(&sim);
        }
    }

    pub fn is_paused(&self, sim: SimId) -> bool {
        is_paused(&self.pauses, sim)
    }

    pub fn choose(&mut self, candidate: &Candidate) -> Choice {
        match candidate.pin {
            Pin::Any => self.in_turn(candidate),
            Pin::Sim(sim) => match self.sims.get(&sim) {
                Some(device) => self.on_device(candidate, *device, Some(sim)),
                None => Choice::Wait,
            },
            Pin::Device(device) => self.on_device(candidate, device, None),
        }
    }

    fn in_turn(&mut self, candidate: &Candidate) -> Choice {
        let kind = kind(candidate.class);
        let Some(turns) = self.turns.get_mut(&candidate.tenant) else { return Choice::Wait };
        let turns = &mut turns[kind];
        let mut unfit = false;
        for _ in 0..turns.queue.len() {
            let Some(route) = turns.queue.pop_front() else { break };
            let online = self.devices.get(&route.device);
            let sim = online.and_then(|online| Some((online, online.sims.iter().find(|sim| sim.sim == route.sim)?)));
            let has_room = sim.is_some_and(|(online, sim)| online.has_room(sim, kind));
            if !has_room || is_paused(&self.pauses, route.sim) {
                turns.members.remove(&route);
                continue;
            }
            turns.queue.push_back(route);
            if candidate.avoid != Some(route.sim) {
                return Choice::Take(route);
            }
            unfit = true;
        }
        if unfit { Choice::Unfit } else { Choice::Wait }
    }

    fn on_device(&self, candidate: &Candidate, device: DeviceId, only: Option<SimId>) -> Choice {
        let kind = kind(candidate.class);
        let Some(online) = self.devices.get(&device).filter(|online| online.tenant == candidate.tenant) else {
            return Choice::Wait;
        };
        let with_room = online.sims.iter().filter(|sim| {
            only.is_none_or(|only| only == sim.sim) && online.has_room(sim, kind) && !is_paused(&self.pauses, sim.sim)
        });
        let (mut unfit, mut best) = (false, None::<&OnlineSim>);
        for sim in with_room {
            if only.is_none() && candidate.avoid == Some(sim.sim) {
                unfit = true;
            } else if best.is_none_or(|best| sim.used < best.used) {
                best = Some(sim);
            }
        }
        match best {
            Some(sim) => Choice::Take(Route::sim(device, sim.sim)),
            None if unfit => Choice::Unfit,
            None => Choice::Wait,
        }
    }

    /// Gives the SIMs of a device their turns again, where they have room.
    fn refresh(&mut self, device: DeviceId) {
        let Some(online) = self.devices.get(&device) else { return };
        let turns = self.turns.entry(online.tenant).or_default();
        for sim in online.sims.iter().filter(|sim| !is_paused(&self.pauses, sim.sim)) {
            for (kind, rotation) in turns.iter_mut().enumerate() {
                if online.has_room(sim, kind) {
                    rotation.add(Route::sim(device, sim.sim));
                }
            }
        }
    }
}

fn is_paused(pauses: &FxHashMap<SimId, Pause>, sim: SimId) -> bool {
    !pauses.is_empty() && pauses.get(&sim).is_some_and(|pause| !pause.over)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> RouteTable {
        RouteTable::new(PauseLimits { min_ms: 1_000, max_ms: 8_000 })
    }

    fn device(n: u8) -> DeviceId {
        DeviceId::from_bytes([n; 16])
    }

    fn sim(n: u8) -> SimId {
        SimId::from_bytes([n; 16])
    }

    fn tenant() -> TenantId {
        TenantId::from_bytes([1; 16])
    }

    fn online(table: &mut RouteTable, n: u8, window: u16, sims: &[(u8, bool)]) {
        table.set_device(RouteDevice {
            device: device(n),
            tenant: tenant(),
            window,
            accepts_work: true,
            sims: sims.iter().map(|(n, ready)| (sim(*n), *ready)).collect(),
        });
    }

    fn candidate(class: Priority, pin: Pin, avoid: Option<u8>) -> Candidate {
        let to = Msisdn::from_u64(255_712_345_678).unwrap();
        Candidate { tenant: tenant(), class, pin, to, segments: 1, avoid: avoid.map(sim) }
    }

    /// Chooses and occupies until there is no room; the numbers of the SIMs.
    fn fill(table: &mut RouteTable, class: Priority, pin: Pin) -> Vec<u8> {
        let mut taken = vec![];
        while let Choice::Take(route) = table.choose(&candidate(class, pin, None)) {
            table.occupy(route);
            taken.push(route.sim.to_bytes()[0]);
        }
        taken
    }

    #[test]
    fn sims_take_turns_up_to_their_share_and_a_part_is_kept_for_urgent() {
        let mut table = table();
        online(&mut table, 1, 8, &[(1, true), (2, true)]);
        online(&mut table, 2, 2, &[(3, true), (4, false)]);
        assert_eq!(fill(&mut table, Priority::Bulk, Pin::Any), [1, 2, 3, 1, 2, 3, 1, 2, 1]);
        assert_eq!(fill(&mut table, Priority::High, Pin::Device(device(1))), [0u8; 0]);
        assert_eq!(fill(&mut table, Priority::Urgent, Pin::Any).len(), 1);
        assert_eq!(fill(&mut table, Priority::Urgent, Pin::Sim(sim(1))), [0u8; 0]);
    }

    #[test]
    fn released_room_is_offered_again_once() {
        let mut table = table();
        online(&mut table, 1, 2, &[(1, true)]);
        fill(&mut table, Priority::Normal, Pin::Any);
        let route = Route::sim(device(1), sim(1));
        table.release(route);
        table.release(route);
        table.release(route);
        assert_eq!(fill(&mut table, Priority::Normal, Pin::Any), [1, 1], "never more than the window");
    }

    #[test]
    fn pins_need_their_own_and_reach_into_no_other_tenant() {
        let mut table = table();
        online(&mut table, 1, 4, &[(1, true), (2, true)]);
        let of = |table: &mut RouteTable, pin| table.choose(&candidate(Priority::Normal, pin, None));
        let route = |n| Choice::Take(Route::sim(device(1), sim(n)));
        assert_eq!(of(&mut table, Pin::Sim(sim(2))), route(2));
        assert_eq!(of(&mut table, Pin::Sim(sim(9))), Choice::Wait);
        assert_eq!(of(&mut table, Pin::Device(device(9))), Choice::Wait);
        let foreign =
            Candidate { tenant: TenantId::from_bytes([9; 16]), ..candidate(Priority::Normal, Pin::Sim(sim(2)), None) };
        assert_eq!(table.choose(&foreign), Choice::Wait);
    }

    #[test]
    fn an_avoided_sim_is_taken_only_by_those_pinned_to_it() {
        let mut table = table();
        online(&mut table, 1, 4, &[(1, true)]);
        let choose = |table: &mut RouteTable, pin| table.choose(&candidate(Priority::Normal, pin, Some(1)));
        assert_eq!(choose(&mut table, Pin::Any), Choice::Unfit);
        assert_eq!(choose(&mut table, Pin::Device(device(1))), Choice::Unfit);
        assert!(matches!(choose(&mut table, Pin::Sim(sim(1))), Choice::Take(_)));
        online(&mut table, 2, 4, &[(2, true)]);
        assert_eq!(choose(&mut table, Pin::Any), Choice::Take(Route::sim(device(2), sim(2))));
    }

    #[test]
    fn pauses_double_while_nothing_is_sent_and_outlive_the_link() {
        let mut table = table();
        online(&mut table, 1, 4, &[(1, true)]);
        let mut now_ms = 0;
        let mut lengths = vec![];
        for _ in 0..5 {
            let until_ms = table.pause(sim(1), now_ms);
            assert_eq!(table.pause(sim(1), now_ms + 1), until_ms, "one pause at a time");
            table.remove_device(device(1));
            online(&mut table, 1, 4, &[(1, true)]);
            assert_eq!(fill(&mut table, Priority::Normal, Pin::Any), [0u8; 0]);
            assert_eq!(table.resume(sim(1), until_ms - 1), None);
            assert_eq!(table.resume(sim(1), until_ms), Some(device(1)));
            lengths.push(until_ms - now_ms);
            now_ms = until_ms;
        }
        assert_eq!(lengths, [1_000, 2_000, 4_000, 8_000, 8_000]);
        table.succeeded(sim(1));
        assert_eq!(table.pause(sim(1), now_ms), now_ms + 1_000);
    }

    #[test]
    fn a_device_that_comes_and_goes_leaves_one_entry() {
        let mut table = table();
        for _ in 0..100 {
            online(&mut table, 1, 4, &[(1, true)]);
            table.remove_device(device(1));
        }
        assert_eq!(table.turns[&tenant()].iter().map(|turns| turns.queue.len()).sum::<usize>(), 2);
        assert!(table.sims.is_empty() && table.devices.is_empty());
    }
}
