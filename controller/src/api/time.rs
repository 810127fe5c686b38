//! Moments as the API writes them: RFC 3339 in UTC with milliseconds.

use std::fmt;

use serde::{Serialize, Serializer};

/// Unix milliseconds that print as a date.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time(pub u64);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = jiff::Timestamp::MAX;
        let at = i64::try_from(self.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok()).unwrap_or(last);
        write!(f, "{at:.3}")
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milliseconds_are_always_written() {
        assert_eq!(Time(0).to_string(), "1970-01-01T00:00:00.000Z");
        assert_eq!(Time(1_763_640_000_120).to_string(), "2025-11-20T12:00:00.120Z");
        assert!(Time(u64::MAX).to_string().starts_with("9999"));
    }
}
