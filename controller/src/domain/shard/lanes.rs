//! The queues. A lane holds the messages of one tenant, campaign, class, pin and plan; the lanes of the same tenant, pin and
//! plan form a target, which is what a free place on a route is offered to. A target has a ring of lanes per class.
//!
//! Classes are served strictly in order; inside a class lanes take turns, one message each, and a lane that has sent a long
//! message sits out a turn for each further segment. Inside a lane whoever has waited longest is in front: where it has to have
//! patience with a busy step of its plan, all behind it have to, too. A target without a free route is simply not asked: whoever frees a
//! place marks the targets that it suits, so no input looks at more than those.
//!
//! A message that no free route suits (it has failed on the only one, it is longer than what a limit leaves) is set aside, so
//! that those behind it can go. It is asked again after a time, and, in turn with others like it, whenever a route gets room:
//! that room may be for it, and would always be gone by the time.

use std::collections::VecDeque;

use flotilla_protocol::id::TenantId;
use flotilla_routing::choice::PlanRef;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::slots::{Slot, Slots};
use crate::domain::message::{Pin, Priority};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneKey {
    pub(super) tenant: TenantId,
    pub(super) class: Priority,
    pub(super) pin: Pin,
    /// The first for pinned messages, which follow none.
    pub(super) plan: PlanRef,
    pub(super) campaign: Box<str>,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    pub(super) target: Slot,
    /// May hold keys of messages that are queued no more; they are skipped when their turn comes.
    queue: VecDeque<Queued>,
    /// Turns to sit out.
    debt: u32,
    in_ring: bool,
    /// Messages in memory, queued or not.
    members: u32,
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    /// Since when it could have gone (monotonic).
    since_ms: u64,
    message: Slot,
}

/// Lanes that are looked through for the one that has waited longest.
const LANES_LOOKED_MAX: usize = 256;

/// A turn out of turn.
#[derive(Debug)]
pub(super) struct Turn {
    lane: Slot,
    /// Its place in the ring before.
    place: usize,
    debt: u32,
}

#[derive(Debug, Default)]
struct Target {
    rings: [VecDeque<Slot>; 4],
    lanes: u32,
    /// Among those to be served next.
    marked: bool,
    /// A timer will mark it then (monotonic).
    serve_ms: Option<u64>,
    /// Messages that were set aside, by class; with keys of some that were not, or are no more.
    asides: [VecDeque<Slot>; 4],
    /// A route has got room since they were asked.
    has_room: bool,
}

/// Longer lists of messages that were set aside are looked through for those that are not any more.
const ASIDES_MIN: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Lanes {
    lanes: Slots<Lane>,
    by_key: FxHashMap<LaneKey, Slot>,
    targets: Slots<Target>,
    by_pin: FxHashMap<(TenantId, Pin, PlanRef), Slot>,
    /// The targets of each tenant that are not pinned, one for each plan in use.
    unpinned: FxHashMap<TenantId, SmallVec<[Slot; 2]>>,
    marked: Vec<Slot>,
    /// Targets with messages aside for which a route has got room.
    with_room: Vec<Slot>,
}

impl Lanes {
    /// The lane of a message that comes into memory.
    pub(super) fn join(&mut self, key: LaneKey) -> Slot {
        if let Some(lane) = self.by_key.get(&key) {
            let slot = *lane;
            self.lane_mut(slot).members += 1;
            return slot;
        }
        let pinned = (key.tenant, key.pin, key.plan);
        let target = match self.by_pin.get(&pinned) {
            Some(target) => *target,
            None => {
                let target = self.targets.insert(Target::default());
                self.by_pin.insert(pinned, target);
                if key.pin == Pin::Any {
                    self.unpinned.entry(key.tenant).or_default().push(target);
                }
                target
            }
        };
        self.target_mut(target).lanes += 1;
        let lane = Lane { key: key.clone(), target, queue: VecDeque::new(), debt: 0, in_ring: false, members: 1 };
        let slot = self.lanes.insert(lane);
        self.by_key.insert(key, slot);
        slot
    }

    /// A message has left memory.
    pub(super) fn leave(&mut self, slot: Slot) {
        let lane = self.lane_mut(slot);
        lane.members -= 1;
        if lane.members > 0 {
            return;
        }
        let Some(lane) = self.lanes.remove(slot) else { return };
        self.by_key.remove(&lane.key);
        let target = self.target_mut(lane.target);
        target.lanes -= 1;
        if target.lanes > 0 {
            return;
        }
        self.targets.remove(lane.target);
        self.by_pin.remove(&(lane.key.tenant, lane.key.pin, lane.key.plan));
        if let Some(targets) = self.unpinned.get_mut(&lane.key.tenant) {
            targets.retain(|target| *target != lane.target);
            if targets.is_empty() {
                self.unpinned.remove(&lane.key.tenant);
            }
        }
    }

