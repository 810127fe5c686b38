//! Whether a scope has room for a message under its limits, and when it will.
//!
//! `used = in flight + charged`: an attempt is reserved while it is under way and charged when it has landed, so it is counted
//! at every moment in between, and a limit is never passed. See `docs/routing.md`.
//!
//! | module | what |
//! |---|---|
//! | `calendar`, `civil` | days and months of a time zone |
//! | `opening` | send windows |
//! | `check` | what limits, windows and prices may be |

pub mod calendar;
mod check;
pub mod civil;
mod invalid;
mod opening;
#[cfg(test)]
mod tests;

use serde::Serialize;
use smallvec::SmallVec;
use utoipa::ToSchema;

pub use calendar::{Calendar, zone};
pub use check::{check_limits, check_price, check_recipient_limit, check_warm_up, check_windows};
pub use invalid::Invalid;
pub use opening::{Opening, Windows};

use crate::ledger::Counters;
use crate::settings::{Limits, WarmUp};

/// Whether something may go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    Yes,
    /// What is in flight has taken the rest; no time can be told. Ask again when an attempt has landed or come back.
    InFlight,
    /// Not before this time. Exact for days, months and pauses; a minute's limit may be free up to a second earlier, an hour's
    /// up to a minute.
    Until {
        unix_ms: u64,
    },
    /// Not while these limits are set: one is zero, or smaller than the message.
    Never,
}

impl Room {
    /// Both have to have room.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, _) | (_, Self::Never) => Self::Never,
            (Self::Until { unix_ms: a }, Self::Until { unix_ms: b }) => Self::Until { unix_ms: a.max(b) },
            (until @ Self::Until { .. }, _) | (_, until @ Self::Until { .. }) => until,
            (Self::InFlight, _) | (_, Self::InFlight) => Self::InFlight,
            (Self::Yes, Self::Yes) => Self::Yes,
        }
    }

    pub fn is_yes(self) -> bool {
        self == Self::Yes
    }
}

/// What wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    pub segments: u8,
    /// The recipient's hash; none to ask about anybody.
    pub recipient: Option<u64>,
}

/// The limits by name, as they are in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    PerMinute,
    PerHour,
    PerDay,
    PerMonth,
    RecipientsPerMonth,
    Gap,
}

impl Limit {
    pub const fn name(self) -> &'static str {
        match self {
            Self::PerMinute => "per_minute",
            Self::PerHour => "per_hour",
            Self::PerDay => "per_day",
            Self::PerMonth => "per_month",
            Self::RecipientsPerMonth => "recipients_per_month",
            Self::Gap => "gap",
        }
    }
}

/// Whether a scope has room for a message. `in_flight` are the segments of attempts on it that are under way and not charged.
pub fn room(limits: &Limits, counters: &Counters, in_flight: u32, ask: Ask, now: &Calendar) -> Room {
    let mut all = Room::Yes;
    each(limits, counters, in_flight, ask, now, |_, room| all = all.and(room));
    all
}

/// As [`room`], one limit after another: those that are set.
pub fn each(
    limits: &Limits,
    counters: &Counters,
    in_flight: u32,
    ask: Ask,
    now: &Calendar,
    mut tell: impl FnMut(Limit, Room),
) {
    let segments = u32::from(ask.segments);
    let flying = in_flight.saturating_add(segments);
    if let Some(limit) = limits.per_minute {
        tell(
            Limit::PerMinute,
            sliding(limit, segments, flying, |allowed| counters.minute().free_at(now.unix_ms, allowed), now),
        );
    }
    if let Some(limit) = limits.per_hour {
        tell(
            Limit::PerHour,
            sliding(limit, segments, flying, |allowed| counters.hour().free_at(now.unix_ms, allowed), now),
        );
    }
    if let Some(limit) = limits.per_day {
        tell(Limit::PerDay, until(limit, segments, flying, counters.on_day(now.day), now.next_day_ms));
    }
    if let Some(limit) = limits.per_month {
        tell(Limit::PerMonth, until(limit, segments, flying, counters.in_month(now.month), now.next_month_ms));
    }
    if let Some(limit) = limits.recipients_per_month {
        let room = match ask.recipient {
            Some(recipient) if counters.knows_recipient(now.month, recipient) => Room::Yes,
            None if limit > 0 => Room::Yes,
            // Each segment in flight may be one to another new recipient.
            _ => until(limit, 1, in_flight.saturating_add(1), counters.recipients(now.month), now.next_month_ms),
        };
        tell(Limit::RecipientsPerMonth, room);
    }
    if has_gap(limits) {
        tell(Limit::Gap, gap(limits, counters, in_flight, now.unix_ms));
    }
}

