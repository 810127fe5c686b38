//! What has been charged to one scope: a SIM or sender, a device or account, a tenant.

use serde::{Deserialize, Serialize};

use super::recipients::Distinct;
use super::sliding::{Hour, Minute};
use crate::Micros;
use crate::fact::Charge;
use crate::limits::civil;

/// Calendar days whose segments are known: the newest and those before it, for late charges, a change of the time zone, and a
/// clock that was put back.
const DAYS: usize = 3;
/// Calendar months likewise.
const MONTHS: usize = 2;
/// The month before is forgotten when the new one is so old.
const FORMER_MONTH_DAYS: i32 = 3;
/// A scope that was charged nothing for so long begins anew, its warm-up too.
pub const FORGOTTEN_AFTER_MS: u64 = 62 * 86_400_000;
/// Sliding windows are dropped when they have been empty for so long. An hour would do, if clocks never went back.
const WINDOWS_KEPT_MS: u64 = 2 * 3_600_000;

/// Small while idle: what slides is allocated with the first charge, and dropped two hours after the last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counters {
    minute: Minute,
    hour: Hour,
    /// The newest first.
    days: Vec<(i32, u32)>,
    /// The newest first.
    months: Vec<MonthUse>,
    last_charge_ms: u64,
    /// Of the last charge: what the jitter of the pause after it is made from.
    last_seed: u64,
    first_day: Option<i32>,
}

/// What a calendar month has been charged.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct MonthUse {
    /// Months since 1970-01.
    month: i32,
    segments: u32,
    /// Segments of charges that cost nothing: paid with the plan's bundle.
    free: u32,
    cost: Micros,
    recipients: Distinct,
}

impl Counters {
    pub const EMPTY: Self = Self {
        minute: Minute::EMPTY,
        hour: Hour::EMPTY,
        days: Vec::new(),
        months: Vec::new(),
        last_charge_ms: 0,
        last_seed: 0,
        first_day: None,
    };

    /// `day` is the calendar day of the charge in this scope's time zone.
    pub(crate) fn charge(&mut self, charge: &Charge, day: i32) {
        let segments = u32::from(charge.segments);
        self.minute.add(charge.at_ms, segments);
        self.hour.add(charge.at_ms, segments);
        if let Some(used) = newest_first(&mut self.days, DAYS, day, |(day, _)| *day, |day| (day, 0)) {
            used.1 = used.1.saturating_add(segments);
        }
        let month = civil::month_of(day);
        let fresh = |month| MonthUse { month, ..MonthUse::default() };
        if let Some(used) = newest_first(&mut self.months, MONTHS, month, |used| used.month, fresh) {
            used.segments = used.segments.saturating_add(segments);
            used.cost = used.cost.saturating_add(charge.cost);
            if charge.cost == Micros::ZERO {
                used.free = used.free.saturating_add(segments);
            }
            used.recipients.add(charge.recipient);
        }
        if self.months.first().is_some_and(|used| used.month == month && civil::day_of_month(day) > FORMER_MONTH_DAYS) {
            self.months.truncate(1);
        }
        if charge.at_ms >= self.last_charge_ms {
            self.last_charge_ms = charge.at_ms;
            self.last_seed = charge.recipient;
        }
        self.first_day = Some(self.first_day.map_or(day, |first| first.min(day)));
    }

    /// Segments of the 60 seconds that end now, whole seconds counted.
    pub fn last_minute(&self, now_ms: u64) -> u32 {
        self.minute.used(now_ms)
    }

    /// Segments of the 60 minutes that end now, whole minutes counted.
    pub fn last_hour(&self, now_ms: u64) -> u32 {
        self.hour.used(now_ms)
    }

    pub(crate) fn minute(&self) -> &Minute {
        &self.minute
    }

    pub(crate) fn hour(&self) -> &Hour {
        &self.hour
    }

    /// Segments of this day, and of later ones: after a change of the time zone, or of the clock, they are the same day's.
    pub fn on_day(&self, day: i32) -> u32 {
        self.days.iter().filter(|(of, _)| *of >= day).fold(0, |sum, (_, used)| sum.saturating_add(*used))
    }

    pub fn in_month(&self, month: i32) -> u32 {
        self.since_month(month).fold(0, |sum, used| sum.saturating_add(used.segments))
    }

    /// Segments that the plan's bundle has paid in this month.
    pub fn bundle_used(&self, month: i32) -> u32 {
        self.since_month(month).fold(0, |sum, used| sum.saturating_add(used.free))
    }

    pub fn cost(&self, month: i32) -> Micros {
        self.since_month(month).fold(Micros::ZERO, |sum, used| sum.saturating_add(used.cost))
    }

    /// Different recipients of this month. Exact up to [`super::RECIPIENTS_MAX`]; every later message counts as a new one.
    pub fn recipients(&self, month: i32) -> u32 {
        self.since_month(month).fold(0, |sum, used| sum.saturating_add(used.recipients.count()))
    }

    /// Whether this recipient (a hash) is counted already.
    pub fn knows_recipient(&self, month: i32, recipient: u64) -> bool {
        self.since_month(month).any(|used| used.recipients.contains(recipient))
    }

    /// When the last segments left (Unix ms).
    pub fn last_charge_ms(&self) -> Option<u64> {
        (self.last_charge_ms > 0).then_some(self.last_charge_ms)
    }

    pub(crate) fn last_seed(&self) -> u64 {
        self.last_seed
    }

    /// The calendar day of the first charge: warm-up counts from it.
    pub fn first_day(&self) -> Option<i32> {
        self.first_day
    }

    fn since_month(&self, month: i32) -> impl Iterator<Item = &MonthUse> {
        self.months.iter().filter(move |used| used.month >= month)
    }

    /// Drops what no limit can look at any more. Answers whether anything is left.
    pub(crate) fn prune(&mut self, now_ms: u64) -> bool {
        self.minute.forget_before(now_ms.saturating_sub(WINDOWS_KEPT_MS));
        self.hour.forget_before(now_ms.saturating_sub(WINDOWS_KEPT_MS));
        self.last_charge_ms.saturating_add(FORGOTTEN_AFTER_MS) > now_ms
    }
}

/// The entry with this key in a list that has the newest first and no more than `kept`; none when it would be older than all
/// of a full list.
fn newest_first<T>(
    list: &mut Vec<T>,
    kept: usize,
    key: i32,
    key_of: impl Fn(&T) -> i32,
    fresh: impl Fn(i32) -> T,
) -> Option<&mut T> {
    let at = list.iter().position(|entry| key_of(entry) <= key).unwrap_or(list.len());
    if list.get(at).is_none_or(|entry| key_of(entry) != key) {
        if at >= kept {
            return None;
        }
        list.insert(at, fresh(key));
        list.truncate(kept);
    }
    list.get_mut(at)
}
