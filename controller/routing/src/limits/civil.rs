//! Days and months as numbers, so that they can be stored, compared and hashed without a calendar library.
//!
//! The arithmetic is that of the proleptic Gregorian calendar with years that begin in March, so that the leap day is the
//! last one of its year.

/// Days from 0000-03-01 to 1970-01-01.
const EPOCH: i32 = 719_468;
/// Days of 400 years.
const ERA: i32 = 146_097;

/// Days since 1970-01-01.
pub fn day_number(year: i32, month: u32, day: u32) -> i32 {
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let of_era = shifted.rem_euclid(400);
    let of_year = (153 * ((month as i32 + 9) % 12) + 2) / 5 + day as i32 - 1;
    era * ERA + of_era * 365 + of_era / 4 - of_era / 100 + of_year - EPOCH
}

/// Year, month (1 to 12) and day of a day number.
fn date_of(day: i32) -> (i32, i32, i32) {
    let shifted = day + EPOCH;
    let era = shifted.div_euclid(ERA);
    let of_era = shifted.rem_euclid(ERA);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year + i32::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// Months since 1970-01 of a day number.
pub fn month_of(day: i32) -> i32 {
    let (year, month, _) = date_of(day);
    (year - 1970) * 12 + month - 1
}

/// 1 to 31.
pub fn day_of_month(day: i32) -> i32 {
    date_of(day).2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_of_three_centuries_is_as_the_calendar_has_it() {
        let mut date = jiff::civil::date(1899, 12, 28);
        let mut day = day_number(1899, 12, 28);
        assert_eq!(day_number(1970, 1, 1), 0);
        while date.year() < 2200 {
            let (year, month) = (i32::from(date.year()), date.month() as u32);
            assert_eq!(day_number(year, month, date.day() as u32), day, "{date}");
            assert_eq!(month_of(day), (year - 1970) * 12 + month as i32 - 1, "{date}");
            assert_eq!(day_of_month(day), i32::from(date.day()), "{date}");
            (date, day) = (date.tomorrow().unwrap(), day + 1);
        }
    }
}
