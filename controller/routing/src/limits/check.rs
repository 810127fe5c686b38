//! What limits, windows, warm-ups and prices may be. Each error names its field, as in `limits.per_day`, and the remedy.

use super::invalid::Invalid;
use super::opening::Span;
use crate::Micros;
use crate::ledger::RECIPIENTS_MAX;
use crate::settings::{Limits, Price, RecipientLimit, WarmUp, Window};

/// Segments in a window: more than any route can send.
const SEGMENTS_MAX: u32 = 1_000_000_000;
/// A day.
const GAP_MAX_MS: u32 = 86_400_000;
const WINDOWS_MAX: usize = 16;
const WARM_UP_DAYS_MAX: usize = 90;
const COUNTRIES_MAX: usize = 250;
/// A million of the currency for a segment.
const PRICE_MAX: u64 = 1_000_000_000_000;
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// `field` is where the limits are: `limits`, `device_limits`, `sim_limits`.
pub fn check_limits(field: &str, limits: &Limits) -> Result<(), Invalid> {
    let at_most = |name: &str, value: Option<u32>, max: u32| match value {
        Some(value) if value > max => {
            Err(Invalid::new(format!("{field}.{name}"), format!("may be at most {max}; leave it out for no limit")))
        }
        _ => Ok(()),
    };
    at_most("per_minute", limits.per_minute, SEGMENTS_MAX)?;
    at_most("per_hour", limits.per_hour, SEGMENTS_MAX)?;
    at_most("per_day", limits.per_day, SEGMENTS_MAX)?;
    at_most("per_month", limits.per_month, SEGMENTS_MAX)?;
    // More are not told apart, so a greater limit could not be kept exactly.
    at_most("recipients_per_month", limits.recipients_per_month, RECIPIENTS_MAX)?;
    at_most("gap_ms", limits.gap_ms, GAP_MAX_MS)?;
    at_most("gap_jitter_ms", limits.gap_jitter_ms, GAP_MAX_MS)
}

/// `field` is where the list is, such as `windows`.
pub fn check_windows(field: &str, windows: &[Window]) -> Result<(), Invalid> {
    if windows.len() > WINDOWS_MAX {
        return Err(Invalid::new(
            field,
            format!("may have at most {WINDOWS_MAX} entries; join those of the same hours"),
        ));
    }
    windows.iter().enumerate().try_for_each(|(n, window)| parse_window(&format!("{field}[{n}]"), window).map(|_| ()))
}

pub(super) fn parse_window(field: &str, window: &Window) -> Result<Span, Invalid> {
    let mut days = 0u8;
    for (n, day) in window.days.iter().enumerate() {
        let at = DAYS.iter().position(|name| **name == **day);
        let at = at.ok_or_else(|| {
            Invalid::new(format!("{field}.days[{n}]"), "has to be one of mon, tue, wed, thu, fri, sat, sun")
        })?;
        days |= 1 << at;
    }
    let from = minute(&window.from).filter(|minute| *minute < 1_440);
    let from =
        from.ok_or_else(|| Invalid::new(format!("{field}.from"), "has to be a time of day from 00:00 to 23:59"))?;
    let to = minute(&window.to).filter(|minute| *minute <= 1_440);
    let to = to.ok_or_else(|| Invalid::new(format!("{field}.to"), "has to be a time of day from 00:00 to 24:00"))?;
    if from == to {
        let remedy = "has to differ from `from`; for the whole day give 00:00 and 24:00";
        return Err(Invalid::new(format!("{field}.to"), remedy));
    }
    Ok(Span { days: if window.days.is_empty() { 0x7f } else { days }, from, to })
}

/// `08:30` as a minute of the day.
fn minute(text: &str) -> Option<u16> {
    let [h1, h2, b':', m1, m2] = text.as_bytes() else { return None };
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u16::from(byte - b'0'));
    let (hour, minute) = (digit(h1)? * 10 + digit(h2)?, digit(m1)? * 10 + digit(m2)?);
    (minute < 60).then_some(hour * 60 + minute)
}

pub fn check_warm_up(field: &str, warm_up: &WarmUp) -> Result<(), Invalid> {
    let field = format!("{field}.per_day");
    if !(1..=WARM_UP_DAYS_MAX).contains(&warm_up.per_day.len()) {
        return Err(Invalid::new(field, format!("has to have 1 to {WARM_UP_DAYS_MAX} entries, one for each day")));
    }
    match warm_up.per_day.iter().position(|segments| !(1..=SEGMENTS_MAX).contains(segments)) {
        // With nothing to send on its first day a SIM would never begin.
        Some(n) => Err(Invalid::new(format!("{field}[{n}]"), format!("has to be 1 to {SEGMENTS_MAX} segments"))),
        None => Ok(()),
    }
}

pub fn check_price(field: &str, price: &Price) -> Result<(), Invalid> {
    let too_much = format!("may be at most {} for a segment", Micros(PRICE_MAX));
    if price.per_segment.0 > PRICE_MAX {
        return Err(Invalid::new(format!("{field}.per_segment"), too_much));
    }
    if price.by_country.len() > COUNTRIES_MAX {
        return Err(Invalid::new(format!("{field}.by_country"), format!("may have at most {COUNTRIES_MAX} entries")));
    }
    for (country, micros) in &price.by_country {
        let shown: String = country.chars().take(8).collect();
        if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let remedy = "has to be named by the two capital letters of its country (ISO 3166), such as TZ";
            return Err(Invalid::new(format!("{field}.by_country.{shown}"), remedy));
        }
        if micros.0 > PRICE_MAX {
            return Err(Invalid::new(format!("{field}.by_country.{shown}"), too_much));
        }
    }
    match price.bundle_per_month {
        Some(bundle) if bundle > SEGMENTS_MAX => {
            Err(Invalid::new(format!("{field}.bundle_per_month"), format!("may be at most {SEGMENTS_MAX} segments")))
        }
        _ => Ok(()),
    }
}

pub fn check_recipient_limit(field: &str, limit: &RecipientLimit) -> Result<(), Invalid> {
    if !(1..=100).contains(&limit.messages) {
        return Err(Invalid::new(format!("{field}.messages"), "has to be 1 to 100"));
    }
    if !(1..=2_592_000).contains(&limit.window_s) {
        return Err(Invalid::new(format!("{field}.window_s"), "has to be 1 to 2592000 seconds (30 days)"));
    }
    Ok(())
}
