//! The picture of a life: a lane for each recipient, a column for each moment, not to scale.

use maud::{Markup, html};

use super::{Attempt, Delivery, Email, Entry, attempts};
use crate::mail::Timestamp;
use crate::ui::components::{tone, visible};
use crate::ui::format;

/// Recipients in the picture.
const LANES_MAX: usize = 8;
/// Attempts with a column of their own; the ones in the middle of more share one.
const ATTEMPTS_MAX: usize = 5;
/// Characters of the name of a lane.
const NAME_MAX: usize = 26;

const LEFT: usize = 200;
const STEP: usize = 112;
const TOP: usize = 46;
const LANE: usize = 34;

/// A moment.
struct Column {
    clock: String,
    word: String,
}

/// What happened to one recipient at one moment.
struct Mark {
    column: usize,
    at: Timestamp,
    /// `None` is the next attempt.
    tone: Option<&'static str>,
}

struct Lane {
    name: String,
    marks: Vec<Mark>,
}

/// The picture, and a line with how many recipients it leaves out.
pub fn picture(email: &Email, entries: &[Entry]) -> Markup {
    let shown: Vec<&Delivery> = email.deliveries.iter().take(LANES_MAX).collect();
    let of = |delivery: &Delivery| -> Vec<&Attempt> {
        attempts(entries).filter(|attempt| attempt.delivery_id == delivery.id).collect()
    };
    let most = shown.iter().map(|delivery| of(delivery).len()).max().unwrap_or(0);
    let first = if email.dkim_domain.is_some() { 2 } else { 1 };
    let mut columns = vec![column(email.created_at, "accepted")];
    if first == 2 {
        columns.push(column(email.created_at, "signed"));
    }
    let groups = group(most);
    for (from, to) in &groups {
        let begun =
            shown.iter().filter_map(|delivery| of(delivery).get(*from).map(|attempt| attempt.at)).min();
        let word =
            if from == to { format!("attempt {}", from + 1) } else { format!("{} to {}", from + 1, to + 1) };
        columns.push(column(begun.unwrap_or(email.created_at), &word));
    }
    let next =
        shown.iter().filter(|delivery| delivery.is_open()).filter_map(|delivery| delivery.next_attempt_at);
    if let Some(next) = next.min() {
        columns.push(column(next, if most == 0 { "first try" } else { "next try" }));
    }
    let lanes: Vec<Lane> = shown
        .iter()
        .map(|delivery| lane(email, delivery, &of(delivery), &groups, first, columns.len() - 1))
        .collect();
    let hidden = email.deliveries.len() - shown.len();
    html! {
        div.scroll tabindex="0" role="region" aria-label="Life of the message as a picture" {
            (draw(&columns, &lanes))
        }
        @if hidden > 0 { p.soft.small { "and " (format::counted(hidden as u64, "more recipient", "more recipients")) } }
    }
}

fn column(at: Timestamp, word: &str) -> Column {
    Column { clock: at.strftime("%H:%M:%S").to_string(), word: word.to_owned() }
}

/// The attempts of each column, from and to.
fn group(most: usize) -> Vec<(usize, usize)> {
    if most <= ATTEMPTS_MAX {
        return (0..most).map(|attempt| (attempt, attempt)).collect();
    }
    vec![(0, 0), (1, 1), (2, most - 3), (most - 2, most - 2), (most - 1, most - 1)]
}

fn lane(
    email: &Email,
    delivery: &Delivery,
    attempts: &[&Attempt],
    groups: &[(usize, usize)],
    first: usize,
    last: usize,
) -> Lane {
    let passed = |column| Mark { column, at: email.created_at, tone: Some("mute") };
    let mut marks: Vec<Mark> = (0..first).map(passed).collect();
    for (place, (from, to)) in groups.iter().enumerate() {
        let Some(attempt) = attempts.get(*from..attempts.len().min(to + 1)).and_then(<[_]>::last) else {
            break;
        };
        marks.push(Mark { column: first + place, at: attempt.at, tone: Some(fill(&attempt.outcome)) });
    }
    match delivery.next_attempt_at.filter(|_| delivery.is_open()) {
        Some(at) => marks.push(Mark { column: last, at, tone: None }),
        // A delivery that ended without an attempt, like a cancelled one.
        None if attempts.is_empty() && marks.len() > 1 => {
            if let Some(mark) = marks.last_mut() {
                mark.tone = Some(fill(&delivery.status));
            }
        }
        None => {}
    }
    Lane { name: cut(&delivery.recipient), marks }
}

