//! The feedback of an attempt about its site. Imports `mail` and `model`.

use crate::mail::EnhancedStatus;
use crate::model::BounceClass;

/// The feedback of an attempt about its site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SiteFeedback {
    /// The message was accepted, or permanently refused.
    Served {
        /// The host.
        host: String,
    },
    /// Deferred because of one sender or recipient, which says nothing about the site.
    Individual,
    /// Deferred for another reason of the message.
    Deferred,
    /// The site is overloaded: reduce concurrency.
    Overloaded {
        /// The reply, or the error.
        reason: String,
    },
    /// A host defers a message because of the address or rate of this server.
    Throttled {
        /// The reply.
        reason: String,
    },
    /// A host refuses this server before MAIL.
    Refused {
        /// The host.
        host: String,
        /// The reply.
        reason: String,
    },
    /// No host could be reached.
    Unreachable {
        /// The last host.
        host: String,
        /// The error.
        reason: String,
    },
}

impl SiteFeedback {
    /// Orders feedback by severity.
    pub fn severity(&self) -> u8 {
        match self {
            Self::Served { .. } => 0,
            Self::Individual => 1,
            Self::Deferred => 2,
            Self::Overloaded { .. } => 3,
            Self::Throttled { .. } | Self::Refused { .. } | Self::Unreachable { .. } => 4,
        }
    }
}

/// A reply, as input for the feedback.
#[derive(Debug)]
pub struct SmtpResponse<'a> {
    /// The host.
    pub host: &'a str,
    /// The reply code.
    pub code: u16,
    /// The enhanced status.
    pub status: Option<EnhancedStatus>,
    /// The text.
    pub text: &'a str,
    /// The class of a failure.
    pub class: Option<BounceClass>,
    /// Whether a transaction was started in this attempt: MAIL was sent.
    pub transaction_started: bool,
}

