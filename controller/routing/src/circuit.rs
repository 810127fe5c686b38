//! Whether a route is used at all: closed (it is), open (it rests), half-open (one message at a time, to see).
//!
//! A fold of outcomes by their own Unix times, so that a restored circuit goes on as the old one would have. Half-open is not
//! stored: an open circuit is half-open when its rest is over. That there is one probe at a time needs no memory either: while
//! the circuit is not closed, a message may go only when nothing is in flight on the route.

#[cfg(test)]
mod tests;

use flotilla_protocol::wire::ErrorClass;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fact::Outcome;
use crate::health::Warning;
use crate::route::RouteKind;

/// Failures in a row that open a SIM's circuit.
pub const SIM_FAILURES: u16 = 5;
/// And a provider's, for which an outage is likelier than a run of bad luck, and the other route is as near.
pub const PROVIDER_FAILURES: u16 = 3;
/// Outcomes of the last one to two minutes from which a share of failures counts.
pub const SHARE_MIN: u32 = 20;
/// Half of them failed: it opens.
pub const SHARE_PERCENT: u32 = 50;
/// Successful probes, one after the other, that close it.
pub const PROBES: u16 = 2;
/// The first rest; each one after a failed probe is twice as long.
pub const REST_MIN_MS: u64 = 1_000;
/// The longest rest.
pub const REST_MAX_MS: u64 = 600_000;
/// The rest after a warning, at least: a carrier that begins to block is not asked again at once.
pub const REST_WARNED_MS: u64 = 300_000;
/// Messages sent after which a circuit that opens again begins with the shortest rest.
pub const SETTLED: u16 = 20;

const WINDOW_MS: u64 = 60_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Circuit {
    /// A provider's opens earlier.
    fast: bool,
    state: State,
    /// Of outcomes since the last success.
    failures: u16,
    /// Of outcomes since the last failure.
    successes: u16,
    /// How often the rest has doubled.
    level: u8,
    window: Window,
    /// The newest time in an outcome; earlier ones count as of then.
    clock_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum State {
    Closed,
    Open { until_ms: u64, because: Because },
}

/// Why a circuit opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// So many failures in a row.
    Failures,
    /// So many of its last messages failed.
    Share,
    /// A block is foreseen.
    Warning,
    /// The probe failed.
    Probe,
}

/// Outcomes of this minute and of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    since_ms: u64,
    all: [u32; 2],
    failed: [u32; 2],
}

impl Window {
    fn add(&mut self, failed: bool, at_ms: u64) {
        let passed = at_ms.saturating_sub(self.since_ms);
        if passed >= WINDOW_MS {
            let next = passed < 2 * WINDOW_MS;
            self.since_ms = if next { self.since_ms + WINDOW_MS } else { at_ms };
            self.all = [0, if next { self.all[0] } else { 0 }];
            self.failed = [0, if next { self.failed[0] } else { 0 }];
        }
        self.all[0] += 1;
        self.failed[0] += u32::from(failed);
    }

    fn is_bad(&self) -> bool {
        let (all, failed) = (self.all[0] + self.all[1], self.failed[0] + self.failed[1]);
        all >= SHARE_MIN && failed * 100 >= all * SHARE_PERCENT
    }
}

/// Whether a message may be sent on a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Yes,
    /// One, to see whether it works again.
    Probe,
    /// A probe, or something from before, is still under way: ask again when it has ended.
    Probing,
    /// Not before (Unix ms).
    Until(u64),
}

/// A circuit has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shift {
    Opened { until_ms: u64, because: Because },
    Closed,
}

/// The three states, as people see them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Position {
    Closed,
    Open,
    HalfOpen,
}

impl Circuit {
    pub fn new(kind: RouteKind) -> Self {
        Self {
            fast: kind == RouteKind::Provider,
            state: State::Closed,
            failures: 0,
            successes: 0,
            level: 0,
            window: Window::default(),
            clock_ms: 0,
        }
    }

    /// `in_flight` are the attempts on the route that are under way.
    pub fn may_send(&self, unix_ms: u64, in_flight: u32) -> Gate {
        match self.resting(unix_ms) {
            None => Gate::Yes,
            Some(until_ms) if unix_ms < until_ms => Gate::Until(until_ms),
            Some(_) if in_flight > 0 => Gate::Probing,
            Some(_) => Gate::Probe,
        }
    }

    pub fn position(&self, unix_ms: u64) -> Position {
        match self.resting(unix_ms) {
            None => Position::Closed,
            Some(until_ms) if unix_ms < until_ms => Position::Open,
            Some(_) => Position::HalfOpen,
        }
    }