    pub(super) fn get(&self, slot: Slot) -> &Lane {
        self.lanes.get(slot).expect("a message's lane lives as long as the message")
    }

    /// Queues a message behind those that have waited longer, among equals in front when it has waited before, and marks its
    /// target.
    pub(super) fn push(&mut self, slot: Slot, message: Slot, since_ms: u64, in_front: bool) {
        let lane = self.lane_mut(slot);
        let is_before = |other: &Queued| other.since_ms < since_ms || (!in_front && other.since_ms == since_ms);
        let queued = Queued { since_ms, message };
        if lane.queue.back().is_none_or(is_before) {
            lane.queue.push_back(queued);
        } else {
            let place = lane.queue.partition_point(is_before);
            lane.queue.insert(place, queued);
        }
        let (target, class) = (lane.target, lane.key.class);
        if !lane.in_ring {
            lane.in_ring = true;
            lane.debt = 0;
            self.target_mut(target).rings[class as usize].push_back(slot);
        }
        self.mark(target);
    }

    /// A route of this tenant and pin may have room, whatever the plan.
    pub(super) fn mark_pin(&mut self, tenant: TenantId, pin: Pin) {
        if pin == Pin::Any {
            let targets = self.unpinned.get(&tenant).cloned();
            targets.into_iter().flatten().for_each(|target| self.mark_room(target));
        } else if let Some(target) = self.by_pin.get(&(tenant, pin, PlanRef::default())) {
            self.mark_room(*target);
        }
    }

    fn mark_room(&mut self, slot: Slot) {
        self.mark(slot);
        let target = self.target_mut(slot);
        if !target.has_room && target.asides.iter().any(|asides| !asides.is_empty()) {
            target.has_room = true;
            self.with_room.push(slot);
        }
    }

    /// Targets with messages aside, for which a route has got room since the last call.
    pub(super) fn take_with_room(&mut self) -> Vec<Slot> {
        let with_room = std::mem::take(&mut self.with_room);
        for target in &with_room {
            if let Some(target) = self.targets.get_mut(*target) {
                target.has_room = false;
            }
        }
        with_room
    }

    /// A message of this lane sleeps because no route with room suited it. `holds` tells of one whether it still does.
    pub(super) fn put_aside(&mut self, lane: Slot, message: Slot, holds: impl Fn(Slot) -> bool) {
        let lane = self.lane_mut(lane);
        let (target, class) = (lane.target, lane.key.class);
        let target = self.target_mut(target);
        let asides = &mut target.asides[class as usize];
        if asides.len() >= ASIDES_MIN && asides.len() == asides.capacity() {
            asides.retain(|message| holds(*message));
        }
        asides.push_back(message);
    }

    /// The one of these that has waited longest for its turn.
    pub(super) fn next_aside(&mut self, target: Slot, class: Priority) -> Option<Slot> {
        self.targets.get_mut(target)?.asides[class as usize].pop_front()
    }

    /// Anything about this tenant may have changed.
    pub(super) fn mark_tenant(&mut self, tenant: TenantId) {
        let of = self.by_pin.iter().filter(|((of, ..), _)| *of == tenant);
        let targets: Vec<Slot> = of.map(|(_, target)| *target).collect();
        targets.into_iter().for_each(|target| self.mark(target));
    }

    /// The target is to be served then at the latest. Whether a timer has to be set for it.
    pub(super) fn serve_at(&mut self, target: Slot, mono_ms: u64) -> bool {
        let Some(target) = self.targets.get_mut(target) else { return false };
        let earlier = target.serve_ms.is_none_or(|at| mono_ms < at);
        if earlier {
            target.serve_ms = Some(mono_ms);
        }
        earlier
    }

    /// The timer of a target has come.
    pub(super) fn serve_now(&mut self, slot: Slot, mono_ms: u64) {
        let Some(target) = self.targets.get_mut(slot) else { return };
        if target.serve_ms.is_some_and(|at| at <= mono_ms) {
            target.serve_ms = None;
            self.mark(slot);
        }
    }

    pub(super) fn has_target(&self, target: Slot) -> bool {
        self.targets.get(target).is_some()
    }

    pub(super) fn take_marked(&mut self) -> Vec<Slot> {
        let marked = std::mem::take(&mut self.marked);
        for target in &marked {
            if let Some(target) = self.targets.get_mut(*target) {
                target.marked = false;
            }
        }
        marked
    }

