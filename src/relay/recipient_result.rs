//! The result of one attempt for one recipient: from a reply, or from an error without one.

use std::sync::Arc;

use super::delivery_error::DeliveryError;
use super::peer::Peer;
use crate::mail::{EnhancedStatus, without_macs};
use crate::policy::reply_verdict::{
    Verdict, is_session_limit, verdict_on_own_refusal, verdict_on_reply, verdict_on_transport_error,
};
use crate::smtp::Reply;
use crate::smtp::client::Outcome;

/// The status of an attempt in which the DNS named no host that could be dialled (RFC 3463 §3.5: unable to route). No
/// reply has it: the attempt has no reply code.
pub const UNROUTABLE: EnhancedStatus = EnhancedStatus::new(4, 4, 4);

/// The result of one attempt for one recipient.
#[derive(Debug, Clone)]
pub struct RecipientResult {
    /// Delivered, deferred or bounced.
    pub verdict: Verdict,
    /// The reply code, if there was a reply.
    pub code: Option<u16>,
    /// The enhanced status code of the server, else of this server.
    pub enhanced: Option<EnhancedStatus>,
    /// The text of the server, else of this server.
    pub text: String,
    /// The server.
    pub peer: Arc<Peer>,
    /// Whether no other host is dialled in this attempt.
    pub conclusive: bool,
    /// Whether the host's TLS does not meet the requirement.
    pub lacks_tls: bool,
}

impl RecipientResult {
    /// The result of a reply. `only_recipient`: whether the transaction had no other recipient.
    pub fn from_outcome(outcome: Outcome, only_recipient: bool, peer: &Arc<Peer>) -> Self {
        let verdict = verdict_on_reply(outcome.phase, &outcome.reply, only_recipient);
        Self::from_reply(verdict, &outcome.reply, peer)
    }

    fn from_reply(verdict: Verdict, reply: &Reply, peer: &Arc<Peer>) -> Self {
        Self {
            verdict,
            code: Some(reply.code),
            enhanced: reply.enhanced,
            text: without_macs(&reply.lines.join(" ")).into_owned(),
            peer: peer.clone(),
            conclusive: !matches!(verdict, Verdict::Deferred { .. }),
            lacks_tls: false,
        }
    }

    /// The result of an error after which a retry may succeed.
    pub fn from_error(error: &DeliveryError, peer: &Arc<Peer>) -> Self {
        match &error.reply {
            Some(reply) => Self::from_reply(verdict_on_reply(error.phase, reply, false), reply, peer),
            None => Self {
                verdict: verdict_on_transport_error(error.phase, error.class),
                code: None,
                enhanced: error.status,
                text: error.text.clone(),
                peer: peer.clone(),
                conclusive: false,
                lacks_tls: error.lacks_tls,
            },
        }
    }

    /// Whether the server deferred it because of what it accepted before in the same session.
    pub fn is_session_limit(&self) -> bool {
        self.code.is_some_and(|code| is_session_limit(code, &self.text))
    }

    /// Notes that the DNS named no host that could be dialled. A result from a server stays.
    pub fn set_unroutable(&mut self) {
        if self.code.is_none() && self.peer.address.is_none() {
            self.enhanced = Some(UNROUTABLE);
        }
    }

    /// Whether the DNS named no host that could be dialled.
    pub fn is_unroutable(&self) -> bool {
        self.code.is_none() && self.enhanced == Some(UNROUTABLE)
    }

    /// A permanent failure that this server found without a connection.
    pub fn unroutable(code: u16, enhanced: EnhancedStatus, text: impl Into<String>) -> Self {
        let reply = Reply { code, enhanced: Some(enhanced), lines: vec![text.into()] };
        let peer = Arc::new(Peer::default());
        // RFC 7505 §4.2: with a null MX no address of the domain exists.
        Self::from_reply(verdict_on_own_refusal(&reply), &reply, &peer)
    }

    /// Code, status and text, formatted as a reply.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::{Timestamp, TokenKey, TokenKeys, TokenKind, TokenScope, TokenSubject};
    use crate::model::DeliveryId;
    use crate::smtp::client::Phase;

    #[test]
    fn a_reply_that_quotes_the_reverse_path_is_recorded_without_its_mac() {
        let keys = TokenKeys::new(vec![TokenKey::new(1, Timestamp::UNIX_EPOCH, &[7; 32])]);
        let id = DeliveryId::generate(Timestamp::from_second(1_800_000_000).unwrap()).into();
        let subject = TokenSubject { scope: TokenScope::Delivery, id };
        let token = keys.issue(TokenKind::Bounce, subject).unwrap().to_string();
        let text = format!("<{token}@bounces.acme.com>: Sender address rejected");
        let reply = Reply { code: 450, enhanced: None, lines: vec![text.clone()] };
        let result =
            RecipientResult::from_outcome(Outcome { phase: Phase::Rcpt, reply }, true, &Arc::default());
        let mac = &token[token.len() - 20..];
        assert_eq!(result.to_reply_text(), format!("450 {}", text.replace(mac, "****")));
    }
}
