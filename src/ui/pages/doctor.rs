//! What is wrong with the server, and what to do.

use maud::{Markup, html};
use serde::Deserialize;

use crate::mail::Timestamp;
use crate::ui::components::{block, foreign, form, status, visible};
use crate::ui::format;
use crate::ui::request::PageRequest;
use crate::ui::view::{Outcome, View};

const PAGE: &str = "/ui/doctor";

#[derive(Deserialize)]
struct Diagnosis {
    at: Timestamp,
    duration_ms: u64,
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Finding {
    id: String,
    status: String,
    text: String,
    fix: Option<Fix>,
}

#[derive(Deserialize)]
struct Fix {
    text: String,
    record: Option<Record>,
    command: Option<String>,
}

#[derive(Deserialize)]
struct Record {
    value: String,
}

pub async fn show(request: PageRequest) -> Outcome {
    let found: Diagnosis = request.get("/v1/doctor").await?;
    let again = form(&request, PAGE, &html! { button.button.primary { "Run again" } });
    let body = html! {
        header.head {
            div {
                h1 { "Doctor" }
                p { (summary(&found.findings)) " · " (format::time(found.at)) " in " (format::duration_ms(found.duration_ms)) }
            }
            div.row { (again) }
        }
        section.panel { (findings(&request, &found.findings)) }
    };
    View::page("Doctor", body)
}

pub async fn run(request: PageRequest) -> Outcome {
    request.get::<Diagnosis>("/v1/doctor?refresh=true").await?;
    View::redirect(PAGE, "All checks have run.")
}

fn summary(findings: &[Finding]) -> Markup {
    let count = |word: &str| findings.iter().filter(|finding| finding.status == word).count();
    let words = [
        ("error", "is-bad", ["error", "errors"]),
        ("warning", "is-warn", ["warning", "warnings"]),
        ("info", "", ["note", "notes"]),
        ("skipped", "", ["skipped", "skipped"]),
        ("ok", "", ["right", "right"]),
    ];
    let shown: Vec<_> = words.into_iter().filter(|(word, ..)| count(word) > 0).collect();
    html! {
        @for (index, (word, class, names)) in shown.into_iter().enumerate() {
            @if index > 0 { ", " }
            span class=[(!class.is_empty()).then_some(class)] { (count(word)) " " (names[usize::from(count(word) != 1)]) }
        }
    }
}

/// What needs something, what was not looked at, and under them what is right.
fn findings(request: &PageRequest, findings: &[Finding]) -> Markup {
    let (right, others): (Vec<_>, Vec<_>) = findings.iter().partition(|finding| finding.status == "ok");
    let (skipped, wrong): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|finding| finding.status == "skipped");
    html! {
        @if wrong.is_empty() { p.pad { "Nothing is wrong." } }
        ul.findings { @for finding in wrong.into_iter().chain(skipped) { (show_finding(request, finding)) } }
        @if !right.is_empty() {
            details {
                summary.pad { (right.len()) @if right.len() == 1 { " check is right" } @else { " checks are right" } }
                ul.findings { @for finding in right { (show_finding(request, finding)) } }
            }
        }
    }
}

fn show_finding(request: &PageRequest, finding: &Finding) -> Markup {
    let Finding { id, status: word, text, fix } = finding;
    let is_wrong = !["ok", "skipped"].contains(&word.as_str());
    html! {
        li {
            span { (status(word)) }
            a href=(request.href(&format!("/docs/doctor#{id}"))) { code { (visible(id)) } }
            div {
                p class=[is_wrong.then_some("strong")] { (foreign(text)) }
                @if let Some(fix) = fix {
                    p.soft { (foreign(&fix.text)) }
                    @if let Some(record) = &fix.record { (block(&record.value)) }
                    @if let Some(command) = &fix.command { (block(command)) }
                }
            }
        }
    }
}