    /// The message whose turn it is. It stays where it is until [`Lanes::served`] or [`Lanes::set_aside`].
    /// `ready` tells whether a message still waits in this lane.
    pub(super) fn head(&mut self, target: Slot, class: Priority, ready: impl Fn(Slot, Slot) -> bool) -> Option<Slot> {
        let ring = &mut self.targets.get_mut(target)?.rings[class as usize];
        while let Some(slot) = ring.front().copied() {
            let Some(lane) = self.lanes.get_mut(slot) else {
                ring.pop_front();
                continue;
            };
            let Some(Queued { message, .. }) = lane.front(slot, &ready) else {
                lane.in_ring = false;
                ring.pop_front();
                continue;
            };
            if lane.debt == 0 || ring.len() == 1 {
                return Some(message);
            }
            lane.debt -= 1;
            ring.rotate_left(1);
        }
        None
    }

    /// The head of the class was taken, and its lane has had its turn.
    pub(super) fn served(&mut self, target: Slot, class: Priority, segments: u8) {
        self.take_head(target, class, |lane| lane.debt = u32::from(segments.saturating_sub(1)));
        if let Some(target) = self.targets.get_mut(target) {
            let ring = &mut target.rings[class as usize];
            if !ring.is_empty() {
                ring.rotate_left(1);
            }
        }
    }

    /// Gives the turn to the lane whose head has waited longest; None when it has it.
    pub(super) fn turn_to_oldest(
        &mut self,
        target: Slot,
        class: Priority,
        ready: impl Fn(Slot, Slot) -> bool,
    ) -> Option<Turn> {
        let target = self.targets.get_mut(target)?;
        let ring = &mut target.rings[class as usize];
        let mut oldest: Option<(u64, usize, Slot)> = None;
        for (place, slot) in ring.iter().copied().enumerate().take(LANES_LOOKED_MAX) {
            let Some(front) = self.lanes.get_mut(slot).and_then(|lane| lane.front(slot, &ready)) else { continue };
            if oldest.is_none_or(|(since_ms, ..)| front.since_ms < since_ms) {
                oldest = Some((front.since_ms, place, slot));
            }
        }
        let (_, place, lane) = oldest.filter(|(_, place, _)| *place > 0)?;
        ring.rotate_left(place);
        // Nobody else could use what room there is for it.
        let debt = std::mem::take(&mut self.lane_mut(lane).debt);
        Some(Turn { lane, place, debt })
    }

    /// It could not use its turn: whose turn it was, it is again. Otherwise those who have waited longest would have all turns.
    pub(super) fn turn_back(&mut self, target: Slot, class: Priority, turn: Turn) {
        if let Some(target) = self.targets.get_mut(target) {
            let ring = &mut target.rings[class as usize];
            ring.rotate_right(turn.place.min(ring.len()));
        }
        if let Some(lane) = self.lanes.get_mut(turn.lane) {
            lane.debt = turn.debt;
        }
    }

    /// The head cannot go now, whatever room there is: it is taken out, and the next one of the lane has the turn.
    pub(super) fn set_aside(&mut self, target: Slot, class: Priority) {
        self.take_head(target, class, |_| {});
    }

    fn take_head(&mut self, target: Slot, class: Priority, then: impl FnOnce(&mut Lane)) {
        let Some(ring) = self.targets.get(target).map(|target| &target.rings[class as usize]) else { return };
        if let Some(lane) = ring.front().and_then(|lane| self.lanes.get_mut(*lane)) {
            lane.queue.pop_front();
            then(lane);
        }
    }

    fn mark(&mut self, slot: Slot) {
        let target = self.target_mut(slot);
        if !target.marked {
            target.marked = true;
            self.marked.push(slot);
        }
    }

    fn lane_mut(&mut self, slot: Slot) -> &mut Lane {
        self.lanes.get_mut(slot).expect("a message's lane lives as long as the message")
    }

    fn target_mut(&mut self, slot: Slot) -> &mut Target {
        self.targets.get_mut(slot).expect("a target lives as long as its lanes")
    }
}

