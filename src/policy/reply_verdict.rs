//! The verdict on a reply for a recipient: delivered, deferred or bounced, and whether to suppress the address.

use super::bounce_classifier::classify;
use super::retry_schedule::RetryPace;
use crate::mail::{EnhancedStatus, SignedDuration, Timestamp};
use crate::model::BounceClass;
use crate::smtp::Reply;
use crate::smtp::client::Phase;

/// A mailbox that is not in use may be used again.
const INACTIVE_SUPPRESSED_FOR: SignedDuration = SignedDuration::from_hours(90 * 24);

/// When the suppression of an address that is gone ends, if it does.
pub fn suppressed_until(class: BounceClass, now: Timestamp) -> Option<Timestamp> {
    let is_inactive = class == BounceClass::RecipientInactive;
    is_inactive.then(|| now.checked_add(INACTIVE_SUPPRESSED_FOR).unwrap_or(Timestamp::MAX))
}

/// The result for one recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The server accepted the message for this recipient.
    Delivered,
    /// Another host or a later attempt may succeed.
    Deferred {
        /// The class of the failure.
        class: BounceClass,
        /// How soon to retry.
        pace: RetryPace,
    },
    /// Permanently refused.
    Bounced {
        /// The class of the failure.
        class: BounceClass,
        /// Whether the address does not exist, so that more mail to it would harm the sender's reputation.
        suppress: bool,
    },
}

impl Verdict {
    /// The class of a failure.
    pub fn class(&self) -> Option<BounceClass> {
        match *self {
            Self::Delivered => None,
            Self::Deferred { class, .. } | Self::Bounced { class, .. } => Some(class),
        }
    }
}

/// The verdict on a reply to `phase`. `alone`: whether it concerns this recipient only.
pub fn verdict_on_reply(phase: Phase, reply: &Reply, alone: bool) -> Verdict {
    match (phase, reply.code / 100) {
        (Phase::Content, 2) => Verdict::Delivered,
        // RFC 5321 §4.5.3.1.10: a client treats 552 to RCPT as 452, too many recipients.
        (Phase::Rcpt, 5) if reply.code == 552 => defer(phase, reply),
        (Phase::Rcpt, 5) => bounce(phase, reply, true),
        (Phase::Content, 5) => bounce(phase, reply, alone),
        (Phase::Mail | Phase::Data, 5) => bounce(phase, reply, false),
        // Before MAIL a refusal concerns this server or the host, not the message (RFC 5321 §3.1: 554 greeting). A 2xx
        // or 3xx out of sequence is no valid reply.
        _ => defer(phase, reply),
    }
}

/// Whether a reply is about the number of messages or recipients in one session, so that a new connection can get on at
/// once. RFC 5321 has no code for it; servers say it with 421, 451 and 452.
pub fn is_session_limit(code: u16, text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    let of_session = ["session", "connection"].iter().any(|noun| {
        ["this", "per", "one", "single", "each"].iter().any(|word| text.contains(&format!("{word} {noun}")))
    });
    code / 100 == 4 && of_session && has(&["too many", "limit", "exceed", "maximum", "max "])
}

/// The verdict on a permanent refusal of a recipient that this server decides without a connection.
pub fn verdict_on_own_refusal(reply: &Reply) -> Verdict {
    bounce(Phase::Rcpt, reply, true)
}

/// The verdict on a failure without a reply. A lost connection is retried soon; a message that may have been accepted
/// is retried later.
pub fn verdict_on_transport_error(phase: Phase, class: BounceClass) -> Verdict {
    let is_brief = phase != Phase::Content;
    Verdict::Deferred { class, pace: pace_of(class, is_brief) }
}

fn defer(phase: Phase, reply: &Reply) -> Verdict {
    let class = classify(phase, reply);
    let before_mail =
        matches!(phase, Phase::Connect | Phase::Greeting | Phase::Hello | Phase::StartTls | Phase::Auth);
    let is_brief = before_mail || matches!(reply.code, 421 | 450 | 451);
    Verdict::Deferred { class, pace: pace_of(class, is_brief) }
}

/// `is_brief`: whether an early retry makes sense, apart from the class.
fn pace_of(class: BounceClass, is_brief: bool) -> RetryPace {
    match class {
        // Full mailboxes, block lists and passwords do not change within minutes.
        BounceClass::MailboxFull | BounceClass::Reputation | BounceClass::Authentication => RetryPace::Slow,
        // A server that limits the rate must not be retried within a minute.
        BounceClass::RateLimited => RetryPace::Usual,
        _ if is_brief => RetryPace::Brief,
        _ => RetryPace::Usual,
    }
}

/// `of_recipient`: whether the reply concerns one recipient only.
fn bounce(phase: Phase, reply: &Reply, of_recipient: bool) -> Verdict {
    let class = classify(phase, reply);
    let suppress = of_recipient && class.is_address_gone() && !contradicts_unknown_address(reply.enhanced);
    Verdict::Bounced { class, suppress }
}

