//! Numbers, sizes and times in words.

use std::time::Duration;

/// `1 node`, `2 nodes`.
pub fn count(number: u64, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{} {noun}{plural}", grouped(number))
}

/// `1,234,567`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `950`, `12.3k`, `4.56M`, `7.89G`: three digits are enough for a rate or a count of tokens.
pub fn short(number: f64) -> String {
    let (scaled, unit) = match number {
        n if n >= 999.5e6 => (n / 1e9, "G"),
        n if n >= 999.5e3 => (n / 1e6, "M"),
        n if n >= 9_999.5 => (n / 1e3, "k"),
        n => return if n >= 10.0 || n.fract() == 0.0 { format!("{n:.0}") } else { format!("{n:.1}") },
    };
    let decimals = if scaled >= 99.95 {
        0
    } else if scaled >= 9.995 {
        1
    } else {
        2
    };
    format!("{scaled:.decimals$}{unit}")
}

/// `$0.0123`, `$4.56`, `$1,235`: as many digits as matter.
pub fn money(dollars: f64) -> String {
    match dollars {
        d if d >= 999.995 => format!("${}", grouped(d.round() as u64)),
        d if d >= 0.995 => format!("${d:.2}"),
        d => format!("${d:.4}"),
    }
}

/// `512 B`, `1.4 MiB`.
pub fn bytes(number: u64) -> String {
    let mut scaled = number as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if scaled < 1023.5 {
            return if unit == "B" { format!("{number} B") } else { format!("{scaled:.1} {unit}") };
        }
        scaled /= 1024.0;
    }
    format!("{scaled:.1} TiB")
}

/// `0.2s`, `12s`, `3m 05s`, `2h 10m`, `4d 03h`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0..10 => format!("{:.1}s", (time.as_secs_f64() * 10.0).floor() / 10.0),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

/// `2025-11-23 21:49:06`, in UTC, from seconds since 1970.
pub fn date(seconds: u64) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to civil date, counted in eras of 400 years that begin on 1 March.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", rest / 3600, rest % 3600 / 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(count(1, "node"), "1 node");
        assert_eq!(count(1_234_567, "record"), "1,234,567 records");
        assert_eq!(grouped(999), "999");
        assert_eq!(short(0.0), "0");
        assert_eq!(short(3.25), "3.2");
        assert_eq!(short(9_999.0), "9999");
        assert_eq!(short(12_345.0), "12.3k");
        assert_eq!(short(999_600.0), "1.00M");
        assert_eq!(short(4.5e9), "4.50G");
        assert_eq!(bytes(512), "512 B");
        assert_eq!(bytes(1_500_000), "1.4 MiB");
    }

    #[test]
    fn times_read_well() {
        assert_eq!(duration(Duration::from_millis(260)), "0.2s");
        assert_eq!(duration(Duration::from_secs(185)), "3m 05s");
        assert_eq!(duration(Duration::from_mins(130)), "2h 10m");
        assert_eq!(date(0), "1970-01-01 00:00:00");
        assert_eq!(date(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(date(1_763_934_546), "2025-11-23 21:49:06");
    }
}
