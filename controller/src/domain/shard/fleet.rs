//! Devices, and the attempts that are on them. A provider account is a device whose attempts are granted as they are dispatched.
//!
//! A flight is an attempt that a device has, may have, or will have when its frame arrives. It occupies a place of the
//! device's window until the device has said how it ended, or it is certain that it never arrived, whatever becomes of the
//! message meanwhile (it may expire, or be cancelled).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use flotilla_protocol::id::{DeviceId, SimId, TenantId};
use flotilla_protocol::wire::{Attempt, Down};
use flotilla_routing::settings::RouteSettings;
use flotilla_routing::table::RouteDevice;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::io::{Link, RouteSim};
use super::slots::Slot;
use crate::domain::message::{Priority, Route, RouteKind};

#[derive(Debug)]
pub(super) struct Device {
    pub(super) kind: RouteKind,
    pub(super) tenant: TenantId,
    /// Present while its link is up.
    pub(super) session: Option<u64>,
    window: u16,
    accepts_work: bool,
    /// It has listed what it holds: only then is its window known, and only then does it get more.
    pub(super) settled: bool,
    pub(super) sims: SmallVec<[DeviceSim; 2]>,
    pub(super) flights: FxHashMap<Attempt, Flight>,
    pub(super) log: ReportLog,
    /// Frames since the last drain.
    frames: Vec<Down>,
    /// It has something to drain.
    pub(super) touched: bool,
}

#[derive(Debug)]
pub(super) struct DeviceSim {
    pub(super) slot: u8,
    pub(super) sim: SimId,
    depth: u16,
    pub(super) ready: bool,
    settings: Arc<RouteSettings>,
    /// Attempts granted on this link and not ended.
    pub(super) granted: u16,
    /// Attempts that the device has and that may be granted, by class.
    waiting: [VecDeque<Attempt>; 4],
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Flight {
    pub(super) sim: SimId,
    pub(super) class: Priority,
    /// Key of the message, which may have ended or moved; none when it was not in memory.
    pub(super) message: Option<Slot>,
    pub(super) grant: Grant,
    /// From an earlier link, and not yet listed as held on this one.
    pub(super) carried: bool,
    /// When the lease of its grant is over (monotonic).
    pub(super) lease_ms: u64,
    /// What is reserved for it.
    pub(super) segments: u8,
    pub(super) recipient: u64,
}

/// Whether the device may hand an attempt to its radio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Grant {
    /// It was never granted, so it cannot have been sent.
    No,
    /// Granted on an earlier link, or before a restart: it may have been sent.
    Earlier,
    /// Granted on this link: it occupies one of its SIM's places.
    Yes,
}

impl Device {
    pub(super) fn offline(kind: RouteKind, tenant: TenantId) -> Self {
        Self {
            kind,
            tenant,
            session: None,
            window: 1,
            accepts_work: false,
            settled: false,
            sims: SmallVec::new(),
            flights: FxHashMap::default(),
            log: ReportLog::default(),
            frames: Vec::new(),
            touched: false,
        }
    }

    pub(super) fn connect(&mut self, link: &Link, accepts_work: bool) {
        self.kind = link.kind;
        self.session = Some(link.session);
        self.window = link.window.max(1);
        self.accepts_work = accepts_work;
        self.settled = false;
        self.log = ReportLog::default();
        self.sims.clear();
        self.change(&link.sims, accepts_work);
        for flight in self.flights.values_mut() {
            flight.grant = Grant::Earlier;
            flight.carried = true;
        }
    }

