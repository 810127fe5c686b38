//! Times of SMPP: validity in a submit (v3.4 section 7.1.1), dates in the text of a receipt (appendix B).

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::settings::Validity;

/// Many SMSCs refuse more; messages of ours do not live longer.
const VALIDITY_S_MAX: u32 = 30 * 86_400;

/// `validity_period`: 16 characters, or none for the SMSC's own.
pub(crate) fn validity_period(kind: Validity, validity_s: u32, now_ms: u64) -> String {
    let validity_s = validity_s.min(VALIDITY_S_MAX);
    match kind {
        Validity::None => String::new(),
        Validity::Relative => {
            let (days, rest) = (validity_s / 86_400, validity_s % 86_400);
            format!("0000{days:02}{:02}{:02}{:02}000R", rest / 3600, rest / 60 % 60, rest % 60)
        }
        Validity::Absolute => {
            let end_ms = now_ms.saturating_add(u64::from(validity_s) * 1000);
            let end = i64::try_from(end_ms).ok().and_then(|end_ms| Timestamp::from_millisecond(end_ms).ok());
            end.map_or_else(String::new, |end| end.strftime("%y%m%d%H%M%S000+").to_string())
        }
    }
}

/// A date of a receipt as Unix milliseconds: YYMMDDhhmm, YYMMDDhhmmss, or either with a century.
pub(crate) fn receipt_date(digits: &str, zone: &TimeZone) -> Option<u64> {
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let (century, digits) = match digits.len() {
        10 | 12 => (20, digits),
        14 => (digits.get(..2)?.parse().ok()?, digits.get(2..)?),
        _ => return None,
    };
    let pair = |index: usize| -> Option<i8> { digits.get(2 * index..2 * index + 2)?.parse().ok() };
    let seconds = if digits.len() == 12 { pair(5)? } else { 0 };
    let year = century * 100 + i16::from(pair(0)?);
    let date = DateTime::new(year, pair(1)?, pair(2)?, pair(3)?, pair(4)?, seconds, 0).ok()?;
    let at = date.to_zoned(zone.clone()).ok()?.timestamp().as_millisecond();
    u64::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn validity() {
        let at = |kind, validity_s| validity_period(kind, validity_s, 1_700_000_000_000);
        assert_eq!(at(Validity::Relative, 60), "000000000100000R");
        assert_eq!(at(Validity::Relative, 2 * 86_400 + 3 * 3600 + 4 * 60 + 5), "000002030405000R");
        assert_eq!(at(Validity::Relative, u32::MAX), "000030000000000R");
        // 2023-11-14T22:13:20Z and an hour.
        assert_eq!(at(Validity::Absolute, 3600), "231114231320000+");
        assert_eq!(at(Validity::None, 3600), "");
        for kind in [Validity::Relative, Validity::Absolute] {
            assert_eq!(at(kind, 12_345).len(), 16);
        }
    }

    #[test]
    fn dates() {
        let utc = |digits| receipt_date(digits, &TimeZone::UTC);
        assert_eq!(utc("2311142213"), Some(1_699_999_980_000));
        assert_eq!(utc("231114221320"), Some(1_700_000_000_000));
        assert_eq!(utc("20231114221320"), Some(1_700_000_000_000));
        assert_eq!(receipt_date("231115011320", &TimeZone::get("Africa/Nairobi").unwrap()), Some(1_700_000_000_000));
        for nonsense in ["", "231114", "2313142213", "2311142260", "23111422136x", "99999999999999"] {
            assert_eq!(utc(nonsense), None, "{nonsense}");
        }
    }
}
