//! How a route fares: a fold of the outcomes of its attempts.
//!
//! | module | what |
//! |---|---|
//! | `score` | one number for the choice and for people, with its reasons |
//! | `latency` | quantiles of the time to sent and to delivered |
//! | `history` | the score over the last day |

pub mod history;
mod latency;
pub mod score;
#[cfg(test)]
mod tests;
mod vitals;

use flotilla_protocol::wire::ErrorClass;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::fact::Outcome;
use latency::Latency;

pub use score::{Reason, ReasonName, Score, score};
pub use vitals::Vitals;

/// Weight of a new sample in what is called lately: about the last 16.
const LATELY: f32 = 1.0 / 16.0;
/// And in what is called usual: about the last 256.
const USUALLY: f32 = 1.0 / 256.0;
/// Samples from which the usual rate or time means something.
const USUAL_MIN: u32 = 64;
/// A route that delivers less than this as a rule gives no warning when it delivers little.
const USUAL_RATE: f32 = 0.7;
/// A warning: lately less than this part of the usual rate is delivered.
const FALLEN: f32 = 0.5;
/// Samples from which the latest time to delivered means something.
const LATELY_MIN: u16 = 16;
/// A warning: half of the messages take so many times longer than usual to be delivered, and at least so long.
const SLOWED: u64 = 3;
const SLOWED_MIN_MS: u64 = 60_000;
/// A warning: so many messages sent over so long a time, and not one report, where reports usually come.
pub(crate) const SILENT_SENT: u32 = 30;
pub(crate) const SILENT_MS: u64 = 600_000;
/// Sent messages over which it is judged whether reports usually come.
const REPORTS_OVER: u16 = 256;
const REPORTS_MIN: u16 = 16;
/// A warning that still holds is given again after this time.
const WARN_AGAIN_MS: u64 = 1_800_000;

/// A block by the carrier is foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Warning {
    /// Lately far less is delivered than usual.
    DeliveryFalls { lately_percent: u8, usually_percent: u8 },
    /// Delivery takes far longer than usual: the times that half of the messages take.
    DeliverySlows { lately_ms: u64, usually_ms: u64 },
    /// No report for so many sent messages, although reports came before.
    ReportsStop { sent: u32, for_s: u64 },
}

/// A new route is presumed healthy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Share of attempts that were handed to the network, lately. What is the message's fault does not count.
    success: f32,
    delivered_lately: f32,
    delivered_usually: f32,
    delivery_samples: u32,
    to_sent: Latency<64>,
    to_delivered: Latency<32>,
    to_delivered_usually: Latency<255>,
    counts: Counts,
    /// Failures since the last message that was sent.
    streak: u16,
    sent_since_report: u32,
    /// When the first of those was sent; 0 when there are none.
    silent_since_ms: u64,
    last_report_ms: u64,
    /// Sent messages, and reports on them, over the last while: both are halved together.
    sent_seen: u16,
    reports_seen: u16,
    last: Option<Last>,
    last_ms: u64,
    slowed: Option<(u64, u64)>,
    /// When the last warning was given; 0 when none holds.
    warned_ms: u64,
}

/// All that ever happened, for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Counts {
    pub sent: u64,
    pub delivered: u64,
    pub undelivered: u64,
    /// Sent, and no report within the message's validity.
    pub unreported: u64,
    /// Attempts of which nobody knew whether they had left.
    pub doubted: u64,
    /// Refused for the message's own fault.
    pub failed_permanent: u64,
    /// Refused because this route cannot send.
    pub failed_route: u64,
    /// Refused for now.
    pub failed_transient: u64,
}

/// The kind of the last outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Last {
    Sent,
    Delivered,
    Undelivered,
    Failed,
    Doubted,
    NoReport,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            success: 1.0,
            delivered_lately: 1.0,
            delivered_usually: 1.0,
            delivery_samples: 0,
            to_sent: Latency::default(),
            to_delivered: Latency::default(),
            to_delivered_usually: Latency::default(),
            counts: Counts::default(),
            streak: 0,
            sent_since_report: 0,
            silent_since_ms: 0,
            last_report_ms: 0,
            sent_seen: 0,
            reports_seen: 0,
            last: None,
            last_ms: 0,
            slowed: None,
            warned_ms: 0,
        }
    }
}