    pub(super) fn change(&mut self, sims: &[RouteSim], accepts_work: bool) {
        self.accepts_work = accepts_work;
        let mut former = std::mem::take(&mut self.sims);
        for sim in sims {
            let known = former.iter().position(|known| known.sim == sim.sim).map(|place| former.swap_remove(place));
            let mut entry = known.unwrap_or_else(|| DeviceSim::new(sim));
            entry.slot = sim.slot;
            entry.depth = match self.kind {
                RouteKind::Sim => u16::from(sim.depth.max(1)),
                RouteKind::Provider => self.window,
            };
            entry.ready = sim.ready;
            entry.settings = Arc::clone(&sim.settings);
            self.sims.push(entry);
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.session = None;
        self.settled = false;
        self.frames.clear();
        self.sims.clear();
        self.log = ReportLog::default();
    }

    pub(super) fn sim(&self, sim: SimId) -> Option<&DeviceSim> {
        self.sims.iter().find(|known| known.sim == sim)
    }

    pub(super) fn sim_mut(&mut self, sim: SimId) -> Option<&mut DeviceSim> {
        self.sims.iter_mut().find(|known| known.sim == sim)
    }

    /// The route over one of its SIMs.
    pub(super) fn route(&self, device: DeviceId, sim: SimId) -> Route {
        Route { kind: self.kind, device, sim }
    }

    pub(super) fn slot_sim(&self, slot: u8) -> Option<SimId> {
        self.sims.iter().find(|known| known.slot == slot).map(|known| known.sim)
    }

    pub(super) fn routes(&self, device: DeviceId) -> RouteDevice {
        RouteDevice {
            kind: self.kind,
            device,
            tenant: self.tenant,
            window: self.window,
            accepts_work: self.accepts_work && self.settled,
            sims: self.sims.iter().map(DeviceSim::route_sim).collect(),
        }
    }

    /// An attempt is on the device and may be granted when its turn comes.
    pub(super) fn wait(&mut self, sim: SimId, class: Priority, attempt: Attempt) {
        let flights = &self.flights;
        let entries_max = 2 * usize::from(self.window) + 16;
        let Some(sim) = self.sims.iter_mut().find(|known| known.sim == sim) else { return };
        let waiting = &mut sim.waiting[class as usize];
        waiting.push_back(attempt);
        if waiting.len() > entries_max {
            waiting.retain(|attempt| flights.contains_key(attempt));
        }
    }

    /// Adds a frame for the present link.
    pub(super) fn send(&mut self, frame: Down) {
        if self.session.is_none() {
            return;
        }
        match (self.frames.last_mut(), frame) {
            (Some(Down::Cancel { attempts }), Down::Cancel { attempts: more }) => attempts.extend(more),
            (
                Some(Down::Go { attempts, sent_ms, send_within_ms }),
                Down::Go { attempts: more, sent_ms: sent, send_within_ms: within },
            ) if *sent_ms == sent && *send_within_ms == within => attempts.extend(more),
            (_, frame) => self.frames.push(frame),
        }
    }

    pub(super) fn take_frames(&mut self) -> Vec<Down> {
        if let Some(position) = self.log.take_acknowledgement() {
            self.frames.push(Down::AckReports { position });
        }
        std::mem::take(&mut self.frames)
    }
}

impl DeviceSim {
    fn new(sim: &RouteSim) -> Self {
        Self {
            slot: sim.slot,
            sim: sim.sim,
            depth: 1,
            ready: false,
            settings: Arc::clone(&sim.settings),
            granted: 0,
            waiting: Default::default(),
        }
    }

    fn route_sim(&self) -> RouteSim {
        let depth = u8::try_from(self.depth).unwrap_or(u8::MAX);
        RouteSim { slot: self.slot, sim: self.sim, depth, ready: self.ready, settings: Arc::clone(&self.settings) }
    }

    pub(super) fn has_free_grant(&self) -> bool {
        self.granted < self.depth
    }

