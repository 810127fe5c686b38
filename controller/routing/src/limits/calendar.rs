//! Where a moment is in the calendar of a time zone: its day and month, and when they end.

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::civil;
use super::invalid::Invalid;

/// Computed once a day for each time zone: [`Calendar::at`] moves a known one on within its day at the cost of two comparisons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Calendar {
    pub unix_ms: u64,
    /// Days since 1970-01-01.
    pub day: i32,
    /// Months since 1970-01.
    pub month: i32,
    /// When the day began, and when the next day and month begin (Unix ms).
    pub day_starts_ms: u64,
    pub next_day_ms: u64,
    pub next_month_ms: u64,
}

impl Calendar {
    pub fn new(zone: &TimeZone, unix_ms: u64) -> Self {
        let date = zone.to_datetime(timestamp(unix_ms)).date();
        let day = civil::day_number(i32::from(date.year()), date.month() as u32, date.day() as u32);
        // Where the clock repeats an hour over midnight, a day may end before it is this moment: it ends an hour later then.
        let next_ms = |next: Option<Date>| {
            let starts_ms = next.map_or(u64::MAX, |next| start_of(zone, next));
            if starts_ms > unix_ms { starts_ms } else { unix_ms + 3_600_000 }
        };
        Self {
            unix_ms,
            day,
            month: civil::month_of(day),
            day_starts_ms: start_of(zone, date).min(unix_ms),
            next_day_ms: next_ms(date.tomorrow().ok()),
            next_month_ms: next_ms(date.last_of_month().tomorrow().ok()),
        }
    }

    /// The same calendar at another moment.
    pub fn at(self, zone: &TimeZone, unix_ms: u64) -> Self {
        if (self.day_starts_ms..self.next_day_ms).contains(&unix_ms) && self.next_day_ms > 0 {
            Self { unix_ms, ..self }
        } else {
            Self::new(zone, unix_ms)
        }
    }
}

/// A time zone by its IANA name; UTC for an empty one. To be asked when settings change, and kept: it reads files.
pub fn zone(field: &str, name: &str) -> Result<TimeZone, Invalid> {
    if name.is_empty() {
        return Ok(TimeZone::UTC);
    }
    if name.len() > 64 {
        return Err(Invalid::new(
            field,
            "is at most 64 characters long; give an IANA name such as Africa/Dar_es_Salaam",
        ));
    }
    TimeZone::get(name).map_err(|_| {
        Invalid::new(
            field,
            "is no time zone known here; give an IANA name such as Africa/Dar_es_Salaam, or leave it empty for UTC",
        )
    })
}

pub(super) fn timestamp(unix_ms: u64) -> Timestamp {
    i64::try_from(unix_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX)
}

pub(super) fn unix_ms(at: Timestamp) -> u64 {
    u64::try_from(at.as_millisecond()).unwrap_or(0)
}

/// The first moment of a civil day.
fn start_of(zone: &TimeZone, date: Date) -> u64 {
    date.to_zoned(zone.clone()).map_or(u64::MAX, |start| unix_ms(start.timestamp()))
}