impl Health {
    /// Takes an outcome. Answers a warning when one begins to hold, or has held for another half hour.
    pub fn outcome(&mut self, outcome: Outcome, at_ms: u64) -> Option<Warning> {
        self.last_ms = self.last_ms.max(at_ms);
        self.last = Some(match outcome {
            Outcome::Sent { took_ms } => self.sent(took_ms, at_ms),
            Outcome::Delivered { took_ms } => self.delivered(took_ms, at_ms),
            Outcome::Failed { class } => self.failed(class),
            Outcome::Undelivered { class } => self.undelivered(class, at_ms),
            Outcome::Doubted => {
                self.counts.doubted += 1;
                self.attempted(false)
            }
            Outcome::NoReport => {
                self.counts.unreported += 1;
                // Where reports do not come anyway, one that is missing says nothing.
                if self.expects_reports() {
                    self.delivery(0.0);
                }
                Last::NoReport
            }
        });
        self.warn(at_ms)
    }

    fn sent(&mut self, took_ms: u64, at_ms: u64) -> Last {
        self.counts.sent += 1;
        self.to_sent.record(took_ms);
        self.attempted(true);
        if self.sent_since_report == 0 {
            self.silent_since_ms = at_ms;
        }
        self.sent_since_report = self.sent_since_report.saturating_add(1);
        self.sent_seen += 1;
        if self.sent_seen >= REPORTS_OVER {
            self.sent_seen /= 2;
            self.reports_seen /= 2;
        }
        Last::Sent
    }

    fn delivered(&mut self, took_ms: u64, at_ms: u64) -> Last {
        self.counts.delivered += 1;
        self.to_delivered.record(took_ms);
        self.to_delivered_usually.record(took_ms);
        self.slowed = self.slowed_now();
        self.reported(at_ms);
        self.delivery(1.0);
        Last::Delivered
    }

    fn undelivered(&mut self, class: ErrorClass, at_ms: u64) -> Last {
        self.counts.undelivered += 1;
        self.reported(at_ms);
        if class != ErrorClass::Permanent {
            self.delivery(0.0);
        }
        Last::Undelivered
    }

    fn failed(&mut self, class: ErrorClass) -> Last {
        match class {
            ErrorClass::Permanent => {
                self.counts.failed_permanent += 1;
                return Last::Failed;
            }
            ErrorClass::Route => self.counts.failed_route += 1,
            ErrorClass::Transient => self.counts.failed_transient += 1,
        }
        self.attempted(false);
        Last::Failed
    }

    fn attempted(&mut self, well: bool) -> Last {
        self.success += (f32::from(u8::from(well)) - self.success) * LATELY;
        self.streak = if well { 0 } else { self.streak.saturating_add(1) };
        Last::Doubted
    }

    fn delivery(&mut self, sample: f32) {
        self.delivery_samples = self.delivery_samples.saturating_add(1);
        self.delivered_lately += (sample - self.delivered_lately) * LATELY;
        // A plain mean while there are few: what a route was presumed to be is not what is usual for it.
        let weight = (1.0 / self.delivery_samples as f32).max(USUALLY);
        self.delivered_usually += (sample - self.delivered_usually) * weight;
    }

    fn reported(&mut self, at_ms: u64) {
        self.sent_since_report = 0;
        self.silent_since_ms = 0;
        self.last_report_ms = self.last_report_ms.max(at_ms);
        self.reports_seen = self.reports_seen.saturating_add(1).min(REPORTS_OVER);
    }

    /// Whether at least every other message had its report, over the last while.
    pub(crate) fn expects_reports(&self) -> bool {
        self.reports_seen >= REPORTS_MIN && self.reports_seen >= self.sent_seen / 2
    }

    fn slowed_now(&self) -> Option<(u64, u64)> {
        if self.to_delivered.count() < LATELY_MIN || u32::from(self.to_delivered_usually.count()) < USUAL_MIN {
            return None;
        }
        let (lately, usually) = (self.to_delivered.quantile(50)?, self.to_delivered_usually.quantile(50)?);
        (lately >= SLOWED_MIN_MS && lately >= usually.saturating_mul(SLOWED)).then_some((lately, usually))
    }

