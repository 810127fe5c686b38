//! What the rest of the node sees of a modem: its SIM, its health, its events.

use std::sync::Arc;

use flotilla_protocol::wire::{SimHealth, SimInfo, SimState};
use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::radio::RadioEvent;

/// A modem works on one message at a time.
const DEPTH: u8 = 1;

#[derive(Debug)]
pub(super) struct Status {
    events: mpsc::Sender<RadioEvent>,
    shared: Arc<Mutex<SimInfo>>,
    health: SimHealth,
}

/// The inventory of a slot of which nothing is known yet.
pub(super) fn unknown_sim(slot: u8) -> SimInfo {
    SimInfo {
        slot,
        state: SimState::Absent,
        iccid: None,
        imsi: None,
        msisdn: None,
        home: None,
        operator: String::new(),
        depth: DEPTH,
    }
}

impl Status {
    pub(super) fn new(slot: u8, events: mpsc::Sender<RadioEvent>, shared: Arc<Mutex<SimInfo>>) -> Self {
        let health = SimHealth { slot, state: SimState::Absent, ..SimHealth::default() };
        Self { events, shared, health }
    }

    pub(super) fn sim(&self) -> SimInfo {
        self.shared.lock().clone()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.shared.lock().state == SimState::Ready
    }

    /// A closed channel means that the agent has gone; the closed orders will end the driver.
    pub(super) async fn emit(&self, event: RadioEvent) {
        let _ = self.events.send(event).await;
    }

    /// Changes what is known of the SIM, and tells it when there was a change.
    pub(super) async fn update(&mut self, change: impl FnOnce(&mut SimInfo)) {
        let changed = {
            let mut shared = self.shared.lock();
            let before = shared.clone();
            change(&mut shared);
            (*shared != before).then(|| shared.clone())
        };
        if let Some(sim) = changed {
            self.health.state = sim.state;
            tracing::info!(slot = sim.slot, state = ?sim.state, "SIM");
            self.emit(RadioEvent::Sims(vec![sim])).await;
        }
    }

    pub(super) async fn set_state(&mut self, state: SimState) {
        self.update(|sim| sim.state = state).await;
    }

    /// Tells fresh measurements.
    pub(super) async fn measured(&mut self, health: SimHealth) {
        self.health = SimHealth { state: self.shared.lock().state, ..health };
        self.emit(RadioEvent::Health(self.health.clone())).await;
    }

    /// The last measurements.
    pub(super) fn health(&self) -> &SimHealth {
        &self.health
    }
}
