//! What an account's session shows of itself while it runs: written by its actor, read by the API.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::Serialize;
use utoipa::ToSchema;

use super::account::Noted;

/// Requests in a row without an answer, after which the provider counts as down.
const SILENT_MAX: u32 = 3;

/// Since the session began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Counters {
    /// Messages that were given to the provider, by what it said.
    pub accepted: u64,
    pub refused: u64,
    /// It may have taken them, or not.
    pub unclear: u64,
    pub delivered: u64,
    pub undelivered: u64,
    pub inbound: u64,
    /// Reports about messages that nobody knows here.
    pub unknown_reports: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveState {
    /// Unix milliseconds.
    pub since_ms: u64,
    /// It has answered last; none before the first request.
    pub reachable: Option<bool>,
    /// The maker has asked for a pause.
    pub paused: bool,
    pub waiting: usize,
    pub in_flight: usize,
    /// Reports that wait for the answer to what they are about.
    pub early: usize,
    /// The account is disabled: it only hears of what it has sent.
    pub resting: bool,
    /// The last one, and when (Unix ms).
    pub last_error: Option<(String, u64)>,
    pub counters: Counters,
    pub noted: Noted,
    silent: u32,
    low: bool,
}

/// What a change is for whoever watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    Up,
    Down,
}

impl LiveState {
    pub fn new(since_ms: u64, noted: Noted) -> Self {
        Self {
            since_ms,
            reachable: None,
            paused: false,
            waiting: 0,
            in_flight: 0,
            early: 0,
            resting: false,
            last_error: None,
            counters: Counters::default(),
            noted,
            silent: 0,
            low: false,
        }
    }

    pub fn answered(&mut self) -> Option<Turn> {
        self.silent = 0;
        let was = self.reachable.replace(true);
        (was == Some(false)).then_some(Turn::Up)
    }

    pub fn silent(&mut self, why: String, now_ms: u64) -> Option<Turn> {
        self.last_error = Some((why, now_ms));
        self.silent += 1;
        if self.silent < SILENT_MAX || self.reachable == Some(false) {
            return None;
        }
        self.reachable = Some(false);
        Some(Turn::Down)
    }

    /// Whether the balance has just fallen below what it should be.
    pub fn falls_low(&mut self, micros: i64, low: Option<i64>) -> bool {
        let is_low = low.is_some_and(|low| micros < low);
        let was_low = std::mem::replace(&mut self.low, is_low);
        is_low && !was_low
    }
}

pub type Shared = Arc<Mutex<LiveState>>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_silences_are_down_and_an_answer_is_up_again() {
        let mut live = LiveState::new(0, Noted::default());
        assert_eq!(live.answered(), None);
        let fail = |live: &mut LiveState| live.silent("no answer in time".into(), 1);
        assert_eq!([fail(&mut live), fail(&mut live), fail(&mut live)], [None, None, Some(Turn::Down)]);
        assert_eq!(fail(&mut live), None);
        assert_eq!((live.answered(), live.answered()), (Some(Turn::Up), None));
        assert_eq!(fail(&mut live), None, "counted anew");
    }

    #[test]
    fn a_low_balance_is_told_once() {
        let mut live = LiveState::new(0, Noted::default());
        let told: Vec<bool> = [9, 4, 3, 5, 6, 4].map(|micros| live.falls_low(micros, Some(5))).into();
        assert_eq!(told, [false, true, false, false, false, true]);
        assert!(!live.falls_low(0, None));
    }
}
