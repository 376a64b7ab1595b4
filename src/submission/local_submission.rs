//! Mail that the server itself submits as a tenant: TLS reports, and what people at other servers write to it. It is
//! checked, signed and queued like all mail.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{AuthenticationError, Submission, SubmissionExtras, SubmissionService, Submitter, Trace};
use crate::mail::{Address, BodyType, Envelope, MailParameters, ReversePath};
use crate::store::SubmissionKey;

/// The secret of the tenant's key cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("key_file {path}: {source}")]
pub struct KeyFileError {
    path: PathBuf,
    source: std::io::Error,
}

/// The tenant in whose name the server submits.
#[derive(Debug, Clone)]
pub struct LocalSender {
    /// The option of the configuration, for errors.
    pub option: &'static str,
    /// The slug of the tenant.
    pub tenant: String,
    /// The file with the secret of one of its keys.
    pub key_file: PathBuf,
    /// The From address.
    pub from: Address,
}

/// Submits messages as mail of one tenant.
pub struct LocalSubmitter {
    submission: Arc<SubmissionService>,
    sender: LocalSender,
    secret: Zeroizing<String>,
}

/// Reads the secret of a tenant's key.
///
/// # Errors
/// [`KeyFileError`].
pub fn read_key_file(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|source| KeyFileError { path: path.to_owned(), source })?;
    Ok(Zeroizing::new(Zeroizing::new(text).trim().to_owned()))
}

impl LocalSubmitter {
    /// Reads the secret of the tenant's key.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn new(sender: LocalSender, submission: Arc<SubmissionService>) -> Result<Self, KeyFileError> {
        let secret = read_key_file(&sender.key_file)?;
        Ok(Self { submission, sender, secret })
    }

    /// The From address.
    pub fn from(&self) -> &Address {
        &self.sender.from
    }

    /// Submits a message to one address. `Ok` means that it is in the spool. With a key, the same message submitted
    /// twice within a day is sent once. `program` is its origin in the Received field.
    ///
    /// # Errors
    /// The reason as text.
    pub async fn submit(
        &self,
        program: &str,
        to: &Address,
        message: Vec<u8>,
        submission_key: Option<SubmissionKey>,
    ) -> Result<(), String> {
        let submitter = Arc::new(self.log_in().await?);
        let from = &self.sender.from;
        let smtputf8 = from.needs_smtputf8() || to.needs_smtputf8();
        let reverse_path = ReversePath::Mailbox(from.clone());
        let admitted = self.submission.admit_sender(&submitter, &reverse_path, false).await;
        admitted.map_err(|refusal| refusal.message)?;
        let admitted = self.submission.admit_recipient(&submitter, to, smtputf8, Some(0)).await;
        admitted.map_err(|refusal| refusal.message)?;
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
            trace: Trace { helo: program.to_owned(), protocol: "local", tls: None },
            extras: SubmissionExtras { submission_key, ..SubmissionExtras::default() },
            received_at: self.submission.clock().instant(),
        };
        self.submission.accept(submission).await.map(drop).map_err(|refusal| refusal.message)
    }

    async fn log_in(&self) -> Result<Submitter, String> {
        let LocalSender { option, tenant, .. } = &self.sender;
        let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let found = self.submission.authenticate(tenant, &self.secret, here).await;
        found.map_err(|error| match error {
            AuthenticationError::Rejected(_) => {
                format!("{option}: key_file does not contain a valid key of the tenant {tenant}")
            }
            AuthenticationError::Refused(refusal) => refusal.message,
            AuthenticationError::Unavailable => "the store is unavailable".to_owned(),
        })
    }
}
