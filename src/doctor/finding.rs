//! What a check found, and what to do about it.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::catalogue;
use crate::mail::Timestamp;
use crate::model::FindingStatus;

/// Characters that are kept of what may be the words of another server: in a text, in a fix, and of what was found.
const TEXT_CHARS_MAX: usize = 400;
const FIX_CHARS_MAX: usize = 2000;
const FOUND_CHARS_MAX: usize = 2000;
/// Records of what was found that are kept.
const FOUND_MAX: usize = 20;

/// What one check found about one subject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// The stable id of the check, like `name.ptr`.
    pub id: Cow<'static, str>,
    /// How bad it is.
    pub status: FindingStatus,
    /// What it is about: an address, a name, a file; empty if the server as a whole.
    pub subject: String,
    /// One sentence.
    pub text: String,
    /// What was found, as it is.
    pub found: Vec<String>,
    /// What would be right.
    pub expected: Option<String>,
    /// What to do.
    pub fix: Option<Fix>,
    /// How long the look took, in milliseconds.
    pub duration_ms: u64,
}

/// What to do, exactly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fix {
    /// One sentence in the imperative.
    pub text: String,
    /// The DNS record to publish, in place of the one that is wrong or, if the text says so, beside others.
    pub record: Option<FixRecord>,
    /// The command to run, or the line of the configuration.
    pub command: Option<String>,
}

/// A DNS record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FixRecord {
    /// Its fully qualified name.
    pub name: String,
    /// `TXT`, `MX`, `A`, `AAAA` or `PTR`.
    #[serde(rename = "type")]
    pub kind: Cow<'static, str>,
    /// Its value as zone files have it, without quotes.
    pub value: String,
}

/// The result of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnosis {
    /// Always `diagnosis`.
    pub object: Cow<'static, str>,
    /// The host name, or the domain.
    pub subject: String,
    /// The version of the program.
    pub version: String,
    /// The time of the run.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// The worst status.
    pub status: FindingStatus,
    /// The findings, the worst first, then by id and subject.
    pub findings: Vec<Finding>,
}

impl Finding {
    /// All is well. Only for facts that were seen.
    pub fn ok(id: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(id, FindingStatus::Ok, subject, text)
    }

    /// Nothing was looked at; the text says why.
    pub fn skipped(id: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(id, FindingStatus::Skipped, subject, text)
    }

    /// Worth knowing; nothing is wrong.
    pub fn info(id: &'static str, subject: impl Into<String>, text: impl Into<String>) -> Self {
        Self::new(id, FindingStatus::Info, subject, text)
    }

    /// It works, but not for long or not everywhere.
    pub fn warning(id: &'static str, subject: impl Into<String>, text: impl Into<String>, fix: Fix) -> Self {
        Self { fix: Some(fix.on_one_line()), ..Self::new(id, FindingStatus::Warning, subject, text) }
    }

    /// It does not work.
    pub fn error(id: &'static str, subject: impl Into<String>, text: impl Into<String>, fix: Fix) -> Self {
        Self { fix: Some(fix.on_one_line()), ..Self::new(id, FindingStatus::Error, subject, text) }
    }

    /// With what was found and what would be right.
    pub fn with(self, found: Vec<String>, expected: impl Into<String>) -> Self {
        let found = found.iter().take(FOUND_MAX).map(|found| one_line(found, FOUND_CHARS_MAX)).collect();
        Self { found, expected: Some(one_line(&expected.into(), FIX_CHARS_MAX)), ..self }
    }

    fn new(
        id: &'static str,
        status: FindingStatus,
        subject: impl Into<String>,
        text: impl Into<String>,
    ) -> Self {
        debug_assert!(catalogue::find(id).is_some(), "{id} is not in the catalogue");
        Self {
            id: id.into(),
            status,
            subject: one_line(&subject.into(), TEXT_CHARS_MAX),
            text: one_line(&text.into(), TEXT_CHARS_MAX),
            found: Vec::new(),
            expected: None,
            fix: None,
            duration_ms: 0,
        }
    }
}

impl Fix {
    /// Something to do that is neither a record nor a command.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), record: None, command: None }
    }

    /// A record to publish.
    pub fn record(kind: &'static str, name: impl Into<String>, value: impl Into<String>) -> Self {
        let record = FixRecord { name: name.into(), kind: kind.into(), value: value.into() };
        Self {
            text: format!("set {kind} {} to {}", record.name, record.value),
            record: Some(record),
            command: None,
        }
    }

    fn on_one_line(self) -> Self {
        let is_cut = |record: &&FixRecord| one_line(&record.value, FIX_CHARS_MAX) != record.value;
        // A record that is not whole must not be published, nor stand in the text.
        let fix = match self.record.as_ref().filter(is_cut) {
            Some(FixRecord { kind, name, .. }) => {
                let text = format!("correct {kind} {name} by hand: it cannot be shown whole");
                Self { text, record: None, ..self }
            }
            None => self,
        };
        Self { text: one_line(&fix.text, FIX_CHARS_MAX), ..fix }
    }

    /// A command to run, or a line of the configuration.
    pub fn command(text: impl Into<String>, command: impl Into<String>) -> Self {
        Self { text: text.into(), record: None, command: Some(command.into()) }
    }
}

impl Diagnosis {
    /// Only the findings of these checks.
    pub fn only(self, ids: &[String]) -> Self {
        let findings: Vec<Finding> =
            self.findings.into_iter().filter(|finding| ids.iter().any(|id| *id == finding.id)).collect();
        Self { status: worst(&findings), findings, ..self }
    }

    /// Of a run. `Ok` only if something was seen.
    pub fn new(
        subject: impl Into<String>,
        mut findings: Vec<Finding>,
        at: Timestamp,
        duration_ms: u64,
    ) -> Self {
        findings.sort_by(|a, b| (b.status, &a.id, &a.subject).cmp(&(a.status, &b.id, &b.subject)));
        Self {
            object: "diagnosis".into(),
            subject: subject.into(),
            version: env!("CARGO_PKG_VERSION").into(),
            at,
            duration_ms,
            status: worst(&findings),
            findings,
        }
    }
}

/// A text of bounded length without characters that end lines, control terminals or turn the direction of text.
pub fn one_line(text: &str, chars_max: usize) -> String {
    let is_shown = |c: char| {
        !c.is_control()
            && !matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut line: String = text.chars().take(chars_max).map(|c| if is_shown(c) { c } else { ' ' }).collect();
    if text.chars().nth(chars_max).is_some() {
        line.push('…');
    }
    line
}

fn worst(findings: &[Finding]) -> FindingStatus {
    findings.iter().map(|finding| finding.status).max().unwrap_or(FindingStatus::Skipped)
}
