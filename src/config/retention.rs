//! The table `[retention]`.

use serde::Deserialize;

use super::error::{InvalidOption, require_at_least_one};

/// `[retention]`: how long data is kept after the last delivery of a message has finished.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retention {
    /// Message bodies.
    pub body_days: u32,
    /// Transcripts of attempts.
    pub transcript_days: u32,
    /// Messages with their deliveries; a tenant's own value has priority.
    pub message_days: u32,
    /// Webhook deliveries, counted from the event.
    pub webhook_days: u32,
    /// The text of reports of other servers; a report itself is kept with its message.
    pub report_days: u32,
    /// Entries of the audit log, also those of deleted tenants.
    pub audit_days: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            body_days: 3,
            transcript_days: 7,
            message_days: 30,
            webhook_days: 7,
            report_days: 14,
            audit_days: 400,
        }
    }
}

impl Retention {
    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        let at_least_one = [
            ("retention.message_days", self.message_days.into()),
            ("retention.report_days", self.report_days.into()),
            ("retention.audit_days", self.audit_days.into()),
        ];
        require_at_least_one(&at_least_one).or_else(|| {
            // A webhook delivery is retried for more than three days.
            let is_short = self.webhook_days < 4;
            is_short.then(|| {
                InvalidOption::new(
                    "retention.webhook_days",
                    "must be at least 4: webhook deliveries are retried for up to four days",
                )
            })
        })
    }
}