impl SmtpResponse<'_> {
    /// The feedback of the reply about the site.
    pub fn feedback(&self) -> SiteFeedback {
        match self.code {
            400..500 if self.transaction_started && self.concerns_one_sender_or_recipient() => {
                SiteFeedback::Individual
            }
            421 if !self.transaction_started || self.is_policy() || self.concerns_this_server() => {
                self.site_refused()
            }
            421 => SiteFeedback::Overloaded { reason: self.reason() },
            400..500 if self.is_rate_limit() => self.site_refused(),
            400..500 => SiteFeedback::Deferred,
            // A refusal before MAIL concerns this server or the host (RFC 5321 §3.1).
            500.. if !self.transaction_started => self.site_refused(),
            _ => SiteFeedback::Served { host: self.host.to_owned() },
        }
    }

    fn site_refused(&self) -> SiteFeedback {
        match self.transaction_started {
            true => SiteFeedback::Throttled { reason: self.reason() },
            false => SiteFeedback::Refused { host: self.host.to_owned(), reason: self.reason() },
        }
    }

    fn reason(&self) -> String {
        let Self { code, text, .. } = self;
        match self.status {
            Some(status) => format!("{code} {status} {text}"),
            None => format!("{code} {text}"),
        }
    }

    fn is_policy(&self) -> bool {
        self.status.is_some_and(|status| status.class == 4 && status.subject == 7)
    }

    fn concerns_this_server(&self) -> bool {
        self.is_rate_limit() || self.class == Some(BounceClass::Reputation)
    }

    /// Gmail's status for unusual rates (RFC 7372 §3.4 registered it for floods), and Microsoft's.
    fn is_rate_limit(&self) -> bool {
        let is_rate = |status: EnhancedStatus| {
            matches!((status.class, status.subject, status.detail), (4, 7, 28 | 500..=599 | 650..=652))
        };
        self.status.is_some_and(is_rate) || self.class == Some(BounceClass::RateLimited)
    }

    /// Providers limit sender domains, mailboxes and recipients per message as well as the address of this server. A
    /// reply that one tenant can cause must not affect the mail of other tenants to the site.
    fn concerns_one_sender_or_recipient(&self) -> bool {
        const WORDS: &[&str] = &[
            "dkim domain",
            "spf domain",
            "sender domain",
            "sending domain",
            "from your domain",
            "this sender",
            "this message",
            "unauthenticated",
            "didn't pass",
            "isn't aligned",
            "recipient",
            "mailbox",
            "the user you",
        ];
        let is_one = |status: EnhancedStatus| match (status.subject, status.detail) {
            // RFC 7372 §3, and Gmail's: sender authentication.
            (7, 20..=27 | 30 | 32 | 40) => true,
            // RFC 3463 §3.2, §3.3, §3.6: address, mailbox, too many recipients. A 421 concerns the whole connection.
            (1 | 2, _) | (5, 3) => self.code != 421,
            _ => false,
        };
        let text = self.text.to_ascii_lowercase();
        self.status.is_some_and(is_one) || WORDS.iter().any(|words| text.contains(words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::bounce_classifier::classify;
    use crate::smtp::client::{Phase, ReplyReader};

    /// A reply of `mx`, to MAIL if MAIL was accepted before.
    fn feedback_of(text: &str, transaction_started: bool) -> SiteFeedback {
        let mut reader = ReplyReader::new();
        reader.buffer().extend_from_slice(format!("{text}\r\n").as_bytes());
        let reply = reader.next_reply().unwrap().unwrap();
        let phase = if transaction_started { Phase::Mail } else { Phase::Greeting };
        let class = (reply.code >= 400).then(|| classify(phase, &reply));
        let (code, status, text) = (reply.code, reply.enhanced, reply.lines.join(" "));
        SmtpResponse { host: "mx", code, status, text: &text, class, transaction_started }.feedback()
    }

    #[test]
    fn replies_give_feedback() {
        for (text, expected) in [
            ("250 2.0.0 ok", Some(SiteFeedback::Served { host: "mx".into() })),
            ("550 5.1.1 nobody", Some(SiteFeedback::Served { host: "mx".into() })),
            ("450 4.7.1 greylisted", Some(SiteFeedback::Deferred)),
            ("452 4.2.2 mailbox full", Some(SiteFeedback::Individual)),
            (
                "421 4.7.28 unusual rate of mail from your DKIM domain [a.example]",
                Some(SiteFeedback::Individual),
            ),
            ("421 4.7.26 rate limited because it is unauthenticated", Some(SiteFeedback::Individual)),
            (
                "421 4.7.0 due to the very low reputation of the sending domain",
                Some(SiteFeedback::Individual),
            ),
            (
                "450 4.2.1 The user you are trying to contact is receiving mail at a rate that",
                Some(SiteFeedback::Individual),
            ),
            ("452 4.5.3 Too many recipients", Some(SiteFeedback::Individual)),
            ("452 Too many recipients", Some(SiteFeedback::Individual)),
            ("450 4.0.0 <ratelimit@b.test>: not yet", Some(SiteFeedback::Deferred)),
            ("450 no reply from rate-limit@b.test yet", Some(SiteFeedback::Deferred)),
            ("421 4.3.2 shutting down", None),
            ("421 4.2.1 closing transmission channel", None),
        ] {
            let found = feedback_of(text, true);
            match expected {
                Some(expected) => assert_eq!(found, expected, "{text}"),
                None => assert!(matches!(found, SiteFeedback::Overloaded { .. }), "{text}"),
            }
        }
        for text in ["421 4.3.2 not now", "554 5.7.1 you are listed", "450 4.7.1 too many connections"] {
            let refused = SiteFeedback::Refused { host: "mx".into(), reason: text.into() };
            assert_eq!(feedback_of(text, false), refused);
        }
        for text in [
            "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred",
            "421 4.16.55 [TS01] Messages from 192.0.2.1 temporarily deferred",
            "450 4.7.28 Gmail has detected an unusual rate",
            "451 4.7.650 The mail server has been temporarily rate limited",
            "451 4.7.650 The mail server [192.0.2.1] has been temporarily rate limited due to IP reputation",
            "452 4.3.0 Too many connections from your host",
            "450 4.3.2 Connection rate limit exceeded",
            "451 4.3.2 You are sending too fast",
        ] {
            assert_eq!(feedback_of(text, true), SiteFeedback::Throttled { reason: text.to_owned() });
        }
    }
}