/// The colour of a mark.
fn fill(state: &str) -> &'static str {
    match tone(state) {
        "" | "run" => "mute",
        tone => tone,
    }
}

fn cut(name: &str) -> String {
    match name.char_indices().nth(NAME_MAX) {
        Some((at, _)) => format!("{}…", &name[..at]),
        None => name.to_owned(),
    }
}

fn draw(columns: &[Column], lanes: &[Lane]) -> Markup {
    let width = LEFT + STEP * (columns.len() - 1) + 70;
    let height = TOP + LANE * lanes.len().saturating_sub(1) + 24;
    let x = |column: usize| LEFT + STEP * column;
    html! {
        svg.life width=(width) height=(height) viewBox=(format!("0 0 {width} {height}")) role="img" aria-labelledby="life-t life-d" {
            title id="life-t" { "Life of the message" }
            desc id="life-d" { "Each recipient is a line; the list below says the same in words." }
            @for (place, column) in columns.iter().enumerate() {
                line.grid x1=(x(place)) x2=(x(place)) y1="34" y2=(height - 8) {}
                text.name x=(x(place)) y="12" text-anchor="middle" { (column.word) }
                text x=(x(place)) y="27" text-anchor="middle" { (column.clock) }
            }
            @for (place, lane) in lanes.iter().enumerate() {
                @let y = TOP + LANE * place;
                text.name x="0" y=(y + 4) { (visible(&lane.name)) }
                @for pair in lane.marks.windows(2) { (between(&pair[0], &pair[1], y)) }
                @for mark in &lane.marks {
                    @match mark.tone {
                        Some(tone) => circle class={ "f-" (tone) } cx=(x(mark.column)) cy=(y) r="6" {},
                        None => circle class="ring k-accent" cx=(x(mark.column)) cy=(y) r="5" {},
                    }
                }
            }
        }
    }
}

/// A solid line while it is busy, a dotted one with the time while it waits.
fn between(one: &Mark, other: &Mark, y: usize) -> Markup {
    let (from, to) = (LEFT + STEP * one.column, LEFT + STEP * other.column);
    let seconds = other.at.duration_since(one.at).as_secs();
    let waits = seconds > 2;
    html! {
        line class=(if waits { "wait" } else { "path" }) x1=(from + 7) x2=(to - 7) y1=(y) y2=(y) {}
        @if waits { text x=((from + to) / 2) y=(y - 5) text-anchor="middle" { (format::duration_s(seconds)) } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ui::timeline::tests_support::{attempt, delivery, email};

    #[test]
    fn a_life_is_a_lane_for_each_recipient_and_a_column_for_each_moment() {
        let mut email = email(2);
        email.deliveries[1] = delivery(1, "deferred", Some("2026-11-29T04:14:02Z"));
        let entries = [
            attempt(0, "2026-11-29T04:07:55Z", "delivered"),
            attempt(1, "2026-11-29T04:07:55Z", "deferred"),
            attempt(1, "2026-11-29T04:08:55Z", "deferred"),
        ];
        let picture = picture(&email, &entries).into_string();
        for text in [
            "accepted",
            "signed",
            "attempt 1",
            "attempt 2",
            "next try",
            "04:14:02",
            "5\u{a0}min",
            "60\u{a0}s",
        ] {
            assert!(picture.contains(text), "{text} is not in {picture}");
        }
        assert_eq!(picture.matches("class=\"f-ok\"").count(), 1);
        assert_eq!(picture.matches("class=\"f-warn\"").count(), 2);
        assert_eq!(picture.matches("ring k-accent").count(), 1);
        assert!(picture.contains("width=\"718\" height=\"104\""), "{picture}");
    }

    #[test]
    fn many_attempts_share_a_column_and_many_recipients_are_counted() {
        assert_eq!(group(9), [(0, 0), (1, 1), (2, 6), (7, 7), (8, 8)]);
        let picture = picture(&email(30), &[]).into_string();
        assert!(picture.contains("and 22\u{a0}more recipients"), "{picture}");
    }
}
