//! How a test provider behaves: shares of requests that go wrong, and of reports, drawn from a seed.

use std::time::Duration;

use anyhow::ensure;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// Shares are from 0 to 1. Those of requests add up to 1 at most, what is left is taken and answered well; those of reports are
/// each for themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Script {
    /// From the request to its answer, at most: half of it on average.
    pub latency_ms: u64,
    /// 429 with `Retry-After: 1`; not taken.
    pub throttled: f64,
    /// 500; not taken.
    pub broken: f64,
    /// 500; taken nevertheless.
    pub broken_after_taking: f64,
    /// Answered with 500 only after `slow_ms`; not taken.
    pub slow: f64,
    /// Taken, and answered only after `slow_ms`.
    pub slow_after_taking: f64,
    pub slow_ms: u64,
    /// The connection is closed without an answer; every second one is taken.
    pub closed: f64,
    /// 200 with what nobody can read; every second one is taken.
    pub garbage: f64,
    /// Refused for good: no such number.
    pub permanent: f64,
    /// Refused because of the account.
    pub route: f64,
    /// From taking a message to its last report, at most.
    pub report_ms: u64,
    /// Taken, and no report ever comes.
    pub silent: f64,
    /// Taken, and given up by the network for good.
    pub undelivered: f64,
    /// Reports of which a forged one, with the opposite news, comes first.
    pub forged: f64,
    /// Reports that come twice.
    pub twice: f64,
    /// Reports of a former state that come after those of a later one.
    pub disordered: f64,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            latency_ms: 20,
            throttled: 0.0,
            broken: 0.0,
            broken_after_taking: 0.0,
            slow: 0.0,
            slow_after_taking: 0.0,
            slow_ms: 5_000,
            closed: 0.0,
            garbage: 0.0,
            permanent: 0.0,
            route: 0.0,
            report_ms: 1_000,
            silent: 0.0,
            undelivered: 0.0,
            forged: 0.0,
            twice: 0.0,
            disordered: 0.0,
        }
    }
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behaviour {
    Ok,
    Throttled,
    Broken,
    BrokenAfterTaking,
    Slow,
    SlowAfterTaking,
    Closed { taken: bool },
    Garbage { taken: bool },
    Permanent,
    Route,
}

impl Behaviour {
    pub(super) const fn takes(self) -> bool {
        match self {
            Self::Ok | Self::BrokenAfterTaking | Self::SlowAfterTaking => true,
            Self::Closed { taken } | Self::Garbage { taken } => taken,
            Self::Throttled | Self::Broken | Self::Slow | Self::Permanent | Self::Route => false,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Throttled => "429",
            Self::Broken => "500",
            Self::BrokenAfterTaking => "500 after taking",
            Self::Slow => "slow",
            Self::SlowAfterTaking => "slow after taking",
            Self::Closed { .. } => "connection closed",
            Self::Garbage { .. } => "garbage",
            Self::Permanent => "refused for good",
            Self::Route => "refused for the account",
        }
    }
}

/// What becomes of a message that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fate {
    pub ends: End,
    pub after: Duration,
    pub forged: bool,
    pub twice: bool,
    pub disordered: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Delivered,
    Undelivered,
    Silence,
}

/// A script with its chance.
#[derive(Debug)]
pub(super) struct Dice {
    script: Script,
    rng: StdRng,
}

impl Script {
    pub fn check(&self) -> anyhow::Result<()> {
        let (requests, reports) = (self.of_requests(), self.of_reports());
        let shares = requests.iter().chain(&reports);
        ensure!(shares.into_iter().all(|share| (0.0..=1.0).contains(share)), "a share is not between 0 and 1");
        ensure!(requests.iter().sum::<f64>() <= 1.0, "the shares of requests add up to more than 1");
        ensure!(self.silent + self.undelivered <= 1.0, "`silent` and `undelivered` add up to more than 1");
        Ok(())
    }

    fn of_requests(&self) -> [f64; 9] {
        [
            self.throttled,
            self.broken,
            self.broken_after_taking,
            self.slow,
            self.slow_after_taking,
            self.closed,
            self.garbage,
            self.permanent,
            self.route,
        ]
    }

    fn of_reports(&self) -> [f64; 5] {
        [self.silent, self.undelivered, self.forged, self.twice, self.disordered]
    }

    pub fn slow_for(&self) -> Duration {
        Duration::from_millis(self.slow_ms)
    }
}

impl Dice {
    pub(super) fn new(script: Script, seed: u64) -> Self {
        Self { script, rng: StdRng::seed_from_u64(seed) }
    }

    pub(super) fn script(&self) -> &Script {
        &self.script
    }

    pub(super) fn behaviour(&mut self) -> Behaviour {
        let mut luck: f64 = self.rng.random();
        let taken: bool = self.rng.random();
        let kinds = [
            Behaviour::Throttled,
            Behaviour::Broken,
            Behaviour::BrokenAfterTaking,
            Behaviour::Slow,
            Behaviour::SlowAfterTaking,
            Behaviour::Closed { taken },
            Behaviour::Garbage { taken },
            Behaviour::Permanent,
            Behaviour::Route,
        ];
        for (share, kind) in self.script.of_requests().into_iter().zip(kinds) {
            luck -= share;
            if luck < 0.0 {
                return kind;
            }
        }
        Behaviour::Ok
    }

    pub(super) fn fate(&mut self) -> Fate {
        let luck: f64 = self.rng.random();
        let ends = match luck {
            luck if luck < self.script.silent => End::Silence,
            luck if luck < self.script.silent + self.script.undelivered => End::Undelivered,
            _ => End::Delivered,
        };
        let mut strikes = |share: f64| self.rng.random::<f64>() < share;
        let (forged, twice, disordered) =
            (strikes(self.script.forged), strikes(self.script.twice), strikes(self.script.disordered));
        let after = Duration::from_millis(self.rng.random_range(0..=self.script.report_ms));
        Fate { ends, after, forged, twice, disordered }
    }

    pub(super) fn latency(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(0..=self.script.latency_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_met_and_the_same_seed_draws_the_same() {
        let script = Script { throttled: 0.2, closed: 0.3, undelivered: 0.25, ..Script::default() };
        script.check().unwrap();
        let draw = || {
            let mut dice = Dice::new(script.clone(), 7);
            (0..10_000).map(|_| (dice.behaviour(), dice.fate())).collect::<Vec<_>>()
        };
        let drawn = draw();
        let share = |test: &dyn Fn(&(Behaviour, Fate)) -> bool| drawn.iter().filter(|one| test(one)).count();
        assert!((1_800..2_200).contains(&share(&|(b, _)| *b == Behaviour::Throttled)));
        assert!((2_800..3_200).contains(&share(&|(b, _)| matches!(b, Behaviour::Closed { .. }))));
        assert!((1_300..1_700).contains(&share(&|(b, _)| *b == Behaviour::Closed { taken: true })));
        assert!((2_300..2_700).contains(&share(&|(_, f)| f.ends == End::Undelivered)));
        assert_eq!(draw(), drawn);
    }

    #[test]
    fn shares_that_cannot_be_are_refused() {
        assert!(Script { slow: 1.5, ..Script::default() }.check().is_err());
        assert!(Script { slow: 0.6, garbage: 0.6, ..Script::default() }.check().is_err());
        assert!(Script { silent: 0.6, undelivered: 0.6, ..Script::default() }.check().is_err());
    }
}