    /// The warning that holds at this time, the surest sign first.
    pub fn warning(&self, unix_ms: u64) -> Option<Warning> {
        if self.delivery_samples >= USUAL_MIN
            && self.delivered_usually >= USUAL_RATE
            && self.delivered_lately < self.delivered_usually * FALLEN
        {
            let (lately_percent, usually_percent) = (percent(self.delivered_lately), percent(self.delivered_usually));
            return Some(Warning::DeliveryFalls { lately_percent, usually_percent });
        }
        let silent_ms = self.silent_ms(unix_ms);
        if self.expects_reports() && self.sent_since_report >= SILENT_SENT && silent_ms >= SILENT_MS {
            return Some(Warning::ReportsStop { sent: self.sent_since_report, for_s: silent_ms / 1_000 });
        }
        self.slowed.map(|(lately_ms, usually_ms)| Warning::DeliverySlows { lately_ms, usually_ms })
    }

    fn warn(&mut self, at_ms: u64) -> Option<Warning> {
        let warning = self.warning(at_ms);
        match warning {
            None => {
                self.warned_ms = 0;
                None
            }
            Some(_) if self.warned_ms > 0 && at_ms < self.warned_ms + WARN_AGAIN_MS => None,
            Some(_) => {
                self.warned_ms = at_ms.max(1);
                warning
            }
        }
    }

    /// How long nothing has been heard of what was sent since the last report.
    pub(crate) fn silent_ms(&self, unix_ms: u64) -> u64 {
        if self.silent_since_ms == 0 { 0 } else { unix_ms.saturating_sub(self.silent_since_ms) }
    }

    /// The time of the last outcome (Unix ms).
    pub fn last_ms(&self) -> Option<u64> {
        self.last.map(|_| self.last_ms)
    }

    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What people see of it.
    pub fn view(&self, unix_ms: u64) -> HealthView {
        HealthView {
            success_percent: percent(self.success),
            delivered_percent: (self.delivery_samples > 0).then(|| percent(self.delivered_lately)),
            usually_delivered_percent: (self.delivery_samples > 0).then(|| percent(self.delivered_usually)),
            to_sent_p50_ms: self.to_sent.quantile(50),
            to_sent_p95_ms: self.to_sent.quantile(95),
            to_delivered_p50_ms: self.to_delivered.quantile(50),
            to_delivered_p95_ms: self.to_delivered.quantile(95),
            usually_to_delivered_p50_ms: self.to_delivered_usually.quantile(50),
            failures_in_a_row: self.streak,
            sent_since_report: self.sent_since_report,
            last_report_unix_ms: (self.last_report_ms > 0).then_some(self.last_report_ms),
            last_outcome: self.last,
            last_outcome_unix_ms: self.last_ms(),
            counts: self.counts,
            warning: self.warning(unix_ms),
        }
    }
}

/// A route's health in numbers; times are those of the last messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct HealthView {
    /// Attempts handed to the network, of about the last 16 that were not refused for the message's own fault.
    pub success_percent: u8,
    /// Messages delivered, of about the last 16 of which it is known.
    pub delivered_percent: Option<u8>,
    /// And of about the last 256.
    pub usually_delivered_percent: Option<u8>,
    pub to_sent_p50_ms: Option<u64>,
    pub to_sent_p95_ms: Option<u64>,
    pub to_delivered_p50_ms: Option<u64>,
    pub to_delivered_p95_ms: Option<u64>,
    pub usually_to_delivered_p50_ms: Option<u64>,
    pub failures_in_a_row: u16,
    /// Messages sent since the last delivery report.
    pub sent_since_report: u32,
    pub last_report_unix_ms: Option<u64>,
    pub last_outcome: Option<Last>,
    pub last_outcome_unix_ms: Option<u64>,
    pub counts: Counts,
    /// A block by the carrier is foreseen.
    pub warning: Option<Warning>,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of one, as whole percent")]
fn percent(share: f32) -> u8 {
    (share * 100.0 + 0.5) as u8
}
