//! One number from 0 to 100 for how well a route will probably do, and what it is made of.
//!
//! A hundred, less the points of each reason. No input that is worse ever gives a better score, so two routes can be compared
//! by it, and each point can be explained. The table of reasons is in `docs/routing.md`; the numbers are these constants.

use flotilla_protocol::wire::Registration;
use serde::Serialize;
use smallvec::SmallVec;
use utoipa::ToSchema;

use super::{Health, SILENT_MS, SILENT_SENT, Vitals};
use crate::Micros;

/// Points of a route that sends nothing at all.
const FAILING: f32 = 50.0;
/// For each failure in a row, and at most.
const STREAK: f32 = 4.0;
const STREAK_MAX: f32 = 20.0;
/// Points of a route of which nothing is delivered, once there are so many samples.
const UNDELIVERED: f32 = 30.0;
const UNDELIVERED_MIN: u32 = 8;
/// One message of twenty takes longer than this to be sent.
const SLOW_MS: u64 = 60_000;
const SLOW: f32 = 5.0;
const VERY_SLOW_MS: u64 = 300_000;
const VERY_SLOW: f32 = 10.0;
/// No report over the time of a warning, for a third of its messages, and for all of them.
const SILENT: f32 = 10.0;
const VERY_SILENT: f32 = 20.0;
const FORESEEN: f32 = 20.0;
/// After this time without an outcome the above count half.
const FADE_MS: f32 = 1_800_000.0;

/// Signals above cost nothing; below, so much for each dBm, and at most.
const SIGNAL_GOOD_DBM: i16 = -85;
const SIGNAL: f32 = 0.6;
const SIGNAL_MAX: f32 = 15.0;
const UNREGISTERED: f32 = 40.0;
const SEARCHING: f32 = 25.0;
const ROAMING: f32 = 10.0;
/// A battery that is not charged, below so many percent: so much for each percent.
const BATTERY_GOOD: u8 = 20;
const BATTERY: f32 = 0.75;
/// Telemetry older than this costs a point for each further minute, and at most.
const FRESH_MS: u64 = 120_000;
const STALE_MAX: f32 = 10.0;
const BALANCE_LOW: f32 = 10.0;
const BALANCE_NONE: f32 = 30.0;

#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Score {
    /// 0 to 100.
    pub value: u8,
    /// What has taken points, in the order of the table.
    #[schema(value_type = Vec<Reason>)]
    pub reasons: SmallVec<[Reason; 4]>,
}

/// Something that makes a route worse.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, ToSchema)]
pub struct Reason {
    pub name: ReasonName,
    /// Points taken, 1 to 50.
    pub points: u8,
    /// What it was made from, in the unit of its name.
    pub value: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonName {
    /// Attempts that the network took, percent.
    Failing,
    /// Failures in a row.
    FailuresInARow,
    /// Messages that were delivered, percent.
    Undelivered,
    /// Milliseconds that one message of twenty takes longer than to be sent.
    SlowToSend,
    /// Messages sent without a report, where reports usually come.
    ReportsSilent,
    /// A block is foreseen; 1.
    BlockForeseen,
    /// dBm.
    Signal,
    /// The registration's number: 1 not registered, 2 searching, 3 denied.
    NotRegistered,
    /// 1.
    Roaming,
    /// Percent, not charging.
    Battery,
    /// Age of the last telemetry, seconds.
    TelemetryOld,
    /// The balance, in the tenant's currency.
    Balance,
}

/// Adds up points; what rounds to none is not a reason.
#[derive(Default)]
struct Sum {
    points: u32,
    reasons: SmallVec<[Reason; 4]>,
}

impl Sum {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "points are between 0 and 50")]
    fn take(&mut self, name: ReasonName, points: f32, value: f64) {
        let points = (points + 0.5) as u8;
        if points > 0 {
            self.points += u32::from(points);
            self.reasons.push(Reason { name, points, value });
        }
    }
}

