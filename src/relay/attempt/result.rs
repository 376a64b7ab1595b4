//! The result of one attempt, and its feedback about the site.

use std::sync::Arc;

use crate::policy::site_feedback::{SiteFeedback, SmtpResponse};
use crate::relay::connection::Connection;
use crate::relay::recipient_result::RecipientResult;
use crate::relay::smart_host_login::LoginResult;

/// The result of one attempt.
pub struct AttemptResult {
    /// One for each delivery of the batch; `None` if it was not attempted because this server stops.
    pub results: Vec<Option<RecipientResult>>,
    /// The dialogue.
    pub transcript: Arc<str>,
    /// The result of the login.
    pub login: LoginResult,
    /// A connection that can be used again.
    pub connection: Option<Connection>,
    /// How many servers were offered the message.
    pub sessions: usize,
}

impl AttemptResult {
    /// The feedback about the site: the best one of all recipients. `None` if no server was dialled.
    pub fn site_feedback(&self) -> Option<SiteFeedback> {
        let results = self.results.iter().flatten();
        results.filter_map(|result| self.feedback_of(result)).min_by_key(SiteFeedback::severity)
    }

    fn feedback_of(&self, result: &RecipientResult) -> Option<SiteFeedback> {
        // A failure before the first connection, such as a TLS policy or the network of this server, is no feedback.
        if result.peer.address.is_none() || result.lacks_tls {
            return None;
        }
        let transaction_started = self.sessions > 0;
        let RecipientResult { peer, enhanced: status, text, .. } = result;
        Some(match result.code {
            Some(code) => {
                let class = result.verdict.class();
                SmtpResponse { host: &peer.host, code, status: *status, text, class, transaction_started }
                    .feedback()
            }
            // A lost connection after MAIL may be caused by the message or the network.
            None if transaction_started => SiteFeedback::Deferred,
            None => SiteFeedback::Unreachable { host: peer.host.clone(), reason: text.clone() },
        })
    }
}
