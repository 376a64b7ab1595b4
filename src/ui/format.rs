//! How values are written: times, durations, counts, sizes, shares.

use maud::{Markup, html};

use crate::mail::Timestamp;

/// A time in UTC, which the script shows in the zone of the browser.
pub fn time(at: Timestamp) -> Markup {
    let text = at.to_string();
    let shown = text.get(..16).unwrap_or(&text).replace('T', " ");
    html! { time datetime=(text) title=(text) { (shown) " UTC" } }
}

/// `12 s`, `5 min`, `3 h`, `4 d`; never negative.
pub fn duration_s(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s} s"),
        s @ 120..=7199 => format!("{} min", s / 60),
        s @ 7200..=172_799 => format!("{} h", s / 3600),
        s => format!("{} d", s / 86_400),
    }
}

/// `12 min ago` or `in 12 min`.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs();
    if seconds > 0 { format!("in {}", duration_s(seconds)) } else { format!("{} ago", duration_s(-seconds)) }
}

/// `1 234 567`, with spaces that do not break.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push('\u{202f}');
        }
        grouped.push(digit);
    }
    grouped
}

/// `12 octets`, `3.4 KiB`, `1.2 MiB`.
pub fn octets(number: u64) -> String {
    match number {
        0..1024 => format!("{number} octets"),
        1024..1_048_576 => format!("{:.1} KiB", number as f64 / 1024.0),
        _ => format!("{:.1} MiB", number as f64 / 1_048_576.0),
    }
}

/// `1.25 %` of a whole; a dash without one.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format!("{:.2} %", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_times_are_never_negative() {
        assert_eq!(
            [duration_s(-5), duration_s(119), duration_s(120), duration_s(90_000)],
            ["0 s", "119 s", "2 min", "25 h"]
        );
        assert_eq!(
            [count(7), count(1234), count(1_234_567)],
            ["7", "1\u{202f}234", "1\u{202f}234\u{202f}567"]
        );
        assert_eq!([octets(12), octets(3500), octets(5 << 20)], ["12 octets", "3.4 KiB", "5.0 MiB"]);
        assert_eq!([share(1, 80), share(0, 0)], ["1.25 %", "–"]);
    }
}
