//! Writes a DSN to the reverse path that the tenant gave, because reports come to ours. It has the facts of the report and the
//! words of the remote server, and nothing else of what came back.

use super::decision::{Decision, reply_text};
use super::{AdmittedToken, ReturnsService};
use crate::dsn::message::DsnMessage;
use crate::dsn::recipient::{DsnRecipient, ForeignStatus};
use crate::feedback::{FailedReply, Feedback, FeedbackContent, RecipientGroup};
use crate::mail::{Address, DomainName};
use crate::model::{DeliveryReports, MessageKind, ReportAction, ReportEffect, ReturnPathStatus};
use crate::store::{Consequence, Directory, Message, NewMessage, Spool, StoreError};

/// The content of larger messages is not read for a DSN.
const CONTENT_OCTETS_MAX: u64 = 1024 * 1024;

impl ReturnsService {
    /// The DSN about the recipient of the token; `None` if the sender wants none, or the report is about another address.
    pub(super) async fn reissue(
        &self,
        token: &AdmittedToken,
        feedback: &Feedback,
        decision: &Decision,
    ) -> Option<NewMessage> {
        let foreign = describe(feedback, decision)?;
        let target = &token.target;
        let message = &target.message;
        // A shared token does not prove whom the report is about.
        let delivery = target.recipient()?;
        if target.delivery_reports != DeliveryReports::Mail || message.kind != MessageKind::Message {
            return None;
        }
        let recipient = DsnRecipient::for_foreign_status(delivery, foreign)?;
        let to = message.reverse_path.mailbox()?;
        let is_excluded = self.leads_back(message, to).await;
        if is_excluded.unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot read the domains of a reverse path");
            false
        }) {
            return None;
        }
        let content = match message.size <= CONTENT_OCTETS_MAX {
            true => self.store.content(message.id, self.clock.now()).await.ok().flatten(),
            false => None,
        };
        let dsn = DsnMessage {
            hostname: &self.settings.hostname,
            message,
            content: content.as_ref(),
            recipients: &[recipient],
            now: self.clock.now(),
            lifetime: self.settings.dsn_lifetime,
        };
        dsn.compose()
    }

    /// Whether mail to the address would come here, where only tokens are accepted.
    async fn leads_back(&self, message: &Message, to: &Address) -> Result<bool, StoreError> {
        let Some(host) = to.domain() else { return Ok(false) };
        if *host == self.settings.host {
            return Ok(true);
        }
        let domains = self.store.domains_covering(message.tenant_id, host).await?;
        Ok(domains.iter().any(|domain| {
            domain.return_path.status == ReturnPathStatus::Active
                && domain.return_host(&self.settings.label).as_ref() == Some(host)
        }))
    }
}

/// What the report says about the recipient; `None` if nothing follows from it for a sender.
fn describe(feedback: &Feedback, decision: &Decision) -> Option<ForeignStatus> {
    match (&decision.consequence, &feedback.content, &decision.group) {
        (Consequence::Failure { .. }, FeedbackContent::Prose(failed), _) => {
            Some(status_of(ReportAction::Failed, failed, None))
        }
        (Consequence::Failure { .. } | Consequence::Event(ReportEffect::Reported), _, Some(group)) => {
            let RecipientGroup { action, reply, remote_mta, .. } = group;
            Some(status_of(*action, reply, remote_mta.as_deref()))
        }
        _ => None,
    }
}

fn status_of(action: ReportAction, failed: &FailedReply, host: Option<&str>) -> ForeignStatus {
    // A name only: the text is not ours.
    let host = host.and_then(|host| DomainName::parse(host).ok()).map(|host| host.to_string());
    let diagnostic = match reply_text(&failed.reply) {
        text if text.is_empty() => "the other server gave no reply".to_owned(),
        text => text,
    };
    ForeignStatus { action, status: failed.reply.enhanced, host, diagnostic }
}
