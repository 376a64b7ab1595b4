//! The life of a message in words, with the dialogue of each attempt.

use std::collections::HashMap;

use maud::{Markup, html};
use serde_json::Value;

use super::{Attempt, Delivery, Email, Entry, Event, Report, attempts};
use crate::mail::Timestamp;
use crate::ui::chart;
use crate::ui::components::{foreign, tone, visible};
use crate::ui::format;
use crate::ui::request::{PageRequest, segment};

/// Entries in the list.
const ENTRIES_MAX: usize = 50;
/// Octets and lines of the dialogues in the list, after which no other one begins.
const DIALOGUES_MAX: usize = 12 * 1024;
const LINES_MAX: usize = 200;
/// Lines of one dialogue.
const LINES_OF_DIALOGUE_MAX: usize = 300;
/// A bar shows how long an attempt took if the longest one took at least so long.
const BAR_FROM_MS: u64 = 100;
/// Deliveries whose next attempt is named.
const NEXT_MAX: usize = 20;

/// What is the same for all entries.
struct Writer<'a> {
    request: &'a PageRequest,
    /// The longest attempt.
    longest_ms: u64,
    /// Which attempt of its delivery each one is, by its place among the attempts.
    numbers: Vec<usize>,
    /// The first attempt with a dialogue, by its place.
    first_with: HashMap<&'a str, usize>,
}

/// The list.
pub fn list(request: &PageRequest, email: &Email, entries: &[Entry]) -> Markup {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let mut first_with = HashMap::new();
    let numbers = attempts(entries).enumerate().map(|(place, attempt)| {
        if !attempt.transcript.is_empty() {
            first_with.entry(attempt.transcript.as_str()).or_insert(place);
        }
        let number = counts.entry(&attempt.delivery_id).or_default();
        *number += 1;
        *number
    });
    let numbers = numbers.collect();
    let longest_ms = attempts(entries).map(|attempt| attempt.duration_ms).max().unwrap_or(0).max(1);
    let writer = Writer { request, longest_ms, numbers, first_with };
    let told = told_by_attempts(entries);
    let (mut place, mut octets, mut lines, mut left_out) = (0, 0, 0, 0);
    let mut items = Vec::new();
    for entry in entries {
        let item = match entry {
            Entry::Event(event) if event.kind == "message.accepted" || told(event) => None,
            Entry::Event(event) => Some(writer.event(event)),
            Entry::Report(report) => Some(writer.report(report)),
            Entry::Attempt(attempt) => {
                let has_room = octets <= DIALOGUES_MAX && lines <= LINES_MAX;
                let item = writer.attempt(attempt, place, has_room);
                octets += attempt.transcript.len();
                lines += attempt.transcript.lines().count();
                place += 1;
                Some(item)
            }
        };
        match item {
            Some(item) if items.len() < ENTRIES_MAX => items.push(item),
            Some(_) => left_out += 1,
            None => {}
        }
    }
    html! {
        ol.rail {
            (accepted(request, email))
            @for item in &items { (item) }
            @if left_out > 0 { (entry("", &html! { (format::counted(left_out, "more entry", "more entries")) "; choose a recipient above" }, None, &html! {})) }
            @for delivery in email.deliveries.iter().filter(|delivery| delivery.is_open()).take(NEXT_MAX) {
                (next(request, delivery, entries))
            }
        }
    }
}

/// One entry: a sign, what happened and when, and the rest.
fn entry(sign: &str, words: &Markup, at: Option<Timestamp>, rest: &Markup) -> Markup {
    html! {
        li {
            span class=(format!("sign {sign}").trim_end()) aria-hidden="true" {}
            div.line { span.strong { (words) } @if let Some(at) = at { (format::clock(at)) } }
            (rest)
        }
    }
}

fn accepted(request: &PageRequest, email: &Email) -> Markup {
    let recipients = format::counted(email.recipient_count, "recipient", "recipients");
    let key = |id: &str| html! { a href=(request.href(&format!("/ui/keys/{}", segment(id)))) { code { (visible(id)) } } };
    html! {
        (entry("run", &html! { "Accepted" }, Some(email.created_at), &html! {
            dl.kv {
                @if let Some(id) = &email.key_id { dt { "Key" } dd { (key(id)) } }
                dt { "Size" } dd { (format::octets(email.size)) ", " (recipients) }
                @if let Some(at) = email.send_at { dt { "Scheduled" } dd { (format::time(at)) } }
            }
        }))
        @if let Some(domain) = &email.dkim_domain {
            (entry("run", &html! { "Signed" }, Some(email.created_at), &html! {
                dl.kv { dt { "DKIM" } dd { code { "d=" (visible(domain)) } } }
            }))
        }
    }
}

