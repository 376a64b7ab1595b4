//! How values are written: times, durations, counts, sizes, shares.

use maud::{Markup, html};

use crate::mail::Timestamp;

/// A time in UTC, like `29 Nov 2026, 04:07:54 UTC`. The script adds the zone of the browser.
pub fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) { (at.strftime("%-d %b %Y, %H:%M:%S UTC")) } }
}

/// A time of a list: the clock today, the day before that, the date in other years.
pub fn moment(at: Timestamp, now: Timestamp) -> Markup {
    let same = |form| at.strftime(form).to_string() == now.strftime(form).to_string();
    let form = match (same("%F"), same("%Y")) {
        (true, _) => "%H:%M:%S",
        (false, true) => "%-d\u{a0}%b\u{a0}%H:%M",
        (false, false) => "%-d\u{a0}%b\u{a0}%Y",
    };
    html! { time datetime=(at) { (at.strftime(form)) } }
}

/// A clock with milliseconds, for what follows one another.
pub fn clock(at: Timestamp) -> Markup {
    let text = at.to_string();
    html! { time datetime=(text) { (text.get(11..23).unwrap_or(&text)) } }
}

/// A time with how far it is, like `04:14:02, in 5 min`. The script renews it.
pub fn upcoming(at: Timestamp, now: Timestamp) -> Markup {
    html! { time datetime=(at) data-rel { (at.strftime("%H:%M:%S")) ", " (relative(at, now)) } }
}

/// `12 s`, `5 min`, `3 h`, `4 d`; never negative. A number and its unit stay on one line.
pub fn duration_s(seconds: i64) -> String {
    match seconds.max(0) {
        s @ 0..=119 => format!("{s}\u{a0}s"),
        s @ 120..=7199 => format!("{}\u{a0}min", s / 60),
        s @ 7200..=172_799 => format!("{}\u{a0}h", s / 3600),
        s => format!("{}\u{a0}d", s / 86_400),
    }
}

/// `840 ms` or `1.2 s`.
pub fn duration_ms(milliseconds: u64) -> String {
    match milliseconds {
        0..1000 => format!("{milliseconds}\u{a0}ms"),
        1000..120_000 => format!("{:.1}\u{a0}s", milliseconds as f64 / 1000.0),
        _ => duration_s((milliseconds / 1000).try_into().unwrap_or(i64::MAX)),
    }
}

/// `12 min ago` or `in 12 min`.
pub fn relative(at: Timestamp, now: Timestamp) -> String {
    let seconds = at.duration_since(now).as_secs();
    if seconds > 0 { format!("in {}", duration_s(seconds)) } else { format!("{} ago", duration_s(-seconds)) }
}

/// `1,234,567`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 message`, `1,204 messages`.
pub fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{}\u{a0}{}", count(number), if number == 1 { one } else { many })
}

/// `12 octets`, `3.4 KiB`, `1.2 MiB`.
pub fn octets(number: u64) -> String {
    match number {
        1 => "1\u{a0}octet".into(),
        0..1024 => format!("{number}\u{a0}octets"),
        1024..1_048_576 => format!("{:.1}\u{a0}KiB", number as f64 / 1024.0),
        _ => format!("{:.1}\u{a0}MiB", number as f64 / 1_048_576.0),
    }
}

/// `1.25 %` of a whole; a dash without one.
pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "–".into() } else { format!("{:.2}\u{a0}%", 100.0 * part as f64 / whole as f64) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_short_and_times_are_never_negative() {
        let plain = |text: String| text.replace('\u{a0}', " ");
        let durations = [duration_s(-5), duration_s(119), duration_s(120), duration_s(90_000)].map(plain);
        assert_eq!(durations, ["0 s", "119 s", "2 min", "25 h"]);
        assert_eq!(
            [duration_ms(840), duration_ms(1200), duration_ms(300_000)].map(plain),
            ["840 ms", "1.2 s", "5 min"]
        );
        assert_eq!([count(7), count(1234), count(1_234_567)], ["7", "1,234", "1,234,567"]);
        assert_eq!(plain(counted(1, "message", "messages")), "1 message");
        assert_eq!(
            [octets(12), octets(3500), octets(5 << 20)].map(plain),
            ["12 octets", "3.4 KiB", "5.0 MiB"]
        );
        assert_eq!([share(1, 80), share(0, 0)].map(plain), ["1.25 %", "–"]);
    }

    #[test]
    fn a_list_shows_the_clock_today_and_the_date_before() {
        let now: Timestamp = "2026-11-29T12:00:00Z".parse().unwrap();
        let shown = |text: &str| {
            let markup = moment(text.parse().unwrap(), now).into_string();
            markup.split(['>', '<']).nth(2).unwrap().replace('\u{a0}', " ")
        };
        assert_eq!(shown("2026-11-29T04:07:54Z"), "04:07:54");
        assert_eq!(shown("2026-11-02T04:07:54Z"), "2 Nov 04:07");
        assert_eq!(shown("2025-11-29T04:07:54Z"), "29 Nov 2025");
    }
}