    /// Whether messages go without further ado, whatever the time.
    pub fn is_closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Why it is not closed.
    pub fn because(&self) -> Option<Because> {
        match self.state {
            State::Closed => None,
            State::Open { because, .. } => Some(because),
        }
    }

    /// Until when it rests, if it is not closed. A rest that is longer than any comes from a clock that was put back.
    fn resting(&self, unix_ms: u64) -> Option<u64> {
        match self.state {
            State::Closed => None,
            State::Open { until_ms, .. } if until_ms > unix_ms.saturating_add(REST_MAX_MS) => Some(unix_ms),
            State::Open { until_ms, .. } => Some(until_ms),
        }
    }

    pub fn on(&mut self, outcome: Outcome, warning: Option<Warning>, at_ms: u64) -> Option<Shift> {
        let at_ms = self.advance(at_ms);
        let shift = match verdict(outcome) {
            Some(true) => self.succeeded(at_ms),
            Some(false) => self.failed(at_ms),
            None => None,
        };
        match warning {
            Some(_) if self.state == State::Closed => {
                self.failures = 0;
                Some(self.open(at_ms, REST_WARNED_MS, Because::Warning))
            }
            _ => shift,
        }
    }

    /// The time that an outcome counts as of. One that is older than any rest tells of a clock that was put back: what is in its
    /// future would hold the circuit until the clock gets there, so it ends now.
    fn advance(&mut self, at_ms: u64) -> u64 {
        if self.clock_ms <= at_ms.saturating_add(REST_MAX_MS) {
            self.clock_ms = self.clock_ms.max(at_ms);
            return self.clock_ms;
        }
        self.clock_ms = at_ms;
        self.window = Window { since_ms: at_ms, ..Window::default() };
        if let State::Open { until_ms, .. } = &mut self.state
            && *until_ms > at_ms.saturating_add(REST_MAX_MS)
        {
            *until_ms = at_ms;
        }
        at_ms
    }

    fn succeeded(&mut self, at_ms: u64) -> Option<Shift> {
        self.failures = 0;
        match self.state {
            State::Closed => {
                self.window.add(false, at_ms);
                self.successes = self.successes.saturating_add(1);
                if self.successes >= SETTLED {
                    self.level = 0;
                }
                None
            }
            // What was sent before it opened says nothing about now.
            State::Open { until_ms, .. } if at_ms < until_ms => None,
            State::Open { .. } => {
                self.successes += 1;
                if self.successes < PROBES {
                    return None;
                }
                self.state = State::Closed;
                self.successes = 0;
                self.window = Window { since_ms: at_ms, ..Window::default() };
                Some(Shift::Closed)
            }
        }
    }

    fn failed(&mut self, at_ms: u64) -> Option<Shift> {
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Closed => {
                self.successes = 0;
                self.window.add(true, at_ms);
                let most = if self.fast { PROVIDER_FAILURES } else { SIM_FAILURES };
                if self.failures >= most {
                    Some(self.open(at_ms, REST_MIN_MS, Because::Failures))
                } else if self.window.is_bad() {
                    Some(self.open(at_ms, REST_MIN_MS, Because::Share))
                } else {
                    None
                }
            }
            State::Open { until_ms, .. } if at_ms < until_ms => None,
            State::Open { .. } => Some(self.open(at_ms, REST_MIN_MS, Because::Probe)),
        }
    }

    fn open(&mut self, at_ms: u64, least_ms: u64, because: Because) -> Shift {
        let rest_ms = (REST_MIN_MS << self.level.min(20)).max(least_ms).min(REST_MAX_MS);
        self.level = self.level.saturating_add(1).min(20);
        self.successes = 0;
        let until_ms = at_ms.saturating_add(rest_ms);
        self.state = State::Open { until_ms, because };
        Shift::Opened { until_ms, because }
    }
}

/// What an outcome says about its route: it works, it does not, or nothing.
fn verdict(outcome: Outcome) -> Option<bool> {
    match outcome {
        Outcome::Sent { .. } => Some(true),
        Outcome::Failed { class: ErrorClass::Route | ErrorClass::Transient } | Outcome::Doubted => Some(false),
        // The message's fault; or the network's word about a handset, which comes late and is in the health.
        Outcome::Failed { class: ErrorClass::Permanent }
        | Outcome::Undelivered { .. }
        | Outcome::Delivered { .. }
        | Outcome::NoReport => None,
    }
}