/// The next attempt of a delivery, and why it is then.
fn next(request: &PageRequest, delivery: &Delivery, entries: &[Entry]) -> Markup {
    let Some(at) = delivery.next_attempt_at else { return html! {} };
    let last = attempts(entries).filter(|attempt| attempt.delivery_id == delivery.id).last();
    let word = if last.is_some() { "Next try for " } else { "First try for " };
    entry(
        "run",
        &html! { (word) (foreign(&delivery.recipient)) },
        None,
        &html! {
            p {
                (format::upcoming(at, request.now))
                @if let Some(last) = last.filter(|last| !last.reason.is_empty()) { ": " (visible(&last.reason)) }
            }
        },
    )
}

/// Whether an attempt of the same delivery says what an event says.
fn told_by_attempts(entries: &[Entry]) -> impl Fn(&Event) -> bool {
    let outcomes: Vec<(&str, &str)> =
        attempts(entries).map(|attempt| (attempt.delivery_id.as_str(), attempt.outcome.as_str())).collect();
    move |event| {
        let is_late = event.data.get("late").is_some_and(|late| late == &Value::Bool(true));
        let outcome = event.kind.strip_prefix("message.").unwrap_or_default();
        let delivery = event.delivery_id.as_deref().unwrap_or_default();
        !is_late && outcomes.contains(&(delivery, outcome))
    }
}

impl Writer<'_> {
    fn attempt(&self, attempt: &Attempt, place: usize, has_room: bool) -> Markup {
        let recipient = attempt.recipient.as_deref().unwrap_or("a recipient");
        let number = self.numbers.get(place).copied().unwrap_or(1);
        let word = match attempt.outcome.as_str() {
            "delivered" => "Delivered to ",
            "deferred" => "Deferred for ",
            "bounced" => "Bounced for ",
            "expired" => "Expired for ",
            "queued" => "Not tried for ",
            _ => "Tried for ",
        };
        let words = html! { (word) (foreign(recipient)) @if number > 1 || attempt.outcome == "deferred" { ", attempt " (number) } };
        let rest = html! {
            @let reply = reply(attempt);
            @if !reply.is_empty() { p { code.reply { (foreign(&reply)) } } }
            dl.kv {
                dt { "Host" } dd { (host(attempt)) }
                dt { "TLS" } dd { (tls(attempt)) }
                dt { "Took" } dd { (format::duration_ms(attempt.duration_ms)) (self.meter(attempt)) }
                @if let Some(class) = &attempt.bounce_class { dt { "Class" } dd { (visible(class)) } }
                @if !attempt.reason.is_empty() && attempt.outcome != "delivered" { dt { "Then" } dd { (visible(&attempt.reason)) } }
            }
            (self.dialogue(attempt, place, has_room))
        };
        entry(tone(&attempt.outcome), &words, Some(attempt.at), &rest)
    }

    fn meter(&self, attempt: &Attempt) -> Markup {
        if self.longest_ms < BAR_FROM_MS {
            return html! {};
        }
        let share = attempt.duration_ms * 100 / self.longest_ms;
        let text = if share >= 100 {
            "the longest attempt".into()
        } else {
            format!("{share} % of the longest attempt")
        };
        chart::short_meter(attempt.duration_ms, self.longest_ms, "mute", &text)
    }

    fn dialogue(&self, attempt: &Attempt, place: usize, has_room: bool) -> Markup {
        if attempt.transcript.is_empty() {
            return html! {};
        }
        let first = self.first_with.get(attempt.transcript.as_str()).copied().unwrap_or(place);
        let lines = attempt.transcript.lines().count() as u64;
        html! {
            @if first != place {
                p { a href={ "#dialogue-" (first) } { "The same dialogue as above" } }
            } @else if has_room {
                details id={ "dialogue-" (place) } {
                    summary { "Dialogue, " (format::counted(lines, "line", "lines")) }
                    ol.dialogue tabindex="0" aria-label="SMTP dialogue; C is Pillarbox, S the other server" {
                        @for line in attempt.transcript.lines().take(LINES_OF_DIALOGUE_MAX) { (line_of_dialogue(line)) }
                        @if lines > LINES_OF_DIALOGUE_MAX as u64 { (line_of_dialogue("* the other lines are left out")) }
                    }
                }
            } @else {
                p.soft { "Its dialogue is shown if you choose the recipient above." }
            }
        }
    }

    fn event(&self, event: &Event) -> Markup {
        let recipient = event.recipient.as_deref().or_else(|| event.data.get("recipient")?.as_str());
        let (sign, word) = words_of(&event.kind, event.data.get("late").is_some_and(|late| late == true));
        let words =
            html! { (visible(word)) @if let Some(recipient) = recipient { " " (foreign(recipient)) } };
        let text = |name: &str| event.data.get(name).and_then(Value::as_str).filter(|text| !text.is_empty());
        let rest = html! {
            @if let Some(reply) = text("reply") { p { code.reply { (foreign(reply)) } } }
            @if text("bounce_class").is_some() || text("report_id").is_some() || text("list").is_some() || text("fault").is_some() {
                dl.kv {
                    @if let Some(class) = text("bounce_class") { dt { "Class" } dd { (visible(class)) } }
                    @if let Some(list) = text("list") { dt { "List" } dd { (foreign(list)) } }
                    @if let Some(fault) = text("fault") { dt { "Fault" } dd { (foreign(fault)) } }
                    @if let Some(id) = text("report_id") { dt { "Report" } dd { (self.report_link(id)) } }
                }
            }
        };
        entry(sign, &words, Some(event.at), &rest)
    }

    fn report(&self, report: &Report) -> Markup {
        let words = html! {
            "Report: " (visible(&report.kind))
            @if let Some(recipient) = &report.recipient { ", " (foreign(recipient)) }
        };
        let rest = html! {
            dl.kv { dt { "Effect" } dd { (visible(&report.effect)) } dt { "Report" } dd { (self.report_link(&report.id)) } }
        };
        entry("", &words, Some(report.at), &rest)
    }

    fn report_link(&self, id: &str) -> Markup {
        html! { a href=(self.request.href(&format!("/ui/reports/{}", segment(id)))) { code { (visible(id)) } } }
    }
}

