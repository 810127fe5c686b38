//! Times and spans as people type them.

use jiff::{SignedDuration, Timestamp};

/// `90`, `90s`, `30m`, `12h` or `7d`, in seconds. For clap.
pub(super) fn seconds(text: &str) -> Result<u64, String> {
    let wrong = || "give a number of seconds, or such as 30m, 12h, 7d".to_owned();
    let (digits, unit_s) = match text.as_bytes().last() {
        Some(b's') => (&text[..text.len() - 1], 1),
        Some(b'm') => (&text[..text.len() - 1], 60),
        Some(b'h') => (&text[..text.len() - 1], 3_600),
        Some(b'd') => (&text[..text.len() - 1], 86_400),
        _ => (text, 1),
    };
    // `parse` would take a sign.
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit_s)).ok_or_else(wrong)
}

/// A moment that has passed: RFC 3339, or how long ago. For clap.
pub(super) fn past(text: &str) -> Result<String, String> {
    moment(text, -1).ok_or_else(|| "give such as 2026-11-20T14:00:00Z, or 2h for two hours ago".to_owned())
}

/// A moment to come: RFC 3339, or in how long. For clap.
pub(super) fn future(text: &str) -> Result<String, String> {
    moment(text, 1).ok_or_else(|| "give such as 2026-12-24T18:00:00+03:00, or 30m for in half an hour".to_owned())
}

fn moment(text: &str, sign: i64) -> Option<String> {
    if text.parse::<Timestamp>().is_ok() {
        return Some(text.to_owned());
    }
    let s = i64::try_from(seconds(text).ok()?).ok()?;
    let at = Timestamp::now().checked_add(SignedDuration::from_secs(s.checked_mul(sign)?)).ok()?;
    Some(format!("{at:.3}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_have_a_unit_or_are_seconds() {
        for (text, s) in [("0", 0), ("90", 90), ("90s", 90), ("30m", 1_800), ("12h", 43_200), ("7d", 604_800)] {
            assert_eq!(seconds(text), Ok(s), "{text}");
        }
        for text in ["m", "+5", "-5s", "1.5h", "5 m", "99999999999999999999", "18446744073709551615d", "ü"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_are_given_or_counted_from_now() {
        assert_eq!(past("2026-11-20T14:00:00+03:00").unwrap(), "2026-11-20T14:00:00+03:00");
        let now = Timestamp::now();
        let at: Timestamp = past("2h").unwrap().parse().unwrap();
        let off = now.duration_since(at) - SignedDuration::from_hours(2);
        assert!(off.abs() < SignedDuration::from_secs(60), "{off}");
        assert!(future("30m").unwrap().parse::<Timestamp>().unwrap() > now);
        assert!(past("yesterday").is_err() && past("9223372036854775807").is_err());
    }
}
