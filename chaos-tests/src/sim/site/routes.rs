//! What is set for SIMs and senders: limits, pauses, send windows, pools.

use flotilla_routing::settings::{Limits, RouteSettings, Window};

use crate::sim::Flaw;
use crate::sim::provider::Account;

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 86_400_000;
/// Minutes of the day that send windows leave out, some after the beginning of every story (22:13:20 UTC).
const CLOSED: [(u64, u64); 2] = [(22 * 60 + 15, 22 * 60 + 19), (22 * 60 + 40, 22 * 60 + 43)];
/// Longer than what clocks and slow services make of it.
const GAP_MS: u32 = 45_000;

/// Second SIMs have a limit of a day, of the first ones each fourth has one of a minute, a pause, or windows: no device is ever
/// without.
pub(in crate::sim) fn of_sim(device: usize, slot: u8) -> RouteSettings {
    let first = |kind| slot == 0 && device % 4 == kind;
    let limits = Limits {
        per_day: (slot == 1).then_some(6),
        per_minute: first(1).then_some(3),
        gap_ms: first(2).then_some(GAP_MS),
        gap_jitter_ms: first(2).then_some(3_000),
        ..Limits::default()
    };
    let windows = if first(3) { windows() } else { Vec::new() };
    RouteSettings { limits, windows, pools: [pool(device / 2)].into_iter().collect(), ..RouteSettings::default() }
}

pub(in crate::sim) fn of_sender(account: &Account, slot: u8) -> RouteSettings {
    let Some(sender) = account.senders.get(usize::from(slot)) else { return RouteSettings::default() };
    let gap_ms = sender.has_gap.then_some(GAP_MS);
    RouteSettings {
        limits: Limits { per_minute: sender.per_minute, gap_ms, ..Limits::default() },
        device_limits: Limits { per_minute: account.per_minute, ..Limits::default() },
        windows: if sender.has_windows { windows() } else { Vec::new() },
        pools: [pool(account.number + usize::from(slot))].into_iter().collect(),
        ..RouteSettings::default()
    }
}

fn pool(number: usize) -> Box<str> {
    if number.is_multiple_of(2) { "even".into() } else { "odd".into() }
}

/// As they reach a shard: deliberate bugs leave something out.
pub(in crate::sim) fn spoiled(mut settings: RouteSettings, flaw: Option<Flaw>) -> RouteSettings {
    match flaw {
        Some(Flaw::NoLimits) => {
            (settings.limits.per_minute, settings.limits.per_day) = (None, None);
            settings.device_limits = Limits::default();
        }
        Some(Flaw::NoGaps) => (settings.limits.gap_ms, settings.limits.gap_jitter_ms) = (None, None),
        Some(Flaw::NoWindows) => settings.windows.clear(),
        Some(Flaw::StrangeLimits) if settings.limits == Limits::default() => settings.limits.per_minute = Some(1),
        _ => {}
    }
    settings
}

fn windows() -> Vec<Window> {
    let clock = |minute: u64| format!("{:02}:{:02}", minute / 60, minute % 60).into();
    let [first, second] = CLOSED;
    let window = |from, to| Window { days: Vec::new(), from: clock(from), to: clock(to) };
    // The second is over midnight.
    vec![window(first.1, second.0), window(second.1, first.0)]
}

/// For how long windows like these have been closed at a moment of Unix time, and for how long they stay so.
pub(in crate::sim) fn closed_for(unix_ms: u64) -> Option<(u64, u64)> {
    let of_day = unix_ms % DAY_MS;
    let closed = CLOSED.iter().find(|(from, to)| (from * MINUTE_MS..to * MINUTE_MS).contains(&of_day));
    closed.map(|(from, to)| (of_day - from * MINUTE_MS, to * MINUTE_MS - of_day))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_closed_when_the_checker_thinks_so() {
        let compiled = flotilla_routing::limits::Windows::compile(&windows()).unwrap();
        let zone = flotilla_routing::limits::zone("timezone", "").unwrap();
        for at in (0..40 * MINUTE_MS).step_by(7_000) {
            let unix_ms = crate::sim::clock::UNIX_START_MS + at;
            let open = compiled.opening(&zone, unix_ms).open;
            assert_eq!(closed_for(unix_ms).is_none(), open, "{at}");
        }
    }
}