/// One attempt at a time, and a pause after each.
pub fn has_gap(limits: &Limits) -> bool {
    limits.gap_ms.unwrap_or(0) > 0 || limits.gap_jitter_ms.unwrap_or(0) > 0
}

fn sliding(limit: u32, segments: u32, flying: u32, free_at: impl Fn(u32) -> u64, now: &Calendar) -> Room {
    if segments > limit {
        return Room::Never;
    }
    // Where even an empty window is too small beside what is in flight, that has to land first, and is in the window then.
    let allowed = if flying > limit { limit - segments } else { limit - flying };
    let unix_ms = free_at(allowed);
    match (unix_ms > now.unix_ms, flying > limit) {
        (true, _) => Room::Until { unix_ms },
        (false, true) => Room::InFlight,
        (false, false) => Room::Yes,
    }
}

fn until(limit: u32, wanted: u32, flying: u32, used: u32, unix_ms: u64) -> Room {
    if wanted > limit {
        Room::Never
    } else if used.saturating_add(flying) <= limit {
        Room::Yes
    } else if used.saturating_add(wanted) > limit || flying <= limit {
        // Also what is in flight and fits into an empty day has room when that begins.
        Room::Until { unix_ms }
    } else {
        Room::InFlight
    }
}

fn gap(limits: &Limits, counters: &Counters, in_flight: u32, now_ms: u64) -> Room {
    let next_ms = gap_ends(limits, counters);
    match (next_ms > now_ms, in_flight > 0) {
        (true, _) => Room::Until { unix_ms: next_ms },
        (false, true) => Room::InFlight,
        (false, false) => Room::Yes,
    }
}

/// When the pause after the last message is over: its length, and a part of the jitter that the last message decides.
fn gap_ends(limits: &Limits, counters: &Counters) -> u64 {
    let Some(last_ms) = counters.last_charge_ms() else { return 0 };
    let jitter = u64::from(limits.gap_jitter_ms.unwrap_or(0)) + 1;
    let drawn = crate::fact::recipient_hash(counters.last_seed() ^ last_ms) % jitter;
    last_ms.saturating_add(u64::from(limits.gap_ms.unwrap_or(0))).saturating_add(drawn)
}

/// The limits of a new SIM on this day: the stage of its warm-up, where that is less than its own. The same all day long.
#[must_use]
pub fn warmed_up(limits: &Limits, warm_up: Option<&WarmUp>, counters: &Counters, day: i32) -> Limits {
    let stage = warm_up.and_then(|warm_up| Some((warm_up, stage(warm_up, counters, day)?)));
    let per_day = stage.map(|(warm_up, stage)| warm_up.per_day[stage]);
    Limits { per_day: limits.per_day.into_iter().chain(per_day).min(), ..limits.clone() }
}

/// Which stage of its warm-up a SIM is in on this day, from 0, the day of its first message; none when it is over.
pub fn stage(warm_up: &WarmUp, counters: &Counters, day: i32) -> Option<usize> {
    let first = counters.first_day().unwrap_or(day);
    let stage = usize::try_from(day.saturating_sub(first)).unwrap_or(0);
    (stage < warm_up.per_day.len()).then_some(stage)
}

/// How much of the scarcest limit is left, 0 to 1; 1 without limits.
pub fn headroom(limits: &Limits, counters: &Counters, in_flight: u32, now: &Calendar) -> f32 {
    usage(limits, counters, in_flight, now)
        .iter()
        .map(|used| if used.limit == 0 { 0.0 } else { used.left as f32 / used.limit as f32 })
        .fold(1.0, f32::min)
}

/// What is used of a limit, and what is left.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    pub name: Limit,
    pub limit: u32,
    /// Charged and in flight.
    pub used: u32,
    pub left: u32,
}

/// The limits that are set, but for the pause.
pub fn usage(limits: &Limits, counters: &Counters, in_flight: u32, now: &Calendar) -> SmallVec<[Usage; 5]> {
    let mut all = SmallVec::new();
    let mut tell = |name, limit: Option<u32>, charged: &dyn Fn() -> u32| {
        if let Some(limit) = limit {
            let used = charged().saturating_add(in_flight);
            all.push(Usage { name, limit, used, left: limit.saturating_sub(used) });
        }
    };
    tell(Limit::PerMinute, limits.per_minute, &|| counters.last_minute(now.unix_ms));
    tell(Limit::PerHour, limits.per_hour, &|| counters.last_hour(now.unix_ms));
    tell(Limit::PerDay, limits.per_day, &|| counters.on_day(now.day));
    tell(Limit::PerMonth, limits.per_month, &|| counters.in_month(now.month));
    tell(Limit::RecipientsPerMonth, limits.recipients_per_month, &|| counters.recipients(now.month));
    all
}
