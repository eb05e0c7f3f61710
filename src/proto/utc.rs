//! The time of day by the calendar. Its clock is read in `net::sys`.

use core::fmt;

/// A time, in seconds since 1970, as `2026-01-31T12:00:00Z`.
pub struct Utc(pub u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UtcParts { year, month, day, hour, minute, second, .. } = UtcParts::of(self.0);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
    }
}

/// A time by the Gregorian calendar.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct UtcParts {
    pub(crate) year: u64,
    /// From 1 to 12.
    pub(crate) month: u64,
    /// From 1 to 31.
    pub(crate) day: u64,
    /// From 0, a Sunday, to 6.
    pub(crate) weekday: u64,
    pub(crate) hour: u64,
    pub(crate) minute: u64,
    pub(crate) second: u64,
}

impl UtcParts {
    /// The month in English, in three letters.
    pub(crate) fn month_name(&self) -> &'static str {
        const NAMES: [&str; 12] =
            ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
        name(&NAMES, self.month.wrapping_sub(1))
    }

    /// The day of the week in English, in three letters.
    pub(crate) fn weekday_name(&self) -> &'static str {
        name(&["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"], self.weekday)
    }

    /// Of the seconds since 1970.
    pub(crate) fn of(unix: u64) -> Self {
        let (days, second) = (unix / 86_400, unix % 86_400);
        // The first of all days was a Thursday.
        let weekday = (days + 4) % 7;
        // Counts from 1 March of the year 0, so that the leap day is a year's last and the months before it
        // have a regular pattern: 153 days in every five months. An era of 400 years has 146,097 days.
        let days = days + 719_468;
        let (era, day) = (days / 146_097, days % 146_097);
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        let year = era * 400 + year + next;
        Self { year, month, day, weekday, hour: second / 3600, minute: second / 60 % 60, second: second % 60 }
    }
}

fn name(names: &'static [&'static str], index: u64) -> &'static str {
    usize::try_from(index).ok().and_then(|index| names.get(index)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_the_calendar() {
        for (unix, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(Utc(unix).to_string(), text);
        }
    }
}
