//! How a try ended for one recipient, whatever ended it: a reply, or something that happened on the way.

use std::sync::Arc;

use super::connection::{DeliveryError, Peer};
use crate::mail::EnhancedStatus;
use crate::policy::reply_verdict::{
    Verdict, verdict_on_own_refusal, verdict_on_reply, verdict_on_transport_error,
};
use crate::smtp::Reply;
use crate::smtp::client::Outcome;

/// The end of one try for one recipient.
#[derive(Debug, Clone)]
pub struct RecipientResult {
    /// What follows.
    pub verdict: Verdict,
    /// The reply's code, if there was a reply.
    pub code: Option<u16>,
    /// Its status, or ours.
    pub enhanced: Option<EnhancedStatus>,
    /// Its text, or ours.
    pub text: String,
    /// Who was at the other end.
    pub peer: Arc<Peer>,
    /// Another host must not be tried now.
    pub conclusive: bool,
    /// The host has no TLS that the message could go over.
    pub lacks_tls: bool,
}

impl RecipientResult {
    /// What a reply means. `alone`: whether the message went to this recipient only.
    pub fn of_outcome(outcome: Outcome, alone: bool, peer: &Arc<Peer>) -> Self {
        let verdict = verdict_on_reply(outcome.phase, &outcome.reply, alone);
        Self::of_reply(verdict, &outcome.reply, peer)
    }

    fn of_reply(verdict: Verdict, reply: &Reply, peer: &Arc<Peer>) -> Self {
        Self {
            verdict,
            code: Some(reply.code),
            enhanced: reply.enhanced,
            text: reply.lines.join(" "),
            peer: peer.clone(),
            conclusive: !matches!(verdict, Verdict::Deferred { .. }),
            lacks_tls: false,
        }
    }

    /// What a lost or refused connection means: another time.
    pub fn of_trouble(trouble: &DeliveryError, peer: &Arc<Peer>) -> Self {
        match &trouble.reply {
            Some(reply) => Self::of_reply(verdict_on_reply(trouble.phase, reply, false), reply, peer),
            None => Self {
                verdict: verdict_on_transport_error(trouble.phase, trouble.class),
                code: None,
                enhanced: trouble.status,
                text: trouble.text.clone(),
                peer: peer.clone(),
                conclusive: false,
                lacks_tls: trouble.lacks_tls,
            },
        }
    }

    /// A refusal that needed no server.
    pub fn unroutable(code: u16, enhanced: EnhancedStatus, text: impl Into<String>) -> Self {
        let reply = Reply { code, enhanced: Some(enhanced), lines: vec![text.into()] };
        let peer = Arc::new(Peer::default());
        // RFC 7505 §4.2: a null MX says of every address that it does not exist.
        Self::of_reply(verdict_on_own_refusal(&reply), &reply, &peer)
    }

    /// The code and the status in front of the text, as a server would say it.
    pub fn to_reply_text(&self) -> String {
        [self.status_text(), self.text.clone()]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Like `451 4.7.1`; empty if there was no reply.
    pub fn status_text(&self) -> String {
        match (self.code, self.enhanced) {
            (Some(code), Some(enhanced)) => format!("{code} {enhanced}"),
            (Some(code), None) => code.to_string(),
            (None, _) => String::new(),
        }
    }
}
