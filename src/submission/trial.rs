//! Trial mail: live messages from the sandbox domain, which go to confirmed inboxes of the tenant only, and the mail that
//! asks for a confirmation.

use std::sync::Arc;

use super::acceptance::{CheckedSubmission, MessageTerms};
use super::{
    Submission, SubmissionExtras, SubmissionService, Submitter, Trace, header_rewrite, storage_refusal,
};
use crate::mail::{
    Address, BodyType, DomainName, Envelope, Host, MailParameters, Notify, Recipient, ReversePath, Timestamp,
};
use crate::model::{Environment, MessageId, MessageKind, Refusal, RefusalCode};
use crate::policy::admission::{SendingDomain, admit_trial, refuse_trial_limit};
use crate::store::{INBOX_CODE_LIFETIME, Inboxes, Spool, TRIAL_MESSAGES_PER_DAY_MAX, Tenant};

/// The label of the sandbox domain, below the host name.
pub const SANDBOX_LABEL: &str = "sandbox";

impl SubmissionService {
    /// Whether the submission is trial mail: live, with the sandbox domain in the reverse path or in a field of the header.
    pub(super) async fn is_trial(
        &self,
        submission: &Submission,
        authors: &[SendingDomain],
    ) -> Result<bool, Refusal> {
        if submission.submitter.key.environment != Environment::Live {
            return Ok(false);
        }
        if authors.iter().any(|domain| domain.is_sandbox) {
            return Ok(true);
        }
        match submission.envelope.reverse_path.mailbox() {
            Some(address) => {
                let covering = self.covering(&submission.submitter, address).await?;
                let is_sandbox = |domain: &SendingDomain| {
                    domain.is_sandbox && *address.host() == Host::Domain(domain.name.clone())
                };
                Ok(covering.iter().any(is_sandbox))
            }
            None => Ok(false),
        }
    }

    /// Refuses trial mail to recipients that are not confirmed. Nobody reads reports at the sandbox domain, so none are
    /// wanted.
    pub(super) async fn admit_trial(
        &self,
        tenant: &Tenant,
        recipients: &mut [Recipient],
    ) -> Result<(), Refusal> {
        let inboxes = self.store.confirmed_inboxes(tenant.id).await.map_err(storage_refusal)?;
        admit_trial(&tenant.slug, recipients.iter().map(|recipient| &recipient.address), &inboxes)?;
        for recipient in recipients {
            recipient.parameters.notify = Some(Notify::default());
        }
        Ok(())
    }

    /// Counts a trial message, or refuses it.
    pub(super) async fn count_trial(&self, tenant: &Tenant, now: Timestamp) -> Result<(), Refusal> {
        match self.store.take_trial_message(tenant.id, now).await.map_err(storage_refusal)? {
            true => Ok(()),
            false => Err(refuse_trial_limit(TRIAL_MESSAGES_PER_DAY_MAX)),
        }
    }

    /// Sends the code that confirms an inbox. The message has the kind `confirmation`: the tenant cannot read it, and it
    /// counts nowhere.
    pub async fn send_confirmation(
        &self,
        submitter: Arc<Submitter>,
        address: &Address,
        code: &str,
    ) -> Result<MessageId, Refusal> {
        let current = self.refresh(&submitter).await?;
        let recipient = Recipient::from(address.clone());
        let domain = self.sandbox_domain(&submitter).await?;
        let message = confirmation(&self.settings.hostname, &domain.name, &current.1.slug, address, code);
        let header = header_rewrite::check(message.as_bytes())?;
        let now = self.clock.now();
        let submission = Submission {
            envelope: Envelope {
                reverse_path: ReversePath::Null,
                recipients: vec![recipient],
                body: if message.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime },
                smtputf8: address.needs_smtputf8(),
                parameters: MailParameters::default(),
            },
            submitter,
            message: message.into(),
            trace: Trace { helo: "inbox".into(), protocol: "local", tls: None },
            extras: SubmissionExtras::default(),
            received_at: self.clock.instant(),
        };
        let checked = CheckedSubmission {
            submission,
            current,
            submission_key: None,
            header,
            domain,
            kind: MessageKind::Confirmation,
            is_trial: false,
            list: None,
        };
        let expires_at = now.checked_add(INBOX_CODE_LIFETIME).unwrap_or(Timestamp::MAX);
        let terms = MessageTerms { id: MessageId::generate(now), expires_at, now };
        let new = self.build_message(checked, terms).await?;
        self.store.enqueue(new).await.map_err(storage_refusal)
    }

    async fn sandbox_domain(&self, submitter: &Submitter) -> Result<SendingDomain, Refusal> {
        let missing =
            || Refusal::new(RefusalCode::Internal, "there is no sandbox domain", "restart the server");
        let name = format!("{SANDBOX_LABEL}.{}", self.settings.hostname);
        let name = DomainName::parse(&name).map_err(|_| missing())?;
        let covering = self.directory.covering(submitter.tenant.id, &name).await.map_err(storage_refusal)?;
        let found = covering.iter().find(|domain| domain.is_sandbox && domain.name == name);
        found.cloned().ok_or_else(missing)
    }
}

/// The confirmation mail. It contains no text of the tenant but its slug, so that it cannot carry advertising.
fn confirmation(
    hostname: &DomainName,
    sandbox: &DomainName,
    slug: &str,
    address: &Address,
    code: &str,
) -> String {
    format!(
        "From: \"Mail server {hostname}\" <confirm@{sandbox}>\r\n\
         To: <{address}>\r\n\
         Subject: Code to confirm this address for test mail\r\n\
         Auto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\n\
         Content-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: 8bit\r\n\
         \r\n\
         The tenant {slug} of the mail server {hostname} wants to send test mail\r\n\
         to this address. If that is you, confirm it with this code:\r\n\
         \r\n\
         \x20   {code}\r\n\
         \r\n\
         For example: pillarbox inbox confirm {address} {code}\r\n\
         \r\n\
         The code is valid for a day. If you do not know of this, ignore this\r\n\
         message: without the code, the tenant cannot send to you.\r\n"
    )
}
