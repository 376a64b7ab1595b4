//! What one attempt returns, and what it says about the site.

use std::sync::Arc;

use crate::policy::site_feedback::{SiteFeedback, SmtpResponse};
use crate::relay::connection::Connection;
use crate::relay::recipient_result::RecipientResult;
use crate::relay::smart_host_login::LoginResult;

/// The result of one attempt.
pub struct AttemptResult {
    /// One for each delivery of the batch.
    pub results: Vec<RecipientResult>,
    /// The dialogue.
    pub transcript: Arc<str>,
    /// What the attempt found out about our account.
    pub login: LoginResult,
    /// A connection that can be used again.
    pub connection: Option<Connection>,
    /// How many servers were offered the message.
    pub sessions: usize,
}

impl AttemptResult {
    /// What the attempt says about the site: the best result for any recipient. `None` if no server was dialled.
    pub fn site_feedback(&self) -> Option<SiteFeedback> {
        self.results.iter().filter_map(|result| self.feedback_of(result)).min_by_key(SiteFeedback::severity)
    }

    fn feedback_of(&self, result: &RecipientResult) -> Option<SiteFeedback> {
        // What failed before a connection was tried, such as a TLS policy or our own network, is not the site's fault.
        if result.peer.address.is_none() || result.lacks_tls {
            return None;
        }
        let mail_accepted = self.sessions > 0;
        let RecipientResult { peer, enhanced: status, text, .. } = result;
        Some(match result.code {
            Some(code) => {
                let class = result.verdict.class();
                SmtpResponse { host: &peer.host, code, status: *status, text, class, mail_accepted }
                    .feedback()
            }
            // A dialogue that broke off may be the message's or the network's fault.
            None if mail_accepted => SiteFeedback::Deferred,
            None => SiteFeedback::Unreachable { host: peer.host.clone(), reason: text.clone() },
        })
    }
}
