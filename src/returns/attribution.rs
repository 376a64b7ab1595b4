//! Finds the delivery or message that a message that came back is about.

use super::{AdmittedToken, Mailbox, ReturnsService, recipient};
use crate::feedback::{Complaint, Feedback, FeedbackContent};
use crate::mail::{Address, DomainName, TokenKind, TokenScope, TokenSubject};
use crate::model::{Environment, MessageId};
use crate::store::{self, Journal, MessageFilter, PageRequest, Reports};

/// The recipient's token decides. Without one, only a complaint can be attributed: by a token in the returned header, or, if
/// `signer` is a trusted reporter, by the id of the message. A trusted reporter is also believed which of the recipients of
/// a message complained, because all of them have the same token.
pub(super) async fn attribute(
    service: &ReturnsService,
    mailbox: Mailbox,
    feedback: &Feedback,
    signer: Option<&DomainName>,
) -> store::Result<Option<AdmittedToken>> {
    let token = match mailbox {
        Mailbox::Target(token) => Some(*token),
        Mailbox::Feedback => None,
        Mailbox::Postmaster | Mailbox::Probe => return Ok(None),
    };
    let FeedbackContent::Complaint(complaint) = &feedback.content else { return Ok(token) };
    let is_trusted = signer.is_some_and(|signer| {
        service.settings.trusted_reporters.iter().any(|trusted| signer.is_at_or_under(trusted))
    });
    let token = match token {
        Some(token) => Some(token),
        None => service.find_by_token(feedback).await?,
    };
    match token {
        Some(token) if is_trusted => service.find_recipient(token, complaint).await.map(Some),
        None if is_trusted => service.find_by_id(feedback, complaint).await,
        token => Ok(token),
    }
}

impl ReturnsService {
    /// The first proved token in the returned header.
    async fn find_by_token(&self, feedback: &Feedback) -> store::Result<Option<AdmittedToken>> {
        let now = self.clock.now();
        let keys = self.store.token_keys();
        let is_usable = |token: &&crate::mail::Token| {
            matches!(token.kind, TokenKind::Feedback | TokenKind::Bounce)
                && keys.verify(token, now).is_ok()
                && recipient::is_recent(token.subject, now)
        };
        for token in feedback.returned.tokens.iter().filter(is_usable) {
            let target = self.store.report_target(token.subject, now).await?;
            if let Some(target) = target.filter(|target| recipient::admit_age(target, now).is_ok()) {
                return Ok(Some(AdmittedToken { kind: token.kind, target }));
            }
        }
        Ok(None)
    }

    /// The message with an id of our Received field, or else the only one with the Message-ID, if its recipient is known.
    async fn find_by_id(
        &self,
        feedback: &Feedback,
        complaint: &Complaint,
    ) -> store::Result<Option<AdmittedToken>> {
        let ids = &feedback.returned.message_ids;
        let ids = if ids.is_empty() { self.ids_with(feedback).await? } else { ids.clone() };
        let now = self.clock.now();
        for id in ids {
            let subject = TokenSubject { scope: TokenScope::Message, id: id.into() };
            let Some(target) = self.store.report_target(subject, now).await? else { continue };
            let token = AdmittedToken { kind: TokenKind::Feedback, target };
            let token = self.find_recipient(token, complaint).await?;
            if !token.is_shared() && recipient::admit_age(&token.target, now).is_ok() {
                return Ok(Some(token));
            }
        }
        Ok(None)
    }

    /// The message with the Message-ID of the returned header, if there is only one.
    async fn ids_with(&self, feedback: &Feedback) -> store::Result<Vec<MessageId>> {
        let header_message_id = feedback.returned.header_message_id.clone();
        if header_message_id.is_none() {
            return Ok(Vec::new());
        }
        // Test mail never leaves this server, so nobody else complains about it.
        let environment = Some(Environment::Live);
        let filter = MessageFilter { header_message_id, environment, ..MessageFilter::default() };
        let found =
            self.store.list_messages(filter, PageRequest { limit: 2, ..PageRequest::default() }).await?;
        Ok(match &found.items[..] {
            [only] => vec![only.message.id],
            _ => Vec::new(),
        })
    }

    /// The token of the only recipient whom the complaint names, if several recipients have the token.
    async fn find_recipient(
        &self,
        mut token: AdmittedToken,
        complaint: &Complaint,
    ) -> store::Result<AdmittedToken> {
        if token.is_shared() {
            let named: Vec<_> = complaint.original_recipients.iter().map(Address::folded).collect();
            let deliveries = self.store.deliveries(token.target.message.id).await?;
            let mut found =
                deliveries.into_iter().filter(|delivery| named.contains(&delivery.recipient.folded()));
            if let (Some(only), None) = (found.next(), found.next()) {
                token.target.only_recipient = Some(only);
            }
        }
        Ok(token)
    }
}
