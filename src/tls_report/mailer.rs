//! TLS reports by mail (RFC 8460 §5.3). They are submitted as mail of a tenant, and so are checked, signed and queued.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::report::Report;
use crate::config::TlsReportMail;
use crate::mail::{Address, DomainName};
use crate::store::SubmissionKey;
use crate::submission::{KeyFileError, LocalSender, LocalSubmitter, SubmissionService};

/// RFC 8460 §3: a report is delivered even if TLS fails (RFC 8689 §4.1).
const TLS_REQUIRED_NO: &[u8] = b"TLS-Required: No\r\n";

/// Submits reports as mail of one tenant.
pub struct ReportMailer(LocalSubmitter);

impl ReportMailer {
    /// Reads the secret of the tenant's key.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn new(config: &TlsReportMail, submission: Arc<SubmissionService>) -> Result<Self, KeyFileError> {
        let TlsReportMail { tenant, key_file, from, .. } = config.clone();
        let sender = LocalSender { option: "tls_report.mail", tenant, key_file, from };
        LocalSubmitter::new(sender, submission).map(Self)
    }

    /// Submits a report to an address. `Ok` means that it is in the spool. The same report submitted twice within a
    /// day is sent once.
    ///
    /// # Errors
    /// The reason as text.
    pub async fn send(&self, to: &Address, report: &Report, hostname: &DomainName) -> Result<(), String> {
        let message = self.compose(to, report, hostname).map_err(|error| error.to_string())?;
        let name = format!("tls-report {} {to}", report.content.report_id);
        let digest = Sha256::digest(&name).into();
        self.0.submit("tls-report", to, message, Some(SubmissionKey { name, digest })).await
    }

    fn compose(&self, to: &Address, report: &Report, hostname: &DomainName) -> std::io::Result<Vec<u8>> {
        let (from, to) = (self.0.from().to_string(), to.to_string());
        let mut message = TLS_REQUIRED_NO.to_vec();
        report.content.write_rfc5322_from_bytes(
            report.domain.as_str(),
            hostname.as_str(),
            from.as_str(),
            std::iter::once(to.as_str()),
            &report.compressed,
            &mut message,
        )?;
        Ok(message)
    }
}
