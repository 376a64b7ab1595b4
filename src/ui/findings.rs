//! What the doctor found: on its page, on the overview, and on the page of a domain.

use maud::{Markup, html};
use serde::Deserialize;

use super::components::{self, foreign, visible};
use super::request::PageRequest;
use crate::mail::Timestamp;
use crate::model::FindingStatus;

/// What all checks found.
#[derive(Deserialize)]
pub struct Diagnosis {
    /// When they ran.
    pub at: Timestamp,
    /// How long they took.
    pub duration_ms: u64,
    /// The worst first.
    pub findings: Vec<Finding>,
}

/// What one check found.
#[derive(Deserialize)]
pub struct Finding {
    /// The check.
    pub id: String,
    /// How bad it is.
    pub status: FindingStatus,
    /// The fact.
    pub text: String,
    /// What to do.
    pub fix: Option<Fix>,
}

/// What to do about a finding.
#[derive(Deserialize)]
pub struct Fix {
    /// In words.
    pub text: String,
    /// A DNS record to publish.
    pub record: Option<Record>,
    /// A command to run.
    pub command: Option<String>,
}

/// A DNS record.
#[derive(Deserialize)]
pub struct Record {
    /// Its value.
    pub value: String,
}

impl Finding {
    /// Whether somebody should do something.
    pub fn is_wrong(&self) -> bool {
        matches!(self.status, FindingStatus::Warning | FindingStatus::Error)
    }

    /// An item of a list of findings, with what to do.
    pub fn show(&self, request: &PageRequest, fix: &Markup) -> Markup {
        let is_stressed = !matches!(self.status, FindingStatus::Ok | FindingStatus::Skipped);
        html! {
            li {
                span { (components::status(self.status.as_str())) }
                a href=(request.href(&format!("/docs/doctor#{}", self.id))) { code { (visible(&self.id)) } }
                div {
                    p class=[is_stressed.then_some("strong")] { (foreign(&self.text)) }
                    (fix)
                }
            }
        }
    }
}