/// The score of a route at a time. Without vitals by its outcomes alone.
pub fn score(health: &Health, vitals: Option<&Vitals>, unix_ms: u64) -> Score {
    let mut sum = Sum::default();
    outcomes(health, unix_ms, &mut sum);
    if let Some(vitals) = vitals {
        radio(vitals, &mut sum);
        device(vitals, unix_ms, &mut sum);
    }
    Score { value: 100u32.saturating_sub(sum.points) as u8, reasons: sum.reasons }
}

/// What has happened, the less the longer it is ago: a route that nobody tries would never get better else.
fn outcomes(health: &Health, unix_ms: u64, sum: &mut Sum) {
    let Some(last_ms) = health.last_ms() else { return };
    let fade = FADE_MS / (FADE_MS + unix_ms.saturating_sub(last_ms) as f32);
    let share = |share: f32| f64::from((share * 1_000.0).round()) / 10.0;
    sum.take(ReasonName::Failing, FAILING * (1.0 - health.success) * fade, share(health.success));
    let streak = (STREAK * f32::from(health.streak)).min(STREAK_MAX);
    sum.take(ReasonName::FailuresInARow, streak * fade, f64::from(health.streak));
    if health.delivery_samples >= UNDELIVERED_MIN {
        let points = UNDELIVERED * (1.0 - health.delivered_lately) * fade;
        sum.take(ReasonName::Undelivered, points, share(health.delivered_lately));
    }
    if let Some(p95_ms) = health.to_sent.quantile(95) {
        let points = match p95_ms {
            ..SLOW_MS => 0.0,
            SLOW_MS..VERY_SLOW_MS => SLOW,
            VERY_SLOW_MS.. => VERY_SLOW,
        };
        sum.take(ReasonName::SlowToSend, points * fade, p95_ms as f64);
    }
    if health.expects_reports() && health.silent_ms(unix_ms) >= SILENT_MS {
        let points = match health.sent_since_report {
            SILENT_SENT.. => VERY_SILENT,
            sent if sent >= SILENT_SENT / 3 => SILENT,
            _ => 0.0,
        };
        sum.take(ReasonName::ReportsSilent, points * fade, f64::from(health.sent_since_report));
    }
    if health.warning(unix_ms).is_some() {
        sum.take(ReasonName::BlockForeseen, FORESEEN * fade, 1.0);
    }
}

fn radio(vitals: &Vitals, sum: &mut Sum) {
    if let Some(dbm) = vitals.signal_dbm {
        let below = f32::from(SIGNAL_GOOD_DBM.saturating_sub(dbm).max(0));
        sum.take(ReasonName::Signal, (SIGNAL * below).min(SIGNAL_MAX), f64::from(dbm));
    }
    match vitals.registration {
        Registration::NotRegistered => sum.take(ReasonName::NotRegistered, UNREGISTERED, 1.0),
        Registration::Searching => sum.take(ReasonName::NotRegistered, SEARCHING, 2.0),
        Registration::Denied => sum.take(ReasonName::NotRegistered, UNREGISTERED, 3.0),
        Registration::Roaming => sum.take(ReasonName::Roaming, ROAMING, 1.0),
        Registration::Home | Registration::Unknown => {}
    }
}

fn device(vitals: &Vitals, unix_ms: u64, sum: &mut Sum) {
    if let Some(percent) = vitals.battery_percent.filter(|_| vitals.charging != Some(true)) {
        let points = BATTERY * f32::from(BATTERY_GOOD.saturating_sub(percent));
        sum.take(ReasonName::Battery, points, f64::from(percent));
    }
    if let Some(at_ms) = vitals.at_ms {
        let age_ms = unix_ms.saturating_sub(at_ms);
        let minutes = (age_ms.saturating_sub(FRESH_MS) / 60_000).min(60) as f32;
        sum.take(ReasonName::TelemetryOld, minutes.min(STALE_MAX), (age_ms / 1_000) as f64);
    }
    if let Some(balance) = vitals.balance {
        let points = match vitals.low_balance {
            _ if balance == Micros::ZERO => BALANCE_NONE,
            Some(low) if balance <= low => BALANCE_LOW,
            _ => 0.0,
        };
        sum.take(ReasonName::Balance, points, balance.0 as f64 / 1_000_000.0);
    }
}