    /// The attempt to be granted next, when there is a place: the highest class first.
    pub(super) fn next_waiting(&mut self) -> Option<Attempt> {
        if !self.has_free_grant() {
            return None;
        }
        self.waiting.iter_mut().find_map(VecDeque::pop_front)
    }
}

/// Which reports of a link are dealt with. Positions have no gaps; what is acknowledged is dealt with up to there.
#[derive(Debug, Default)]
pub(super) struct ReportLog {
    /// The position of the next report; known from the first one.
    next: Option<u64>,
    /// Positions whose messages are being read from the store.
    held: BTreeSet<u64>,
    acknowledge: bool,
    /// The device has been told up to here, and keeps nothing before.
    acknowledged: u64,
    refused: bool,
    /// The first refused position, until it comes again.
    missing: Option<u64>,
}

impl ReportLog {
    /// Whether to deal with a report: not when one before it is missing. The device repeats it, as it is not acknowledged. One
    /// that is, and was under way again already, is nothing new; to refuse it for lack of room would wait for it for ever.
    pub(super) fn admit(&mut self, position: u64) -> bool {
        if position <= self.acknowledged {
            self.acknowledge = true;
            return false;
        }
        let next = *self.next.get_or_insert(position);
        if position == next {
            self.next = Some(next + 1);
            self.missing = None;
        }
        self.acknowledge |= position <= next;
        position <= next
    }

    /// Whether everything that came was dealt with or is held. Else a list of what the device holds cannot be understood: it
    /// leaves out attempts whose results were refused.
    pub(super) fn is_complete(&self) -> bool {
        self.missing.is_none()
    }

    /// A report waits for the store.
    pub(super) fn hold(&mut self, position: u64) {
        self.held.insert(position);
    }

    /// It has been dealt with. Answers whether there is room again after a refusal, so that the device may repeat.
    pub(super) fn release(&mut self, position: u64) -> bool {
        self.acknowledge |= self.held.remove(&position);
        self.held.is_empty() && std::mem::take(&mut self.refused)
    }

    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Acts as if the report had not come: the device repeats it and those after it when it is asked to.
    pub(super) fn refuse(&mut self, position: u64) {
        self.refused = true;
        self.next = self.next.map(|next| next.min(position));
        self.missing = self.next;
    }

    fn take_acknowledgement(&mut self) -> Option<u64> {
        if !std::mem::take(&mut self.acknowledge) {
            return None;
        }
        let next = self.held.first().copied().or(self.next)?;
        let position = next.checked_sub(1).filter(|position| *position > 0)?;
        self.acknowledged = self.acknowledged.max(position);
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(log: &mut ReportLog) -> Option<u64> {
        log.take_acknowledgement()
    }

    #[test]
    fn acknowledgements_cover_no_report_that_is_missing_or_held() {
        let mut log = ReportLog::default();
        assert!(log.admit(5) && log.admit(6));
        assert_eq!(acknowledged(&mut log), Some(6));
        assert!(!log.admit(9), "7 and 8 are missing");
        assert_eq!(acknowledged(&mut log), None);
        assert!(log.admit(7) && log.admit(8) && log.admit(9));
        log.hold(8);
        assert_eq!(acknowledged(&mut log), Some(7));
        assert!(!log.release(8));
        assert_eq!(acknowledged(&mut log), Some(9));
        assert!(!log.admit(6), "a repeated report is acknowledged again");
        assert_eq!(acknowledged(&mut log), Some(9));
        assert!(log.admit(10));
        log.refuse(10);
        assert_eq!(acknowledged(&mut log), Some(9));
        assert!(!log.admit(11));
        log.hold(9);
        assert!(log.release(9), "time to ask for the refused one");
        assert!(!log.is_complete(), "it was asked for, and has not come again");
        assert!(!log.admit(9) && !log.is_complete() && log.admit(10) && log.is_complete());
    }

    #[test]
    fn what_is_acknowledged_is_not_waited_for_again() {
        let mut log = ReportLog::default();
        assert!(log.admit(5) && log.admit(6));
        assert_eq!(acknowledged(&mut log), Some(6));
        // The device was asked to repeat, and had begun to when the acknowledgement came. There is no room for it now.
        if log.admit(5) {
            log.refuse(5);
        }
        assert!(log.admit(7) && log.is_complete(), "it has dropped what is acknowledged");
        assert_eq!(acknowledged(&mut log), Some(7));
    }
}
