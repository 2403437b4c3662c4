//! Quantities as people read and write them.

use std::time::Duration;

/// A number of bytes: `500`, `20MB/s`, `1.5MiB`, `64K`. K, M, G, T are powers of 1000, Ki, Mi, Gi, Ti of 1024.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is not a number of bytes, such as 20MB, 500K or 1.5MiB");
    let trimmed = text.trim().trim_end_matches("/s");
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let unit = unit.trim().to_ascii_lowercase();
    let factor: f64 = match unit.strip_suffix('b').unwrap_or(&unit) {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        "t" => 1e12,
        "ki" => 1024.0,
        "mi" => 1024.0 * 1024.0,
        "gi" => 1024.0 * 1024.0 * 1024.0,
        "ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        _ => return Err(wrong()),
    };
    let bytes = number * factor;
    if bytes >= 1.0 && bytes < u64::MAX as f64 { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Seconds, with or without a fraction. More than a hundred years are as good as that.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 =
        text.trim_end_matches('s').parse().map_err(|_| format!("'{text}' is not a number of seconds"))?;
    let seconds = if seconds > SECONDS_MAX { SECONDS_MAX } else { seconds };
    Duration::try_from_secs_f64(seconds).map_err(|error| format!("'{text}': {error}"))
}

/// A hundred years. No clock of a system can tell a time that is as far away as a number can be.
const SECONDS_MAX: f64 = 100.0 * 365.0 * 86_400.0;

/// A number of bytes with three digits or so: `1.2 MB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 || value >= 99.95 {
        format!("{value:.0} {}", UNITS[unit])
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// How long something takes or took, in its two largest units: `3 h 12 min`.
pub fn duration(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, ..) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

/// A date and time in UTC from seconds since 1970: `2026-11-21 20:38`.
pub fn date(seconds: i64) -> String {
    // Days to a date, after the proleptic Gregorian calendar: eras of 400 years that begin in March.
    let days = seconds.div_euclid(86_400);
    let second = seconds.rem_euclid(86_400);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}", second / 3600, second / 60 % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_read_as_people_write_them() {
        for (text, expected) in [
            ("500", 500),
            ("20MB/s", 20_000_000),
            ("20m", 20_000_000),
            ("1.5MiB", 1_572_864),
            ("64 KiB", 65_536),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "MB", "-5", "5X", "1e9", "0", "99999999999T"] {
            assert!(parse_bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn nobody_waits_longer_than_a_clock_can_tell() {
        assert_eq!(parse_seconds("2.5s"), Ok(Duration::from_millis(2500)));
        for long in ["1e10", "1e19", "99999999999999999999999", "inf"] {
            let patience = parse_seconds(long).unwrap();
            assert!(std::time::Instant::now().checked_add(patience).is_some(), "{long}");
        }
        for wrong in ["", "x", "-1", "nan", "-inf"] {
            assert!(parse_seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_and_dates_for_people() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1_234), "1.2 kB");
        assert_eq!(bytes(123_456_789), "123 MB");
        let durations = [
            (-1.0, "0 s"),
            (59.9, "59 s"),
            (61.0, "1 min 1 s"),
            (3_720.0, "1 h 2 min"),
            (180_000.0, "2 d 2 h"),
        ];
        for (seconds, expected) in durations {
            assert_eq!(duration(seconds), expected);
        }
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(951_827_696), "2000-02-29 12:34");
        assert_eq!(date(1_795_293_514), "2026-11-21 20:38");
        assert_eq!(date(-1), "1969-12-31 23:59");
    }
}
