//! What is wrong with the server, and what to do.

use maud::{Markup, html};

use crate::model::FindingStatus;
use crate::ui::components::{block, foreign, form};
use crate::ui::findings::{Diagnosis, Finding};
use crate::ui::format;
use crate::ui::request::PageRequest;
use crate::ui::view::{Outcome, View};

const PAGE: &str = "/ui/doctor";

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
    let count = |status: FindingStatus| findings.iter().filter(|finding| finding.status == status).count();
    let words = [
        (FindingStatus::Error, "is-bad", ["error", "errors"]),
        (FindingStatus::Warning, "is-warn", ["warning", "warnings"]),
        (FindingStatus::Info, "", ["note", "notes"]),
        (FindingStatus::Skipped, "", ["skipped", "skipped"]),
        (FindingStatus::Ok, "", ["right", "right"]),
    ];
    let shown: Vec<_> = words.into_iter().filter(|(status, ..)| count(*status) > 0).collect();
    html! {
        @for (index, (status, class, names)) in shown.into_iter().enumerate() {
            @if index > 0 { ", " }
            span class=[(!class.is_empty()).then_some(class)] { (count(status)) " " (names[usize::from(count(status) != 1)]) }
        }
    }
}

/// What needs something, what was not looked at, and under them what is right.
fn findings(request: &PageRequest, findings: &[Finding]) -> Markup {
    let (right, others): (Vec<_>, Vec<_>) =
        findings.iter().partition(|finding| finding.status == FindingStatus::Ok);
    let (skipped, wrong): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|finding| finding.status == FindingStatus::Skipped);
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
    let fix = html! {
        @if let Some(fix) = &finding.fix {
            p.soft { (foreign(&fix.text)) }
            @if let Some(record) = &fix.record { (block(&record.value)) }
            @if let Some(command) = &fix.command { (block(command)) }
        }
    };
    finding.show(request, &fix)
}
