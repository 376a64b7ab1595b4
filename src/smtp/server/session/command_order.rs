//! The order of commands (RFC 5321 §4.1.4).

use super::{Profile, Session};
use crate::smtp::Reply;
use crate::smtp::command::Verb;
use crate::smtp::server::mail_transaction::MailTransaction;
use crate::smtp::server::replies;

impl Session {
    /// The reply that refuses the verb in the present phase, if any.
    pub(super) fn check_order(
        &self,
        verb: Verb,
        arguments: &str,
        transaction: Option<&MailTransaction>,
    ) -> Option<Reply> {
        let has_arguments = !arguments.is_empty();
        let is_submission = self.settings.profile == Profile::Submission;
        match verb {
            Verb::Auth if !is_submission => Some(replies::not_offered_502()),
            // RFC 5321 §4.1.4: allowed at any time.
            Verb::Quit | Verb::Rset if has_arguments => Some(replies::no_argument_501()),
            Verb::Ehlo | Verb::Helo if !has_arguments => Some(replies::name_missing_501()),
            Verb::Vrfy if !has_arguments => Some(replies::mailbox_missing_501()),
            Verb::Ehlo | Verb::Helo | Verb::Quit | Verb::Rset | Verb::Noop | Verb::Help | Verb::Vrfy => None,

            _ if self.greeting.is_none() => Some(replies::hello_first_503()),

            Verb::StartTls | Verb::Auth | Verb::Mail if transaction.is_some() => {
                Some(replies::in_transaction_503())
            }
            Verb::StartTls if self.tls => Some(replies::already_secure_503()),
            // RFC 3207 §4: STARTTLS has no parameters.
            Verb::StartTls if has_arguments => Some(replies::no_argument_501()),
            Verb::StartTls if !self.settings.starttls => Some(replies::tls_unavailable_454()),
            // RFC 4954 §4: passwords only over TLS.
            Verb::Auth if !self.tls => Some(replies::encryption_required_538()),
            Verb::Auth if self.authenticated => Some(replies::already_authenticated_503()),
            // RFC 6409 §4.3, RFC 8314 §3.3.
            Verb::Mail if is_submission && !self.tls => Some(replies::tls_required_530()),
            Verb::Mail if is_submission && !self.authenticated => {
                Some(replies::authentication_required_530())
            }

            Verb::Rcpt | Verb::Data | Verb::Bdat if transaction.is_none() => Some(replies::mail_first_503()),
            Verb::Data if has_arguments => Some(replies::no_argument_501()),
            // RFC 3030 §2, §3.
            Verb::Rcpt | Verb::Data
                if transaction.is_some_and(|transaction| transaction.content.is_some()) =>
            {
                Some(replies::between_chunks_503())
            }
            Verb::Data if transaction.is_some_and(|transaction| transaction.options.binary) => {
                Some(replies::binary_needs_chunks_503())
            }
            Verb::Data | Verb::Bdat
                if transaction.is_some_and(|transaction| transaction.recipients.is_empty()) =>
            {
                Some(replies::no_recipients_554())
            }
            Verb::StartTls | Verb::Auth | Verb::Mail | Verb::Rcpt | Verb::Data | Verb::Bdat => None,
        }
    }
}
