//! Messages that name a list: their recipient can leave it with one click (RFC 8058).

use super::acceptance::signing_refusal;
use super::header_rewrite::CheckedHeader;
use super::{Submission, SubmissionService, Submitter, storage_refusal};
use crate::mail::{Address, DomainName, TokenKind, TokenScope, TokenSubject};
use crate::model::{
    DeliveryId, Environment, ListName, MessageId, Refusal, RefusalCode, SuppressedMail, TenantId,
    UnsubscribeLink,
};
use crate::policy::admission::SendingDomain;
use crate::store::{Directory, Reports, Suppression};
use crate::unsubscribe::{link_url, list_id_field, unsubscribe_fields};

/// The fields that a message with a list must not have, because the server adds them.
const OWN_FIELDS: [&str; 2] = ["List-Unsubscribe", "List-Unsubscribe-Post"];
/// RFC 8058 §4: the signature covers them. Once more than they are present, so that nobody adds a second one.
pub(super) const OVERSIGNED_FIELDS: &[&str] = &OWN_FIELDS;

/// Who sends, and under which id: what a link contains besides list and recipient.
#[derive(Debug, Clone, Copy)]
pub struct LinkSender {
    /// The tenant.
    pub tenant: TenantId,
    /// The environment of the message.
    pub environment: Environment,
    /// The message.
    pub message: MessageId,
}

impl LinkSender {
    /// A message of a submitter.
    pub fn new(submitter: &Submitter, message: MessageId) -> Self {
        Self { tenant: submitter.tenant.id, environment: submitter.key.environment, message }
    }
}

/// The refusal of a message that names a list and has several recipients: the link names the person, so each message
/// differs (RFC 8058 §3.1).
pub fn refuse_several_recipients(count: usize) -> Refusal {
    Refusal::new(
        RefusalCode::UnsubscribeNeedsOneRecipient,
        format!(
            "the message names a list and has {count} recipients, but its unsubscribe link names one person"
        ),
        "send one message to each recipient; POST /v1/emails/batch takes up to 100",
    )
}

/// The recipient of a message that names a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListRecipient<'a> {
    /// The address.
    pub(super) address: &'a Address,
    /// Its delivery.
    pub(super) delivery: DeliveryId,
}

/// The List-Id field, unless the message has one.
pub(super) fn list_id(list: &ListName, header: &CheckedHeader, domain: &DomainName) -> String {
    if header.has("List-Id") { String::new() } else { list_id_field(list, domain) }
}

fn refuse_unavailable(reason: String, hint: &str) -> Refusal {
    Refusal::new(RefusalCode::UnsubscribeUnavailable, reason, hint)
}

/// The refusal of mail to a recipient that left the list, or every list.
fn refuse_unsubscribed(recipient: &Address, list: &ListName, found: &Suppression) -> Refusal {
    let day = found.created_at.strftime("%Y-%m-%d");
    let which = match found.mail {
        SuppressedMail::EveryList => "all lists".to_owned(),
        _ => format!("the list {list}"),
    };
    Refusal::new(
        RefusalCode::RecipientUnsubscribed,
        format!("{recipient} has been excluded from {which} since {day} (reason: {})", found.reason),
        "send no mail of this list to the address; remove the suppression only if the recipient asks for this mail",
    )
}

impl SubmissionService {
    /// Refuses a message that names a list if its recipient cannot leave it, or has left it.
    pub(super) async fn admit_list(
        &self,
        submission: &Submission,
        header: &CheckedHeader,
        domain: &SendingDomain,
        list: &ListName,
    ) -> Result<(), Refusal> {
        let Submission { submitter, envelope, .. } = submission;
        let [recipient] = &envelope.recipients[..] else {
            return Err(refuse_several_recipients(envelope.recipients.len()));
        };
        if let Some(name) = OWN_FIELDS.into_iter().find(|name| header.has(name)) {
            return Err(Refusal::new(
                RefusalCode::UnsubscribeConflict,
                format!("the message names the list {list} and has its own {name} field"),
                "leave out one of them: the server adds the field to a message that names a list",
            ));
        }
        self.public_url()?;
        let signers = self.directory.signers(submitter.tenant.id, domain).await.map_err(|error| {
            tracing::error!(%error, domain = %domain.name, "cannot sign");
            signing_refusal(&domain.name)
        })?;
        if signers.is_empty() {
            return Err(refuse_unavailable(
                format!(
                    "no DKIM key of {} is active, and the signature must cover the link (RFC 8058)",
                    domain.name
                ),
                "publish the DKIM records of the domain, then verify it",
            ));
        }
        let (tenant, environment, now) = (submitter.tenant.id, submitter.key.environment, self.clock.now());
        let folded = recipient.address.folded();
        let found = self.store.list_suppression_of(tenant, environment, &folded, list, now).await;
        match found.map_err(storage_refusal)? {
            Some(found) => Err(refuse_unsubscribed(&recipient.address, list, &found)),
            None => Ok(()),
        }
    }

    /// The link by which a recipient leaves a list.
    ///
    /// # Errors
    /// The refusal of the message.
    pub fn unsubscribe_url(
        &self,
        sender: LinkSender,
        list: &ListName,
        recipient: &Address,
    ) -> Result<String, Refusal> {
        let link = UnsubscribeLink {
            tenant_id: sender.tenant,
            environment: sender.environment,
            message_id: sender.message,
            list: list.clone(),
            address: recipient.clone(),
        };
        link_url(self.public_url()?, &self.store.link_keys(), &link).map_err(|error| {
            tracing::error!("{error}");
            Refusal::new(
                RefusalCode::Internal,
                "the unsubscribe link cannot be made",
                "try again later; the operator finds the cause in the server log",
            )
        })
    }

    /// The header fields of a message that names a list.
    pub(super) fn list_fields(
        &self,
        sender: LinkSender,
        list: &ListName,
        recipient: ListRecipient<'_>,
        domain: &SendingDomain,
    ) -> Result<String, Refusal> {
        let url = self.unsubscribe_url(sender, list, recipient.address)?;
        Ok(unsubscribe_fields(&url, self.unsubscribe_mailbox(domain, recipient.delivery).as_deref()))
    }

    /// The address to which a mail unsubscribes, at the return host of the domain or of the platform; `None` if the server
    /// receives no mail.
    fn unsubscribe_mailbox(&self, domain: &SendingDomain, delivery: DeliveryId) -> Option<String> {
        let host = domain.return_host.as_ref().or(self.settings.inbound_host.as_ref())?;
        let subject = TokenSubject { scope: TokenScope::Delivery, id: delivery.into() };
        let token = self.store.token_keys().issue(TokenKind::Unsubscribe, subject)?;
        Some(format!("{token}@{host}"))
    }

    fn public_url(&self) -> Result<&str, Refusal> {
        self.settings.public_url.as_deref().ok_or_else(|| {
            refuse_unavailable(
                "the server has no public address for unsubscribe links".to_owned(),
                "send without a list, or ask the operator to set public.listen and public.url",
            )
        })
    }
}
