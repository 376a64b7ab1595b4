//! The table `[tls_report]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use super::duration;
use super::error::InvalidOption;
use crate::mail::Address;

/// `[tls_report]`: SMTP TLS reports to recipient domains (RFC 8460).
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TlsReport {
    /// Whether to collect results and send reports.
    pub enabled: bool,
    /// The reporting organization; the server's host name by default.
    pub organization: Option<String>,
    /// The contact address in reports.
    pub contact: Option<String>,
    /// Reports are spread over this time after midnight UTC.
    #[serde(with = "duration")]
    pub delay_max: Duration,
    /// How reports are mailed; without it they are sent over HTTPS only.
    pub mail: Option<TlsReportMail>,
}

/// `[tls_report.mail]`: the sender of mailed reports.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TlsReportMail {
    /// The slug of a tenant.
    pub tenant: String,
    /// The file with the secret of one of the tenant's keys with scope `smtp:send`.
    pub key_file: PathBuf,
    /// The From address, under a verified domain of the tenant.
    pub from: Address,
}

impl Default for TlsReport {
    fn default() -> Self {
        Self {
            enabled: false,
            organization: None,
            contact: None,
            delay_max: Duration::from_secs(4 * 60 * 60),
            mail: None,
        }
    }
}

impl TlsReport {
    /// A report can wait this long and still be retried for a day before its results are deleted.
    pub const DELAY_MAX: Duration = Duration::from_secs(6 * 24 * 60 * 60);

    pub(super) fn find_invalid(&self) -> Option<InvalidOption> {
        let is_late = self.delay_max > Self::DELAY_MAX;
        is_late.then(|| {
            InvalidOption::new("tls_report.delay_max", "must be at most 144h: results are kept for a week")
        })
    }
}
