//! Weights that learn: what a route has delivered to a country, and a draw from what that makes probable.
//!
//! Thompson sampling. What is known of a route and a country is a count of delivered and of failed messages, in which old ones
//! fade. A choice draws, for each route that it looks at, from the Beta distribution of its counts: a route that is known to
//! deliver draws high, one that is known to fail draws low, and one that is little known draws anything, so it is tried. The
//! draw is made from the message's number, so it can be repeated and explained.
//!
//! Counts are a fold of facts and are always kept; tenants that have not switched learning on do not use them.

use flotilla_protocol::number::Region;
use flotilla_protocol::wire::ErrorClass;
use rand::SeedableRng;
use rand::rngs::Xoshiro256PlusPlus;
use rand_distr::{Beta, Distribution};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fact::Outcome;

/// Counts are half as much after a week.
const HALF_LIFE_MS: f64 = 7.0 * 86_400_000.0;
/// And never more than this together, so that what is new weighs something.
const COUNTS_MAX: f32 = 400.0;
/// Countries that are told apart for a route; the one that was heard of longest ago gives way.
pub const COUNTRIES_MAX: usize = 32;

/// What one route has delivered, by country.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Learned {
    countries: Vec<(Option<Region>, Seen)>,
}

/// Delivered and failed messages, the older ones faded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Seen {
    pub delivered: f32,
    pub failed: f32,
    /// As of when (Unix ms).
    pub unix_ms: u64,
}

impl Learned {
    pub fn outcome(&mut self, region: Option<Region>, outcome: Outcome, at_ms: u64) {
        let delivered = match outcome {
            Outcome::Delivered { .. } => true,
            // A bad number is not the route's fault; a doubt and silence say nothing.
            Outcome::Failed { class: ErrorClass::Permanent }
            | Outcome::Undelivered { class: ErrorClass::Permanent }
            | Outcome::Sent { .. }
            | Outcome::Doubted
            | Outcome::NoReport => return,
            Outcome::Failed { .. } | Outcome::Undelivered { .. } => false,
        };
        self.of(region).add(delivered, at_ms);
    }

    /// What is known now.
    pub fn seen(&self, region: Option<Region>, unix_ms: u64) -> Seen {
        let known = self.countries.iter().find(|(of, _)| *of == region);
        known.map_or(Seen { unix_ms, ..Seen::default() }, |(_, seen)| seen.faded(unix_ms))
    }

    fn of(&mut self, region: Option<Region>) -> &mut Seen {
        let known = self.countries.iter().position(|(of, _)| *of == region);
        let place = known.unwrap_or_else(|| {
            if self.countries.len() >= COUNTRIES_MAX {
                let oldest = self.countries.iter().enumerate().min_by_key(|(_, (_, seen))| seen.unix_ms);
                let oldest = oldest.map_or(0, |(place, _)| place);
                self.countries.swap_remove(oldest);
            }
            self.countries.push((region, Seen::default()));
            self.countries.len() - 1
        });
        &mut self.countries[place].1
    }
}

impl Seen {
    fn add(&mut self, delivered: bool, at_ms: u64) {
        let mut seen = self.faded(at_ms);
        if delivered {
            seen.delivered += 1.0;
        } else {
            seen.failed += 1.0;
        }
        let all = seen.delivered + seen.failed;
        if all > COUNTS_MAX {
            seen.delivered *= COUNTS_MAX / all;
            seen.failed *= COUNTS_MAX / all;
        }
        *self = seen;
    }

    /// As of a later time; a time before counts as now.
    fn faded(&self, unix_ms: u64) -> Self {
        let age_ms = unix_ms.saturating_sub(self.unix_ms);
        if self.unix_ms == 0 || age_ms == 0 {
            return Self { unix_ms: self.unix_ms.max(unix_ms), ..*self };
        }
        let left = (-(age_ms as f64) / HALF_LIFE_MS).exp2() as f32;
        Self { delivered: self.delivered * left, failed: self.failed * left, unix_ms }
    }

    /// A share of deliveries, 0 to 1, drawn from what is known. The same number draws the same.
    pub fn draw(&self, number: u64) -> f32 {
        let (alpha, beta) = (1.0 + f64::from(self.delivered), 1.0 + f64::from(self.failed));
        let mut random = Xoshiro256PlusPlus::seed_from_u64(number);
        // Both are finite and at least 1.
        Beta::new(alpha, beta).map_or(0.5, |beta| beta.sample(&mut random) as f32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const START_MS: u64 = 1_795_262_400_000;
    const DELIVERED: Outcome = Outcome::Delivered { took_ms: 1_000 };
    const FAILED: Outcome = Outcome::Undelivered { class: ErrorClass::Transient };

    fn region(text: &str) -> Option<Region> {
        Some(Region::parse(text).unwrap())
    }

    fn mean(seen: &Seen) -> f32 {
        (0..2_000).map(|number| seen.draw(number)).sum::<f32>() / 2_000.0
    }

    #[test]
    fn draws_follow_what_was_delivered_and_what_is_unknown_draws_anything() {
        let mut learned = Learned::default();
        for n in 0..100 {
            learned.outcome(region("TZ"), if n % 10 == 0 { FAILED } else { DELIVERED }, START_MS);
            learned.outcome(region("KE"), if n % 10 == 0 { DELIVERED } else { FAILED }, START_MS);
        }
        let (good, bad) = (learned.seen(region("TZ"), START_MS), learned.seen(region("KE"), START_MS));
        assert_eq!((good.delivered, good.failed, bad.delivered), (90.0, 10.0, 10.0));
        assert!((mean(&good) - 0.89).abs() < 0.02 && (mean(&bad) - 0.11).abs() < 0.02);
        let unknown = learned.seen(None, START_MS);
        assert!((mean(&unknown) - 0.5).abs() < 0.03);
        let wins = (0..1_000).filter(|n| unknown.draw(n * 2) > good.draw(n * 2 + 1)).count();
        assert!((20..200).contains(&wins), "it is tried, and seldom: {wins}");
        assert_eq!(good.draw(42), good.draw(42));
    }

    #[test]
    fn old_counts_fade_and_many_do_not_drown_what_is_new() {
        let mut learned = Learned::default();
        for _ in 0..10_000 {
            learned.outcome(None, DELIVERED, START_MS);
        }
        let full = learned.seen(None, START_MS).delivered;
        assert!((full - COUNTS_MAX).abs() < 1.0, "{full}");
        let later = learned.seen(None, START_MS + 7 * DAY_MS).delivered;
        assert!((later - COUNTS_MAX / 2.0).abs() < 1.0, "{later}");
    }

    #[test]
    fn what_says_nothing_about_the_route_is_not_counted() {
        let mut learned = Learned::default();
        for outcome in [
            Outcome::Failed { class: ErrorClass::Permanent },
            Outcome::Undelivered { class: ErrorClass::Permanent },
            Outcome::Doubted,
            Outcome::NoReport,
            Outcome::Sent { took_ms: 1 },
        ] {
            learned.outcome(None, outcome, START_MS);
        }
        assert_eq!(learned, Learned::default());
    }

    #[test]
    fn countries_are_bounded() {
        let mut learned = Learned::default();
        for (n, a) in ('A'..='Z').enumerate() {
            for b in ['A', 'B'] {
                learned.outcome(region(&format!("{a}{b}")), DELIVERED, START_MS + n as u64);
            }
        }
        assert_eq!(learned.countries.len(), COUNTRIES_MAX);
        assert!(learned.seen(region("ZB"), START_MS).delivered > 0.9);
        assert!(learned.seen(region("AA"), START_MS).delivered < 0.1);
    }
}