/// Whether the enhanced status contradicts an unknown address, whatever the text says: policy (5.7.x), content
/// (5.6.x), full mailbox (5.2.2), routing (5.4.x, except the one that Microsoft 365 uses for unknown addresses).
fn contradicts_unknown_address(status: Option<EnhancedStatus>) -> bool {
    status.is_some_and(|status| match (status.subject, status.detail) {
        (0, _) | (5, 0) | (4, 1) => false,
        (1, detail) => detail == 2,
        (2, detail) => detail > 1,
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(text: &str) -> Reply {
        let (code, rest) = text.split_once(' ').unwrap_or((text, ""));
        let status = rest.split(' ').next().and_then(|word| word.parse().ok());
        Reply { code: code.parse().unwrap(), enhanced: status, lines: vec![rest.to_owned()] }
    }

    /// `ok`, `no`, or the retry pace.
    fn said(verdict: Verdict) -> &'static str {
        match verdict {
            Verdict::Delivered => "ok",
            Verdict::Bounced { .. } => "no",
            Verdict::Deferred { pace: RetryPace::Brief, .. } => "brief",
            Verdict::Deferred { pace: RetryPace::Usual, .. } => "usual",
            Verdict::Deferred { pace: RetryPace::Slow, .. } => "slow",
        }
    }

    #[test]
    fn replies_and_phases_give_verdicts() {
        for (phase, text, verdict) in [
            (Phase::Content, "250 2.0.0 ok", "ok"),
            (Phase::Content, "252 maybe", "ok"),
            (Phase::Data, "250 what", "usual"),
            (Phase::Rcpt, "354 what", "usual"),
            (Phase::Mail, "354 what", "usual"),
            (Phase::Content, "354 what", "usual"),
            (Phase::Rcpt, "450 4.2.0 greylisted", "brief"),
            (Phase::Rcpt, "451 later", "brief"),
            (Phase::Mail, "421 busy", "brief"),
            (Phase::Mail, "421 too many connections", "usual"),
            (Phase::Rcpt, "452 4.2.2 full", "slow"),
            (Phase::Rcpt, "450 4.2.2 full", "slow"),
            (Phase::Content, "452 4.3.1 disk", "usual"),
            (Phase::Rcpt, "552 5.5.3 too many", "usual"),
            (Phase::Content, "552 5.3.4 too big", "no"),
            (Phase::Mail, "552 5.3.4 too big", "no"),
            (Phase::Mail, "550 5.7.1 no", "no"),
            (Phase::Data, "554 5.5.1 no", "no"),
            (Phase::Rcpt, "550 5.7.1 no", "no"),
            (Phase::Greeting, "554 5.7.1 you are blacklisted", "slow"),
            (Phase::Greeting, "554 no", "brief"),
            (Phase::Greeting, "421 busy", "brief"),
            (Phase::Hello, "550 bad name", "brief"),
            (Phase::Auth, "535 5.7.8 no", "slow"),
            (Phase::Auth, "454 4.7.0 later", "brief"),
            (Phase::StartTls, "454 no", "brief"),
        ] {
            assert_eq!(said(verdict_on_reply(phase, &reply(text), true)), verdict, "{phase:?} {text}");
        }
    }

    #[test]
    fn a_limit_of_one_session_is_distinguished_from_a_limit_of_the_server() {
        for (code, text, expected) in [
            (451, "too many messages in this session", true),
            (452, "Too many recipients in this connection", true),
            (421, "Too many messages for this session", true),
            (421, "Max message per connection reached, closing transmission channel", true),
            (452, "Exceeded the number of messages allowed per session", true),
            (452, "Maximum number of mails for one session", true),
            (421, "too many connections from your host", false),
            (452, "too many recipients", false),
            (421, "idle for too long, closing this connection", false),
            (451, "your sessions exceed the limit", false),
            (554, "too many messages in this session", false),
        ] {
            assert_eq!(is_session_limit(code, text), expected, "{code} {text}");
        }
    }

    #[test]
    fn only_replies_about_an_unknown_mailbox_suppress() {
        for (text, gone) in [
            ("550 5.1.1 no", true),
            ("556 5.1.10 null MX", true),
            ("550 5.1.6 moved", true),
            ("550 5.2.1 disabled", true),
            ("550 5.2.1 The user is receiving mail at a rate that prevents more", false),
            ("550 5.2.2 over quota; user unknown", false),
            ("550 5.7.1 no such user", false),
            ("550 5.6.0 user unknown", false),
            ("550 5.2.2 user unknown", false),
            ("550 5.1.2 no such domain; user unknown", false),
            ("450 4.1.1 user unknown", false),
            ("550 No such user here", true),
            ("554 delivery error: dd This user doesn't have a yahoo.com account", true),
            ("550 5.5.0 Requested action not taken: mailbox unavailable", true),
            ("550 5.4.1 Recipient address rejected: Access denied. AS(1)", true),
            ("550 5.4.1 no answer from host", false),
            ("550 rejected for spam", false),
            ("554 5.0.0 service unavailable", false),
        ] {
            let verdict = verdict_on_reply(Phase::Rcpt, &reply(text), false);
            assert_eq!(matches!(verdict, Verdict::Bounced { suppress: true, .. }), gone, "{text}");
        }
    }

    #[test]
    fn a_refusal_after_data_suppresses_only_a_single_recipient() {
        let gone = reply("550 5.1.1 no");
        let bounced = |suppress| Verdict::Bounced { class: BounceClass::RecipientUnknown, suppress };
        assert_eq!(verdict_on_reply(Phase::Content, &gone, true), bounced(true));
        assert_eq!(verdict_on_reply(Phase::Content, &gone, false), bounced(false));
        assert_eq!(verdict_on_reply(Phase::Mail, &gone, true), bounced(false));
        assert_eq!(verdict_on_own_refusal(&gone), bounced(true));
    }

    #[test]
    fn a_failure_without_a_reply_defers_and_a_message_in_doubt_waits_longer() {
        assert_eq!(said(verdict_on_transport_error(Phase::Connect, BounceClass::Network)), "brief");
        assert_eq!(said(verdict_on_transport_error(Phase::Content, BounceClass::Network)), "usual");
        assert_eq!(said(verdict_on_transport_error(Phase::Auth, BounceClass::Authentication)), "slow");
    }
}
