//! When a route may send: windows of the week on the clock of its time zone.
//!
//! A window is open when the wall clock says so, so it holds on days that are an hour short or long too: what the clock skips
//! is not opened, what it repeats is opened twice.

use jiff::civil::{DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

use super::calendar::{timestamp, unix_ms};
use super::check::parse_window;
use super::invalid::Invalid;
use crate::settings::Window;

/// How far the next opening or closing is looked for. A week holds all there are; one day more, for days that skip an hour.
const LOOK_AHEAD_DAYS: i64 = 8;

/// Send windows, compiled. Without any, always open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Windows {
    spans: Vec<Span>,
}

/// Minutes of the day. `to` may be at most 24:00; a span over midnight begins on its days and ends on the next ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    /// Bit 0 is Monday.
    pub(super) days: u8,
    pub(super) from: u16,
    pub(super) to: u16,
}

impl Span {
    fn is_on(self, weekday: u8) -> bool {
        self.days & (1 << weekday) != 0
    }

    /// `weekday` from 0, Monday.
    fn is_open(self, weekday: u8, minute: u16) -> bool {
        if self.from < self.to {
            return self.is_on(weekday) && (self.from..self.to).contains(&minute);
        }
        (self.is_on(weekday) && minute >= self.from) || (self.is_on((weekday + 6) % 7) && minute < self.to)
    }
}

/// Whether the windows are open, and until when that is so (Unix ms): not beyond eight days, look again then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    pub open: bool,
    pub until_ms: u64,
}

impl Windows {
    pub fn compile(windows: &[Window]) -> Result<Self, Invalid> {
        let spans = windows.iter().enumerate().map(|(n, window)| parse_window(&format!("windows[{n}]"), window));
        Ok(Self { spans: spans.collect::<Result<_, _>>()? })
    }

    pub fn is_always_open(&self) -> bool {
        self.spans.is_empty()
    }

    /// To be kept until `until_ms`: it looks through the week.
    pub fn opening(&self, zone: &TimeZone, now_ms: u64) -> Opening {
        let now = timestamp(now_ms);
        let end = now.checked_add(SignedDuration::from_hours(24 * LOOK_AHEAD_DAYS)).unwrap_or(Timestamp::MAX);
        if self.spans.is_empty() {
            return Opening { open: true, until_ms: unix_ms(end) };
        }
        let open = self.is_open(zone, now);
        let mut moments: Vec<Timestamp> = self.moments(zone, now);
        moments.extend(zone.following(now).map(|change| change.timestamp()).take_while(|at| *at < end).take(64));
        moments.sort_unstable();
        let change = moments.into_iter().find(|at| *at > now && self.is_open(zone, *at) != open);
        Opening { open, until_ms: unix_ms(change.unwrap_or(end).min(end)) }
    }

    fn is_open(&self, zone: &TimeZone, at: Timestamp) -> bool {
        let local = zone.to_datetime(at);
        let minute = local.hour() as u16 * 60 + local.minute() as u16;
        let weekday = local.weekday().to_monday_zero_offset() as u8;
        self.spans.iter().any(|span| span.is_open(weekday, minute))
    }

    /// When the clock shows the beginning or the end of a window, yesterday and in the days to come.
    fn moments(&self, zone: &TimeZone, now: Timestamp) -> Vec<Timestamp> {
        let mut date = zone.to_datetime(now).date();
        let mut moments = Vec::new();
        for _ in 0..=LOOK_AHEAD_DAYS {
            let Ok(next) = date.tomorrow() else { break };
            let weekday = date.weekday();
            for span in self.spans.iter().filter(|span| touches(**span, weekday)) {
                for minute in [span.from, span.to] {
                    let at = match minute {
                        1_440 => next.at(0, 0, 0, 0),
                        minute => date.at((minute / 60) as i8, (minute % 60) as i8, 0, 0),
                    };
                    shown(zone, at, &mut moments);
                }
            }
            date = next;
        }
        moments
    }
}

/// Whether a window begins or ends on this day of the week.
fn touches(span: Span, weekday: Weekday) -> bool {
    let day = weekday.to_monday_zero_offset() as u8;
    span.is_on(day) || span.is_on((day + 6) % 7)
}

/// When the clock shows this: once, twice in an hour that is repeated, never in one that is skipped.
fn shown(zone: &TimeZone, at: DateTime, moments: &mut Vec<Timestamp>) {
    let offsets = match zone.to_ambiguous_timestamp(at).offset() {
        AmbiguousOffset::Unambiguous { offset } => [Some(offset), None],
        AmbiguousOffset::Fold { before, after } => [Some(before), Some(after)],
        AmbiguousOffset::Gap { .. } => [None, None],
    };
    moments.extend(offsets.into_iter().flatten().filter_map(|offset| offset.to_timestamp(at).ok()));
}
