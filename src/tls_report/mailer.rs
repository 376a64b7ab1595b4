//! TLS reports by mail (RFC 8460 §5.3). They are submitted as mail of a tenant, and so are checked, signed and queued.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::TlsReportError;
use super::report::Report;
use crate::config::TlsReportMail;
use crate::mail::{Address, BodyType, DomainName, Envelope, MailParameters, ReversePath};
use crate::store::SubmissionKey;
use crate::submission::{
    AuthenticationError, Submission, SubmissionExtras, SubmissionService, Submitter, Trace,
};

/// RFC 8460 §3: a report is delivered even if TLS fails (RFC 8689 §4.1).
const TLS_REQUIRED_NO: &[u8] = b"TLS-Required: No\r\n";

/// Submits reports as mail of one tenant.
pub struct ReportMailer {
    submission: Arc<SubmissionService>,
    tenant: String,
    secret: Zeroizing<String>,
    from: Address,
}

/// Reads the secret of the tenant's key.
///
/// # Errors
/// [`TlsReportError::KeyFile`].
pub fn read_key(config: &TlsReportMail) -> Result<Zeroizing<String>, TlsReportError> {
    let path = &config.key_file;
    let text = std::fs::read_to_string(path)
        .map_err(|source| TlsReportError::KeyFile { path: path.clone(), source })?;
    Ok(Zeroizing::new(Zeroizing::new(text).trim().to_owned()))
}

impl ReportMailer {
    /// Reads the secret of the tenant's key.
    ///
    /// # Errors
    /// [`TlsReportError::KeyFile`].
    pub fn new(config: &TlsReportMail, submission: Arc<SubmissionService>) -> Result<Self, TlsReportError> {
        let secret = read_key(config)?;
        Ok(Self { submission, tenant: config.tenant.clone(), secret, from: config.from.clone() })
    }

    /// Submits a report to an address. `Ok` means that it is in the spool. The same report submitted twice within a
    /// day is sent once.
    ///
    /// # Errors
    /// The reason as text.
    pub async fn send(&self, to: &Address, report: &Report, hostname: &DomainName) -> Result<(), String> {
        let submitter = Arc::new(self.log_in().await?);
        let message = self.compose(to, report, hostname).map_err(|error| error.to_string())?;
        let smtputf8 = self.from.needs_smtputf8() || to.needs_smtputf8();
        let reverse_path = ReversePath::Mailbox(self.from.clone());
        let admitted = self.submission.admit_sender(&submitter, &reverse_path, false).await;
        admitted.map_err(|refusal| refusal.message)?;
        let admitted = self.submission.admit_recipient(&submitter, to, smtputf8, Some(0)).await;
        admitted.map_err(|refusal| refusal.message)?;
        let name = format!("tls-report {} {to}", report.content.report_id);
        let digest = Sha256::digest(&name).into();
        let submission = Submission {
            submitter,
            envelope: Envelope {
                reverse_path,
                recipients: vec![to.clone().into()],
                body: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
                smtputf8,
                parameters: MailParameters::default(),
            },
            message: message.into(),
            trace: Trace { helo: "tls-report".into(), protocol: "local", tls: None },
            extras: SubmissionExtras {
                submission_key: Some(SubmissionKey { name, digest }),
                ..SubmissionExtras::default()
            },
            received_at: self.submission.clock().instant(),
        };
        self.submission.accept(submission).await.map(drop).map_err(|refusal| refusal.message)
    }

    async fn log_in(&self) -> Result<Submitter, String> {
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let found = self.submission.authenticate(&self.tenant, &self.secret, here).await;
        found.map_err(|error| match error {
            AuthenticationError::Rejected(_) => {
                format!(
                    "tls_report.mail: key_file does not contain a valid key of the tenant {}",
                    self.tenant
                )
            }
            AuthenticationError::Refused(refusal) => refusal.message,
            AuthenticationError::Unavailable => "the store is unavailable".to_owned(),
        })
    }

    fn compose(&self, to: &Address, report: &Report, hostname: &DomainName) -> std::io::Result<Vec<u8>> {
        let (from, to) = (self.from.to_string(), to.to_string());
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