impl Lane {
    /// The message in front that still waits in this lane.
    fn front(&mut self, slot: Slot, ready: impl Fn(Slot, Slot) -> bool) -> Option<Queued> {
        while self.queue.front().is_some_and(|queued| !ready(slot, queued.message)) {
            self.queue.pop_front();
        }
        self.queue.front().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(campaign: &str, class: Priority) -> LaneKey {
        LaneKey {
            tenant: TenantId::from_bytes([1; 16]),
            class,
            pin: Pin::Any,
            plan: PlanRef(0),
            campaign: campaign.into(),
        }
    }

    /// Serves until nothing is left; each message's number of segments is its value.
    fn serve(lanes: &mut Lanes, target: Slot, messages: &Slots<(&'static str, u8)>) -> String {
        let mut order = String::new();
        while let Some(head) = lanes.head(target, Priority::Bulk, |_, slot| messages.get(slot).is_some()) {
            let (name, segments) = messages.get(head).unwrap();
            order += name;
            lanes.served(target, Priority::Bulk, *segments);
        }
        order
    }

    #[test]
    fn lanes_share_segments_not_messages() {
        let (mut lanes, mut messages) = (Lanes::default(), Slots::default());
        let (long, short) = (lanes.join(key("long", Priority::Bulk)), lanes.join(key("short", Priority::Bulk)));
        for _ in 0..3 {
            lanes.push(long, messages.insert(("L", 3)), 0, false);
        }
        for _ in 0..8 {
            lanes.push(short, messages.insert(("s", 1)), 0, false);
        }
        let target = lanes.get(long).target;
        assert_eq!(serve(&mut lanes, target, &messages), "LsssLsssLss");
    }

    #[test]
    fn a_turn_out_of_turn_that_is_of_no_use_changes_nothing() {
        let (mut lanes, mut messages) = (Lanes::default(), Slots::default());
        let names = ["new", "old", "other"];
        let slots = names.map(|name| lanes.join(key(name, Priority::Bulk)));
        for (slot, name, since_ms) in [(0, "n", 9), (1, "o", 1), (1, "o", 2), (1, "o", 3), (2, "x", 5)] {
            lanes.push(slots[slot], messages.insert((name, 2)), since_ms, false);
        }
        let target = lanes.get(slots[0]).target;
        lanes.lane_mut(slots[1]).debt = 3;
        let ready = |_, slot| messages.get(slot).is_some();
        let head = |lanes: &mut Lanes| lanes.head(target, Priority::Bulk, ready).and_then(|head| messages.get(head));
        for _ in 0..3 {
            assert_eq!(head(&mut lanes), Some(&("n", 2)));
            let turn = lanes.turn_to_oldest(target, Priority::Bulk, ready).unwrap();
            assert_eq!(head(&mut lanes), Some(&("o", 2)), "it owes no turns");
            lanes.turn_back(target, Priority::Bulk, turn);
        }
        assert_eq!(lanes.get(slots[1]).debt, 3);
        assert_eq!(serve(&mut lanes, target, &messages), "nxooo");
    }

    #[test]
    fn a_message_that_left_is_skipped_and_an_empty_lane_goes() {
        let (mut lanes, mut messages) = (Lanes::default(), Slots::default());
        let lane = lanes.join(key("", Priority::Bulk));
        let target = lanes.get(lane).target;
        let gone = messages.insert(("x", 1));
        lanes.push(lane, gone, 0, false);
        messages.remove(gone);
        assert_eq!(serve(&mut lanes, target, &messages), "");
        lanes.leave(lane);
        assert_eq!((lanes.lanes.len(), lanes.targets.len(), lanes.by_key.len()), (0, 0, 0));
        assert!(lanes.by_pin.is_empty() && lanes.unpinned.is_empty());
    }

    #[test]
    fn a_returned_message_goes_in_front_and_marks_its_target_once() {
        let (mut lanes, mut messages) = (Lanes::default(), Slots::default());
        let lane = lanes.join(key("", Priority::Bulk));
        let target = lanes.get(lane).target;
        lanes.push(lane, messages.insert(("b", 1)), 5, false);
        lanes.push(lane, messages.insert(("a", 1)), 5, true);
        assert_eq!(lanes.take_marked(), [target]);
        assert_eq!(lanes.take_marked(), []);
        assert_eq!(serve(&mut lanes, target, &messages), "ab");
    }

    #[test]
    fn who_has_waited_longest_is_in_front_of_its_lane_and_may_have_the_turn() {
        let (mut lanes, mut messages) = (Lanes::default(), Slots::default());
        let (one, two) = (lanes.join(key("one", Priority::Bulk)), lanes.join(key("two", Priority::Bulk)));
        let target = lanes.get(one).target;
        for (name, since_ms, in_front) in [("c", 30, false), ("e", 50, false), ("b", 20, true), ("d", 40, true)] {
            lanes.push(one, messages.insert((name, 1)), since_ms, in_front);
        }
        let gone = messages.insert(("x", 1));
        lanes.push(two, gone, 5, false);
        lanes.push(two, messages.insert(("a", 1)), 10, true);
        messages.remove(gone);
        let turn = |lanes: &mut Lanes| {
            let turned = lanes.turn_to_oldest(target, Priority::Bulk, |_, slot| messages.get(slot).is_some());
            let head = lanes.head(target, Priority::Bulk, |_, slot| messages.get(slot).is_some());
            (turned.is_some(), head.and_then(|head| messages.get(head)).unwrap().0)
        };
        assert_eq!((turn(&mut lanes), turn(&mut lanes)), ((true, "a"), (false, "a")));
        assert_eq!(serve(&mut lanes, target, &messages), "abcde");
    }
}
