//! Times and validity periods (3GPP TS 23.040 clauses 9.2.3.11 and 9.2.3.12).

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;

/// A moment, to the second, and the time zone it was told in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Timestamp {
    pub unix_ms: u64,
    /// Of local time from UTC; the standard knows quarters of an hour.
    pub offset_minutes: i16,
}

impl Timestamp {
    pub fn utc(unix_ms: u64) -> Self {
        Self { unix_ms, offset_minutes: 0 }
    }

    /// Reads the seven octets. None for what is no date, such as the zeros that some networks send. A time zone that makes
    /// no sense counts as UTC.
    pub fn decode(octets: [u8; 7]) -> Option<Self> {
        let decimal = |octet: u8| {
            let (tens, ones) = (octet & 0xf, octet >> 4);
            (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
        };
        let [year, month, day, hour, minute, second, zone] = octets;
        let year = match decimal(year)? {
            year @ 90.. => 1900 + year,
            year => 2000 + year,
        };
        let (month, day) = (decimal(month)?, decimal(day)?);
        let (hour, minute, second) = (decimal(hour)?, decimal(minute)?, decimal(second)?);
        if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
            return None;
        }
        let quarters = decimal(zone & !0x08).filter(|quarters| *quarters <= 14 * 4).unwrap_or(0);
        let offset_minutes = if zone & 0x08 != 0 { -15 * quarters } else { 15 * quarters };
        let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
        let unix_ms = u64::try_from((seconds - offset_minutes * 60) * 1000).ok()?;
        Some(Self { unix_ms, offset_minutes: offset_minutes as i16 })
    }

    /// The seven octets. Years outside of 1990 to 2089 wrap, since two digits is all there is.
    pub fn encode(self) -> [u8; 7] {
        let quarters = i64::from(self.offset_minutes / 15).clamp(-56, 56);
        let local = (self.unix_ms / 1000) as i64 + quarters * 900;
        let (year, month, day) = civil_from_days(local.div_euclid(86_400));
        let second = local.rem_euclid(86_400);
        let decimal = |value: i64| ((value % 10) << 4 | (value / 10)) as u8;
        let zone = decimal(quarters.abs()) | if quarters < 0 { 0x08 } else { 0 };
        let date = [year.rem_euclid(100), month, day].map(decimal);
        let time = [second / 3600, second / 60 % 60, second % 60].map(decimal);
        [date[0], date[1], date[2], time[0], time[1], time[2], zone]
    }
}

/// Days since 1970-01-01 of a date in the Gregorian calendar. Days beyond a month's end run into the next.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is their last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// TP-VP: how long the service centre tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Validity {
    /// In steps of 5 minutes to 12 hours, half hours to a day, days to 30, weeks to 63 (clause 9.2.3.12.1).
    Relative(u8),
    Absolute(Timestamp),
    /// The seven octets of clause 9.2.3.12.3; few networks know it.
    Enhanced([u8; 7]),
}

impl Validity {
    /// The shortest relative one, five minutes.
    pub const SHORTEST: Self = Self::Relative(0);

    /// The longest relative validity within `duration_ms`. None below five minutes: what must not live longer has to be
    /// refused, or be given [`Validity::SHORTEST`] knowingly.
    pub fn at_most(duration_ms: u64) -> Option<Self> {
        let value = if duration_ms >= 5 * 7 * DAY_MS {
            192 + (duration_ms / (7 * DAY_MS)).min(63)
        } else if duration_ms >= 2 * DAY_MS {
            166 + (duration_ms / DAY_MS).min(30)
        } else if duration_ms > 12 * HOUR_MS {
            143 + ((duration_ms - 12 * HOUR_MS) / (30 * MINUTE_MS)).min(24)
        } else {
            (duration_ms / (5 * MINUTE_MS)).checked_sub(1)?
        };
        Some(Self::Relative(value as u8))
    }

    /// How long a relative validity lasts. None for the other kinds.
    pub fn duration_ms(self) -> Option<u64> {
        let Self::Relative(value) = self else { return None };
        let value = u64::from(value);
        Some(match value {
            0..=143 => (value + 1) * 5 * MINUTE_MS,
            144..=167 => 12 * HOUR_MS + (value - 143) * 30 * MINUTE_MS,
            168..=196 => (value - 166) * DAY_MS,
            _ => (value - 192) * 7 * DAY_MS,
        })
    }
}
