//! The header fields by which complaints find their message (CFBL, RFC 9477).

use super::SubmissionService;
use super::header_rewrite::{CheckedHeader, FEEDBACK_ADDRESS, FEEDBACK_ID};
use crate::mail::{Recipient, TokenKind, TokenScope, TokenSubject};
use crate::model::{DeliveryId, MessageId};
use crate::policy::admission::SendingDomain;
use crate::store::Reports;

impl SubmissionService {
    /// The fields to add. The id is enough for a registered feedback loop. The address needs a return host, which is under
    /// the domain that signs (§3.1.2). A message with such fields of its own keeps them: its sender takes the complaints.
    pub(super) fn feedback_fields(
        &self,
        header: &CheckedHeader,
        subject: TokenSubject,
        domain: &SendingDomain,
    ) -> String {
        if self.settings.inbound_host.is_none() || header.has(FEEDBACK_ADDRESS) || header.has(FEEDBACK_ID) {
            return String::new();
        }
        let Some(token) = self.store.token_keys().issue(TokenKind::Feedback, subject) else {
            return String::new();
        };
        let id = format!("{FEEDBACK_ID}: {}\r\n", token.bare());
        match &domain.return_host {
            Some(host) => format!("{FEEDBACK_ADDRESS}: {token}@{host}; report=arf\r\n{id}"),
            None => id,
        }
    }
}

/// The delivery of the only recipient. Several recipients see the same header, so that it can name the message only.
pub(super) fn feedback_subject(message: MessageId, recipients: &[(DeliveryId, Recipient)]) -> TokenSubject {
    match recipients {
        [(delivery, _)] => TokenSubject { scope: TokenScope::Delivery, id: (*delivery).into() },
        _ => TokenSubject { scope: TokenScope::Message, id: message.into() },
    }
}