/// The sign and the words of an event.
fn words_of(kind: &str, is_late: bool) -> (&'static str, &str) {
    match kind {
        "message.delivered" => ("ok", "Delivered to"),
        "message.deferred" => ("warn", "Deferred for"),
        "message.bounced" if is_late => ("bad", "Came back after it was accepted, for"),
        "message.bounced" => ("bad", "Bounced for"),
        "message.expired" => ("bad", "Expired for"),
        "message.cancelled" => ("", "Cancelled for"),
        "message.suppressed" => ("", "Left out, because suppressed:"),
        "message.complained" => ("bad", "Complaint of"),
        "message.unsubscribed" => ("", "Left the list:"),
        "message.reported" => ("", "Reported about"),
        "message.content_damaged" => ("bad", "The stored content is damaged"),
        "suppression.created" => ("", "Suppressed from now on:"),
        "suppression.deleted" => ("", "No longer suppressed:"),
        other => ("", other),
    }
}

/// The reply with its codes.
fn reply(attempt: &Attempt) -> String {
    let code = attempt.reply_code.map(|code| format!("{code} ")).unwrap_or_default();
    let enhanced = attempt.enhanced_code.as_ref().map(|code| format!("{code} ")).unwrap_or_default();
    format!("{code}{enhanced}{}", attempt.reply)
}

fn host(attempt: &Attempt) -> Markup {
    html! {
        (foreign(&attempt.host))
        @if let Some(address) = &attempt.address { ", " (visible(address)) }
        @if let Some(source) = &attempt.source { " from " (visible(source)) }
    }
}

fn tls(attempt: &Attempt) -> Markup {
    html! {
        @match &attempt.tls { Some(tls) => (visible(tls)), None => "none" }
        @if let Some(policy) = &attempt.tls_policy { "; " (visible(policy)) }
    }
}

/// `> ` is ours, `< ` is theirs, `* ` is a remark.
fn line_of_dialogue(line: &str) -> Markup {
    let (mark, text) = line.split_at_checked(2).unwrap_or(("", line));
    let (class, who, text) = match (mark, text.as_bytes().first()) {
        ("> ", _) => ("c", "C", text),
        ("< ", Some(b'4')) => ("s warn", "S", text),
        ("< ", Some(b'5')) => ("s bad", "S", text),
        ("< ", _) => ("s", "S", text),
        ("* ", _) => ("x", "", text),
        _ => ("x", "", line),
    };
    html! { li class=(class) { b { (who) } span { (visible(text)) } } }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_dialogue_tell_both_sides_and_refusals_apart() {
        let shown = |line| line_of_dialogue(line).into_string();
        assert_eq!(shown("> EHLO a"), "<li class=\"c\"><b>C</b><span>EHLO a</span></li>");
        assert_eq!(shown("< 550 <no>"), "<li class=\"s bad\"><b>S</b><span>550 &lt;no&gt;</span></li>");
        assert_eq!(shown("< 421 slow"), "<li class=\"s warn\"><b>S</b><span>421 slow</span></li>");
        assert_eq!(
            shown("* TLS\u{202e}"),
            "<li class=\"x\"><b></b><span>TLS<span class=\"cp\">U+202E</span></span></li>"
        );
        assert_eq!(shown("é"), "<li class=\"x\"><b></b><span>é</span></li>");
    }

    #[test]
    fn an_event_that_an_attempt_tells_is_not_told_again_but_a_late_bounce_is() {
        use crate::ui::timeline::tests_support::{attempt, event};
        let entries = [
            attempt(0, "2026-11-29T04:07:55Z", "delivered"),
            event(0, "message.delivered", serde_json::json!({})),
            event(0, "message.bounced", serde_json::json!({ "late": true })),
        ];
        let told = told_by_attempts(&entries);
        let is_told = |entry: &Entry| matches!(entry, Entry::Event(event) if told(event));
        assert!(is_told(&entries[1]));
        assert!(!is_told(&entries[2]));
    }
}
