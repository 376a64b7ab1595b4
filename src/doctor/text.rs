//! Findings as lines for people, and as the one line that monitoring reads.

use std::fmt::Write;

use super::{Diagnosis, Finding, find_check};
use crate::model::FindingStatus;

/// The columns of status and id.
const STATUS_WIDTH: usize = 9;
const ID_WIDTH: usize = 14;

/// All findings that need something, the worst first; with `all`, also those that are right.
pub fn render(diagnosis: &Diagnosis, all: bool) -> String {
    let Diagnosis { subject, version, findings, duration_ms, .. } = diagnosis;
    let seconds = format!("{}.{}", duration_ms / 1000, duration_ms % 1000 / 100);
    let mut text =
        format!("{subject}   Pillarbox {version}   {} in {seconds} s\n", counted(findings.len(), "check"));
    let shown: Vec<&Finding> =
        findings.iter().filter(|finding| all || finding.status != FindingStatus::Ok).collect();
    let width = shown.iter().map(|finding| finding.id.len() + 1).chain([ID_WIDTH]).max().unwrap_or(ID_WIDTH);
    // What is right comes last, although `Skipped` is the lowest status.
    let (skipped, known): (Vec<_>, Vec<_>) =
        shown.into_iter().partition(|finding| finding.status == FindingStatus::Skipped);
    let (ok, wrong): (Vec<_>, Vec<_>) =
        known.into_iter().partition(|finding| finding.status == FindingStatus::Ok);
    for finding in wrong.into_iter().chain(skipped).chain(ok) {
        write_finding(&mut text, finding, width);
    }
    let right = findings.iter().filter(|finding| finding.status == FindingStatus::Ok).count();
    if !all && right > 0 {
        let others = format!("{right} {}", if right == 1 { "other" } else { "others" });
        let _ = writeln!(text, "{:STATUS_WIDTH$}{others:width$}--all shows them", "OK");
    }
    text + &last_line(findings)
}

/// A finding with what to do, in lines.
#[cfg(test)]
pub fn finding_lines(finding: &Finding) -> String {
    let mut text = String::new();
    write_finding(&mut text, finding, ID_WIDTH.max(finding.id.len() + 1));
    text
}

fn write_finding(text: &mut String, finding: &Finding, width: usize) {
    let status = finding.status.to_string().to_ascii_uppercase();
    let _ = writeln!(text, "{status:STATUS_WIDTH$}{:width$}{}", finding.id, finding.text);
    let Some(fix) = &finding.fix else { return };
    let _ = writeln!(text, "{:STATUS_WIDTH$}{:width$}{}", "", "do", fix.text);
    for line in fix.command.iter().flat_map(|command| command.lines()) {
        let _ = writeln!(text, "{:STATUS_WIDTH$}{:width$}  {line}", "", "");
    }
}

fn last_line(findings: &[Finding]) -> String {
    match (counts(findings), findings.first()) {
        (Some(counts), Some(worst)) => {
            format!("{counts}. What one means: pillarbox doctor --explain {}\n", worst.id)
        }
        _ if findings.iter().any(|finding| finding.status == FindingStatus::Ok) => {
            "All is well.\n".to_owned()
        }
        _ => "Nothing could be looked at.\n".to_owned(),
    }
}

/// Like `1 error, 2 warnings`; `None` without any.
fn counts(findings: &[Finding]) -> Option<String> {
    let of = |status, name| {
        let count = findings.iter().filter(|finding| finding.status == status).count();
        (count > 0).then(|| counted(count, name))
    };
    let counts = [of(FindingStatus::Error, "error"), of(FindingStatus::Warning, "warning")];
    let counts: Vec<String> = counts.into_iter().flatten().collect();
    (!counts.is_empty()).then(|| counts.join(", "))
}

fn counted(count: usize, name: &str) -> String {
    format!("{count} {name}{}", if count == 1 { "" } else { "s" })
}

/// The word of plugins of Nagios for a status.
pub fn state_word(status: FindingStatus) -> &'static str {
    match status {
        FindingStatus::Error => "CRITICAL",
        FindingStatus::Warning => "WARNING",
        FindingStatus::Info | FindingStatus::Ok => "OK",
        FindingStatus::Skipped => "UNKNOWN",
    }
}

/// One line as plugins of Nagios have it.
pub fn summarize(diagnosis: &Diagnosis) -> String {
    let findings = &diagnosis.findings;
    let state = state_word(diagnosis.status);
    let rest = match counts(findings) {
        Some(counts) => {
            let wrong = findings.iter().filter(|finding| finding.status >= FindingStatus::Warning);
            let mut ids: Vec<&str> = wrong.map(|finding| finding.id.as_ref()).collect();
            ids.dedup();
            format!("{counts}: {}", ids.join(", "))
        }
        None => counted(findings.len(), "check"),
    };
    format!("PILLARBOX {state} - {rest}\n")
}

/// What a check looks at, and what happens if it is wrong; `None` if there is no such check.
pub fn explain(id: &str) -> Option<String> {
    let check = find_check(id)?;
    Some(format!("{id}\n{}\nIf it is wrong: {}\n", check.meaning, check.consequence))
}
